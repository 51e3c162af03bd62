//! Documents in and out.

use std::collections::HashSet;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::unfold;
use futures::{Stream, StreamExt};
use serde_json::value::RawValue;

use crate::domain::{CollectionName, DocumentId, Principal};
use crate::http::access::Call;
use crate::http::body::{
    BodyBound, JSON, declared_type, media_type, read_body, read_object_of, refuse_encoding, unsupported,
};
use crate::http::intake::{Item, Reached, Refused, Wait, reached, take};
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::problem::{FieldError, Problem, ProblemKind};
use crate::http::state::AppState;
use crate::http::wire::{DocumentInput, DocumentsInput, IngestBody, IngestedBody, metadata_of};
use crate::http::{forms, later, ndjson};
use crate::ingest::{IncomingBody, IncomingDocument};

use super::documents::document_id;
use super::search::collection_param;

const NDJSON: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
const FORM: &str = "multipart/form-data";

/// Put a document
///
/// Stores a document under an id, as JSON or as a raw body of another media type (then title, metadata and the like
/// are parameters). The same content and description again is `unchanged` and costs nothing.
#[utoipa::path(put, path = "/documents/{document_id}", tag = "documents",
    params(
        ("document_id" = String, Path, description = "Percent-encoded, slashes too"),
        ("wait" = Option<String>, Query, description = "`indexed`: answer when the document is searchable"),
        ("prefer" = Option<String>, Header,
            description = "`respond-async`: take it as a task, and answer with its `task_id` at once"),
        ("collection" = Option<String>, Query, description = "`default` if left out"),
        ("title" = Option<String>, Query, description = "With a raw body"),
        ("source_uri" = Option<String>, Query, description = "With a raw body"),
        ("metadata" = Option<String>, Query, description = "With a raw body: a JSON object"),
        ("acl" = Option<Vec<String>>, Query, description = "With a raw body: a principal; may be repeated"),
    ),
    request_body(content((DocumentInput = "application/json"), (String = "text/plain"), (String = "text/markdown"),
        (String = "text/html"))),
    responses(
        (status = 200, description = "Durable and searchable (`wait=indexed`)", body = IngestBody),
        (status = 202, description = "Durable; searchable soon", body = IngestBody),
        Problems),
    security(("key" = [])))]
pub(in crate::http) async fn put_document(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let id = document_id(&id)?;
    let (parts, body) = request.into_parts();
    let mut params = Params::read(parts.uri.query());
    let wait = wait_param(&mut params);
    let collection = collection_param(&mut params);
    let found = media_type(&parts.headers);
    let document = if found.as_deref() == Some(JSON) {
        params.finish()?;
        let bytes = read_body(&parts.headers, body, json_bound(&app)).await?;
        from_json(&app, id, collection, bytes).await?
    } else {
        let head = raw_head(&app, id, collection, params, &parts.headers)?;
        let max_bytes = app.settings.max_document_body_bytes;
        let bound = BodyBound { what: "a document", max_bytes, ..json_bound(&app) };
        IncomingDocument { body: IncomingBody::Bytes(read_body(&parts.headers, body, bound).await?), ..head }
    };
    let scope = call.caller.scope();
    if later::is_preferred(&parts.headers) {
        return later::take_later(&app, call.trace(), &scope, vec![text_of(document)?]).await;
    }
    let outcome = app.services.ingest.put(&scope, document).await?;
    if let Some(error) = &outcome.error {
        return Err(error.into());
    }
    let mut answer = IngestBody::new(call.trace());
    answer.count(&outcome);
    answer.documents.push(IngestedBody::new(&outcome, None));
    let reached = reached(&app, &scope, answer.sequence, wait).await;
    Ok((status(reached), Json(answer)).into_response())
}

