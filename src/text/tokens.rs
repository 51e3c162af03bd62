//! Where the tokens of a text start, asked for piece by piece.
//!
//! A tokenizer that is handed ten megabytes at once may take a hundred times that in memory, so it never is.

use crate::domain::ByteSpan;

/// The embedder's way of counting, passed in by whoever chunks.
pub trait TokenPositions {
    /// Byte offset at which each token of `text` starts, ascending; special tokens not counted.
    fn token_starts(&self, text: &str) -> Vec<usize>;
}

/// Longest text handed to the tokenizer in one call, in bytes.
const WINDOW_BYTES: usize = 16 * 1024;

/// The token starts of a whole text.
pub(super) struct TokenMap {
    starts: Vec<usize>,
}

impl TokenMap {
    /// Asks window by window; windows end after whitespace wherever there is some.
    pub fn new(text: &str, tokens: &dyn TokenPositions) -> Self {
        let mut starts = Vec::with_capacity(text.len() / 4);
        let mut from = 0;
        while from < text.len() {
            let to = window_end(text, from);
            starts.extend(tokens.token_starts(&text[from..to]).into_iter().map(|start| from + start));
            from = to;
        }
        debug_assert!(starts.is_sorted(), "token starts must ascend");
        Self { starts }
    }

    /// Number of tokens that start in `span`.
    pub fn count(&self, span: ByteSpan) -> usize {
        let first = self.starts.partition_point(|&start| start < span.start);
        self.starts[first..].partition_point(|&start| start < span.end)
    }

    /// Like `count`, and one more if the span's start cuts a token in two.
    pub fn count_cut(&self, span: ByteSpan) -> usize {
        self.count(span) + usize::from(self.starts.binary_search(&span.start).is_err())
    }
}

fn window_end(text: &str, from: usize) -> usize {
    let far = text.floor_char_boundary(from.saturating_add(WINDOW_BYTES));
    if far == text.len() {
        return far;
    }
    let window = &text[from..far];
    let border = window.rfind('\n').or_else(|| window.rfind(char::is_whitespace));
    border.map_or(far, |border| text.ceil_char_boundary(from + border + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Words;

    impl TokenPositions for Words {
        fn token_starts(&self, text: &str) -> Vec<usize> {
            assert!(text.len() <= WINDOW_BYTES);
            text.split_whitespace().map(|word| word.as_ptr() as usize - text.as_ptr() as usize).collect()
        }
    }

    #[test]
    fn windows_change_nothing_and_stay_small() {
        let text = "word ".repeat(20_000);

        let map = TokenMap::new(&text, &Words);

        assert_eq!(map.count(ByteSpan::new(0, text.len())), 20_000);
        assert_eq!(map.count(ByteSpan::new(5, 14)), 2);
    }

    #[test]
    fn a_token_that_is_cut_counts_on_both_sides() {
        let map = TokenMap::new("abcdef gh", &Words);

        assert_eq!(map.count_cut(ByteSpan::new(0, 3)), 1);
        assert_eq!(map.count_cut(ByteSpan::new(3, 9)), 2);
    }
}
