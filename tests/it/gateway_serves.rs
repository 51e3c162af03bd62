//! A model that dies, settings that change, the switch, and what is left in the ledger: through the door, as users see it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::bed::PATIENCE;
use crate::process::{Client, Server};

/// Settings with a provider that nobody serves and one that follows a script, in this order of the route.
fn settings(route: &str) -> String {
    // Port 9 (discard) is reserved, and nothing listens there.
    format!(
        "[gateway]\nunknown_price = \"free\"\nreload_every_ms = 50\nbackoff_base_ms = 1\nbackoff_max_ms = 2\n\
         [gateway.providers.dead]\nbase_url = \"http://127.0.0.1:9/v1\"\nbreaker_failures = 0\n\
         [gateway.providers.script]\nkind = \"scripted\"\nscript = [\"The lock gate is five metres wide [1].\"]\n\
         [gateway.models.a]\nprovider = \"dead\"\nmodel = \"a-1\"\n\
         [gateway.models.b]\nprovider = \"script\"\nmodel = \"b-1\"\n\
         [gateway.routes.default]\nmodels = {route}\n\
         [[gateway.prices]]\nprovider = \"script\"\nmodel = \"b-1\"\nfrom = \"2020-01-01\"\n\
         input_usd_per_mtok = 1.0\noutput_usd_per_mtok = 10.0\n"
    )
}

