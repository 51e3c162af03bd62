//! Scoring a generation: the collection's labelled queries are put to it and to the one beside it.
//!
//! Both sides are searched as wholes, whatever a rollout serves from where, and each document counts once. A sampled
//! generation does not hold every document; then both sides are asked for more and cut down to the sample, or the
//! missing documents would decide.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::domain::{
    ContextSpec, DocumentId, Generation, GenerationId, GenerationState, GenerationStatus, GroupBy, Nanousd,
    SearchResult, TenantScope, lot,
};
use crate::search::{QueryOverrides, SearchDefaults, Searcher};
use crate::store::{CaseStore, EvalCase, GenerationStore, Ledger, UsageBy};

use super::EvalError;
use super::bootstrap::Bootstrap;
use super::generations_report::{
    CaseCounts, CostReport, GenerationReport, Ran, ScoredCase, SizeReport, latency, metrics, overlap_at_10, shadow,
    verdict,
};
use super::metrics::{Grades, documents_of_chunks};

/// Documents of a ranking: what recall@100 looks at.
const RANKING_DEPTH: usize = 100;
/// A sample's ranking is cut out of one that is deeper by the sample's share and this, since a share is hit only about.
const SAMPLE_MARGIN: f64 = 1.5;
/// Shadow searches that are added up. 5,000: as many as are kept.
const SHADOW_SEARCHES: usize = 5_000;
/// Cases that are read at once.
const PAGE: usize = 200;
/// Groups of usage among which that of a prompt is looked for.
const USAGE_GROUPS: usize = 1_000;
/// Bytes of a dimension in the truth: half-precision floats.
const DIMENSION_BYTES: u64 = 2;

/// How far a report goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportSettings {
    /// Cases that are scored, by name. 1,000: beyond that the interval hardly narrows.
    pub max_cases: usize,
    /// Fewer are scored, but decide nothing. 10: an interval over fewer says more about them than about the generation.
    pub min_cases: usize,
    /// No case is begun after so many milliseconds. 20,000: below the time limit of a request.
    pub time_limit_ms: u64,
    /// Time between two looks at generations that are promoted automatically, in seconds. 3600: a report costs as much as
    /// thousands of searches, and cases change by the day.
    pub judge_interval_s: u64,
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self { max_cases: 1_000, min_cases: 10, time_limit_ms: 20_000, judge_interval_s: 3_600 }
    }
}

/// Writes reports of generations.
pub struct GenerationScorer {
    pub searcher: Arc<Searcher>,
    pub defaults: SearchDefaults,
    pub generations: Arc<dyn GenerationStore>,
    pub cases: Arc<dyn CaseStore>,
    pub ledger: Arc<dyn Ledger>,
    pub settings: ReportSettings,
}

/// A generation and the one that it is compared with.
struct Pair {
    generation: GenerationStatus,
    beside: GenerationStatus,
}

/// Cases that were put to both sides, and what became of the others.
#[derive(Default)]
struct Scoring {
    cases: Vec<ScoredCase>,
    counts: CaseCounts,
    degraded: BTreeSet<String>,
}

impl GenerationScorer {
    /// Compares a generation with its collection's live one, or the live one with the one before it.
    ///
    /// `None`: the tenant has no such generation. [`EvalError::NothingBeside`] if there is none to compare it with or
    /// one of the two was retired. Runs up to four searches for each case, so it may take as long as the settings let it.
    pub async fn report(
        &self,
        scope: &TenantScope,
        generation: GenerationId,
    ) -> Result<Option<GenerationReport>, EvalError> {
        let Some(pair) = self.pair(scope, generation).await? else { return Ok(None) };
        let Scoring { cases, counts, degraded } = self.score(scope, &pair).await?;
        let searches = self.cases.shadow_searches(scope, generation, SHADOW_SEARCHES).await?;
        let contexts = self.context_cost(scope, &pair.generation.generation).await?;
        // Thousands of resamples of a thousand cases are no work for a thread that others wait for.
        let summed = tokio::task::spawn_blocking(move || (metrics(&cases, &Bootstrap::default()), cases));
        let (metrics, cases) = summed.await.map_err(|error| EvalError::Panicked { detail: error.to_string() })?;
        let Pair { generation, beside } = pair;
        let is_built = generation.generation.state != GenerationState::Building;
        Ok(Some(GenerationReport {
            collection: generation.collection.clone(),
            generation: generation.generation.id,
            state: generation.generation.state,
            beside: beside.generation.id,
            is_conclusive: counts.scored >= self.settings.min_cases && degraded.is_empty() && is_built,
            cases: counts,
            restricted_to_sample: is_sample(&generation),
            verdict: verdict(&metrics),
            metrics,
            overlap_at_10: overlap_at_10(&cases),
            latency: latency(&cases),
            cost: CostReport { beside: size(&beside), generation: size(&generation), contexts },
            shadow: shadow(&searches),
            degraded,
        }))
    }

    async fn pair(&self, scope: &TenantScope, id: GenerationId) -> Result<Option<Pair>, EvalError> {
        let Some(generation) = self.generations.generation_status(scope, id).await? else { return Ok(None) };
        let statuses = self.generations.generation_statuses(scope, Some(&generation.collection)).await?;
        let is_beside = |one: &GenerationStatus| match generation.generation.state {
            GenerationState::Live => Some(one.generation.id) == generation.previous,
            _ => one.generation.state == GenerationState::Live,
        };
        let is_there = |one: &GenerationStatus| one.generation.state != GenerationState::Retired;
        let beside = statuses.into_iter().find(|one| is_beside(one) && is_there(one));
        match beside.filter(|_| is_there(&generation)) {
            Some(beside) => Ok(Some(Pair { generation, beside })),
            None => Err(EvalError::NothingBeside { generation: id }),
        }
    }

