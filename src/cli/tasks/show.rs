//! Tasks for people: from the same JSON that the HTTP API returns.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::table::{printable, table};

use super::ids::short;

/// A listing, one task a line.
pub fn list(response: &Value) -> String {
    let row = |task: &Value| {
        vec![
            short(string(task, "id")).to_owned(),
            string(task, "kind").to_owned(),
            status(task),
            progress(task),
            task["run"].to_string(),
            moment(&task["created_at"]),
            error(task),
        ]
    };
    let rows: Vec<_> = items(response, "tasks").iter().map(row).collect();
    if rows.is_empty() {
        return "no tasks\n".to_owned();
    }
    let mut text = table(&["id", "kind", "status", "done", "run", "created", "error"], &rows);
    if response["next_cursor"].is_string() {
        text.push_str("there are more; --limit takes more\n");
    }
    text
}

/// A task with its steps.
pub fn task(task: &Value) -> String {
    let mut text = headline(task);
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {name:<9} {}", printable(&value));
        }
    };
    line("error", error(task));
    line("model", string(task, "model").to_owned());
    line("prompt", prompt(&task["prompt"]));
    line("session", string(task, "session_id").to_owned());
    line("fork of", string(task, "forked_from").to_owned());
    line("calls", calls(task));
    line("created", moment(&task["created_at"]));
    line("started", moment(&task["started_at"]));
    line("finished", moment(&task["finished_at"]));
    line("trace", string(task, "task_trace_id").to_owned());
    let rows: Vec<_> = items(task, "steps").iter().map(step).collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(&["step", "status", "done", "attempts", "started", "finished", "error"], &rows));
    }
    text
}

/// A task in one line.
pub fn headline(task: &Value) -> String {
    let (id, kind, run) = (string(task, "id"), string(task, "kind"), &task["run"]);
    let run = if run == 1 { String::new() } else { format!(", run {run}") };
    let eta = task["progress"]["eta_ms"].as_u64().map(|ms| format!(", {} left", lasting(ms))).unwrap_or_default();
    format!("{id}  {kind}{run}: {}, {} done{eta}\n", status(task), progress(task))
}

/// How a task has ended.
pub fn result(response: &Value) -> String {
    match string(response, "status") {
        "succeeded" => format!("{}\n", serde_json::to_string_pretty(&response["result"]).unwrap_or_default()),
        other => format!("{} {other} {}\n", string(response, "id"), error(response)).replace(" \n", "\n"),
    }
}

/// Recorded items of a step.
pub fn item_table(response: &Value) -> String {
    let row = |item: &Value| {
        vec![
            format!("{}/{}", item["item"], item["items"]),
            item["attempt"].to_string(),
            moment(&item["finished_at"]),
            item["input"].to_string(),
            item["output"].to_string(),
        ]
    };
    let rows: Vec<_> = items(response, "items").iter().map(row).collect();
    let mut text = table(&["item", "attempt", "finished", "input", "output"], &rows);
    if let Some(next) = response["next_from"].as_u64() {
        let _ = writeln!(text, "there are more; --from {next} goes on");
    }
    text
}

/// Failed attempts of a task.
pub fn failures(response: &Value) -> String {
    let row = |failure: &Value| {
        vec![
            moment(&failure["at"]),
            string(failure, "step").to_owned(),
            number(&failure["item"]),
            failure["attempt"].to_string(),
            if failure["final"] == true { "final" } else { "" }.to_owned(),
            error(failure),
        ]
    };
    let rows: Vec<_> = items(response, "failures").iter().map(row).collect();
    if rows.is_empty() {
        return "no failures\n".to_owned();
    }
    table(&["at", "step", "item", "attempt", "", "error"], &rows)
}

/// Failures by day and kind.
pub fn days(response: &Value) -> String {
    let row = |day: &Value| {
        vec![
            string(day, "day").to_owned(),
            string(day, "kind").to_owned(),
            day["succeeded"].to_string(),
            day["failed"].to_string(),
            format!("{:.1} %", 100.0 * day["failure_rate"].as_f64().unwrap_or_default()),
            day["failures"].to_string(),
        ]
    };
    let rows: Vec<_> = items(response, "days").iter().map(row).collect();
    if rows.is_empty() {
        return format!("no task has ended since {}\n", string(response, "since"));
    }
    table(&["day", "kind", "succeeded", "failed", "rate", "failed attempts"], &rows)
}

/// The status, and what it is about to become.
pub fn status(task: &Value) -> String {
    match task["wish"].as_str() {
        Some(wish) => format!("{} ({wish})", string(task, "status")),
        None => string(task, "status").to_owned(),
    }
}

/// True if nothing will happen to the run any more.
pub fn is_ended(task: &Value) -> bool {
    matches!(task["status"].as_str(), Some("succeeded" | "failed" | "cancelled"))
}

