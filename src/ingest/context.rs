//! What a language model writes about a chunk's place in its document, to stand before it where it is looked for.
//!
//! Asked once for each input: what was written is kept in the truth, whatever becomes of the chunk.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use crate::domain::{ByteSpan, ContentHash, ContextSpec, DocumentHead, ErrorKind, TenantScope};
use crate::store::{GenerationStore, StoreError};

use super::draft::Draft;
use super::{IngestError, Ingestor};

/// Bytes of the document that a model reads around a chunk, half of them before it. 8,000: some 2,000 tokens, a few
/// pages; the title tells the rest.
const EXCERPT_BYTES: usize = 8000;
/// Texts that are kept in one transaction.
const KEPT_AT_ONCE: usize = 32;

/// What a model is asked about a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextRequest {
    /// Name and version of the prompt, and the task kind whose route is taken.
    pub prompt: String,
    pub version: String,
    pub route: String,
    pub title: Option<String>,
    pub heading_path: Vec<String>,
    /// The document around the chunk.
    pub excerpt: String,
    pub chunk: String,
}

/// Why nothing was written. Safe to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ContextError {
    pub kind: ErrorKind,
    pub detail: String,
    pub retry_after: Option<Duration>,
}

/// Writes a sentence or two about a chunk's place in its document.
///
/// The text is data for an index: it may be wrong, and is never shown or cited. One call at most for each request; an
/// empty text means that the model had nothing to say.
#[async_trait]
pub trait ContextWriter: Send + Sync {
    async fn write(&self, scope: &TenantScope, request: ContextRequest) -> Result<String, ContextError>;
}

/// A writer with the place where its texts are kept.
#[derive(Clone)]
pub struct Contexts {
    pub store: Arc<dyn GenerationStore>,
    pub writer: Arc<dyn ContextWriter>,
    /// Texts that are asked for at the same time.
    pub at_once: usize,
    /// Longest text that is kept, in bytes.
    pub max_bytes: usize,
}

/// A document whose chunks want a text each.
pub(super) struct ContextDraft<'a> {
    pub head: &'a DocumentHead,
    pub content: &'a str,
    pub draft: &'a mut Draft,
}

/// A text that is asked for: of which document and chunk, by the hash under which it is kept.
struct Wish {
    document: usize,
    chunk: usize,
    hash: ContentHash,
}

impl ContextRequest {
    /// Over everything that the model is told, and which model is asked to answer.
    fn hash(&self) -> ContentHash {
        let mut hasher = blake3::Hasher::new();
        let fixed = [&self.prompt, &self.version, &self.route, &self.excerpt, &self.chunk].map(String::as_str);
        let title = self.title.as_deref().unwrap_or_default();
        for part in fixed.into_iter().chain([title]).chain(self.heading_path.iter().map(String::as_str)) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        ContentHash(*hasher.finalize().as_bytes())
    }
}

