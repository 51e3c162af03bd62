//! How good and how fast is the lexical leg? Quality on labelled collections, CPU time on 100,000 passages.
//!
//! `cargo bench --bench lexical -- quality` prints nDCG@10 and Recall@100; `speed` prints CPU time by query and the
//! size of the index; `languages` prints quality by language. Variants of the settings follow as
//! `name:k1=0.9,body_b=0.4` and are measured beside the defaults; a name that begins with `joined` puts title and
//! text into one field. Collections are looked for in the directory that
//! the environment names in `PLUMB_CORPORA`, else in `../shared/data`; what is absent is said and left out.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use plumb::domain::{ChunkId, DocumentId, Filter, Metadata, Sequence, Timestamp, Visibility, hash_parts};
use plumb::index::{
    LexicalChange, LexicalChunk, LexicalDocument, LexicalIndex, LexicalSettings, Narrowing, TantivyIndex, analyzer_spec,
};
use serde_json::{Value, json};

/// Candidates a search fetches, as the server does by default.
const DEPTH: usize = 100;
const ALL: Narrowing<'static> = Narrowing { filter: None, visibility: &Visibility::All };

fn main() -> Result<()> {
    let mut words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let task = if words.is_empty() { "all".to_owned() } else { words.remove(0) };
    let mut variants = vec![("default".to_owned(), LexicalSettings::default())];
    for word in &words {
        variants.push(variant(word)?);
    }
    if matches!(task.as_str(), "all" | "quality") {
        quality(&variants)?;
    }
    if matches!(task.as_str(), "all" | "languages") {
        languages()?;
    }
    if matches!(task.as_str(), "all" | "speed") {
        speed(&variants)?;
    }
    Ok(())
}

/// `name:field=value,…` over the defaults.
fn variant(word: &str) -> Result<(String, LexicalSettings)> {
    let (name, changes) = word.split_once(':').context("a variant is name:field=value,…")?;
    let mut settings = serde_json::to_value(LexicalSettings::default())?;
    for change in changes.split(',').filter(|change| !change.is_empty()) {
        let (field, value) = change.split_once('=').context("a change is field=value")?;
        settings[field] = serde_json::from_str(value)?;
    }
    Ok((name.to_owned(), serde_json::from_value(settings)?))
}

fn corpora() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "a bench has no config; the place of the corpora is all it reads")]
    std::env::var_os("PLUMB_CORPORA").map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from)
}

struct Passage {
    id: String,
    title: String,
    text: String,
}

/// Variants whose name begins so are measured with title and text in one field.
const JOINED: &str = "joined";

impl Passage {
    fn joined(&self) -> Self {
        let text = format!("{}\n{}", self.title, self.text);
        Self { id: self.id.clone(), title: String::new(), text }
    }
}

/// A collection with questions and what answers them.
struct Labelled {
    passages: Vec<Passage>,
    queries: HashMap<String, String>,
}

type Qrels = BTreeMap<String, HashMap<String, f64>>;

fn read_jsonl(reader: impl Read) -> impl Iterator<Item = Result<Value>> {
    BufReader::new(reader).lines().map(|line| Ok(serde_json::from_str(&line?)?))
}

fn passages(reader: impl Read) -> Result<Vec<Passage>> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let passage =
        |value: Value| Passage { id: text(&value, "_id"), title: text(&value, "title"), text: text(&value, "text") };
    read_jsonl(reader).map(|value| value.map(passage)).collect()
}

fn labelled(folder: &Path) -> Result<Labelled> {
    let mut queries = HashMap::new();
    for query in read_jsonl(File::open(folder.join("queries.jsonl"))?) {
        let query = query?;
        queries.insert(
            query["_id"].as_str().unwrap_or_default().to_owned(),
            query["text"].as_str().unwrap_or_default().to_owned(),
        );
    }
    Ok(Labelled { passages: passages(File::open(folder.join("corpus.jsonl"))?)?, queries })
}

fn qrels(file: &Path) -> Result<Qrels> {
    let mut qrels = Qrels::new();
    for line in BufReader::new(File::open(file)?).lines().skip(1) {
        let line = line?;
        let mut columns = line.split('\t');
        let (Some(query), Some(passage), Some(score)) = (columns.next(), columns.next(), columns.next()) else {
            continue;
        };
        qrels.entry(query.to_owned()).or_default().insert(passage.to_owned(), score.trim().parse()?);
    }
    Ok(qrels)
}

