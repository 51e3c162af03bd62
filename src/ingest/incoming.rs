//! A document as it arrives, its id where the caller gives none, and the limits that it must keep.

use bytes::Bytes;

use crate::domain::{CollectionName, ContentHash, DocumentId, Metadata, Principal, hash_parts};

use super::{IngestLimits, ItemError};

/// What the body is where nobody says.
pub const DEFAULT_MEDIA_TYPE: &str = "text/plain";

/// A document on its way in.
#[derive(Debug, Clone, PartialEq)]
pub struct IncomingDocument {
    /// `None`: derived from the source's address, else from the content; see [`IncomingDocument::document_id`].
    pub id: Option<DocumentId>,
    pub collection: CollectionName,
    /// `None`: the title that the document gives itself, if any.
    pub title: Option<String>,
    pub source_uri: Option<String>,
    /// `None`: [`DEFAULT_MEDIA_TYPE`].
    pub media_type: Option<String>,
    pub body: IncomingBody,
    pub metadata: Metadata,
    /// `None`: everyone in the tenant.
    pub acl: Option<Vec<Principal>>,
}

/// What a document consists of.
#[derive(Debug, Clone, PartialEq)]
pub enum IncomingBody {
    Text(String),
    Bytes(Bytes),
    /// The caller's own chunks, in order; the content is their texts joined by an empty line.
    Chunks(Vec<IncomingChunk>),
}

/// A chunk that the caller made.
#[derive(Debug, Clone, PartialEq)]
pub struct IncomingChunk {
    pub text: String,
    /// Needs a collection that is configured for a caller's vectors; need not have unit length.
    pub vector: Option<Vec<f32>>,
    /// Goes before the document's under the same key.
    pub metadata: Option<Metadata>,
}

impl IncomingDocument {
    /// The caller's id, else `doc_` and 32 hexadecimal digits: a hash of the source's address, so that a source sent
    /// again is a new version; without one a hash of media type and body, so that the same content is one document.
    pub fn document_id(&self) -> DocumentId {
        if let Some(id) = &self.id {
            return id.clone();
        }
        let hash = match &self.source_uri {
            Some(uri) => hash_parts(&[b"source", uri.as_bytes()]),
            None => self.hash_of_content(),
        };
        let text = format!("doc_{:032x}", u128::from_be_bytes(hash));
        DocumentId::new(&text).expect("hexadecimal digits make a valid id")
    }

    /// Bytes that the document holds in memory, about.
    pub fn size_bytes(&self) -> usize {
        match &self.body {
            IncomingBody::Text(text) => text.len(),
            IncomingBody::Bytes(bytes) => bytes.len(),
            IncomingBody::Chunks(chunks) => {
                let size = |chunk: &IncomingChunk| chunk.text.len() + chunk.vector.as_ref().map_or(0, |v| 4 * v.len());
                chunks.iter().map(size).sum()
            }
        }
    }

    pub(super) fn media_type(&self) -> &str {
        self.media_type.as_deref().unwrap_or(DEFAULT_MEDIA_TYPE)
    }

    fn hash_of_content(&self) -> [u8; 16] {
        let media_type = self.media_type().as_bytes();
        match &self.body {
            IncomingBody::Text(text) => hash_parts(&[b"content", media_type, text.as_bytes()]),
            IncomingBody::Bytes(bytes) => hash_parts(&[b"content", media_type, bytes]),
            IncomingBody::Chunks(chunks) => {
                let texts = chunks.iter().map(|chunk| chunk.text.as_bytes());
                hash_parts(&[b"chunks".as_slice(), media_type].into_iter().chain(texts).collect::<Vec<_>>())
            }
        }
    }

    /// Checks everything that can be told without reading the body.
    pub(super) fn check(&self, limits: &IngestLimits) -> Result<(), ItemError> {
        check_length("the body", self.size_bytes(), limits.max_document_bytes)?;
        check_length("title", self.title.as_ref().map_or(0, String::len), limits.max_title_bytes)?;
        check_length("source_uri", self.source_uri.as_ref().map_or(0, String::len), limits.max_source_uri_bytes)?;
        check_length("metadata", json_len(&self.metadata), limits.max_metadata_bytes)?;
        let principals = self.acl.as_ref().map_or(0, Vec::len);
        if principals > limits.max_acl_principals {
            return Err(ItemError::TooManyPrincipals { found: principals, limit: limits.max_acl_principals });
        }
        let IncomingBody::Chunks(chunks) = &self.body else { return Ok(()) };
        if chunks.len() > limits.max_chunks_per_document {
            return Err(ItemError::TooManyChunks { found: chunks.len(), limit: limits.max_chunks_per_document });
        }
        for chunk in chunks {
            let length = chunk.metadata.as_ref().map_or(0, json_len);
            check_length("metadata of a chunk", length, limits.max_metadata_bytes)?;
        }
        Ok(())
    }
}

/// BLAKE3 over `parts`, each preceded by its length so that borders count.
pub(super) fn hash_content<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    ContentHash(*hasher.finalize().as_bytes())
}

fn check_length(field: &'static str, found: usize, limit: usize) -> Result<(), ItemError> {
    if found > limit { Err(ItemError::TooLong { field, found, limit }) } else { Ok(()) }
}

fn json_len(metadata: &Metadata) -> usize {
    if metadata.is_empty() {
        return 0;
    }
    serde_json::to_vec(metadata).map_or(usize::MAX, |json| json.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(id: Option<&str>, uri: Option<&str>, text: &str) -> IncomingDocument {
        IncomingDocument {
            id: id.map(|id| DocumentId::new(id).unwrap()),
            collection: CollectionName::new("default").unwrap(),
            title: None,
            source_uri: uri.map(str::to_owned),
            media_type: None,
            body: IncomingBody::Text(text.to_owned()),
            metadata: Metadata::new(),
            acl: None,
        }
    }

    #[test]
    fn an_id_comes_from_the_caller_else_the_source_else_the_content() {
        assert_eq!(document(Some("a"), Some("u"), "x").document_id().as_str(), "a");
        assert_eq!(document(None, Some("u"), "x").document_id(), document(None, Some("u"), "y").document_id());
        assert_eq!(document(None, None, "x").document_id(), document(None, None, "x").document_id());
        assert_ne!(document(None, None, "x").document_id(), document(None, None, "y").document_id());
        assert_ne!(document(None, Some("x"), "x").document_id(), document(None, None, "x").document_id());

        let derived = document(None, None, "x").document_id();
        assert_eq!((derived.as_str().len(), &derived.as_str()[..4]), (36, "doc_"));
    }

    #[test]
    fn the_same_text_of_another_type_is_another_document() {
        let markdown = IncomingDocument { media_type: Some("text/markdown".to_owned()), ..document(None, None, "# x") };

        assert_ne!(markdown.document_id(), document(None, None, "# x").document_id());
    }

    #[test]
    fn what_exceeds_a_limit_is_named_with_the_limit() {
        let limits = IngestLimits { max_document_bytes: 3, ..IngestLimits::default() };

        let error = document(None, None, "four").check(&limits).unwrap_err();

        assert_eq!(error.to_string(), "the body has 4 bytes, at most 3 are allowed");
    }
}