/// Post documents
///
/// Takes many documents: as JSON, as NDJSON (one a line, of any length, taken while it comes in), or as files of a
/// form (`multipart/form-data`; the file name becomes the id). One that is not acceptable does not harm the others.
/// Lines of NDJSON are taken in order: of two with the same id the later one stands. In a JSON batch an id may occur
/// once.
#[utoipa::path(post, path = "/documents", tag = "documents",
    params(
        ("wait" = Option<String>, Query, description = "`indexed`: answer when the documents are searchable"),
        ("prefer" = Option<String>, Header,
            description = "`respond-async`, with JSON: take them as a task, and answer with its `task_id` at once"),
        ("collection" = Option<String>, Query, description = "For documents that name none; `default` if left out"),
    ),
    request_body(content((DocumentsInput = "application/json"), (String = "application/x-ndjson"),
        (String = "multipart/form-data"))),
    responses(
        (status = 200, description = "Durable and searchable (`wait=indexed`)", body = IngestBody),
        (status = 202, description = "Durable; searchable soon", body = IngestBody),
        Problems),
    security(("key" = [])))]
pub(in crate::http) async fn post_documents(
    State(app): State<AppState>,
    call: Call,
    request: Request,
) -> Result<Response, Problem> {
    let mut params = Params::read(request.uri().query());
    let wait = wait_param(&mut params);
    let collection = collection_param(&mut params).unwrap_or_else(|| app.default_collection.clone());
    params.finish()?;
    let scope = call.caller.scope();
    let answer = IngestBody::new(call.trace());
    refuse_encoding(request.headers())?;
    let found = media_type(request.headers());
    let answer = match found.as_deref() {
        Some(JSON) if later::is_preferred(request.headers()) => {
            let documents = all_or_none(batch(&app, request, collection).await?).await?;
            return later::take_later(&app, call.trace(), &scope, documents).await;
        }
        Some(JSON) => take(&app, &scope, answer, batch(&app, request, collection).await?).await?,
        Some(FORM) => take(&app, &scope, answer, forms::documents(request, &app.settings, collection).await?).await?,
        Some(found) if NDJSON.contains(&found) => {
            let lines = ndjson::documents(request.into_body(), &app.settings, collection, app.stopping.clone());
            take(&app, &scope, answer, lines).await?
        }
        found => return Err(unsupported(found, &[JSON, NDJSON[0], FORM])),
    };
    let reached = reached(&app, &scope, answer.sequence, wait).await;
    Ok((status(reached), Json(answer)).into_response())
}

/// All documents of a batch, or the faults of all that are none: a task is not begun on half of what was asked.
async fn all_or_none(
    items: impl Stream<Item = Result<Item, Problem>> + Send,
) -> Result<Vec<IncomingDocument>, Problem> {
    let (mut documents, mut faults) = (Vec::new(), Vec::new());
    let mut items = std::pin::pin!(items);
    while let Some(item) = items.next().await {
        match item?.document {
            Ok(document) => documents.push(document),
            Err(refused) => faults.extend(refused.problem.errors),
        }
    }
    if faults.is_empty() { Ok(documents) } else { Err(Problem::fields(faults)) }
}

/// With its body as text; what is no UTF-8 cannot wait as JSON.
fn text_of(document: IncomingDocument) -> Result<IncomingDocument, Problem> {
    let IncomingBody::Bytes(bytes) = &document.body else { return Ok(document) };
    let text = std::str::from_utf8(bytes).map_err(|_| {
        let detail = "the body is not UTF-8; send it without Prefer: respond-async";
        Problem::new(ProblemKind::Unprocessable, detail)
    })?;
    Ok(IncomingDocument { body: IncomingBody::Text(text.to_owned()), ..document })
}

fn status(reached: Reached) -> StatusCode {
    match reached {
        Reached::Durable => StatusCode::ACCEPTED,
        Reached::Indexed => StatusCode::OK,
    }
}

fn wait_param(params: &mut Params) -> Wait {
    match params.text("wait").as_deref() {
        None => Wait::Durable,
        Some("indexed") => Wait::Indexed,
        Some(_) => {
            params.refuse("wait", "must be indexed");
            Wait::Durable
        }
    }
}

fn json_bound(app: &AppState) -> BodyBound {
    let max_bytes = app.settings.max_json_body_bytes;
    BodyBound { what: "the body", max_bytes, idle: app.settings.body_idle_timeout() }
}

