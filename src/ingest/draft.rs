//! From a document as it arrived to chunks with the hashes of what is to be embedded. Pure but for the parser.

use std::collections::HashMap;

use half::f16;

use crate::domain::{
    ByteSpan, Chunk, ChunkId, ChunkOwner, ChunkerSpec, ContentHash, ContextSpec, DocumentHead, DocumentId, Fingerprint,
    Outline, ParsedText, TenantId,
};
use crate::inference::TokenCounter;
use crate::text::{chunk, embedding_input, normalize};

use super::incoming::hash_content;
use super::recipe::{Chunker, Counting, VectorSource};
use super::{IncomingBody, IncomingChunk, IncomingDocument, ItemError};

/// What stands between two caller-made chunks in the content: an empty line.
const CHUNK_SEPARATOR: &str = "\n\n";

/// A document that has been read: its text is known, its chunks are not yet.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub head: DocumentHead,
    pub head_hash: ContentHash,
    pub content_hash: ContentHash,
    pub text: String,
    pub outline: Outline,
    /// Spans and vectors where the caller made the chunks.
    pub caller_chunks: Option<Vec<CallerChunk>>,
}

/// A caller-made chunk that has found its place in the content.
#[derive(Debug, Clone)]
pub(super) struct CallerChunk {
    span: ByteSpan,
    chunk: IncomingChunk,
}

/// A document with its chunks, still without vectors unless the caller brought them.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub chunks: Vec<Chunk>,
    /// For each chunk, of the text that would be embedded.
    pub input_hashes: Vec<ContentHash>,
    /// What made the chunks, where that is not the collection's chunker.
    pub chunker: Option<ChunkerSpec>,
    /// For each chunk, where the caller brought them.
    pub vectors: Option<Vec<Vec<f16>>>,
}

impl Reading {
    /// Puts head and parsed text together.
    pub(super) fn of_text(document: IncomingDocument, id: DocumentId, parsed: ParsedText, title_limit: usize) -> Self {
        let outline = serde_json::to_vec(&parsed.outline).expect("an outline holds only texts and numbers");
        let content_hash = hash_content([b"text".as_slice(), parsed.text.as_bytes(), &outline]);
        let own_title = parsed.title.map(|title| cut(title, title_limit)).filter(|title| !title.is_empty());
        let head = head(document, id, own_title);
        Self {
            head_hash: hash_head(&head),
            head,
            content_hash,
            text: parsed.text,
            outline: parsed.outline,
            caller_chunks: None,
        }
    }

    /// Joins the caller's chunks to one content.
    pub(super) fn of_chunks(mut document: IncomingDocument, id: DocumentId) -> Result<Self, ItemError> {
        let IncomingBody::Chunks(chunks) = std::mem::replace(&mut document.body, IncomingBody::Text(String::new()))
        else {
            return Err(ItemError::NoText);
        };
        let mut text = String::with_capacity(chunks.iter().map(|chunk| chunk.text.len() + 2).sum());
        let mut placed = Vec::with_capacity(chunks.len());
        for (ordinal, chunk) in chunks.into_iter().enumerate() {
            let normalized = normalize(&chunk.text);
            if normalized.trim().is_empty() {
                return Err(ItemError::EmptyChunk { ordinal });
            }
            if ordinal > 0 {
                text.push_str(CHUNK_SEPARATOR);
            }
            let start = text.len();
            text.push_str(&normalized);
            placed.push(CallerChunk { span: ByteSpan::new(start, text.len()), chunk });
        }
        let head = head(document, id, None);
        Ok(Self {
            head_hash: hash_head(&head),
            head,
            content_hash: hash_caller_chunks(&text, &placed),
            text,
            outline: Outline::default(),
            caller_chunks: Some(placed),
        })
    }

    /// Cuts the text into chunks, or takes the caller's. Seconds of work for the longest documents.
    pub(super) fn draft(&self, tenant: &TenantId, chunker: &Chunker, context: &ContextSpec) -> Draft {
        Draft::of_text(tenant, (&self.head, &self.text, &self.outline), chunker, context)
    }

