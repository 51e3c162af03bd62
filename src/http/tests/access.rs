//! Who gets in, and that nothing happens before that is known.

use std::sync::atomic::Ordering;

use axum::body::Body;
use bytes::Bytes;
use serde_json::Value;

use crate::domain::{Permission, Visibility};
use crate::http::{AuthSettings, HttpSettings};

use super::world::{World, counted, keyed, request};

const ALL: [Permission; 4] = [Permission::Search, Permission::Answer, Permission::Write, Permission::Admin];

/// Every operation of the description: method, a path that fits, and whether it needs a key.
fn operations() -> Vec<(String, String, bool)> {
    let api: Value = serde_json::from_str(&crate::http::openapi_json()).unwrap();
    let mut found = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        let path = path.replace("{document_id}", "docs%2Fa.md").replace("{chunk_id}", "chk_00");
        let path = path.replace("{scope}", "task:answer").replace("{call_id}", "cal_00");
        for (method, operation) in item.as_object().unwrap() {
            found.push((method.to_uppercase(), path.clone(), operation.get("security").is_some()));
        }
    }
    found
}

#[tokio::test]
async fn without_a_valid_key_nothing_is_read_and_nobody_is_asked() {
    let (plain, auth) = keyed("acme", &ALL);
    let world = World::with(HttpSettings::default(), auth.clone());
    let revoked = {
        let (plain, mut settings) = keyed("acme", &ALL);
        settings.keys[0].revoked = true;
        (plain, World::with(HttpSettings::default(), settings))
    };
    let wrong = format!("Bearer {}", &plain.replace('a', "b").replace('1', "2"));
    let attempts: [(&World, Option<&str>); 6] = [
        (&world, None),
        (&world, Some("")),
        (&world, Some("Bearer")),
        (&world, Some("Basic cGx1bWI6cGx1bWI=")),
        (&world, Some(&wrong)),
        (&revoked.1, Some(&format!("Bearer {}", revoked.0))),
    ];
    let guarded: Vec<_> = operations().into_iter().filter(|(_, _, needs_key)| *needs_key).collect();
    assert!(guarded.len() >= 15, "{guarded:?}");

    for (method, path, _) in &guarded {
        for (world, authorization) in &attempts {
            let (body, read) = counted(vec![Bytes::from_static(b"{}")]);
            let mut headers = vec![("content-type", "application/json")];
            headers.extend(authorization.map(|value| ("authorization", value)));

            let reply = world.send(request(method, path, &headers, body)).await;

            if method != "HEAD" {
                reply.problem(401, "unauthenticated");
            }
            assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"plumb\"");
            assert_eq!(read.load(Ordering::SeqCst), 0, "{method} {path} read a body");
            assert_eq!(world.asked().anything(), 0, "{method} {path} asked a room");
        }
    }
}

#[tokio::test]
async fn a_key_without_the_permission_is_refused_before_the_body_is_read() {
    let reader = keyed("acme", &[Permission::Search]);
    let asker = keyed("acme", &[Permission::Answer]);
    let cases = [
        (&reader, "PUT", "/documents/a"),
        (&reader, "POST", "/documents"),
        (&reader, "DELETE", "/documents/a"),
        (&reader, "POST", "/answer"),
        (&reader, "GET", "/metrics"),
        (&asker, "POST", "/search"),
        (&asker, "GET", "/documents"),
        (&asker, "GET", "/collections"),
    ];

    for ((plain, auth), method, path) in cases {
        let world = World::with(HttpSettings::default(), auth.clone());
        let (body, read) = counted(vec![Bytes::from_static(b"{}")]);
        let bearer = format!("Bearer {plain}");

        let reply = world.send(request(method, path, &[("authorization", &bearer)], body)).await;

        reply.problem(403, "forbidden");
        assert_eq!(read.load(Ordering::SeqCst), 0, "{method} {path}");
        assert_eq!(world.asked().anything(), 0, "{method} {path}");
    }
}

