//! One byte is flipped in every kind of file that a data directory has, and a server is started on it: searches are
//! right again, or the damage is named; no text is served that nobody has stored.
//!
//! What is derived (indexes, cache, lock) must be without a trace afterwards: everything is found, nothing else, and
//! the counts are those of the truth.
//!
//! Of the truth, less can be promised, and this is what happens:
//! - A byte of a text: `/content` compares the text with its hash and refuses it; `plumb check` names it. The text of
//!   a hit or of a single chunk is not compared when it is read.
//! - A byte of a title, of metadata, of a time or of an id that still can be read: nothing notices. Such fields have no
//!   checksum; whether pages and indexes are in order is checked by `plumb check` and by the integrity check of the
//!   settings.
//! - A byte of the write-ahead log: SQLite takes the log up to there, so later writes are gone although they were
//!   acknowledged. Where an index had seen them the log of the process says so at the start, and how many are missing. Where
//!   none had, because the collection itself is gone with them, nothing can.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use plumb::app::App;
use plumb::config::Config;
use plumb::domain::{CollectionName, TenantId};
use plumb::store::{CorpusStore as _, DataDirectory, OperationLog as _, back_up, check_truth, restore};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bed::PATIENCE;
use crate::crash_points_check::{Indexes, Wanted, check, told};
use crate::crash_points_life::{Owed, PLAIN, WITH_VECTORS, Written, data_below, settings};

const SEED: u64 = 20_261_126;
/// Bytes flipped in each kind of file that can be built again, and of the truth.
const FLIPS: usize = 12;
const FLIPS_OF_THE_TRUTH: usize = 60;
const FLIPS_OF_THE_LOG: usize = 24;
const AT_ONCE: usize = 6;
const LIMIT: Duration = Duration::from_secs(120);
/// Documents of each collection.
const DOCUMENTS: usize = 12;

fn config() -> Config {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), settings("http://127.0.0.1:9")).unwrap();
    let no_models = [("PLUMB_MODELS_DIR".to_owned(), "/nonexistent/models".to_owned())];
    Config::merge(Some(file.path()), no_models.into()).unwrap()
}

fn written(n: usize) -> Written {
    let text = format!("The plate of unit{n} was made in hall {}.{}", n % 7, " It was never moved.".repeat(20 + n));
    Written { text, revision: 1 }
}

fn body(collection: &str, n: usize) -> Value {
    let (Written { text, revision }, metadata) = (written(n), json!({"revision": 1}));
    assert_eq!(revision, 1);
    if collection == WITH_VECTORS {
        let chunk = json!({"text": text, "vector": [1.0, (n as f64).sin(), (n as f64).cos(), 0.5]});
        return json!({"id": format!("doc-{n}"), "collection": collection, "metadata": metadata, "chunks": [chunk]});
    }
    json!({"id": format!("doc-{n}"), "collection": collection, "text": text, "metadata": metadata})
}

async fn write(app: &App, numbers: std::ops::Range<usize>) {
    let door = app.local_door().unwrap();
    for collection in [PLAIN, WITH_VECTORS] {
        let documents: Vec<Value> = numbers.clone().map(|n| body(collection, n)).collect();
        let request = json!({"documents": documents}).to_string();
        let (status, answer) = door.post("/documents?wait=indexed", request.into_bytes()).await;
        assert!(matches!(status, 200 | 202), "{status} {}", String::from_utf8_lossy(&answer));
    }
}

/// Everything that the directory holds.
fn owed() -> Owed {
    let name = |collection, n: usize| ((collection, format!("doc-{n}")), vec![Some(written(n))]);
    let documents: BTreeMap<_, _> =
        [PLAIN, WITH_VECTORS].into_iter().flat_map(|one| (0..DOCUMENTS).map(move |n| name(one, n))).collect();
    Owed { documents, ..Owed::default() }
}

/// Directories to be damaged, with every kind of file.
struct Samples {
    /// Closed in order, with segments merged and a graph.
    closed: TempDir,
    /// Left by a kill: the latest writes are in the write-ahead log.
    killed: TempDir,
}

