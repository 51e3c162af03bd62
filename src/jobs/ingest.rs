//! `ingest`: documents taken in one by one, each a checkpoint. One that is not acceptable stops no other.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::domain::{
    CollectionName, ContentHash, DocumentId, ErrorKind, JsonText, Permission, Principal, Sequence, Task, TaskKind,
    TaskProblem, TenantScope,
};
use crate::ingest::{IncomingBody, IncomingDocument, IngestOutcome, IngestStatus, Ingestor};
use crate::search::DEFAULT_COLLECTION;
use crate::store::{EarlierWrote, TaskStore};
use crate::tasks::{JobHandler, Prepared, TaskError, Work};

use super::fault::{not_json, of_ingest, permit};
use super::input::{Faults, read_value};
use super::settings::JobSettings;

const KIND: &str = "ingest";

/// See the module.
pub(super) struct IngestJob {
    pub ingestor: Arc<Ingestor>,
    pub tasks: Arc<dyn TaskStore>,
    pub settings: Arc<JobSettings>,
}

/// The input as the caller writes it; each document is read for itself.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct IngestRequest {
    collection: Option<CollectionName>,
    documents: Vec<Value>,
}

/// The input as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct IngestInput {
    documents: Vec<DocumentInput>,
    /// Of each document, the newest operation on it when the task was asked for.
    seen: Vec<Option<Sequence>>,
}

/// A document with its text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DocumentInput {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<DocumentId>,
    /// The task's, if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    collection: Option<CollectionName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_uri: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acl: Option<Vec<Principal>>,
}

/// What an item is recorded with: which document it is, not its text.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ItemInput {
    document: usize,
    id: DocumentId,
    text_hash: ContentHash,
}

/// What became of a document.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Taken {
    status: String,
    version: Option<u64>,
    content_hash: Option<ContentHash>,
    sequence: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    degraded: Vec<String>,
}

/// Why documents cannot become the input of a task.
#[derive(Debug, thiserror::Error)]
pub enum NotAsWork {
    #[error("document {index} is no text; only documents whose text is JSON or plain text can be taken in later")]
    NotText { index: usize },
    #[error("document {index} cannot be written as JSON")]
    NotJson {
        index: usize,
        #[source]
        source: serde_json::Error,
    },
}

/// The input of a task that takes these documents in.
pub fn ingest_input(documents: &[IncomingDocument]) -> Result<JsonText, NotAsWork> {
    let mut written = Vec::with_capacity(documents.len());
    for (index, document) in documents.iter().enumerate() {
        let IncomingBody::Text(text) = &document.body else { return Err(NotAsWork::NotText { index }) };
        let input = DocumentInput {
            id: document.id.clone(),
            collection: Some(document.collection.clone()),
            title: document.title.clone(),
            text: Some(text.clone()),
            media_type: document.media_type.clone(),
            source_uri: document.source_uri.clone(),
            metadata: document.metadata.clone(),
            acl: document.acl.clone(),
        };
        written.push(serde_json::to_value(input).map_err(|source| NotAsWork::NotJson { index, source })?);
    }
    Ok(JsonText::of_value(&json!({"documents": written})))
}

impl DocumentInput {
    fn incoming(&self) -> IncomingDocument {
        let default = || CollectionName::new(DEFAULT_COLLECTION).expect("a plain word is a valid name");
        IncomingDocument {
            id: self.id.clone(),
            collection: self.collection.clone().unwrap_or_else(default),
            title: self.title.clone(),
            source_uri: self.source_uri.clone(),
            media_type: self.media_type.clone(),
            body: IncomingBody::Text(self.text.clone().unwrap_or_default()),
            metadata: self.metadata.clone(),
            acl: self.acl.clone(),
        }
    }
}

