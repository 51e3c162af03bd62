//! Terms on their way into the engine: one string, terms ended by a zero byte.
//!
//! Analysis happens before the engine is called, in the language of each document. The engine's own form of tokenized
//! text goes through JSON on its way to the indexing thread; this costs a split.

use tantivy::tokenizer::{Token, TokenStream, Tokenizer};

/// The name under which [`TermSplitter`] is registered.
pub(super) const TERMS: &str = "terms";

// No term holds it: words and identifiers have no control characters, and ids neither.
const END: char = '\0';

/// Puts terms together for [`TermSplitter`].
#[derive(Debug, Clone, Default)]
pub(super) struct Terms(String);

impl Terms {
    pub(super) fn push(&mut self, term: &str) {
        debug_assert!(!term.contains(END), "terms are made of letters and marks");
        self.0.push_str(term);
        self.0.push(END);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Takes apart what [`Terms`] put together.
#[derive(Debug, Clone, Default)]
pub(super) struct TermSplitter {
    token: Token,
}

impl Tokenizer for TermSplitter {
    type TokenStream<'a> = TermStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> TermStream<'a> {
        self.token.reset();
        TermStream { rest: text, token: &mut self.token }
    }
}

/// The terms that are left.
pub(super) struct TermStream<'a> {
    rest: &'a str,
    token: &'a mut Token,
}

impl TokenStream for TermStream<'_> {
    fn advance(&mut self) -> bool {
        let Some((term, rest)) = self.rest.split_once(END) else { return false };
        self.rest = rest;
        self.token.text.clear();
        self.token.text.push_str(term);
        self.token.position = self.token.position.wrapping_add(1);
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_come_out_as_they_went_in() {
        let mut terms = Terms::default();
        ["whale", "o'neill", "日本"].iter().for_each(|term| terms.push(term));
        let mut splitter = TermSplitter::default();

        let mut stream = splitter.token_stream(terms.as_str());

        let mut out = Vec::new();
        stream.process(&mut |token| out.push((token.position, token.text.clone())));
        assert_eq!(out, [(0, "whale".to_owned()), (1, "o'neill".to_owned()), (2, "日本".to_owned())]);
        assert!(!splitter.token_stream("").advance());
    }
}