async fn ask(client: &Client, session: &str) -> Value {
    // Another question each time, so that none is answered by an equal one under way.
    let question = json!({"question": "How wide is the lock gate?", "session_id": session});
    let (status, answer) = client.post_json("/answer", question.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn until(client: &Client, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let answer = ask(client, "waiting").await;
        if holds(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {answer}");
    }
}

async fn missing(client: &Client) -> Vec<String> {
    let (_, ready) = client.get("/readyz").await;
    let parts = ready["missing"].as_array().unwrap().iter();
    parts.map(|part| part["part"].as_str().unwrap().to_owned()).collect()
}

fn sql(data_dir: &Path, query: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_plumb"))
        .args(["sql", "--format", "csv", query, "--data-dir"])
        .arg(data_dir)
        .env("PLUMB_MODELS_DIR", data_dir.join("no-models"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_dies_b_answers_both_die_and_quotes_answer_while_the_settings_change() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("plumb.toml");
    std::fs::write(&file, settings("[\"a\", \"b\"]")).unwrap();
    let data = dir.path().join("data");
    let server = Server::start_with(&data, &["--config", file.to_str().unwrap()]);
    let client = server.client();
    client.post_ndjson("{\"id\": \"lock\", \"text\": \"The lock gate is five metres wide.\"}\n", "?wait=indexed").await;

    let answer = ask(&client, "s-1").await;
    assert_eq!((&answer["status"], &answer["provider"]), (&json!("answered"), &json!("script")), "{answer}");
    let outcomes: Vec<_> = answer["attempts"].as_array().unwrap().iter().map(|one| one["outcome"].clone()).collect();
    assert_eq!(outcomes, ["unreachable", "unreachable", "unreachable", "ok"]);
    assert!(answer["cost_usd"].as_f64().unwrap() > 0.0);
    assert_eq!(answer["model_problem"], Value::Null);

    // Requests go on all the time; every one of them is answered, before, while and after the settings change.
    std::fs::write(&file, settings("[\"a\"]")).unwrap();
    let fallen = until(&client, "both are dead", |answer| answer["status"] == "fallback").await;
    assert_eq!(fallen["model_problem"]["reason"], "unreachable");
    assert_eq!(fallen["answer"], "The lock gate is five metres wide. [1]");
    std::fs::write(&file, settings("[\"nobody\"]")).unwrap();
    while !missing(&client).await.contains(&"settings".to_owned()) {
        assert_eq!(ask(&client, "s-2").await["status"], "fallback", "the settings before hold");
    }
    std::fs::write(&file, settings("[\"b\"]")).unwrap();
    until(&client, "b is back", |answer| answer["status"] == "answered").await;
    assert!(!missing(&client).await.contains(&"settings".to_owned()));

    let trace = answer["trace_id"].as_str().unwrap();
    let (status, story) = client.get(&format!("/traces/{trace}")).await;
    assert_eq!(status, 200, "{story}");
    let kinds = |kind: &str| story["timeline"].as_array().unwrap().iter().filter(|item| item["kind"] == kind).count();
    assert_eq!((kinds("llm_call"), kinds("search"), kinds("request")), (4, 1, 1), "{story}");
    assert_eq!(story["cost_usd"], answer["cost_usd"]);
    let rows = sql(&data, "SELECT attempt, provider, outcome FROM llm_calls WHERE session_id = 's-1' ORDER BY attempt");
    assert_eq!(
        rows.replace("\r\n", "\n"),
        "attempt,provider,outcome\n1,dead,unreachable\n2,dead,unreachable\n3,dead,unreachable\n4,script,ok\n"
    );
    assert!(server.terminate().success());
}

#[tokio::test]
async fn the_switch_is_thrown_by_request_and_by_file_and_survives_a_restart() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("plumb.toml");
    std::fs::write(&file, settings("[\"b\"]")).unwrap();
    let data = dir.path().join("data");
    let arguments = ["--config", file.to_str().unwrap()];
    let server = Server::start_with(&data, &arguments);
    let client = server.client();
    client.post_ndjson("{\"id\": \"lock\", \"text\": \"The lock gate is five metres wide.\"}\n", "?wait=indexed").await;

    let (status, switched) = client.post_json("/admin/kill-switch", r#"{"on": true, "reason": "drill"}"#).await;
    assert_eq!((status, &switched["on"]), (200, &json!(true)), "{switched}");
    let answer = ask(&client, "s").await;
    assert_eq!(answer["status"], "fallback");
    assert!(answer["degraded"].as_array().unwrap().contains(&json!("gateway:kill_switch")), "{answer}");
    assert_eq!(answer["model_problem"]["detail"], "the kill switch is on: drill");
    assert!(missing(&client).await.contains(&"kill_switch".to_owned()));
    let (status, found) = client.post_json("/search", r#"{"query": "lock gate"}"#).await;
    assert_eq!((status, found["hits"].as_array().unwrap().len()), (200, 1), "searches go on");
    assert!(server.terminate().success());

    let server = Server::start_with(&data, &arguments);
    let client = server.client();
    assert_eq!(ask(&client, "s").await["status"], "fallback", "a restart does not turn it off");
    client.post_json("/admin/kill-switch", r#"{"on": false}"#).await;
    assert_eq!(ask(&client, "s").await["status"], "answered");
    std::fs::write(data.join("KILL_SWITCH"), "by hand\n").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ask(&client, "s").await["model_problem"]["detail"], "the kill switch is on: by hand");
    assert!(server.terminate().success());
}

#[tokio::test]
async fn a_budget_that_is_set_at_run_time_refuses_and_names_itself() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("plumb.toml");
    std::fs::write(&file, settings("[\"b\"]")).unwrap();
    let data = dir.path().join("data");
    let server = Server::start_with(&data, &["--config", file.to_str().unwrap()]);
    let client = server.client();
    client.post_ndjson("{\"id\": \"lock\", \"text\": \"The lock gate is five metres wide.\"}\n", "?wait=indexed").await;

    assert_eq!(ask(&client, "s-1").await["status"], "answered");
    let (status, set) = client.put_json("/budgets/session:*", r#"{"period": "day", "limit_calls": 2}"#).await;
    assert_eq!(status, 200, "{set}");
    assert_eq!(ask(&client, "s-2").await["status"], "answered");
    assert_eq!(ask(&client, "s-2").await["status"], "answered");
    let refused = ask(&client, "s-2").await;
    assert_eq!(refused["status"], "fallback");
    assert!(refused["degraded"].as_array().unwrap().contains(&json!("gateway:budget_exceeded")), "{refused}");
    let detail = refused["model_problem"]["detail"].as_str().unwrap();
    assert!(detail.contains("tenant:default+session:* per day"), "{detail}");
    assert_eq!(ask(&client, "s-3").await["status"], "answered", "another session has turns of its own");

    let (_, listed) = client.get("/budgets").await;
    let accounts = listed["budgets"][0]["accounts"].as_array().unwrap();
    let spent: Vec<_> = accounts.iter().map(|account| (&account["name"], &account["spent_calls"])).collect();
    assert_eq!(spent[0], (&json!("tenant:default+session:s-2"), &json!(2)), "{listed}");
    let events = sql(&data, "SELECT action FROM budget_events ORDER BY id");
    assert!(events.contains("refused") && events.contains("alert"), "{events}");
    let (_, usage) = client.get("/usage?group_by=session").await;
    assert!(usage["total_cost_usd"].as_f64().unwrap() > 0.0, "{usage}");
    assert!(server.terminate().success());
}
