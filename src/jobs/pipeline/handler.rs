//! The walk of a `pipeline`: fill in what the steps before gave, do the step, go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::answer::{AnswerRequest, Answerer};
use crate::domain::{
    Answer, AnswerStatus, CollectionName, ContentHash, ErrorKind, Hit, JsonText, ModelProblem, Permission, Sequence,
    TaskKind, TenantScope,
};
use crate::gateway::{ChatCall, Gateway, PromptTemplate, ReplySchema};
use crate::jobs::fault::{not_json, of_answer, of_fields, of_search, permit};
use crate::jobs::input::{Faults, read, read_value};
use crate::jobs::model_call::ModelCalls;
use crate::jobs::settings::JobSettings;
use crate::jobs::state::States;
use crate::jobs::template::mark_for;
use crate::search::{DEFAULT_COLLECTION, QueryOverrides, SearchDefaults, Searcher};
use crate::tasks::{Item, JobHandler, Prepared, TaskError, Work};

use super::check::{NamedStep, PipelineInput, PipelineRequest, Rules};
use super::reference::{INPUT, filled};
use super::step::{AnswerStep, ExtractStep, SearchStep, StepType};

/// What the ledger and the routes call calls of `extract`.
pub const TASK: &str = "pipeline";

const EXTRACT_FRAME: &str = include_str!("../prompts/extract.v1.txt");
/// Where the caller gives no instructions.
const INSTRUCTIONS: &str = "Read the values that the schema asks for out of the text.";
/// The reason for a missing model that is no failure.
const NOT_CONFIGURED: &str = "not_configured";

/// `pipeline`.
pub struct PipelineJob {
    pub states: States,
    pub searcher: Arc<Searcher>,
    pub defaults: SearchDefaults,
    pub answerer: Arc<Answerer>,
    pub gateway: Gateway,
    pub settings: Arc<JobSettings>,
}

#[async_trait]
impl JobHandler for PipelineJob {
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
        let request: PipelineRequest = read(&input)?;
        if request.steps.iter().any(|step| step["type"] == StepType::Search.as_str()) {
            permit(scope, Permission::Search, "a step that searches")?;
        }
        let rules = Rules {
            settings: &self.settings,
            defaults: &self.defaults,
            gateway: &self.gateway,
            model: model.as_deref(),
        };
        let mut faults = Faults::default();
        let checked = rules.check(request, &mut faults);
        faults.check()?;
        let input = checked.ok_or_else(|| TaskError::failed(ErrorKind::Unprocessable, "the input is not valid"))?;
        Ok(Prepared {
            context: self.context(scope, &input).await?,
            prompt: None,
            model,
            total: Some(input.steps.len() as u64),
            input: JsonText::of(&input).map_err(not_json)?,
        })
    }

    async fn run(&self, work: &Work) -> Result<JsonText, TaskError> {
        let PipelineInput { steps, input } = work.input()?;
        let mut known: Map<String, Value> = [(INPUT.to_owned(), Value::Object(input))].into_iter().collect();
        for (index, step) in steps.iter().enumerate() {
            let at = format!("/steps/{index}");
            let fields = Value::Object(step.fields.clone());
            let input = filled(&fields, &known).map_err(|fault| TaskError::invalid(vec![(at.clone(), fault)]))?;
            let done = work.step(&step.name, &input, |input, item| self.do_step(work, (step, at), input, item));
            let output: Value = done.await?;
            known.insert(step.name.clone(), output);
        }
        known.remove(INPUT);
        Ok(JsonText::of_value(&json!({"outputs": known})))
    }
}

impl PipelineJob {
    /// The state of the collections, and what the models are asked with.
    async fn context(&self, scope: &TenantScope, input: &PipelineInput) -> Result<ContentHash, TaskError> {
        let state = self.states.of(scope, &input.collections()).await?;
        let models = [TASK, "answer"].map(|task| self.gateway.route_models(task).join("\n"));
        let parts = [state.to_string(), ContentHash::of(EXTRACT_FRAME.as_bytes()).to_string(), models.join("\n\n")];
        Ok(ContentHash::of(parts.join("\n\n").as_bytes()))
    }

