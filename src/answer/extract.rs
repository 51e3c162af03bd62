//! An answer without a model: the sentences of the passages that answer the question best, word for word.
//!
//! For a question with stems Q, a sentence with stems S in a passage of rank r (from 1) under heading words H,
//!
//! ```text
//! score    = coverage · novelty · form · expectation · prior
//! coverage = Σ idf(w), w ∈ Q ∩ (S ∪ H)  /  Σ idf(w), w ∈ Q
//! idf      = ln(1 + (N − n + 0.5) / (n + 0.5))   over the N sentences at hand (Robertson and Zaragoza 2009)
//! novelty  = 1 if S holds a word that is not in Q, else 0.3: the question itself is no answer
//! form     = 0.5 for a question, else 1, and 1 / (1 + (|S| − 30) / 60) for |S| above 30
//! prior    = 1 / (1 + 0.4 (r − 1)): a search result has an opinion on where the answer is
//! ```
//!
//! Measured on the tuning halves over BM25's best eight passages, 2,500 questions of SQuAD and 1,354 of NQ: share of
//! questions whose answer string stands in the first sentence (in the first three). Coverage of S alone, unstemmed:
//! .598 (.752) and .367 (.557). With stems .603 and .375, with the prior too .657 and .461; the whole formula .662
//! (.796) and .555 (.797). Leaving one out of it costs, SQuAD and NQ: stems .011 and .011, the expectation .006 and
//! .027. Heading words that count less cost NQ up to .03. Credit for word pairs and for the sentence before gained
//! nothing. 0.4 was the best of 0.2, 0.4, 0.7 and 1.2 over both, 0.5 of 0, 0.3 and 0.5.

use std::collections::{HashMap, HashSet};

use crate::domain::ByteSpan;
use crate::text::sentences;

use super::evidence::Evidence;
use super::expectation::Expectation;
use super::settings::ExtractSettings;
use super::terms::{jaccard, stem_set, stems};

const WITHOUT_NOVELTY: f64 = 0.3;
const AS_A_QUESTION: f64 = 0.5;
const COMFORTABLE_WORDS: f64 = 30.0;
const RANK_DECAY: f64 = 0.4;
const UNMET_EXPECTATION: f64 = 0.5;
/// A sentence this like the question meets it, whatever its words.
const CLEAR_SIMILARITY: f64 = 0.5;
/// Sentences that share this much of their words say the same.
const SAME_SAYING: f64 = 0.8;
/// A lead-in (`as follows:`) takes what follows along, up to this many bytes.
const LEAD_IN_MAX_BYTES: usize = 400;

/// A sentence that could be quoted.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Index into the evidence's passages.
    pub passage: usize,
    /// Bytes of the passage's text.
    pub span: ByteSpan,
    pub score: f64,
    /// Share of the question's content that the sentence or its headings hold, from 0 to 1.
    pub coverage: f64,
    stems: HashSet<String>,
}

impl Candidate {
    /// Adds a similarity to the question, from 0 to 1, with its share of the score.
    pub fn add_similarity(&mut self, similarity: f64, weight: f64) {
        self.score += weight * similarity * prior(self.passage);
        // Unrelated sentences reach 0.3 easily, so only a clear likeness counts as meeting the question.
        if similarity >= CLEAR_SIMILARITY {
            self.coverage = self.coverage.max(similarity);
        }
    }
}

/// How much a passage's place among the hits counts; 1 for the first.
fn prior(passage: usize) -> f64 {
    1.0 / (1.0 + RANK_DECAY * passage as f64)
}

/// Every quotable sentence with its score, in the order of passages and sentences. All scores are 0 if the question
/// has no content words.
pub fn candidates(question: &str, evidence: &Evidence) -> Vec<Candidate> {
    let asked = Asked::new(question);
    let mut found: Vec<Candidate> = Vec::new();
    let mut lists = Vec::new();
    for (passage, index) in evidence.passages.iter().zip(0..) {
        let text = passage.text();
        for span in sentences(text).into_iter().filter(|span| is_quotable(&text[span.start..span.end])) {
            let list = stems(&text[span.start..span.end]);
            let stems = list.iter().cloned().collect();
            found.push(Candidate { passage: index, span, score: 0.0, coverage: 0.0, stems });
            lists.push(list);
        }
    }
    let idf = Idf::over(&found, &asked);
    let headings: Vec<HashSet<String>> = evidence.passages.iter().map(|passage| stem_set(&passage.heading())).collect();
    for (candidate, list) in found.iter_mut().zip(&lists) {
        let text = evidence.passages[candidate.passage].text();
        let sentence = &text[candidate.span.start..candidate.span.end];
        candidate.coverage = asked.coverage(&idf, candidate, &headings[candidate.passage]);
        candidate.score = candidate.coverage * asked.form(sentence, list) * prior(candidate.passage);
    }
    found
}

