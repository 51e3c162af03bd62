//! What one chunk looks like inside the engine.
//!
//! Nothing is stored: an index answers with chunk ids, the truth has the rest. All values are made here and typed
//! by the schema, because the engine's writer dies of a single value of the wrong type.

use tantivy::TantivyDocument;
use tantivy::schema::{
    BytesOptions, FAST, Field, INDEXED, IndexRecordOption, JsonObjectOptions, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::tokenizer::RAW_TOKENIZER_NAME;

use crate::domain::ChunkId;
use crate::index::{LexicalChunk, LexicalDocument};

use super::analyzer::StemCache;
use super::facts::{Facts, facts_of};
use super::identifier::for_each_identifier;
use super::language::Language;
use super::terms::{TERMS, Terms};

/// The fields of the schema.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    /// The first and second half of the chunk id, big endian.
    pub chunk_high: Field,
    pub chunk_low: Field,
    /// The document id as it is, to replace and remove by.
    pub document: Field,
    /// The code of the language the document is stemmed in.
    pub language: Field,
    pub title: Field,
    pub headings: Field,
    pub body: Field,
    /// Identifiers of title, headings and body.
    pub exact: Field,
    /// Hashes of what is true of the chunk; see [`super::facts`].
    pub facts: Field,
    /// Columns of numbers and texts for range conditions.
    pub ranges: Field,
    pub created_at: Field,
    pub updated_at: Field,
}

/// Names of the columns that are read by name.
pub(super) const CHUNK_HIGH: &str = "chunk_high";
pub(super) const CHUNK_LOW: &str = "chunk_low";
pub(super) const RANGES: &str = "ranges";
pub(super) const CREATED_AT: &str = "created_at";
pub(super) const UPDATED_AT: &str = "updated_at";

/// The schema with its fields.
pub(super) fn schema() -> (Schema, Fields) {
    let mut builder = Schema::builder();
    let text = |tokenizer, option, fieldnorms| {
        let indexing = TextFieldIndexing::default().set_tokenizer(tokenizer);
        let indexing = indexing.set_fieldnorms(fieldnorms).set_index_option(option);
        TextOptions::default().set_indexing_options(indexing)
    };
    let prose = text(TERMS, IndexRecordOption::WithFreqs, true);
    let keyword = text(RAW_TOKENIZER_NAME, IndexRecordOption::Basic, false);
    let names = text(TERMS, IndexRecordOption::Basic, false);
    let fields = Fields {
        chunk_high: builder.add_u64_field(CHUNK_HIGH, FAST),
        chunk_low: builder.add_u64_field(CHUNK_LOW, FAST),
        document: builder.add_text_field("document", keyword.clone()),
        language: builder.add_text_field("language", keyword),
        title: builder.add_text_field("title", prose.clone()),
        headings: builder.add_text_field("headings", prose.clone()),
        body: builder.add_text_field("body", prose),
        exact: builder.add_text_field("exact", names),
        facts: builder.add_bytes_field("facts", BytesOptions::from(INDEXED)),
        ranges: builder.add_json_field(RANGES, JsonObjectOptions::default().set_fast(RAW_TOKENIZER_NAME)),
        created_at: builder.add_i64_field(CREATED_AT, FAST),
        updated_at: builder.add_i64_field(UPDATED_AT, FAST),
    };
    (builder.build(), fields)
}

/// A chunk id as two column values.
pub(super) fn halves(id: ChunkId) -> (u64, u64) {
    let id = u128::from_be_bytes(id.0);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are wanted")]
    ((id >> 64) as u64, id as u64)
}

/// The chunk id of two column values.
pub(super) fn joined(high: u64, low: u64) -> ChunkId {
    ChunkId((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
}

/// Makes the engine's documents of one document's chunks.
pub(super) struct Composer<'a> {
    fields: Fields,
    document: &'a LexicalDocument,
    language: Language,
    stems: &'a mut StemCache,
    title: Terms,
}

impl<'a> Composer<'a> {
    /// Reads what all chunks have in common.
    pub(super) fn new(
        fields: Fields,
        document: &'a LexicalDocument,
        language: Language,
        stems: &'a mut StemCache,
    ) -> Self {
        let title = terms_of(document.title.as_deref().into_iter(), language, stems);
        Self { fields, document, language, stems, title }
    }

    /// The engine's document for one chunk.
    pub(super) fn compose(&mut self, chunk: &LexicalChunk) -> TantivyDocument {
        let Fields { chunk_high, chunk_low, .. } = self.fields;
        let mut composed = TantivyDocument::default();
        let (high, low) = halves(chunk.id);
        composed.add_u64(chunk_high, high);
        composed.add_u64(chunk_low, low);
        composed.add_text(self.fields.document, self.document.id.as_str());
        composed.add_text(self.fields.language, self.language.code());
        composed.add_i64(self.fields.created_at, self.document.created_at.0);
        composed.add_i64(self.fields.updated_at, self.document.updated_at.0);
        self.add_text(&mut composed, chunk);
        let Facts { terms, ranges } = facts_of(self.document, &chunk.metadata);
        for fact in terms {
            composed.add_bytes(self.fields.facts, &fact);
        }
        if !ranges.is_empty() {
            composed.add_object(self.fields.ranges, ranges);
        }
        composed
    }

    fn add_text(&mut self, composed: &mut TantivyDocument, chunk: &LexicalChunk) {
        let headings = chunk.heading_path.iter().map(String::as_str);
        let heading_terms = terms_of(headings.clone(), self.language, self.stems);
        let body = terms_of(std::iter::once(chunk.text.as_str()), self.language, self.stems);
        let texts = self.document.title.as_deref().into_iter().chain(headings).chain([chunk.text.as_str()]);
        for (field, terms) in [
            (self.fields.title, self.title.clone()),
            (self.fields.headings, heading_terms),
            (self.fields.body, body),
            (self.fields.exact, names_in(texts)),
        ] {
            if !terms.is_empty() {
                composed.add_text(field, terms.as_str());
            }
        }
    }
}

fn terms_of<'a>(texts: impl Iterator<Item = &'a str>, language: Language, stems: &mut StemCache) -> Terms {
    let mut terms = Terms::default();
    for text in texts {
        stems.for_each_term(text, language, |term| terms.push(term));
    }
    terms
}

fn names_in<'a>(texts: impl Iterator<Item = &'a str>) -> Terms {
    let mut names = Vec::new();
    for text in texts {
        for_each_identifier(text, |identifier| names.push(identifier.folded));
    }
    names.sort_unstable();
    names.dedup();
    let mut terms = Terms::default();
    names.iter().for_each(|name| terms.push(name));
    terms
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_chunk_id_survives_its_halves(bytes: [u8; 16]) {
            let (high, low) = halves(ChunkId(bytes));
            prop_assert_eq!(joined(high, low), ChunkId(bytes));
        }

        #[test]
        fn the_order_of_ids_is_the_order_of_their_halves(a: [u8; 16], b: [u8; 16]) {
            prop_assert_eq!(ChunkId(a).cmp(&ChunkId(b)), halves(ChunkId(a)).cmp(&halves(ChunkId(b))));
        }
    }
}
