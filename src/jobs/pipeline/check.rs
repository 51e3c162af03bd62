//! Whether a pipeline can be run: every step is of a known kind, with fields that fit, and refers to what is there when
//! it runs.
//!
//! What depends on an earlier step cannot be known yet; everything else is checked now.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::{CollectionName, StepName};
use crate::gateway::Gateway;
use crate::jobs::input::{Faults, read_value};
use crate::jobs::settings::JobSettings;
use crate::search::{DEFAULT_COLLECTION, SearchDefaults};

use super::handler::TASK;
use super::reference::{INPUT, Reference, each_template, filled, refers_to_steps};
use super::step::{AnswerStep, ExtractStep, SearchStep, StepType};

/// The room of answers calls its own calls so, in routes and ledger.
const ANSWER_TASK: &str = "answer";
/// Fields that must not depend on what a document or a model said: they instruct.
const INSTRUCTING: [&str; 2] = ["instructions", "schema"];

/// The input as the caller writes it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineRequest {
    pub steps: Vec<Value>,
    pub input: Map<String, Value>,
}

/// The input as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipelineInput {
    pub steps: Vec<NamedStep>,
    pub input: Map<String, Value>,
}

/// A step with its references still in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedStep {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: StepType,
    pub fields: Map<String, Value>,
}

/// What pipelines are checked against.
pub struct Rules<'a> {
    pub settings: &'a JobSettings,
    pub defaults: &'a SearchDefaults,
    pub gateway: &'a Gateway,
    /// For steps that name none.
    pub model: Option<&'a str>,
}

