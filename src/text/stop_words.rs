//! English words that carry no content of their own.
//!
//! Other languages need no list here: their function words stand in most passages and so weigh little.

/// True if `word` (lower case) is one of the words that a question is full of and an answer is not about.
pub(super) fn is_stop_word(word: &str) -> bool {
    STOP_WORDS.binary_search(&word).is_ok()
}

#[rustfmt::skip]
const STOP_WORDS: &[&str] = &[
    "a", "about", "above", "after", "again", "against", "all", "also", "am", "an", "and", "any", "are", "aren't",
    "as", "at", "be", "because", "been", "before", "being", "below", "between", "both", "but", "by", "can", "can't",
    "cannot", "could", "couldn't", "did", "didn't", "do", "does", "doesn't", "doing", "don't", "down", "during",
    "each", "few", "for", "from", "further", "had", "hadn't", "has", "hasn't", "have", "haven't", "having", "he",
    "her", "here", "hers", "herself", "him", "himself", "his", "how", "however", "i", "i'd", "i'll", "i'm", "i've",
    "if", "in", "into", "is", "isn't", "it", "its", "itself", "just", "let", "may", "me", "might", "more", "most",
    "must", "my", "myself", "no", "nor", "not", "now", "of", "off", "on", "once", "only", "or", "other", "our", "ours",
    "ourselves", "out", "over", "own", "please", "same", "shall", "she", "should", "shouldn't", "so", "some", "such",
    "tell", "than", "that", "the", "their", "theirs", "them", "themselves", "then", "there", "these", "they",
    "they're", "this", "those", "through", "to", "too", "under", "until", "up", "upon", "us", "very", "was", "wasn't",
    "we", "we're", "were", "weren't", "what", "when", "where", "which", "while", "who", "whom", "whose", "why", "will",
    "with", "won't", "would", "wouldn't", "you", "you're", "your", "yours", "yourself", "yourselves",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_so_that_it_can_be_searched() {
        assert!(STOP_WORDS.is_sorted());
        assert!(is_stop_word("the") && !is_stop_word("whale"));
    }
}