/// The documents of an input with their ids and collections written out.
fn check(input: &JsonText, limit: usize) -> Result<Vec<DocumentInput>, TaskError> {
    let mut faults = Faults::default();
    let value: Value = input.read().map_err(|error| TaskError::invalid(vec![(String::new(), error.to_string())]))?;
    let request: Option<IngestRequest> = read_value(value, "", &mut faults);
    let IngestRequest { collection, documents } = request.unwrap_or_default();
    if faults.0.is_empty() {
        faults.check_range("/documents", documents.len() as u64, limit as u64);
    }
    faults.check()?;
    let mut faults = Faults::default();
    let mut seen = BTreeMap::new();
    let mut checked = Vec::with_capacity(documents.len());
    for (index, document) in documents.into_iter().enumerate() {
        let at = format!("/documents/{index}");
        let Some(mut document) = read_value::<DocumentInput>(document, &at, &mut faults) else { continue };
        if document.text.is_none() {
            faults.add(format!("{at}/text"), "is required");
            continue;
        }
        document.collection = document.collection.or_else(|| collection.clone());
        let incoming = document.incoming();
        let id = incoming.document_id();
        document.collection = Some(incoming.collection.clone());
        if let Some(first) = seen.insert((incoming.collection, id.clone()), index) {
            faults.add(format!("{at}/id"), format!("is the id of document {first} already: {:?}", id.as_str()));
        }
        document.id = Some(id);
        checked.push(document);
    }
    faults.check()?;
    Ok(checked)
}

#[async_trait]
impl JobHandler for IngestJob {
    fn kind(&self) -> TaskKind {
        TaskKind::new(KIND).expect("a plain word is a valid name")
    }

    fn permission(&self) -> Permission {
        Permission::Write
    }

    async fn prepare(&self, scope: &TenantScope, input: JsonText, _: Option<String>) -> Result<Prepared, TaskError> {
        permit(scope, Permission::Write, KIND)?;
        let documents = check(&input, self.settings.max_ingest_documents)?;
        let mut seen = Vec::with_capacity(documents.len());
        for document in &documents {
            let incoming = document.incoming();
            let newest = self.ingestor.newest(scope, &incoming.collection, &incoming.document_id()).await;
            seen.push(newest.map_err(of_ingest)?);
        }
        Ok(Prepared {
            // What was seen of the documents is part of the input, so that the same content sent again after another one
            // is other work.
            context: ContentHash::of(KIND.as_bytes()),
            prompt: None,
            model: None,
            total: Some(documents.len() as u64),
            input: JsonText::of(&IngestInput { documents, seen }).map_err(not_json)?,
        })
    }

    async fn run(&self, work: &Work) -> Result<JsonText, TaskError> {
        let IngestInput { documents, seen } = work.input()?;
        let items: Vec<ItemInput> = documents.iter().enumerate().map(|(place, one)| item_input(place, one)).collect();
        let (documents, seen, scope) = (&documents, &seen, &work.task().scope);
        let put = |item: ItemInput, _| async move {
            let document = documents.get(item.document).ok_or_else(|| of_item("there is no such document"))?;
            let incoming = document.incoming();
            let seen = self.seen_now(work.task(), &incoming, seen.get(item.document).copied().flatten()).await?;
            let put = self.ingestor.put_unless_newer(scope, incoming, seen).await;
            taken(put.map_err(of_ingest)?)
        };
        let outcomes = work.fan_out("ingest", &items, put).await?;
        Ok(JsonText::of_value(&result(&items, outcomes)))
    }
}

impl IngestJob {
    /// What was seen of the document when the task was asked for, or what a task asked for before it has made of it since:
    /// tasks are done side by side, and what was sent last must stand last.
    async fn seen_now(
        &self,
        task: &Task,
        document: &IncomingDocument,
        seen: Option<Sequence>,
    ) -> Result<Option<Sequence>, TaskError> {
        let found = self.ingestor.newest(&task.scope, &document.collection, &document.document_id()).await;
        let Some(found) = found.map_err(of_ingest)?.filter(|found| Some(*found) != seen) else { return Ok(seen) };
        match self.tasks.earlier_wrote(task, found).await? {
            EarlierWrote::Yes => Ok(Some(found)),
            EarlierWrote::No => Ok(seen),
            EarlierWrote::Perhaps => {
                let detail = "the document was changed, perhaps by an earlier task that is still running";
                Err(TaskError::failed(ErrorKind::Unavailable, detail))
            }
        }
    }
}

fn item_input(document: usize, input: &DocumentInput) -> ItemInput {
    let text_hash = ContentHash::of(input.text.as_deref().unwrap_or_default().as_bytes());
    ItemInput { document, id: input.incoming().document_id(), text_hash }
}

fn of_item(detail: &str) -> TaskError {
    TaskError::failed(ErrorKind::Internal, detail)
}