    /// The caller's chunks as a draft; their vectors are checked against what the collection takes.
    pub(super) fn caller_draft(
        &self,
        tenant: &TenantId,
        placed: &[CallerChunk],
        (source, context): (VectorSource, &ContextSpec),
        counter: &dyn TokenCounter,
    ) -> Result<Draft, ItemError> {
        let vectors = caller_vectors(placed, source, self.head.collection.as_str())?;
        let chunker = super::recipe::caller_chunker();
        let mut ids = ChunkIds::new(tenant, &self.head, chunker.fingerprint());
        let mut chunks = Vec::with_capacity(placed.len());
        let mut input_hashes = Vec::with_capacity(placed.len());
        for (ordinal, CallerChunk { span, chunk }) in placed.iter().enumerate() {
            let text = span.slice(&self.text).expect("spans were made from this text").to_owned();
            let input = plain_input(context, &self.head, &[], &text);
            // Vectors are stored by what they were made from, and only the caller knows what that was.
            let brought = vectors.as_ref().map(|vectors| to_bytes(&vectors[ordinal]));
            input_hashes.push(match &brought {
                Some(vector) => hash_content([b"caller".as_slice(), input.as_bytes(), vector]),
                None => ContentHash::of(input.as_bytes()),
            });
            chunks.push(Chunk {
                id: ids.next(&text),
                ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
                span: *span,
                token_count: u32::try_from(counter.token_starts(&text).len()).unwrap_or(u32::MAX),
                text,
                heading_path: Vec::new(),
                page: None,
                metadata: chunk.metadata.clone(),
                context: None,
            });
        }
        Ok(Draft { chunks, input_hashes, chunker: Some(chunker), vectors })
    }
}

impl Draft {
    /// Cuts a text into chunks. Seconds of work for the longest documents.
    pub(super) fn of_text(
        tenant: &TenantId,
        (head, content, outline): (&DocumentHead, &str, &Outline),
        chunker: &Chunker,
        context: &ContextSpec,
    ) -> Self {
        let pieces = chunk(content, outline, &chunker.settings, &Counting(chunker.counter.as_ref()));
        let mut ids = ChunkIds::new(tenant, head, chunker.fingerprint);
        let mut chunks = Vec::with_capacity(pieces.len());
        let mut input_hashes = Vec::with_capacity(pieces.len());
        for (ordinal, piece) in pieces.into_iter().enumerate() {
            let text = piece.span.slice(content).expect("chunk spans lie on character borders").to_owned();
            input_hashes.push(ContentHash::of(plain_input(context, head, &piece.heading_path, &text).as_bytes()));
            chunks.push(Chunk {
                id: ids.next(&text),
                ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
                span: piece.span,
                text,
                heading_path: piece.heading_path,
                token_count: piece.token_count,
                page: piece.page,
                metadata: None,
                context: None,
            });
        }
        Self { chunks, input_hashes, chunker: None, vectors: None }
    }

    /// The caller's chunks as they are stored, to be embedded by another model or in another context.
    pub(super) fn of_stored(head: &DocumentHead, mut chunks: Vec<Chunk>, context: &ContextSpec) -> Self {
        chunks.iter_mut().for_each(|chunk| chunk.context = None);
        let hash = |chunk: &Chunk| ContentHash::of(chunk_input(context, head, chunk).as_bytes());
        let input_hashes = chunks.iter().map(hash).collect();
        Self { chunks, input_hashes, chunker: Some(super::recipe::caller_chunker()), vectors: None }
    }

    /// Puts a written text before a chunk.
    pub(super) fn give_context(&mut self, index: usize, head: &DocumentHead, (spec, text): (&ContextSpec, String)) {
        self.chunks[index].context = Some(text);
        let input = chunk_input(spec, head, &self.chunks[index]);
        self.input_hashes[index] = ContentHash::of(input.as_bytes());
    }
}

