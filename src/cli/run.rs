//! From a command line to its outcome.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use serde_json::{Value, json};

use crate::app::{self, App};
use crate::config::Config;
use crate::telemetry;

use super::args::{
    AnswerArguments, Arguments, Command, ConfigCommand, Global, IngestArguments, ModelsCommand, OutputFormat,
    PromptsCommand, SearchArguments, ServeArguments,
};
use super::door::Door;
use super::output::say;
use super::{backup, generations, ingest, keys, models, prompts, quickstart, render, serve, sql, tasks};

/// Reads the command line and runs its command; errors go to standard error, causes included.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if matches!(arguments.command, Command::ParseWorker) {
        // Before any thread, allocator warm-up or log: the parent has set tight limits.
        return match crate::parse::worker_main() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    match execute(arguments) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("plumb: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { global, command } = arguments;
    let mut config = Config::load(global.config.as_deref())?;
    if let Some(data_dir) = &global.data_dir {
        config.server.data_dir.clone_from(data_dir);
    }
    start_logging(&mut config, &global, &command)?;
    match command {
        Command::Serve(ServeArguments { listen }) => {
            config.server.listen = listen.unwrap_or(config.server.listen);
            crate::http::check_listen(config.server.listen, &config.auth)?;
            serve::serve(App::start(config.clone()).await?, &config).await?;
        }
        Command::Quickstart(ServeArguments { listen }) => {
            config.server.listen = listen.unwrap_or(config.server.listen);
            quickstart::run(config).await?;
        }
        Command::Ingest(arguments) => return run_ingest(&global, config, arguments).await,
        Command::Search(arguments) => run_search(&global, config, arguments).await?,
        Command::Answer(arguments) => run_answer(&global, config, arguments).await?,
        Command::Reindex(arguments) => return generations::reindex(&global, config, arguments).await,
        Command::Generations(arguments) => return generations::run(&global, config, arguments).await,
        Command::Tasks(arguments) => return tasks::run(&global, config, arguments).await,
        Command::Sql(_) | Command::Backup(_) | Command::Restore(_) | Command::Check if global.server.is_some() => {
            bail!("this command reads the data directory itself: run it where that is, with --data-dir, not --server")
        }
        Command::Sql(arguments) => sql::run(&config.server.data_dir, &arguments).await?,
        Command::Backup(arguments) => backup::backup(&config.server.data_dir, &arguments.to).await?,
        Command::Restore(arguments) => backup::restore(&config.server.data_dir, &arguments.from).await?,
        Command::Check => return backup::check(config).await,
        Command::Models(command) => return run_models(config, command).await,
        Command::Prompts(command) => return run_prompts(&config, command),
        Command::Config(ConfigCommand::Show) => say(&config.show())?,
        Command::Config(ConfigCommand::NewKey { tenant, scopes }) => say(&keys::new_key(&tenant, &scopes)?)?,
        Command::ParseWorker => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Commands that print for people keep quiet beside it; the server logs as configured.
fn start_logging(config: &mut Config, global: &Global, command: &Command) -> anyhow::Result<()> {
    let serves = matches!(command, Command::Serve(_) | Command::Quickstart(_));
    match global.verbose {
        0 if serves => {}
        0 => config.log.log_filter = "warn,tantivy=error".to_owned(),
        1 => config.log.log_filter = "info,plumb=debug".to_owned(),
        _ => config.log.log_filter = "trace".to_owned(),
    }
    Ok(telemetry::start_logging(&config.log, &config.trace)?)
}

async fn run_ingest(global: &Global, config: Config, arguments: IngestArguments) -> anyhow::Result<ExitCode> {
    let door = Door::open(global, config).await?;
    let tally = tokio::select! {
        tally = ingest::ingest(&door, &arguments.paths, Path::new("."), &arguments.collection) => tally,
        stopped = tokio::signal::ctrl_c() => {
            stopped.context("cannot wait for Ctrl-C")?;
            Err(anyhow::anyhow!("stopped; what was accepted is kept, run the same command again to go on"))
        }
    };
    door.close().await?;
    let tally = tally?;
    say(&ingest::summary(&tally))?;
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_search(global: &Global, config: Config, arguments: SearchArguments) -> anyhow::Result<()> {
    let mut body = json!({
        "query": arguments.query,
        "collection": arguments.collection,
        "top_k": arguments.top_k,
        "explain": arguments.explain,
    });
    if let Some(mode) = &arguments.mode {
        body["mode"] = json!(mode);
    }
    let response = ask(global, config, "/search", &body).await?;
    print(&response, arguments.format, render::search)
}

async fn run_answer(global: &Global, config: Config, arguments: AnswerArguments) -> anyhow::Result<()> {
    let body = json!({ "question": arguments.question, "collection": arguments.collection });
    let response = ask(global, config, "/answer", &body).await?;
    print(&response, arguments.format, render::answer)
}

async fn ask(global: &Global, config: Config, path: &str, body: &Value) -> anyhow::Result<Value> {
    must_exist(global, &config)?;
    let door = Door::open(global, config).await?;
    let response = door.post(path, body).await;
    door.close().await?;
    response
}

/// For commands that only read: they must not make a data directory.
pub(super) fn must_exist(global: &Global, config: &Config) -> anyhow::Result<()> {
    let data_dir = &config.server.data_dir;
    if global.server.is_none() && !data_dir.exists() {
        bail!("there is no data directory {}; ingest something first, or name another one", data_dir.display());
    }
    Ok(())
}

async fn run_models(config: Config, command: ModelsCommand) -> anyhow::Result<ExitCode> {
    // Fetching and hashing block for seconds to minutes.
    let work = tokio::task::spawn_blocking(move || match command {
        ModelsCommand::Fetch => fetch_models(&config).map(|()| true),
        ModelsCommand::List => models::list(&app::models(&config)?, &mut std::io::stdout()).map(|()| true),
        ModelsCommand::Verify => models::verify(&app::models(&config)?, &mut std::io::stdout()),
    });
    Ok(if work.await?? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_prompts(config: &Config, command: PromptsCommand) -> anyhow::Result<ExitCode> {
    let book = app::prompts(&config.gateway)?;
    match command {
        PromptsCommand::List => say(&prompts::list(&book))?,
        PromptsCommand::Show { name, version } => say(prompts::show(&book, &name, version.as_deref())?)?,
        PromptsCommand::Diff { name, from, to } => match prompts::diff(&book, &name, &from, to.as_deref()) {
            Ok(None) => {}
            Ok(Some(changes)) => {
                say(&changes)?;
                return Ok(ExitCode::FAILURE);
            }
            // As `diff` does it: 1 says that the texts differ, so trouble needs another number.
            Err(error) => {
                complain(&format!("plumb: {error:#}\n"));
                return Ok(ExitCode::from(2));
            }
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// Fetches what is missing and says what was done. Blocks.
pub fn fetch_models(config: &Config) -> anyhow::Result<()> {
    let report = models::fetch(&app::models(config)?, &models::Progress::on_stderr())?;
    for hint in &report.not_here {
        say(&format!("{hint}\n"))?;
    }
    say(&format!("{} fetched, {} were there already\n", report.fetched.len(), report.unchanged.len()))
}

fn print(response: &Value, format: OutputFormat, render: impl Fn(&Value) -> String) -> anyhow::Result<()> {
    match format {
        OutputFormat::Text => say(&render(response)),
        OutputFormat::Json => say(&format!("{}\n", serde_json::to_string_pretty(response)?)),
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a command that failed, after logging may have ended")]
fn complain(text: &str) {
    eprint!("{text}");
}