    async fn do_step(
        &self,
        work: &Work,
        (step, at): (&NamedStep, String),
        input: Value,
        item: Item,
    ) -> Result<Value, TaskError> {
        // Once more: what an earlier step or a fork put in was not there when the task was asked for.
        let mut faults = Faults::default();
        let rules = Rules {
            settings: &self.settings,
            defaults: &self.defaults,
            gateway: &self.gateway,
            model: work.task().model.as_deref(),
        };
        rules.check_filled(step.kind, input.clone(), &at, &mut faults);
        faults.check()?;
        match step.kind {
            StepType::Search => self.search(work, typed(input, &at)?, &at).await,
            StepType::Answer => self.answer(work, typed(input, &at)?, (&at, item)).await,
            StepType::Extract => self.extract(work, typed(input, &at)?, (&at, item)).await,
        }
    }

    async fn search(&self, work: &Work, step: SearchStep, at: &str) -> Result<Value, TaskError> {
        let (text, mut overrides) = step.into_query();
        overrides.min_sequence = self.newest(work, overrides.collection.as_ref()).await?;
        let query = self.defaults.query(text, overrides).map_err(|invalid| of_fields(invalid.0, at))?;
        let found = self.searcher.search(&work.task().scope, &query, Instant::now()).await;
        let found = found.map_err(|error| of_search(&error))?;
        let degraded: Vec<String> = found.degraded.iter().map(ToString::to_string).collect();
        Ok(json!({"hits": found.hits.iter().map(hit).collect::<Vec<_>>(), "degraded": degraded}))
    }

    /// A task that goes on after a start must not search an index that has yet to catch up.
    async fn newest(&self, work: &Work, collection: Option<&CollectionName>) -> Result<Option<Sequence>, TaskError> {
        let default = CollectionName::new(DEFAULT_COLLECTION).expect("a plain word is a valid name");
        Ok(self.states.newest(&work.task().scope, collection.unwrap_or(&default)).await?)
    }

    async fn answer(&self, work: &Work, step: AnswerStep, (at, item): (&str, Item)) -> Result<Value, TaskError> {
        let task = work.task();
        let min_sequence = self.newest(work, step.collection.as_ref()).await?;
        let request = AnswerRequest {
            search: QueryOverrides { collection: step.collection, min_sequence, ..QueryOverrides::default() },
            model: step.model,
            max_tokens: step.max_tokens,
            session_id: step.session_id.or_else(|| task.session_id.clone()),
            journal: Some(item.journal().into()),
            ..AnswerRequest::question(step.question.unwrap_or_default(), task.trace_id)
        };
        let answered = self.answerer.answer(&task.scope, request, Instant::now()).await;
        written(answered.map_err(|error| of_answer(error, at))?)
    }

    async fn extract(&self, work: &Work, step: ExtractStep, (at, item): (&str, Item)) -> Result<Value, TaskError> {
        let missing = |field: &str| TaskError::invalid(vec![(format!("{at}/{field}"), "is required".to_owned())]);
        let from = match step.from.ok_or_else(|| missing("from"))? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let schema = step.schema.filter(Value::is_object).ok_or_else(|| missing("schema"))?;
        let limit = self.settings.max_extract_bytes;
        if from.len() > limit {
            let detail = format!("has {} bytes, at most {limit} are allowed", from.len());
            return Err(TaskError::invalid(vec![(format!("{at}/from"), detail)]));
        }
        let instructions = step.instructions.as_deref().unwrap_or(INSTRUCTIONS);
        let mut call = extract_call(format!("{} {at}", work.task().id).as_bytes(), instructions, &schema, &from);
        call.model = step.model;
        call.max_tokens = step.max_tokens.unwrap_or(self.settings.max_tokens);
        call.temperature = self.settings.temperature;
        call.schema = Some(ReplySchema { name: "extract".to_owned(), schema });
        let timeout = Duration::from_millis(self.settings.call_timeout_ms);
        let calls = ModelCalls { gateway: &self.gateway, task: work.task(), label: TASK, timeout };
        let said = calls.ask(call, &item).await?;
        read_reply(&said.text).ok_or_else(|| {
            let cut = if said.finish == "length" { ", since it was cut by max_tokens" } else { "" };
            TaskError::failed(ErrorKind::Upstream, format!("the reply of {} is not JSON{cut}", said.model))
        })
    }
}

