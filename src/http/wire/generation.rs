//! Generations as callers see them, and what callers say about them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::{ContextSpec, GenerationState, GenerationStatus, Profile, Promotion, TaskId, TraceId};
use crate::http::problem::FieldError;
use crate::jobs::{GenerationView, PlanPatch, Transition};

use super::provenance::{ChunkerBody, EmbedderBody, time};

/// A change of how a collection's text becomes searchable.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "collection": "default", "profile": {"chunker": {"strategy": "sentences", "max_tokens": 96}}, "shadow_share": 0.1
}))]
pub(in crate::http) struct GenerationInput {
    /// `default` if left out.
    pub collection: Option<String>,
    /// What is to be other than in the live generation: `chunker` (`{strategy: "structure" | "window" | "sentences",
    /// target_tokens, max_tokens, min_tokens, overlap_tokens, …}`), `embedder` (a name, `{name, revision}`, or `null`
    /// for none), `analyzer` (`{language}`), `context` (`"none"`, `"headings"` or `{prompt, route}`).
    pub profile: Value,
    /// Share of the documents to build, by lot; 1 if left out. One that is not whole can be judged, not promoted.
    #[schema(minimum = 0, maximum = 1)]
    pub sample: Option<f64>,
    /// Who is served from it once it is built, before it is promoted; nobody if left out.
    pub rollout: Option<Value>,
    /// Share of live searches that are also put to it while it is in shadow; 0 if left out.
    #[schema(minimum = 0, maximum = 1)]
    pub shadow_share: Option<f64>,
    /// `manual` (if left out) or `automatic`: promoted once the interval of its gain in nDCG@10 lies above zero.
    pub promotion: Option<String>,
}

impl GenerationInput {
    /// The input of the task that builds it.
    pub(in crate::http) fn into_task_input(self) -> Value {
        let mut input = serde_json::Map::new();
        input.insert("collection".to_owned(), self.collection.unwrap_or_else(|| "default".to_owned()).into());
        input.insert("profile".to_owned(), self.profile);
        let others = [
            ("sample", self.sample.map(Value::from)),
            ("rollout", self.rollout),
            ("shadow_share", self.shadow_share.map(Value::from)),
            ("promotion", self.promotion.map(Value::from)),
        ];
        input.extend(others.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        input.into()
    }
}

/// What is meant to become of a generation; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"rollout": {"share": 0.25}, "shadow_share": 0.05}))]
pub(in crate::http) struct PlanInput {
    pub rollout: Option<RolloutInput>,
    #[schema(minimum = 0, maximum = 1)]
    pub shadow_share: Option<f64>,
    /// `manual` or `automatic`.
    pub promotion: Option<String>,
}

/// Who is served from a generation before it is promoted.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct RolloutInput {
    /// Share of the documents, by lot.
    #[schema(minimum = 0, maximum = 1)]
    pub share: f64,
    /// Only documents that pass, as `POST /search` takes it; left out: as before; `null`: all.
    #[serde(default, deserialize_with = "present")]
    pub filter: Option<Value>,
}

impl PlanInput {
    /// The change, or everything that is wrong with it. The filter is read by who applies it.
    pub(in crate::http) fn into_patch(self) -> Result<PlanPatch, Vec<FieldError>> {
        let mut faults = Vec::new();
        let shares = [
            ("/rollout/share", self.rollout.as_ref().map(|rollout| rollout.share)),
            ("/shadow_share", self.shadow_share),
        ];
        for (pointer, share) in shares {
            if share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
                faults.push(FieldError::new(pointer, "must be between 0 and 1"));
            }
        }
        let promotion = match self.promotion.as_deref() {
            None => None,
            Some("manual") => Some(Promotion::Manual),
            Some("automatic") => Some(Promotion::Automatic),
            Some(_) => {
                faults.push(FieldError::new("/promotion", "must be `manual` or `automatic`"));
                None
            }
        };
        if !faults.is_empty() {
            return Err(faults);
        }
        let (share, filter) = self.rollout.map_or((None, None), |rollout| (Some(rollout.share), rollout.filter));
        Ok(PlanPatch { sample: None, share, filter, shadow_share: self.shadow_share, promotion })
    }
}

/// `null` is something that was said.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Generations of the tenant, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct GenerationsBody {
    pub trace_id: String,
    pub generations: Vec<GenerationBody>,
}

/// One generation.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct OneGenerationBody {
    pub trace_id: String,
    #[serde(flatten)]
    pub generation: GenerationBody,
}

/// What a change of state has brought about by now.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TransitionBody {
    pub trace_id: String,
    #[serde(flatten)]
    pub generation: GenerationBody,
    /// The generation that takes writes from now on.
    #[schema(example = "gen_00112233445566778899aabbccddeeff")]
    pub live: String,
    /// Documents that this call has moved to where they are served from now on.
    pub moved: u64,
    /// Documents that are still served from elsewhere; they follow by themselves.
    pub remaining: u64,
}

/// A build that was begun.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct StartedBody {
    pub trace_id: String,
    /// `GET /tasks/{task_id}` tells how far it is; its result names the generation.
    #[schema(example = "tsk_00112233445566778899aabbccddeeff")]
    pub task_id: String,
}