    async fn score(&self, scope: &TenantScope, pair: &Pair) -> Result<Scoring, EvalError> {
        let until = Instant::now() + Duration::from_millis(self.settings.time_limit_ms);
        let collection = &pair.generation.collection;
        let mut scoring = Scoring::default();
        let mut cursor: Option<String> = None;
        loop {
            let page = self.cases.cases(scope, collection, (cursor.as_deref(), PAGE)).await?;
            for case in page.items {
                if scoring.counts.scored >= self.settings.max_cases || Instant::now() >= until {
                    scoring.counts.not_reached += 1;
                    continue;
                }
                self.score_case(scope, pair, &case, &mut scoring).await?;
            }
            cursor = page.next;
            if cursor.is_none() || scoring.counts.not_reached > 0 {
                return Ok(scoring);
            }
        }
    }

    async fn score_case(
        &self,
        scope: &TenantScope,
        pair: &Pair,
        case: &EvalCase,
        scoring: &mut Scoring,
    ) -> Result<(), EvalError> {
        let held = |document: &DocumentId| holds(&pair.generation, document);
        let grade = |grade: u32| i32::try_from(grade).unwrap_or(i32::MAX);
        let relevant = case.relevant.iter().filter(|(document, _)| held(document));
        let grades: Grades = relevant.map(|(document, one)| (document.to_string(), grade(*one))).collect();
        if grades.is_empty() {
            scoring.counts.outside_sample += 1;
            return Ok(());
        }
        let sides = [&pair.beside, &pair.generation];
        // They take turns in going first: the first one finds caches cold that the second one finds warm.
        let first = scoring.counts.scored % 2;
        let mut ran = [Ran::default(), Ran::default()];
        for side in [first, 1 - first] {
            ran[side] = self.ask(scope, (pair, sides[side]), case, &mut scoring.degraded).await?;
        }
        let [beside, generation] = ran;
        scoring.cases.push(ScoredCase { grades, beside, generation });
        scoring.counts.scored += 1;
        Ok(())
    }

    /// A plain search for the time that it takes, and a wide one for the ranking.
    async fn ask(
        &self,
        scope: &TenantScope,
        (pair, side): (&Pair, &GenerationStatus),
        case: &EvalCase,
        degraded: &mut BTreeSet<String>,
    ) -> Result<Ran, EvalError> {
        let collection = &pair.generation.collection;
        let plain = QueryOverrides { collection: Some(collection.clone()), ..QueryOverrides::default() };
        let max_top_k = self.defaults.settings().limits.max_top_k;
        let depth = ranking_depth(&pair.generation).min(max_top_k);
        let wide = QueryOverrides { top_k: Some(depth), group_by: Some(GroupBy::Document), ..plain.clone() };
        let timed = self.search(scope, &side.generation, (case, plain)).await?;
        let ranked = self.search(scope, &side.generation, (case, wide)).await?;
        // A model that cannot read the query's script or the hits' language is left out by design.
        let skipped =
            timed.degraded.iter().chain(&ranked.degraded).filter(|one| !matches!(one.reason, "script" | "language"));
        degraded.extend(skipped.map(ToString::to_string));
        let found = ranked.hits.iter().map(|hit| &hit.document_id).filter(|id| holds(&pair.generation, id));
        let mut ranking = documents_of_chunks(found.map(DocumentId::as_str));
        ranking.truncate(RANKING_DEPTH);
        Ok(Ran { ranking, took_ms: timed.took_ms })
    }

    async fn search(
        &self,
        scope: &TenantScope,
        generation: &Generation,
        (case, overrides): (&EvalCase, QueryOverrides),
    ) -> Result<SearchResult, EvalError> {
        let unusable = |error: crate::search::InvalidQuery| EvalError::Case {
            name: case.name.clone(),
            detail: error.0.iter().map(|fault| fault.detail.as_str()).collect::<Vec<_>>().join("; "),
        };
        let query = self.defaults.query(Some(case.query.clone()), overrides).map_err(unusable)?;
        Ok(self.searcher.search_in(scope, &query, generation, Instant::now()).await?)
    }

    async fn context_cost(&self, scope: &TenantScope, generation: &Generation) -> Result<Option<Nanousd>, EvalError> {
        let ContextSpec::Written { prompt, version, .. } = &generation.profile.context else { return Ok(None) };
        let group = format!("{prompt}@{version}");
        let usage = self.ledger.usage(scope, UsageBy::PromptVersion, generation.created_at, USAGE_GROUPS).await?;
        let own = usage.iter().find(|row| row.group.as_ref() == Some(&group));
        Ok(Some(own.map_or(Nanousd::default(), |row| row.cost)))
    }
}

fn is_sample(status: &GenerationStatus) -> bool {
    status.plan.sample < 1.0
}

/// True unless the generation is a sample that the document is not in.
fn holds(status: &GenerationStatus, document: &DocumentId) -> bool {
    !is_sample(status) || lot(status.generation.id, document) < status.plan.sample
}

/// Documents to ask for, so that about enough of them are in the sample.
fn ranking_depth(status: &GenerationStatus) -> usize {
    if !is_sample(status) {
        return RANKING_DEPTH;
    }
    let deeper = RANKING_DEPTH as f64 * SAMPLE_MARGIN / status.plan.sample.max(f64::MIN_POSITIVE);
    deeper.ceil() as usize
}

fn size(status: &GenerationStatus) -> SizeReport {
    let dimensions = status.generation.profile.embedder.as_ref().map_or(0, |embedder| embedder.dimensions as u64);
    SizeReport { counts: status.counts, vector_bytes: status.counts.vectors * dimensions * DIMENSION_BYTES }
}
