//! The tender of generations: builds what is absent, moves who should move, removes what has had its time.
//!
//! Whatever it does is read from the truth and written to the truth, so it may be stopped anywhere and goes on where it
//! was. Collections with one generation cost it nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::{
    CollectionName, GenerationCounts, GenerationId, GenerationPlan, GenerationState, GenerationStatus, TenantId,
    TenantScope, Timestamp,
};
use crate::index::Generations;
use crate::store::{GenerationChange, GenerationStore, OperationLog, Remains};

use super::build::Building;
use super::embed::Effort;
use super::lots::Choice;
use super::pace::Paces;
use super::{GenerationSettings, IngestError, Ingestor};

/// Longest time that a collection which failed is left alone. 60 s: a model or a disk that is back is noticed soon.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// What a [`Tender`] is made of.
pub struct TenderParts {
    pub ingestor: Arc<Ingestor>,
    pub generations: Arc<dyn GenerationStore>,
    pub log: Arc<dyn OperationLog>,
    pub indexes: Arc<Generations>,
    pub settings: GenerationSettings,
    /// Tells when a generation has had its time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// Looks after generations. Cheap to share.
pub struct Tender {
    pub(super) parts: TenderParts,
    pub(super) paces: Paces,
    /// Collections with a retired generation that is not removed yet; `None`: all have to be looked at.
    retired: Mutex<Option<BTreeSet<Owned>>>,
    /// How a generation in shadow and the live one were found when there was nothing to do.
    at_rest: Mutex<BTreeMap<GenerationId, Rest>>,
    /// Collections that failed: how often in a row, and when they are looked at again.
    failing: Mutex<BTreeMap<Owned, (u32, Instant)>>,
}

type Owned = (TenantId, CollectionName);

#[derive(Debug, Clone, PartialEq)]
struct Rest {
    plan: GenerationPlan,
    shadow: GenerationCounts,
    live: (GenerationId, GenerationCounts),
}

impl Tender {
    pub fn new(parts: TenderParts) -> Self {
        Self {
            parts,
            paces: Paces::default(),
            retired: Mutex::default(),
            at_rest: Mutex::default(),
            failing: Mutex::default(),
        }
    }

    pub fn settings(&self) -> &GenerationSettings {
        &self.parts.settings
    }

    /// The time by the clock that decides when a generation has had its time.
    pub fn now(&self) -> Timestamp {
        (self.parts.clock)()
    }

    /// How long building so many more documents of a generation takes at the rate of late; `None` while there is none.
    pub fn eta(&self, generation: GenerationId, left: u64) -> Option<Duration> {
        self.paces.eta(generation, left, Instant::now())
    }

    /// Tends for ever. An error of one collection keeps no other waiting, and is tried again with the next look.
    pub async fn run(&self) {
        let pause = Duration::from_millis(self.parts.settings.tend_interval_ms.max(1));
        loop {
            if let Err(error) = self.tend().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "generations cannot be tended");
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One look at every collection with more than one generation.
    pub async fn tend(&self) -> Result<(), IngestError> {
        for owned in self.collections().await? {
            let rests = self.failing.lock().get(&owned).is_some_and(|(_, until)| *until > Instant::now());
            if rests {
                continue;
            }
            let scope = TenantScope::everything(owned.0.clone());
            match self.tend_collection(&scope, &owned.1).await {
                Ok(()) => drop(self.failing.lock().remove(&owned)),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, collection = %owned.1, "a collection's generations cannot be tended");
                    self.back_off(owned);
                }
            }
        }
        Ok(())
    }

    /// Leaves a collection alone for a while, each time longer.
    fn back_off(&self, owned: Owned) {
        let mut failing = self.failing.lock();
        let (times, until) = failing.entry(owned).or_insert((0, Instant::now()));
        let wait = Duration::from_millis(self.parts.settings.tend_interval_ms).saturating_mul(1 << (*times).min(16));
        *times += 1;
        *until = Instant::now() + wait.min(LONGEST_REST);
    }

