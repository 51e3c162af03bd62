//! Tasks as they go on: one with its steps until it ends, or all that have not ended.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::TryStreamExt;
use serde_json::Value;

use crate::cli::door::Door;
use crate::cli::output::say;

use super::board::{Board, Row};
use super::ids::short;
use super::show;

/// Time between two looks at all tasks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// States that are no end, in the order in which they are shown.
const UNFINISHED: [&str; 4] = ["running", "queued", "waiting", "paused"];
/// Most tasks of each state that are shown: more do not fit on a screen.
const MAX_ROWS: usize = 15;

/// How what is seen is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For people.
    Board,
    /// Each object on a line, as it came.
    Json,
    Silent,
}

/// Follows a task until its run has ended, and returns it as it is then.
pub async fn one(door: &Door, id: &str, style: Style) -> anyhow::Result<Value> {
    let mut events = door.follow(&format!("/tasks/{id}/events")).await?;
    let mut board = Board::on_stdout();
    while let Some(event) = events.try_next().await.context("the server stopped answering; the task is not lost")? {
        if event.name == "error" {
            bail!(
                "{}",
                crate::cli::door::problem(&event.body, event.body["status"].as_u64().unwrap_or_default() as u16)
            );
        }
        match style {
            Style::Board => board.show(&rows_of(&event.body))?,
            Style::Json => say(&format!("{}\n", event.body))?,
            Style::Silent => {}
        }
        if event.name == "done" {
            return Ok(event.body);
        }
    }
    bail!("the server stopped; the task is not lost, watch it again after the start")
}

/// Shows all tasks that have not ended, until none is left.
pub async fn all(door: &Door, style: Style) -> anyhow::Result<()> {
    let mut board = Board::on_stdout();
    let mut watched: Vec<String> = Vec::new();
    loop {
        let tasks = unfinished(door).await?;
        let ids: Vec<String> = tasks.iter().map(|task| text(task, "id").to_owned()).collect();
        for id in watched.iter().filter(|id| !ids.contains(id)) {
            let task = door.get(&format!("/tasks/{id}")).await?;
            match style {
                // It may only have gone below those that are shown.
                _ if !show::is_ended(&task) => {}
                Style::Board => board.say(&show::headline(&task))?,
                Style::Json => say(&format!("{task}\n"))?,
                Style::Silent => {}
            }
        }
        match style {
            Style::Board => board.show(&tasks.iter().map(row_of).collect::<Vec<_>>())?,
            Style::Json => tasks.iter().try_for_each(|task| say(&format!("{task}\n")))?,
            Style::Silent => {}
        }
        if tasks.is_empty() {
            return board.say(if watched.is_empty() { "every task has ended\n" } else { "" });
        }
        watched = ids;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn unfinished(door: &Door) -> anyhow::Result<Vec<Value>> {
    let mut tasks: Vec<Value> = Vec::new();
    for status in UNFINISHED {
        let mut page = door.get(&format!("/tasks?status={status}&limit={MAX_ROWS}")).await?;
        if let Value::Array(found) = page["tasks"].take() {
            // One may have gone from one state to the next between two looks.
            let is_new = |task: &Value| !tasks.iter().any(|known| known["id"] == task["id"]);
            let new: Vec<Value> = found.into_iter().filter(is_new).collect();
            tasks.extend(new);
        }
    }
    Ok(tasks)
}

/// The task, and below it its steps.
fn rows_of(task: &Value) -> Vec<Row> {
    let steps = task["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let step = |step: &Value| Row {
        label: format!("  {}", text(step, "name")),
        done: step["done"].as_u64().unwrap_or_default(),
        total: step["items"].as_u64(),
        note: joined(text(step, "status").to_owned(), show::error(step)),
    };
    std::iter::once(row_of(task)).chain(steps.iter().map(step)).collect()
}

fn row_of(task: &Value) -> Row {
    let progress = &task["progress"];
    let eta = progress["eta_ms"].as_u64().map(|ms| format!("{} left", show::lasting(ms))).unwrap_or_default();
    Row {
        label: format!("{} {}", short(text(task, "id")), text(task, "kind")),
        done: progress["done"].as_u64().unwrap_or_default(),
        total: progress["total"].as_u64(),
        note: joined(joined(show::status(task), eta), show::error(task)),
    }
}

fn joined(first: String, second: String) -> String {
    if second.is_empty() { first } else { format!("{first}, {second}") }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_task_is_a_row_and_each_step_one_below_it() {
        let task = json!({"id": "tsk_00112233445566778899aabbccddeeff", "kind": "map", "status": "running",
            "progress": {"done": 3, "total": null, "eta_ms": 2_000},
            "steps": [{"name": "map", "status": "failed", "done": 2, "items": 4,
                "error": {"kind": "upstream", "detail": "refused"}}]});

        let rows = rows_of(&task);

        let row = |label: &str, done, total, note: &str| Row { label: label.into(), done, total, note: note.into() };
        let expected = [
            row("tsk_001122334455 map", 3, None, "running, 2 s left"),
            row("  map", 2, Some(4), "failed, upstream: refused"),
        ];
        assert_eq!(rows, expected);
    }
}