/// The sentences to quote: best first up to the settings' bounds, then grouped by passage and put in reading order.
/// Empty if the best does not hold enough of the question.
pub fn choose(mut candidates: Vec<Candidate>, settings: &ExtractSettings) -> Vec<Candidate> {
    // Stable: equal scores keep the order of passages and sentences.
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    let Some(best) = candidates.first().filter(|best| best.coverage >= settings.min_coverage && best.score > 0.0)
    else {
        return Vec::new();
    };
    let least = best.score * settings.relative_score;
    let mut chosen: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if chosen.len() == settings.max_sentences || candidate.score < least {
            break;
        }
        if chosen.iter().all(|other| jaccard(&other.stems, &candidate.stems) < SAME_SAYING) {
            chosen.push(candidate);
        }
    }
    in_reading_order(chosen)
}

/// `span` with what a lead-in announces: a sentence that ends in a colon says nothing without it.
pub fn with_what_follows(text: &str, span: ByteSpan) -> ByteSpan {
    if !text[span.start..span.end].ends_with(':') {
        return span;
    }
    let following = sentences(text).into_iter().skip_while(|next| next.start < span.end);
    let mut end = span.end;
    for next in following {
        // A blank line after the list has begun ends it; one before it belongs to Markdown.
        let gap = text[end..next.start].matches('\n').count();
        if next.end - span.start > LEAD_IN_MAX_BYTES || (gap > 1 && end > span.end) {
            break;
        }
        end = next.end;
    }
    ByteSpan::new(span.start, end)
}

/// Passages in the order in which they were first chosen, sentences of one passage in the order of its text.
fn in_reading_order(chosen: Vec<Candidate>) -> Vec<Candidate> {
    let place = |passage: usize| chosen.iter().position(|candidate| candidate.passage == passage);
    let mut ordered = chosen.clone();
    ordered.sort_by_key(|candidate| (place(candidate.passage), candidate.span.start));
    ordered
}

/// Headings, fences, table rules and the like say nothing by themselves.
fn is_quotable(sentence: &str) -> bool {
    let is_markup = sentence.starts_with('#') || sentence.starts_with("```") || sentence.starts_with("~~~");
    !is_markup && sentence.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)).nth(1).is_some()
        || is_unspaced(sentence)
}

/// Sentences of scripts without spaces are one "word".
fn is_unspaced(sentence: &str) -> bool {
    sentence.chars().filter(|c| !c.is_ascii() && c.is_alphanumeric()).nth(3).is_some()
}

/// A question, taken apart once.
struct Asked {
    /// Distinct, in the question's order, so that sums have equal bits every time.
    stems: Vec<String>,
    set: HashSet<String>,
    expectation: Expectation,
}

impl Asked {
    fn new(question: &str) -> Self {
        let mut set = HashSet::new();
        let stems = stems(question).into_iter().filter(|stem| set.insert(stem.clone())).collect();
        Self { stems, set, expectation: Expectation::of(question) }
    }

    fn coverage(&self, idf: &Idf, candidate: &Candidate, heading: &HashSet<String>) -> f64 {
        let (mut held, mut total) = (0.0, 0.0);
        for stem in &self.stems {
            let weight = idf.of(stem);
            total += weight;
            if candidate.stems.contains(stem) || heading.contains(stem) {
                held += weight;
            }
        }
        if total == 0.0 { 0.0 } else { held / total }
    }

    fn form(&self, sentence: &str, stems: &[String]) -> f64 {
        let mut form = 1.0;
        if stems.iter().all(|stem| self.set.contains(stem)) {
            form *= WITHOUT_NOVELTY;
        }
        if sentence.ends_with(['?', '？', '؟']) {
            form *= AS_A_QUESTION;
        }
        if !self.expectation.is_met(sentence, stems, &self.set) {
            form *= UNMET_EXPECTATION;
        }
        let surplus = (stems.len() as f64 - COMFORTABLE_WORDS).max(0.0);
        form / (1.0 + surplus / (2.0 * COMFORTABLE_WORDS))
    }
}

/// How rare the question's words are among the sentences at hand.
struct Idf {
    weights: HashMap<String, f64>,
}

