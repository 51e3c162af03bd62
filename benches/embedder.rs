//! What the models cost and what int8 loses: parity, CPU time, memory, nDCG@10, and the price of a rerank.
//!
//!     cargo bench --bench embedder                 everything; quality takes ten minutes of CPU
//!     cargo bench --bench embedder -- speed rerank
//!
//! Times are CPU time of the whole process, so other work on the machine moves them little. Needs
//! `plumb models fetch`; quality also needs the BEIR folder `scifact` under `PLUMB_CORPORA`.
#![expect(clippy::print_stdout, reason = "a bench reports on standard output")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use plumb::cache::{Cache, CacheKey, CacheSettings};
use plumb::domain::{ChunkId, ContentHash, Fingerprint, TenantId, TenantScope};
use plumb::inference::export::{BertConfig, BertHead, ExportRecipe, Matrix, WeightFile, export_bert};
use plumb::inference::{
    EmbeddedBy, Embedder, InferenceSettings, InputKind, Models, ModelsSettings, OnnxEmbedder, Precision, RerankPassage,
    RerankQuery, RescorerParts, Role, Runtime, default_models_dir,
};

/// Documents embedded at once when a corpus is embedded.
const CORPUS_BATCH: usize = 64;
/// Repetitions of each timed call; the least is reported.
const REPETITIONS: usize = 20;

#[tokio::main]
async fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part: &str| asked.is_empty() || asked.iter().any(|one| one == part);
    let stage = Stage::new();
    println!("resident memory before any model: {:.0} MB", resident_mb());
    if wanted("speed") {
        stage.speed().await;
    }
    if wanted("threads") {
        stage.threads().await;
    }
    if wanted("rerank") {
        stage.rerank().await;
    }
    if wanted("cache") {
        measure_cache();
    }
    if wanted("quality") {
        stage.quality().await;
    }
}

/// The variants of the embedder under test.
struct Stage {
    models: Models,
    runtime: Runtime,
    _scratch: tempfile::TempDir,
    corpora: PathBuf,
}

const VARIANTS: [(&str, &str, Precision); 4] = [
    ("fp32", "all-minilm-l6-v2", Precision::Fp32),
    ("int8 (shipped)", "all-minilm-l6-v2", Precision::Int8),
    ("int8, value f32", "int8-value-f32", Precision::Int8),
    ("int8 without FFN", "int8-without-ffn", Precision::Int8),
];

impl Stage {
    #[expect(clippy::disallowed_methods, reason = "a bench has no configuration to ask")]
    fn new() -> Self {
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let default = || default_models_dir(path("XDG_CACHE_HOME").as_deref(), path("HOME").as_deref());
        let dir = path("PLUMB_MODELS_DIR").or_else(default).expect("a home directory");
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let manifest = scratch.path().join("variants.toml");
        let shipped = Models::open(&ModelsSettings::default(), &dir).expect("the manifest that ships");
        std::fs::write(&manifest, variants(&shipped, scratch.path())).expect("room for the variants");
        let settings = ModelsSettings { manifest: Some(manifest), dir: None };
        let models = Models::open(&settings, &dir).expect("the variants' manifest");
        let runtime = models.load_runtime().expect("models: run `plumb models fetch` first");
        let corpora = path("PLUMB_CORPORA").unwrap_or_else(|| "../shared/data".into());
        Self { models, runtime, _scratch: scratch, corpora }
    }

    fn embedder(&self, name: &str, settings: InferenceSettings) -> Arc<OnnxEmbedder> {
        let settings = InferenceSettings { embedder: name.to_owned(), ..settings };
        self.models.load_embedder(&self.runtime, &settings).expect("an embedder")
    }

