//! One commit as searches see it: segments opened for reading, and the statistics that BM25 needs.
//!
//! A snapshot never changes. Statistics count removed chunks until their segment is merged, as in every engine of
//! this kind; whether a chunk is returned is decided by the set of live ones.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tantivy::directory::OwnedBytes;
use tantivy::index::InvertedIndexReader;
use tantivy::postings::{BlockSegmentPostings, TermInfo};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{Searcher, SegmentReader, TantivyError, Term};

use crate::domain::{ChunkId, Sequence};

use super::bits::Bits;
use super::facts::Fact;
use super::language::Language;
use super::schema::{CHUNK_HIGH, CHUNK_LOW, Fields, joined};

/// A language is common if one in so many chunks is written in it. Detectors take a few of a hundred short texts for
/// something exotic, and stemming in twenty languages would cost more than the search.
const COMMON_SHARE: u64 = 50;

/// The fields whose words are scored, in the order of [`TextIndex`] arrays.
pub(super) const TEXT_FIELD_COUNT: usize = 3;

/// A commit, opened.
pub(super) struct Snapshot {
    pub sequence: Sequence,
    pub live: u64,
    /// Chunks, removed ones included.
    pub total: u64,
    /// Mean length in terms of title, headings and body.
    pub mean_lengths: [f32; TEXT_FIELD_COUNT],
    /// Languages that documents are stemmed in, ascending.
    pub languages: Vec<Language>,
    /// Of these, the ones that more than a few chunks are written in.
    pub common_languages: Vec<Language>,
    pub segments: Vec<Segment>,
    /// Newest last.
    pub narrowed: Mutex<Vec<(String, Arc<Narrowed>)>>,
}

/// The chunks that pass a narrowing.
pub(super) struct Narrowed {
    /// One for each segment, live chunks only.
    pub docs: Vec<Bits>,
    /// The same as ids, made when first asked for.
    pub ids: OnceLock<Arc<HashSet<ChunkId>>>,
}

/// The words of one field in one segment.
pub(super) struct TextIndex {
    pub inverted: Arc<InvertedIndexReader>,
    field: Field,
    /// One byte for each document: its length, compressed.
    pub norms: OwnedBytes,
}

/// A segment, opened.
pub(super) struct Segment {
    pub reader: SegmentReader,
    /// Title, headings, body.
    pub texts: [TextIndex; TEXT_FIELD_COUNT],
    exact: Arc<InvertedIndexReader>,
    facts: Arc<InvertedIndexReader>,
    documents: Arc<InvertedIndexReader>,
    fields: Fields,
    /// By document number, in memory: every candidate is asked for its id.
    chunks: Arc<[ChunkId]>,
}

impl Snapshot {
    /// Opens what `searcher` sees, as of `sequence`. What `before` has read already is not read again.
    pub(super) fn open(
        searcher: &Searcher,
        fields: Fields,
        sequence: Sequence,
        before: Option<&Self>,
    ) -> Result<Self, TantivyError> {
        let known = before.map_or(&[][..], |before| &before.segments);
        let segments: Vec<Segment> = searcher
            .segment_readers()
            .iter()
            .map(|reader| Segment::open(reader, fields, known))
            .collect::<Result<_, TantivyError>>()?;
        let total = segments.iter().map(|segment| u64::from(segment.reader.max_doc())).sum();
        let mut counts: BTreeMap<Language, u64> = BTreeMap::new();
        for segment in &segments {
            for (language, chunks) in segment.languages()? {
                *counts.entry(language).or_default() += chunks;
            }
        }
        let is_common = |(_, chunks): &(&Language, &u64)| **chunks * COMMON_SHARE >= total;
        let common_languages = counts.iter().filter(is_common).map(|(language, _)| *language).collect();
        let languages = counts.into_keys().collect();
        let mean_length = |text: usize| {
            let tokens: u64 = segments.iter().map(|segment| segment.texts[text].inverted.total_num_tokens()).sum();
            tokens as f32 / (total as f32).max(1.0)
        };
        let mean_lengths = std::array::from_fn(mean_length);
        let live = searcher.num_docs();
        Ok(Self {
            sequence,
            live,
            total,
            mean_lengths,
            languages,
            common_languages,
            segments,
            narrowed: Mutex::default(),
        })
    }

    /// How many live chunks this document has.
    pub(super) fn chunks_of(&self, document: &str) -> Result<u64, TantivyError> {
        let mut chunks = 0;
        for segment in &self.segments {
            segment.for_each_of(document, |doc| chunks += u64::from(!segment.reader.is_deleted(doc)))?;
        }
        Ok(chunks)
    }
}