impl Idf {
    fn over(candidates: &[Candidate], asked: &Asked) -> Self {
        let total = candidates.len() as f64;
        let weight = |stem: &String| {
            let with = candidates.iter().filter(|candidate| candidate.stems.contains(stem)).count() as f64;
            (1.0 + (total - with + 0.5) / (with + 0.5)).ln()
        };
        Self { weights: asked.stems.iter().map(|stem| (stem.clone(), weight(stem))).collect() }
    }

    fn of(&self, stem: &str) -> f64 {
        self.weights.get(stem).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::evidence::tests::hit;
    use super::super::settings::AnswerSettings;
    use super::*;

    fn evidence(passages: &[(&str, &str)]) -> Evidence {
        let hits = passages.iter().map(|(document, text)| hit(document, "", text)).collect();
        Evidence::choose(hits, &AnswerSettings::default())
    }

    fn quotes(question: &str, passages: &[(&str, &str)]) -> Vec<String> {
        let evidence = evidence(passages);
        let chosen = choose(candidates(question, &evidence), &ExtractSettings::default());
        let slice = |c: &Candidate| c.span.slice(evidence.passages[c.passage].text()).unwrap().to_owned();
        chosen.iter().map(slice).collect()
    }

    #[test]
    fn the_sentence_that_answers_goes_before_the_one_that_asks() {
        let passages = [
            ("faq", "What is the default timeout? Ask your administrator."),
            ("guide", "Retries are bounded. The default timeout of the client is 30 seconds. It can be changed."),
        ];

        let first = &quotes("What is the default timeout of the client?", &passages)[0];
        assert_eq!(first, "The default timeout of the client is 30 seconds.");
    }

    #[test]
    fn a_heading_tells_what_its_sentences_are_about() {
        let passages = [
            ("Deadpool 3", "The film has no release date."),
            ("Deadpool 2", "It was released in May 2018. Critics liked it."),
        ];

        assert_eq!(quotes("When was Deadpool 2 released?", &passages)[0], "It was released in May 2018.");
    }

    #[test]
    fn what_shares_nothing_with_the_question_is_not_quoted() {
        let passages = [("whales", "Whales sing at night. Nobody knows why.")];

        assert!(quotes("How do I renew a certificate?", &passages).is_empty());
        assert!(quotes("What is it?", &passages).is_empty());
        assert!(quotes("whales", &[]).is_empty());
    }

    #[test]
    fn sentences_that_say_the_same_are_quoted_once_and_stand_in_reading_order() {
        let text =
            "The cache holds 64 entries by default. Unrelated words stand here. A full cache evicts old entries.";
        let passages = [("a", text), ("b", "By default, the cache holds 64 entries.")];

        assert_eq!(
            quotes("How many entries does the cache hold when the cache is full?", &passages),
            ["The cache holds 64 entries by default.", "A full cache evicts old entries."]
        );
    }

    #[test]
    fn headings_and_rules_are_never_quoted_and_a_lead_in_takes_its_list_along() {
        let text = "## Install plumb\n\nTo install plumb, run:\n\n- fetch the models\n- start the server\n\nThen rest a while.";
        let evidence = evidence(&[("guide", text)]);
        let chosen = choose(candidates("How do I install plumb?", &evidence), &ExtractSettings::default());

        let whole = with_what_follows(text, chosen[0].span);
        assert_eq!(&text[whole.start..whole.end], "To install plumb, run:\n\n- fetch the models\n- start the server");
        let plain = ByteSpan::new(0, 10);
        assert_eq!(with_what_follows(text, plain), plain);
    }

    proptest! {
        #[test]
        fn chosen_sentences_are_slices_that_do_not_overlap(
            question in "[a-d ]{1,12}", text in "([a-e]{1,3}[ .:\n]){0,40}",
        ) {
            let evidence = evidence(&[("x", &text), ("y", &text.to_uppercase())]);
            let all = candidates(&question, &evidence);
            prop_assert!(all.iter().all(|c| (0.0..=1.0).contains(&c.score) && (0.0..=1.0).contains(&c.coverage)));
            let chosen = choose(all, &ExtractSettings::default());

            prop_assert!(chosen.len() <= ExtractSettings::default().max_sentences);
            for pair in chosen.windows(2) {
                prop_assert!(pair[0].passage != pair[1].passage || pair[0].span.end <= pair[1].span.start);
            }
            for candidate in &chosen {
                let text = evidence.passages[candidate.passage].text();
                let whole = with_what_follows(text, candidate.span);
                prop_assert!(whole.slice(text).is_some() && whole.end >= candidate.span.end);
            }
        }
    }
}
