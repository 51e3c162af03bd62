//! Small documents whose chunks, hashes and vectors follow from their text, so that tests can say what they expect.

use std::collections::HashMap;

use half::f16;

use crate::domain::{
    AnalyzerSpec, ByteSpan, Chunk, ChunkId, ChunkOwner, ChunkerSpec, Collection, CollectionName, ContentHash,
    ContextSpec, DocumentHead, DocumentId, EmbeddedChunk, EmbedderSpec, GenerationId, Heading, Metadata, Outline,
    Principal, Profile, Sequence, TenantId, TenantScope, Visibility,
};
use crate::store::{
    BuildDocument, CaseStore, CorpusStore, DocumentWrite, Erasure, GenerationStore, Ledger, OperationLog, PutDocument,
    TaskQueue, TaskStore, WriteOutcome,
};

pub(crate) const DIMENSIONS: usize = 4;

/// A store under test.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub corpus: &'a dyn CorpusStore,
    pub log: &'a dyn OperationLog,
    pub ledger: &'a dyn Ledger,
    pub tasks: &'a dyn TaskStore,
    pub queue: &'a dyn TaskQueue,
    pub generations: &'a dyn GenerationStore,
    pub cases: &'a dyn CaseStore,
    pub erasure: &'a dyn Erasure,
}

pub(crate) fn scope(tenant: &str) -> TenantScope {
    TenantScope::everything(TenantId::new(tenant).unwrap())
}

/// The scope of somebody who may see what everyone may, and what names one of `principals`.
pub(crate) fn reader(tenant: &str, principals: &[&str]) -> TenantScope {
    let principals = principals.iter().map(|name| Principal::new(name).unwrap()).collect();
    TenantScope { visibility: Visibility::Principals(principals), ..scope(tenant) }
}

pub(crate) fn collection_name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

pub(crate) fn document_id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

pub(crate) fn profile() -> Profile {
    Profile {
        chunker: ChunkerSpec { name: "paragraphs".into(), version: 1, params: [("max".into(), "9".into())].into() },
        embedder: Some(EmbedderSpec { name: "test".into(), revision: "1".into(), dimensions: DIMENSIONS }),
        analyzer: AnalyzerSpec { name: "plain".into(), version: 1, language: "en".into() },
        context: ContextSpec::default(),
    }
}

/// A paragraph of about a hundred bytes, with characters of every length in UTF-8.
pub(crate) fn paragraph(number: usize) -> String {
    format!("Paragraph {number} is öf some lenğth – {}. ", "wörds 😀 ".repeat(3 + number % 5))
}

/// How a document is to be put.
#[derive(Debug, Clone)]
pub(crate) struct Ingest {
    pub collection: CollectionName,
    pub document: DocumentId,
    pub paragraphs: Vec<String>,
    pub title: Option<String>,
    pub acl: Option<Vec<Principal>>,
    pub metadata: Metadata,
    pub embedded: Embedded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Embedded {
    Yes,
    No,
}

impl Ingest {
    /// One chunk per paragraph, embedded, visible to everyone.
    pub(crate) fn new(collection: &str, document: &str, paragraphs: &[usize]) -> Self {
        Self {
            collection: collection_name(collection),
            document: document_id(document),
            paragraphs: paragraphs.iter().map(|number| paragraph(*number)).collect(),
            title: None,
            acl: None,
            metadata: Metadata::new(),
            embedded: Embedded::Yes,
        }
    }

    pub(crate) fn title(mut self, title: &str) -> Self {
        self.title = Some(title.to_owned());
        self
    }

    pub(crate) fn acl(mut self, principals: &[&str]) -> Self {
        self.acl = Some(principals.iter().map(|name| Principal::new(name).unwrap()).collect());
        self
    }