    /// Has the collection looked at until nothing of a retired generation is left.
    pub fn note_retired(&self, scope: &TenantScope, collection: &CollectionName) {
        if let Some(retired) = self.retired.lock().as_mut() {
            retired.insert((scope.tenant.clone(), collection.clone()));
        }
    }

    /// Where there may be something to do.
    async fn collections(&self) -> Result<BTreeSet<Owned>, IngestError> {
        let mut counts: BTreeMap<Owned, usize> = BTreeMap::new();
        for owned in self.parts.log.generations().await? {
            *counts.entry((owned.tenant, owned.collection)).or_default() += 1;
        }
        let known = self.retired.lock().clone();
        let retired = match known {
            Some(retired) => retired,
            None => {
                let tenants: BTreeSet<&TenantId> = counts.keys().map(|(tenant, _)| tenant).collect();
                let found = self.find_retired(tenants).await?;
                self.retired.lock().insert(found).clone()
            }
        };
        let several = counts.into_iter().filter(|(_, count)| *count > 1).map(|(owned, _)| owned);
        Ok(several.chain(retired).collect())
    }

    async fn find_retired(&self, tenants: BTreeSet<&TenantId>) -> Result<BTreeSet<Owned>, IngestError> {
        let mut found = BTreeSet::new();
        for tenant in tenants {
            let scope = TenantScope::everything(tenant.clone());
            for status in self.parts.generations.generation_statuses(&scope, None).await? {
                if is_unremoved(&status) {
                    found.insert((tenant.clone(), status.collection));
                }
            }
        }
        Ok(found)
    }

    async fn tend_collection(&self, scope: &TenantScope, collection: &CollectionName) -> Result<(), IngestError> {
        let statuses = self.parts.generations.generation_statuses(scope, Some(collection)).await?;
        // First, since what follows may retire one.
        if !statuses.iter().any(is_unremoved)
            && let Some(retired) = self.retired.lock().as_mut()
        {
            retired.remove(&(scope.tenant.clone(), collection.clone()));
        }
        // One that fails keeps no other from being tended.
        let mut failed = Ok(());
        for retired in in_state(&statuses, GenerationState::Retired) {
            if is_unremoved(retired) {
                failed = failed.and(self.remove_some(scope, retired).await);
            }
        }
        let shadows = in_state(&statuses, GenerationState::Shadow);
        if let Some(live) = in_state(&statuses, GenerationState::Live).first() {
            if shadows.is_empty() {
                failed = failed.and(self.tend_live(scope, live).await);
            }
            for shadow in shadows {
                failed = failed.and(self.tend_shadow(scope, shadow, live).await);
            }
        }
        failed
    }

