//! Standard output, where it is the product of a command, and remarks beside it.

use std::io::Write as _;

/// Writes `text` to standard output. A closed pipe (`plumb search x | head -1`) is an end, not a failure.
pub fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Writes `text` to standard error, so that what is piped on stays clean. Nobody may be listening, which is no failure.
pub fn remark(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