impl Rules<'_> {
    /// The stored form; `None` only with faults.
    pub fn check(&self, request: PipelineRequest, faults: &mut Faults) -> Option<PipelineInput> {
        faults.check_range("/steps", request.steps.len() as u64, self.settings.max_pipeline_steps as u64);
        let known: Map<String, Value> =
            [(INPUT.to_owned(), Value::Object(request.input.clone()))].into_iter().collect();
        let mut before = BTreeSet::new();
        let mut steps = Vec::with_capacity(request.steps.len());
        for (index, step) in request.steps.into_iter().enumerate() {
            let at = format!("/steps/{index}");
            let Some(step) = self.named(step, &at, faults) else { continue };
            if !before.contains(&step.name) {
                check_references(&step, &at, (&before, &known), faults);
                self.check_fields(&step, &at, &known, faults);
            }
            if !before.insert(step.name.clone()) {
                faults.add(format!("{at}/name"), format!("is the name of an earlier step already: {:?}", step.name));
            }
            steps.push(step);
        }
        faults.0.is_empty().then_some(PipelineInput { steps, input: request.input })
    }

    /// Name, kind and fields of a step, defaults written out.
    fn named(&self, step: Value, at: &str, faults: &mut Faults) -> Option<NamedStep> {
        let Value::Object(mut fields) = step else {
            faults.add(at, "must be an object");
            return None;
        };
        let name = fields.remove("name").and_then(|name| name.as_str().map(str::to_owned));
        let kind = fields.remove("type").and_then(|kind| serde_json::from_value::<StepType>(kind).ok());
        if !name.as_deref().is_some_and(is_step_name) {
            faults.add(format!("{at}/name"), "must be a word of letters, digits, '_' and '-', and not \"input\"");
        }
        if kind.is_none() {
            faults.add(format!("{at}/type"), "must be one of search, answer, extract");
        }
        let (name, kind) = name.zip(kind)?;
        for required in kind.required() {
            if fields.get(*required).is_none_or(Value::is_null) {
                faults.add(format!("{at}/{required}"), "is required");
            }
        }
        let mut default = |field: &str, value: Value| {
            fields.entry(field).or_insert(value);
        };
        match kind {
            StepType::Search => {
                default("collection", DEFAULT_COLLECTION.into());
                default("top_k", self.defaults.settings().top_k.into());
            }
            StepType::Answer => default("collection", DEFAULT_COLLECTION.into()),
            StepType::Extract => default("max_tokens", self.settings.max_tokens.into()),
        }
        if let Some(model) = self.model.filter(|_| kind != StepType::Search) {
            default("model", model.into());
        }
        Some(NamedStep { name, kind, fields })
    }

    fn check_fields(&self, step: &NamedStep, at: &str, known: &Map<String, Value>, faults: &mut Faults) {
        // What refers to an earlier step is judged when that has run.
        let now = step.fields.iter().filter(|(_, value)| !refers_to_steps(value));
        let filled = now.filter_map(|(key, value)| Some((key.clone(), filled(value, known).ok()?))).collect();
        let is_filled_later = |field: &str| step.fields.get(field).is_some_and(refers_to_steps);
        let mut filled = Value::Object(filled);
        if step.kind == StepType::Search && is_filled_later("query") {
            filled["query"] = "to be filled in".into();
        }
        self.check_filled(step.kind, filled, at, faults);
    }

    /// Checks a step whose references are replaced, as far as they can be.
    pub fn check_filled(&self, kind: StepType, filled: Value, at: &str, faults: &mut Faults) {
        match kind {
            StepType::Search => {
                let Some(search) = read_value::<SearchStep>(filled, at, faults) else { return };
                let (query, overrides) = search.into_query();
                if let (Some(_), Err(invalid)) = (&query, self.defaults.query(query.clone(), overrides)) {
                    invalid.0.into_iter().for_each(|one| faults.add(format!("{at}{}", one.pointer), one.detail));
                }
            }
            StepType::Answer => {
                let Some(answer) = read_value::<AnswerStep>(filled, at, faults) else { return };
                if answer.question.is_some_and(|question| question.trim().is_empty()) {
                    faults.add(format!("{at}/question"), "must not be empty");
                }
                self.check_model(answer.model.as_deref(), (at, ANSWER_TASK), faults);
                self.check_max_tokens(answer.max_tokens, at, faults);
            }
            StepType::Extract => {
                let Some(extract) = read_value::<ExtractStep>(filled, at, faults) else { return };
                self.check_extract(&extract, at, faults);
                self.check_model(extract.model.as_deref(), (at, TASK), faults);
                self.check_max_tokens(extract.max_tokens, at, faults);
            }
        }
    }

    fn check_extract(&self, extract: &ExtractStep, at: &str, faults: &mut Faults) {
        if let Some(schema) = &extract.schema {
            let (bytes, limit) = (schema.to_string().len(), self.settings.max_schema_bytes);
            if !schema.is_object() {
                faults.add(format!("{at}/schema"), "must be a JSON schema, an object");
            } else if bytes > limit {
                faults.add(format!("{at}/schema"), format!("has {bytes} bytes, at most {limit} are allowed"));
            }
        }
        if let Some(instructions) = &extract.instructions {
            faults.check_text(&format!("{at}/instructions"), instructions, self.settings.max_prompt_bytes);
        }
    }

    fn check_model(&self, model: Option<&str>, (at, task): (&str, &str), faults: &mut Faults) {
        if let Some(model) = model.filter(|model| !self.gateway.allows(task, model)) {
            faults.add(format!("{at}/model"), format!("{model:?} is not a model that this server offers"));
        }
    }

    fn check_max_tokens(&self, max_tokens: Option<u32>, at: &str, faults: &mut Faults) {
        if let Some(tokens) = max_tokens {
            let limit = self.settings.max_tokens_limit.into();
            faults.check_range(&format!("{at}/max_tokens"), tokens.into(), limit);
        }
    }
}

/// References split at dots, so names hold none.
fn is_step_name(name: &str) -> bool {
    StepName::new(name).is_ok() && !name.contains('.') && name != INPUT
}

fn check_references(
    step: &NamedStep,
    at: &str,
    (before, known): (&BTreeSet<String>, &Map<String, Value>),
    faults: &mut Faults,
) {
    for (key, value) in &step.fields {
        let instructs = INSTRUCTING.contains(&key.as_str());
        each_template(value, &format!("{at}/{key}"), &mut |at, template| {
            let template = match template {
                Ok(template) => template,
                Err(fault) => return faults.add(at, fault),
            };
            for hole in template.holes() {
                if let Some(fault) = reference_fault(hole, (before, known), instructs.then_some(key)) {
                    faults.add(at, fault);
                }
            }
        });
    }
}

fn reference_fault(
    hole: &str,
    (before, known): (&BTreeSet<String>, &Map<String, Value>),
    instructing: Option<&String>,
) -> Option<String> {
    let Some(reference) = Reference::parse(hole) else {
        return Some(format!("{{{{{hole}}}}} is no reference; write {{{{input.name}}}} or {{{{step.field}}}}"));
    };
    if reference.root == INPUT {
        return reference.resolve(known).is_none().then(|| format!("{{{{{hole}}}}} is not in the input"));
    }
    if !before.contains(reference.root) {
        return Some(format!("{{{{{hole}}}}} refers to {:?}, which is no earlier step", reference.root));
    }
    instructing.map(|key| format!("{key} may refer to the input only; put what a step gave into from"))
}

