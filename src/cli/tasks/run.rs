//! From `plumb tasks …` to its outcome.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Map, Value, json};
use url::form_urlencoded::{Serializer, byte_serialize};

use crate::cli::args::Global;
use crate::cli::door::Door;
use crate::cli::output::{remark, say};
use crate::cli::run::must_exist;
use crate::config::Config;

use super::args::{ListArguments, SubmitArguments, TasksArguments, TasksCommand};
use super::ids::resolve;
use super::show;
use super::watch::{self, Style};

/// Runs one command; 1 if a task that was waited for did not succeed.
pub async fn run(global: &Global, config: Config, arguments: TasksArguments) -> anyhow::Result<ExitCode> {
    let TasksArguments { command, json } = arguments;
    let out = Output { json };
    if let TasksCommand::Submit(submit) = command {
        // Before the door: reading may wait for a person, and what is no JSON needs no door.
        let order = order(&submit)?;
        let then = if submit.wait { Then::Wait } else { Then::Leave };
        return behind(global, config, async |door| ask(door, &order, then, out).await).await;
    }
    // Work may be asked for before there is a document; all else makes no data directory.
    must_exist(global, &config)?;
    behind(global, config, async |door| execute(door, command, out).await).await
}

/// What a submission does once the task is in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Leave,
    Wait,
}

/// Opens the door, does the work or stops at Ctrl-C, and closes the door whatever came of it.
async fn behind(
    global: &Global,
    config: Config,
    work: impl AsyncFnOnce(&Door) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let door = Door::open(global, config).await?;
    let outcome = tokio::select! {
        outcome = work(&door) => outcome,
        stopped = tokio::signal::ctrl_c() => {
            stopped.context("cannot wait for Ctrl-C")?;
            Err(anyhow::anyhow!("stopped looking; the tasks are not lost"))
        }
    };
    door.close().await?;
    outcome
}

async fn execute(door: &Door, command: TasksCommand, out: Output) -> anyhow::Result<ExitCode> {
    if matches!(command, TasksCommand::Watch { .. }) {
        door.work_on_tasks();
    }
    match command {
        TasksCommand::Submit(_) => {}
        TasksCommand::List(arguments) => out.print(&door.get(&listing(&arguments)).await?, show::list)?,
        TasksCommand::Show { id } => out.print(&door.get(&path(door, &id, "").await?).await?, show::task)?,
        TasksCommand::Watch { id: None } => watch::all(door, out.style()).await?,
        TasksCommand::Watch { id: Some(id) } => {
            let task = watch::one(door, &resolve(door, &id).await?, out.style()).await?;
            if !out.json {
                say(&show::headline(&task))?;
            }
            return Ok(code(&task));
        }
        TasksCommand::Result { id } => {
            let result = door.get(&path(door, &id, "/result").await?).await?;
            out.print(&result, show::result)?;
            return Ok(code(&result));
        }
        TasksCommand::Cancel { id } => tell(door, (&id, "/cancel"), &json!({}), out).await?,
        TasksCommand::Pause { id } => tell(door, (&id, "/pause"), &json!({}), out).await?,
        TasksCommand::Resume { id } => tell(door, (&id, "/resume"), &json!({}), out).await?,
        TasksCommand::Redrive { id, from } => {
            let body = from.map_or_else(|| json!({}), |step| json!({ "from_step": step }));
            tell(door, (&id, "/redrive"), &body, out).await?;
        }
        TasksCommand::Fork { id, step, input } => {
            let input = parsed(&input, "--input")?;
            tell(door, (&id, "/fork"), &json!({ "step": step, "input": input }), out).await?;
        }
        TasksCommand::Failures { id: Some(id), .. } => {
            out.print(&door.get(&path(door, &id, "/failures").await?).await?, show::failures)?;
        }
        TasksCommand::Failures { id: None, by: _, since } => {
            out.print(&door.get(&failure_days(since.as_deref())).await?, show::days)?;
        }
        TasksCommand::Items { id, step, from, limit } => {
            let step: String = byte_serialize(step.as_bytes()).collect();
            let items = path(door, &id, &format!("/steps/{step}?from={from}&limit={limit}")).await?;
            out.print(&door.get(&items).await?, show::item_table)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(door: &Door, order: &Value, then: Then, out: Output) -> anyhow::Result<ExitCode> {
    let task = door.post("/tasks", order).await?;
    let id = task["id"].as_str().context("the server named no task")?;
    if then == Then::Leave {
        out.print(&task, show::headline)?;
        if matches!(door, Door::Local { .. }) && !show::is_ended(&task) {
            remark("it is done while a server runs (plumb serve), or with --wait\n");
        }
        return Ok(ExitCode::SUCCESS);
    }
    door.work_on_tasks();
    let ended = watch::one(door, id, if out.json { Style::Silent } else { Style::Board }).await?;
    let run = ended["run"].as_u64().unwrap_or(1);
    out.print(&door.get(&format!("/tasks/{id}/result?run={run}")).await?, show::result)?;
    Ok(code(&ended))
}

fn order(arguments: &SubmitArguments) -> anyhow::Result<Value> {
    let input = match (&arguments.input, &arguments.input_file) {
        (Some(text), _) => parsed(text, "--input")?,
        (None, Some(file)) if file != Path::new("-") => {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            parsed(&text, &file.display().to_string())?
        }
        (None, _) => {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text).context("cannot read standard input")?;
            parsed(&text, "standard input")?
        }
    };
    let mut body = Map::from_iter([
        ("kind".to_owned(), json!(arguments.kind)),
        ("input".to_owned(), input),
        ("force".to_owned(), json!(arguments.force)),
    ]);
    let optional = [
        ("model", arguments.model.as_ref().map(|model| json!(model))),
        ("priority", arguments.priority.map(|priority| json!(priority))),
        ("delay_s", arguments.delay.map(|delay| json!(delay))),
        ("session_id", arguments.session.as_ref().map(|session| json!(session))),
    ];
    body.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Ok(Value::Object(body))
}

fn parsed(text: &str, source: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).with_context(|| format!("{source} is not JSON"))
}

async fn tell(door: &Door, (id, action): (&str, &str), body: &Value, out: Output) -> anyhow::Result<()> {
    let task = door.post(&path(door, id, action).await?, body).await?;
    out.print(&task, show::headline)
}

async fn path(door: &Door, id: &str, rest: &str) -> anyhow::Result<String> {
    Ok(format!("/tasks/{}{rest}", resolve(door, id).await?))
}

fn listing(arguments: &ListArguments) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair("limit", &arguments.limit.to_string());
    for (name, value) in [("status", &arguments.status), ("kind", &arguments.kind)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    format!("/tasks?{}", query.finish())
}

fn failure_days(since: Option<&str>) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair("by", "day");
    if let Some(since) = since {
        query.append_pair("since", since);
    }
    format!("/failures?{}", query.finish())
}

fn code(task: &Value) -> ExitCode {
    if task["status"] == "succeeded" { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How objects are printed.
#[derive(Debug, Clone, Copy)]
struct Output {
    json: bool,
}

impl Output {
    fn print(self, response: &Value, render: impl Fn(&Value) -> String) -> anyhow::Result<()> {
        if self.json { say(&format!("{}\n", serde_json::to_string_pretty(response)?)) } else { say(&render(response)) }
    }

    fn style(self) -> Style {
        if self.json { Style::Json } else { Style::Board }
    }
}
