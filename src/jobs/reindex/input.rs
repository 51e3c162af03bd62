//! What a `reindex` is asked, and what is stored of it: everything that was left out is written out.

use serde::{Deserialize, Serialize};

use crate::domain::{CollectionName, GenerationPlan, Profile, Promotion, Rollout};
use crate::jobs::generations::{Places, check_plan};
use crate::jobs::input::Faults;

use super::profile::ProfileRequest;

/// The input as the caller writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReindexRequest {
    pub collection: Option<CollectionName>,
    pub profile: ProfileRequest,
    pub sample: Option<f64>,
    pub rollout: Option<Rollout>,
    pub shadow_share: Option<f64>,
    pub promotion: Option<Promotion>,
}

/// The input as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReindexInput {
    pub collection: CollectionName,
    pub profile: Profile,
    pub plan: GenerationPlan,
}

impl ReindexRequest {
    /// The plan that it asks for.
    pub fn plan(&self, faults: &mut Faults) -> GenerationPlan {
        let default = GenerationPlan::default();
        let plan = GenerationPlan {
            sample: self.sample.unwrap_or(default.sample),
            rollout: self.rollout.clone().unwrap_or_default(),
            shadow_share: self.shadow_share.unwrap_or(default.shadow_share),
            promotion: self.promotion.unwrap_or_default(),
            retire_at: None,
        };
        let places = Places {
            sample: "/sample",
            share: "/rollout/share",
            filter: "/rollout/filter",
            shadow_share: "/shadow_share",
        };
        check_plan(&plan, &places, &mut |pointer, detail| faults.add(pointer, detail));
        plan
    }
}
