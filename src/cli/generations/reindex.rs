//! From `plumb reindex …` to the task that it is.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use crate::cli::args::Global;
use crate::cli::tasks::{self, SubmitArguments, TasksArguments, TasksCommand};
use crate::config::Config;

use super::ReindexArguments;

/// Asks for the task, and watches it where that is wished for.
pub async fn run(global: &Global, config: Config, arguments: ReindexArguments) -> anyhow::Result<ExitCode> {
    let input = input(&arguments)?.to_string();
    let submit = SubmitArguments {
        kind: "reindex".to_owned(),
        input: Some(input),
        input_file: None,
        stdin: None,
        model: None,
        priority: None,
        delay: None,
        session: None,
        // The same change asked for again may have more to do: documents have come since.
        force: true,
        wait: arguments.watch,
    };
    let command = TasksCommand::Submit(submit);
    tasks::run(global, config, TasksArguments { command, json: arguments.json }).await
}

fn input(arguments: &ReindexArguments) -> anyhow::Result<Value> {
    let mut input = Map::from_iter([
        ("collection".to_owned(), json!(arguments.collection)),
        ("profile".to_owned(), profile(&arguments.profile)?),
    ]);
    let filter = arguments.filter.as_deref().map(|text| serde_json::from_str::<Value>(text).context("--filter"));
    let filter = filter.transpose()?;
    if arguments.share.is_some() || filter.is_some() {
        // A filter alone means all that pass it.
        let share = arguments.share.unwrap_or(1.0);
        input.insert("rollout".to_owned(), json!({ "share": share, "filter": filter }));
    }
    let optional = [("sample", arguments.sample), ("shadow_share", arguments.shadow)];
    input.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))));
    if arguments.automatic {
        input.insert("promotion".to_owned(), json!("automatic"));
    }
    Ok(Value::Object(input))
}

/// JSON if it looks like an object, else a file.
fn profile(text: &str) -> anyhow::Result<Value> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).context("--profile is not valid JSON");
    }
    let path = Path::new(text);
    let held = std::fs::read_to_string(path).with_context(|| format!("cannot read the profile {}", path.display()))?;
    if held.trim_start().starts_with('{') {
        return serde_json::from_str(&held).with_context(|| format!("{} is not valid JSON", path.display()));
    }
    match toml::from_str(&held) {
        Ok(value) => Ok(value),
        Err(error) => bail!("{} is neither JSON nor TOML: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        arguments: ReindexArguments,
    }

    fn typed(words: &[&str]) -> Value {
        let words = ["reindex"].iter().chain(words);
        input(&Typed::parse_from(words).arguments).unwrap()
    }

    #[test]
    fn what_is_typed_becomes_the_input_of_a_task() {
        let whole = typed(&["--collection", "books", "--profile", r#"{"embedder": null}"#, "--sample", "0.1"]);
        let rollout = typed(&["--profile", "{}", "--filter", r#"{"lang": "en"}"#, "--automatic"]);

        assert_eq!(whole, json!({"collection": "books", "profile": {"embedder": null}, "sample": 0.1}));
        assert_eq!(rollout["rollout"], json!({"share": 1.0, "filter": {"lang": "en"}}));
        assert_eq!(rollout["promotion"], "automatic");
    }

    #[test]
    fn a_profile_may_stand_in_a_file_of_either_kind() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };

        let toml = profile(&write("p.toml", "context = \"none\"\n[chunker]\nstrategy = \"window\"\n")).unwrap();
        let json = profile(&write("p.json", r#"{"chunker": {"strategy": "window"}, "context": "none"}"#)).unwrap();

        assert_eq!(toml, json);
        assert!(profile(&write("p.txt", "= neither")).unwrap_err().to_string().contains("neither JSON nor TOML"));
        assert!(profile("nowhere.json").unwrap_err().to_string().contains("nowhere.json"));
    }
}