    /// Brings a generation in shadow, and the live one beside it, to where the plan wants them.
    async fn tend_shadow(
        &self,
        scope: &TenantScope,
        shadow: &GenerationStatus,
        live: &GenerationStatus,
    ) -> Result<(), IngestError> {
        let now = self.now();
        let replaced = shadow.plan.retire_at.is_some();
        if !replaced && live.previous == Some(shadow.generation.id) {
            // It was replaced by a process that did not come to say until when it stays.
            let retire_at = Some(Timestamp(now.0.saturating_add(self.parts.settings.soak_us())));
            let plan = GenerationPlan { retire_at, ..shadow.plan.clone() };
            self.parts.generations.plan_generation(scope, shadow.generation.id, &plan).await?;
            return Ok(());
        }
        if shadow.plan.retire_at.is_some_and(|at| at <= now) {
            return self.retire(scope, shadow, live).await;
        }
        let seen = Rest { plan: shadow.plan.clone(), shadow: shadow.counts, live: (live.generation.id, live.counts) };
        let id = shadow.generation.id;
        if self.at_rest.lock().get(&id) == Some(&seen) {
            return Ok(());
        }
        let mut built = self.upkeep(scope, live).await;
        // One that was replaced is kept for going back to: with what it holds, and without what came since, unless it
        // is served from again. Building it on would cost as much as the live one.
        if !replaced {
            built = match (built, self.upkeep(scope, shadow).await) {
                (Ok(one), Ok(other)) => Ok(one || other),
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
        }
        let mut worked = *built.as_ref().unwrap_or(&true);
        let choice = Choice::new(id, &shadow.plan);
        // Without one that stands ready there is nobody to move; what was built just now counts from the next look on.
        let may_move = |status: &GenerationStatus, worked| worked || status.counts.built > status.counts.serving;
        // Only what this one serves: another one in shadow keeps its own.
        if shadow.counts.serving > 0 {
            let places = (id, live.generation.id);
            let back = self.take_back(scope, places, (&|head| !choice.moves(head), None)).await?;
            worked |= back.moved > 0 || back.is_cut;
        }
        if !choice.moves_none() && may_move(shadow, worked) {
            let moved = self.move_to(scope, shadow, (&|head| choice.moves(head), None)).await?;
            worked |= moved.moved > 0 || moved.is_cut;
        }
        // What could be moved has been moved, whatever could not be built.
        built?;
        let mut at_rest = self.at_rest.lock();
        match worked {
            true => at_rest.remove(&id),
            false => at_rest.insert(id, seen),
        };
        Ok(())
    }

    /// A live generation without another beside it but for retired ones: documents that it lacks have nowhere to go.
    async fn tend_live(&self, scope: &TenantScope, live: &GenerationStatus) -> Result<(), IngestError> {
        if live.counts.serving < live.counts.documents {
            self.upkeep(scope, live).await?;
            self.move_to(scope, live, (&|_| true, None)).await?;
        }
        Ok(())
    }

    /// Builds what a generation lacks; true if that was anything.
    async fn upkeep(&self, scope: &TenantScope, status: &GenerationStatus) -> Result<bool, IngestError> {
        if status.counts.built >= status.counts.documents {
            return Ok(false);
        }
        let mut building = Building::of(status.clone());
        while self.build_next(scope, &mut building, Effort::Gentle(&self.parts.settings)).await? {}
        Ok(building.report().built > 0)
    }

    /// Takes a generation that has had its time out of service.
    async fn retire(
        &self,
        scope: &TenantScope,
        shadow: &GenerationStatus,
        live: &GenerationStatus,
    ) -> Result<(), IngestError> {
        let id = shadow.generation.id;
        if shadow.counts.serving > 0 {
            self.upkeep(scope, live).await?;
            self.take_back(scope, (id, live.generation.id), (&|_| true, None)).await?;
        }
        match self.parts.generations.change_generation(scope, id, GenerationChange::Retire).await {
            Ok(_) => {
                tracing::info!(generation = %id, collection = %shadow.collection, "a generation is retired");
                self.at_rest.lock().remove(&id);
                self.note_retired(scope, &shadow.collection);
                Ok(())
            }
            // What was written meanwhile is moved with a later look.
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a retired generation, its files first, step by step with rests.
    async fn remove_some(&self, scope: &TenantScope, status: &GenerationStatus) -> Result<(), IngestError> {
        let id = status.generation.id;
        let waits_us = i64::try_from(self.parts.settings.remove_after_ms.saturating_mul(1000)).unwrap_or(i64::MAX);
        if self.now().0.saturating_sub(status.changed_at.0) < waits_us {
            return Ok(());
        }
        let indexes = Arc::clone(&self.parts.indexes);
        let removed = tokio::task::spawn_blocking(move || indexes.remove(id)).await;
        removed.map_err(|_| IngestError::Panicked)??;
        self.paces.forget(id);
        loop {
            let began = Instant::now();
            let limit = self.parts.settings.remove_rows.max(1);
            let left = self.parts.generations.remove_generation(scope, id, limit).await?;
            if left == Remains::default() {
                tracing::info!(generation = %id, collection = %status.collection, "nothing of the generation is left");
                return Ok(());
            }
            tokio::time::sleep(self.parts.settings.rest_after(began.elapsed())).await;
        }
    }
}

fn in_state(statuses: &[GenerationStatus], state: GenerationState) -> Vec<&GenerationStatus> {
    statuses.iter().filter(|status| status.generation.state == state).collect()
}

fn is_unremoved(status: &GenerationStatus) -> bool {
    status.generation.state == GenerationState::Retired && status.removed_at.is_none()
}
