//! A document: a named source. A version: one content of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{CollectionName, ContentHash, DocumentId, GenerationId, Principal, Timestamp};

/// Whatever the caller wants to keep with a document; opaque but for filters.
pub type Metadata = Map<String, Value>;

/// A half-open range of bytes in a version's text; both ends lie on character borders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ByteSpan {
    pub start: usize,
    pub end: usize,
}

impl ByteSpan {
    pub fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end, "a span must not end before it starts");
        Self { start, end }
    }

    pub fn len(self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The text under the span; `None` where it does not lie on character borders inside `text`.
    pub fn slice(self, text: &str) -> Option<&str> {
        text.get(self.start..self.end)
    }
}

/// The part of a document that the caller may set; a change here touches neither chunks nor embeddings,
/// except for `title`, which is embedded with every chunk.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentHead {
    pub id: DocumentId,
    pub collection: CollectionName,
    pub title: Option<String>,
    pub source_uri: Option<String>,
    pub media_type: String,
    pub metadata: Metadata,
    /// `None`: everyone in the tenant.
    pub acl: Option<Vec<Principal>>,
}

/// A heading of the text, or a page that starts in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heading {
    /// 1 is the outermost.
    pub level: u8,
    pub title: String,
    /// Where the heading's own line stands in the text.
    pub span: ByteSpan,
}

/// What is known of a text's structure: headings and page starts, each in order of position.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    pub headings: Vec<Heading>,
    /// Byte offset at which each page starts, first page first; empty where the format has no pages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub page_starts: Vec<usize>,
}

/// Normalized text with its outline: what a parser makes of bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParsedText {
    pub text: String,
    pub outline: Outline,
    /// The title the document gives itself, if any; the caller's own title goes before it.
    pub title: Option<String>,
}

/// A stored document as shown to a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub head: DocumentHead,
    pub version: u64,
    pub content_hash: ContentHash,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub chunk_count: u64,
    pub generation: GenerationId,
    /// The operation that made the present state; indexed once the index has reached it.
    pub sequence: super::Sequence,
    /// When every search saw the present state; `None` while one may not.
    pub indexed_at: Option<Timestamp>,
}

/// One stored version, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionSummary {
    /// Grows by one with each content, from 1.
    pub version: u64,
    pub content_hash: ContentHash,
    pub created_at: Timestamp,
    pub chunk_count: u64,
}
