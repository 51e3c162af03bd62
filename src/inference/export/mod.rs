//! From published weights to the ONNX files that this program runs: the same bytes on every machine.

mod bert;
mod graph;
mod quantize;
mod weights;

pub use bert::{BertHead, ExportRecipe, Matrix, export_bert};
pub use weights::{BertConfig, ExportError, WeightFile};
