//! What kind of thing a question asks for, as far as its words say so: a number, a time, a name.
//!
//! English question words only; other questions expect nothing in particular, and nothing is lost.

use std::collections::HashSet;

use super::terms::stems;

/// What a good sentence should hold besides the question's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    Anything,
    Number,
    Time,
    /// A capitalized word: a person, a place, an organization.
    Name,
}

impl Expectation {
    /// Read off the question's words.
    pub fn of(question: &str) -> Self {
        let lower = question.to_lowercase();
        let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let pair = |first: &str, second: &[&str]| words.windows(2).any(|w| w[0] == first && second.contains(&w[1]));
        let any = |wanted: &[&str]| words.iter().any(|word| wanted.contains(word));
        if pair("how", &["many", "much", "long", "old", "far", "often", "tall", "high", "large", "big", "deep"])
            || pair("what", &["percentage", "percent", "number"])
        {
            Self::Number
        } else if any(&["when"])
            || ["what", "which"].iter().any(|w| pair(w, &["year", "date", "day", "month", "century"]))
        {
            Self::Time
        } else if any(&["who", "whom", "whose", "where"]) {
            Self::Name
        } else {
            Self::Anything
        }
    }

    /// True if `sentence` holds such a thing that the question did not name; `stems_of_sentence` are its own.
    pub fn is_met(self, sentence: &str, stems_of_sentence: &[String], question: &HashSet<String>) -> bool {
        let new = |stem: &&String| !question.contains(*stem);
        let has_digit = |stem: &String| stem.bytes().any(|byte| byte.is_ascii_digit());
        let mut fresh = stems_of_sentence.iter().filter(new);
        match self {
            Self::Anything => true,
            Self::Number => fresh.any(|stem| has_digit(stem) || NUMBER_STEMS.contains(&stem.as_str())),
            Self::Time => fresh.any(|stem| has_digit(stem) || TIME_STEMS.contains(&stem.as_str())),
            // The first word is capitalized anyway.
            Self::Name => sentence.split_whitespace().skip(1).any(|word| {
                let capital = word.trim_start_matches(|c: char| !c.is_alphanumeric()).starts_with(char::is_uppercase);
                capital && stems(word).iter().any(|stem| !question.contains(stem))
            }),
        }
    }
}

const NUMBER_STEMS: &[&str] = &[
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelv", "fifteen",
    "twenti", "thirti", "forti", "fifti", "hundr", "thousand", "million", "billion", "half", "third", "quarter",
    "dozen", "doubl", "twice", "none", "unlimit",
];

const TIME_STEMS: &[&str] = &[
    "januari",
    "februari",
    "march",
    "april",
    "june",
    "juli",
    "august",
    "septemb",
    "octob",
    "novemb",
    "decemb",
    "centuri",
    "decad",
    "spring",
    "summer",
    "autumn",
    "winter",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
    "midnight",
    "noon",
    "daili",
    "week",
    "month",
    "year",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::terms::stem_set;

    fn met(question: &str, sentence: &str) -> bool {
        Expectation::of(question).is_met(sentence, &stems(sentence), &stem_set(question))
    }

    #[test]
    fn questions_expect_what_their_words_say() {
        assert_eq!(Expectation::of("How many retries are made?"), Expectation::Number);
        assert_eq!(Expectation::of("In which year was it built?"), Expectation::Time);
        assert_eq!(Expectation::of("who wrote it"), Expectation::Name);
        assert_eq!(Expectation::of("What is whole?"), Expectation::Anything);
    }

    #[test]
    fn only_something_new_meets_an_expectation() {
        assert!(met("How many retries are made?", "Three retries are made."));
        assert!(!met("How many retries are made in v2?", "Retries are made in v2."));
        assert!(met("When was it built?", "It was built in March."));
        assert!(met("Who leads Acme?", "The head of Acme is Ann Lee."));
        assert!(!met("Who leads Acme?", "The head of Acme is unknown."));
        assert!(met("What now?", "anything"));
    }
}
