//! The server as a process of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

/// Longest wait for the indexes to come to rest.
const SETTLE_ROUNDS: u32 = 600;

/// A running server and a client for it.
pub struct Server {
    child: Child,
    pub client: reqwest::Client,
    pub url: String,
}

impl Server {
    /// Starts the server on a free port of loopback.
    pub fn start(data_dir: &Path) -> anyhow::Result<Self> {
        plumb::gateway::install_tls();
        let mut child = Command::new(env!("CARGO_BIN_EXE_plumb"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .env("PLUMB_INFERENCE__QUERY_CACHE_ENTRIES", "0")
            .env("PLUMB_LOG__LOG_FILTER", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("standard output is piped")?).read_line(&mut line)?;
        let url =
            line.split_whitespace().find(|word| word.starts_with("http://")).context("the server did not start")?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { child, client, url: url.trim_end_matches(|c: char| !c.is_ascii_digit()).to_owned() })
    }

    /// Posts a body and returns the JSON of the answer.
    pub async fn post(&self, path: &str, content_type: &str, body: String) -> anyhow::Result<Value> {
        let request = self.client.post(format!("{}{path}", self.url)).header("content-type", content_type).body(body);
        let response = request.send().await?;
        let status = response.status();
        let bytes = response.bytes().await?;
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&bytes));
        }
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Waits until the server does nothing any more: merges and graphs are built in the background.
    pub async fn settle(&self) -> anyhow::Result<()> {
        let mut quiet = 0;
        for _ in 0..SETTLE_ROUNDS {
            let before = self.cpu_ms()?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            quiet = if self.cpu_ms()? - before < 50.0 { quiet + 1 } else { 0 };
            if quiet == 5 {
                return Ok(());
            }
        }
        bail!("the server did not come to rest")
    }

    /// Processor time of the server so far, all threads, in milliseconds (the kernel counts in ticks of 10).
    pub fn cpu_ms(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after_name = stat.rsplit_once(')').context("the kernel's format")?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks * 10.0)
    }

    /// Resident memory of the server.
    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("the kernel's format")?;
        Ok(line.split_whitespace().nth(1).context("the kernel's format")?.parse::<f64>()? / 1024.0)
    }

    /// Stops the server in order and waits for it.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        // SAFETY: the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        let status = tokio::task::spawn_blocking(move || self.child.wait()).await??;
        anyhow::ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After an error; it may have ended already.
        let _ = self.child.kill();
    }
}
