//! `multipart/form-data`: each part with a file name is a document.
//!
//! Parts without a file name (`collection`, `metadata`, `acl`) say something about the files after them.

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use bytes::BytesMut;
use futures::stream::unfold;
use futures::{Stream, StreamExt};

use crate::domain::{CollectionName, DocumentId, Metadata, Principal};
use crate::ingest::{IncomingBody, IncomingDocument};

use super::body::frames;
use super::intake::{Item, Refused};
use super::problem::{FieldError, Problem, ProblemKind};
use super::settings::HttpSettings;
use super::wire::metadata_of;

/// Largest part without a file name, in bytes: metadata is small.
const MAX_FIELD_BYTES: usize = 64 << 10;
/// A media type that says nothing.
const UNKNOWN_MEDIA_TYPE: &str = "application/octet-stream";

/// The files of a form, in order. `Err` ends the stream: the form broke off or says something unknown.
pub(super) async fn documents(
    request: Request,
    settings: &HttpSettings,
    collection: CollectionName,
) -> Result<impl Stream<Item = Result<Item, Problem>> + Send + use<>, Problem> {
    let idle = settings.body_idle_timeout();
    // The form's reader knows only its own errors; a body that stalls ends the form, which it then calls incomplete.
    let progressing =
        |body| frames(body, idle).map(|frame| frame.map_err(|problem| std::io::Error::other(problem.detail)));
    let request = request.map(|body| Body::from_stream(progressing(body)));
    let malformed = |_| Problem::new(ProblemKind::Malformed, "the Content-Type lacks the boundary of the form");
    let form = Multipart::from_request(request, &()).await.map_err(malformed)?;
    let reading = Reading {
        form: Some(form),
        files_left: settings.max_form_files,
        max_files: settings.max_form_files,
        max_bytes: settings.max_document_body_bytes,
        about: About { collection, metadata: Metadata::new(), acl: None },
    };
    Ok(unfold(reading, |mut reading| async move {
        let item = reading.next_file().await?;
        if item.is_err() {
            reading.form = None;
        }
        Some((item, reading))
    }))
}

struct Reading {
    /// `None` after a fault.
    form: Option<Multipart>,
    files_left: usize,
    max_files: usize,
    max_bytes: usize,
    about: About,
}

impl Reading {
    async fn next_file(&mut self) -> Option<Result<Item, Problem>> {
        let form = self.form.as_mut()?;
        loop {
            let part = match form.next_field().await {
                Ok(Some(part)) => part,
                Ok(None) => return None,
                Err(error) => return Some(Err(broken(&error))),
            };
            if part.file_name().is_some() {
                if self.files_left == 0 {
                    let detail = format!("a form must not hold more than {} files", self.max_files);
                    return Some(Err(Problem::new(ProblemKind::TooLarge, detail)));
                }
                self.files_left -= 1;
                return Some(file(part, &self.about, self.max_bytes).await);
            }
            if let Err(problem) = self.about.note(part).await {
                return Some(Err(problem));
            }
        }
    }
}

/// What earlier parts said about the files to come.
struct About {
    collection: CollectionName,
    metadata: Metadata,
    acl: Option<Vec<Principal>>,
}

impl About {
    async fn note(&mut self, part: Field<'_>) -> Result<(), Problem> {
        let name = part.name().unwrap_or_default().to_owned();
        let fault = |detail: String| {
            let pointer = format!("/{}", super::json::escape(&name));
            Problem::fields(vec![FieldError::new(pointer, detail)])
        };
        if !matches!(name.as_str(), "collection" | "metadata" | "acl") {
            return Err(fault("unknown part; without a file name known here: collection, metadata, acl".to_owned()));
        }
        let Some(bytes) = read(part, MAX_FIELD_BYTES).await? else {
            return Err(fault(format!("must not exceed {MAX_FIELD_BYTES} bytes")));
        };
        let text = String::from_utf8(bytes.to_vec()).map_err(|_| fault("must be UTF-8".to_owned()))?;
        match name.as_str() {
            "collection" => self.collection = CollectionName::new(&text).map_err(|error| fault(error.to_string()))?,
            "metadata" => self.metadata = metadata_of(&text).map_err(fault)?,
            _ => {
                let principal = Principal::new(&text).map_err(|error| fault(error.to_string()))?;
                self.acl.get_or_insert_default().push(principal);
            }
        }
        Ok(())
    }
}

async fn file(part: Field<'_>, about: &About, max_bytes: usize) -> Result<Item, Problem> {
    let id = DocumentId::new(part.file_name().unwrap_or_default());
    let media_type = part.content_type().map(str::to_owned);
    let document = match (id, read(part, max_bytes).await?) {
        (Err(error), _) => {
            let problem = Problem::new(ProblemKind::Unprocessable, format!("file name: {error}"));
            Err(Refused { id: None, problem })
        }
        (Ok(id), None) => Err(Refused { id: Some(id), problem: Problem::too_large("a file", max_bytes) }),
        (Ok(id), Some(bytes)) => Ok(IncomingDocument {
            id: Some(id),
            collection: about.collection.clone(),
            title: None,
            source_uri: None,
            media_type: media_type.filter(|media_type| !media_type.starts_with(UNKNOWN_MEDIA_TYPE)),
            metadata: about.metadata.clone(),
            acl: about.acl.clone(),
            body: IncomingBody::Bytes(bytes.freeze()),
        }),
    };
    Ok(Item { line: None, document })
}

// `None`: longer than allowed; the rest of the part is read and dropped, so that the next part can follow.
async fn read(mut part: Field<'_>, max_bytes: usize) -> Result<Option<BytesMut>, Problem> {
    let mut bytes = Some(BytesMut::new());
    while let Some(piece) = part.chunk().await.map_err(|error| broken(&error))? {
        bytes = bytes.filter(|read| read.len() + piece.len() <= max_bytes);
        if let Some(read) = &mut bytes {
            read.extend_from_slice(&piece);
        }
    }
    Ok(bytes)
}

fn broken(error: &MultipartError) -> Problem {
    Problem::new(ProblemKind::Malformed, format!("the form cannot be read: {}", error.body_text()))
}
