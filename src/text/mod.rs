//! Pure functions over text: normalization, sentences, outline, chunking, language, quotes.
//!
//! Knows no tokenizer: whoever chunks passes the token positions in. Every offset is a byte of normalized text.

mod atom;
mod chunk;
mod language;
mod line;
mod normalize;
mod outline;
mod pack;
mod quote;
mod sentence;
mod stop_words;
mod tokens;
mod window;

pub use chunk::{ChunkingSettings, ChunkingStrategy, InvalidChunking, TextChunk, chunk, chunker_spec, chunking_of};
pub use language::detect_language;
pub use normalize::{InvalidText, normalize, normalize_bytes};
pub use outline::{PREFIX_MAX_CHARS, embedding_input, heading_path_at, page_at};
pub use quote::{QuoteCandidate, WordWeights, content_words, rank_quotes, score_sentence};
pub use sentence::sentences;
pub use tokens::TokenPositions;
