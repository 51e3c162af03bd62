//! A crash at every point: after each call with which a server has changed its directory, what is there then is taken
//! for what a crash has left, and everything acknowledged before that point must be there again.
//!
//! One life is recorded (`crash_points_life.rs`, `io_record.rs`). Its record gives the directory after any number of
//! calls: as a kill leaves it, as a power cut leaves it, and with the last write torn (`io_record_disk.rs`). Each
//! such image is started on and looked at (`crash_points_check.rs`). Of some the recovery itself is recorded, and cut
//! off at its own points in the same way.
//!
//! A life has some thousands of points, more than a run has time for: a share of each sort is drawn, by a seed. With the
//! numbers below raised to the number of calls it is all of them. Two points at which image and promises are the same
//! are looked at once.
//!
//! What it cannot see: an answer given a moment before its fsync is noticed only if the test notes the answer before
//! the fsync has returned; writes through mappings (SQLite's `-shm` alone, which is made anew); names that moved
//! between two directories (there are none).

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use plumb::config::Config;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

use crate::crash_points_check::{Indexes, Wanted, check};
use crate::crash_points_life::{Life, Owed, Served, live, settings};
use crate::echo_server::EchoServer;
use crate::io_record::Operation;
use crate::io_record_disk::{Disk, Image};

const SEED: u64 = 20_261_125;
/// Images looked at side by side: they wait for threads and timers more than for a core.
const AT_ONCE: usize = 6;
/// Points of each sort that are drawn from all that there are, about so many: a kill after a call, what a cut leaves at
/// least, what it leaves somewhere in between, a write that is torn.
const KILLED: usize = 650;
const CUTS: usize = 170;
const CUTS_IN_BETWEEN: usize = 150;
const TORN: usize = 200;
/// At one point of so many a further write is tried, which takes longer than all else.
const PROBED: usize = 4;
/// Images whose recovery is recorded, and how many points of each are drawn, about.
const RECOVERIES: usize = 12;
const POINTS_OF_A_RECOVERY: usize = 14;
/// What the promise says.
const LEAST_POINTS: usize = 1_000;
/// Broken promises that a failure names.
const TOLD: usize = 5;
/// How long one image may take: far longer than any needs, and shorter than the patience of who waits for the suite.
const LIMIT: Duration = Duration::from_secs(120);

/// What the crash was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Crash {
    Killed,
    Cut,
    Torn,
    InRecovery,
}

/// An image, and what must hold of it.
struct Point {
    crash: Crash,
    /// After so many calls.
    made: usize,
    image: Image,
    owed: Arc<Owed>,
    indexes: Indexes,
}

/// What has been looked at.
#[derive(Default)]
struct Seen {
    known: HashSet<(blake3::Hash, usize)>,
    points: [usize; 4],
}

impl Seen {
    /// The image, if it is not known yet together with what is owed.
    fn is_new(&mut self, crash: Crash, image: &Image, events: usize) -> bool {
        self.points[crash as usize] += 1;
        self.known.insert((image.mark(), events))
    }
}

/// Memory where there is some: an image lives for a moment.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}

/// How often one of `all` is drawn so that it is `wanted` in the end.
fn share(wanted: usize, all: usize) -> f64 {
    (wanted as f64 / all.max(1) as f64).min(1.0)
}

/// The points of a life that are looked at, each with an image of its own.
fn points<'a>(life: &'a Life, seen: &'a mut Seen) -> impl Iterator<Item = Point> + 'a {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut disk = Disk::empty(&life.root);
    let all = life.operations.len();
    let shares = [KILLED, CUTS, CUTS_IN_BETWEEN, TORN].map(|wanted| share(wanted, all));
    life.operations.iter().enumerate().flat_map(move |(before, operation)| {
        let [killed, cut, between, torn] = shares.map(|share| random.random_bool(share));
        let torn = torn.then(|| disk.torn(operation, &mut random)).flatten();
        disk.apply(operation);
        let made = before + 1;
        let mut images = vec![(Crash::Killed, Indexes::Whole, killed.then(|| disk.killed()))];
        images.push((Crash::Cut, Indexes::Damaged, cut.then(|| disk.cut())));
        images.push((Crash::Cut, Indexes::Damaged, between.then(|| disk.cut_somewhere(&mut random))));
        images.push((Crash::Torn, Indexes::Damaged, torn));
        let owed = Arc::new(life.owed(made));
        // A torn write is one that has not returned.
        let owed_before = Arc::new(life.owed(before));
        let events = |crash| life.events_until(if crash == Crash::Torn { before } else { made });
        let new: Vec<Point> = images
            .into_iter()
            .filter_map(|(crash, indexes, image)| Some((crash, indexes, image?)))
            .filter(|(crash, _, image)| seen.is_new(*crash, image, events(*crash)))
            .map(|(crash, indexes, image)| {
                let owed = if crash == Crash::Torn { owed_before.clone() } else { owed.clone() };
                Point { crash, made, image, owed, indexes }
            })
            .collect();
        new
    })
}

