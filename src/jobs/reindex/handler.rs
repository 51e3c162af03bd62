//! The walk of a `reindex`: begin, build a hundredth after the other, show.
//!
//! The truth holds what is built, so an attempt that was cut off costs at most one batch of documents.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex;

use crate::domain::{
    ContentHash, ErrorKind, GenerationId, GenerationState, GenerationStatus, JsonText, Permission, TaskKind,
    TenantScope,
};
use crate::gateway::{Gateway, PromptBook};
use crate::ingest::{BuildReport, Building, Ingestor, Tender};
use crate::jobs::fault::{not_json, of_ingest, permit};
use crate::jobs::generations::target;
use crate::jobs::input::{Faults, read};
use crate::search::DEFAULT_COLLECTION;
use crate::store::{CorpusStore, GenerationChange, GenerationStore};
use crate::tasks::{JobHandler, Prepared, TaskError, Work};

use super::input::{ReindexInput, ReindexRequest};
use super::profile::Offer;

const KIND: &str = "reindex";
/// Steps of the building, each a checkpoint that tells how far it has come. 100: as fine as people look.
const PARTS: u64 = 100;
/// Refused documents that a failure names.
const REFUSED_NAMED: usize = 3;

/// See the module.
pub struct ReindexJob {
    pub store: Arc<dyn CorpusStore>,
    pub generations: Arc<dyn GenerationStore>,
    pub ingestor: Arc<Ingestor>,
    pub tender: Arc<Tender>,
    pub gateway: Gateway,
    pub prompts: Arc<ArcSwap<PromptBook>>,
}

/// What the first step has begun.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Begun {
    generation: GenerationId,
}

/// A part of the building.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct PartInput {
    generation: GenerationId,
    /// Until so many of a hundred documents are there.
    percent: u64,
}

/// How far a part has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PartOutput {
    built: u64,
    documents: u64,
    eta_s: Option<u64>,
}

#[async_trait]
impl JobHandler for ReindexJob {
    fn kind(&self) -> TaskKind {
        TaskKind::new(KIND).expect("a plain word is a valid name")
    }

    fn permission(&self) -> Permission {
        Permission::Admin
    }

    async fn prepare(&self, scope: &TenantScope, input: JsonText, _: Option<String>) -> Result<Prepared, TaskError> {
        permit(scope, Permission::Admin, KIND)?;
        let request: ReindexRequest = read(&input)?;
        let mut faults = Faults::default();
        let plan = request.plan(&mut faults);
        let collection = match request.collection {
            Some(collection) => collection,
            None => DEFAULT_COLLECTION.parse().expect("a plain word is a valid name"),
        };
        let Some(found) = self.store.collection(scope, &collection).await? else {
            faults.add("/collection", format!("{collection:?} is not there; it comes with its first document"));
            return Err(TaskError::invalid(faults.0));
        };
        let prompts = self.prompts.load();
        let offer = Offer {
            live: &found.live.profile,
            newest: self.ingestor.profile(),
            embedders: self.ingestor.embedders(),
            counters: self.ingestor.counter_names(),
            prompts: &prompts,
            gateway: &self.gateway,
        };
        let profile = request.profile.complete(&offer, &mut faults);
        if faults.0.is_empty() && profile == found.live.profile {
            faults.add("/profile", "is what the collection has already");
        }
        faults.check()?;
        let context = self.context(scope, &collection, found.live.id).await?;
        let input = JsonText::of(&ReindexInput { collection, profile, plan }).map_err(not_json)?;
        Ok(Prepared { input, context, prompt: None, model: None, total: Some(PARTS + 2) })
    }

    async fn run(&self, work: &Work) -> Result<JsonText, TaskError> {
        let input: ReindexInput = work.input()?;
        // Whoever may ask for it may have all documents built, those that they cannot see among them.
        let run = Run {
            job: self,
            work,
            scope: TenantScope::everything(work.task().scope.tenant.clone()),
            building: Mutex::default(),
        };
        let begun = work.step("begin", &input, |input, _| run.begin(input)).await?;
        for percent in 1..=PARTS {
            let part = PartInput { generation: begun.generation, percent };
            let _: PartOutput = work.step(&format!("build-{percent:03}"), &part, |part, _| run.build(part)).await?;
        }
        let done: serde_json::Value = work.step("show", &begun, |begun, _| run.show(begun)).await?;
        Ok(JsonText::of_value(&done))
    }
}

