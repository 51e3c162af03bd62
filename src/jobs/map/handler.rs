//! The walk of a `map`: one call for each part, then, where the caller wants it, calls over the outputs until one text is
//! left.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::answer::estimated_tokens;
use crate::domain::{
    ByteSpan, ChunkId, ContentHash, DocumentId, ErrorKind, JsonText, Permission, TaskKind, TaskProblem, TenantScope,
};
use crate::gateway::Gateway;
use crate::jobs::fault::{not_json, permit};
use crate::jobs::input::{Faults, read};
use crate::jobs::model_call::{ModelCalls, Said, TokenUsage};
use crate::jobs::settings::JobSettings;
use crate::store::CorpusStore;
use crate::tasks::{Item, JobHandler, Prepared, TaskError, Work};

use super::input::{MapInput, MapRequest, OnItemError, Reduce, TASK};
use super::prompts::{FramedPrompt, PartText};
use super::reduce::groups;
use super::resolve::{Resolver, context};

/// `map`.
pub struct MapJob {
    pub store: Arc<dyn CorpusStore>,
    pub gateway: Gateway,
    pub settings: Arc<JobSettings>,
}

/// What one call reads: everything to find the text again, and a hash to be sure that it is the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PartInput {
    document_id: DocumentId,
    version: u64,
    title: String,
    heading: String,
    chunk_ids: Vec<ChunkId>,
    byte_range: [usize; 2],
    text_hash: ContentHash,
}

/// What came of one part.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PartOutput {
    document_id: DocumentId,
    version: u64,
    chunk_ids: Vec<ChunkId>,
    byte_range: [usize; 2],
    text: String,
    /// `length`: the text was cut by `max_tokens`.
    finish: String,
    usage: TokenUsage,
    cost_usd: f64,
    model: String,
}

/// What one call of a reduction reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ReduceInput {
    prompt: String,
    outputs: Vec<String>,
}

#[async_trait]
impl JobHandler for MapJob {
    fn kind(&self) -> TaskKind {
        TaskKind::new(TASK).expect("a plain word is a valid name")
    }

    fn permission(&self) -> Permission {
        Permission::Answer
    }

    async fn prepare(
        &self,
        scope: &TenantScope,
        input: JsonText,
        model: Option<String>,
    ) -> Result<Prepared, TaskError> {
        permit(scope, Permission::Answer, TASK)?;
        let mut request: MapRequest = read(&input)?;
        let mut faults = Faults::default();
        match (&request.model, model) {
            (Some(inner), Some(outer)) if *inner != outer => {
                faults.add("/model", "differs from the model that the task was submitted with; give one of them");
            }
            (_, outer) => request.model = request.model.or(outer),
        }
        request.check(&self.settings, &self.gateway, &mut faults);
        faults.check()?;
        let collection = request.collection();
        let resolver = Resolver {
            store: &self.store,
            scope,
            collection: &collection,
            over: request.over,
            window_tokens: request.window_tokens.unwrap_or(self.settings.window_tokens),
        };
        let mut faults = Faults::default();
        let (documents, items) = resolver.resolve(&request, &mut faults).await?;
        let limit = self.settings.max_map_items;
        if items.len() > limit {
            let detail = format!("come to {} parts, at most {limit} are allowed; make windows larger", items.len());
            faults.add("/documents", detail);
        } else if items.is_empty() && faults.0.is_empty() {
            faults.add("/documents", "hold no text");
        }
        faults.check()?;
        let model = request.model.take();
        let input = request.complete(&self.settings, documents, items);
        Ok(Prepared {
            context: context(&input.documents, &self.gateway.route_models(TASK)),
            prompt: Some(FramedPrompt::for_parts(&input)?.version),
            model,
            total: Some(input.items.len() as u64 + u64::from(input.reduce.is_some())),
            input: JsonText::of(&input).map_err(not_json)?,
        })
    }

    async fn run(&self, work: &Work) -> Result<JsonText, TaskError> {
        let input: MapInput = work.input()?;
        let run = MapRun { job: self, work, input: &input, texts: Texts::default() };
        let (done, failed) = run.map().await?;
        let reduced = match &input.reduce {
            Some(reduce) => Some(run.reduce(reduce, done.iter().map(|one| one.text.clone()).collect()).await?),
            None => None,
        };
        let mut result = json!({"items": done, "failed": failed});
        if let Some(reduced) = reduced {
            result["reduced"] = reduced.into();
        }
        Ok(JsonText::of_value(&result))
    }
}

/// A `map` under way.
struct MapRun<'a> {
    job: &'a MapJob,
    work: &'a Work,
    input: &'a MapInput,
    texts: Texts,
}

