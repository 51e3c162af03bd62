//! How a document is divided into parts, one for each call. Pure.

use crate::domain::{ByteSpan, Chunk, ContentHash};

use super::input::{Over, Part};

/// The parts of a document whose chunks are given in order. `document` is its place among the documents.
///
/// A window is consecutive chunks with at most so many tokens together, or one chunk that has more; it reaches from the
/// start of its first to the end of its last, so what chunks share is read once.
pub fn parts(document: usize, chunks: &[Chunk], content: &str, over: Over, window_tokens: u32) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = chunks;
    while !rest.is_empty() {
        let count = match over {
            Over::Chunks => 1,
            Over::Windows => window(rest, window_tokens),
        };
        let (taken, left) = rest.split_at(count);
        parts.extend(part(document, taken, content));
        rest = left;
    }
    parts
}

/// How many chunks from the start make the first window.
fn window(chunks: &[Chunk], window_tokens: u32) -> usize {
    let mut tokens = 0u32;
    let mut before: Option<u32> = None;
    let fits = chunks.iter().take_while(|chunk| {
        tokens = tokens.saturating_add(chunk.token_count);
        let follows = before.is_none_or(|ordinal| chunk.ordinal == ordinal + 1);
        let is_first = before.is_none();
        before = Some(chunk.ordinal);
        is_first || (follows && tokens <= window_tokens)
    });
    fits.count()
}

fn part(document: usize, chunks: &[Chunk], content: &str) -> Option<Part> {
    let first = chunks.first()?;
    let end = chunks.iter().map(|chunk| chunk.span.end).max()?;
    let span = ByteSpan::new(first.span.start, end);
    let text = span.slice(content)?;
    Some(Part {
        document,
        chunk_ids: chunks.iter().map(|chunk| chunk.id).collect(),
        byte_range: [span.start, span.end],
        heading: first.heading_path.join(" › "),
        text_hash: ContentHash::of(text.as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ChunkId;

    const TEXT: &str = "aaaabbbbccccdddd";

    /// Chunks of four letters with these token counts; each after the first begins one letter early.
    fn chunks(tokens: &[u32]) -> Vec<Chunk> {
        let chunk = |(ordinal, token_count): (usize, &u32)| {
            let span = ByteSpan::new((4 * ordinal).saturating_sub(1), 4 * ordinal + 4);
            Chunk {
                id: ChunkId([ordinal as u8; 16]),
                ordinal: ordinal as u32,
                span,
                text: span.slice(TEXT).unwrap().to_owned(),
                heading_path: vec!["Book".to_owned(), format!("Chapter {ordinal}")],
                token_count: *token_count,
                page: None,
                metadata: None,
                context: None,
            }
        };
        tokens.iter().enumerate().map(chunk).collect()
    }

    fn ranges(parts: &[Part]) -> Vec<[usize; 2]> {
        parts.iter().map(|part| part.byte_range).collect()
    }

    #[test]
    fn a_window_is_as_many_consecutive_chunks_as_fit() {
        let chunks = chunks(&[5, 5, 6, 30]);

        let parts = parts(2, &chunks, TEXT, Over::Windows, 10);

        assert_eq!(ranges(&parts), [[0, 8], [7, 12], [11, 16]], "the last is too long alone");
        assert_eq!((parts[0].document, parts[0].heading.as_str()), (2, "Book › Chapter 0"));
        assert_eq!(parts[0].chunk_ids, [chunks[0].id, chunks[1].id]);
        assert_eq!(parts[0].text_hash, ContentHash::of(b"aaaabbbb"), "what two chunks share is there once");
    }

    #[test]
    fn a_window_never_reaches_over_a_gap() {
        let mut chunks = chunks(&[1, 1, 1, 1]);
        chunks.remove(1);

        assert_eq!(ranges(&parts(0, &chunks, TEXT, Over::Windows, 10)), [[0, 4], [7, 16]]);
        assert_eq!(parts(0, &chunks, TEXT, Over::Chunks, 10).len(), 3);
        assert_eq!(parts(0, &[], TEXT, Over::Windows, 10), []);
    }
}
