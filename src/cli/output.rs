//! Standard output, where it is the product of a command.

use std::io::Write as _;

/// Writes `text` to standard output. A closed pipe (`plumb search x | head -1`) is an end, not a failure.
pub fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}