/// The fields of a step, now that all of them are known.
fn typed<T: DeserializeOwned>(input: Value, at: &str) -> Result<T, TaskError> {
    let mut faults = Faults::default();
    let read = read_value(input, at, &mut faults);
    faults.check()?;
    read.ok_or_else(|| TaskError::invalid(vec![(at.to_owned(), "must be an object".to_owned())]))
}

/// What is asked about a text, which stands between marks: it is data, whatever it says.
fn extract_call(seed: &[u8], instructions: &str, schema: &Value, from: &str) -> ChatCall {
    let frame = PromptTemplate::parse(EXTRACT_FRAME).expect("a file of this program is a valid prompt");
    let from = crate::answer::visible(from);
    let (mark, schema) = (mark_for(seed, &[&from]), schema.to_string());
    let messages = frame.fill(|name| match name {
        "mark" => &mark,
        "instructions" => instructions,
        "schema" => &schema,
        "from" => &from,
        _ => "",
    });
    ChatCall { messages, prompt: Some(frame.version), ..ChatCall::default() }
}

/// The JSON of a reply, also inside a fence, as some models write it.
fn read_reply(reply: &str) -> Option<Value> {
    let text = reply.trim();
    let fenced = text.strip_prefix("```json").or_else(|| text.strip_prefix("```"));
    let text = fenced.and_then(|rest| rest.strip_suffix("```")).unwrap_or(text);
    serde_json::from_str(text).ok()
}

fn hit(hit: &Hit) -> Value {
    json!({"rank": hit.rank, "chunk_id": hit.chunk_id, "document_id": hit.document_id, "title": hit.title,
        "text": hit.text, "score": hit.score, "byte_range": [hit.provenance.span.start, hit.provenance.span.end]})
}

/// The answer as JSON. One for which a configured model failed is not what was asked for.
fn written(answer: Answer) -> Result<Value, TaskError> {
    let failed = |problem: &&ModelProblem| problem.reason != NOT_CONFIGURED;
    if let Some(problem) = answer.model_problem.as_ref().filter(failed) {
        return Err(TaskError::failed(problem.kind, problem.detail.clone()));
    }
    if answer.status == AnswerStatus::Fallback && answer.model_problem.is_none() {
        return Err(TaskError::failed(ErrorKind::Upstream, "the model's reply held no answer"));
    }
    let status = match answer.status {
        AnswerStatus::Answered => "answered",
        AnswerStatus::Abstained => "abstained",
        AnswerStatus::Fallback => "fallback",
    };
    let citations = answer.citations.iter().map(|one| {
        json!({"marker": one.marker, "chunk_id": one.chunk_id, "document_id": one.document_id, "quote": one.quote,
            "byte_range": [one.span.start, one.span.end]})
    });
    Ok(json!({"status": status, "answer": answer.text, "citations": citations.collect::<Vec<_>>(),
        "model": answer.model, "cost_usd": answer.cost.usd()}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ContentHash;

    #[test]
    fn a_reply_is_json_with_or_without_a_fence_and_nothing_else() {
        assert_eq!(read_reply(" {\"a\": 1}\n"), Some(json!({"a": 1})));
        assert_eq!(read_reply("```json\n[1]\n```"), Some(json!([1])));
        for reply in ["", "Sure! {\"a\": 1}", "{\"a\": 1", "```json\n{\"a\": 1}"] {
            assert_eq!(read_reply(reply), None, "{reply}");
        }
    }

    #[test]
    fn the_text_of_an_extraction_stands_between_marks() {
        let call = extract_call(b"seed", "Read.", &json!({"type": "object"}), "Reply {{schema}}\u{200B} only.");

        let mark = call.messages[1].content.lines().next_back().unwrap().to_owned();
        let expected =
            format!("Read.\n\nSchema: {{\"type\":\"object\"}}\n\n{mark}\nReply {{{{schema}}}} only.\n{mark}");
        assert_eq!(call.messages[1].content, expected);
        assert!(call.messages[0].content.contains(&mark));
        assert_eq!(call.prompt.unwrap().name, "extract");
    }

    #[test]
    fn a_released_frame_keeps_its_text() {
        let hash = ContentHash::of(EXTRACT_FRAME.as_bytes()).to_string();

        assert_eq!(hash, "26a2b8ec5ace3b0b7cf5652587f886ba8710425bd4f7cd7c022b3339f4159895");
    }
}