/// A build of a profile for a collection, with how far it has come.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct GenerationBody {
    #[schema(example = "gen_00112233445566778899aabbccddeeff")]
    pub id: String,
    pub collection: String,
    /// `building`, `shadow` (built, serves only those of the rollout), `live` or `retired`.
    #[schema(example = "shadow")]
    pub state: &'static str,
    pub profile: ProfileBody,
    /// Documents of the collection.
    pub documents: u64,
    /// Those of them that it holds.
    pub built: u64,
    /// Those of them that are served from it.
    pub serving: u64,
    pub chunks: u64,
    pub vectors: u64,
    /// Share of the documents that are to be built.
    pub sample: f64,
    pub rollout: RolloutBody,
    pub shadow_share: f64,
    pub promotion: &'static str,
    /// The generation that it replaced and that can be gone back to.
    pub previous: Option<String>,
    /// What builds it: `GET /tasks/{task_id}`.
    pub task_id: Option<String>,
    /// Documents that its plan wants built and that are not; of a sample about so many.
    pub to_build: u64,
    /// Milliseconds until it is built, by the pace so far; absent while nothing is built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    pub created_at: String,
    /// When it entered its state.
    pub changed_at: String,
    /// When a generation that was replaced is removed.
    pub retire_at: Option<String>,
    /// When all that belonged to it was found gone.
    pub removed_at: Option<String>,
}

/// How text becomes searchable in a generation.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ProfileBody {
    /// Of everything below.
    pub fingerprint: String,
    pub chunker: ChunkerBody,
    pub embedder: Option<EmbedderBody>,
    #[schema(example = json!({"name": "plumb", "version": 1, "language": "auto"}))]
    pub analyzer: Value,
    /// `none`, `headings`, or who writes about each chunk and how.
    #[schema(example = "headings")]
    pub context: Value,
}

/// Who is served from a generation before it is promoted.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct RolloutBody {
    pub share: f64,
    pub filter: Option<Value>,
}

impl GenerationsBody {
    pub(in crate::http) fn new(trace: TraceId, generations: Vec<GenerationView>) -> Self {
        Self { trace_id: trace.to_string(), generations: generations.into_iter().map(Into::into).collect() }
    }
}

impl OneGenerationBody {
    pub(in crate::http) fn new(trace: TraceId, generation: GenerationView) -> Self {
        Self { trace_id: trace.to_string(), generation: generation.into() }
    }
}

impl TransitionBody {
    pub(in crate::http) fn new(trace: TraceId, transition: Transition) -> Self {
        let Transition { generation, live, moved, remaining } = transition;
        let live = live.status.generation.id.to_string();
        Self { trace_id: trace.to_string(), generation: generation.into(), live, moved, remaining }
    }
}

impl From<GenerationView> for GenerationBody {
    fn from(view: GenerationView) -> Self {
        let GenerationView { status, to_build, eta } = view;
        let GenerationStatus { generation, collection, plan, counts, changed_at, previous, task, removed_at } = status;
        Self {
            id: generation.id.to_string(),
            collection: collection.to_string(),
            state: state_name(generation.state),
            profile: generation.profile.into(),
            documents: counts.documents,
            built: counts.built,
            serving: counts.serving,
            chunks: counts.chunks,
            vectors: counts.vectors,
            sample: plan.sample,
            rollout: RolloutBody { share: plan.rollout.share, filter: plan.rollout.filter },
            shadow_share: plan.shadow_share,
            promotion: match plan.promotion {
                Promotion::Manual => "manual",
                Promotion::Automatic => "automatic",
            },
            previous: previous.map(|id| id.to_string()),
            task_id: task.map(|id| id.to_string()),
            eta_ms: eta.map(|eta| u64::try_from(eta.as_millis()).unwrap_or(u64::MAX)),
            to_build,
            created_at: time(generation.created_at),
            changed_at: time(changed_at),
            retire_at: plan.retire_at.map(time),
            removed_at: removed_at.map(time),
        }
    }
}

impl StartedBody {
    pub(in crate::http) fn new(trace: TraceId, task: TaskId) -> Self {
        Self { trace_id: trace.to_string(), task_id: task.to_string() }
    }
}

impl From<Profile> for ProfileBody {
    fn from(profile: Profile) -> Self {
        let fingerprint = profile.fingerprint().to_string();
        let Profile { chunker, embedder, analyzer, context } = profile;
        let context = match context {
            ContextSpec::None => "none".into(),
            ContextSpec::Headings => "headings".into(),
            ContextSpec::Written { prompt, version, route } => {
                serde_json::json!({"prompt": prompt, "version": version, "route": route})
            }
        };
        Self {
            fingerprint,
            chunker: chunker.into(),
            embedder: embedder.map(Into::into),
            analyzer: serde_json::json!({
                "name": analyzer.name, "version": analyzer.version, "language": analyzer.language
            }),
            context,
        }
    }
}

fn state_name(state: GenerationState) -> &'static str {
    match state {
        GenerationState::Building => "building",
        GenerationState::Shadow => "shadow",
        GenerationState::Live => "live",
        GenerationState::Retired => "retired",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shares_beyond_their_ends_and_unknown_promotions_are_all_named() {
        let input: PlanInput =
            serde_json::from_value(json!({"rollout": {"share": 1.5}, "shadow_share": -0.1, "promotion": "soon"}))
                .unwrap();

        let faults = input.into_patch().unwrap_err();

        let pointers: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/rollout/share", "/shadow_share", "/promotion"]);
    }

    #[test]
    fn what_a_caller_leaves_out_is_left_out_of_the_task() {
        let input: GenerationInput = serde_json::from_value(json!({"profile": {}})).unwrap();

        assert_eq!(input.into_task_input(), json!({"collection": "default", "profile": {}}));
    }
}
