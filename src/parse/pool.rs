//! Parser processes: kept, fed one document at a time, and replaced as soon as one misbehaves.
//!
//! A document can take down the process that reads it and nothing else. A worker that was interrupted in the middle
//! of an exchange is never used again, whatever the reason: its pipe may hold half an answer.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::domain::ParsedText;

use super::{
    ParseError, ParseSettings,
    gate::Gate,
    limits::{ProcessLimits, take_on},
    wire::{GREETING, RequestHead, ResponseHead},
};

/// How a parser process is started.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    pub program: PathBuf,
    pub args: Vec<String>,
}

impl WorkerCommand {
    /// The running program itself with the argument `parse-worker`, which must lead to [`super::worker_main`].
    pub fn current_program() -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, args: vec!["parse-worker".to_owned()] })
    }
}

/// A started worker greets within this time or is no worker.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// What a program may print before it greets.
const PREAMBLE_MAX_BYTES: usize = 4 << 10;
/// A killed process is gone within this time.
const REAP_TIMEOUT: Duration = Duration::from_secs(2);
/// A worker that once held this share of its memory limit is replaced, so that memory does not stay taken.
const RESIDENT_SHARE: u64 = 4;

/// See the file's header.
pub(super) struct ParserPool {
    command: WorkerCommand,
    settings: ParseSettings,
    gate: Gate,
    idle: Mutex<Vec<Worker>>,
    started: AtomicU64,
}

struct Worker {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    documents: u32,
    is_spent: bool,
}

impl ParserPool {
    /// Starts no process yet.
    pub fn new(command: WorkerCommand, settings: ParseSettings) -> Self {
        let gate = Gate::new(settings.workers, settings.queue_limit);
        Self { command, settings, gate, idle: Mutex::new(Vec::new()), started: AtomicU64::new(0) }
    }

    /// Has one document parsed; waits for a free worker first.
    pub async fn parse(&self, charset: Option<&str>, body: &[u8]) -> Result<ParsedText, ParseError> {
        let _place = self.gate.enter().await?;
        let mut worker = self.worker().await?;
        let request = RequestHead {
            charset: charset.map(str::to_owned),
            limit_bytes: self.settings.max_text_bytes,
            body_bytes: body.len(),
        };
        let limit = Duration::from_millis(self.settings.timeout_ms);
        // If the caller goes away here, the worker is dropped with the future, and killed by that.
        let exchange = timeout(limit, worker.exchange(&request, body, &self.settings)).await;
        match exchange {
            Ok(Ok((head, text))) => {
                worker.note(&head, &self.settings);
                if !worker.is_spent {
                    self.idle.lock().push(worker);
                }
                head.outcome.into_result(text)
            }
            Ok(Err(error)) => {
                let detail = worker.end().await.map_or_else(|| error.to_string(), describe);
                tracing::warn!(%detail, body_bytes = body.len(), "a parser process died");
                Err(ParseError::WorkerDied { detail })
            }
            Err(_) => {
                worker.end().await;
                tracing::warn!(limit_ms = self.settings.timeout_ms, body_bytes = body.len(), "a parser process hung");
                Err(ParseError::Timeout { limit_ms: self.settings.timeout_ms })
            }
        }
    }

    /// An idle worker that still lives, or a new one.
    async fn worker(&self) -> Result<Worker, ParseError> {
        loop {
            let idle = self.idle.lock().pop();
            match idle {
                Some(mut worker) => {
                    // It may have been killed from outside while it was idle: no document's fault.
                    if matches!(worker.child.try_wait(), Ok(None)) {
                        return Ok(worker);
                    }
                }
                None => return self.start().await.map_err(|source| ParseError::CannotStart { source }),
            }
        }
    }

    async fn start(&self) -> io::Result<Worker> {
        let limits = ProcessLimits {
            memory_bytes: self.settings.memory_limit_mib << 20,
            cpu_seconds: self.settings.cpu_limit_seconds,
        };
        let mut command = Command::new(&self.command.program);
        command.args(&self.command.args).env_clear().current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // SAFETY: `take_on` only makes system calls, which is allowed between fork and exec.
        unsafe { command.pre_exec(move || take_on(&limits)) };
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(io::Error::other("the parser process has no pipes"));
        };
        let mut worker = Worker { child, input, output, documents: 0, is_spent: false };
        match timeout(START_TIMEOUT, worker.hear_greeting()).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the parser process does not greet")),
        }
        let started = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::debug!(started, "a parser process was started");
        Ok(worker)
    }
}

impl Worker {
    async fn hear_greeting(&mut self) -> io::Result<()> {
        let mut heard = Vec::new();
        while !heard.ends_with(GREETING) {
            if heard.len() >= PREAMBLE_MAX_BYTES {
                return Err(io::Error::other("the program is no parser process"));
            }
            // Byte by byte: what follows the greeting belongs to the first answer.
            heard.push(self.output.read_u8().await?);
        }
        Ok(())
    }

    async fn exchange(
        &mut self,
        request: &RequestHead,
        body: &[u8],
        settings: &ParseSettings,
    ) -> io::Result<(ResponseHead, Vec<u8>)> {
        let head = serde_json::to_vec(request)?;
        self.input.write_u32_le(u32::try_from(head.len()).map_err(io::Error::other)?).await?;
        self.input.write_all(&head).await?;
        self.input.write_all(body).await?;
        self.input.flush().await?;
        let head_bytes = self.output.read_u32_le().await? as usize;
        // An outline can be as long as the text it describes, and JSON escapes at most sixfold.
        let head = self.read(head_bytes, settings.max_text_bytes.saturating_mul(8)).await?;
        let head: ResponseHead = serde_json::from_slice(&head)?;
        let text = self.read(head.body_bytes, settings.max_text_bytes).await?;
        Ok((head, text))
    }

    /// Reads so many bytes; memory grows with what arrives, not with what is promised.
    async fn read(&mut self, bytes: usize, limit: usize) -> io::Result<Vec<u8>> {
        if bytes > limit {
            return Err(io::Error::other("the parser process promised more than the limit"));
        }
        let mut found = Vec::new();
        (&mut self.output).take(bytes as u64).read_to_end(&mut found).await?;
        if found.len() < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(found) }
    }

    /// Notes what the worker has used; the CPU limit counts its whole life, so it must retire before it is reached.
    fn note(&mut self, head: &ResponseHead, settings: &ParseSettings) {
        self.documents += 1;
        let cpu_left_ms = (settings.cpu_limit_seconds * 1_000).saturating_sub(head.cpu_ms);
        self.is_spent = self.documents >= settings.documents_per_worker
            || cpu_left_ms < settings.timeout_ms
            || head.resident_bytes > (settings.memory_limit_mib << 20) / RESIDENT_SHARE;
    }

    /// Kills the process if it still runs; says how it ended.
    async fn end(&mut self) -> Option<ExitStatus> {
        // A process that closed its pipe is about to end by itself, and then its own status tells more.
        if let Ok(Ok(status)) = timeout(Duration::from_millis(100), self.child.wait()).await {
            return Some(status);
        }
        // It fails only if the process has ended already.
        let _ = self.child.start_kill();
        timeout(REAP_TIMEOUT, self.child.wait()).await.ok()?.ok()
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(libc::SIGXCPU) => "it used all its CPU time".to_owned(),
        Some(libc::SIGABRT) => "it ran out of memory or aborted".to_owned(),
        Some(libc::SIGSEGV | libc::SIGBUS) => "it overflowed its stack or memory".to_owned(),
        Some(signal) => format!("signal {signal}"),
        None => format!("exit code {}", status.code().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests;
