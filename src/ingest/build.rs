//! Building what a generation lacks, page by page: the first time as part of a task, later as upkeep.

use std::time::Instant;

use crate::domain::{DocumentHead, DocumentId, GenerationId, GenerationStatus, Sequence, Standing, TenantScope};
use crate::store::{DocumentSource, DocumentWrite, WriteOutcome};

use super::embed::Effort;
use super::lots::Choice;
use super::rebuild::Rebuilt;
use super::{IngestError, ItemError, Tender};

/// Most refused documents that are named.
const REFUSALS_NAMED: usize = 20;

/// A walk over the documents that a generation lacks.
pub struct Building {
    status: GenerationStatus,
    cursor: Option<String>,
    round: Round,
    report: BuildReport,
}

/// What one walk from the first document to the last has met.
#[derive(Debug, Default)]
struct Round {
    built: u64,
    /// Documents that were written to while they were built: they are absent still.
    outdated: u64,
    refused: u64,
    named: Vec<(DocumentId, ItemError)>,
}

/// What a building has come to.
#[derive(Debug, Default)]
pub struct BuildReport {
    pub built: u64,
    /// Documents that cannot be built as they are.
    pub refused: u64,
    /// The first of them.
    pub named: Vec<(DocumentId, ItemError)>,
    pub is_over: bool,
}

impl Building {
    /// Begins at the first document.
    pub fn of(status: GenerationStatus) -> Self {
        Self { status, cursor: None, round: Round::default(), report: BuildReport::default() }
    }

    pub fn generation(&self) -> GenerationId {
        self.status.generation.id
    }

    /// What it has come to; what is refused is told once the walk is over.
    pub fn report(&self) -> &BuildReport {
        &self.report
    }

    /// Documents built since the beginning.
    pub fn built(&self) -> u64 {
        self.report.built + self.round.built
    }

    /// Goes over everything once more if documents have changed under the walk, else ends it.
    fn turn(&mut self) {
        let round = std::mem::take(&mut self.round);
        self.report.built += round.built;
        if round.outdated > 0 {
            return;
        }
        self.report.refused = round.refused;
        self.report.named = round.named;
        self.report.is_over = true;
    }

    /// Counts what became of these documents; returns the newest operation on them.
    fn settle(
        &mut self,
        documents: Vec<DocumentId>,
        outcomes: Vec<WriteOutcome>,
    ) -> Result<Option<Sequence>, IngestError> {
        let mut newest: Option<Sequence> = None;
        for (document, outcome) in documents.into_iter().zip(outcomes) {
            match outcome {
                WriteOutcome::Written { sequence, .. } | WriteOutcome::Unchanged { sequence, .. } => {
                    self.round.built += 1;
                    newest = newest.max(Some(sequence));
                }
                WriteOutcome::Outdated => self.round.outdated += 1,
                WriteOutcome::Failed(error) if error.kind().is_retryable() => return Err(error.into()),
                WriteOutcome::Failed(error) => self.refuse(document, ItemError::Store(error)),
                // Deleted since.
                WriteOutcome::NotFound | WriteOutcome::Deleted { .. } | WriteOutcome::Serves => {}
            }
        }
        Ok(newest)
    }

    fn refuse(&mut self, document: DocumentId, error: ItemError) {
        self.round.refused += 1;
        if self.round.named.len() < REFUSALS_NAMED {
            self.round.named.push((document, error));
        }
    }
}

impl Tender {
    /// Builds some more documents, leaving room for everything else; false once every document that the plan wants is
    /// there or has been refused.
    pub async fn build_some(&self, scope: &TenantScope, building: &mut Building) -> Result<bool, IngestError> {
        self.build_next(scope, building, Effort::Gentle(&self.parts.settings)).await
    }

    pub(super) async fn build_next(
        &self,
        scope: &TenantScope,
        building: &mut Building,
        effort: Effort<'_>,
    ) -> Result<bool, IngestError> {
        if building.report.is_over {
            return Ok(false);
        }
        let (id, limit) = (building.generation(), self.parts.settings.documents_at_once.max(1));
        let place = (building.cursor.as_deref(), limit);
        let page = self.parts.generations.placements(scope, id, Standing::Absent, place).await?;
        let choice = Choice::new(id, &building.status.plan);
        let wanted: Vec<DocumentHead> = page.items.into_iter().filter(|head| choice.is_wanted(head)).collect();
        if !wanted.is_empty() {
            self.build_documents(scope, building, (wanted, effort)).await?;
        }
        building.cursor = page.next;
        if building.cursor.is_none() {
            building.turn();
        }
        Ok(!building.report.is_over)
    }

    async fn build_documents(
        &self,
        scope: &TenantScope,
        building: &mut Building,
        (heads, effort): (Vec<DocumentHead>, Effort<'_>),
    ) -> Result<(), IngestError> {
        let (began, ingestor) = (Instant::now(), &self.parts.ingestor);
        // Until it is written: who erases a document waits for those that have read its text.
        let reading = ingestor.builds.read().await;
        let ids: Vec<DocumentId> = heads.into_iter().map(|head| head.id).collect();
        let found = self.parts.generations.sources(scope, &building.status.collection, &ids).await?;
        let sources: Vec<DocumentSource> = found.into_iter().flatten().collect();
        let worked = began.elapsed();
        let rebuilt = ingestor.rebuild(scope, &building.status.generation, sources, effort).await?;
        let began = Instant::now();
        let (mut writes, mut written, mut failed) = (Vec::new(), Vec::new(), None);
        for one in rebuilt {
            match one {
                Rebuilt::Ok(document) => {
                    written.push(document.document.clone());
                    writes.push(DocumentWrite::Build(Box::new(document)));
                }
                // Nothing is wrong with the document: the next attempt may find the queue or the model as it should be.
                // What was made for the others is kept.
                Rebuilt::Err((document, error)) if error.kind().is_retryable() => {
                    failed.get_or_insert(IngestError::NotBuilt { document, source: Box::new(error) });
                }
                Rebuilt::Err((document, error)) => building.refuse(document, error),
            }
        }
        let before = building.round.built;
        if !writes.is_empty() {
            let outcomes = ingestor.store.write(scope, writes).await?;
            if let Some(newest) = building.settle(written, outcomes)? {
                ingestor.announce(newest);
            }
        }
        drop(reading);
        if let Some(failed) = failed {
            return Err(failed);
        }
        if building.round.built == before {
            return Ok(());
        }
        self.paces.add(building.generation(), building.round.built - before, Instant::now());
        if let Effort::Gentle(settings) = effort {
            // The calls to the embedder have had their rests.
            tokio::time::sleep(settings.rest_after(worked + began.elapsed())).await;
        }
        Ok(())
    }
}
