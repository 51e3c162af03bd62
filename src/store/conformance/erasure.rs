//! Promises about forgetting for good.

use std::sync::Arc;

use serde_json::json;

use crate::domain::{ContentHash, DocumentId, Needles, TenantScope, Timestamp};
use crate::store::{CorpusRows, Erased, EvalCase, KeepVersions, LedgerEntry, Records, TaskFilter};

use super::fixture::{Ingest, Subject, collection_name, document_id, paragraph, profile, scope, written};
use super::ledger::{call, request};
use super::task_fixture::{json as json_text, kind, new_task, output, record};

async fn needles(subject: Subject<'_>, scope: &TenantScope, document: &str) -> Arc<Needles> {
    let remains = subject.erasure.remains(scope, &collection_name("c"), &document_id(document)).await.unwrap();
    Arc::new(remains.unwrap().needles)
}

async fn erase(subject: Subject<'_>, scope: &TenantScope, document: &str) -> Erased {
    let (collection, document) = (collection_name("c"), document_id(document));
    let erased = subject.erasure.erase_document(scope, &collection, &document).await.unwrap();
    if matches!(erased, Erased::Gone { .. }) {
        assert!(subject.erasure.free_id(scope, &collection, &document).await.unwrap());
    }
    erased
}

async fn is_embedded(subject: Subject<'_>, scope: &TenantScope, ingest: &Ingest, text: &str) -> bool {
    let embedder = profile().embedder.unwrap().fingerprint();
    let input: ContentHash = ingest.input_hash(text);
    !subject.corpus.known_embeddings(scope, embedder, &[input]).await.unwrap().is_empty()
}

pub(crate) async fn an_erased_document_leaves_no_row_and_its_id_begins_anew(subject: Subject<'_>) {
    let acme = scope("acme");
    let erased = Ingest::new("c", "erased", &[1, 2, 3]);
    subject.put(&acme, &erased).await;
    subject.put(&acme, &Ingest::new("c", "erased", &[1, 4])).await;
    // The same paragraph in another document, and the same document of somebody else.
    let other = Ingest::new("c", "other", &[3, 5]);
    subject.put(&acme, &other).await;
    subject.put(&scope("else"), &erased).await;
    subject.delete(&acme, "c", "erased").await;
    let found = subject.erasure.remains(&acme, &collection_name("c"), &document_id("erased")).await.unwrap();

    let gone = erase(subject, &acme, "erased").await;

    assert_eq!(found.unwrap().versions, 2, "what was deleted is still there");
    let removed = CorpusRows { versions: 2, chunks: 5, embeddings: 3, ..CorpusRows::default() };
    assert_eq!(gone, Erased::Gone { removed, left: CorpusRows::default() });
    let remains = subject.erasure.remains(&acme, &collection_name("c"), &document_id("erased")).await.unwrap();
    assert!(remains.is_none());
    assert!(!is_embedded(subject, &acme, &erased, &paragraph(1)).await);
    assert!(is_embedded(subject, &acme, &other, &paragraph(3)).await, "the other document has that vector, too");
    let content = |scope: TenantScope, document: &'static str| async move {
        subject.corpus.content(&scope, &collection_name("c"), &document_id(document), None).await.unwrap()
    };
    assert_eq!(content(acme.clone(), "other").await, Some(other.text()));
    assert_eq!(content(scope("else"), "erased").await, Some(erased.text()));
    assert_eq!(written(&subject.put(&acme, &erased).await).0, 1);
    assert_eq!(content(acme.clone(), "erased").await, Some(erased.text()));
    let again = erase(subject, &scope("nobody"), "erased").await;
    assert_eq!(again, Erased::Gone { removed: CorpusRows::default(), left: CorpusRows::default() });
}

pub(crate) async fn a_document_that_serves_is_not_erased(subject: Subject<'_>) {
    let acme = scope("acme");
    let served = Ingest::new("c", "served", &[1]);
    subject.put(&acme, &served).await;
    subject.put(&acme, &Ingest::new("c", "served", &[2])).await;

    assert_eq!(erase(subject, &acme, "served").await, Erased::Serves);

    let versions = subject.corpus.versions(&acme, &collection_name("c"), &document_id("served")).await.unwrap();
    assert_eq!(versions.len(), 2);
}