/// The half that parameters may be chosen on; reports are about the other one.
fn is_for_tuning(query: &str) -> bool {
    blake3::hash(query.as_bytes()).as_bytes()[0].is_multiple_of(2)
}

fn chunk_id(passage: &str) -> ChunkId {
    ChunkId(hash_parts(&[passage.as_bytes()]))
}

fn change(passage: &Passage, number: usize) -> Result<LexicalChange> {
    let Value::Object(metadata) = json!({"year": 2000 + number % 25, "shard": number % 100, "price": number}) else {
        unreachable!("it is an object")
    };
    Ok(LexicalChange::Put(Box::new(LexicalDocument {
        id: DocumentId::new(&passage.id)?,
        title: (!passage.title.is_empty()).then(|| passage.title.clone()),
        source_uri: None,
        media_type: "text/plain".to_owned(),
        acl: None,
        created_at: Timestamp(1_700_000_000_000_000 + number as i64),
        updated_at: Timestamp(1_700_000_000_000_000 + number as i64),
        chunks: vec![LexicalChunk {
            id: chunk_id(&passage.id),
            text: passage.text.clone(),
            heading_path: Vec::new(),
            metadata: Metadata::from_iter(metadata),
        }],
    })))
}

/// Fills an index, committing every thousand passages as an ingest does.
fn build(directory: &Path, passages: &[Passage], language: &str) -> Result<()> {
    let index = TantivyIndex::open(directory, &LexicalSettings::default(), &analyzer_spec(language))?;
    let mut number = 0;
    for batch in passages.chunks(1000) {
        let changes = batch.iter().enumerate().map(|(place, passage)| change(passage, number + place));
        index.apply(changes.collect::<Result<_>>()?)?;
        number += batch.len();
        index.commit(Sequence(number as u64))?;
    }
    index.release_writer()?;
    Ok(())
}

/// nDCG@10 and Recall@100 of one query, as trec_eval computes them: linear gain, `log2(rank + 1)`.
fn score(ranked: &[ChunkId], relevant: &HashMap<String, f64>) -> (f64, f64) {
    let gains: HashMap<ChunkId, f64> = relevant.iter().map(|(passage, gain)| (chunk_id(passage), *gain)).collect();
    let discounted = |gains: &mut dyn Iterator<Item = f64>| -> f64 {
        gains.take(10).enumerate().map(|(place, gain)| gain / ((place + 2) as f64).log2()).sum()
    };
    let mut ideal: Vec<f64> = gains.values().copied().filter(|gain| *gain > 0.0).collect();
    ideal.sort_by(|a, b| b.total_cmp(a));
    let of_rank = |id: &ChunkId| gains.get(id).copied().unwrap_or(0.0);
    let ndcg = discounted(&mut ranked.iter().map(of_rank)) / discounted(&mut ideal.iter().copied());
    let found = ranked.iter().take(100).filter(|id| of_rank(id) > 0.0).count();
    (ndcg, found as f64 / ideal.len() as f64)
}

/// Means over the queries that `wanted` takes, and how many these are.
fn evaluate(
    index: &TantivyIndex,
    labelled: &Labelled,
    qrels: &Qrels,
    wanted: impl Fn(&str) -> bool,
) -> Result<(f64, f64, usize)> {
    let (mut ndcg, mut recall, mut count) = (0.0, 0.0, 0);
    for (query, relevant) in qrels.iter().filter(|(query, relevant)| {
        wanted(query) && relevant.values().any(|gain| *gain > 0.0) && labelled.queries.contains_key(*query)
    }) {
        let hits = index.search(&labelled.queries[query], ALL, DEPTH)?;
        let ranked: Vec<ChunkId> = hits.into_iter().map(|hit| hit.id).collect();
        let (one_ndcg, one_recall) = score(&ranked, relevant);
        ndcg += one_ndcg;
        recall += one_recall;
        count += 1;
    }
    let of = (count as f64).max(1.0);
    Ok((ndcg / of, recall / of, count))
}

