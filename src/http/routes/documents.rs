//! Reading what is stored: documents, versions, chunks, collections.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::domain::{ChunkId, CollectionName, DocumentId};
use crate::http::access::Call;
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::problem::{FieldError, Problem};
use crate::http::state::AppState;
use crate::http::wire::{ChunkBody, ChunksBody, CollectionsBody, DocumentBody, DocumentsBody, VersionsBody};

use super::search::collection_param;

/// List documents
///
/// The documents of a collection, ordered by id, a page at a time.
#[utoipa::path(get, path = "/documents", tag = "documents",
    params(
        ("collection" = Option<String>, Query, description = "`default` if left out"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
        ("limit" = Option<usize>, Query, description = "Documents a page; see GET /limits"),
    ),
    responses((status = 200, description = "A page of documents", body = DocumentsBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn list_documents(
    State(app): State<AppState>,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<Json<DocumentsBody>, Problem> {
    let mut params = Params::read(query.as_deref());
    let collection = collection_param(&mut params);
    let cursor = params.text("cursor");
    let max = app.settings.max_page_size;
    let limit = params.value("limit").unwrap_or(app.settings.default_page_size);
    if limit == 0 || limit > max {
        params.refuse("limit", format!("is {limit}, from 1 to {max} are allowed"));
    }
    params.finish()?;
    let collection = collection.unwrap_or_else(|| app.default_collection.clone());
    let page = app.services.store.documents(&call.caller.scope(), &collection, cursor.as_deref(), limit).await?;
    Ok(Json(DocumentsBody::new(call.trace(), page)))
}

/// A document
///
/// Everything that is known of a document but its text.
#[utoipa::path(get, path = "/documents/{document_id}", tag = "documents",
    params(
        ("document_id" = String, Path, description = "Percent-encoded, slashes too"),
        ("collection" = Option<String>, Query, description = "`default` if left out"),
    ),
    responses((status = 200, description = "The document", body = DocumentBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_document(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<DocumentBody>, Problem> {
    let (wanted, params) = Wanted::read(&app, &id, query.as_deref())?;
    params.finish()?;
    let found = app.services.store.document(&call.caller.scope(), &wanted.collection, &wanted.document).await?;
    let document = found.ok_or_else(|| Problem::not_found("document"))?;
    Ok(Json(DocumentBody::new(Some(call.trace()), document)))
}

/// Versions of a document
///
/// Newest first.
#[utoipa::path(get, path = "/documents/{document_id}/versions", tag = "documents",
    params(
        ("document_id" = String, Path, description = "Percent-encoded, slashes too"),
        ("collection" = Option<String>, Query, description = "`default` if left out"),
    ),
    responses((status = 200, description = "The versions", body = VersionsBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_versions(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<VersionsBody>, Problem> {
    let (wanted, params) = Wanted::read(&app, &id, query.as_deref())?;
    params.finish()?;
    let versions = app.services.store.versions(&call.caller.scope(), &wanted.collection, &wanted.document).await?;
    if versions.is_empty() {
        return Err(Problem::not_found("document"));
    }
    Ok(Json(VersionsBody::new(call.trace(), versions)))
}

/// Chunks of a document
///
/// The chunks of one version, in order of position.
#[utoipa::path(get, path = "/documents/{document_id}/chunks", tag = "documents",
    params(
        ("document_id" = String, Path, description = "Percent-encoded, slashes too"),
        ("version" = Option<u64>, Query, description = "The live one if left out"),
        ("collection" = Option<String>, Query, description = "`default` if left out"),
    ),
    responses((status = 200, description = "The chunks", body = ChunksBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_chunks(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<ChunksBody>, Problem> {
    let (wanted, mut params) = Wanted::read(&app, &id, query.as_deref())?;
    let version = params.value("version");
    params.finish()?;
    let scope = call.caller.scope();
    let found = app.services.store.chunks(&scope, &wanted.collection, &wanted.document, version).await?;
    let chunks = found.ok_or_else(|| Problem::not_found("document version"))?;
    Ok(Json(ChunksBody::new(call.trace(), chunks)))
}

/// Content of a document
///
/// The normalized text of one version: the bytes that every `byte_range` counts.
#[utoipa::path(get, path = "/documents/{document_id}/content", tag = "documents",
    params(
        ("document_id" = String, Path, description = "Percent-encoded, slashes too"),
        ("version" = Option<u64>, Query, description = "The live one if left out"),
        ("collection" = Option<String>, Query, description = "`default` if left out"),
    ),
    responses((status = 200, description = "The text in UTF-8", body = String, content_type = "text/plain"), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_content(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let (wanted, mut params) = Wanted::read(&app, &id, query.as_deref())?;
    let version = params.value("version");
    params.finish()?;
    let scope = call.caller.scope();
    let found = app.services.store.content(&scope, &wanted.collection, &wanted.document, version).await?;
    let text = found.ok_or_else(|| Problem::not_found("document version"))?;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, plain)], text).into_response())
}

/// A chunk
///
/// A chunk of a live version by its id, in whichever collection.
#[utoipa::path(get, path = "/chunks/{chunk_id}", tag = "documents",
    params(("chunk_id" = String, Path, description = "As in a hit", example = "chk_00112233445566778899aabbccddeeff")),
    responses((status = 200, description = "The chunk", body = ChunkBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_chunk(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<ChunkBody>, Problem> {
    Params::read(query.as_deref()).finish()?;
    // What cannot be an id is an id that nothing has.
    let id: ChunkId = id.parse().map_err(|_| Problem::not_found("chunk"))?;
    let found = app.services.store.chunk(&call.caller.scope(), id).await?;
    Ok(Json(ChunkBody::new(call.trace(), found.ok_or_else(|| Problem::not_found("chunk"))?)))
}

/// Collections
///
/// All collections of the tenant, by name.
#[utoipa::path(get, path = "/collections", tag = "documents",
    responses((status = 200, description = "The collections", body = CollectionsBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn list_collections(
    State(app): State<AppState>,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<Json<CollectionsBody>, Problem> {
    Params::read(query.as_deref()).finish()?;
    let collections = app.services.store.collections(&call.caller.scope()).await?;
    Ok(Json(CollectionsBody::new(call.trace(), collections)))
}

/// The document that a path and its parameters name.
pub(super) struct Wanted {
    pub collection: CollectionName,
    pub document: DocumentId,
}

impl Wanted {
    /// With the parameters that are left to read; the caller finishes them.
    pub(super) fn read(app: &AppState, id: &str, query: Option<&str>) -> Result<(Self, Params), Problem> {
        let mut params = Params::read(query);
        let collection = collection_param(&mut params).unwrap_or_else(|| app.default_collection.clone());
        let document = document_id(id)?;
        Ok((Self { collection, document }, params))
    }
}

/// The id in a path.
pub(super) fn document_id(text: &str) -> Result<DocumentId, Problem> {
    let fault = |error: crate::domain::InvalidId| vec![FieldError::new("/document_id", error.to_string())];
    DocumentId::new(text).map_err(|error| Problem::fields(fault(error)))
}
