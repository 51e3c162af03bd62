//! The command line: what a user may type.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::generations::{GenerationsArguments, ReindexArguments};
use super::tasks::TasksArguments;

/// plumb: documents go in, ranked passages and cited answers come out.
#[derive(Debug, Parser)]
#[command(name = "plumb", version, about, max_term_width = 110)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Settings file (TOML); every setting also as PLUMB_SECTION__KEY.
    #[arg(long, global = true, value_name = "FILE", env = "PLUMB_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where documents and indexes are kept.
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Talk to this running server instead of opening the data directory, e.g. http://127.0.0.1:7700.
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// More log lines; twice for all of them.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What plumb can be told to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch the models, ingest the tiny handbook, search it, answer from it, then serve it.
    Quickstart(ServeArguments),
    /// Serve the HTTP API until SIGTERM or Ctrl-C.
    Serve(ServeArguments),
    /// Ingest files and folders; can be stopped and run again, unchanged files are skipped.
    Ingest(IngestArguments),
    /// Search and print the passages.
    Search(SearchArguments),
    /// Answer a question from the documents, with citations.
    Answer(AnswerArguments),
    /// Build another generation of a collection beside the live one: other chunks, another embedder, another context.
    Reindex(ReindexArguments),
    /// Look at generations; promote, roll back or retire one.
    Generations(GenerationsArguments),
    /// Ask for durable work, watch it, stop it, do it again.
    Tasks(TasksArguments),
    /// Ask the database in SQL: calls, costs, budgets, traces, documents. Only reads; works beside a server.
    Sql(SqlArguments),
    /// Copy the database while a server may be writing to it; the copy is verified before it gets its name.
    Backup(BackupArguments),
    /// Put a backup into a data directory that has no database yet.
    Restore(RestoreArguments),
    /// Verify the database, every chunk's place in its text, and the indexes; damaged indexes are rebuilt.
    Check,
    /// Fetch, list or verify the model files.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// List the prompts, show one, or compare two versions.
    #[command(subcommand)]
    Prompts(PromptsCommand),
    /// Show the settings in force, or make an API key.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Parse documents for a parent process. Started by plumb itself.
    #[command(hide = true)]
    ParseWorker,
}

#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub struct IngestArguments {
    /// Files and folders; folders are walked.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Collection to ingest into.
    #[arg(long, default_value = "default")]
    pub collection: String,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// The object that the HTTP API would return.
    Json,
}

#[derive(Debug, Args)]
pub struct SearchArguments {
    /// What to look for.
    pub query: String,
    /// Collection to search in.
    #[arg(long, default_value = "default")]
    pub collection: String,
    /// How many passages.
    #[arg(long, default_value_t = 5)]
    pub top_k: usize,
    /// hybrid, lexical or vector; the configured default if absent.
    #[arg(long)]
    pub mode: Option<String>,
    /// Show where each score came from.
    #[arg(long)]
    pub explain: bool,
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub format: OutputFormat,
}

#[derive(Debug, Args)]
pub struct AnswerArguments {
    /// What to answer.
    pub question: String,
    /// Collection to answer from.
    #[arg(long, default_value = "default")]
    pub collection: String,
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub format: OutputFormat,
}

/// How the rows of a question are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// Aligned, for people.
    Table,
    /// An array of objects.
    Json,
    /// Comma-separated, with a line of names.
    Csv,
}

#[derive(Debug, Args)]
pub struct SqlArguments {
    /// One statement that reads.
    #[arg(value_name = "STATEMENT", required_unless_present = "tables")]
    pub query: Option<String>,
    /// List the tables with their columns.
    #[arg(long, conflicts_with = "query")]
    pub tables: bool,
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub format: TableFormat,
    /// Most rows.
    #[arg(long, value_name = "ROWS", default_value_t = 10_000)]
    pub limit: usize,
}

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Obtain every model of the manifest and check it; does nothing if all is there.
    Fetch,
    /// Show the models, their licences and whether they are there.
    List,
    /// Hash every file again; fails if one is missing or wrong.
    Verify,
}

#[derive(Debug, Subcommand)]
pub enum PromptsCommand {
    /// Show every version of every prompt, where it comes from and its share of the calls.
    List,
    /// Print the file of a version.
    Show {
        /// Name of the prompt.
        name: String,
        /// The newest if absent.
        version: Option<String>,
    },
    /// Print what changed between two versions; exit code 1 if they differ, 2 if they cannot be compared.
    Diff {
        /// Name of the prompt.
        name: String,
        /// The old version.
        from: String,
        /// The new version; the newest if absent.
        to: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting in force, secrets masked.
    Show,
    /// Make an API key: prints the secret once, and the stanza for the settings file.
    NewKey {
        /// Tenant that the key belongs to.
        #[arg(long, default_value = "default")]
        tenant: String,
        /// What the key may do; may be given several times.
        #[arg(long = "scope", value_name = "search|answer|write|admin", required = true)]
        scopes: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct BackupArguments {
    /// The file to write; must not exist. Its checksum is written beside it, as FILE.b3.
    #[arg(value_name = "FILE")]
    pub to: PathBuf,
}

#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// A file that `plumb backup` wrote.
    #[arg(value_name = "FILE")]
    pub from: PathBuf,
}
