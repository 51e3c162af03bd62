//! What a user may type after `plumb tasks`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
pub struct TasksArguments {
    #[command(subcommand)]
    pub command: TasksCommand,
    /// Print the JSON of the HTTP API as it came.
    #[arg(long, global = true)]
    pub json: bool,
}

/// What can be done with tasks. An id may be cut to a unique beginning of at least 6 digits.
#[derive(Debug, Subcommand)]
pub enum TasksCommand {
    /// Ask for work; the same work again is the same task.
    Submit(SubmitArguments),
    /// List tasks, the newest first.
    List(ListArguments),
    /// Show a task with its steps.
    Show { id: String },
    /// Watch a task until it ends, or all that have not ended.
    Watch { id: Option<String> },
    /// Print the result of a task that has ended.
    Result { id: String },
    /// Stop a task for good.
    Cancel { id: String },
    /// Stop a task after the items that are under way.
    Pause { id: String },
    /// Put a paused task back in line.
    Resume { id: String },
    /// Do an ended task again: what is missing, or all from a step on.
    Redrive {
        id: String,
        /// This step and all after it.
        #[arg(long, value_name = "STEP")]
        from: Option<String>,
    },
    /// Make another task that takes over the steps before one, and gives that one another input.
    Fork {
        id: String,
        /// The step that gets another input.
        #[arg(long)]
        step: String,
        /// Its input.
        #[arg(long, value_name = "JSON")]
        input: String,
    },
    /// Failures by day, or those of one task.
    Failures {
        #[arg(conflicts_with = "by")]
        id: Option<String>,
        /// How they are added up; this is also what is left out.
        #[arg(long, value_enum)]
        by: Option<FailuresBy>,
        /// A day or an RFC 3339 time; thirty days ago if absent.
        #[arg(long, conflicts_with = "id")]
        since: Option<String>,
    },
    /// Show the recorded items of a step.
    Items {
        id: String,
        step: String,
        /// The first item.
        #[arg(long, default_value_t = 0)]
        from: u32,
        /// How many items.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["input", "input_file", "stdin"])))]
pub struct SubmitArguments {
    /// Kind of the task.
    #[arg(long)]
    pub kind: String,
    /// The input itself.
    #[arg(long, value_name = "JSON")]
    pub input: Option<String>,
    /// File that holds the input.
    #[arg(long, value_name = "FILE")]
    pub input_file: Option<PathBuf>,
    /// Read the input from standard input.
    #[arg(value_name = "-", value_parser = ["-"])]
    pub stdin: Option<String>,
    /// The language model that is wished for.
    #[arg(long)]
    pub model: Option<String>,
    /// From -100 to 100; higher ones go first.
    #[arg(long, allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Seconds before which it does not begin.
    #[arg(long, value_name = "SECONDS")]
    pub delay: Option<u64>,
    /// Session that its calls count for.
    #[arg(long)]
    pub session: Option<String>,
    /// Do it anew even if it was done before.
    #[arg(long)]
    pub force: bool,
    /// Watch it until it ends, and print its result; exit code 1 if it fails.
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Args)]
pub struct ListArguments {
    /// queued, waiting, running, paused, succeeded, failed or cancelled.
    #[arg(long)]
    pub status: Option<String>,
    /// Only tasks of this kind.
    #[arg(long)]
    pub kind: Option<String>,
    /// How many.
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
}

/// By what failures are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailuresBy {
    /// Day (UTC) and kind.
    Day,
}