    async fn speed(&self) {
        println!("\n## One thread: CPU ms a call, cosine to fp32, memory");
        println!(
            "{:<18} {:>8} {:>8} {:>8} {:>10} {:>9} {:>9} {:>8}",
            "variant", "query", "128 tok", "254 tok", "tokens/s", "cos min", "cos mean", "RSS MB"
        );
        let texts = sample_texts();
        let mut reference = Vec::new();
        for (label, name, precision) in VARIANTS {
            let before = resident_mb();
            let settings = InferenceSettings { precision, embedder_threads: 1, ..InferenceSettings::default() };
            let embedder = self.embedder(name, settings);
            let query =
                least_cpu_ms(&embedder, &["how do I rotate an api key without any downtime"], InputKind::Query).await;
            let short = least_cpu_ms(&embedder, &[&text_of(&embedder, 126)], InputKind::Passage).await;
            let long = least_cpu_ms(&embedder, &[&text_of(&embedder, 254)], InputKind::Passage).await;
            let counter = embedder.token_counter();
            let tokens: usize = texts.iter().map(|text| counter.token_starts(text).len().min(254) + 2).sum();
            let (started, vectors) =
                (cpu_ms(), embedder.embed(texts.clone(), InputKind::Passage).await.expect("vectors"));
            let rate = tokens as f64 / (cpu_ms() - started) * 1e3;
            if reference.is_empty() {
                reference.clone_from(&vectors);
            }
            let cosines: Vec<f64> = vectors.iter().zip(&reference).map(|(left, right)| cosine(left, right)).collect();
            let least = cosines.iter().copied().fold(1.0, f64::min);
            let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
            let memory = resident_mb() - before;
            println!(
                "{label:<18} {query:>8.2} {short:>8.2} {long:>8.2} {rate:>10.0} {least:>9.5} {mean:>9.5} {memory:>8.0}"
            );
        }
    }

    async fn threads(&self) {
        println!(
            "\n## Two cores (int8): wall ms a query alone, wall and CPU tokens/s of an ingest, query p50 during it"
        );
        println!(
            "{:<28} {:>9} {:>12} {:>12} {:>12} {:>8}",
            "owners x intra threads", "query ms", "tokens/s", "tokens/CPU-s", "query during", "RSS MB"
        );
        for (owners, intra) in [(1, 1), (1, 2), (2, 1)] {
            let before = resident_mb();
            let settings =
                InferenceSettings { embedder_threads: owners, intra_threads: intra, ..InferenceSettings::default() };
            let embedder = self.embedder("all-minilm-l6-v2", settings);
            let alone = median(&query_walls(&embedder, 50).await);
            let texts: Vec<String> = sample_texts().into_iter().cycle().take(256).collect();
            let counter = embedder.token_counter();
            let tokens: usize = texts.iter().map(|text| counter.token_starts(text).len().min(254) + 2).sum();
            let (wall, cpu) = (Instant::now(), cpu_ms());
            let ingest = tokio::spawn({
                let embedder = Arc::clone(&embedder);
                async move { embedder.embed(texts, InputKind::Passage).await.map(|_| ()) }
            });
            ingest.await.expect("no panic").expect("vectors");
            let (rate, cpu_rate) =
                (tokens as f64 / wall.elapsed().as_secs_f64(), tokens as f64 / (cpu_ms() - cpu) * 1e3);
            let busy = tokio::spawn({
                let (embedder, texts) = (Arc::clone(&embedder), sample_texts());
                async move { embedder.embed(texts, InputKind::Passage).await.map(|_| ()) }
            });
            let during = median(&query_walls(&embedder, 20).await);
            busy.await.expect("no panic").expect("vectors");
            let label = format!("{owners} x {intra}");
            println!(
                "{label:<28} {alone:>9.2} {rate:>12.0} {cpu_rate:>12.0} {during:>12.1} {:>8.0}",
                resident_mb() - before
            );
        }
    }

