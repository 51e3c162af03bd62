//! Retrieval quality beside its cost: `cargo test --test evals`.
//!
//! Each collection is ingested by the server's own ingest and asked through the server's own search. One table shows
//! nDCG@10, Recall@100 and MRR@10 with intervals beside latency and processor time. The run fails where a committed
//! baseline is beaten backwards by a paired interval that excludes zero, or a floor of `floors` is missed.
//!
//! Without arguments everything at hand runs but what takes minutes to embed; `cargo test --test evals -- scifact tiny`
//! runs some, `PLUMB_EVALS_ALL=1` all. `PLUMB_EVALS_ACCEPT=1` writes the baselines,
//! `PLUMB_EVALS_TUNE=1` prints how settings do on the tuning halves instead; nothing else ever looks at those.
//! `PLUMB_EVALS_SHARE` is the cross-encoders' share of the mixture with the rescorer in place of the default.
#![expect(clippy::print_stdout, reason = "a report on standard output is the purpose of this target")]

mod asked;
mod collections;
mod floors;
mod prepare;
mod report;
mod tuning;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use plumb::eval::{Baseline, Bootstrap, Change, Metric, Qrels};

use asked::{Asked, AskedMode, CROSS_ENCODED, MODES};
use collections::Collection;

fn main() -> ExitCode {
    // HTML is parsed in a child process, which is this program again.
    if std::env::args().nth(1).is_some_and(|argument| argument == "parse-worker") {
        return plumb::parse::worker_main().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    report()
}

#[tokio::main]
async fn report() -> ExitCode {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    match run(&chosen).await {
        Ok(outcome) => outcome.close(),
        Err(error) => {
            println!("evals could not run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What passed and what did not.
#[derive(Default)]
pub struct Outcome {
    passed: usize,
    failures: Vec<String>,
    not_run: Vec<String>,
}

impl Outcome {
    /// Counts one check; `failure` says what is wrong, if anything is.
    pub fn check(&mut self, failure: Option<String>) {
        match failure {
            None => self.passed += 1,
            Some(failure) => self.failures.push(failure),
        }
    }

    fn close(self) -> ExitCode {
        for line in &self.not_run {
            println!("did not run: {line}");
        }
        for failure in &self.failures {
            println!("FAILED: {failure}");
        }
        println!("\n{} passed, {} failed, {} skipped", self.passed, self.failures.len(), self.not_run.len());
        if self.failures.is_empty() && self.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

async fn run(chosen: &[String]) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let tune = flag("PLUMB_EVALS_TUNE");
    let mut results = Vec::new();
    for collection in collections::all() {
        if !chosen.is_empty() && !chosen.contains(&collection.name) {
            continue;
        }
        if chosen.is_empty() && collection.is_large && !flag("PLUMB_EVALS_ALL") {
            outcome.not_run.push(format!("{}: name it, or set PLUMB_EVALS_ALL=1", collection.name));
            continue;
        }
        if !collection.is_at_hand() {
            outcome.not_run.push(format!("{} (no corpus at {})", collection.name, collection.root.display()));
            continue;
        }
        let prepared = prepare::prepare(&collection).await.with_context(|| collection.name.clone())?;
        if tune {
            tuning::explore(&collection, &prepared).await?;
            outcome.check(None);
        } else {
            let asked = asked::ask(&collection, &prepared).await?;
            report::print(&collection, &asked);
            compare_with_baseline(&collection, &asked, &mut outcome)?;
            results.push((collection, asked));
        }
        prepared.close().await?;
    }
    if !tune {
        floors::check(&results, &mut outcome);
    }
    Ok(outcome)
}

fn compare_with_baseline(collection: &Collection, asked: &Asked, outcome: &mut Outcome) -> anyhow::Result<()> {
    let few = asked.cross_encoded();
    compare(&collection.name, (asked, &MODES, &asked.qrels), outcome)?;
    if few.is_empty() {
        return Ok(());
    }
    compare(&format!("{}.reranked", collection.name), (asked, &CROSS_ENCODED, &few), outcome)
}

/// The rows of a table and the queries that they were asked.
type Rows<'a> = (&'a Asked, &'a [AskedMode], &'a Qrels);

fn compare(name: &str, (asked, modes, qrels): Rows<'_>, outcome: &mut Outcome) -> anyhow::Result<()> {
    if flag("PLUMB_EVALS_ACCEPT") {
        return write_baseline(name, (asked, modes, qrels));
    }
    let Some(baseline) = Baseline::load(&baseline_path(name))? else {
        outcome.not_run.push(format!("comparison of {name}: no baseline yet, PLUMB_EVALS_ACCEPT=1 writes it"));
        return Ok(());
    };
    for mode in modes {
        for metric in Metric::STANDARD {
            let scores = metric.per_query(asked.run(mode.name), qrels);
            let found = baseline.compare(mode.name, metric, &scores, &Bootstrap::default())?;
            let worse = found.change == Change::Worse;
            outcome.check(worse.then(|| {
                format!(
                    "{name} {} {}: {:.4} was {:.4}, difference {:+.4} [{:+.4}, {:+.4}]",
                    mode.name,
                    metric.name(),
                    found.mean,
                    found.baseline_mean,
                    found.difference.mean,
                    found.difference.low,
                    found.difference.high
                )
            }));
        }
    }
    Ok(())
}

fn write_baseline(name: &str, (asked, modes, qrels): Rows<'_>) -> anyhow::Result<()> {
    anyhow::ensure!(
        variable("PLUMB_EVALS_SHARE").is_none(),
        "a baseline is of the share that ships, not of PLUMB_EVALS_SHARE"
    );
    let any = Metric::Ndcg(10).per_query(asked.run(modes[0].name), qrels);
    let mut baseline = Baseline::new(name, &any);
    baseline.made_with = asked.made_with.clone();
    for mode in modes {
        for metric in Metric::STANDARD {
            baseline.record(mode.name, metric, &metric.per_query(asked.run(mode.name), qrels))?;
        }
    }
    baseline.write(&baseline_path(name))?;
    println!("wrote the baseline of {name}");
    Ok(())
}

fn baseline_path(collection: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("evals/baselines").join(format!("{collection}.json"))
}

/// True if the variable is set to anything but nothing or 0.
pub fn flag(name: &str) -> bool {
    variable(name).is_some_and(|value| !value.is_empty() && value != "0")
}

/// The value of a variable of the environment.
#[expect(clippy::disallowed_methods, reason = "a test target has no config.rs; these switches concern it alone")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