/// Done of all, as far as that is known.
pub fn progress(task: &Value) -> String {
    let progress = &task["progress"];
    match progress["total"].as_u64() {
        Some(total) => format!("{}/{total}", progress["done"]),
        None => number(&progress["done"]),
    }
}

/// What went wrong, in one line; empty if nothing did.
pub fn error(holder: &Value) -> String {
    let error = &holder["error"];
    match error["kind"].as_str() {
        Some(kind) => format!("{kind}: {}", string(error, "detail")),
        None => String::new(),
    }
}

/// A time as long as people say it.
pub fn lasting(ms: u64) -> String {
    match ms / 1_000 {
        0..=99 => format!("{} s", ms.div_ceil(1_000)),
        seconds @ 100..=5_999 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3_600)),
    }
}

fn step(step: &Value) -> Vec<String> {
    vec![
        string(step, "name").to_owned(),
        string(step, "status").to_owned(),
        format!("{}/{}", step["done"], step["items"]),
        step["attempts"].to_string(),
        moment(&step["started_at"]),
        moment(&step["finished_at"]),
        error(step),
    ]
}

fn prompt(prompt: &Value) -> String {
    match prompt["name"].as_str() {
        Some(name) => format!("{name}@{}", string(prompt, "version")),
        None => String::new(),
    }
}

fn calls(task: &Value) -> String {
    let usage = &task["usage"];
    match usage["calls"].as_u64() {
        None | Some(0) => String::new(),
        Some(calls) => format!(
            "{calls}, {} tokens in, {} out, ${:.4}",
            usage["input_tokens"],
            usage["output_tokens"],
            task["cost_usd"].as_f64().unwrap_or_default()
        ),
    }
}

/// To the second: the rest is for programs.
fn moment(time: &Value) -> String {
    let text = time.as_str().unwrap_or_default();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(clock)) => format!("{day} {clock}"),
        _ => text.to_owned(),
    }
}

fn number(value: &Value) -> String {
    value.as_u64().map(|number| number.to_string()).unwrap_or_default()
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn string<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn running() -> Value {
        json!({"id": "tsk_00112233445566778899aabbccddeeff", "kind": "map", "run": 2, "status": "running",
            "wish": "pause", "progress": {"done": 3, "total": 10, "eta_ms": 12_400}, "created_at": "2026-11-23T09:30:00.5Z",
            "usage": {"calls": 2, "input_tokens": 700, "output_tokens": 60}, "cost_usd": 0.00042, "model": null,
            "task_trace_id": "4bf9", "error": {"kind": "upstream", "detail": "refused\u{1b}[2J"},
            "steps": [{"name": "map", "status": "running", "done": 3, "items": 10, "attempts": 4,
                "started_at": "2026-11-23T09:30:01Z", "finished_at": null}]})
    }

    #[test]
    fn a_task_is_shown_with_what_is_known_of_it_and_its_steps() {
        let expected = "\
tsk_00112233445566778899aabbccddeeff  map, run 2: running (pause), 3/10 done, 13 s left
  error     upstream: refused\\u{1b}[2J
  calls     2, 700 tokens in, 60 out, $0.0004
  created   2026-11-23 09:30:00
  trace     4bf9

STEP  STATUS   DONE  ATTEMPTS  STARTED              FINISHED  ERROR
map   running  3/10  4         2026-11-23 09:30:01
";
        assert_eq!(task(&running()), expected);
    }

    #[test]
    fn a_listing_has_ids_that_can_be_typed_again() {
        let text = list(&json!({"tasks": [running()], "next_cursor": "c"}));

        assert!(text.starts_with("ID                KIND  STATUS           DONE  RUN  CREATED"), "{text}");
        assert!(text.contains("\ntsk_001122334455  map   running (pause)  3/10  2    2026-11-23 09:30:00  upstream"));
        assert!(text.ends_with("--limit takes more\n"));
        assert_eq!(list(&json!({"tasks": []})), "no tasks\n");
    }

    #[test]
    fn a_result_is_its_json_and_a_failure_its_reason() {
        assert_eq!(result(&json!({"status": "succeeded", "result": ["a"]})), "[\n  \"a\"\n]\n");
        let failed = json!({"id": "tsk_1", "status": "failed", "error": {"kind": "upstream", "detail": "refused"}});
        assert_eq!(result(&failed), "tsk_1 failed upstream: refused\n");
        assert_eq!(result(&json!({"id": "tsk_1", "status": "cancelled", "result": null})), "tsk_1 cancelled\n");
    }

    #[test]
    fn times_are_as_long_as_people_say_them() {
        assert_eq!([0, 1, 99_000, 100_000, 7_200_001].map(lasting), ["0 s", "1 s", "99 s", "2 min", "2 h"]);
    }
}