    async fn rerank(&self) {
        println!(
            "\n## The rescorer on 20 passages of about 150 tokens with stored embeddings: CPU ms and wall ms a call"
        );
        for precision in [Precision::Fp32, Precision::Int8] {
            let before = resident_mb();
            let settings = InferenceSettings { precision, embedder_threads: 1, ..InferenceSettings::default() };
            let embedder = self.embedder("all-minilm-l6-v2", settings.clone());
            let dir = tempfile::tempdir().expect("a temporary directory");
            let cache = Arc::new(Cache::open(dir.path(), &CacheSettings::default()).expect("a cache"));
            let with = RescorerParts { embedder: Some(Arc::clone(&embedder)), cache: Some(cache) };
            let reranker =
                self.models.load_reranker(&self.runtime, &settings, with).expect("a reranker").expect("one is set");
            let question = "which effect does the treatment have on cell growth";
            let vector = embedder.embed(vec![question.to_owned()], InputKind::Query).await.expect("a vector").remove(0);
            let query = RerankQuery {
                text: question.to_owned(),
                vector: Some(vector),
                embedded_by: EmbeddedBy::One(embedder.spec().clone()),
                shown: usize::MAX,
            };
            let scope = TenantScope::everything(TenantId::new("bench").expect("a name"));
            let (mut cold, mut cold_wall) = (f64::MAX, f64::MAX);
            let mut passages = Vec::new();
            for round in 0..5 {
                passages = self.passages(&embedder, round).await;
                let (cpu, wall) = (cpu_ms(), Instant::now());
                reranker.rerank(&scope, &query, &passages, None).await.expect("scores");
                cold = cold.min(cpu_ms() - cpu);
                cold_wall = cold_wall.min(wall.elapsed().as_secs_f64() * 1e3);
            }
            let (mut warm, mut warm_wall) = (f64::MAX, f64::MAX);
            for _ in 0..REPETITIONS {
                let (cpu, wall) = (cpu_ms(), Instant::now());
                reranker.rerank(&scope, &query, &passages, None).await.expect("scores");
                warm = warm.min(cpu_ms() - cpu);
                warm_wall = warm_wall.min(wall.elapsed().as_secs_f64() * 1e3);
            }
            println!(
                "{:<6} new {cold:.1} ({cold_wall:.1} wall), from the cache {warm:.2} ({warm_wall:.2} wall), RSS {:.0} MB",
                precision.as_str(),
                resident_mb() - before
            );
        }
    }

    async fn passages(&self, embedder: &OnnxEmbedder, round: usize) -> Vec<RerankPassage> {
        let texts = sample_texts();
        let texts = (0..20).map(|at| words(&texts[(round * 20 + at) % texts.len()], 115, round));
        let texts: Vec<String> = texts.collect();
        let vectors = embedder.embed(texts.clone(), InputKind::Passage).await.expect("vectors");
        let embed = |vector: Vec<f32>| vector.into_iter().map(half::f16::from_f32).collect();
        let passages = texts.into_iter().zip(vectors);
        passages
            .map(|(text, vector)| RerankPassage { id: ChunkId([0; 16]), text, embedding: Some(embed(vector)) })
            .collect()
    }

    async fn quality(&self) {
        let folder = self.corpora.join("retrieval/scifact");
        if !folder.is_dir() {
            println!("\n## Quality did not run: there is no {}", folder.display());
            return;
        }
        println!("\n## SciFact, exact vector search: nDCG@10 (each query's document found by cosine alone)");
        let corpus = read_texts(&folder.join("corpus.jsonl"));
        let queries = read_texts(&folder.join("queries.jsonl"));
        for (label, name, precision) in VARIANTS {
            let embedder = self.embedder(name, InferenceSettings { precision, ..InferenceSettings::default() });
            let started = cpu_ms();
            let documents = embed_all(&embedder, &corpus, InputKind::Passage).await;
            let seconds = (cpu_ms() - started) / 1e3;
            let queries = embed_all(&embedder, &queries, InputKind::Query).await;
            let mut line = format!("{label:<18} {seconds:>6.0} CPU s");
            for split in ["train", "test"] {
                let scores = ndcg_at_10(&documents, &queries, &read_qrels(&folder.join(format!("qrels/{split}.tsv"))));
                let mean = scores.iter().sum::<f64>() / scores.len() as f64;
                line += &format!("  {split} {mean:.4} ({} queries)", scores.len());
            }
            println!("{line}");
        }
    }
}