impl MapRun<'_> {
    fn calls(&self) -> ModelCalls<'_> {
        ModelCalls {
            gateway: &self.job.gateway,
            task: self.work.task(),
            label: TASK,
            timeout: Duration::from_millis(self.job.settings.call_timeout_ms),
        }
    }

    /// The outputs in the order of the parts, and what became of the others.
    async fn map(&self) -> Result<(Vec<PartOutput>, Vec<serde_json::Value>), TaskError> {
        let prompt = FramedPrompt::for_parts(self.input)?;
        let inputs: Vec<PartInput> = self.input.items.iter().filter_map(|part| self.part_input(part)).collect();
        let outcomes = self.work.fan_out("map", &inputs, |part, item| self.map_part(&prompt, part, item)).await?;
        let (mut done, mut failed): (Vec<PartOutput>, Vec<(usize, TaskProblem)>) = Default::default();
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(output) => done.push(output),
                Err(problem) => failed.push((index, problem)),
            }
        }
        if let Some((index, problem)) = failed.first()
            && (self.input.on_item_error == OnItemError::Fail || done.is_empty())
        {
            let detail = format!("item {index} of {} failed: {}", inputs.len(), problem.detail);
            return Err(TaskError::failed(problem.kind, detail));
        }
        let told = failed.into_iter().map(|(index, problem)| {
            json!({"item": index, "document_id": inputs[index].document_id, "chunk_ids": inputs[index].chunk_ids,
                "kind": problem.kind.as_str(), "detail": problem.detail})
        });
        Ok((done, told.collect()))
    }

    fn part_input(&self, part: &super::input::Part) -> Option<PartInput> {
        let document = self.input.documents.get(part.document)?;
        Some(PartInput {
            document_id: document.id.clone(),
            version: document.version,
            title: document.title.clone().unwrap_or_default(),
            heading: part.heading.clone(),
            chunk_ids: part.chunk_ids.clone(),
            byte_range: part.byte_range,
            text_hash: part.text_hash,
        })
    }

    async fn map_part(&self, prompt: &FramedPrompt, part: PartInput, item: Item) -> Result<PartOutput, TaskError> {
        let content = self.content(&part.document_id, part.version).await?;
        let text = ByteSpan::new(part.byte_range[0], part.byte_range[1]).slice(&content).unwrap_or_default();
        if ContentHash::of(text.as_bytes()) != part.text_hash {
            let detail = format!("the text of document {:?} is not what it was", part.document_id.as_str());
            return Err(TaskError::failed(ErrorKind::Corrupt, detail));
        }
        let (number, items) = (item.number + 1, self.input.items.len());
        let about = PartText { text, title: &part.title, heading: &part.heading, item: number, items };
        let mut call = prompt.about_part(&self.seed("map", item.number), about);
        call.model.clone_from(&self.work.task().model);
        (call.max_tokens, call.temperature) = (self.input.max_tokens, self.input.temperature);
        let Said { text, model, finish, usage, cost_usd } = self.calls().ask(call, &item).await?;
        let PartInput { document_id, version, chunk_ids, byte_range, .. } = part;
        Ok(PartOutput { document_id, version, chunk_ids, byte_range, text, finish, usage, cost_usd, model })
    }

    /// One text out of many, level by level.
    async fn reduce(&self, reduce: &Reduce, mut outputs: Vec<String>) -> Result<String, TaskError> {
        for level in 1.. {
            let sizes: Vec<usize> = outputs.iter().map(|text| estimated_tokens(text)).collect();
            let groups = groups(&sizes, self.job.settings.reduce_tokens);
            let is_last = groups.len() <= 1;
            // An output that is left alone waits for the next level as it is.
            let joined: Vec<ReduceInput> = groups
                .iter()
                .filter(|group| is_last || group.len() > 1)
                .map(|group| ReduceInput { prompt: reduce.prompt.clone(), outputs: outputs[group.clone()].to_vec() })
                .collect();
            let alone = outputs.split_off(if joined.len() == groups.len() { outputs.len() } else { outputs.len() - 1 });
            let name = format!("reduce-{level}");
            let seed = |item: u32| self.seed(&name, item);
            let work = |input, item: Item| {
                let seed = seed(item.number);
                self.reduce_group(reduce.max_tokens, input, (item, seed))
            };
            let done = self.work.fan_out(&name, &joined, work).await?;
            outputs = Vec::with_capacity(done.len() + 1);
            for outcome in done {
                outputs.push(outcome.map_err(|problem| {
                    TaskError::failed(problem.kind, format!("{name} failed: {}", problem.detail))
                })?);
            }
            outputs.extend(alone);
            if is_last {
                break;
            }
        }
        Ok(outputs.pop().unwrap_or_default())
    }

    async fn reduce_group(
        &self,
        max_tokens: u32,
        input: ReduceInput,
        (item, seed): (Item, Vec<u8>),
    ) -> Result<String, TaskError> {
        let prompt = FramedPrompt::for_outputs(self.input.system.as_deref(), &input.prompt)?;
        let mut call = prompt.about_outputs(&seed, &input.outputs);
        call.model.clone_from(&self.work.task().model);
        (call.max_tokens, call.temperature) = (max_tokens, self.input.temperature);
        Ok(self.calls().ask(call, &item).await?.text)
    }

    fn seed(&self, step: &str, item: u32) -> Vec<u8> {
        format!("{} {step} {item}", self.work.task().id).into_bytes()
    }

    async fn content(&self, id: &DocumentId, version: u64) -> Result<Arc<str>, TaskError> {
        if let Some(known) = self.texts.get(id, version) {
            return Ok(known);
        }
        let (scope, collection) = (&self.work.task().scope, &self.input.collection);
        let content = self.job.store.content(scope, collection, id, Some(version)).await?;
        let gone = || {
            let detail = format!("version {version} of document {:?} is not there any more", id.as_str());
            TaskError::failed(ErrorKind::NotFound, detail)
        };
        let content: Arc<str> = content.ok_or_else(gone)?.into();
        self.texts.put(id, version, &content);
        Ok(content)
    }
}

/// The content that was read last: items of one document follow each other, and a book should be read once.
#[derive(Default)]
struct Texts(Mutex<Option<(DocumentId, u64, Arc<str>)>>);

impl Texts {
    fn get(&self, id: &DocumentId, version: u64) -> Option<Arc<str>> {
        let last = self.0.lock();
        let found = last.as_ref().filter(|(known, its, _)| known == id && *its == version);
        found.map(|(_, _, content)| Arc::clone(content))
    }

    fn put(&self, id: &DocumentId, version: u64, content: &Arc<str>) {
        *self.0.lock() = Some((id.clone(), version, Arc::clone(content)));
    }
}