fn quality(variants: &[(String, LexicalSettings)]) -> Result<()> {
    println!(
        "| collection | variant | tuning: queries | nDCG@10 | Recall@100 | report: queries | nDCG@10 | Recall@100 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for name in ["scifact", "feedbackqa", "squad-mid"] {
        let folder = corpora().join("retrieval").join(name);
        if !folder.is_dir() {
            println!("{name}: not here, not run ({})", folder.display());
            continue;
        }
        let collection = labelled(&folder)?;
        let test = qrels(&folder.join("qrels/test.tsv"))?;
        let train = folder.join("qrels/train.tsv");
        let train = if train.exists() { Some(qrels(&train)?) } else { None };
        let (fields, joined) = (tempfile::tempdir()?, tempfile::tempdir()?);
        build(fields.path(), &collection.passages, "en")?;
        if variants.iter().any(|(name, _)| name.starts_with(JOINED)) {
            build(joined.path(), &collection.passages.iter().map(Passage::joined).collect::<Vec<_>>(), "en")?;
        }
        for (variant, settings) in variants {
            let directory = if variant.starts_with(JOINED) { &joined } else { &fields };
            let index = TantivyIndex::open(directory.path(), settings, &analyzer_spec("en"))?;
            let (tuning, report) = match &train {
                Some(train) => {
                    (evaluate(&index, &collection, train, |_| true)?, evaluate(&index, &collection, &test, |_| true)?)
                }
                None => (
                    evaluate(&index, &collection, &test, is_for_tuning)?,
                    evaluate(&index, &collection, &test, |query| !is_for_tuning(query))?,
                ),
            };
            println!(
                "| {name} | {variant} | {} | {:.4} | {:.4} | {} | {:.4} | {:.4} |",
                tuning.2, tuning.0, tuning.1, report.2, report.0, report.1
            );
        }
    }
    Ok(())
}

fn languages() -> Result<()> {
    let folder = corpora().join("retrieval/xquad");
    if !folder.is_dir() {
        println!("xquad: not here, not run ({})", folder.display());
        return Ok(());
    }
    let mixed = labelled(&folder)?;
    let directory = tempfile::tempdir()?;
    build(directory.path(), &mixed.passages, "auto")?;
    let all = TantivyIndex::open(directory.path(), &LexicalSettings::default(), &analyzer_spec("auto"))?;
    println!("| language | nDCG@10 by setting | nDCG@10 by detection, all languages in one index | nothing found |");
    println!("|---|---|---|---|");
    for language in ["en", "ar", "de", "el", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"] {
        let file = if language == "en" { "test.tsv".to_owned() } else { format!("test-{language}.tsv") };
        let labels = qrels(&folder.join("qrels").join(file))?;
        let prefix = format!("{language}-");
        let own: Vec<Passage> =
            labelled(&folder)?.passages.into_iter().filter(|passage| passage.id.starts_with(&prefix)).collect();
        let directory = tempfile::tempdir()?;
        build(directory.path(), &own, language)?;
        let index = TantivyIndex::open(directory.path(), &LexicalSettings::default(), &analyzer_spec(language))?;
        let by_setting = evaluate(&index, &mixed, &labels, |_| true)?;
        let by_detection = evaluate(&all, &mixed, &labels, |_| true)?;
        let mut nothing = 0;
        for query in labels.keys() {
            nothing += usize::from(all.search(&mixed.queries[query], ALL, 1)?.is_empty());
        }
        println!("| {language} | {:.4} | {:.4} | {nothing} of {} |", by_setting.0, by_detection.0, by_setting.2);
    }
    Ok(())
}