/// A cache filled beyond its bound with values of the size of a passage's token states.
fn measure_cache() {
    const VALUE_BYTES: usize = 20_000;
    println!("\n## The disk cache: values of {VALUE_BYTES} bytes");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let settings = CacheSettings::default();
    let scope = TenantScope::everything(TenantId::new("bench").expect("a name"));
    let key = |n: u64| CacheKey {
        namespace: "bench",
        producer: Fingerprint([0; 16]),
        content: ContentHash::of(&n.to_le_bytes()),
    };
    let values = 3 * settings.max_bytes / 2 / VALUE_BYTES as u64;
    let before = resident_mb();
    let cache = Cache::open(dir.path(), &settings).expect("a cache");
    let started = cpu_ms();
    for n in 0..values {
        let value: Vec<u8> = (0..VALUE_BYTES as u64).map(|at| (at.wrapping_mul(n | 1) >> 3) as u8).collect();
        cache.put(&scope, &key(n), &value);
    }
    cache.flush();
    let put = (cpu_ms() - started) * 1e3 / values as f64;
    let started = cpu_ms();
    let found = (values - 1_000..values).filter(|n| cache.get(&scope, &key(*n)).is_some()).count();
    let get = (cpu_ms() - started) * 1e3 / 1_000.0;
    println!(
        "put {put:.0} CPU us, get {get:.0} CPU us, the last 1,000 of {values}: {found} found, {} kept",
        cache.entries()
    );
    let on_disk = bytes_below(dir.path()) as f64 / 1e6;
    println!(
        "bound {:.0} MB, on disk {on_disk:.0} MB, RSS {:.0} MB",
        settings.max_bytes as f64 / 1e6,
        resident_mb() - before
    );
    let started = Instant::now();
    drop(cache);
    Cache::open(dir.path(), &settings).expect("a cache");
    println!("close and open again: {:.2} s", started.elapsed().as_secs_f64());
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten();
    entries
        .map(
            |entry| {
                if entry.path().is_dir() { bytes_below(&entry.path()) } else { entry.metadata().map_or(0, |m| m.len()) }
            },
        )
        .sum()
}

/// A manifest of embedders that differ from the shipped int8 in what is quantized.
fn variants(models: &Models, scratch: &Path) -> String {
    let entry = models.manifest().model("all-minilm-l6-v2", Role::Embedder).expect("the shipped embedder");
    let dir = entry.dir(models.dir());
    let weights = WeightFile::read(&dir.join("model.safetensors")).expect("models: run `plumb models fetch` first");
    let config = BertConfig::read(&dir.join("config.json")).expect("a BERT configuration");
    let keys = [Matrix::Embeddings, Matrix::Query, Matrix::Key, Matrix::AttentionOutput];
    let without_value = keys.into_iter().chain([Matrix::Intermediate, Matrix::Output]).collect();
    let without_ffn = keys.into_iter().chain([Matrix::Value]).collect();
    let mut manifest = "format = 1\n".to_owned();
    for (name, int8) in [("int8-value-f32", without_value), ("int8-without-ffn", without_ffn)] {
        let recipe = ExportRecipe { head: BertHead::TokenStates, int8 };
        let onnx = scratch.join(format!("{name}.onnx"));
        std::fs::write(&onnx, export_bert(&weights, &config, &recipe).expect("a graph")).expect("room for a graph");
        manifest += &format!(
            "[[model]]\nname = \"{name}\"\nrole = \"embedder\"\nrevision = \"1\"\nlicence = \"Apache-2.0\"\n\
             max_tokens = 256\nlocal = {{ onnx = {onnx:?}, tokenizer = {:?} }}\n\
             embedder = {{ dimensions = 384, pooling = \"mean\", normalize = true }}\n",
            dir.join("tokenizer.json")
        );
    }
    manifest
}

/// 80 different texts of English-looking words, 20 to 400 words long.
fn sample_texts() -> Vec<String> {
    let source = include_str!("../models/manifest.toml")
        .split_whitespace()
        .chain(include_str!("embedder.rs").split_whitespace());
    let source: Vec<&str> = source.filter(|word| word.chars().all(char::is_alphabetic)).collect();
    (0..80).map(|n| source.iter().cycle().skip(n * 7).take(20 + n * 5).copied().collect::<Vec<_>>().join(" ")).collect()
}

fn words(text: &str, count: usize, salt: usize) -> String {
    let words: Vec<&str> = text.split(' ').cycle().take(count).collect();
    format!("{salt} {}", words.join(" "))
}

fn text_of(embedder: &OnnxEmbedder, tokens: usize) -> String {
    let text = sample_texts().pop().expect("there are texts");
    let starts = embedder.token_counter().token_starts(&text);
    text[..starts.get(tokens).copied().unwrap_or(text.len())].to_owned()
}

