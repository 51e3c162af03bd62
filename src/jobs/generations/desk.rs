//! The desk of generations: promoting, going back, retiring, and who is served from which meanwhile.
//!
//! What is decided here is one row in the truth; the documents follow in batches, the rest of them by the tender.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::domain::{
    CollectionName, GenerationId, GenerationPlan, GenerationState, GenerationStatus, Promotion, Rollout, TenantScope,
    Timestamp,
};
use crate::ingest::{Tender, rollout_filter};
use crate::store::{GenerationChange, GenerationStore};

use super::view::to_build;
use super::{DeskError, GenerationView};

/// What a [`GenerationDesk`] is made of.
pub struct GenerationDeskParts {
    pub store: Arc<dyn GenerationStore>,
    pub tender: Arc<Tender>,
}

/// See the module. Cheap to share.
pub struct GenerationDesk {
    store: Arc<dyn GenerationStore>,
    tender: Arc<Tender>,
}

/// Whether a generation is promoted that lacks documents: they stay where they are until they are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    No,
    Yes,
}

/// What is changed of a plan; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanPatch {
    pub sample: Option<f64>,
    /// Share of the documents that are served from it.
    pub share: Option<f64>,
    /// Only documents that pass; JSON `null`: all.
    #[serde(deserialize_with = "present")]
    pub filter: Option<Value>,
    pub shadow_share: Option<f64>,
    pub promotion: Option<Promotion>,
}

/// What a change of state has brought about by now.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// The generation that was asked about, as it is now.
    pub generation: GenerationView,
    /// The one that serves the documents from now on.
    pub live: GenerationView,
    /// Documents that have changed their generation.
    pub moved: u64,
    /// Documents that are not served from where they should be yet; they follow by themselves.
    pub remaining: u64,
}

impl GenerationDesk {
    pub fn new(parts: GenerationDeskParts) -> Self {
        Self { store: parts.store, tender: parts.tender }
    }

    /// Of one collection or all, oldest first, retired ones too.
    pub async fn list(
        &self,
        scope: &TenantScope,
        collection: Option<&CollectionName>,
    ) -> Result<Vec<GenerationView>, DeskError> {
        let statuses = self.store.generation_statuses(scope, collection).await?;
        Ok(statuses.into_iter().map(|status| self.view(status)).collect())
    }

    pub async fn one(&self, scope: &TenantScope, id: GenerationId) -> Result<GenerationView, DeskError> {
        Ok(self.view(self.status(scope, id).await?))
    }

    /// Makes a generation in shadow the live one, and moves the documents to it for as long as the settings say. The
    /// one that was live can be gone back to until it has had its time.
    pub async fn promote(&self, scope: &TenantScope, id: GenerationId, force: Force) -> Result<Transition, DeskError> {
        let status = self.status(scope, id).await?;
        if status.generation.state == GenerationState::Live {
            return self.follow(scope, id, id).await;
        }
        in_state(&status, GenerationState::Shadow, "a promotion")?;
        if status.plan.sample < 1.0 {
            return Err(DeskError::OnlyASample { sample: status.plan.sample });
        }
        let absent = to_build(&status);
        if absent > 0 && force == Force::No {
            return Err(DeskError::NotWhole { absent, documents: status.counts.documents });
        }
        self.swap(scope, &status).await?;
        self.follow(scope, id, id).await
    }

    /// Of a live generation: makes the one before it live again. Of one in shadow: serves nobody from it any more.
    pub async fn rollback(&self, scope: &TenantScope, id: GenerationId) -> Result<Transition, DeskError> {
        let status = self.status(scope, id).await?;
        match status.generation.state {
            GenerationState::Live => {
                let other = "it is the collection's first, or what it replaced has been removed";
                let previous = status.previous.ok_or(DeskError::NothingBefore { other })?;
                let previous = self.status(scope, previous).await?;
                if previous.generation.state != GenerationState::Shadow {
                    return Err(DeskError::NothingBefore { other: "what it replaced has had its time" });
                }
                self.swap(scope, &previous).await?;
                self.follow(scope, id, previous.generation.id).await
            }
            GenerationState::Shadow => {
                let plan = GenerationPlan { rollout: Rollout::default(), ..status.plan.clone() };
                self.put_plan(scope, id, &plan).await?;
                let live = self.live(scope, &status.collection).await?.generation.id;
                let moved = self.tender.take_all_back(scope, (id, live), self.until()).await?.moved;
                self.told(scope, (id, live), moved).await
            }
            GenerationState::Building | GenerationState::Retired => {
                Err(wrong_state(&status, "live or in shadow", "going back"))
            }
        }
    }

