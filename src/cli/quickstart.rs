//! `plumb quickstart`: models, the tiny handbook, a search, an answer, then the server.

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::json;

use crate::app::App;
use crate::config::Config;

use super::door::Door;
use super::output::say;
use super::run::fetch_models;
use super::{ingest, render, serve};

/// The collection that the handbook goes into.
const COLLECTION: &str = "default";
const SEARCHED: &str = "ERR_CONN_4012";
const ASKED: &str = "Is it safe to kill the server with kill -9?";

/// Runs the whole tour, then serves until told to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    say("1/5 models\n")?;
    let fetching = config.clone();
    let fetched = tokio::task::spawn_blocking(move || fetch_models(&fetching)).await?;
    fetched.context("the models could not be fetched")?;

    let app = App::start(config.clone()).await?;
    let door = Door::Local { door: app.local_door()?, app: Box::new(app) };
    say("\n2/5 ingest corpora/tiny: a handbook of 47 pages\n")?;
    let handbook = handbook()?;
    let tally = ingest::ingest(&door, std::slice::from_ref(&handbook), &handbook, COLLECTION).await?;
    say(&ingest::summary(&tally))?;
    if tally.failed > 0 {
        bail!("{} pages of the handbook could not be ingested", tally.failed);
    }

    say(&format!("\n3/5 search: {SEARCHED}\n"))?;
    let body = json!({ "query": SEARCHED, "top_k": 2, "explain": true, "min_sequence": tally.last_sequence });
    say(&render::search(&door.post("/search", &body).await?))?;

    say(&format!("\n4/5 answer: {ASKED}\n"))?;
    say(&render::answer(&door.post("/answer", &json!({ "question": ASKED })).await?))?;

    say("\n5/5 serve\n")?;
    let Door::Local { app, .. } = door else { bail!("the tour opens the data directory itself") };
    serve::serve(*app, &config).await
}

/// The handbook, which is part of the repository.
fn handbook() -> anyhow::Result<PathBuf> {
    let place = PathBuf::from("corpora/tiny/docs");
    if !place.is_dir() {
        bail!("corpora/tiny/docs is not here: run quickstart in a checkout of the repository");
    }
    Ok(place)
}