/// The text that stands for a chunk in front of the embedder.
pub(super) fn chunk_input(spec: &ContextSpec, head: &DocumentHead, chunk: &Chunk) -> String {
    match &chunk.context {
        Some(context) => plain_input(spec, head, &chunk.heading_path, &format!("{context}\n{}", chunk.text)),
        None => plain_input(spec, head, &chunk.heading_path, &chunk.text),
    }
}

fn plain_input(spec: &ContextSpec, head: &DocumentHead, heading_path: &[String], text: &str) -> String {
    match spec {
        ContextSpec::None => text.to_owned(),
        ContextSpec::Headings | ContextSpec::Written { .. } => {
            embedding_input(head.title.as_deref(), heading_path, text)
        }
    }
}

/// Numbers equal texts of one document, so that each chunk gets an id of its own.
struct ChunkIds<'a> {
    owner: ChunkOwner<'a>,
    chunker: Fingerprint,
    seen: HashMap<ContentHash, u32>,
}

impl<'a> ChunkIds<'a> {
    fn new(tenant: &'a TenantId, head: &'a DocumentHead, chunker: Fingerprint) -> Self {
        let owner = ChunkOwner { tenant, collection: &head.collection, document: &head.id };
        Self { owner, chunker, seen: HashMap::new() }
    }

    fn next(&mut self, text: &str) -> ChunkId {
        let occurrence = self.seen.entry(ContentHash::of(text.as_bytes())).or_insert(0);
        let id = ChunkId::derive(&self.owner, self.chunker, text, *occurrence);
        *occurrence += 1;
        id
    }
}

fn head(document: IncomingDocument, id: DocumentId, own_title: Option<String>) -> DocumentHead {
    DocumentHead {
        id,
        media_type: document.media_type().to_owned(),
        collection: document.collection,
        title: document.title.map(|title| normalize(&title)).filter(|title| !title.trim().is_empty()).or(own_title),
        source_uri: document.source_uri,
        metadata: document.metadata,
        acl: document.acl,
    }
}

fn hash_head(head: &DocumentHead) -> ContentHash {
    let visible = (&head.title, &head.source_uri, &head.media_type, &head.metadata, &head.acl);
    ContentHash::of(&serde_json::to_vec(&visible).expect("a head holds only JSON values"))
}

// Borders, vectors and metadata of the chunks are content too: a change in them must be a new version.
fn hash_caller_chunks(text: &str, placed: &[CallerChunk]) -> ContentHash {
    let mut parts = vec![b"chunks".to_vec(), text.as_bytes().to_vec()];
    for CallerChunk { span, chunk } in placed {
        parts.push(span.end.to_le_bytes().to_vec());
        let vector = chunk.vector.iter().flatten();
        parts.push(vector.flat_map(|value| value.to_le_bytes()).collect());
        parts.push(serde_json::to_vec(&chunk.metadata).expect("metadata is JSON"));
    }
    hash_content(parts.iter().map(Vec::as_slice))
}

fn caller_vectors(
    placed: &[CallerChunk],
    source: VectorSource,
    collection: &str,
) -> Result<Option<Vec<Vec<f16>>>, ItemError> {
    let Some(ordinal) = placed.iter().position(|placed| placed.chunk.vector.is_some()) else { return Ok(None) };
    let VectorSource::Caller { dimensions } = source else {
        return Err(ItemError::VectorsNotConfigured { collection: collection.to_owned(), ordinal });
    };
    let check = |(ordinal, placed): (usize, &CallerChunk)| {
        let vector = placed.chunk.vector.as_ref().ok_or(ItemError::VectorMissing { ordinal })?;
        if vector.len() != dimensions {
            return Err(ItemError::VectorDimensions { ordinal, found: vector.len(), expected: dimensions });
        }
        unit_vector(vector).ok_or(ItemError::NotAVector { ordinal })
    };
    placed.iter().enumerate().map(check).collect::<Result<_, _>>().map(Some)
}

/// The vector with length 1 in half precision; `None` if it points nowhere.
pub(super) fn unit_vector(vector: &[f32]) -> Option<Vec<f16>> {
    // In f64, since squares of large f32 overflow.
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return None;
    }
    Some(vector.iter().map(|value| f16::from_f64(f64::from(*value) / length)).collect())
}