impl ReindexJob {
    /// The same wish is other work once the collection's generations have moved on: after a promotion, or after one was
    /// retired.
    async fn context(
        &self,
        scope: &TenantScope,
        collection: &crate::domain::CollectionName,
        live: GenerationId,
    ) -> Result<ContentHash, TaskError> {
        let statuses = self.generations.generation_statuses(scope, Some(collection)).await?;
        let retired = statuses.iter().filter(|status| status.generation.state == GenerationState::Retired);
        let retired: String = retired.map(|status| status.generation.id.to_string()).collect();
        Ok(ContentHash::of(format!("{KIND} {live} {retired}").as_bytes()))
    }
}

/// A `reindex` under way.
struct Run<'a> {
    job: &'a ReindexJob,
    work: &'a Work,
    scope: TenantScope,
    /// The walk that all parts share, with the documents that were there when it began.
    building: Mutex<Option<(Building, u64)>>,
}

impl Run<'_> {
    async fn begin(&self, input: ReindexInput) -> Result<Begun, TaskError> {
        let ReindexInput { collection, profile, plan } = input;
        let store = &self.job.generations;
        let begun = store.begin_generation(&self.scope, &collection, &profile, &plan).await.map_err(refused)?;
        let id = begun.generation.id;
        store.assign_generation(&self.scope, id, self.work.task().id).await?;
        Ok(Begun { generation: id })
    }

    async fn build(&self, part: PartInput) -> Result<PartOutput, TaskError> {
        let status = self.status(part.generation).await?;
        let documents = target(&status);
        let wanted = (documents * part.percent).div_ceil(PARTS);
        let mut place = self.building.lock().await;
        let (building, before) = place.get_or_insert_with(|| {
            let before = status.counts.built;
            (Building::of(status), before)
        });
        while *before + building.built() < wanted || part.percent == PARTS {
            if !self.job.tender.build_some(&self.scope, building).await.map_err(of_ingest)? {
                break;
            }
        }
        let built = *before + building.built();
        let eta = self.job.tender.eta(part.generation, documents.saturating_sub(built));
        if part.percent == PARTS {
            complete(building.report())?;
        }
        Ok(PartOutput { built, documents, eta_s: eta.map(|eta| eta.as_secs()) })
    }

    async fn show(&self, begun: Begun) -> Result<serde_json::Value, TaskError> {
        let changed = self.job.generations.change_generation(&self.scope, begun.generation, GenerationChange::Shadow);
        let status = changed.await.map_err(refused)?.ok_or_else(gone)?;
        let counts = status.counts;
        Ok(json!({"generation": begun.generation, "collection": status.collection, "documents": counts.documents,
            "built": counts.built, "chunks": counts.chunks, "vectors": counts.vectors}))
    }

    /// The generation, if it is this task that builds it and nobody has ended that.
    async fn status(&self, id: GenerationId) -> Result<GenerationStatus, TaskError> {
        let status = self.job.generations.generation_status(&self.scope, id).await?.ok_or_else(gone)?;
        if status.generation.state == GenerationState::Retired {
            return Err(TaskError::failed(ErrorKind::Conflict, "the generation was retired while it was built"));
        }
        match status.task {
            Some(task) if task != self.work.task().id => {
                Err(TaskError::failed(ErrorKind::Conflict, format!("task {task} builds the generation now")))
            }
            _ => Ok(status),
        }
    }
}

/// Documents that cannot be built keep the generation from being shown: it would be judged without them.
fn complete(report: &BuildReport) -> Result<(), TaskError> {
    if report.refused == 0 {
        return Ok(());
    }
    let named = report.named.iter().take(REFUSED_NAMED);
    let named: Vec<String> = named.map(|(id, error)| format!("{:?}: {error}", id.as_str())).collect();
    let detail = format!("{} documents cannot be built: {}", report.refused, named.join("; "));
    Err(TaskError::failed(ErrorKind::Unprocessable, detail))
}

fn refused(error: crate::store::StoreError) -> TaskError {
    match error.kind() {
        ErrorKind::Conflict => TaskError::failed(ErrorKind::Conflict, error.to_string()),
        _ => error.into(),
    }
}

fn gone() -> TaskError {
    TaskError::failed(ErrorKind::NotFound, "the generation is not there any more")
}