/// Looks at all points, some at once, and gives what is broken at which.
async fn look_at(points: impl Iterator<Item = Point>, config: &Arc<Config>) -> Vec<String> {
    let looked = futures::stream::iter(points).map(|point| {
        let (config, runtime) = (config.clone(), tokio::runtime::Handle::current());
        // A thread of its own: a panic is that of one point.
        tokio::task::spawn_blocking(move || {
            let folder = folder();
            point.image.write(folder.path()).unwrap();
            let wanted = Wanted { owed: &point.owed, indexes: point.indexes, writable: point.made % PROBED == 0 };
            let checked = check(folder.path(), &config, wanted);
            let checked = runtime.block_on(async { tokio::time::timeout(LIMIT, checked).await });
            let broken = checked.unwrap_or_else(|_| Err("it hangs".to_owned())).err()?;
            Some(format!("{:?} after call {}: {broken}", point.crash, point.made))
        })
    });
    let looked: Vec<_> = looked.buffer_unordered(AT_ONCE).collect().await;
    looked.into_iter().filter_map(|ended| ended.unwrap_or_else(|error| Some(format!("a panic: {error}")))).collect()
}

/// The points of a recovery from what a crash after `made` calls has left.
async fn recover(
    image: &Image,
    made: usize,
    life: &Life,
    (config, seen, random): (&Path, &mut Seen, &mut StdRng),
) -> Vec<Point> {
    let folder = folder();
    image.write(folder.path()).unwrap();
    let mut disk = Disk::of(folder.path());
    let server = Served::start(folder.path(), config, &disk).unwrap();
    server.rest(Duration::from_millis(300)).await;
    let operations = server.end(libc::SIGKILL);
    let owed = Arc::new(life.owed(made));
    let mut points = Vec::new();
    for operation in &operations {
        let torn = random.random_bool(0.2).then(|| disk.torn(operation, random)).flatten();
        disk.apply(operation);
        let image = match random.random_range(0..3) {
            0 => disk.killed(),
            1 => disk.cut(),
            _ => disk.cut_somewhere(random),
        };
        for image in [Some(image), torn].into_iter().flatten() {
            if random.random_bool(share(POINTS_OF_A_RECOVERY, operations.len()))
                && seen.is_new(Crash::InRecovery, &image, life.events_until(made))
            {
                let (owed, indexes) = (owed.clone(), Indexes::Damaged);
                points.push(Point { crash: Crash::InRecovery, made, image, owed, indexes });
            }
        }
    }
    points
}

/// Images of a life, spread over all of it.
fn samples(life: &Life, random: &mut StdRng) -> Vec<(usize, Image)> {
    let mut disk = Disk::empty(&life.root);
    let stretch = life.operations.len() / RECOVERIES;
    let mut samples = Vec::new();
    for (at, stretch_of_calls) in life.operations.chunks(stretch).take(RECOVERIES).enumerate() {
        let last = random.random_range(0..stretch_of_calls.len());
        for (within, operation) in stretch_of_calls.iter().enumerate() {
            disk.apply(operation);
            if within == last {
                let image = if at % 2 == 0 { disk.killed() } else { disk.cut_somewhere(random) };
                samples.push((at * stretch + within + 1, image));
            }
        }
    }
    samples
}

struct World {
    _model: EchoServer,
    config_file: tempfile::NamedTempFile,
    config: Arc<Config>,
}

async fn world() -> World {
    let model = EchoServer::start(Duration::ZERO).await;
    let config_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config_file.path(), settings(&model.base_url())).unwrap();
    let no_models = [("PLUMB_MODELS_DIR".to_owned(), "/nonexistent/models".to_owned())];
    let config = Config::merge(Some(config_file.path()), no_models.into()).unwrap();
    World { _model: model, config_file, config: Arc::new(config) }
}

/// The life, or why there is none, past what a passing test's output is kept from.
async fn recorded(root: &Path, world: &World) -> Option<Life> {
    let life = live(root, world.config_file.path()).await;
    if let Err(reason) = &life {
        // If even this cannot be written, nothing can be said at all.
        let _ = writeln!(std::io::stderr(), "skipped: no process can be traced here: {reason}");
    }
    life.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_crash_at_any_point() {
    let begun = Instant::now();
    let world = world().await;
    let folder = folder();
    let root: PathBuf = folder.path().canonicalize().unwrap();
    let Some(life) = recorded(&root, &world).await else { return };
    let mut seen = Seen::default();
    let mut random = StdRng::seed_from_u64(SEED);

    let mut broken = look_at(points(&life, &mut seen), &world.config).await;
    for (made, image) in samples(&life, &mut random) {
        let points = recover(&image, made, &life, (world.config_file.path(), &mut seen, &mut random)).await;
        broken.extend(look_at(points.into_iter(), &world.config).await);
    }

    let [killed, cut, torn, in_recovery] = seen.points;
    let all = killed + cut + torn + in_recovery;
    println!(
        "{all} crash points (killed {killed}, cut {cut}, torn {torn}, in recovery {in_recovery}), {} images, {} calls, \
         acknowledged writes {}, broken {}, {} s, seed {SEED}",
        seen.known.len(),
        life.operations.len(),
        life.owed(life.operations.len()).acknowledged,
        broken.len(),
        begun.elapsed().as_secs(),
    );
    let told = broken.iter().take(TOLD).cloned().collect::<Vec<_>>().join("\n");
    assert!(broken.is_empty(), "seed {SEED}: broken at {} points:\n{told}", broken.len());
    assert!(all >= LEAST_POINTS, "only {all} points");
    assert!(life.operations.iter().any(|operation| matches!(operation, Operation::SyncDirectory { .. })));
}