fn to_bytes(vector: &[f16]) -> Vec<u8> {
    vector.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn cut(mut text: String, limit: usize) -> String {
    text.truncate(text.floor_char_boundary(limit));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CollectionName, Metadata};
    use crate::text::{ChunkingSettings, chunker_spec};
    use std::sync::Arc;

    struct Words;

    impl TokenCounter for Words {
        fn name(&self) -> &str {
            "words"
        }

        fn token_starts(&self, text: &str) -> Vec<usize> {
            text.split_whitespace().map(|word| word.as_ptr() as usize - text.as_ptr() as usize).collect()
        }
    }

    fn document(body: IncomingBody) -> IncomingDocument {
        IncomingDocument {
            id: None,
            collection: CollectionName::new("default").unwrap(),
            title: None,
            source_uri: None,
            media_type: None,
            body,
            metadata: Metadata::new(),
            acl: None,
        }
    }

    fn reading(text: &str) -> Reading {
        let parsed = ParsedText { text: text.to_owned(), ..ParsedText::default() };
        Reading::of_text(document(IncomingBody::Text(String::new())), DocumentId::new("a").unwrap(), parsed, 100)
    }

    fn chunker() -> Chunker {
        let settings = ChunkingSettings {
            target_tokens: 8,
            max_tokens: 16,
            min_tokens: 2,
            overlap_tokens: 0,
            ..ChunkingSettings::default()
        };
        let fingerprint = chunker_spec(&settings, "words").fingerprint();
        Chunker { settings, counter: Arc::new(Words), fingerprint }
    }

    fn chunks(texts: &[(&str, Option<Vec<f32>>)]) -> IncomingDocument {
        let chunk = |(text, vector): &(&str, Option<Vec<f32>>)| IncomingChunk {
            text: (*text).to_owned(),
            vector: vector.clone(),
            metadata: None,
        };
        document(IncomingBody::Chunks(texts.iter().map(chunk).collect()))
    }

    fn caller_draft(texts: &[(&str, Option<Vec<f32>>)], source: VectorSource) -> Result<(Reading, Draft), ItemError> {
        let reading = Reading::of_chunks(chunks(texts), DocumentId::new("a").unwrap())?;
        let placed = reading.caller_chunks.clone().unwrap();
        let draft =
            reading.caller_draft(&TenantId::new("acme").unwrap(), &placed, (source, &ContextSpec::Headings), &Words)?;
        Ok((reading, draft))
    }

    #[test]
    fn an_edit_leaves_the_ids_of_all_other_chunks_alone() {
        let tenant = TenantId::new("acme").unwrap();
        let paragraphs = [
            "one two three four five six seven eight nine ten eleven.",
            "Here is some more of it to read on a quiet day.",
            "And so it ends here now, my friend, as all things do.",
        ];
        let before = reading(&paragraphs.join("\n\n")).draft(&tenant, &chunker(), &ContextSpec::Headings);
        let edited = [paragraphs[0], "Quite something else stands here now, really, and not for long.", paragraphs[2]];
        let after = reading(&edited.join("\n\n")).draft(&tenant, &chunker(), &ContextSpec::Headings);

        let same = |at: usize| {
            before.chunks[at].id == after.chunks[at].id && before.input_hashes[at] == after.input_hashes[at]
        };
        assert_eq!((before.chunks.len(), after.chunks.len()), (3, 3));
        assert!(same(0) && !same(1) && same(2));
    }

    #[test]
    fn equal_texts_in_one_document_get_ids_of_their_own() {
        let draft = reading("Say it once more, please do it now for us.\n\nSay it once more, please do it now for us.")
            .draft(&TenantId::new("acme").unwrap(), &chunker(), &ContextSpec::Headings);

        assert_eq!(draft.chunks[0].text.trim(), draft.chunks[1].text.trim());
        assert_ne!(draft.chunks[0].id, draft.chunks[1].id);
    }

    #[test]
    fn what_stands_before_a_chunk_enters_its_input_and_nothing_else() {
        let tenant = TenantId::new("acme").unwrap();
        let mut reading = reading("One two three four five six.");
        reading.head.title = Some("Counting".to_owned());
        let written =
            ContextSpec::Written { prompt: "context".to_owned(), version: "1".to_owned(), route: "r".to_owned() };
        let draft = |spec| reading.draft(&tenant, &chunker(), spec);

        let (bare, headings) = (draft(&ContextSpec::None), draft(&ContextSpec::Headings));
        let mut told = draft(&written);
        let before = told.input_hashes.clone();
        told.give_context(0, &reading.head, (&written, "About numbers.".to_owned()));

        assert_eq!(bare.input_hashes[0], ContentHash::of(b"One two three four five six."));
        assert_eq!(headings.input_hashes[0], ContentHash::of(b"Counting\nOne two three four five six."));
        assert_eq!(before, headings.input_hashes, "while nothing is written it is as if only headings were asked for");
        let input = chunk_input(&written, &reading.head, &told.chunks[0]);
        assert_eq!(input, "Counting\nAbout numbers.\nOne two three four five six.");
        assert_eq!(told.input_hashes[0], ContentHash::of(input.as_bytes()));
        assert_eq!((told.chunks[0].id, &told.chunks[0].text), (bare.chunks[0].id, &bare.chunks[0].text));
    }

    #[test]
    fn callers_chunks_are_slices_of_the_joined_content() {
        let (reading, draft) = caller_draft(&[("first\r\nline", None), ("second", None)], VectorSource::None).unwrap();

        assert_eq!(reading.text, "first\nline\n\nsecond");
        assert!(draft.chunks.iter().all(|chunk| chunk.span.slice(&reading.text) == Some(chunk.text.as_str())));
    }

    #[test]
    fn callers_vectors_get_unit_length_and_enter_the_content_hash() {
        let source = VectorSource::Caller { dimensions: 2 };
        let (first, draft) = caller_draft(&[("a", Some(vec![3.0, 4.0]))], source).unwrap();
        let (second, other) = caller_draft(&[("a", Some(vec![4.0, 3.0]))], source).unwrap();

        assert_eq!(draft.vectors.unwrap()[0], [f16::from_f32(0.6), f16::from_f32(0.8)]);
        assert_ne!(first.content_hash, second.content_hash);
        assert_ne!(draft.input_hashes, other.input_hashes);
    }

    #[test]
    fn callers_vectors_that_cannot_be_used_are_refused_by_place() {
        let source = VectorSource::Caller { dimensions: 2 };
        let refuse = |texts: &[(&str, Option<Vec<f32>>)], source| caller_draft(texts, source).unwrap_err().to_string();

        assert!(refuse(&[("a", Some(vec![1.0]))], VectorSource::Embedder).contains("not configured"));
        assert!(
            refuse(&[("a", Some(vec![1.0; 3]))], source).contains("chunk 0 has 3 dimensions, the collection takes 2")
        );
        assert!(refuse(&[("a", Some(vec![0.0; 2]))], source).contains("not all of them 0"));
        assert!(refuse(&[("a", Some(vec![f32::NAN, 1.0]))], source).contains("finite"));
        assert!(refuse(&[("a", Some(vec![1.0; 2])), ("b", None)], source).contains("chunk 1 brings no vector"));
        assert!(refuse(&[(" \n", None)], source).contains("chunk 0 holds no text"));
    }

    #[test]
    fn huge_and_tiny_vectors_keep_their_direction() {
        assert_eq!(unit_vector(&[f32::MAX, 0.0]), Some(vec![f16::ONE, f16::ZERO]));
        assert_eq!(unit_vector(&[f32::MIN_POSITIVE, 0.0]), Some(vec![f16::ONE, f16::ZERO]));
        assert_eq!(unit_vector(&[f32::INFINITY, 0.0]), None);
        assert_eq!(unit_vector(&[]), None);
    }
}