    /// Takes a generation out of service for good; what belongs to it is then removed step by step.
    pub async fn retire(&self, scope: &TenantScope, id: GenerationId) -> Result<Transition, DeskError> {
        let status = self.status(scope, id).await?;
        if status.generation.state == GenerationState::Live {
            return Err(wrong_state(&status, "not live", "retiring"));
        }
        let live = self.live(scope, &status.collection).await?;
        // With its time over, the tender finishes what this call does not.
        let plan = GenerationPlan {
            rollout: Rollout::default(),
            shadow_share: 0.0,
            retire_at: Some(self.tender.now()),
            ..status.plan.clone()
        };
        if status.generation.state != GenerationState::Retired {
            self.put_plan(scope, id, &plan).await?;
        }
        let done = match status.counts.serving {
            // Nothing to move; another one in shadow may be in its rollout and keeps what it serves.
            0 => None,
            _ => Some(self.tender.take_all_back(scope, (id, live.generation.id), self.until()).await?.moved),
        };
        self.store.change_generation(scope, id, GenerationChange::Retire).await?.ok_or(DeskError::Unknown)?;
        self.tender.note_retired(scope, &status.collection);
        let (generation, live) = (self.one(scope, id).await?, self.one(scope, live.generation.id).await?);
        Ok(Transition { generation, live, moved: done.unwrap_or_default(), remaining: 0 })
    }

    /// Changes who is served from a generation, how many searches it is shown, and who promotes it.
    pub async fn plan(
        &self,
        scope: &TenantScope,
        id: GenerationId,
        patch: PlanPatch,
    ) -> Result<GenerationView, DeskError> {
        let status = self.status(scope, id).await?;
        if !matches!(status.generation.state, GenerationState::Building | GenerationState::Shadow) {
            return Err(wrong_state(&status, "building or in shadow", "a plan"));
        }
        let plan = patch.apply(status.plan)?;
        Ok(self.view(self.put_plan(scope, id, &plan).await?))
    }

    /// The live generation and this one in shadow change places.
    async fn swap(&self, scope: &TenantScope, next: &GenerationStatus) -> Result<(), DeskError> {
        let live = self.live(scope, &next.collection).await?;
        let retire_at = Timestamp(self.tender.now().0.saturating_add(self.tender.settings().soak_us()));
        let id = next.generation.id;
        // One transaction; without what comes after it the tender says until when the other one stays.
        self.store.change_generation(scope, id, GenerationChange::Promote).await?.ok_or(DeskError::Unknown)?;
        let replaced = self.status(scope, live.generation.id).await?;
        let plan = GenerationPlan { retire_at: Some(retire_at), ..replaced.plan };
        self.put_plan(scope, live.generation.id, &plan).await?;
        tracing::info!(generation = %id, replaced = %live.generation.id, collection = %next.collection, "a generation is live");
        Ok(())
    }

    /// Moves documents to the live generation for as long as the settings say, and tells how things are then.
    async fn follow(
        &self,
        scope: &TenantScope,
        asked: GenerationId,
        live: GenerationId,
    ) -> Result<Transition, DeskError> {
        let status = self.status(scope, live).await?;
        let moved = self.tender.move_all_to(scope, &status, self.until()).await?.moved;
        self.told(scope, (asked, live), moved).await
    }

    fn until(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.tender.settings().move_wait_ms)
    }

    async fn told(
        &self,
        scope: &TenantScope,
        (asked, live): (GenerationId, GenerationId),
        moved: u64,
    ) -> Result<Transition, DeskError> {
        let live = self.one(scope, live).await?;
        let counts = live.status.counts;
        let remaining = counts.documents.saturating_sub(counts.serving);
        Ok(Transition { generation: self.one(scope, asked).await?, live, moved, remaining })
    }

    async fn status(&self, scope: &TenantScope, id: GenerationId) -> Result<GenerationStatus, DeskError> {
        self.store.generation_status(scope, id).await?.ok_or(DeskError::Unknown)
    }

    async fn live(&self, scope: &TenantScope, collection: &CollectionName) -> Result<GenerationStatus, DeskError> {
        let mut statuses = self.store.generation_statuses(scope, Some(collection)).await?.into_iter();
        statuses.find(|status| status.generation.state == GenerationState::Live).ok_or(DeskError::Unknown)
    }

    async fn put_plan(
        &self,
        scope: &TenantScope,
        id: GenerationId,
        plan: &GenerationPlan,
    ) -> Result<GenerationStatus, DeskError> {
        self.store.plan_generation(scope, id, plan).await?.ok_or(DeskError::Unknown)
    }

    fn view(&self, status: GenerationStatus) -> GenerationView {
        GenerationView::of(status, &self.tender)
    }
}