impl Segment {
    fn open(reader: &SegmentReader, fields: Fields, known: &[Self]) -> Result<Self, TantivyError> {
        let text = |field: Field| -> Result<TextIndex, TantivyError> {
            let norms = reader.fieldnorms_readers().get_inner_file().open_read(field);
            let norms = norms.ok_or_else(|| TantivyError::SchemaError("a text field has no lengths".to_owned()))?;
            Ok(TextIndex { inverted: reader.inverted_index(field)?, field, norms: norms.read_bytes()? })
        };
        Ok(Self {
            texts: [text(fields.title)?, text(fields.headings)?, text(fields.body)?],
            exact: reader.inverted_index(fields.exact)?,
            facts: reader.inverted_index(fields.facts)?,
            documents: reader.inverted_index(fields.document)?,
            // Segments never change but for which of their documents are alive.
            chunks: match known.iter().find(|segment| segment.reader.segment_id() == reader.segment_id()) {
                Some(segment) => Arc::clone(&segment.chunks),
                None => read_chunks(reader)?,
            },
            reader: reader.clone(),
            fields,
        })
    }

    /// The chunk of a document number.
    pub(super) fn chunk(&self, doc: u32) -> ChunkId {
        self.chunks[doc as usize]
    }

    /// Where the postings of an identifier are.
    pub(super) fn exact_term(&self, folded: &str) -> Result<Option<TermInfo>, TantivyError> {
        Ok(self.exact.get_term_info(&Term::from_field_text(self.fields.exact, folded))?)
    }

    pub(super) fn exact_postings(&self, info: &TermInfo) -> Result<BlockSegmentPostings, TantivyError> {
        Ok(self.exact.read_block_postings_from_terminfo(info, IndexRecordOption::Basic)?)
    }

    /// Documents a fact is true of, removed ones included.
    pub(super) fn having(&self, fact: &Fact) -> Result<Bits, TantivyError> {
        let mut docs = Bits::none(self.reader.max_doc());
        let term = Term::from_field_bytes(self.fields.facts, fact);
        if let Some(postings) = self.facts.read_block_postings(&term, IndexRecordOption::Basic)? {
            for_each_doc(postings, |doc| docs.insert(doc));
        }
        Ok(docs)
    }

    /// Calls `each` with the engine's documents of one document, removed ones included.
    pub(super) fn for_each_of(&self, document: &str, each: impl FnMut(u32)) -> Result<(), TantivyError> {
        let term = Term::from_field_text(self.fields.document, document);
        if let Some(postings) = self.documents.read_block_postings(&term, IndexRecordOption::Basic)? {
            for_each_doc(postings, each);
        }
        Ok(())
    }

    /// Live documents.
    pub(super) fn alive(&self) -> Bits {
        let len = self.reader.max_doc();
        match self.reader.alive_bitset() {
            None => Bits::all(len),
            Some(alive) => {
                let mut docs = Bits::none(len);
                alive.iter_alive().for_each(|doc| docs.insert(doc));
                docs
            }
        }
    }

    /// Every language with its number of chunks, removed ones included.
    fn languages(&self) -> Result<Vec<(Language, u64)>, TantivyError> {
        let mut languages = Vec::new();
        let inverted = self.reader.inverted_index(self.fields.language)?;
        let mut codes = inverted.terms().stream()?;
        while codes.advance() {
            let language = Language::of(std::str::from_utf8(codes.key()).unwrap_or_default());
            languages.push((language, u64::from(codes.value().doc_freq)));
        }
        Ok(languages)
    }
}

impl TextIndex {
    pub(super) fn term(&self, term: &str) -> Result<Option<TermInfo>, TantivyError> {
        Ok(self.inverted.get_term_info(&Term::from_field_text(self.field, term))?)
    }

    pub(super) fn postings(&self, info: &TermInfo) -> Result<BlockSegmentPostings, TantivyError> {
        Ok(self.inverted.read_block_postings_from_terminfo(info, IndexRecordOption::WithFreqs)?)
    }
}

fn read_chunks(reader: &SegmentReader) -> Result<Arc<[ChunkId]>, TantivyError> {
    let column = |name: &str| -> Result<Vec<u64>, TantivyError> {
        let mut values = vec![0; reader.max_doc() as usize];
        reader.fast_fields().u64(name)?.first_or_default_col(0).get_range(0, &mut values);
        Ok(values)
    };
    let (high, low) = (column(CHUNK_HIGH)?, column(CHUNK_LOW)?);
    Ok(high.into_iter().zip(low).map(|(high, low)| joined(high, low)).collect())
}

fn for_each_doc(mut postings: BlockSegmentPostings, mut each: impl FnMut(u32)) {
    while !postings.docs().is_empty() {
        postings.docs().iter().for_each(|doc| each(*doc));
        postings.advance();
    }
}