async fn from_json(
    app: &AppState,
    id: DocumentId,
    collection: Option<CollectionName>,
    bytes: bytes::Bytes,
) -> Result<IncomingDocument, Problem> {
    let mut input: DocumentInput = read_object_of(bytes).await?;
    let fault = |field: &str, detail: &str| Problem::fields(vec![FieldError::new(field, detail)]);
    if input.id.as_ref().is_some_and(|inner| *inner != id) {
        return Err(fault("/id", "differs from the id in the path; leave it out"));
    }
    if let (Some(outer), Some(inner)) = (&collection, &input.collection)
        && outer != inner
    {
        return Err(fault("/collection", "differs from the parameter collection; give one of them"));
    }
    input.id = Some(id);
    input.into_incoming(collection.as_ref().unwrap_or(&app.default_collection), "")
}

// Everything but the content: checked before the body is read.
fn raw_head(
    app: &AppState,
    id: DocumentId,
    collection: Option<CollectionName>,
    mut params: Params,
    headers: &HeaderMap,
) -> Result<IncomingDocument, Problem> {
    let found = media_type(headers);
    let supported = app.services.ingest.media_types();
    if !found.as_deref().is_some_and(|found| supported.contains(&found)) {
        let listed: Vec<&str> = [JSON].iter().chain(supported).copied().collect();
        return Err(unsupported(found.as_deref(), &listed));
    }
    let metadata = params
        .text("metadata")
        .and_then(|text| metadata_of(&text).map_err(|detail| params.refuse("metadata", detail)).ok());
    let (title, source_uri) = (params.text("title"), params.text("source_uri"));
    let mut acl = Vec::new();
    for name in params.all("acl") {
        match Principal::new(&name) {
            Ok(principal) => acl.push(principal),
            Err(error) => params.refuse("acl", error.to_string()),
        }
    }
    params.finish()?;
    Ok(IncomingDocument {
        id: Some(id),
        collection: collection.unwrap_or_else(|| app.default_collection.clone()),
        title,
        source_uri,
        media_type: declared_type(headers),
        metadata: metadata.unwrap_or_default(),
        acl: (!acl.is_empty()).then_some(acl),
        body: IncomingBody::Text(String::new()),
    })
}

async fn batch(
    app: &AppState,
    request: Request,
    collection: CollectionName,
) -> Result<impl Stream<Item = Result<Item, Problem>> + Send + use<>, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = read_body(&parts.headers, body, json_bound(app)).await?;
    let batch: DocumentsInput = read_object_of(bytes).await?;
    let (count, limit) = (batch.documents.len(), app.settings.max_batch_documents);
    if count == 0 || count > limit {
        let detail =
            format!("holds {count} documents, from 1 to {limit} are allowed; application/x-ndjson has no limit");
        return Err(Problem::fields(vec![FieldError::new("/documents", detail)]));
    }
    let taken = HashSet::new();
    let documents = batch.documents.into_iter().enumerate();
    Ok(unfold((documents, taken, collection), |(mut documents, mut taken, collection)| async move {
        let (index, raw) = documents.next()?;
        let document = one_of_batch(index, raw, &collection, &mut taken).await;
        Some((Ok(Item { line: None, document }), (documents, taken, collection)))
    }))
}

async fn one_of_batch(
    index: usize,
    raw: Box<RawValue>,
    collection: &CollectionName,
    taken: &mut HashSet<(CollectionName, DocumentId)>,
) -> Result<IncomingDocument, Refused> {
    let at = format!("/documents/{index}");
    let bytes = Bytes::from(String::from(Box::<str>::from(raw)));
    let input: DocumentInput =
        read_object_of(bytes).await.map_err(|problem| Refused { id: None, problem: problem.inside(&at) })?;
    let id = input.id.clone();
    let document = input.into_incoming(collection, &at).map_err(|problem| Refused { id: id.clone(), problem })?;
    if let Some(id) = id
        && !taken.insert((document.collection.clone(), id.clone()))
    {
        let fault = FieldError::new(format!("{at}/id"), "occurs earlier in this batch; that one was taken");
        return Err(Refused { id: Some(id), problem: Problem::fields(vec![fault]) });
    }
    Ok(document)
}