    pub(crate) fn metadata(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    pub(crate) fn without_embeddings(mut self) -> Self {
        self.embedded = Embedded::No;
        self
    }

    pub(crate) fn text(&self) -> String {
        self.paragraphs.concat()
    }

    /// The ids that the chunks get in this tenant, in order.
    pub(crate) fn chunk_ids(&self, tenant: &TenantId) -> Vec<ChunkId> {
        let owner = ChunkOwner { tenant, collection: &self.collection, document: &self.document };
        let mut seen: HashMap<&str, u32> = HashMap::new();
        let id =
            |text: &str, occurrence: u32| ChunkId::derive(&owner, profile().chunker.fingerprint(), text, occurrence);
        let mut ids = Vec::new();
        for text in &self.paragraphs {
            let occurrence = seen.entry(text).or_default();
            ids.push(id(text, *occurrence));
            *occurrence += 1;
        }
        ids
    }

    /// What was embedded, or would be, for a paragraph.
    pub(crate) fn input_hash(&self, text: &str) -> ContentHash {
        ContentHash::of(format!("{}\n{text}", self.title.as_deref().unwrap_or("")).as_bytes())
    }

    pub(crate) fn put(&self, scope: &TenantScope, collection: &Collection) -> PutDocument {
        let ids = self.chunk_ids(&scope.tenant);
        let mut start = 0;
        let chunk = |(ordinal, text): (usize, &String)| {
            let span = ByteSpan::new(start, start + text.len());
            start = span.end;
            let chunk = Chunk {
                id: ids[ordinal],
                ordinal: ordinal as u32,
                span,
                text: text.clone(),
                heading_path: if ordinal == 0 { Vec::new() } else { vec!["Top".into(), format!("H{ordinal}")] },
                token_count: text.len() as u32 / 4,
                page: (ordinal > 0).then_some(ordinal as u32),
                metadata: None,
                context: None,
            };
            let input_hash = self.input_hash(text);
            let embedding = (self.embedded == Embedded::Yes).then(|| vector(input_hash));
            EmbeddedChunk { chunk, input_hash, embedding }
        };
        let chunks = self.paragraphs.iter().enumerate().map(chunk).collect();
        let head = DocumentHead {
            id: self.document.clone(),
            collection: self.collection.clone(),
            title: self.title.clone(),
            source_uri: Some(format!("file:///{}", self.document)),
            media_type: "text/plain".into(),
            metadata: self.metadata.clone(),
            acl: self.acl.clone(),
        };
        let text = self.text();
        PutDocument {
            content_hash: ContentHash::of(text.as_bytes()),
            head_hash: ContentHash::of(format!("{head:?}").as_bytes()),
            head,
            text,
            outline: Outline {
                headings: vec![Heading { level: 1, title: "Top".into(), span: ByteSpan::new(0, 0) }],
                page_starts: vec![0],
            },
            chunks,
            chunker: None,
            generation: collection.live.id,
        }
    }
}

/// What is embedded for a paragraph in a generation that is built beside the live one.
pub(crate) fn input_in(generation: GenerationId, text: &str) -> ContentHash {
    ContentHash::of(format!("{generation}\n{text}").as_bytes())
}

/// A vector that follows from what was embedded.
pub(crate) fn vector(input: ContentHash) -> Vec<f16> {
    input.0[..DIMENSIONS].iter().map(|byte| f16::from_f32(f32::from(*byte) / 256.0)).collect()
}

impl Ingest {
    /// The same chunks in another generation, with vectors of their own.
    pub(crate) fn build(
        &self,
        scope: &TenantScope,
        collection: &Collection,
        generation: GenerationId,
        seen: Sequence,
    ) -> BuildDocument {
        let PutDocument { mut chunks, .. } = self.put(scope, collection);
        for item in &mut chunks {
            item.input_hash = input_in(generation, &item.chunk.text);
            item.embedding = Some(vector(item.input_hash));
        }
        let (collection, document) = (self.collection.clone(), self.document.clone());
        BuildDocument { collection, document, generation, seen, chunks, chunker: None }
    }
}

impl Subject<'_> {
    /// The collection with [`profile`].
    pub(crate) async fn open(&self, scope: &TenantScope, name: &str) -> Collection {
        self.corpus.open_collection(scope, &collection_name(name), &profile()).await.unwrap()
    }

    /// Puts one document and returns what became of it.
    pub(crate) async fn put(&self, scope: &TenantScope, ingest: &Ingest) -> WriteOutcome {
        let collection = self.open(scope, ingest.collection.as_str()).await;
        self.write_one(scope, DocumentWrite::Put(Box::new(ingest.put(scope, &collection)))).await
    }

    pub(crate) async fn delete(&self, scope: &TenantScope, collection: &str, document: &str) -> WriteOutcome {
        let (collection, document) = (collection_name(collection), document_id(document));
        self.write_one(scope, DocumentWrite::Delete { collection, document }).await
    }

    pub(crate) async fn write_one(&self, scope: &TenantScope, write: DocumentWrite) -> WriteOutcome {
        let mut outcomes = self.corpus.write(scope, vec![write]).await.unwrap();
        assert_eq!(outcomes.len(), 1);
        outcomes.remove(0)
    }
}

/// The version and sequence of something that was written.
#[track_caller]
pub(crate) fn written(outcome: &WriteOutcome) -> (u64, u64) {
    match outcome {
        WriteOutcome::Written { version, sequence } => (*version, sequence.0),
        other => panic!("not written: {other:?}"),
    }
}