fn speed(variants: &[(String, LexicalSettings)]) -> Result<()> {
    let file = corpora().join("load/passages-100k.jsonl.gz");
    let Ok(packed) = File::open(&file) else {
        println!("load: not here, not run ({})", file.display());
        return Ok(());
    };
    let passages = passages(flate2::read::GzDecoder::new(packed))?;
    let directory = tempfile::tempdir()?;
    let (wall, cpu) = (Instant::now(), process_cpu_us());
    build(directory.path(), &passages, "en")?;
    println!(
        "built from {} passages in {:.1} s, {:.1} CPU-s; {:.1} MB on disk; peak memory {} MB",
        passages.len(),
        wall.elapsed().as_secs_f64(),
        (process_cpu_us() - cpu) as f64 / 1e6,
        disk_bytes(directory.path())? as f64 / 1e6,
        memory_mb("VmHWM"),
    );
    let queries = load_queries(&passages);
    println!("| variant | segments | queries | CPU µs/query: mean | p50 | p95 | p99 |");
    println!("|---|---|---|---|---|---|---|");
    for (name, settings) in variants {
        for compacted in [false, true] {
            let index = TantivyIndex::open(directory.path(), settings, &analyzer_spec("en"))?;
            if compacted {
                index.compact()?;
            }
            for (kind, queries) in &queries {
                let mut times = Vec::new();
                for round in 0..2 {
                    for query in queries {
                        let before = thread_cpu_us();
                        std::hint::black_box(index.search(query, ALL, DEPTH)?);
                        if round > 0 {
                            times.push(thread_cpu_us() - before);
                        }
                    }
                }
                print_times(&format!("{name} | {} | {} {kind}", index.segments(), queries.len()), &mut times);
            }
        }
    }
    narrowing_speed(directory.path(), &queries)?;
    println!("memory now {} MB", memory_mb("VmRSS"));
    Ok(())
}

fn narrowing_speed(directory: &Path, queries: &[(&str, Vec<String>)]) -> Result<()> {
    let settings = LexicalSettings { narrowing_cache: 0, ..LexicalSettings::default() };
    let index = TantivyIndex::open(directory, &settings, &analyzer_spec("en"))?;
    for (name, filter) in [
        ("1 % by value", json!({"shard": 7})),
        ("50 % by range of few values", json!({"year": {"$gte": 2013}})),
        ("1 % by range of many values", json!({"price": {"$lt": 1000}})),
        ("50 % by range of many values", json!({"price": {"$gte": 50_000}})),
        ("50 % by time", json!({"created_at": {"$gte": "2023-11-14T22:13:20Z"}})),
    ] {
        let filter = Filter::parse(&filter)?;
        let narrowing = Narrowing { filter: Some(&filter), visibility: &Visibility::All };
        let (mut matching, mut searching) = (Vec::new(), Vec::new());
        let mut count = 0;
        for query in queries[0].1.iter().take(50) {
            let before = thread_cpu_us();
            count = index.matching(narrowing)?.map_or(0, |ids| ids.len());
            matching.push(thread_cpu_us() - before);
            let before = thread_cpu_us();
            std::hint::black_box(index.search(query, narrowing, DEPTH)?);
            searching.push(thread_cpu_us() - before);
        }
        print_times(&format!("matching {name} | {} | {count} chunks", index.segments()), &mut matching);
        print_times(&format!("search {name} | {} | {count} chunks", index.segments()), &mut searching);
    }
    Ok(())
}

/// Questions of 6 to 12 words taken from the passages themselves, with the stop words of real sentences, and shorter
/// and longer ones.
fn load_queries(passages: &[Passage]) -> Vec<(&'static str, Vec<String>)> {
    let window = |words: usize| {
        let cut = |passage: &Passage| {
            let said: Vec<&str> =
                passage.text.split_whitespace().filter(|word| word.chars().all(char::is_alphabetic)).collect();
            (said.len() >= words).then(|| said[..words].join(" "))
        };
        passages.iter().step_by(193).filter_map(cut).take(400).collect::<Vec<String>>()
    };
    let mixed = (6..=12).flat_map(|words| window(words).into_iter().skip(words * 7).take(60)).collect();
    vec![("of 6-12 words", mixed), ("of 3 words", window(3)), ("of 25 words", window(25))]
}

fn print_times(name: &str, times: &mut [u64]) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    let mean = times.iter().sum::<u64>() as f64 / times.len() as f64;
    println!("| {name} | {mean:.0} | {} | {} | {} |", at(0.5), at(0.95), at(0.99));
}

fn disk_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

/// A line of `/proc/self/status` in MB; 0 where there is none.
fn memory_mb(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value =
        status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    value.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) / 1000
}

fn thread_cpu_us() -> u64 {
    cpu_us(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn process_cpu_us() -> u64 {
    cpu_us(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn cpu_us(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that outlives the call, which writes nothing else.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    (time.tv_sec * 1_000_000 + time.tv_nsec / 1000).unsigned_abs()
}
