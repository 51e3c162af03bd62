//! Generations that are promoted by what reports say of them.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::domain::{GenerationState, GenerationStatus, Promotion, TenantScope};
use crate::eval::{Decision, GenerationReport, GenerationScorer, judge};
use crate::jobs::{Force, GenerationDesk};
use crate::search::{SearchDefaults, Searcher, ShadowJobs, run_shadow_searches};
use crate::store::{GenerationStore, OperationLog, SqliteStore};

/// Puts live searches to generations in shadow, and judges those that wait for it.
pub(super) fn judge_in_background(
    config: &Config,
    store: &Arc<SqliteStore>,
    (searcher, jobs): (&Arc<Searcher>, ShadowJobs),
    (scorer, desk): (&Arc<GenerationScorer>, &Arc<GenerationDesk>),
) -> [JoinHandle<()>; 2] {
    let judge = Judge {
        scorer: scorer.clone(),
        desk: desk.clone(),
        generations: store.clone(),
        log: store.clone(),
        every: Duration::from_secs(config.eval.judge_interval_s),
    };
    [tokio::spawn(run_shadow_searches(searcher.clone(), store.clone(), jobs)), tokio::spawn(judge_generations(judge))]
}

/// Who judges, and what is judged.
struct Judge {
    scorer: Arc<GenerationScorer>,
    desk: Arc<GenerationDesk>,
    generations: Arc<dyn GenerationStore>,
    log: Arc<dyn OperationLog>,
    /// Time between two looks.
    every: Duration,
}

/// Scores every generation in shadow that waits for it, from time to time, and carries out what the numbers say.
async fn judge_generations(judging: Judge) {
    loop {
        tokio::time::sleep(judging.every).await;
        judging.judge_all().await;
    }
}

/// Writes reports of generations, for whoever asks for one.
pub(super) fn scorer(config: &Config, store: &Arc<SqliteStore>, searcher: &Arc<Searcher>) -> GenerationScorer {
    GenerationScorer {
        searcher: searcher.clone(),
        defaults: SearchDefaults::new(config.search.clone()),
        generations: store.clone(),
        cases: store.clone(),
        ledger: store.clone(),
        settings: config.eval,
    }
}

impl Judge {
    /// One generation after the other: reports are work, and nobody waits for them.
    async fn judge_all(&self) {
        let owned = match self.log.generations().await {
            Ok(owned) => owned,
            Err(error) => return tracing::warn!(%error, "cannot look for generations to judge"),
        };
        for owned in owned.into_iter().filter(|one| one.generation.state == GenerationState::Shadow) {
            let scope = TenantScope::everything(owned.tenant);
            match self.generations.generation_status(&scope, owned.generation.id).await {
                Ok(Some(status)) if waits_for_judgement(&status) => self.judge_one(&scope, &status).await,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, generation = %owned.generation.id, "cannot look at a generation"),
            }
        }
    }

    async fn judge_one(&self, scope: &TenantScope, status: &GenerationStatus) {
        let id = status.generation.id;
        let report = match self.scorer.report(scope, id).await {
            Ok(Some(report)) => report,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, generation = %id, "a generation cannot be judged"),
        };
        let (word, done) = match judge(&report) {
            Decision::Promote => ("promoted", self.desk.promote(scope, id, force(status)).await),
            Decision::Retire => ("retired", self.desk.retire(scope, id).await),
            Decision::Wait => return tell(&report, "undecided"),
        };
        match done {
            Ok(_) => tell(&report, word),
            Err(error) => tracing::warn!(%error, generation = %id, decision = word, "a judgement was not carried out"),
        }
    }
}

/// On a collection that is written to all the time some documents are always still to be built; they stay where they are
/// until then.
fn force(status: &GenerationStatus) -> Force {
    let counts = &status.counts;
    if counts.built.saturating_mul(100) >= counts.documents.saturating_mul(99) { Force::Yes } else { Force::No }
}

/// One that was replaced stays for going back to; it is not taken back by the numbers that it was left for.
fn waits_for_judgement(status: &GenerationStatus) -> bool {
    let is_replaced = status.plan.retire_at.is_some();
    status.generation.state == GenerationState::Shadow && status.plan.promotion == Promotion::Automatic && !is_replaced
}

/// The decision with the numbers that it rests on.
fn tell(report: &GenerationReport, decision: &'static str) {
    counter!("plumb_generation_judgements_total", "decision" => decision).increment(1);
    let deciding = report.metrics.first();
    tracing::info!(
        decision,
        generation = %report.generation,
        beside = %report.beside,
        collection = %report.collection,
        verdict = report.verdict.as_str(),
        is_conclusive = report.is_conclusive,
        cases = report.cases.scored,
        ndcg_at_10 = deciding.map(|metric| metric.generation),
        ndcg_at_10_beside = deciding.map(|metric| metric.beside),
        difference_low = deciding.map(|metric| metric.difference.low),
        difference_high = deciding.map(|metric| metric.difference.high),
        "a generation was judged"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        AnalyzerSpec, ChunkerSpec, CollectionName, ContextSpec, Generation, GenerationCounts, GenerationId,
        GenerationPlan, Profile, Timestamp,
    };

    fn status(state: GenerationState, promotion: Promotion, retire_at: Option<Timestamp>) -> GenerationStatus {
        let profile = Profile {
            chunker: ChunkerSpec { name: "structure".to_owned(), version: 1, params: [].into() },
            embedder: None,
            analyzer: AnalyzerSpec { name: "words".to_owned(), version: 1, language: "en".to_owned() },
            context: ContextSpec::default(),
        };
        GenerationStatus {
            generation: Generation { id: GenerationId([1; 16]), profile, state, created_at: Timestamp(0) },
            collection: CollectionName::new("default").unwrap(),
            plan: GenerationPlan { promotion, retire_at, ..GenerationPlan::default() },
            counts: GenerationCounts::default(),
            changed_at: Timestamp(0),
            previous: None,
            task: None,
            removed_at: None,
        }
    }

    #[test]
    fn only_what_wants_to_be_promoted_by_numbers_and_was_not_replaced_is_judged() {
        let (automatic, shadow) = (Promotion::Automatic, GenerationState::Shadow);

        assert!(waits_for_judgement(&status(shadow, automatic, None)));
        assert!(!waits_for_judgement(&status(shadow, Promotion::Manual, None)));
        assert!(!waits_for_judgement(&status(shadow, automatic, Some(Timestamp(1)))));
        assert!(!waits_for_judgement(&status(GenerationState::Building, automatic, None)));
        assert!(!waits_for_judgement(&status(GenerationState::Live, automatic, None)));
    }
}
