//! Which vector engine, at which size, at what price: recall, CPU a query, build, memory and disk, side by side.
//!
//! `cargo bench --bench vector [-- --rows 100000 --dims 384 --file EMBEDDINGS --only NAME,NAME --sweep]`. The file holds rows
//! of little-endian f32; its last rows are the queries. Without one, vectors are clumps from a fixed seed. Every
//! contender runs in a process of its own, so that its memory is its own, and is timed by the CPU clock of one thread.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use half::f16;
use plumb::domain::{ChunkId, Sequence, hash_parts};
use plumb::index::{FlatIndex, SegmentedIndex, VectorChange, VectorEngine, VectorIndex, VectorSearch, VectorSettings};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

const QUERIES: usize = 500;
const DEPTHS: [usize; 2] = [10, 100];
/// One in so many may be returned.
const FILTERS: [usize; 3] = [2, 10, 100];
const BATCH: usize = 1_000;

/// As shipped, but with a graph at any size that is worth a bench.
fn with_graph(engine: VectorEngine) -> VectorSettings {
    VectorSettings { engine, exact_threshold: 1_000, ..Default::default() }
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let options = Options::from_arguments()?;
    if let Some(contender) = &options.contender {
        println!("{}", serde_json::to_string(&measure(contender, &options)?)?);
        return Ok(());
    }
    if options.sweep {
        return sweep(&options);
    }
    let scratch = tempfile::tempdir()?;
    let input = Input::of(&options)?;
    let input_path = scratch.path().join("input.json");
    fs::write(&input_path, serde_json::to_vec(&Truth::of(&input))?)?;
    println!("{} vectors of {} dimensions, {QUERIES} queries, one thread, CPU time", input.rows.len(), options.dims);
    println!("{}", Measured::head());
    drop(input);
    for contender in CONTENDERS {
        if options.only.as_ref().is_some_and(|only| !only.split(',').any(|name| name == contender)) {
            continue;
        }
        let mut child = Command::new(std::env::current_exe()?);
        child.args(std::env::args().skip(1)).arg("--contender").arg(contender).arg("--truth").arg(&input_path);
        let output = child.output()?;
        if !output.status.success() {
            return Err(format!("{contender}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        println!("{}", serde_json::from_slice::<Measured>(&output.stdout)?.line());
    }
    Ok(())
}

const CONTENDERS: [&str; 6] = ["flat_f16", "scan_i8", "usearch", "hnsw_rs", "raw_usearch_i8", "raw_usearch_f16"];

struct Options {
    rows: usize,
    dims: usize,
    file: Option<PathBuf>,
    only: Option<String>,
    /// Tries search settings on one build instead of comparing engines.
    sweep: bool,
    contender: Option<String>,
    truth: Option<PathBuf>,
}

impl Options {
    fn from_arguments() -> Outcome<Self> {
        let mut options =
            Self { rows: 100_000, dims: 384, file: None, only: None, sweep: false, contender: None, truth: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--rows" => options.rows = value()?.parse()?,
                "--dims" => options.dims = value()?.parse()?,
                "--file" => options.file = Some(value()?.into()),
                "--only" => options.only = Some(value()?),
                "--sweep" => options.sweep = true,
                "--contender" => options.contender = Some(value()?),
                "--truth" => options.truth = Some(value()?.into()),
                // Cargo's own.
                "--bench" => {}
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        Ok(options)
    }
}

/// What is searched, and for what.
struct Input {
    rows: Vec<Vec<f16>>,
    queries: Vec<Vec<f32>>,
}

impl Input {
    fn of(options: &Options) -> Outcome<Self> {
        let mut all = match &options.file {
            Some(path) => read_vectors(path, options.dims, options.rows + QUERIES)?,
            None => clumps(options.rows + QUERIES, options.dims),
        };
        let queries = all.split_off(all.len().checked_sub(QUERIES).ok_or("the file is too short")?);
        Ok(Self { rows: all.iter().map(|vector| stored(vector)).collect(), queries })
    }
}

fn read_vectors(path: &Path, dims: usize, limit: usize) -> Outcome<Vec<Vec<f32>>> {
    let bytes = fs::read(path)?;
    let vector = |row: &[u8]| row.chunks_exact(4).map(|v| f32::from_le_bytes([v[0], v[1], v[2], v[3]])).collect();
    Ok(bytes.chunks_exact(4 * dims).take(limit).map(vector).collect())
}

/// One clump for each hundred vectors; cosines inside a clump are about 0.7.
fn clumps(count: usize, dims: usize) -> Vec<Vec<f32>> {
    let mut state = 42_u64;
    let mut normal = move || {
        let mut uniform = || {
            // SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (uniform() + uniform() + uniform() + uniform()) * 1.732
    };
    let centres: Vec<Vec<f32>> = (0..count.div_ceil(100)).map(|_| (0..dims).map(|_| normal()).collect()).collect();
    let clump = |n: usize| &centres[n.wrapping_mul(0x9e37_79b9) % centres.len()];
    (0..count).map(|n| clump(n).iter().map(|value| value + 0.65 * normal()).collect()).collect()
}

fn stored(vector: &[f32]) -> Vec<f16> {
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.iter().map(|v| f16::from_f32(v / norm)).collect()
}

fn id(n: usize) -> ChunkId {
    ChunkId(hash_parts(&[b"bench", &n.to_le_bytes()]))
}

fn allowed(step: usize, rows: usize) -> HashSet<ChunkId> {
    (0..rows).step_by(step).map(id).collect()
}

/// For each filter (1: none) and query the nearest ids by an f32 scan.
#[derive(Serialize, Deserialize)]
struct Truth(Vec<(usize, Vec<Vec<ChunkId>>)>);

impl Truth {
    fn of(input: &Input) -> Self {
        let rows: Vec<Vec<f32>> = input.rows.par_iter().map(|row| row.iter().map(|v| v.to_f32()).collect()).collect();
        let nearest = |query: &Vec<f32>, step: usize| {
            let mut scored: Vec<(f32, usize)> =
                (0..rows.len()).step_by(step).map(|n| (cosine(query, &rows[n]), n)).collect();
            scored.sort_by(|a, b| b.0.total_cmp(&a.0));
            scored.iter().take(DEPTHS[1]).map(|&(_, n)| id(n)).collect()
        };
        let of = |step: usize| (step, input.queries.par_iter().map(|query| nearest(query, step)).collect());
        Self(std::iter::once(1).chain(FILTERS).map(of).collect())
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| {
        let mut sums = [0.0_f32; 16];
        for (a, b) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
            sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
        }
        let rest = a.len() - a.len() % 16;
        sums.iter().sum::<f32>() + a[rest..].iter().zip(&b[rest..]).map(|(a, b)| a * b).sum::<f32>()
    };
    dot(a, b) / dot(b, b).sqrt()
}

/// What is to be compared: the project's indexes, and the library alone as an anchor.
enum Contender {
    Index { index: Box<dyn VectorIndex>, exact: bool },
    Raw(usearch::Index),
}

impl Contender {
    fn build(name: &str, input: &Input, dir: &Path) -> Outcome<Self> {
        let dims = input.queries[0].len();
        let segmented = |settings: VectorSettings| -> Outcome<Box<dyn VectorIndex>> {
            Ok(Box::new(SegmentedIndex::open(dir, dims, settings)?))
        };
        Ok(match name {
            "flat_f16" => Self::Index { index: load(Box::new(FlatIndex::new(dims)), input)?, exact: true },
            "scan_i8" => {
                let settings = VectorSettings { exact_threshold: usize::MAX, ..Default::default() };
                Self::Index { index: load(segmented(settings)?, input)?, exact: true }
            }
            "usearch" => {
                Self::Index { index: load(segmented(with_graph(VectorEngine::Usearch))?, input)?, exact: false }
            }
            "hnsw_rs" => {
                Self::Index { index: load(segmented(with_graph(VectorEngine::HnswRs))?, input)?, exact: false }
            }
            "raw_usearch_i8" => Self::raw(input, usearch::ScalarKind::I8)?,
            "raw_usearch_f16" => Self::raw(input, usearch::ScalarKind::F16)?,
            other => return Err(format!("unknown contender {other}").into()),
        })
    }

    fn raw(input: &Input, scalar: usearch::ScalarKind) -> Outcome<Self> {
        let settings = VectorSettings::default();
        let index = usearch::Index::new(&usearch::IndexOptions {
            dimensions: input.queries[0].len(),
            metric: usearch::MetricKind::Cos,
            quantization: scalar,
            connectivity: settings.m,
            expansion_add: settings.ef_construction,
            expansion_search: settings.ef_search,
            multi: false,
        })?;
        index.reserve_capacity_and_threads(input.rows.len(), rayon::current_num_threads())?;
        input.rows.par_iter().enumerate().try_for_each(|(n, row)| {
            let row: Vec<f32> = row.iter().map(|v| v.to_f32()).collect();
            index.add(n as u64, &row).map_err(|error| error.to_string())
        })?;
        Ok(Self::Raw(index))
    }

    /// As an index is found after a restart: nothing that building needed is still in memory.
    fn reopened(self, name: &str, dims: usize, dir: &Path) -> Outcome<Self> {
        if !matches!(name, "scan_i8" | "usearch") {
            return Ok(self);
        }
        let Self::Index { index, exact } = self else { return Ok(self) };
        drop(index);
        let settings = match exact {
            true => VectorSettings { exact_threshold: usize::MAX, ..Default::default() },
            false => with_graph(VectorEngine::Usearch),
        };
        Ok(Self::Index { index: Box::new(SegmentedIndex::open(dir, dims, settings)?), exact })
    }

    fn search(&self, query: &[f32], depth: usize, allowed: Option<&HashSet<ChunkId>>) -> Outcome<Vec<ChunkId>> {
        match self {
            Self::Index { index, exact } => {
                let hits = index.search(query, VectorSearch { depth, exact: *exact, allowed })?;
                Ok(hits.iter().map(|hit| hit.id).collect())
            }
            Self::Raw(index) => {
                let matches = match allowed {
                    None => index.search(query, depth)?,
                    Some(allowed) => index.filtered_search(query, depth, |n| allowed.contains(&id(n as usize)))?,
                };
                Ok(matches.keys.iter().map(|&n| id(n as usize)).collect())
            }
        }
    }

    fn bytes(&self, dir: &Path) -> Outcome<u64> {
        match self {
            Self::Index { .. } => {
                let mut bytes = 0;
                for entry in fs::read_dir(dir)? {
                    bytes += entry?.metadata()?.len();
                }
                Ok(bytes)
            }
            Self::Raw(index) => Ok(index.serialized_length() as u64),
        }
    }
}

/// Feeds an index as an indexer would: batch, flush, maintenance.
fn load(index: Box<dyn VectorIndex>, input: &Input) -> Outcome<Box<dyn VectorIndex>> {
    for (n, batch) in input.rows.chunks(BATCH).enumerate() {
        let put = |(at, row): (usize, &Vec<f16>)| VectorChange::Put { id: id(n * BATCH + at), vector: row.clone() };
        index.apply(batch.iter().enumerate().map(put).collect(), Sequence(n as u64 + 1))?;
        index.flush()?;
        while index.maintain()? {}
    }
    Ok(index)
}

/// Recall and time of one graph under several search settings.
fn sweep(options: &Options) -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let input = Input::of(options)?;
    let truth = Truth::of(&input);
    drop(load(Box::new(SegmentedIndex::open(dir.path(), options.dims, with_graph(VectorEngine::Usearch))?), &input)?);
    for ef_search in [32, 64, 128] {
        for rescore_factor in [1, 2, 4] {
            let settings = VectorSettings { ef_search, rescore_factor, ..with_graph(VectorEngine::Usearch) };
            let index = Box::new(SegmentedIndex::open(dir.path(), options.dims, settings)?);
            let contender = Contender::Index { index, exact: false };
            for depth in DEPTHS {
                run(&contender, &input.queries, (depth, None), &truth.0[0].1)?;
                let run = run(&contender, &input.queries, (depth, None), &truth.0[0].1)?;
                println!(
                    "ef_search {ef_search:>3}, rescore_factor {rescore_factor}, depth {depth:>3}: recall {:.4}, {:.0}/{:.0} µs",
                    run.recall, run.p50_us, run.p95_us
                );
            }
        }
    }
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Measured {
    name: String,
    recall: Vec<f64>,
    /// For each depth p50 and p95.
    query_us: Vec<(f64, f64)>,
    /// For each filter recall@10, p50 and p95.
    filtered: Vec<(f64, f64, f64)>,
    build_cpu_s: f64,
    open_ms: f64,
    anonymous_mb: f64,
    file_mb: f64,
    bytes_a_vector: f64,
}

impl Measured {
    fn head() -> String {
        format!(
            "{:<16}{:>9}{:>9}{:>16}{:>16}{:>9}{:>8}{:>9}{:>9}{:>8}   1/2, 1/10, 1/100 allowed: recall@10 p50 µs",
            "",
            "rec@10",
            "rec@100",
            "@10 p50/p95 µs",
            "@100 p50/p95 µs",
            "build s",
            "open ms",
            "anon MB",
            "file MB",
            "B/vec"
        )
    }

    fn line(&self) -> String {
        let pair = |n: usize| format!("{:.0}/{:.0}", self.query_us[n].0, self.query_us[n].1);
        let filtered: Vec<String> =
            self.filtered.iter().map(|(recall, p50, _)| format!("{recall:.3} {p50:.0}")).collect();
        format!(
            "{:<16}{:>9.4}{:>9.4}{:>16}{:>16}{:>9.1}{:>8.0}{:>9.1}{:>9.1}{:>8.0}   {}",
            self.name,
            self.recall[0],
            self.recall[1],
            pair(0),
            pair(1),
            self.build_cpu_s,
            self.open_ms,
            self.anonymous_mb,
            self.file_mb,
            self.bytes_a_vector,
            filtered.join(", ")
        )
    }
}

fn measure(name: &str, options: &Options) -> Outcome<Measured> {
    let truth: Truth = serde_json::from_slice(&fs::read(options.truth.as_ref().ok_or("--truth is missing")?)?)?;
    let dir = tempfile::tempdir()?;
    let input = Input::of(options)?;
    let (rows, queries) = (input.rows.len(), input.queries.clone());
    let started = cpu_seconds(libc::CLOCK_PROCESS_CPUTIME_ID);
    let contender = Contender::build(name, &input, dir.path())?;
    let build_cpu_s = cpu_seconds(libc::CLOCK_PROCESS_CPUTIME_ID) - started;
    drop(input);
    let started = cpu_seconds(libc::CLOCK_PROCESS_CPUTIME_ID);
    let contender = contender.reopened(name, options.dims, dir.path())?;
    let open_ms = (cpu_seconds(libc::CLOCK_PROCESS_CPUTIME_ID) - started) * 1e3;

    // Twice: the first round brings pages and branches in.
    let mut plain = Vec::new();
    for _ in 0..2 {
        plain = DEPTHS.map(|depth| run(&contender, &queries, (depth, None), &truth.0[0].1)).into_iter().collect();
    }
    let plain: Vec<Run> = plain.into_iter().collect::<Outcome<_>>()?;
    let (anonymous_mb, file_mb) = resident_mb()?;
    let mut filtered = Vec::new();
    for (step, nearest) in &truth.0[1..] {
        let allowed = allowed(*step, rows);
        let run = run(&contender, &queries, (10, Some(&allowed)), nearest)?;
        filtered.push((run.recall, run.p50_us, run.p95_us));
    }
    Ok(Measured {
        name: name.to_owned(),
        recall: plain.iter().map(|run| run.recall).collect(),
        query_us: plain.iter().map(|run| (run.p50_us, run.p95_us)).collect(),
        filtered,
        build_cpu_s,
        open_ms,
        anonymous_mb,
        file_mb,
        bytes_a_vector: contender.bytes(dir.path())? as f64 / rows as f64,
    })
}

struct Run {
    recall: f64,
    p50_us: f64,
    p95_us: f64,
}

fn run(
    contender: &Contender,
    queries: &[Vec<f32>],
    (depth, allowed): (usize, Option<&HashSet<ChunkId>>),
    nearest: &[Vec<ChunkId>],
) -> Outcome<Run> {
    let (mut times_us, mut found, mut wanted) = (Vec::new(), 0, 0);
    for (query, nearest) in queries.iter().zip(nearest) {
        let started = cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID);
        let hits = contender.search(query, depth, allowed)?;
        times_us.push((cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID) - started) * 1e6);
        let nearest = &nearest[..depth.min(nearest.len())];
        wanted += nearest.len();
        found += nearest.iter().filter(|id| hits.contains(id)).count();
    }
    times_us.sort_by(f64::total_cmp);
    let at = |share: f64| times_us[((times_us.len() - 1) as f64 * share) as usize];
    Ok(Run { recall: found as f64 / wanted as f64, p50_us: at(0.5), p95_us: at(0.95) })
}

fn cpu_seconds(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the right type, and both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Resident memory: anonymous, and mapped from files.
fn resident_mb() -> Outcome<(f64, f64)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> Outcome<f64> {
        let line = status.lines().find(|line| line.starts_with(name)).ok_or("no such field")?;
        Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse::<f64>()? / 1024.0)
    };
    Ok((field("RssAnon")?, field("RssFile")?))
}
