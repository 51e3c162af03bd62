//! Generations on the wire: what is shown, what is asked of the desk, and how its refusals read.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;

use super::world::{World, keyed, request};
use crate::domain::{
    ChunkerSpec, CollectionName, ContextSpec, Generation, GenerationCounts, GenerationId, GenerationPlan,
    GenerationState, GenerationStatus, Permission, Profile, Rollout, TenantScope, Timestamp,
};
use crate::eval::{
    CaseCounts, CostReport, EvalError, GenerationReport, Interval, MetricReport, ShadowReport, SizeReport, Verdict,
};
use crate::http::ports::{GenerationPort, ReportPort};
use crate::index::analyzer_spec;
use crate::jobs::{DeskError, Force, GenerationView, PlanPatch, Transition};

const ID: GenerationId = GenerationId([1; 16]);

/// A desk with one generation in shadow that writes down what it is asked.
#[derive(Default)]
pub struct OneGeneration {
    pub asked: Mutex<Vec<String>>,
}

fn view() -> GenerationView {
    let chunker =
        ChunkerSpec { name: "sentences".to_owned(), version: 1, params: [("counter".into(), "words".into())].into() };
    let profile = Profile { chunker, embedder: None, analyzer: analyzer_spec("en"), context: ContextSpec::default() };
    let generation = Generation { id: ID, profile, state: GenerationState::Shadow, created_at: Timestamp(0) };
    let plan = GenerationPlan { rollout: Rollout { share: 0.25, filter: None }, ..GenerationPlan::default() };
    let counts = GenerationCounts { documents: 8, built: 6, serving: 2, chunks: 30, vectors: 0 };
    let status = GenerationStatus {
        generation,
        collection: CollectionName::new("default").unwrap(),
        plan,
        counts,
        changed_at: Timestamp(1_000_000),
        previous: None,
        task: None,
        removed_at: None,
    };
    GenerationView { status, to_build: 2, eta: Some(std::time::Duration::from_millis(1500)) }
}

impl OneGeneration {
    fn note(&self, id: GenerationId, what: impl Into<String>) -> Result<GenerationView, DeskError> {
        self.asked.lock().push(what.into());
        if id == ID { Ok(view()) } else { Err(DeskError::Unknown) }
    }

    fn moved(&self, id: GenerationId, what: impl Into<String>) -> Result<Transition, DeskError> {
        let generation = self.note(id, what)?;
        Ok(Transition { live: generation.clone(), generation, moved: 5, remaining: 1 })
    }
}

#[async_trait]
impl GenerationPort for OneGeneration {
    async fn list(&self, _: &TenantScope, _: Option<&CollectionName>) -> Result<Vec<GenerationView>, DeskError> {
        Ok(vec![self.note(ID, "list")?])
    }

    async fn one(&self, _: &TenantScope, id: GenerationId) -> Result<GenerationView, DeskError> {
        self.note(id, "one")
    }

    async fn plan(&self, _: &TenantScope, id: GenerationId, patch: PlanPatch) -> Result<GenerationView, DeskError> {
        if patch.filter.as_ref().is_some_and(serde_json::Value::is_string) {
            return Err(DeskError::Invalid(vec![("/filter".to_owned(), "is no filter".to_owned())]));
        }
        self.note(id, format!("plan {:?} {:?}", patch.share, patch.filter))
    }

    async fn promote(&self, _: &TenantScope, id: GenerationId, force: Force) -> Result<Transition, DeskError> {
        if force == Force::No {
            return Err(DeskError::NotWhole { absent: 2, documents: 8 });
        }
        self.moved(id, "promote")
    }

    async fn rollback(&self, _: &TenantScope, id: GenerationId) -> Result<Transition, DeskError> {
        self.moved(id, "rollback")
    }

    async fn retire(&self, _: &TenantScope, id: GenerationId) -> Result<Transition, DeskError> {
        self.moved(id, "retire")
    }
}

#[async_trait]
impl ReportPort for OneGeneration {
    async fn report(&self, _: &TenantScope, id: GenerationId) -> Result<Option<GenerationReport>, EvalError> {
        if id != ID {
            return Ok(None);
        }
        let size = SizeReport { counts: view().status.counts, vector_bytes: 0 };
        let difference = Interval { mean: 0.125, low: 0.0625, high: 0.25 };
        Ok(Some(GenerationReport {
            collection: CollectionName::new("default").unwrap(),
            generation: ID,
            state: GenerationState::Shadow,
            beside: GenerationId([2; 16]),
            cases: CaseCounts { scored: 12, ..CaseCounts::default() },
            restricted_to_sample: false,
            metrics: vec![MetricReport { name: "ndcg_at_10".into(), beside: 0.5, generation: 0.625, difference }],
            overlap_at_10: Some(0.75),
            latency: None,
            cost: CostReport { beside: size, generation: size, contexts: None },
            shadow: ShadowReport::default(),
            degraded: ["vector:deadline".to_owned()].into(),
            is_conclusive: true,
            verdict: Verdict::Better,
        }))
    }
}

