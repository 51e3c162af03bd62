//! Moving documents from one generation to another: the truth changes who serves them, nothing is computed.

use std::time::{Duration, Instant};

use crate::domain::{DocumentHead, GenerationId, GenerationStatus, Standing, TenantScope};
use crate::store::{DocumentWrite, WriteOutcome};

use super::{IngestError, Tender};

/// Longest wait for the index that documents are moved to. 10 s: many times what a commit takes.
const INDEX_WAIT: Duration = Duration::from_secs(10);

/// What a round of moving has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    pub moved: u64,
    /// True if time ran out before every document had been looked at.
    pub is_cut: bool,
}

/// Tells which documents are wanted.
pub(super) type Wanted<'a> = &'a (dyn Fn(&DocumentHead) -> bool + Sync);

impl Tender {
    /// Serves every document from the generation that stands ready in it and is wanted there, at most until then.
    pub(super) async fn move_to(
        &self,
        scope: &TenantScope,
        status: &GenerationStatus,
        (is_wanted, until): (Wanted<'_>, Option<Instant>),
    ) -> Result<Moved, IngestError> {
        let id = status.generation.id;
        self.move_those(scope, ((id, Standing::Standby), id), (is_wanted, until)).await
    }

    /// Serves documents that `from` serves and that are wanted from `to`, as far as they stand ready there.
    pub(super) async fn take_back(
        &self,
        scope: &TenantScope,
        (from, to): (GenerationId, GenerationId),
        (is_wanted, until): (Wanted<'_>, Option<Instant>),
    ) -> Result<Moved, IngestError> {
        self.move_those(scope, ((from, Standing::Serving), to), (is_wanted, until)).await
    }

    async fn move_those(
        &self,
        scope: &TenantScope,
        ((listed, standing), id): ((GenerationId, Standing), GenerationId),
        (is_wanted, until): (Wanted<'_>, Option<Instant>),
    ) -> Result<Moved, IngestError> {
        let mut done = Moved::default();
        let mut cursor: Option<String> = None;
        loop {
            let began = Instant::now();
            let place = (cursor.as_deref(), self.parts.settings.move_documents.max(1));
            let page = self.parts.generations.placements(scope, listed, standing, place).await?;
            // A document that its new index does not hold yet would be found by nobody.
            let newest = self.parts.log.last_sequence_of(id).await?;
            let by = until.unwrap_or_else(|| Instant::now() + INDEX_WAIT);
            if !page.items.is_empty() && self.parts.ingestor.progress.wait(Some(id), newest, by).await.is_err() {
                return Ok(Moved { is_cut: true, ..done });
            }
            let writes: Vec<DocumentWrite> = page
                .items
                .into_iter()
                .filter(|head| is_wanted(head))
                .map(|head| DocumentWrite::Serve { collection: head.collection, document: head.id, generation: id })
                .collect();
            if !writes.is_empty() {
                done.moved += self.serve(scope, writes).await?;
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(done);
            }
            match until {
                Some(until) if Instant::now() >= until => return Ok(Moved { is_cut: true, ..done }),
                Some(_) => {}
                // Nobody waits.
                None => tokio::time::sleep(self.parts.settings.rest_after(began.elapsed())).await,
            }
        }
    }

    /// Serves all documents that stand ready in a generation from there, at most until then.
    pub async fn move_all_to(
        &self,
        scope: &TenantScope,
        status: &GenerationStatus,
        until: Instant,
    ) -> Result<Moved, IngestError> {
        self.move_to(scope, status, (&|_| true, Some(until))).await
    }

    /// Serves all documents that one generation serves from another, as far as they stand ready there, at most until then.
    pub async fn take_all_back(
        &self,
        scope: &TenantScope,
        (from, to): (GenerationId, GenerationId),
        until: Instant,
    ) -> Result<Moved, IngestError> {
        self.take_back(scope, (from, to), (&|_| true, Some(until))).await
    }

    async fn serve(&self, scope: &TenantScope, writes: Vec<DocumentWrite>) -> Result<u64, IngestError> {
        let mut moved = 0;
        for outcome in self.parts.ingestor.store.write(scope, writes).await? {
            match outcome {
                WriteOutcome::Serves => moved += 1,
                WriteOutcome::Failed(error) => return Err(error.into()),
                // Written or deleted since: it does not stand ready there any more.
                _ => {}
            }
        }
        Ok(moved)
    }
}