#[tokio::test]
async fn routes_without_a_key_are_few_and_tell_nothing_of_the_data() {
    let (_, auth) = keyed("acme", &ALL);
    let world = World::with(HttpSettings::default(), auth);

    let open: Vec<_> = operations().into_iter().filter(|(_, _, needs_key)| !needs_key).collect();

    let mut paths: Vec<_> = open.iter().map(|(_, path, _)| path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/", "/healthz", "/openapi.json", "/readyz", "/version"]);
    for (method, path, _) in &open {
        assert_eq!(world.send(request(method, path, &[], Body::empty())).await.status, 200, "{path}");
    }
    assert_eq!(world.get("/docs/").await.status, 200);
    assert_eq!(world.asked().anything(), 0);
    world.get("/nowhere").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn the_key_decides_tenant_and_sight() {
    let (plain, mut auth) = keyed("acme", &[Permission::Search]);
    auth.keys[0].principals = ["group:eng".parse_principal()].into();
    let world = World::with(HttpSettings::default(), auth);
    let bearer = format!("Bearer {plain}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];

    let body = r#"{"query": "whale", "principals": ["user:ann"]}"#;
    assert_eq!(world.send(request("POST", "/search", &headers, body)).await.status, 200);

    let (scope, _) = world.asked().last_search.lock().clone().unwrap();
    assert_eq!(scope.tenant.as_str(), "acme");
    let expected = ["group:eng".parse_principal(), "user:ann".parse_principal()].into();
    assert_eq!(scope.visibility, Visibility::Principals(expected));
}

trait ParsePrincipal {
    fn parse_principal(&self) -> crate::domain::Principal;
}

impl ParsePrincipal for str {
    fn parse_principal(&self) -> crate::domain::Principal {
        crate::domain::Principal::new(self).unwrap()
    }
}

#[tokio::test]
async fn keys_in_urls_and_doubled_headers_are_refused() {
    let (plain, auth) = keyed("acme", &ALL);
    let world = World::with(HttpSettings::default(), auth);
    let bearer = format!("Bearer {plain}");

    let in_url = world.get(&format!("/search?q=a&key={plain}")).await;
    let doubled = [("authorization", bearer.as_str()), ("authorization", "Bearer x")];
    let doubled = world.send(request("GET", "/documents", &doubled, Body::empty())).await;
    let elsewhere = world.send(request("GET", "/documents", &[("x-api-key", &plain)], Body::empty())).await;

    let problem = in_url.problem(400, "malformed-request");
    assert!(!problem.to_string().contains(&plain));
    doubled.problem(400, "malformed-request");
    elsewhere.problem(401, "unauthenticated");
    assert_eq!(world.asked().anything(), 0);
}

#[tokio::test]
async fn paths_that_look_like_others_lead_nowhere() {
    let (plain, auth) = keyed("acme", &ALL);
    let world = World::with(HttpSettings::default(), auth);
    let bearer = format!("Bearer {plain}");

    for path in
        ["//documents", "/docs%2f..%2fdocuments", "/healthz/../documents", "/Documents", "/documents;x", "/healthz%00"]
    {
        let without = world.get(path).await.status;
        let with = world.send(request("GET", path, &[("authorization", &bearer)], Body::empty())).await.status;

        assert!(matches!(without.as_u16(), 401 | 404), "{path}: {without}");
        assert_eq!(with, 404, "{path}");
    }
    assert_eq!(world.asked().anything(), 0);
}

#[tokio::test]
async fn without_keys_only_loopback_names_and_own_pages_are_served() {
    let world = World::open();
    let status = async |headers: &[(&str, &str)]| {
        world.send(request("GET", "/documents", headers, Body::empty())).await.status.as_u16()
    };

    assert_eq!(status(&[("host", "localhost:7700")]).await, 200);
    assert_eq!(status(&[("host", "127.0.0.1:7700"), ("origin", "http://127.0.0.1:7700")]).await, 200);
    assert_eq!(status(&[("host", "evil.example")]).await, 421);
    assert_eq!(status(&[("host", "localhost:7700"), ("origin", "http://evil.example")]).await, 403);
    assert_eq!(status(&[("host", "localhost:7700"), ("origin", "null")]).await, 403);
}

#[tokio::test]
async fn a_server_with_keys_goes_by_any_name_and_allows_no_foreign_page_to_read() {
    let (plain, auth) = keyed("acme", &ALL);
    let world = World::with(HttpSettings::default(), auth);
    let bearer = format!("Bearer {plain}");
    let headers = [("host", "plumb.example"), ("origin", "http://other.example"), ("authorization", bearer.as_str())];

    let reply = world.send(request("GET", "/documents", &headers, Body::empty())).await;

    assert_eq!(reply.status, 200);
    assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("access-control")));
}

#[tokio::test]
async fn an_id_of_another_tenant_is_an_unknown_id() {
    let (mine, mut auth) = keyed("acme", &ALL);
    let (theirs, other) = keyed("other", &ALL);
    auth.keys.extend(other.keys);
    let world = World::with(HttpSettings::default(), AuthSettings { keys: auth.keys });
    let chunk = format!("/chunks/{}", super::rooms::chunk_id());
    let documents = "/documents/docs%2Fa.md";
    let paths = [
        documents.to_owned(),
        format!("{documents}/versions"),
        format!("{documents}/chunks"),
        format!("{documents}/content"),
        chunk,
    ];

    for path in paths {
        let send = async |key: &str, path: &str| {
            let bearer = format!("Bearer {key}");
            let trace = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
            world.send(request("GET", path, &[("authorization", &bearer), trace], Body::empty())).await
        };
        assert_eq!(send(&mine, &path).await.status, 200, "{path}");
        let foreign = send(&theirs, &path).await;
        let unknown = send(&mine, &path.replace("a.md", "b.md").replace("chk_ab", "chk_00")).await;

        foreign.problem(404, "not-found");
        assert_eq!(foreign.text, unknown.text, "{path}");
    }
}