impl Ingestor {
    /// Puts a written text before every chunk of these documents, where the specification wants that. An error leaves
    /// the chunks that have none yet as they are; what was written until then is kept.
    pub(super) async fn write_contexts(
        &self,
        scope: &TenantScope,
        spec: &ContextSpec,
        documents: &mut [ContextDraft<'_>],
    ) -> Result<(), IngestError> {
        let ContextSpec::Written { .. } = spec else { return Ok(()) };
        let wishes: Vec<Wish> = documents
            .iter()
            .enumerate()
            .flat_map(|(document, one)| {
                (0..one.draft.chunks.len())
                    .filter_map(move |chunk| Some(Wish { document, chunk, hash: request(spec, one, chunk)?.hash() }))
            })
            .collect();
        if wishes.is_empty() {
            return Ok(());
        }
        let Some(contexts) = &self.contexts else { return Err(no_writer()) };
        let (texts, outcome) = contexts.texts(scope, (spec, documents), &wishes).await;
        for wish in wishes {
            // An empty one is known too, so that it is not asked again.
            if let Some(text) = texts.get(&wish.hash).filter(|text| !text.is_empty()) {
                let one = &mut documents[wish.document];
                one.draft.give_context(wish.chunk, one.head, (spec, text.clone()));
            }
        }
        outcome
    }
}

impl Contexts {
    /// The texts that were wished for, kept ones first; with an error those that could be had.
    async fn texts(
        &self,
        scope: &TenantScope,
        (spec, documents): (&ContextSpec, &[ContextDraft<'_>]),
        wishes: &[Wish],
    ) -> (HashMap<ContentHash, String>, Result<(), IngestError>) {
        let hashes: Vec<ContentHash> =
            wishes.iter().map(|wish| wish.hash).collect::<HashSet<_>>().into_iter().collect();
        let mut texts = match self.store.contexts(scope, &hashes).await {
            Ok(texts) => texts,
            Err(error) => return (HashMap::new(), Err(error.into())),
        };
        let mut asked = HashSet::new();
        let mut asking: Vec<BoxFuture<'_, (ContentHash, Result<String, ContextError>)>> = Vec::new();
        for Wish { document, chunk, hash } in wishes {
            if texts.contains_key(hash) || !asked.insert(*hash) {
                continue;
            }
            if let Some(request) = request(spec, &documents[*document], *chunk) {
                let (hash, writer) = (*hash, &self.writer);
                asking.push(async move { (hash, writer.write(scope, request).await) }.boxed());
            }
        }
        let mut written =
            futures::stream::iter(asking).buffer_unordered(self.at_once.max(1)).ready_chunks(KEPT_AT_ONCE);
        let mut outcome = Ok(());
        // Kept as they come: what a crash takes has to be asked, and paid, again.
        while let Some(some) = written.next().await {
            let mut fresh = Vec::with_capacity(some.len());
            for (hash, answer) in some {
                match answer {
                    Ok(text) => fresh.push((hash, self.clean(&text))),
                    Err(error) => outcome = Err(error.into()),
                }
            }
            let kept = self.keep(scope, &fresh).await;
            texts.extend(fresh);
            if let Err(error) = kept {
                outcome = Err(error.into());
            }
            if outcome.is_err() {
                break;
            }
        }
        (texts, outcome)
    }

    async fn keep(&self, scope: &TenantScope, fresh: &[(ContentHash, String)]) -> Result<(), StoreError> {
        if fresh.is_empty() { Ok(()) } else { self.store.keep_contexts(scope, fresh.to_vec()).await }
    }

    /// On one line, and cut.
    fn clean(&self, text: &str) -> String {
        let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        line.truncate(line.floor_char_boundary(self.max_bytes));
        line
    }
}

fn no_writer() -> IngestError {
    let detail = "no language model is at hand to write what stands before chunks".to_owned();
    ContextError { kind: ErrorKind::Unavailable, detail, retry_after: None }.into()
}

/// `None` if nothing is to be written.
fn request(spec: &ContextSpec, one: &ContextDraft<'_>, chunk: usize) -> Option<ContextRequest> {
    let ContextSpec::Written { prompt, version, route } = spec else { return None };
    let chunk = &one.draft.chunks[chunk];
    Some(ContextRequest {
        prompt: prompt.clone(),
        version: version.clone(),
        route: route.clone(),
        title: one.head.title.clone(),
        heading_path: chunk.heading_path.clone(),
        excerpt: excerpt(one.content, chunk.span).to_owned(),
        chunk: chunk.text.clone(),
    })
}

/// The content around a span.
fn excerpt(content: &str, span: ByteSpan) -> &str {
    let room = EXCERPT_BYTES.saturating_sub(span.len()) / 2;
    let start = content.ceil_char_boundary(span.start.saturating_sub(room));
    let end = content.floor_char_boundary((span.end + room).min(content.len()));
    &content[start.min(span.start)..end.max(span.end)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(chunk: &str) -> ContextRequest {
        ContextRequest {
            prompt: "context".to_owned(),
            version: "1".to_owned(),
            route: "context".to_owned(),
            title: None,
            heading_path: Vec::new(),
            excerpt: "all of it".to_owned(),
            chunk: chunk.to_owned(),
        }
    }

    #[test]
    fn whatever_the_model_is_told_makes_another_text() {
        let one = request("a");
        let others = [
            ContextRequest { version: "2".to_owned(), ..one.clone() },
            ContextRequest { title: Some("t".to_owned()), ..one.clone() },
            ContextRequest { excerpt: "less".to_owned(), ..one.clone() },
            request("b"),
        ];

        assert!(others.iter().all(|other| other.hash() != one.hash()));
        assert_eq!(request("a").hash(), one.hash());
    }

    #[test]
    fn an_excerpt_holds_its_chunk_and_is_bounded() {
        let content = "é".repeat(20_000);
        let span = ByteSpan::new(20_000, 20_100);

        let around = excerpt(&content, span);

        assert!(around.len() <= EXCERPT_BYTES && around.len() > EXCERPT_BYTES - 8, "{}", around.len());
        assert_eq!(excerpt("short", ByteSpan::new(1, 3)), "short");
        let whole = ByteSpan::new(0, content.len());
        assert_eq!(excerpt(&content, whole).len(), content.len(), "never less than the chunk");
    }
}
