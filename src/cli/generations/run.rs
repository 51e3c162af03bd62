//! From `plumb generations …` to its outcome.

use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};
use url::form_urlencoded::Serializer;

use crate::cli::args::Global;
use crate::cli::door::Door;
use crate::cli::output::say;
use crate::cli::run::must_exist;
use crate::config::Config;

use super::args::{GenerationsArguments, GenerationsCommand, PlanArguments};
use super::show;

/// What every id begins with; people may leave it out.
const PREFIX: &str = "gen_";
/// Fewest digits of a shortened id.
const MIN_DIGITS: usize = 6;

/// Runs one command.
pub async fn run(global: &Global, config: Config, arguments: GenerationsArguments) -> anyhow::Result<ExitCode> {
    must_exist(global, &config)?;
    let GenerationsArguments { command, json } = arguments;
    let door = Door::open(global, config).await?;
    let outcome = execute(&door, command).await;
    door.close().await?;
    let (response, render) = outcome?;
    say(&if json { show::json(&response) } else { render(&response) })?;
    Ok(ExitCode::SUCCESS)
}

type Render = fn(&Value) -> String;

async fn execute(door: &Door, command: GenerationsCommand) -> anyhow::Result<(Value, Render)> {
    match command {
        GenerationsCommand::List { collection } => {
            Ok((door.get(&listing(collection.as_deref())).await?, show::list as Render))
        }
        GenerationsCommand::Show { id } => Ok((door.get(&path(door, &id, "").await?).await?, show::one)),
        GenerationsCommand::Report { id } => Ok((door.get(&path(door, &id, "/report").await?).await?, show::report)),
        GenerationsCommand::Plan(plan) => {
            let path = path(door, &plan.id, "/plan").await?;
            Ok((door.put(&path, &change(&plan)?).await?, show::one))
        }
        GenerationsCommand::Promote { id, force: true } => tell(door, (&id, "/promote?force=true")).await,
        GenerationsCommand::Promote { id, force: false } => tell(door, (&id, "/promote")).await,
        GenerationsCommand::Rollback { id } => tell(door, (&id, "/rollback")).await,
        GenerationsCommand::Retire { id } => tell(door, (&id, "/retire")).await,
    }
}

async fn tell(door: &Door, (id, what): (&str, &str)) -> anyhow::Result<(Value, Render)> {
    Ok((door.post(&path(door, id, what).await?, &json!({})).await?, show::transition))
}

/// The body of a change of plan.
fn change(arguments: &PlanArguments) -> anyhow::Result<Value> {
    let PlanArguments { id: _, share, filter, shadow, promotion } = arguments;
    let filter = filter.as_deref().map(|text| serde_json::from_str::<Value>(text).context("--filter")).transpose()?;
    let mut change = Map::new();
    if share.is_some() || filter.is_some() {
        // A filter alone means all that pass it.
        let mut rollout = Map::from_iter([("share".to_owned(), json!(share.unwrap_or(1.0)))]);
        rollout.extend(filter.map(|filter| ("filter".to_owned(), filter)));
        change.insert("rollout".to_owned(), rollout.into());
    }
    change.extend(shadow.map(|share| ("shadow_share".to_owned(), json!(share))));
    change.extend(promotion.as_ref().map(|word| ("promotion".to_owned(), json!(word))));
    Ok(change.into())
}

fn listing(collection: Option<&str>) -> String {
    match collection {
        None => "/generations".to_owned(),
        Some(name) => {
            format!("/generations?{}", Serializer::new(String::new()).append_pair("collection", name).finish())
        }
    }
}

async fn path(door: &Door, typed: &str, rest: &str) -> anyhow::Result<String> {
    let all = door.get("/generations").await?;
    let ids = all["generations"].as_array().into_iter().flatten().filter_map(|one| one["id"].as_str());
    Ok(format!("/generations/{}{rest}", whole_id(typed, ids)?))
}

/// The id that begins as typed.
fn whole_id<'a>(typed: &str, ids: impl Iterator<Item = &'a str>) -> anyhow::Result<&'a str> {
    let typed = typed.to_ascii_lowercase();
    let digits = typed.strip_prefix(PREFIX).unwrap_or(&typed);
    if digits.len() < MIN_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("{typed} is no id of a generation: {PREFIX} and its first {MIN_DIGITS} or more hexadecimal digits");
    }
    let found: Vec<&str> = ids.filter(|id| id.strip_prefix(PREFIX).is_some_and(|id| id.starts_with(digits))).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => bail!("there is no generation {typed}"),
        several => bail!("{typed} may be any of {}; type more of it", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_be_cut_as_long_as_it_names_one() {
        let ids = ["gen_aaaaaa11", "gen_aaaaaa22", "gen_bbbbbb00"];
        let whole = |typed| whole_id(typed, ids.into_iter()).map_err(|error| error.to_string());

        assert_eq!(whole("BBBBBB").unwrap(), "gen_bbbbbb00");
        assert_eq!(whole("gen_aaaaaa1").unwrap(), "gen_aaaaaa11");
        assert!(whole("aaaaaa").unwrap_err().contains("any of"));
        assert!(whole("cccccc").unwrap_err().contains("no generation"));
        assert!(whole("aaa").unwrap_err().contains("no id"));
    }
}
