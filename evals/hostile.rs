//! Public collections of bad input through the public door: `cargo test --test hostile`.
//!
//! Naughty strings as documents and queries, the JSON parsing cases as requests and as metadata, valid and broken
//! UTF-8 as bodies. Each case is answered as it deserves, never by a 5xx, and the server goes on. The files take
//! their place from `PLUMB_CORPORA` (default `../shared/data`) and are not part of the project; what is absent is
//! said not to have run.
#![expect(clippy::print_stdout, reason = "a report on standard output is the purpose of this target")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

#[path = "../tests/it/process.rs"]
#[expect(dead_code, reason = "shared with the integration tests, which use the rest")]
mod process;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use process::{Client, Server};

#[tokio::main]
async fn main() -> ExitCode {
    let bad = corpora().join("bad");
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let mut outcome = Outcome::default();
    match std::fs::read(bad.join("blns/blns.json")) {
        Ok(strings) => naughty_strings(&server.client(), &strings, &mut outcome).await,
        Err(_) => outcome.not_run(&bad, "blns"),
    }
    match json_cases(&bad.join("jsontestsuite")) {
        Ok(cases) => json_parsing(&server.client(), &cases, &mut outcome).await,
        Err(_) => outcome.not_run(&bad, "jsontestsuite"),
    }
    match std::fs::read(bad.join("utf8tests/utf8tests.bin")) {
        Ok(lines) => broken_utf8(&server.client(), &lines, &mut outcome).await,
        Err(_) => outcome.not_run(&bad, "utf8tests"),
    }
    let (status, _) = server.client().get("/healthz").await;
    outcome.check("the server", (status == 200).then_some(()).ok_or("is not alive at the end".to_owned()));
    outcome.check("the server", server.terminate().success().then_some(()).ok_or("did not end in order".to_owned()));
    outcome.close()
}

#[expect(clippy::disallowed_methods, reason = "a test is told by the environment where its data are")]
fn corpora() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    std::env::var_os("PLUMB_CORPORA").map_or_else(default, PathBuf::from)
}

#[derive(Default)]
struct Outcome {
    passed: usize,
    failed: usize,
    absent: usize,
}

impl Outcome {
    fn check(&mut self, case: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(what) => {
                println!("FAILED: {case}: {what}");
                self.failed += 1;
            }
        }
    }

    fn not_run(&mut self, bad: &Path, name: &str) {
        println!("did not run: {name} (not in {})", bad.display());
        self.absent += 1;
    }

    fn close(self) -> ExitCode {
        println!("\n{} passed, {} failed, {} skipped", self.passed, self.failed, self.absent);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Each string is stored as it is and can be a query, a title, an id and metadata.
async fn naughty_strings(client: &Client, strings: &[u8], outcome: &mut Outcome) {
    let strings: Vec<String> = serde_json::from_slice(strings).unwrap();
    for (n, text) in strings.iter().enumerate() {
        let case = format!("naughty string {n}, {text:?}");
        let id = format!("naughty-{n}");
        let marked = format!("marker{n} {text}");
        let document = json!({"id": id, "title": text, "text": marked, "metadata": {"as it is": text}});
        let (status, answer) = client.post_json("/documents", json!({"documents": [document]}).to_string()).await;
        outcome.check(
            &case,
            (status == 202 && answer["accepted"] == 1).then_some(()).ok_or_else(|| reply(status, &answer)),
        );
        let (_, stored) = client.get(&format!("/documents/{id}")).await;
        outcome.check(&case, (stored["metadata"]["as it is"] == *text).then_some(()).ok_or_else(|| reply(0, &stored)));

        let sequence = &answer["sequence"];
        let query = json!({"query": text, "mode": "lexical", "min_sequence": sequence}).to_string();
        let (status, found) = client.post_json("/search", query).await;
        let is_blank = text.trim().is_empty();
        outcome.check(
            &case,
            (status == if is_blank { 422 } else { 200 }).then_some(()).ok_or_else(|| reply(status, &found)),
        );
        let query = json!({"query": format!("marker{n}"), "mode": "lexical", "min_sequence": sequence}).to_string();
        let (status, found) = client.post_json("/search", query).await;
        outcome
            .check(&case, (found["hits"][0]["document_id"] == id).then_some(()).ok_or_else(|| reply(status, &found)));
    }
    println!("naughty strings: {}", strings.len());
}

struct JsonCase {
    name: String,
    bytes: Vec<u8>,
}

fn json_cases(folder: &Path) -> std::io::Result<Vec<JsonCase>> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".json") {
            cases.push(JsonCase { name, bytes: std::fs::read(&path)? });
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

/// `y_` must be read, `n_` must be refused, `i_` may be either.
async fn json_parsing(client: &Client, cases: &[JsonCase], outcome: &mut Outcome) {
    for case in cases {
        // None of them is a search request, so each is a problem; a 5xx or a hang is what must not be.
        let (status, answer) = client.post_json("/search", case.bytes.clone()).await;
        outcome.check(
            &case.name,
            ((400..500).contains(&status) && is_problem(&answer)).then_some(()).ok_or_else(|| reply(status, &answer)),
        );

        let mut body =
            format!("{{\"documents\": [{{\"id\": \"{}\", \"text\": \"t\", \"metadata\": {{\"v\": ", case.name)
                .into_bytes();
        body.extend_from_slice(&case.bytes);
        body.extend_from_slice(b"}}]}");
        let (status, answer) = client.post_json("/documents", body).await;
        let taken = answer["accepted"] == 1 || answer["unchanged"] == 1;
        let refused = (400..500).contains(&status) && is_problem(&answer) || answer["failed"] == 1;
        let deserved = match case.name.as_bytes()[0] {
            b'y' => taken,
            b'n' => refused,
            _ => taken || refused,
        };
        outcome.check(&case.name, (deserved).then_some(()).ok_or_else(|| reply(status, &answer)));
    }
    println!("JSON parsing cases: {}", cases.len());
}

/// Lines `number:valid:bytes` and `number:invalid:bytes`.
async fn broken_utf8(client: &Client, lines: &[u8], outcome: &mut Outcome) {
    let mut count = 0;
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && line[0] != b'#') {
        let mut parts = line.splitn(3, |byte| *byte == b':');
        let [Some(number), Some(verdict), Some(bytes)] = [(); 3].map(|()| parts.next()) else { continue };
        // JSON has no raw control characters, valid UTF-8 or not.
        if bytes.iter().any(u8::is_ascii_control) {
            continue;
        }
        let case = format!("UTF-8 case {}", String::from_utf8_lossy(number));
        let mut body = b"{\"documents\": [{\"text\": \"before ".to_vec();
        body.extend(bytes.iter().flat_map(|byte| match byte {
            b'"' | b'\\' => vec![b'\\', *byte],
            _ => vec![*byte],
        }));
        body.extend_from_slice(b" after\"}]}");
        let (status, answer) = client.post_json("/documents", body).await;
        let taken = answer["accepted"] == 1 || answer["unchanged"] == 1;
        let refused = (400..500).contains(&status) && is_problem(&answer) || answer["failed"] == 1;
        outcome.check(
            &case,
            (if verdict == b"valid" { taken } else { refused }).then_some(()).ok_or_else(|| reply(status, &answer)),
        );
        count += 1;
    }
    println!("UTF-8 cases: {count}");
}

fn is_problem(answer: &Value) -> bool {
    answer["type"].is_string() && answer["detail"].is_string() && answer["trace_id"].is_string()
}

fn reply(status: u16, answer: &Value) -> String {
    format!("{status} {answer}")
}