impl PipelineInput {
    /// The collections that its steps read, as far as they are known before it runs.
    pub fn collections(&self) -> Vec<CollectionName> {
        let known: Map<String, Value> = [(INPUT.to_owned(), Value::Object(self.input.clone()))].into_iter().collect();
        let named = self.steps.iter().filter_map(|step| step.fields.get("collection"));
        let names: BTreeSet<CollectionName> =
            named.filter_map(|value| serde_json::from_value(filled(value, &known).ok()?).ok()).collect();
        names.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gateway::test_gateway;
    use crate::search::SearchSettings;

    fn check(request: Value) -> Result<PipelineInput, Vec<String>> {
        let mut faults = Faults::default();
        let (settings, defaults) = (JobSettings::default(), SearchDefaults::new(SearchSettings::default()));
        let gateway = test_gateway::none();
        let rules = Rules { settings: &settings, defaults: &defaults, gateway: &gateway, model: None };
        let request = read_value::<PipelineRequest>(request, "", &mut faults);
        let checked = request.and_then(|request| rules.check(request, &mut faults));
        checked.ok_or_else(|| faults.0.into_iter().map(|(pointer, _)| pointer).collect())
    }

    #[test]
    fn a_pipeline_is_stored_with_its_defaults_and_its_references() {
        let input = check(json!({
            "steps": [
                {"name": "find", "type": "search", "query": "{{input.who}}", "collection": "{{input.where}}"},
                {"name": "ask", "type": "answer", "question": "Who wrote {{find.hits.0.title}}?"},
                {"name": "read", "type": "extract", "from": "{{ask.answer}}", "schema": {"type": "object"}}
            ],
            "input": {"who": "Ahab", "where": "books"}
        }))
        .unwrap();

        assert_eq!(input.steps[0].fields["top_k"], 10);
        assert_eq!(input.steps[0].fields["query"], "{{input.who}}");
        assert_eq!(input.steps[2].fields["max_tokens"], 512);
        let names: Vec<String> = input.collections().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["books", "default"]);
    }

    #[test]
    fn unknown_and_forward_references_are_faults_before_anything_runs() {
        let faults = check(json!({"steps": [
            {"name": "a", "type": "search", "query": "{{input.nobody}} {{b.answer}}", "filter": {"x": "{{a.hits}}"}},
            {"name": "b", "type": "answer", "question": "{{a.hits", "session_id": "{{}}"}
        ]}));

        let mut faults = faults.unwrap_err();
        faults.sort();
        assert_eq!(
            faults,
            ["/steps/0/filter/x", "/steps/0/query", "/steps/0/query", "/steps/1/question", "/steps/1/session_id"]
        );
    }

    #[test]
    fn every_fault_of_every_step_is_told_at_once() {
        let faults = check(json!({"steps": [
            {"name": "a.b", "type": "search", "query": "x", "top_k": 0},
            {"name": "c", "type": "sarch"},
            {"name": "d", "type": "answer", "questoin": "x", "model": "gpt"},
            {"name": "e", "type": "extract", "from": "x", "schema": 7, "max_tokens": 99_999},
            {"name": "e", "type": "search", "query": "x"},
            7
        ]}));

        assert_eq!(
            faults.unwrap_err(),
            [
                "/steps/0/name",
                "/steps/0/top_k",
                "/steps/1/type",
                "/steps/2/question",
                "/steps/2/questoin",
                "/steps/3/schema",
                "/steps/3/max_tokens",
                "/steps/4/name",
                "/steps/5"
            ]
        );
        assert_eq!(check(json!({"steps": []})).unwrap_err(), ["/steps"]);
    }

    #[test]
    fn what_a_document_said_never_becomes_an_instruction() {
        let faults = check(json!({"steps": [
            {"name": "find", "type": "search", "query": "x"},
            {"name": "read", "type": "extract", "from": "{{find.hits}}", "schema": {},
                "instructions": "{{find.hits.0.text}}"}
        ]}));

        assert_eq!(faults.unwrap_err(), ["/steps/1/instructions"]);
    }
}