async fn samples(config: &Config) -> Samples {
    let (closed, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut config = config.clone();
    config.server.data_dir = data_below(closed.path());
    config.store.checkpoint_mib = 16;
    let app = App::start(config.clone()).await.unwrap();
    write(&app, 0..DOCUMENTS - 2).await;
    app.shutdown().await.unwrap();
    let app = App::start(config).await.unwrap();
    write(&app, DOCUMENTS - 2..DOCUMENTS).await;
    app.settle().await.unwrap();
    copy(closed.path(), killed.path());
    app.shutdown().await.unwrap();
    Samples { closed, killed }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            std::fs::create_dir(to.join(&name)).unwrap();
            copy(&path, &to.join(name));
        } else if !name.to_str().unwrap().ends_with("-shm") {
            match std::fs::copy(&path, to.join(name)) {
                // An engine deletes a file that it has replaced while this looks on.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Files that are not empty, by kind: room, and name without what is drawn or counted.
fn kinds(root: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut kinds: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in files(root).into_iter().filter(|path| path.metadata().is_ok_and(|known| known.len() > 0)) {
        let below = path.strip_prefix(data_below(root)).unwrap().to_owned();
        let room = below.iter().rev().nth(1).map(|room| room.to_str().unwrap()).unwrap_or_default();
        let name = below.extension().or(below.file_name()).unwrap().to_str().unwrap();
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
        kinds.entry(format!("{room}/{name}")).or_default().push(below);
    }
    kinds
}

/// Flips one bit or more of one byte.
fn flip(path: &Path, random: &mut StdRng) -> usize {
    let mut bytes = std::fs::read(path).unwrap();
    let at = random.random_range(0..bytes.len());
    bytes[at] ^= random.random_range(1..=255_u8);
    std::fs::write(path, bytes).unwrap();
    at
}

/// A copy of `sample` with one byte flipped in a file below the data directory, and where that is.
fn flipped(sample: &Path, file: &Path, random: &mut StdRng) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    copy(sample, folder.path());
    let at = flip(&data_below(folder.path()).join(file), random);
    (folder, format!("{} byte {at}", file.display()))
}

/// What looking at each damaged directory gave.
async fn look_at(damaged: Vec<(TempDir, String)>, config: &Arc<Config>) -> Vec<(String, Result<(), String>)> {
    let looked = futures::stream::iter(damaged).map(|(folder, place)| {
        let (config, runtime) = (config.clone(), tokio::runtime::Handle::current());
        tokio::task::spawn_blocking(move || {
            let owed = owed();
            let wanted = Wanted { owed: &owed, indexes: Indexes::Damaged, writable: true };
            let checked = check(folder.path(), &config, wanted);
            let checked = runtime.block_on(async { tokio::time::timeout(LIMIT, checked).await });
            (place, checked.unwrap_or_else(|_| Err("it hangs".to_owned())))
        })
    });
    let looked: Vec<_> = looked.buffer_unordered(AT_ONCE).collect().await;
    looked.into_iter().map(|ended| ended.expect("no damage ends in a panic")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_what_is_derived_leaves_no_trace() {
    let config = Arc::new(config());
    let samples = samples(&config).await;
    let mut random = StdRng::seed_from_u64(SEED);
    let kinds = kinds(samples.closed.path());
    let mut damaged = Vec::new();
    for (_, paths) in kinds.iter().filter(|(kind, _)| !kind.ends_with("/db") || kind.starts_with("index/")) {
        for n in 0..FLIPS {
            damaged.push(flipped(samples.closed.path(), &paths[n % paths.len()], &mut random));
        }
    }

    let looked = look_at(damaged, &config).await;

    let wrong: Vec<_> = looked.iter().filter(|(_, outcome)| outcome.is_err()).collect();
    assert!(wrong.is_empty(), "seed {SEED}: {} of {} left a trace: {wrong:#?}", wrong.len(), looked.len());
    println!("{} flipped bytes in {} kinds of files: {:?}", looked.len(), kinds.len(), kinds.keys());
    let has = |part: &str| kinds.keys().any(|kind| kind.contains(part));
    for part in ["MANIFEST", "lexical/", "vector/", "LOCK", "index/db"] {
        assert!(has(part), "no {part} among {:?}", kinds.keys());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_database_never_gives_a_text_that_was_not_stored() {
    let config = Arc::new(config());
    let samples = samples(&config).await;
    let mut random = StdRng::seed_from_u64(SEED);
    let database = Path::new("plumb.db");
    let damaged = (0..FLIPS_OF_THE_TRUTH).map(|_| flipped(samples.closed.path(), database, &mut random)).collect();

    let looked = look_at(damaged, &config).await;

    let mut counts = BTreeMap::new();
    for (place, outcome) in &looked {
        let kind = match outcome {
            Ok(()) => "without effect",
            Err(said) if said.starts_with("it does not start") => {
                assert!(said.contains("backup") || said.contains("not a plumb database"), "{place}: {said}");
                "refused to start"
            }
            Err(said) if said.starts_with("the text of") => "text refused",
            Err(said) if said.starts_with("the truth is damaged") => "named by the check",
            Err(said) => {
                assert!(!said.contains("is Some(Written { text") || is_same_text(said), "{place}: {said}");
                "noticed by who looks, or not at all"
            }
        };
        *counts.entry(kind).or_insert(0) += 1;
    }
    println!("{} flipped bytes in the database: {counts:?}", looked.len());
}

/// True if in what was found only other fields than the text are wrong.
fn is_same_text(said: &str) -> bool {
    (0..DOCUMENTS).any(|n| said.split("and not one of").next().unwrap().contains(&written(n).text))
}

/// The text of a document with a byte flipped in it, at every place that a text has: none is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_with_a_flipped_byte_is_refused_and_named() {
    let config = Arc::new(config());
    let samples = samples(&config).await;
    let folder = tempfile::tempdir().unwrap();
    copy(samples.closed.path(), folder.path());
    let database = DataDirectory::database_in(&data_below(folder.path()));
    let mut bytes = std::fs::read(&database).unwrap();
    let wanted = b"The plate of unit3 was made";
    let places: Vec<usize> = (0..bytes.len() - wanted.len()).filter(|at| bytes[*at..].starts_with(wanted)).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| bytes[at + wanted.len() - 1] = b'k');
    std::fs::write(&database, bytes).unwrap();

    let mut opened = Config::clone(&config);
    opened.server.data_dir = data_below(folder.path());
    let app = App::start(opened).await.unwrap();
    let (status, said) = app.local_door().unwrap().get("/documents/doc-3/content").await;
    app.shutdown().await.unwrap();
    let truth = check_truth(&database).await.unwrap();

    assert_eq!(status, 500, "{}", String::from_utf8_lossy(&said));
    assert!(truth.findings.iter().any(|finding| finding.contains("doc-3")), "{:?}", truth.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_a_flipped_byte_is_refused_or_its_damage_is_named() {
    let config = config();
    let samples = samples(&config).await;
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup.db");
    back_up(&DataDirectory::database_in(&data_below(samples.closed.path())), &backup).await.unwrap();
    let mut random = StdRng::seed_from_u64(SEED);
    let (mut refused, mut named, mut unnoticed) = (0, 0, 0);

    for n in 0..FLIPS_OF_THE_TRUTH {
        let damaged = folder.path().join(format!("damaged-{n}.db"));
        std::fs::copy(&backup, &damaged).unwrap();
        flip(&damaged, &mut random);
        let directory = DataDirectory::open(&folder.path().join(format!("data-{n}"))).unwrap();
        match restore(&damaged, &directory).await {
            Err(_) => refused += 1,
            Ok(_) => match check_truth(&directory.database()).await {
                Ok(truth) if truth.findings.is_empty() => unnoticed += 1,
                _ => named += 1,
            },
        }
    }

    println!("{FLIPS_OF_THE_TRUTH} flipped bytes in a backup: refused {refused}, named {named}, unnoticed {unnoticed}");
    assert!(refused + named > 0);
}

/// Starts the binary, lets it catch up, ends it, and gives what it has logged.
fn logged(root: &Path, config: &Path) -> String {
    let server = Command::new(env!("CARGO_BIN_EXE_plumb"))
        .args(["check", "--data-dir"])
        .arg(data_below(root))
        .arg("--config")
        .arg(config)
        .env("PLUMB_MODELS_DIR", root.join("no-models"))
        .env("PLUMB_LOG__LOG_FILTER", "warn")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    [server.stdout, server.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat()
}

/// The sequence up to which the log of operations goes, and how many documents there are.
async fn reached(root: &Path, config: &Config) -> Result<(u64, usize), String> {
    let mut config = config.clone();
    config.server.data_dir = data_below(root);
    let app = App::start(config).await.map_err(|error| told(&error))?;
    app.catch_up(PATIENCE).await.map_err(|error| told(&error))?;
    let sequence = app.store.last_sequence().await.unwrap();
    let scope = plumb::domain::TenantScope::everything(TenantId::new("default").unwrap());
    let name = CollectionName::new(PLAIN).unwrap();
    let documents = app.store.documents(&scope, &name, None, 100).await.unwrap();
    app.shutdown().await.unwrap();
    Ok((sequence.0, documents.items.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_a_damaged_log_has_lost_are_told_at_the_start() {
    let config = config();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), settings("http://127.0.0.1:9")).unwrap();
    let samples = samples(&config).await;
    let whole = tempfile::tempdir().unwrap();
    copy(samples.killed.path(), whole.path());
    let (all, documents) = reached(whole.path(), &config).await.unwrap();
    assert_eq!(documents, DOCUMENTS);
    let mut random = StdRng::seed_from_u64(SEED);
    let (mut lossless, mut told_of) = (0, 0);

    for _ in 0..FLIPS_OF_THE_LOG {
        let (damaged, place) = flipped(samples.killed.path(), Path::new("plumb.db-wal"), &mut random);
        let again = tempfile::tempdir().unwrap();
        copy(damaged.path(), again.path());
        let (sequence, _) = reached(again.path(), &config).await.unwrap();
        let said = tokio::task::spawn_blocking({
            let (root, file) = (damaged.path().to_owned(), file.path().to_owned());
            move || logged(&root, &file)
        });
        let said = said.await.unwrap();
        if sequence == all {
            lossless += 1;
            continue;
        }
        let is_told = said.contains("ahead of the log") && said.contains("missing");
        assert!(is_told, "{place}: of {all} operations {sequence} are left: {said}");
        told_of += 1;
    }

    println!("{FLIPS_OF_THE_LOG} flipped bytes in the write-ahead log: lossless {lossless}, loss told {told_of}");
    assert!(told_of > 0);
}
