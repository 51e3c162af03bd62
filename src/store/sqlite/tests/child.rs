//! Runs a test of this binary in a process of its own, so that it can be killed or starved.

use std::process::{Command, Stdio};

const MARK: &str = "plumb-child=";

/// A command that runs the test `name` (its path below `tests`) with `argument`.
pub(super) fn command(name: &str, argument: &str) -> Command {
    let path = module_path!().split_once("::").unwrap().1.replace("child", name);
    let mut command = Command::new(std::env::current_exe().unwrap());
    // The argument is a second filter to the test runner; no test has such a name.
    command.args(["--exact", &path, &format!("{MARK}{argument}"), "--nocapture", "--test-threads=1"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    command
}

/// The argument if this process is such a child; an ordinary run of the test has none and does nothing.
pub(super) fn argument() -> Option<String> {
    std::env::args().find_map(|argument| argument.strip_prefix(MARK).map(str::to_owned))
}
