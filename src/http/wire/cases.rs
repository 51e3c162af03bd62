//! Labelled queries: what a collection's generations are judged by.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{CollectionName, DocumentId, TraceId};
use crate::http::problem::FieldError;
use crate::store::{EvalCase, Page};

/// Most cases of one request. 1,000: as many as a report scores.
pub(in crate::http) const MAX_CASES_AT_ONCE: usize = 1_000;
/// Longest id of a case, in bytes: it is the key of a row and stands in log lines.
pub(in crate::http) const MAX_CASE_ID_BYTES: usize = 256;
/// Most documents of one case. 1,000: no metric looks further.
pub(in crate::http) const MAX_RELEVANT_DOCUMENTS: usize = 1_000;
/// Highest grade. 100: as fine as anybody labels, and a sum of gains stays a plain number.
pub(in crate::http) const MAX_GRADE: u32 = 100;

/// Cases of a collection; one with the id of another replaces it.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"collection": "default", "cases": [
    {"id": "rotate-keys", "query": "how do I rotate a key", "relevant": {"docs/keys.md": 2, "docs/admin.md": 1}}]}))]
pub(in crate::http) struct CasesInput {
    /// `default` if left out.
    pub collection: Option<String>,
    #[schema(max_items = 1000)]
    pub cases: Vec<CaseBody>,
}

/// A query with the documents that answer it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct CaseBody {
    /// The caller's own, unique in the collection.
    #[schema(example = "rotate-keys", max_length = 256)]
    pub id: String,
    #[schema(example = "how do I rotate a key")]
    pub query: String,
    /// Grade by document id, from 1 to 100; more is better.
    #[schema(example = json!({"docs/keys.md": 2}))]
    pub relevant: BTreeMap<String, u32>,
}

/// How many cases a collection has.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct CasesStoredBody {
    pub trace_id: String,
    pub collection: String,
    /// Of the collection, with those that were there before.
    pub cases: u64,
}

/// A page of a collection's cases, by id.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct CasesBody {
    pub trace_id: String,
    pub collection: String,
    pub cases: Vec<CaseBody>,
    /// Gets the next page; `null` on the last one.
    pub next_cursor: Option<String>,
}

impl CasesInput {
    /// The collection, if one is named, and the cases; or everything that is wrong with them. `query_fault` says what is
    /// wrong with a query.
    pub(in crate::http) fn into_parts(
        self,
        query_fault: impl Fn(&str) -> Option<String>,
    ) -> Result<(Option<CollectionName>, Vec<EvalCase>), Vec<FieldError>> {
        let mut faults = Vec::new();
        let collection = self.collection.and_then(|name| {
            let fault = |error: crate::domain::InvalidId| FieldError::new("/collection", error.to_string());
            CollectionName::new(&name).map_err(|error| faults.push(fault(error))).ok()
        });
        let count = self.cases.len();
        if count == 0 || count > MAX_CASES_AT_ONCE {
            let detail = format!("holds {count} cases, from 1 to {MAX_CASES_AT_ONCE} are allowed");
            faults.push(FieldError::new("/cases", detail));
            return Err(faults);
        }
        let mut names = HashSet::new();
        let mut cases = Vec::with_capacity(count);
        for (index, case) in self.cases.into_iter().enumerate() {
            let at = format!("/cases/{index}");
            if !names.insert(case.id.clone()) {
                faults.push(FieldError::new(format!("{at}/id"), "another case of this request has this id"));
            }
            if let Some(detail) = query_fault(&case.query) {
                faults.push(FieldError::new(format!("{at}/query"), detail));
            }
            cases.extend(case.into_case(&at, &mut faults));
        }
        if faults.is_empty() { Ok((collection, cases)) } else { Err(faults) }
    }
}

impl CaseBody {
    fn into_case(self, at: &str, faults: &mut Vec<FieldError>) -> Option<EvalCase> {
        let before = faults.len();
        faults.extend(case_id_fault(&self.id).map(|detail| FieldError::new(format!("{at}/id"), detail)));
        let count = self.relevant.len();
        if count == 0 || count > MAX_RELEVANT_DOCUMENTS {
            let detail = format!("names {count} documents, from 1 to {MAX_RELEVANT_DOCUMENTS} are allowed");
            faults.push(FieldError::new(format!("{at}/relevant"), detail));
        }
        let mut relevant = BTreeMap::new();
        for (document, grade) in self.relevant {
            let at = || format!("{at}/relevant/{}", crate::http::json::escape(&document));
            if !(1..=MAX_GRADE).contains(&grade) {
                faults.push(FieldError::new(at(), format!("is {grade}, from 1 to {MAX_GRADE} are allowed")));
            }
            match DocumentId::new(&document) {
                Ok(document) => drop(relevant.insert(document, grade)),
                Err(error) => faults.push(FieldError::new(at(), error.to_string())),
            }
        }
        (faults.len() == before).then_some(EvalCase { name: self.id, query: self.query, relevant })
    }
}

/// What is wrong with the id of a case.
pub(in crate::http) fn case_id_fault(id: &str) -> Option<String> {
    let is_bad = id.is_empty() || id.len() > MAX_CASE_ID_BYTES || id.contains(char::is_control);
    is_bad.then(|| format!("must be plain text of 1 to {MAX_CASE_ID_BYTES} bytes"))
}

impl CasesBody {
    pub(in crate::http) fn new(trace: TraceId, collection: CollectionName, page: Page<EvalCase>) -> Self {
        Self {
            trace_id: trace.to_string(),
            collection: collection.into(),
            cases: page.items.into_iter().map(Into::into).collect(),
            next_cursor: page.next,
        }
    }
}

impl From<EvalCase> for CaseBody {
    fn from(case: EvalCase) -> Self {
        let relevant = case.relevant.into_iter().map(|(document, grade)| (document.into(), grade)).collect();
        Self { id: case.name, query: case.query, relevant }
    }
}