pub(crate) async fn versions_are_kept_as_long_as_they_are_told_to_be(subject: Subject<'_>) {
    let acme = scope("acme");
    for number in 1..=4 {
        subject.put(&acme, &Ingest::new("c", "book", &[number])).await;
    }
    subject.put(&acme, &Ingest::new("c", "gone", &[9])).await;
    subject.delete(&acme, "c", "gone").await;
    let numbers = || async {
        let found = subject.corpus.versions(&acme, &collection_name("c"), &document_id("book")).await.unwrap();
        found.into_iter().map(|version| version.version).collect::<Vec<u64>>()
    };
    let forget = |keep: KeepVersions| subject.erasure.forget_versions(keep);

    assert_eq!(forget(KeepVersions::default()).await.unwrap(), 0);
    let long_ago = Some(Timestamp(i64::MIN));
    let none = KeepVersions { replaced_since: long_ago, deleted_since: long_ago, newest: Some(4) };
    assert_eq!(forget(none).await.unwrap(), 0);
    assert_eq!(numbers().await, [4, 3, 2, 1]);

    assert_eq!(forget(KeepVersions { newest: Some(3), ..KeepVersions::default() }).await.unwrap(), 1);
    assert_eq!(numbers().await, [4, 3, 2]);
    let replaced = KeepVersions { replaced_since: Some(Timestamp(i64::MAX)), ..KeepVersions::default() };
    assert_eq!(forget(replaced).await.unwrap(), 2, "what was deleted is counted by another clock");
    assert_eq!(numbers().await, [4]);
    let deleted = KeepVersions { deleted_since: Some(Timestamp(i64::MAX)), ..KeepVersions::default() };
    assert_eq!(forget(deleted).await.unwrap(), 1);

    let content = |number| async move {
        subject.corpus.content(&scope("acme"), &collection_name("c"), &document_id("book"), Some(number)).await.unwrap()
    };
    assert_eq!(content(3).await, None);
    assert_eq!(content(4).await, Some(paragraph(4)));
    assert_eq!(written(&subject.put(&acme, &Ingest::new("c", "book", &[5])).await).0, 5);
    assert_eq!(written(&subject.put(&acme, &Ingest::new("c", "gone", &[9])).await).0, 2, "numbers only grow");
}

