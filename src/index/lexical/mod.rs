//! The lexical leg: BM25 over title, headings and body, identifiers as they are written, narrowing by metadata.

mod analyzer;
mod bits;
mod bm25;
mod facts;
mod highlight;
mod identifier;
mod index;
mod language;
mod narrow;
mod orphans;
mod payload;
mod plan;
mod scan;
mod schema;
mod settings;
mod snapshot;
mod stopwords;
mod terms;
#[cfg(test)]
mod tests;
mod times;
mod top;
mod words;
mod writer;

pub use analyzer::analyzer_spec;
pub use index::TantivyIndex;
pub use settings::LexicalSettings;
