//! A query over one snapshot: which postings to read and what each word can be worth.

use tantivy::TantivyError;
use tantivy::postings::TermInfo;

use super::analyzer::{QueryIdentifier, QueryTerms};
use super::bm25::idf;
use super::settings::LexicalSettings;
use super::snapshot::{Snapshot, TEXT_FIELD_COUNT};

/// Most distinct words that are looked up at all; a query with more is cut here, before the rarest are chosen.
const MAX_LOOKED_UP: usize = 1024;

/// A word of the query that the index holds.
pub(super) struct PlannedWord {
    /// The most that the word can add to a score.
    pub weight: f32,
    /// For each segment: the text field and where the postings are.
    pub postings: Vec<Vec<(usize, TermInfo)>>,
    frequency: u64,
}

/// An identifier of the query that the index holds.
pub(super) struct PlannedIdentifier {
    /// What it adds to a score.
    pub weight: f32,
    /// For each segment.
    pub postings: Vec<Option<TermInfo>>,
}

/// What is to be read for a query.
#[derive(Default)]
pub(super) struct Plan {
    pub words: Vec<PlannedWord>,
    pub identifiers: Vec<PlannedIdentifier>,
}

impl Plan {
    /// Looks the terms up. Words that no document has are not in the plan.
    pub(super) fn new(
        snapshot: &Snapshot,
        terms: &QueryTerms,
        settings: &LexicalSettings,
    ) -> Result<Self, TantivyError> {
        let mut words = Vec::new();
        for word in terms.words.iter().take(MAX_LOOKED_UP) {
            words.push(look_up(snapshot, word, settings)?);
        }
        let mut identifiers = Vec::new();
        for identifier in terms.identifiers.iter().take(MAX_LOOKED_UP) {
            let parts = identifier.parts.iter().filter_map(|place| words.get(*place)?.as_ref()).map(|word| word.weight);
            identifiers.extend(look_up_exact(snapshot, identifier, parts.sum::<f32>(), settings)?);
        }
        let mut words: Vec<PlannedWord> = words.into_iter().flatten().collect();
        if words.len() > settings.max_query_terms {
            words.sort_by_key(|word| word.frequency);
            words.truncate(settings.max_query_terms);
        }
        identifiers.truncate(settings.max_query_terms);
        Ok(Self { words, identifiers })
    }

    /// The most that any document could score.
    pub(super) fn ceiling(&self) -> f32 {
        let words = self.words.iter().map(|word| word.weight);
        words.chain(self.identifiers.iter().map(|identifier| identifier.weight)).sum()
    }
}

fn look_up(
    snapshot: &Snapshot,
    word: &super::analyzer::QueryWord,
    settings: &LexicalSettings,
) -> Result<Option<PlannedWord>, TantivyError> {
    let mut postings = Vec::with_capacity(snapshot.segments.len());
    let mut frequency = 0;
    for segment in &snapshot.segments {
        let mut found = Vec::with_capacity(TEXT_FIELD_COUNT);
        for form in &word.forms {
            // A document has one language, so the forms of a word are in different documents; its fields are not.
            let mut in_form = 0;
            for (field, text) in segment.texts.iter().enumerate() {
                if let Some(info) = text.term(form)? {
                    in_form = in_form.max(u64::from(info.doc_freq));
                    found.push((field, info));
                }
            }
            frequency += in_form;
        }
        // The longest list goes last: it is the one that is scored while it is read.
        found.sort_by_key(|(_, info)| info.doc_freq);
        postings.push(found);
    }
    if frequency == 0 {
        return Ok(None);
    }
    let weight = word.count * idf(frequency, snapshot.total) * (settings.k1 + 1.0);
    Ok(Some(PlannedWord { weight, postings, frequency }))
}

fn look_up_exact(
    snapshot: &Snapshot,
    identifier: &QueryIdentifier,
    worth_of_parts: f32,
    settings: &LexicalSettings,
) -> Result<Option<PlannedIdentifier>, TantivyError> {
    let mut postings = Vec::with_capacity(snapshot.segments.len());
    let mut frequency = 0;
    for segment in &snapshot.segments {
        let info = segment.exact_term(&identifier.folded)?;
        frequency += info.as_ref().map_or(0, |info| u64::from(info.doc_freq));
        postings.push(info);
    }
    if frequency == 0 || settings.exact_boost <= 0.0 {
        return Ok(None);
    }
    // The whole is worth more than all of its parts: no number of parts in a document can outrun it.
    let weight = settings.exact_boost * (worth_of_parts + idf(frequency, snapshot.total));
    Ok(Some(PlannedIdentifier { weight, postings }))
}