/// A text of the document `secret`, and records of it and of other things.
async fn with_records(subject: Subject<'_>, scope: &TenantScope) {
    subject.put(scope, &Ingest::new("c", "secret", &[1])).await;
    let tenant = scope.tenant.as_str();
    let mut about = call(tenant, 1);
    about.request_body = Some(json!([{"content": format!("Read this:\n{}", paragraph(1))}]).to_string());
    about.response_body = Some("It is of some length.".to_owned());
    let mut follows = call(tenant, 2);
    (follows.trace_id, follows.request_body) = (about.trace_id, Some("shorten: it is of some length".to_owned()));
    let mut other = call(tenant, 3);
    other.request_body = Some("something else entirely".to_owned());
    let mut told = request(Some(tenant), 4);
    told.spans[0].attributes.insert("passage".into(), json!(paragraph(1)));
    let entries = [about, follows, other].map(|call| LedgerEntry::Call(Box::new(call)));
    let traces = [told, request(Some(tenant), 5)].map(|trace| LedgerEntry::Trace(Box::new(trace)));
    subject.ledger.record(entries.into_iter().chain(traces).collect()).await.unwrap();
    // One that quotes it in a step, one that only names it, one that has nothing to do with it.
    let (_, lease) = subject.held(scope, new_task(1)).await;
    let quotes = json!({"text": format!("\"{}\"", paragraph(1))}).to_string();
    subject.record(lease, crate::domain::StepRecord { output: json_text(&quotes), ..record(0, 1) }).await;
    subject.end(lease, output()).await;
    let names = crate::store::NewTask { input: json_text(r#"{"documents": ["secret"]}"#), ..new_task(2) };
    let (_, lease) = subject.held(scope, names).await;
    subject.end(lease, output()).await;
    let (_, lease) = subject.held(scope, new_task(3)).await;
    subject.end(lease, output()).await;
}

async fn tasks(subject: Subject<'_>, scope: &TenantScope) -> usize {
    subject.tasks.tasks(scope, &TaskFilter::default(), None, 10).await.unwrap().items.len()
}

pub(crate) async fn records_that_tell_of_a_text_go_and_others_stay(subject: Subject<'_>) {
    let (acme, other) = (scope("acme"), scope("else"));
    with_records(subject, &acme).await;
    let needles = needles(subject, &acme, "secret").await;
    let (document, spared): (DocumentId, _) = (document_id("secret"), kind("erase"));
    subject.put(&other, &Ingest::new("c", "secret", &[1])).await;

    let of_others = subject.erasure.records(&other, &document, Arc::clone(&needles), &spared).await.unwrap();
    let erased = subject.erasure.erase_records(&acme, &document, Arc::clone(&needles), &spared).await.unwrap();
    let left = subject.erasure.records(&acme, &document, needles, &spared).await.unwrap();

    assert_eq!(of_others, Records::default());
    assert_eq!(erased, Records { tasks: 2, open_tasks: Vec::new(), bodies: 2, traces: 1, cases: 0 });
    assert_eq!(left, Records::default());
    assert_eq!(tasks(subject, &acme).await, 1);
    let usage = subject.ledger.usage(&acme, crate::store::UsageBy::Tenant, Timestamp(0), 10).await.unwrap();
    assert_eq!(usage[0].attempts, 3, "what calls have cost stays");
    let trace = |number: u64| call("acme", number).trace_id;
    assert!(subject.ledger.trace(&acme, trace(4)).await.unwrap().is_none());
    assert!(subject.ledger.trace(&acme, trace(5)).await.unwrap().is_some());
}

pub(crate) async fn a_task_that_has_not_ended_is_in_the_way_and_stays(subject: Subject<'_>) {
    let acme = scope("acme");
    subject.put(&acme, &Ingest::new("c", "secret", &[1])).await;
    let needles = needles(subject, &acme, "secret").await;
    let names = crate::store::NewTask { input: json_text(r#"{"documents": ["secret"]}"#), ..new_task(1) };
    let task = subject.submit(&acme, names).await;

    let erased = subject
        .erasure
        .erase_records(&acme, &document_id("secret"), Arc::clone(&needles), &kind("erase"))
        .await
        .unwrap();
    let spared = subject.erasure.records(&acme, &document_id("secret"), needles, &kind("map")).await.unwrap();

    assert_eq!(erased, Records { open_tasks: vec![task.id], ..Records::default() });
    assert_eq!(spared, Records::default());
    assert_eq!(tasks(subject, &acme).await, 1);
}

pub(crate) async fn eval_cases_and_written_contexts_forget_an_erased_document(subject: Subject<'_>) {
    let acme = scope("acme");
    subject.put(&acme, &Ingest::new("c", "erased", &[1])).await;
    subject.put(&acme, &Ingest::new("c", "other", &[2])).await;
    let relevant = |names: &[&str]| names.iter().map(|name| (document_id(name), 1)).collect();
    let case = |name: &str, query: String, documents: &[&str]| EvalCase {
        name: name.to_owned(),
        query,
        relevant: relevant(documents),
    };
    let cases = [
        case("about both", "which?".to_owned(), &["erased", "other"]),
        case("about it alone", "what?".to_owned(), &["erased"]),
        case("in its words", paragraph(1), &["other"]),
        case("about another", "who?".to_owned(), &["other"]),
    ];
    let name = collection_name("c");
    subject.cases.put_cases(&acme, &name, &cases).await.unwrap();
    let hash = ContentHash::of(b"chunk");
    subject.generations.keep_contexts(&acme, vec![(hash, "It is about plates.".to_owned())]).await.unwrap();
    subject.delete(&acme, "c", "erased").await;
    let needles = needles(subject, &acme, "erased").await;

    let records = subject.erasure.erase_records(&acme, &document_id("erased"), needles, &kind("erase")).await.unwrap();
    let gone = erase(subject, &acme, "erased").await;

    assert_eq!(records.cases, 1, "the one in its words");
    let Erased::Gone { removed, left } = gone else { panic!("{gone:?}") };
    assert_eq!((removed.contexts, removed.judgements, left), (1, 2, CorpusRows::default()));
    let page = subject.cases.cases(&acme, &name, (None, 9)).await.unwrap();
    let kept =
        [case("about another", "who?".to_owned(), &["other"]), case("about both", "which?".to_owned(), &["other"])];
    assert_eq!(page.items, kept);
    assert!(subject.generations.contexts(&acme, &[hash]).await.unwrap().is_empty());
}
