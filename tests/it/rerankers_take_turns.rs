//! Which reranker orders the head: the best that time, script and language allow, and what a search says of the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use plumb::domain::{StageScore, TenantScope};
use plumb::inference::{InferenceError, RerankPassage, RerankQuery, Reranker};
use plumb::ingest::IncomingDocument;
use plumb::search::QueryOverrides;
use tempfile::tempdir;

use crate::bed::{Bed, Making, MonoglotReranker, ScriptedReranker, SilentReranker, degraded, documents, named, text};

fn sea_documents() -> Vec<IncomingDocument> {
    vec![
        text("whale", "The white whale swam through the cold ocean."),
        text("shark", "A hungry shark swam near the reef all day."),
        text("error", "Restart the pump when ERR_CONN_4012 shows up on the panel."),
    ]
}

/// Puts the shark first, which the fused order does not.
fn shark_first() -> Arc<ScriptedReranker> {
    Arc::new(ScriptedReranker(HashMap::from([("shark", 5.0), ("whale", 1.0)])))
}

/// One that never serves: it refuses, or it says beforehand that a passage takes it an hour.
struct Unwilling {
    name: &'static str,
    pace: Option<Duration>,
    asked: AtomicUsize,
}

impl Unwilling {
    fn new(name: &'static str, pace: Option<Duration>) -> Arc<Self> {
        Arc::new(Self { name, pace, asked: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Reranker for Unwilling {
    fn name(&self) -> &str {
        self.name
    }

    fn expected_pace(&self) -> Option<Duration> {
        self.pace
    }

    async fn rerank(
        &self,
        _scope: &TenantScope,
        _query: &RerankQuery,
        _passages: &[RerankPassage],
        _deadline: Option<Instant>,
    ) -> Result<Vec<f32>, InferenceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Err(InferenceError::Overloaded { model: self.name.to_owned(), limit_tokens: 1 })
    }
}

fn reranking(reranker: Option<Arc<dyn Reranker>>, depth: usize) -> Making {
    let mut making = Making { reranker, ..Making::default() };
    making.search.rerank.enabled = true;
    making.search.rerank.depth = depth;
    // Of a rescorer, which none of these is.
    making.search.rerank.blend = 0.0;
    making.search.rerank.cross_encoder_blend = 1.0;
    making
}

#[tokio::test]
async fn the_reranker_orders_the_head() {
    let dir = tempdir().unwrap();
    let bed = Bed::with(dir.path(), reranking(Some(shark_first()), 20)).await;
    bed.put_indexed(sea_documents()).await;

    let result = bed.search("white whale swam", QueryOverrides::default()).await.unwrap();

    assert_eq!(documents(&result)[..2], ["shark", "whale"]);
    assert_eq!(result.hits[0].breakdown.rerank, Some(StageScore { rank: 1, score: 5.0 }));
    assert_eq!(result.hits[1].breakdown.fusion.map(|place| place.rank), Some(1));
    assert!(result.degraded.is_empty());
    bed.close().await;
}

#[tokio::test]
async fn a_reranker_that_is_missing_or_late_leaves_the_fused_order_and_is_named() {
    let dir = tempdir().unwrap();
    let fused = Bed::open(dir.path()).await;
    fused.put_indexed(sea_documents()).await;
    let expected = fused.found("white whale swam").await;
    fused.close().await;

    let without = Bed::with(dir.path(), reranking(None, 20)).await;
    let result = without.search("white whale swam", QueryOverrides::default()).await.unwrap();
    assert_eq!((documents(&result), degraded(&result)), (expected.clone(), vec!["rerank:unavailable".to_owned()]));
    without.close().await;

    let late = Bed::with(dir.path(), reranking(Some(Arc::new(SilentReranker)), 20)).await;
    // Long enough for the legs on a busy machine; the reranker never ends.
    let hurry = QueryOverrides { deadline_ms: Some(3000), ..QueryOverrides::default() };
    let result = late.search("white whale swam", hurry).await.unwrap();
    // On a busy machine what comes after the reranker may run out of time as well.
    assert_eq!((documents(&result), degraded(&result)[0].as_str()), (expected, "rerank:deadline"));
    late.close().await;
}

#[tokio::test]
async fn a_reranker_that_does_not_know_the_language_is_passed_over_and_named_if_nobody_does() {
    let dir = tempdir().unwrap();
    let fused = Bed::open(dir.path()).await;
    fused.put_indexed(sea_documents()).await;
    let expected = fused.found("white whale swam").await;
    fused.close().await;
    let scripted = || ScriptedReranker(HashMap::from([("shark", 5.0), ("whale", 1.0)]));
    let monoglot = |word| Arc::new(MonoglotReranker(scripted(), word));

    let stranger = Bed::with(dir.path(), reranking(Some(monoglot("walvis")), 20)).await;
    let result = stranger.search("white whale swam", QueryOverrides::default()).await.unwrap();
    assert_eq!((documents(&result), degraded(&result)), (expected, vec!["rerank:language".to_owned()]));
    assert_eq!(result.reranked_by, None);
    stranger.close().await;

    for (word, by) in [("walvis", "scripted"), ("whale", "monoglot")] {
        let mut making = reranking(Some(Arc::new(scripted())), 20);
        making.better_rerankers = vec![named(monoglot(word))];
        let bed = Bed::with(dir.path(), making).await;
        let result = bed.search("white whale swam", QueryOverrides::default()).await.unwrap();
        assert_eq!(documents(&result)[0], "shark");
        assert_eq!((result.reranked_by.as_deref(), degraded(&result)), (Some(by), vec![]));
        bed.close().await;
    }
}

#[tokio::test]
async fn better_rerankers_that_are_late_give_way_to_the_next_and_one_by_name_stands_alone() {
    let dir = tempdir().unwrap();
    let mut making = reranking(Some(shark_first()), 20);
    making.better_rerankers = vec![named(Arc::new(SilentReranker)), named(Arc::new(SilentReranker))];
    making.reranker_names = vec!["away".to_owned()];
    making.search.rerank.budget_ms = 50;
    let bed = Bed::with(dir.path(), making).await;
    bed.put_indexed(sea_documents()).await;

    let result = bed.search("white whale swam", QueryOverrides::default()).await.unwrap();

    assert_eq!(documents(&result)[..2], ["shark", "whale"]);
    assert_eq!(
        (degraded(&result), result.reranked_by.as_deref()),
        (vec!["rerank:smaller_model".to_owned()], Some("scripted"))
    );

    let only = |name: &str| QueryOverrides { rerank_model: Some(name.to_owned()), ..QueryOverrides::default() };
    let result = bed.search("white whale swam", only("scripted")).await.unwrap();
    assert_eq!((degraded(&result), result.reranked_by.as_deref()), (Vec::new(), Some("scripted")));

    let result = bed.search("white whale swam", only("away")).await.unwrap();
    assert_eq!((documents(&result)[0].as_str(), result.reranked_by.as_deref()), ("whale", None));
    assert_eq!(degraded(&result), ["rerank:unavailable"]);

    let refused = bed.search("white whale swam", only("nobody")).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "unknown reranker \"nobody\"; here are: silent, silent, scripted, away (not loaded)"
    );
    bed.close().await;
}

#[tokio::test]
async fn one_that_refuses_and_one_that_would_take_too_long_give_way_and_the_latter_is_not_asked() {
    let dir = tempdir().unwrap();
    let full = Unwilling::new("full", None);
    let slow = Unwilling::new("slow", Some(Duration::from_secs(3600)));
    let mut making = reranking(Some(shark_first()), 20);
    making.better_rerankers = vec![named(slow.clone()), named(full.clone())];
    let bed = Bed::with(dir.path(), making).await;
    bed.put_indexed(sea_documents()).await;

    let result = bed.search("white whale swam", QueryOverrides::default()).await.unwrap();

    assert_eq!(documents(&result)[..2], ["shark", "whale"]);
    assert_eq!(
        (degraded(&result), result.reranked_by.as_deref()),
        (vec!["rerank:smaller_model".to_owned()], Some("scripted"))
    );
    let asked = |one: &Unwilling| one.asked.load(Ordering::Relaxed);
    assert_eq!((asked(&slow), asked(&full)), (0, 1));

    let only = |name: &str| QueryOverrides { rerank_model: Some(name.to_owned()), ..QueryOverrides::default() };
    for (name, reason) in [("slow", "rerank:deadline"), ("full", "rerank:overloaded")] {
        let result = bed.search("white whale swam", only(name)).await.unwrap();
        assert_eq!((documents(&result)[0].as_str(), result.reranked_by.as_deref()), ("whale", None));
        assert_eq!(degraded(&result), [reason]);
    }
    assert_eq!(asked(&slow), 0);
    bed.close().await;
}