impl PlanPatch {
    /// The plan with what is changed; all faults at once.
    fn apply(self, mut plan: GenerationPlan) -> Result<GenerationPlan, DeskError> {
        let mut faults = Vec::new();
        if let Some(sample) = self.sample {
            plan.sample = sample;
        }
        if let Some(share) = self.share {
            plan.rollout.share = share;
        }
        if let Some(filter) = self.filter {
            plan.rollout.filter = (!filter.is_null()).then_some(filter);
        }
        if let Some(shadow_share) = self.shadow_share {
            plan.shadow_share = shadow_share;
        }
        if let Some(promotion) = self.promotion {
            plan.promotion = promotion;
        }
        let places = Places { sample: "/sample", share: "/share", filter: "/filter", shadow_share: "/shadow_share" };
        check_plan(&plan, &places, &mut |pointer, detail| faults.push((pointer, detail)));
        if faults.is_empty() { Ok(plan) } else { Err(DeskError::Invalid(faults)) }
    }
}

/// Where the parts of a plan stand in an input.
pub struct Places {
    pub sample: &'static str,
    pub share: &'static str,
    pub filter: &'static str,
    pub shadow_share: &'static str,
}

/// Tells every value that cannot be.
pub fn check_plan(plan: &GenerationPlan, places: &Places, fault: &mut dyn FnMut(String, String)) {
    if !(plan.sample > 0.0 && plan.sample <= 1.0) {
        fault(places.sample.to_owned(), format!("is {}, above 0 and at most 1 are allowed", plan.sample));
    }
    for (pointer, share) in [(places.share, plan.rollout.share), (places.shadow_share, plan.shadow_share)] {
        if !(0.0..=1.0).contains(&share) {
            fault(pointer.to_owned(), format!("is {share}, from 0 to 1 are allowed"));
        }
    }
    if let Some(filter) = &plan.rollout.filter
        && let Err(invalid) = rollout_filter(filter)
    {
        fault(format!("{}{}", places.filter, invalid.pointer), invalid.detail);
    }
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn in_state(status: &GenerationStatus, wanted: GenerationState, wish: &'static str) -> Result<(), DeskError> {
    if status.generation.state == wanted { Ok(()) } else { Err(wrong_state(status, word(wanted), wish)) }
}

fn wrong_state(status: &GenerationStatus, wanted: &'static str, wish: &'static str) -> DeskError {
    DeskError::WrongState { state: word(status.generation.state), wanted, wish }
}

fn word(state: GenerationState) -> &'static str {
    match state {
        GenerationState::Building => "being built",
        GenerationState::Shadow => "in shadow",
        GenerationState::Live => "live",
        GenerationState::Retired => "retired",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patch(json: Value) -> Result<GenerationPlan, Vec<String>> {
        let patch: PlanPatch = serde_json::from_value(json).unwrap();
        patch.apply(GenerationPlan::default()).map_err(|error| match error {
            DeskError::Invalid(faults) => faults.into_iter().map(|(pointer, _)| pointer).collect(),
            other => panic!("{other}"),
        })
    }

    #[test]
    fn a_patch_changes_what_it_names_and_nothing_else() {
        let plan = patch(json!({"share": 0.2, "filter": {"lang": "en"}, "promotion": "automatic"})).unwrap();

        assert_eq!(plan.rollout, Rollout { share: 0.2, filter: Some(json!({"lang": "en"})) });
        assert_eq!((plan.sample, plan.promotion), (1.0, Promotion::Automatic));
        let cleared: PlanPatch = serde_json::from_value(json!({"filter": null})).unwrap();
        assert_eq!(cleared.apply(plan).unwrap().rollout, Rollout { share: 0.2, filter: None });
    }

    #[test]
    fn every_value_that_cannot_be_is_told_with_its_place() {
        let faults = patch(json!({"sample": 0, "share": 1.1, "shadow_share": -1, "filter": {"created_at": 1}}));

        assert_eq!(faults.unwrap_err(), ["/sample", "/share", "/shadow_share", "/filter"]);
    }
}
