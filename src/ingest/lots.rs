//! Which documents a plan means: by lot, and by a filter over what the caller keeps with them.

use serde_json::{Value, json};

use crate::domain::{DocumentHead, Fields, Filter, GenerationId, GenerationPlan, InvalidFilter, lot};

/// A plan's choice among documents, ready to be asked.
pub(super) struct Choice<'a> {
    generation: GenerationId,
    plan: &'a GenerationPlan,
    filter: Option<Filter>,
}

impl<'a> Choice<'a> {
    /// A filter that cannot be read is none of a document: nobody moves by it.
    pub(super) fn new(generation: GenerationId, plan: &'a GenerationPlan) -> Self {
        let filter = plan.rollout.filter.as_ref().map(|json| rollout_filter(json).unwrap_or(Filter::Or(Vec::new())));
        Self { generation, plan, filter }
    }

    /// True if the document is part of the sample.
    pub(super) fn is_wanted(&self, head: &DocumentHead) -> bool {
        lot(self.generation, &head.id) < self.plan.sample
    }

    /// True if the document is meant to be served from the generation while that is in shadow.
    pub(super) fn moves(&self, head: &DocumentHead) -> bool {
        lot(self.generation, &head.id) < self.plan.rollout.share
            && self.filter.as_ref().is_none_or(|filter| filter.matches(&HeadFields(head)))
    }

    /// True if no document moves.
    pub(super) fn moves_none(&self) -> bool {
        self.plan.rollout.share <= 0.0
    }
}

/// Reads the filter of a rollout. Times are refused: a document moves for what it is, not for when it came.
pub fn rollout_filter(json: &Value) -> Result<Filter, InvalidFilter> {
    let filter = Filter::parse(json)?;
    match field_of_time(&filter) {
        None => Ok(filter),
        Some(field) => {
            let detail = format!("{field} cannot choose documents for a rollout");
            Err(InvalidFilter { pointer: String::new(), detail })
        }
    }
}

fn field_of_time(filter: &Filter) -> Option<&str> {
    match filter {
        Filter::And(parts) | Filter::Or(parts) => parts.iter().find_map(field_of_time),
        Filter::Not(inner) => field_of_time(inner),
        Filter::Compare { field, .. } => matches!(field.as_str(), "created_at" | "updated_at").then_some(field),
    }
}

/// A document's metadata and reserved fields, without its times.
struct HeadFields<'a>(&'a DocumentHead);

impl Fields for HeadFields<'_> {
    fn field(&self, name: &str) -> Option<Value> {
        match name {
            "document_id" => Some(json!(self.0.id)),
            "source_uri" => self.0.source_uri.as_ref().map(|uri| json!(uri)),
            "title" => self.0.title.as_ref().map(|title| json!(title)),
            "media_type" => Some(json!(self.0.media_type)),
            _ => self.0.metadata.get(name).cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CollectionName, DocumentId, Rollout};

    fn head(id: &str, year: u32) -> DocumentHead {
        DocumentHead {
            id: DocumentId::new(id).unwrap(),
            collection: CollectionName::new("default").unwrap(),
            title: None,
            source_uri: None,
            media_type: "text/plain".to_owned(),
            metadata: serde_json::from_value(json!({"year": year})).unwrap(),
            acl: None,
        }
    }

    fn plan(share: f64, filter: Option<Value>) -> GenerationPlan {
        GenerationPlan { rollout: Rollout { share, filter }, ..GenerationPlan::default() }
    }

    #[test]
    fn who_moves_first_is_decided_by_lot_and_filter_together() {
        let id = GenerationId([3; 16]);
        let (all, some) = (plan(1.0, Some(json!({"year": {"$gte": 2020}}))), plan(0.3, None));
        let (by_filter, by_lot) = (Choice::new(id, &all), Choice::new(id, &some));

        assert!(by_filter.moves(&head("a", 2021)) && !by_filter.moves(&head("a", 2019)));
        let moved = (0..1_000).filter(|n| by_lot.moves(&head(&format!("d{n}"), 2020))).count();
        assert!((230..370).contains(&moved), "{moved}");
        assert!(Choice::new(id, &GenerationPlan::default()).moves_none());
    }

    #[test]
    fn a_larger_share_takes_all_that_a_smaller_one_took() {
        let id = GenerationId([4; 16]);
        let (small, large) = (plan(0.2, None), plan(0.6, None));
        let (small, large) = (Choice::new(id, &small), Choice::new(id, &large));

        let heads: Vec<_> = (0..300).map(|n| head(&format!("d{n}"), 2020)).collect();

        assert!(heads.iter().filter(|head| small.moves(head)).all(|head| large.moves(head)));
    }

    #[test]
    fn times_choose_no_documents() {
        assert!(rollout_filter(&json!({"$or": [{"year": 1}, {"created_at": {"$gt": "2020"}}]})).is_err());
        assert!(rollout_filter(&json!({"document_id": "a"})).is_ok());
    }
}
