//! Text to token ids, by the model's own `tokenizer.json`: the only file that speaks to `tokenizers`.
//!
//! Truncation is done here and not by the library, which panics on limits below the number of special tokens
//! (huggingface/tokenizers#1326) and fails on pairs whose first half alone is too long.

use tokenizers::{Encoding, PostProcessor, Tokenizer, TruncationDirection};

use super::InferenceError;
use super::contract::TokenCounter;
use super::session::Row;

/// Bytes of text read for each token the model can take. The longest words of real text stay far below; without
/// a bound a request of many megabytes would be tokenized whole to keep 256 tokens.
const MAX_BYTES_PER_TOKEN: usize = 64;
/// Bytes of text that are tokenized at once when tokens are counted: bounds memory for long documents.
const COUNT_WINDOW_BYTES: usize = 1 << 14;

/// A model's tokenizer with the model's limit.
pub(super) struct TextTokenizer {
    model: String,
    tokenizer: Tokenizer,
    max_tokens: usize,
    /// Special tokens around one text.
    around_text: usize,
    /// Special tokens around a pair.
    around_pair: usize,
}

impl TextTokenizer {
    /// Reads a `tokenizer.json`. `max_tokens` counts special tokens and must leave room for text. Blocks.
    pub fn load(model: &str, json: &[u8], max_tokens: usize) -> Result<Self, InferenceError> {
        let unusable = |detail: String| InferenceError::Unusable { model: model.to_owned(), detail };
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| unusable(format!("its tokenizer: {error}")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| unusable(error.to_string()))?;
        let added = |pair| tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(pair));
        let (around_text, around_pair) = (added(false), added(true));
        // A pair needs a token on each side.
        if max_tokens < around_text + 1 || max_tokens < around_pair + 2 {
            return Err(unusable(format!("max_tokens is {max_tokens}, of which special tokens take {around_pair}")));
        }
        Ok(Self { model: model.to_owned(), tokenizer, max_tokens, around_text, around_pair })
    }

    /// Longest text in tokens, special tokens not counted.
    pub fn text_tokens(&self) -> usize {
        self.max_tokens - self.around_text
    }

    /// One text with its special tokens; what is too long is cut off at the end. An empty text gives the special
    /// tokens alone.
    pub fn encode(&self, text: &str) -> Result<Row, InferenceError> {
        let encoding = self.plain(text, self.text_tokens())?;
        self.finish(encoding, None)
    }

    /// A pair with its special tokens: the query is kept and the passage is cut, but a query longer than half the
    /// limit is cut to that half first.
    pub fn encode_pair(&self, query: &str, passage: &str) -> Result<Row, InferenceError> {
        Ok(self.encode_pairs(query, &[passage])?.remove(0))
    }

    /// As [`TextTokenizer::encode_pair`] with each passage; the query's tokens are made once.
    pub fn encode_pairs<T: AsRef<str>>(&self, query: &str, passages: &[T]) -> Result<Vec<Row>, InferenceError> {
        let room = self.max_tokens - self.around_pair;
        let query = self.plain(query, room.div_ceil(2))?;
        let pair = |passage: &T| {
            let passage = self.plain(passage.as_ref(), room - query.len())?;
            self.finish(query.clone(), Some(passage))
        };
        passages.iter().map(pair).collect()
    }

    /// Number of tokens of `text`, special tokens not counted, up to the limit of one text.
    pub fn count(&self, text: &str) -> usize {
        self.plain(text, self.text_tokens()).map_or(0, |encoding| encoding.len())
    }

    fn plain(&self, text: &str, most: usize) -> Result<Encoding, InferenceError> {
        let text = &text[..text.floor_char_boundary(most.saturating_mul(MAX_BYTES_PER_TOKEN))];
        let mut encoding = self.tokenizer.encode_fast(text, false).map_err(|error| self.failed(&error))?;
        // The stride of 0 is below every limit of 1 or more, which `load` has made sure of.
        encoding.truncate(most, 0, TruncationDirection::Right);
        encoding.take_overflowing();
        Ok(encoding)
    }

    fn finish(&self, first: Encoding, second: Option<Encoding>) -> Result<Row, InferenceError> {
        let encoding = self.tokenizer.post_process(first, second, true).map_err(|error| self.failed(&error))?;
        Ok(Row { ids: encoding.get_ids().to_vec(), type_ids: encoding.get_type_ids().to_vec() })
    }

    fn failed(&self, error: &tokenizers::Error) -> InferenceError {
        InferenceError::Failed { model: self.model.clone(), detail: format!("its tokenizer: {error}") }
    }
}

/// Counts tokens by a model's tokenizer, over text of any length.
pub(super) struct ModelTokenCounter {
    pub name: String,
    pub tokenizer: std::sync::Arc<TextTokenizer>,
}

impl TokenCounter for ModelTokenCounter {
    fn name(&self) -> &str {
        &self.name
    }

    fn token_starts(&self, text: &str) -> Vec<usize> {
        let mut starts = Vec::with_capacity(text.len() / 4);
        let mut from = 0;
        while from < text.len() {
            let window = window_len(&text[from..]);
            // A text that the tokenizer refuses counts nothing; its words still bound the chunk.
            if let Ok(encoding) = self.tokenizer.tokenizer.encode(&text[from..from + window], false) {
                starts.extend(
                    encoding.get_offsets().iter().filter(|(start, end)| start < end).map(|(start, _)| from + start),
                );
            }
            from += window;
        }
        starts.dedup();
        starts
    }
}

