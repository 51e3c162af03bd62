//! What was acknowledged survives `kill -9`.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use crate::store::conformance::{Ingest, Subject, collection_name, paragraph, scope};
use crate::store::{IntegrityCheck, SqliteStore, StoreSettings, View, WithEmbeddings, WriteOutcome};

use super::child;
use super::fixture::subject;

const WRITERS: usize = 4;

fn ingest(number: usize) -> Ingest {
    let mut ingest = Ingest::new("c", &format!("d{number}"), &[]);
    ingest.paragraphs = (0..1 + number % 4).map(|part| format!("{number}/{part} {}", paragraph(part))).collect();
    ingest
}

/// Writes documents until it is killed, and says of each when it is safe.
#[tokio::test]
async fn child_writes_until_killed() {
    let Some(path) = child::argument() else { return };
    let store = SqliteStore::open(Path::new(&path), StoreSettings::default()).await.unwrap();
    let store = subject(&store);
    let owner = scope("acme");
    store.open(&owner, "c").await;
    let writer = |first: usize| {
        let owner = &owner;
        async move {
            for number in (first..1_000_000).step_by(WRITERS) {
                let outcome = store.put(owner, &ingest(number)).await;
                assert!(matches!(outcome, WriteOutcome::Written { .. }), "{outcome:?}");
                println!("ACK {number}");
            }
        }
    };
    futures::future::join_all((0..WRITERS).map(writer)).await;
}

#[tokio::test]
async fn an_acknowledged_document_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    for acknowledgements in [1, 5, 33, 150] {
        let path = directory.path().join(format!("killed-{acknowledgements}.db"));

        let acked = write_and_kill(&path, acknowledgements);

        let settings = StoreSettings { integrity_check: IntegrityCheck::AfterCrash, ..StoreSettings::default() };
        let store = SqliteStore::open(&path, settings).await.unwrap();
        let recovered = check_recovered(subject(&store)).await;
        assert!(acked.len() >= acknowledgements);
        assert!(acked.is_subset(&recovered), "lost: {:?}", acked.difference(&recovered).collect::<Vec<_>>());
        store.close().await.unwrap();
    }
}

fn write_and_kill(path: &Path, acknowledgements: usize) -> HashSet<usize> {
    let mut process = child::command("durability::child_writes_until_killed", path.to_str().unwrap()).spawn().unwrap();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    let mut acked = HashSet::new();
    let mut line = String::new();
    while acked.len() < acknowledgements {
        line.clear();
        if output.read_line(&mut line).unwrap() == 0 {
            let mut errors = String::new();
            process.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            panic!("the child ended early: {errors}");
        }
        acked.extend(read_ack(&line));
    }
    // SIGKILL.
    process.kill().unwrap();
    process.wait().unwrap();
    // What it said before it died counts as well, but for a line that was cut short.
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
    acked.extend(whole.lines().filter_map(read_ack));
    acked
}

// The runner's own words may stand before the first acknowledgement.
fn read_ack(line: &str) -> Option<usize> {
    line.trim_end().rsplit_once("ACK ")?.1.parse().ok()
}

/// The documents in the store, each of which must be whole.
async fn check_recovered(store: Subject<'_>) -> HashSet<usize> {
    let owner = scope("acme");
    let name = collection_name("c");
    let mut recovered = HashSet::new();
    let mut cursor = None;
    loop {
        let page = store.corpus.documents(&owner, &name, cursor.as_deref(), 100).await.unwrap();
        for document in page.items {
            let number: usize = document.head.id.as_str()[1..].parse().unwrap();
            let expected = ingest(number);
            let content = store.corpus.content(&owner, &name, &document.head.id, None).await.unwrap();
            assert_eq!(content, Some(expected.text()));
            let ids = expected.chunk_ids(&owner.tenant);
            let hits = store.corpus.hydrate(&owner, (&name, View::Serving), &ids, WithEmbeddings::Yes).await.unwrap();
            assert_eq!(hits.len(), ids.len());
            assert!(hits.iter().all(|hit| hit.embedding.is_some()));
            let row = store.log.entries(None, crate::domain::Sequence(document.sequence.0 - 1), 1).await.unwrap();
            assert_eq!(row[0].chunks_added, ids);
            recovered.insert(number);
        }
        cursor = page.next;
        if cursor.is_none() {
            return recovered;
        }
    }
}
