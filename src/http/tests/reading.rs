//! Stored documents, versions and chunks on the wire.

use serde_json::json;

use super::world::World;

#[tokio::test]
async fn a_document_has_the_shape_of_the_contract() {
    let world = World::open();

    let reply = world.get("/documents/docs%2Fa.md").await;

    let expected = json!({
        "trace_id": reply.header("x-trace-id"), "id": "docs/a.md", "collection": "default", "title": null,
        "source_uri": null, "media_type": "text/markdown", "metadata": {}, "acl": null, "version": 2,
        "content_hash": blake3::hash(b"content").to_hex().to_string(), "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00.000001Z", "indexed_at": "2026-01-01T00:00:00Z", "chunk_count": 1,
        "generation": format!("gen_{}", "01".repeat(16)),
    });
    assert_eq!(reply.json(), expected);
}

#[tokio::test]
async fn a_listing_goes_page_by_page() {
    let world = World::open();

    let first = world.get("/documents?limit=1").await.json();
    let second = world.get(&format!("/documents?cursor={}", first["next_cursor"].as_str().unwrap())).await;

    assert_eq!(first["documents"].as_array().unwrap().len(), 1);
    assert!(first["documents"][0].get("trace_id").is_none());
    assert_eq!(second.json()["documents"].as_array().unwrap().len(), 2);
    assert_eq!(world.get("/documents?cursor=forged").await.pointers(), ["/cursor"]);
    assert_eq!(world.get("/documents?limit=0").await.pointers(), ["/limit"]);
    assert_eq!(world.get("/documents?limit=1001").await.pointers(), ["/limit"]);
    assert_eq!(world.get("/documents?limit=1000000000000000000000").await.pointers(), ["/limit"]);
}

#[tokio::test]
async fn versions_chunks_and_content_are_there() {
    let world = World::open();

    let versions = world.get("/documents/docs%2Fa.md/versions").await.json();
    let chunks = world.get("/documents/docs%2Fa.md/chunks?version=2").await.json();
    let content = world.get("/documents/docs%2Fa.md/content").await;

    let keys: Vec<_> = versions["versions"][0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["chunk_count", "content_hash", "created_at", "version"]);
    let provenance = &chunks["chunks"][0]["provenance"];
    let (start, end) = (provenance["byte_range"][0].as_u64().unwrap(), provenance["byte_range"][1].as_u64().unwrap());
    assert_eq!((start, end), (10, 22));
    assert_eq!(content.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(content.text, "how to bäck it up\n");
    world.get("/documents/docs%2Fa.md/content?version=3").await.problem(404, "not-found");
    assert_eq!(world.get("/documents/docs%2Fa.md/content?version=x").await.pointers(), ["/version"]);
}

#[tokio::test]
async fn a_chunk_names_its_neighbours() {
    let world = World::open();

    let chunk = world.get(&format!("/chunks/{}", super::rooms::chunk_id())).await.json();

    assert_eq!(chunk["document_id"], "docs/a.md");
    assert_eq!((&chunk["previous"], &chunk["next"]), (&json!(null), &json!(format!("chk_{}", "02".repeat(16)))));
    for unknown in ["chk_00", "no-id", "chk_", &format!("chk_{}", "00".repeat(16))] {
        world.get(&format!("/chunks/{unknown}")).await.problem(404, "not-found");
    }
}

#[tokio::test]
async fn collections_tell_their_recipe() {
    let body = World::open().get("/collections").await.json();

    assert_eq!(body["collections"][0]["name"], "default");
    assert_eq!(body["collections"][0]["analyzer"]["language"], "en");
    assert_eq!(body["collections"][0]["embedder"], json!(null));
}