fn path(rest: &str) -> String {
    format!("/generations/{ID}{rest}")
}

#[tokio::test]
async fn a_generation_tells_how_far_it_is_and_whom_it_serves() {
    let world = World::open();

    let listed = world.get("/generations?collection=default").await.json();
    let one = world.get(&path("")).await.json();

    assert_eq!(listed["generations"][0]["id"], one["id"]);
    assert_eq!((&one["state"], &one["collection"]), (&json!("shadow"), &json!("default")));
    assert_eq!((&one["built"], &one["serving"], &one["documents"]), (&json!(6), &json!(2), &json!(8)));
    assert_eq!((&one["eta_ms"], &one["to_build"]), (&json!(1500), &json!(2)));
    assert_eq!(one["rollout"], json!({"share": 0.25, "filter": null}));
    assert_eq!(one["profile"]["chunker"]["name"], "sentences");
    assert_eq!(one["profile"]["context"], "headings");
}

#[tokio::test]
async fn what_is_no_generation_is_not_found_whatever_it_looks_like() {
    let world = World::open();

    for id in ["gen_ffffffffffffffffffffffffffffffff", "nothing", "gen_1"] {
        world.get(&format!("/generations/{id}")).await.problem(404, "not-found");
        world.post(&format!("/generations/{id}/rollback"), "").await.problem(404, "not-found");
    }
}

#[tokio::test]
async fn a_promotion_that_would_lose_documents_is_refused_with_numbers_unless_it_is_forced() {
    let world = World::open();

    let refused = world.post(&path("/promote"), "").await.problem(409, "conflict");
    assert!(refused["detail"].as_str().unwrap().contains("2 of 8 documents"), "{refused}");
    let forced = world.post(&path("/promote?force=true"), "").await.json();
    assert_eq!((&forced["moved"], &forced["remaining"], &forced["live"]), (&json!(5), &json!(1), &forced["id"]));
}

#[tokio::test]
async fn a_plan_changes_what_it_names() {
    let world = World::open();

    world.put(&path("/plan"), r#"{"rollout": {"share": 0.5}}"#).await;
    world.put(&path("/plan"), r#"{"rollout": {"share": 1, "filter": null}}"#).await;

    let asked = world.rooms.generations.asked.lock().clone();
    assert_eq!(asked, ["plan Some(0.5) None", "plan Some(1.0) Some(Null)"]);
}

#[tokio::test]
async fn faults_of_a_plan_point_into_the_request() {
    let world = World::open();

    let shares = world.put(&path("/plan"), r#"{"rollout": {"share": 2}, "promotion": "soon"}"#).await;
    let filter = world.put(&path("/plan"), r#"{"rollout": {"share": 1, "filter": "x"}}"#).await;
    let unknown = world.put(&path("/plan"), r#"{"shares": 1}"#).await;

    let pointers = |problem: serde_json::Value| -> Vec<String> {
        problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|fault| fault["pointer"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(pointers(shares.problem(422, "unprocessable-request")), ["/rollout/share", "/promotion"]);
    assert_eq!(pointers(filter.problem(422, "unprocessable-request")), ["/rollout/filter"]);
    assert!(unknown.status.is_client_error(), "{}", unknown.text);
}

#[tokio::test]
async fn a_report_gives_each_difference_with_its_interval() {
    let world = World::open();

    let report = world.get(&path("/report")).await.json();

    assert_eq!(
        (&report["verdict"], &report["is_conclusive"], &report["cases"]),
        (&json!("better"), &json!(true), &json!(12))
    );
    let metric = json!({
        "name": "ndcg_at_10", "beside": 0.5, "generation": 0.625, "difference": 0.125, "interval": [0.0625, 0.25]
    });
    assert_eq!(report["metrics"], json!([metric]));
    assert_eq!(report["degraded"], json!(["vector:deadline"]));
}

#[tokio::test]
async fn only_keys_that_may_administer_reach_generations() {
    let (key, auth) = keyed("acme", &[Permission::Search, Permission::Write, Permission::Answer]);
    let world = World::with(crate::http::HttpSettings::default(), auth);
    let bearer = format!("Bearer {key}");

    for (method, path) in
        [("GET", "/generations".to_owned()), ("POST", path("/promote")), ("POST", "/generations".into())]
    {
        let reply = world.send(request(method, &path, &[("authorization", &bearer)], "{}")).await;
        reply.problem(403, "forbidden");
    }
    assert!(world.rooms.generations.asked.lock().is_empty());
}

/// For worlds that are about something else.
pub fn desk() -> Arc<OneGeneration> {
    Arc::default()
}
