//! A collection made searchable: ingested through the server's own ingest, kept between runs.
//!
//! The data directory is named after everything that shapes it, so a changed setting or model makes a new one and
//! an unchanged one costs only the reading: documents that are in already are recognised by their content.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use futures::StreamExt;
use plumb::app::App;
use plumb::config::Config;
use plumb::domain::{CollectionName, DocumentId, Metadata, TenantId, TenantScope};
use plumb::ingest::{IncomingBody, IncomingDocument, IngestStatus};

use plumb::text::ChunkingSettings;

use crate::collections::Collection;

/// A running instance with the collection in it.
pub struct Prepared {
    pub app: App,
    pub scope: TenantScope,
    /// That of its documents and queries, where the collection has several.
    pub language: Option<&'static str>,
}

impl Prepared {
    pub async fn close(self) -> anyhow::Result<()> {
        Ok(self.app.shutdown().await?)
    }
}

/// Settings of the server as shipped, but for what a measurement must not have: remembered query embeddings.
fn config(collection: &Collection) -> anyhow::Result<Config> {
    let mut config = Config::for_tests()?;
    config.inference.query_cache_entries = 0;
    if let Some(chunking) = crate::variable("PLUMB_EVALS_CHUNKING") {
        config.chunking = chunking_of(&chunking)?;
    }
    if let Some(share) = crate::variable("PLUMB_EVALS_SHARE") {
        let share = share.parse().ok().filter(|share| (0.0..=1.0).contains(share));
        config.inference.cross_encoder_share = share.context("PLUMB_EVALS_SHARE takes a number from 0 to 1")?;
    }
    config.server.data_dir = data_dir(collection, &config);
    Ok(config)
}

/// `target,max,min,overlap`, in tokens.
fn chunking_of(text: &str) -> anyhow::Result<ChunkingSettings> {
    let numbers = text.split(',').map(|number| number.trim().parse()).collect::<Result<Vec<usize>, _>>()?;
    let [target_tokens, max_tokens, min_tokens, overlap_tokens] = numbers[..] else {
        anyhow::bail!("PLUMB_EVALS_CHUNKING takes four numbers: target, max, min and overlap in tokens");
    };
    let settings =
        ChunkingSettings { target_tokens, max_tokens, min_tokens, overlap_tokens, ..ChunkingSettings::default() };
    settings.check()?;
    Ok(settings)
}

fn data_dir(collection: &Collection, config: &Config) -> PathBuf {
    let shape = format!("{:?}{:?}{:?}{:?}", config.chunking, config.index, config.models, config.parse);
    let fingerprint = blake3::hash(shape.as_bytes()).to_hex();
    // Beside the build, so that it lives and dies with the build cache.
    let executable = std::env::current_exe().expect("a running test has a path");
    let build = executable.ancestors().nth(3).expect("tests lie in target/<profile>/deps").to_owned();
    build.join("evals").join(format!("{}-{}", collection.name, &fingerprint[..12]))
}

/// Ingests what is not in yet and waits until it is searchable and its indexes are in their final shape.
pub async fn prepare(collection: &Collection) -> anyhow::Result<Prepared> {
    let start = Instant::now();
    let app = App::start(config(collection)?).await?;
    anyhow::ensure!(app.embedder_at_hand(), "the models are missing: run `cargo run -- models fetch` first");
    let scope = TenantScope::everything(TenantId::new("evals")?);
    let name = CollectionName::new("default")?;
    let documents = documents(collection, &name)?;
    let count = documents.len();

    let mut accepted = 0;
    let batches = documents.chunks(BATCH).map(<[IncomingDocument]>::to_vec).collect::<Vec<_>>();
    let mut running =
        futures::stream::iter(batches).map(|batch| app.ingestor.put(&scope, batch)).buffered(BATCHES_IN_FLIGHT);
    while let Some(outcomes) = running.next().await {
        for outcome in outcomes? {
            anyhow::ensure!(outcome.error.is_none(), "{:?}: {:?}", outcome.id, outcome.error);
            accepted += usize::from(outcome.status == IngestStatus::Accepted);
        }
    }
    drop(running);
    app.settle().await?;
    println!(
        "\n{}: {count} documents, {accepted} newly ingested, ready in {:.1} s",
        collection.name,
        start.elapsed().as_secs_f64()
    );
    Ok(Prepared { app, scope, language: collection.language })
}

const BATCH: usize = 64;
const BATCHES_IN_FLIGHT: usize = 4;

fn documents(collection: &Collection, name: &CollectionName) -> anyhow::Result<Vec<IncomingDocument>> {
    let files = collection.root.join("docs");
    if files.is_dir() {
        let mut found = Vec::new();
        walk(&files, &files, name, &mut found)?;
        found.sort_by(|a, b| a.id.cmp(&b.id));
        return Ok(found);
    }
    let mut documents = Vec::new();
    for document in collection.open()?.documents()? {
        let document = document?;
        let of_language = |language| document.id.starts_with(&format!("{language}-"));
        if !collection.language.is_none_or(of_language) {
            continue;
        }
        documents.push(IncomingDocument {
            id: Some(DocumentId::new(&document.id)?),
            collection: name.clone(),
            title: Some(document.title).filter(|title| !title.is_empty()),
            source_uri: None,
            media_type: None,
            body: IncomingBody::Text(document.text),
            metadata: Metadata::new(),
            acl: None,
        });
    }
    Ok(documents)
}

fn walk(root: &Path, folder: &Path, name: &CollectionName, found: &mut Vec<IncomingDocument>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(root, &path, name, found)?;
            continue;
        }
        let id = path.strip_prefix(root)?.to_string_lossy().into_owned();
        found.push(IncomingDocument {
            id: Some(DocumentId::new(&id)?),
            collection: name.clone(),
            title: None,
            source_uri: None,
            media_type: plumb::cli::media_type_of(&path).map(str::to_owned),
            body: IncomingBody::Bytes(std::fs::read(&path)?.into()),
            metadata: Metadata::new(),
            acl: None,
        });
    }
    Ok(())
}