fn taken(outcome: IngestOutcome) -> Result<Taken, TaskError> {
    if let Some(error) = outcome.error {
        return Err(TaskError::failed(error.kind(), error.to_string()));
    }
    let status = match outcome.status {
        IngestStatus::Accepted => "accepted",
        IngestStatus::Unchanged => "unchanged",
        IngestStatus::Failed => return Err(of_item("the document could not be taken in")),
    };
    Ok(Taken {
        status: status.to_owned(),
        version: outcome.version,
        content_hash: outcome.content_hash,
        sequence: outcome.sequence.map(|sequence| sequence.0),
        degraded: outcome.degraded.iter().map(ToString::to_string).collect(),
    })
}

fn result(items: &[ItemInput], outcomes: Vec<Result<Taken, TaskProblem>>) -> Value {
    let count = |status: &str| {
        let same = |outcome: &&Result<Taken, TaskProblem>| matches!(outcome, Ok(taken) if taken.status == status);
        outcomes.iter().filter(same).count()
    };
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let sequence = outcomes.iter().flatten().filter_map(|taken| taken.sequence).max();
    let documents = items.iter().zip(&outcomes).map(|(item, outcome)| match outcome {
        Ok(taken) => json!({"id": item.id, "status": taken.status, "version": taken.version,
            "content_hash": taken.content_hash, "degraded": taken.degraded}),
        Err(problem) => json!({"id": item.id, "status": "failed", "version": null, "content_hash": null,
            "error": {"kind": problem.kind.as_str(), "detail": problem.detail}}),
    });
    json!({"accepted": count("accepted"), "unchanged": count("unchanged"), "failed": failed, "sequence": sequence,
        "documents": documents.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::jobs::input::tests::pointers;

    fn checked(json: Value) -> Result<Vec<DocumentInput>, Vec<String>> {
        check(&JsonText::of_value(&json), 3).map_err(|error| pointers(&error))
    }

    #[test]
    fn every_document_is_read_and_every_fault_told() {
        let faults = checked(json!({"documents": [{"id": "a", "text": "x"}, {"idd": "b"}, {"id": "a", "text": "y"}]}));

        assert_eq!(faults.unwrap_err(), ["/documents/1/idd", "/documents/2/id"]);
        assert_eq!(checked(json!({"documents": [{"id": "b"}]})).unwrap_err(), ["/documents/0/text"]);
        assert_eq!(checked(json!({"documents": []})).unwrap_err(), ["/documents"]);
        assert_eq!(checked(json!({"document": [], "documents": 1})).unwrap_err().len(), 2);
        let same = json!({"text": "same"});
        assert_eq!(checked(json!({"documents": [same, same]})).unwrap_err(), ["/documents/1/id"], "one content");
    }

    #[test]
    fn what_is_left_out_is_written_out() {
        let documents =
            checked(json!({"collection": "books", "documents": [{"text": "x"}, {"text": "x", "collection": "b"}]}));

        let documents = documents.unwrap();
        assert!(documents.iter().all(|document| document.id.as_ref().unwrap().as_str().starts_with("doc_")));
        let collections: Vec<_> = documents.iter().map(|one| one.collection.as_ref().unwrap().as_str()).collect();
        assert_eq!(collections, ["books", "b"]);
    }

    #[test]
    fn documents_of_a_request_become_the_input_of_a_task_and_back() {
        let document = DocumentInput {
            id: Some(DocumentId::new("a").unwrap()),
            text: Some("words".to_owned()),
            title: Some("T".to_owned()),
            metadata: [("year".to_owned(), json!(2026))].into_iter().collect(),
            acl: Some(vec![Principal::new("group:eng").unwrap()]),
            ..DocumentInput::default()
        }
        .incoming();
        let bytes = IncomingDocument { body: IncomingBody::Bytes(Bytes::from_static(b"%PDF")), ..document.clone() };

        let input = ingest_input(std::slice::from_ref(&document)).unwrap();

        let read: Vec<IncomingDocument> = check(&input, 3).unwrap().iter().map(DocumentInput::incoming).collect();
        assert_eq!(read, std::slice::from_ref(&document));
        assert!(matches!(ingest_input(&[document, bytes]), Err(NotAsWork::NotText { index: 1 })));
    }
}
