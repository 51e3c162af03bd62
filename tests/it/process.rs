//! The binary as a process of its own, on a free port of loopback, without models, and a client for it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

pub struct Server {
    child: Child,
    client: Client,
}

/// Asks a server; outlives it.
#[derive(Clone)]
pub struct Client {
    url: String,
    http: reqwest::Client,
}

impl Server {
    /// Starts on the data directory. What is tested this way does not depend on models, so they are kept away.
    pub fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    /// As [`Self::start`], with further arguments.
    pub fn start_with(data_dir: &Path, arguments: &[&str]) -> Self {
        plumb::gateway::install_tls();
        let mut child = Command::new(env!("CARGO_BIN_EXE_plumb"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .args(arguments)
            .env("PLUMB_MODELS_DIR", data_dir.join("no-models"))
            .env("PLUMB_LOG__LOG_FILTER", "error")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split_whitespace().find(|word| word.starts_with("http://")).expect("the server starts");
        let url = url.trim_end_matches(|c: char| !c.is_ascii_digit()).to_owned();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { child, client: Client { url, http } }
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub fn address(&self) -> SocketAddr {
        self.client.url.trim_start_matches("http://").parse().unwrap()
    }

    /// SIGKILL: nothing of the process's own runs any more.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(mut self) -> ExitStatus {
        // SAFETY: the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Client {
    /// Sends lines; `None` if the server went away before it answered.
    pub async fn post_ndjson(&self, lines: impl Into<reqwest::Body>, query: &str) -> Option<Value> {
        let request = self.http.post(format!("{}/documents{query}", self.url)).body(lines);
        let response = request.header("content-type", "application/x-ndjson").send().await.ok()?;
        assert!(response.status().is_success(), "{}", response.status());
        serde_json::from_slice(&response.bytes().await.ok()?).ok()
    }

    /// Status and body of the answer.
    pub async fn post_json(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.url)).body(body);
        answered(request.header("content-type", "application/json")).await
    }

    pub async fn put_json(&self, path: &str, body: &'static str) -> (u16, Value) {
        let request = self.http.put(format!("{}{path}", self.url)).body(body);
        answered(request.header("content-type", "application/json")).await
    }

    /// JSON that may wait as a task.
    pub async fn put_later(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.http.put(format!("{}{path}", self.url)).body(body.to_string());
        answered(request.header("content-type", "application/json").header("prefer", "respond-async")).await
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        answered(self.http.delete(format!("{}{path}", self.url))).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        answered(self.http.get(format!("{}{path}", self.url))).await
    }
}

async fn answered(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}
