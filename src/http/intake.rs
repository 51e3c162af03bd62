//! Takes a stream of documents and keeps the account: counts, and what became of each.
//!
//! The room below knows documents; this file knows lines and pointers. Both meet in the ledger: what is known of the
//! items that are on their way, oldest first. The stream below is bounded, and so is the ledger.

use std::collections::VecDeque;
use std::future::ready;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use serde_json::Value;

use crate::domain::{DocumentId, ErrorKind, Sequence, TenantScope};
use crate::ingest::{IncomingDocument, IncomingItem, IngestOutcome, RejectedItem};

use super::problem::{Problem, ProblemKind};
use super::state::AppState;
use super::wire::{IngestBody, IngestedBody, ItemStatus};

/// Up to so many documents, the response lists each; beyond, only those that failed.
const LISTED_DOCUMENTS: u64 = 1_000;
/// Most failed documents that a response lists.
const LISTED_FAILURES: usize = 10_000;

/// One document of a request, or why it is none.
pub(super) struct Item {
    /// Of an NDJSON stream, from 1.
    pub line: Option<u64>,
    pub document: Result<IncomingDocument, Refused>,
}

/// Why something is not a document, and its id as far as it could be read.
pub(super) struct Refused {
    pub id: Option<DocumentId>,
    pub problem: Problem,
}

/// Whether a response waits for the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Durable,
    Indexed,
}

/// What was reached, and so which status the response has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// 202: durable, searchable soon.
    Durable,
    /// 200: searchable.
    Indexed,
}

/// Takes every item; an `Err` among them ends the stream. What was taken before an error stays taken, and the problem
/// says how much that is. 422 if something failed and nothing was taken.
pub(super) async fn take(
    app: &AppState,
    scope: &TenantScope,
    body: IngestBody,
    items: impl Stream<Item = Result<Item, Problem>> + Send,
) -> Result<IngestBody, Problem> {
    let ledger = Mutex::new(Ledger::default());
    let mut account = Account { body, seen: 0 };
    let noted = items.scan((), |(), item| ready(ledger.lock().note(item))).boxed();
    let mut told = |_, outcome: &IngestOutcome| {
        let note = ledger.lock().waiting.pop_front().unwrap_or_default();
        account.add(outcome, note);
    };
    let report = app.services.ingest.put_stream(scope, noted, &mut told).await;
    if let Some(problem) = ledger.into_inner().broken {
        return Err(account.interrupted(problem));
    }
    match report.stopped {
        Some(error) => Err(account.interrupted(error.into())),
        None => account.close(),
    }
}

/// Waits for the index if that is wished and something was written.
pub(super) async fn reached(app: &AppState, scope: &TenantScope, sequence: Option<u64>, wait: Wait) -> Reached {
    match (wait, sequence) {
        (Wait::Durable, _) => Reached::Durable,
        (Wait::Indexed, None) => Reached::Indexed,
        (Wait::Indexed, Some(sequence)) => {
            let until = Instant::now() + Duration::from_millis(app.settings.wait_indexed_timeout_ms);
            match app.services.ingest.wait_indexed(scope, Sequence(sequence), until).await {
                true => Reached::Indexed,
                false => Reached::Durable,
            }
        }
    }
}

#[derive(Default)]
struct Ledger {
    waiting: VecDeque<Note>,
    broken: Option<Problem>,
}

/// What the room below need not know of an item.
#[derive(Default)]
struct Note {
    line: Option<u64>,
    refused: Option<Problem>,
}

impl Ledger {
    /// The item as the room below takes it; `None` ends the stream.
    fn note(&mut self, item: Result<Item, Problem>) -> Option<IncomingItem> {
        let item = match item {
            Ok(item) => item,
            Err(problem) => {
                self.broken = Some(problem);
                return None;
            }
        };
        let (document, refused) = match item.document {
            Ok(document) => (Ok(document), None),
            Err(Refused { id, problem }) => {
                // The kind matters to the room below for its counts only; the caller sees the problem itself.
                let kind = ErrorKind::Unprocessable;
                (Err(RejectedItem { id: id.map(Into::into), kind, detail: problem.detail.clone() }), Some(problem))
            }
        };
        self.waiting.push_back(Note { line: item.line, refused });
        Some(document)
    }
}

struct Account {
    body: IngestBody,
    seen: u64,
}

impl Account {
    fn add(&mut self, outcome: &IngestOutcome, note: Note) {
        self.body.count(outcome);
        self.seen += 1;
        if self.seen == LISTED_DOCUMENTS + 1 {
            self.body.documents.retain(|row| row.status == ItemStatus::Failed);
        }
        let mut row = IngestedBody::new(outcome, note.refused);
        let failed = row.status == ItemStatus::Failed;
        row.line = note.line.filter(|_| failed);
        let listed = if failed { self.body.documents.len() < LISTED_FAILURES } else { self.seen <= LISTED_DOCUMENTS };
        if listed {
            self.body.documents.push(row);
        }
    }

    fn close(self) -> Result<IngestBody, Problem> {
        if self.seen == 0 {
            return Err(Problem::new(ProblemKind::Unprocessable, "the body holds no document"));
        }
        if self.body.failed < self.seen {
            return Ok(self.body);
        }
        let detail = format!("none of {} documents could be taken; see documents", self.body.failed);
        let problem = Problem::new(self.common_kind(), detail);
        Err(self.interrupted(problem))
    }

    // One and the same reason for all keeps its status; otherwise the request as a whole is not acceptable.
    fn common_kind(&self) -> ProblemKind {
        let mut types = self.body.documents.iter().filter_map(|row| row.error.as_ref()).map(|error| &error.type_uri);
        let first = types.next();
        let shared = first.filter(|first| types.all(|other| other == *first));
        let kind = shared.and_then(|uri| ProblemKind::ALL.into_iter().find(|kind| kind.type_uri() == *uri));
        kind.unwrap_or(ProblemKind::Unprocessable)
    }

    /// A problem that tells what had been taken when it arose.
    fn interrupted(self, mut problem: Problem) -> Problem {
        if let Ok(Value::Object(mut members)) = serde_json::to_value(&self.body) {
            members.remove("trace_id");
            problem.members = members;
        }
        problem
    }
}