async fn least_cpu_ms(embedder: &OnnxEmbedder, texts: &[&str], kind: InputKind) -> f64 {
    let mut least = f64::MAX;
    for _ in 0..REPETITIONS {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        let started = cpu_ms();
        embedder.embed(texts, kind).await.expect("vectors");
        least = least.min(cpu_ms() - started);
    }
    least
}

async fn query_walls(embedder: &OnnxEmbedder, count: usize) -> Vec<f64> {
    let mut walls = Vec::with_capacity(count);
    for n in 0..count {
        let started = Instant::now();
        let text = vec![format!("how do I rotate an api key without any downtime {n}")];
        embedder.embed(text, InputKind::Query).await.expect("a vector");
        walls.push(started.elapsed().as_secs_f64() * 1e3);
    }
    walls
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

async fn embed_all(embedder: &OnnxEmbedder, texts: &[(String, String)], kind: InputKind) -> Vec<(String, Vec<f32>)> {
    let mut embedded = Vec::with_capacity(texts.len());
    for batch in texts.chunks(CORPUS_BATCH) {
        let inputs = batch.iter().map(|(_, text)| text.clone()).collect();
        let vectors = embedder.embed(inputs, kind).await.expect("vectors");
        embedded.extend(batch.iter().map(|(id, _)| id.clone()).zip(vectors));
    }
    embedded
}

/// nDCG@10 of each judged query (Järvelin and Kekäläinen, TOIS 2002), gains as judged, cosine ranking over everything.
fn ndcg_at_10(
    documents: &[(String, Vec<f32>)],
    queries: &[(String, Vec<f32>)],
    qrels: &HashMap<String, HashMap<String, f64>>,
) -> Vec<f64> {
    let discount = |at: usize| 1.0 / ((at + 2) as f64).log2();
    let mut scores = Vec::with_capacity(qrels.len());
    for (id, query) in queries {
        let Some(judged) = qrels.get(id) else { continue };
        let mut ranked: Vec<(f64, &str)> =
            documents.iter().map(|(document, vector)| (cosine(query, vector), document.as_str())).collect();
        ranked.sort_by(|left, right| right.0.total_cmp(&left.0).then_with(|| left.1.cmp(right.1)));
        let gains = ranked.iter().take(10).map(|(_, document)| judged.get(*document).copied().unwrap_or(0.0));
        let found: f64 = gains.enumerate().map(|(at, gain)| gain * discount(at)).sum();
        let mut ideal: Vec<f64> = judged.values().copied().collect();
        ideal.sort_by(|left, right| right.total_cmp(left));
        let best: f64 = ideal.iter().take(10).enumerate().map(|(at, gain)| gain * discount(at)).sum();
        scores.push(if best > 0.0 { found / best } else { 0.0 });
    }
    scores
}

fn cosine(left: &[f32], right: &[f32]) -> f64 {
    f64::from(left.iter().zip(right).map(|(left, right)| left * right).sum::<f32>())
}

/// Id and text of each line; a title goes in front.
fn read_texts(path: &Path) -> Vec<(String, String)> {
    let lines = std::fs::read_to_string(path).expect("a corpus");
    let parsed = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON lines"));
    parsed
        .map(|line| {
            let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let (title, text) = (field("title"), field("text"));
            (field("_id"), if title.is_empty() { text } else { format!("{title} {text}") })
        })
        .collect()
}

fn read_qrels(path: &Path) -> HashMap<String, HashMap<String, f64>> {
    let mut qrels: HashMap<String, HashMap<String, f64>> = HashMap::new();
    for line in std::fs::read_to_string(path).expect("qrels").lines().skip(1) {
        let mut fields = line.split('\t').map(str::to_owned);
        let (Some(query), Some(document), Some(gain)) = (fields.next(), fields.next(), fields.next()) else { continue };
        qrels.entry(query).or_default().insert(document, gain.trim().parse().expect("a number"));
    }
    qrels
}

/// User and system time of this process so far.
fn cpu_ms() -> f64 {
    // SAFETY: getrusage writes one rusage to the given place and reads nothing; zeros are a valid rusage.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    ms(usage.ru_utime) + ms(usage.ru_stime)
}

/// Resident memory of this process in megabytes; 0 where the system does not tell.
fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1e3
}
