//! Words as they are compared: content words reduced to their stems (Porter's English stemmer of the Snowball family).
//!
//! Stems of other languages come out wrong but alike on both sides, so equal words still meet.

use std::collections::HashSet;

use frostem::{Algorithm, Stemmer};

use crate::text::content_words;

/// Stems of the content words of `text`, in order, with repetitions.
pub fn stems(text: &str) -> Vec<String> {
    let stemmer = Stemmer::new(Algorithm::English);
    let stem = |word: String| match word.bytes().any(|byte| byte.is_ascii_digit()) {
        // Codes and versions have no grammar.
        true => word,
        false => stemmer.stem(&word).into_owned(),
    };
    content_words(text).into_iter().map(stem).collect()
}

/// Stems of the content words of `text`.
pub fn stem_set(text: &str) -> HashSet<String> {
    stems(text).into_iter().collect()
}

/// Size of the intersection over size of the union; 0 for two empty sets.
pub fn jaccard(one: &HashSet<String>, other: &HashSet<String>) -> f64 {
    let common = one.intersection(other).count();
    let all = one.len() + other.len() - common;
    if all == 0 { 0.0 } else { common as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_word_meet_and_codes_stay_whole() {
        assert_eq!(stems("Which points were surrendered?"), stems("the point they surrender"));
        assert_eq!(stems("ERR_CONN_4012 in v2.13.1"), ["err_conn_4012", "v2.13.1"]);
    }

    #[test]
    fn likeness_is_the_share_of_common_words() {
        assert_eq!(jaccard(&stem_set("red whale"), &stem_set("whales swim")), 1.0 / 3.0);
        assert_eq!(jaccard(&stem_set(""), &stem_set("")), 0.0);
    }
}
