//! Cosine similarity over chunk vectors: exact scans of int8 codes, graphs above a size, scores from f16.

mod candidates;
mod catalog;
mod flat;
mod graph;
mod hnsw_rs;
mod image;
mod kernel;
mod maintenance;
mod part;
mod plan;
mod quantize;
mod recovery;
mod scan;
mod search;
mod segmented;
mod settings;
mod usearch;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod purge_tests;
#[cfg(test)]
mod test_data;

pub use flat::FlatIndex;
pub use segmented::SegmentedIndex;
pub use settings::{Engine as VectorEngine, VectorSettings};
