//! Labelled queries on the wire.

use std::collections::BTreeMap;

use async_trait::async_trait;
use axum::body::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::domain::{CollectionName, GenerationId, Permission, TenantScope};
use crate::http::{AuthSettings, HttpSettings};
use crate::store::{CaseStore, EvalCase, Page, ShadowSearch, StoreError};

use super::world::{Reply, World, keyed, request};

/// Cases in memory, by tenant, collection and name; the only collection is `default`. A cursor is the name of the last case of a page.
#[derive(Default)]
pub struct MemoryCases(Mutex<BTreeMap<(String, String), BTreeMap<String, EvalCase>>>);

fn key(scope: &TenantScope, collection: &CollectionName) -> (String, String) {
    (scope.tenant.to_string(), collection.to_string())
}

#[async_trait]
impl CaseStore for MemoryCases {
    async fn put_cases(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        cases: &[EvalCase],
    ) -> Result<u64, StoreError> {
        if collection.as_str() != "default" {
            return Err(StoreError::NoCollection { name: collection.to_string() });
        }
        let mut all = self.0.lock();
        let own = all.entry(key(scope, collection)).or_default();
        own.extend(cases.iter().map(|case| (case.name.clone(), case.clone())));
        Ok(own.len() as u64)
    }

    async fn cases(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        (cursor, limit): (Option<&str>, usize),
    ) -> Result<Page<EvalCase>, StoreError> {
        let all = self.0.lock();
        let own = all.get(&key(scope, collection)).into_iter().flatten();
        let left: Vec<EvalCase> =
            own.filter(|(name, _)| cursor.is_none_or(|at| name.as_str() > at)).map(|(_, case)| case.clone()).collect();
        let next = left.get(limit).map(|_| left[limit - 1].name.clone());
        Ok(Page { items: left.into_iter().take(limit).collect(), next })
    }

    async fn delete_case(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        name: &str,
    ) -> Result<bool, StoreError> {
        let mut all = self.0.lock();
        Ok(all.get_mut(&key(scope, collection)).is_some_and(|own| own.remove(name).is_some()))
    }

    async fn record_shadow(&self, _: &TenantScope, _: Vec<ShadowSearch>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn shadow_searches(
        &self,
        _: &TenantScope,
        _: GenerationId,
        _: usize,
    ) -> Result<Vec<ShadowSearch>, StoreError> {
        Ok(Vec::new())
    }
}

fn case(id: &str, relevant: Value) -> Value {
    json!({"id": id, "query": "how do I rotate a key", "relevant": relevant})
}

async fn put(world: &World, cases: &[Value]) -> Reply {
    world.put("/evals/cases", json!({"cases": cases}).to_string()).await
}

#[tokio::test]
async fn cases_are_added_replaced_listed_and_removed() {
    let world = World::open();

    let first = put(&world, &[case("b", json!({"x": 1})), case("a/1", json!({"x": 2, "y": 1}))]).await;
    let second = put(&world, &[case("b", json!({"z": 3}))]).await;

    let expected = json!({"trace_id": first.header("x-trace-id"), "collection": "default", "cases": 2});
    assert_eq!((first.json(), second.json()["cases"].as_u64()), (expected, Some(2)));
    let page = world.get("/evals/cases?limit=1").await.json();
    assert_eq!(page["cases"], json!([case("a/1", json!({"x": 2, "y": 1}))]));
    let rest = world.get(&format!("/evals/cases?cursor={}", page["next_cursor"].as_str().unwrap())).await.json();
    assert_eq!((&rest["cases"], &rest["next_cursor"]), (&json!([case("b", json!({"z": 3}))]), &json!(null)));
    let gone = world.send(request("DELETE", "/evals/cases/a%2F1", &[], Body::empty())).await;
    assert_eq!((gone.status.as_u16(), gone.text.as_str()), (204, ""));
    world.send(request("DELETE", "/evals/cases/a%2F1", &[], Body::empty())).await.problem(404, "not-found");
    assert_eq!(world.get("/evals/cases").await.json()["cases"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn every_fault_of_a_batch_is_named_and_nothing_of_it_is_taken() {
    let world = World::open();
    let many: serde_json::Map<String, Value> = (0..1_001).map(|n| (format!("d{n}"), json!(1))).collect();

    let faults = [
        case("", json!({"x": 1})),
        case("none", json!({})),
        case("grade", json!({"a/b": 0, "c": 101})),
        case("twice", json!({"x": 1})),
        case("twice", json!({"x": 1})),
        json!({"id": "blank", "query": " ", "relevant": {"x": 1}}),
        case("many", Value::Object(many)),
        case(&"i".repeat(257), json!({"x": 1})),
    ];

    let expected = [
        "/cases/0/id",
        "/cases/1/relevant",
        "/cases/2/relevant/a~1b",
        "/cases/2/relevant/c",
        "/cases/4/id",
        "/cases/5/query",
        "/cases/6/relevant",
        "/cases/7/id",
    ];
    assert_eq!(put(&world, &faults).await.pointers(), expected);
    assert_eq!(put(&world, &[]).await.pointers(), ["/cases"]);
    assert_eq!(put(&world, &vec![case("a", json!({"x": 1})); 1_001]).await.pointers(), ["/cases"]);
    assert_eq!(world.get("/evals/cases?limit=0").await.pointers(), ["/limit"]);
    assert_eq!(world.get("/evals/cases").await.json()["cases"], json!([]));
}

#[tokio::test]
async fn a_collection_that_is_not_there_takes_no_cases() {
    let body = json!({"collection": "tpyo", "cases": [case("a", json!({"x": 1}))]});

    World::open().put("/evals/cases", body.to_string()).await.problem(404, "not-found");
}

#[tokio::test]
async fn cases_belong_to_a_tenant_and_are_for_those_who_may_write() {
    let (acme, mut auth) = keyed("acme", &[Permission::Write]);
    let (other, theirs) = keyed("other", &[Permission::Write]);
    let (reader, readers) = keyed("acme", &[Permission::Search, Permission::Answer]);
    auth.keys.extend(theirs.keys.into_iter().chain(readers.keys));
    let world = World::with(HttpSettings::default(), AuthSettings { keys: auth.keys });
    let send = async |key: &str, method: &str, path: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = json!({"cases": [case("a", json!({"secret.md": 1}))]}).to_string();
        world.send(request(method, path, &headers, body)).await
    };

    assert_eq!(send(&acme, "PUT", "/evals/cases").await.status, 200);

    assert_eq!(send(&other, "GET", "/evals/cases").await.json()["cases"], json!([]));
    send(&other, "DELETE", "/evals/cases/a").await.problem(404, "not-found");
    for (method, path) in [("GET", "/evals/cases"), ("PUT", "/evals/cases"), ("DELETE", "/evals/cases/a")] {
        send(&reader, method, path).await.problem(403, "forbidden");
    }
    assert_eq!(send(&acme, "GET", "/evals/cases").await.json()["cases"].as_array().unwrap().len(), 1);
}
