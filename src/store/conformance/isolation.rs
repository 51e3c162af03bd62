//! Promises about who sees what.

use crate::domain::ContentHash;
use crate::store::{StoreError, View, WithEmbeddings, WriteOutcome};

use super::fixture::{Ingest, Subject, collection_name, document_id, profile, reader, scope, written};

pub(crate) async fn tenants_with_the_same_ids_do_not_meet(store: Subject<'_>) {
    let (acme, evil) = (scope("acme"), scope("evil"));
    let (ours, theirs) = (Ingest::new("c", "d", &[1, 2]), Ingest::new("c", "d", &[3]));
    store.put(&acme, &ours).await;
    assert_eq!(store.corpus.collections(&evil).await.unwrap(), []);
    assert_eq!(store.corpus.collection(&evil, &collection_name("c")).await.unwrap(), None);
    let (version, _) = written(&store.put(&evil, &theirs).await);
    assert_eq!(version, 1, "versions are counted for each tenant");

    let (c, d) = (collection_name("c"), document_id("d"));
    let ids = ours.chunk_ids(&acme.tenant);
    assert_eq!(store.corpus.hydrate(&evil, (&c, View::Serving), &ids, WithEmbeddings::Yes).await.unwrap(), []);
    assert_eq!(store.corpus.chunk(&evil, ids[0]).await.unwrap(), None);
    assert_eq!(store.corpus.neighbours(&evil, ids[0], 9, 9).await.unwrap(), (vec![], vec![]));
    assert_eq!(store.corpus.content(&evil, &c, &d, None).await.unwrap(), Some(theirs.text()));
    let input: ContentHash = ours.input_hash(&ours.paragraphs[0]);
    let embedder = profile().embedder.unwrap().fingerprint();
    assert!(store.corpus.known_embeddings(&evil, embedder, &[input]).await.unwrap().is_empty());
    let (mine, other) = (store.open(&acme, "c").await.live.id, store.open(&evil, "c").await.live.id);
    let asked = std::slice::from_ref(&d);
    let indexable = store.log.indexable(&evil.tenant, (&c, other), asked, WithEmbeddings::No).await.unwrap();
    assert_eq!(indexable[0].as_ref().unwrap().chunks.len(), 1);
    let foreign = store.log.indexable(&evil.tenant, (&c, mine), asked, WithEmbeddings::No).await.unwrap();
    assert_eq!(foreign, [None], "a generation of another tenant holds nothing of this one");
    store.put(&acme, &Ingest::new("c", "e", &[4])).await;
    let cursor = store.corpus.documents(&acme, &c, None, 1).await.unwrap().next.unwrap();
    let refused = store.corpus.documents(&evil, &c, Some(&cursor), 1).await;
    assert!(matches!(refused, Err(StoreError::InvalidCursor { .. })));

    assert!(matches!(store.delete(&evil, "c", "d").await, WriteOutcome::Deleted { .. }));

    assert_eq!(store.corpus.hydrate(&acme, (&c, View::Serving), &ids, WithEmbeddings::No).await.unwrap().len(), 2);
    assert!(matches!(store.delete(&evil, "c", "e").await, WriteOutcome::NotFound));
}

pub(crate) async fn a_document_with_an_acl_is_hidden_from_others(store: Subject<'_>) {
    let owner = scope("acme");
    let secret = Ingest::new("c", "d", &[1, 2]).acl(&["user:ann", "group:eng"]);
    store.put(&owner, &secret).await;
    let id = secret.chunk_ids(&owner.tenant)[0];
    let (c, d) = (&secret.collection, &secret.document);

    for (principals, sees) in [(&["group:eng"][..], true), (&["user:bob"], false), (&[], false)] {
        let who = reader("acme", principals);
        assert_eq!(store.corpus.document(&who, c, d).await.unwrap().is_some(), sees);
        assert_eq!(store.corpus.documents(&who, c, None, 9).await.unwrap().items.len(), usize::from(sees));
        assert_eq!(store.corpus.versions(&who, c, d).await.unwrap().len(), usize::from(sees));
        assert_eq!(store.corpus.content(&who, c, d, None).await.unwrap().is_some(), sees);
        assert_eq!(store.corpus.content(&who, c, d, Some(1)).await.unwrap().is_some(), sees);
        assert_eq!(store.corpus.chunks(&who, c, d, None).await.unwrap().is_some(), sees);
        assert_eq!(store.corpus.chunk(&who, id).await.unwrap().is_some(), sees);
        let hits = store.corpus.hydrate(&who, (c, View::Serving), &[id], WithEmbeddings::No).await.unwrap();
        assert_eq!(hits.len(), usize::from(sees));
        let (_, later) = store.corpus.neighbours(&who, id, 1, 1).await.unwrap();
        assert_eq!(later.len(), usize::from(sees));
    }

    // An older version is as visible as its document is now.
    store.put(&owner, &Ingest::new("c", "d", &[3])).await;
    let anyone = reader("acme", &[]);
    assert!(store.corpus.content(&anyone, c, d, Some(1)).await.unwrap().is_some());
}

pub(crate) async fn pages_skip_what_the_reader_may_not_see(store: Subject<'_>) {
    let owner = scope("acme");
    for number in 0..9 {
        let ingest = Ingest::new("c", &format!("d{number}"), &[1]);
        let ingest = match number % 3 {
            0 => ingest,
            1 => ingest.acl(&["user:ann"]),
            _ => ingest.acl(&[]),
        };
        store.put(&owner, &ingest).await;
    }
    let ann = reader("acme", &["user:ann", "user:%\"'"]);

    let first = store.corpus.documents(&ann, &collection_name("c"), None, 4).await.unwrap();
    let second = store.corpus.documents(&ann, &collection_name("c"), first.next.as_deref(), 4).await.unwrap();

    let names: Vec<&str> = first.items.iter().chain(&second.items).map(|document| document.head.id.as_str()).collect();
    assert_eq!(names, ["d0", "d1", "d3", "d4", "d6", "d7"]);
    assert_eq!((first.items.len(), second.next), (4, None));
}
