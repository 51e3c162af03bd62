//! Settings of the lexical index. The ones about scores act on queries only, so they can be changed at any time.

use serde::{Deserialize, Serialize};

/// How the lexical index scores, and what it may use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LexicalSettings {
    /// Saturation of term frequency; above 0.
    pub k1: f32,
    /// How much a long body lowers the weight of its words, 0 to 1.
    pub body_b: f32,
    /// Weight of a word in the title, where one in the body has 1.
    pub title_boost: f32,
    /// As `body_b`, for titles.
    pub title_b: f32,
    /// Weight of a word in the headings above a chunk.
    pub heading_boost: f32,
    /// As `body_b`, for headings.
    pub heading_b: f32,
    /// Worth of an identifier found as it is written, in units of all that its parts could be worth together;
    /// from 1 on it goes before any number of parts.
    pub exact_boost: f32,
    /// Most distinct words of a query that are looked up; of more, the rarest.
    pub max_query_terms: usize,
    /// Memory of the writer, in bytes; 15 MB is the least the engine takes. More makes fewer, larger segments.
    pub writer_heap_bytes: usize,
    /// How many segments of about one size are merged into one. Fewer segments make queries cheaper, merges dearer.
    pub merge_factor: usize,
    /// How many narrowings are remembered, so that both legs and the next query of the same caller share one. One
    /// that lets a hundred thousand chunks pass takes 3 MB.
    pub narrowing_cache: usize,
}

impl Default for LexicalSettings {
    fn default() -> Self {
        Self {
            k1: 1.1,
            body_b: 0.6,
            title_boost: 3.0,
            title_b: 0.8,
            heading_boost: 2.0,
            heading_b: 0.8,
            exact_boost: 1.0,
            max_query_terms: 64,
            writer_heap_bytes: 24_000_000,
            merge_factor: 5,
            narrowing_cache: 8,
        }
    }
}