/// Length of the next window: it ends behind white space, so that no word is cut, if there is any.
fn window_len(text: &str) -> usize {
    if text.len() <= COUNT_WINDOW_BYTES {
        return text.len();
    }
    let window = &text[..text.floor_char_boundary(COUNT_WINDOW_BYTES)];
    window.char_indices().rfind(|(_, c)| c.is_whitespace()).map_or(window.len(), |(at, c)| at + c.len_utf8())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use std::sync::Arc;

    /// A WordPiece tokenizer with BERT's normalizer and template, and a vocabulary of a few words.
    fn json() -> String {
        let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "whale", "##s", "swim", ",", "a", "cafe", "b", "c"];
        let vocab: serde_json::Map<_, _> =
            words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
        let special = |name: &str, id: u32| serde_json::json!({ "id": name, "ids": [id], "tokens": [name] });
        let token = |name: &str, kind: u32| serde_json::json!({ "SpecialToken": { "id": name, "type_id": kind } });
        let sequence = |name: &str, kind: u32| serde_json::json!({ "Sequence": { "id": name, "type_id": kind } });
        serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "decoder": null,
            "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true },
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [token("[CLS]", 0), sequence("A", 0), token("[SEP]", 0)],
                "pair": [token("[CLS]", 0), sequence("A", 0), token("[SEP]", 0), sequence("B", 1), token("[SEP]", 1)],
                "special_tokens": { "[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3) }
            },
            "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab }
        })
        .to_string()
    }

    fn tokenizer(max_tokens: usize) -> TextTokenizer {
        TextTokenizer::load("m", json().as_bytes(), max_tokens).unwrap()
    }

    #[test]
    fn what_is_too_long_is_cut_off_at_the_end() {
        assert_eq!(tokenizer(10).encode("The whales swim").unwrap().ids, [2, 4, 5, 6, 7, 3]);
        assert_eq!(tokenizer(5).encode("The whales swim").unwrap().ids, [2, 4, 5, 6, 3]);
        assert_eq!(tokenizer(5).encode("").unwrap().ids, [2, 3]);
        assert_eq!(tokenizer(5).encode(&"whale ".repeat(2_000_000)).unwrap().ids, [2, 5, 5, 5, 3]);
    }

    #[test]
    fn a_pair_keeps_its_query_and_cuts_its_passage() {
        let row = tokenizer(9).encode_pair("a whale", "the the the the the").unwrap();
        assert_eq!(row.ids, [2, 9, 5, 3, 4, 4, 4, 4, 3]);
        assert_eq!(row.type_ids, [0, 0, 0, 0, 1, 1, 1, 1, 1]);

        let row = tokenizer(9).encode_pair("a a a a a a a a a", "the the the the").unwrap();
        assert_eq!(row.ids, [2, 9, 9, 9, 3, 4, 4, 4, 3]);
    }

    #[test]
    fn pairs_of_one_query_are_what_each_would_be_alone() {
        let (tokenizer, passages) = (tokenizer(9), ["the whale", "", "the the the the the"]);

        let together = tokenizer.encode_pairs("a whale", &passages).unwrap();

        let alone = passages.map(|passage| tokenizer.encode_pair("a whale", passage).unwrap());
        assert_eq!(together, alone);
    }

    #[test]
    fn limits_that_would_make_the_library_panic_are_refused() {
        for max_tokens in 0..5 {
            assert!(TextTokenizer::load("m", json().as_bytes(), max_tokens).is_err(), "{max_tokens}");
        }
        let least = tokenizer(5);
        assert_eq!(least.encode_pair("a a", "b b").unwrap().ids, [2, 9, 3, 11, 3]);
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_unusable() {
        let refused = TextTokenizer::load("m", b"{}", 8).map(|_| ()).unwrap_err();

        assert!(matches!(refused, InferenceError::Unusable { .. }), "{refused}");
    }

    #[test]
    fn token_starts_are_byte_offsets_into_the_text_as_it_was() {
        let counter = ModelTokenCounter { name: "m".into(), tokenizer: Arc::new(tokenizer(8)) };

        assert_eq!(counter.token_starts("  Café, whales"), [2, 7, 9, 14]);
        assert_eq!(counter.token_starts(""), [0_usize; 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn windows_change_no_count(words in prop::collection::vec("(whales|cafe|ü|[a-c]{1,3}|,)", 3_000..7_000)) {
            let counter = ModelTokenCounter { name: "m".into(), tokenizer: Arc::new(tokenizer(8)) };
            let text = words.join(" ");

            let starts = counter.token_starts(&text);

            let whole = counter.tokenizer.tokenizer.encode(text.as_str(), false).unwrap();
            let expected: Vec<usize> = whole.get_offsets().iter().map(|offset| offset.0).collect();
            prop_assert_eq!(starts, expected);
        }

    }

    proptest! {
        #[test]
        fn no_text_and_no_limit_makes_it_panic(text in "\\PC{0,200}", query in "\\PC{0,60}", max_tokens in 5usize..20) {
            let tokenizer = tokenizer(max_tokens);

            prop_assert!(tokenizer.encode(&text).unwrap().ids.len() <= max_tokens);
            prop_assert!(tokenizer.encode_pair(&query, &text).unwrap().ids.len() <= max_tokens);
        }
    }
}
