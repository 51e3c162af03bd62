//! Model files that lie inside the program, so that one file is all there is to deploy.

/// The embedder's, which both keep.
const TOKENIZER: &[u8] = include_bytes!("../../models/plumb-reranker-tokenizer/tokenizer.json");
/// Model, file and bytes.
const FILES: [(&str, &str, &[u8]); 4] = [
    ("plumb-reranker-l3", "int8.onnx", include_bytes!("../../models/plumb-reranker-l3/int8.onnx")),
    ("plumb-reranker-l3", "tokenizer.json", TOKENIZER),
    ("plumb-reranker-l6", "int8.onnx", include_bytes!("../../models/plumb-reranker-l6/int8.onnx")),
    ("plumb-reranker-l6", "tokenizer.json", TOKENIZER),
];

/// A file of a model. It is held to the manifest's hash where it is read, like a fetched one.
pub(super) fn bundled(model: &str, file: &str) -> Option<&'static [u8]> {
    FILES.iter().find(|(of, name, _)| (*of, *name) == (model, file)).map(|(_, _, bytes)| *bytes)
}
