//! Promises that only real models can show. They need what `plumb models fetch` brings and fail without it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use half::f16;

use super::*;
use crate::cache::{Cache, CacheSettings};
use crate::domain::{ChunkId, TenantId, TenantScope};

/// Where the fetched models are; the only place in this room's tests that looks at the environment.
#[expect(clippy::disallowed_methods, reason = "tests have no configuration to ask")]
fn models_dir() -> PathBuf {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let default = || default_models_dir(path("XDG_CACHE_HOME").as_deref(), path("HOME").as_deref());
    let dir = path("PLUMB_MODELS_DIR").or_else(default).expect("a home directory");
    let entry = "all-minilm-l6-v2";
    assert!(dir.join(entry).is_dir(), "no models in {}: run `plumb models fetch` first", dir.display());
    dir
}

fn models() -> Models {
    Models::open(&ModelsSettings::default(), &models_dir()).unwrap()
}

const ROMANIAN: &str = "Apa este foarte rece dimineața, iar pescarii așteaptă pe mal până când soarele se ridică deasupra \
                        dealurilor și vântul se oprește, ca să poată ieși cu bărcile pe lac fără primejdie.";

/// The models that ship and those of a user's manifest, written beside links to the fixtures.
fn models_with(dir: &Path, manifest: &str) -> Models {
    let path = dir.join("mine.toml");
    std::fs::write(&path, format!("format = 1\n{manifest}")).unwrap();
    Models::open(&ModelsSettings { manifest: Some(path), dir: None }, &models_dir()).unwrap()
}

fn embedder(precision: Precision) -> Arc<OnnxEmbedder> {
    let models = models();
    let settings = InferenceSettings { precision, embedder_threads: 1, ..InferenceSettings::default() };
    models.load_embedder(&models.load_runtime().unwrap(), &settings).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn expected(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn floats(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn farthest(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

fn scope() -> TenantScope {
    TenantScope::everything(TenantId::new("acme").unwrap())
}

fn passage(text: &str) -> RerankPassage {
    RerankPassage { id: ChunkId([0; 16]), text: text.to_owned(), embedding: None }
}

fn query(text: &str) -> RerankQuery {
    RerankQuery { text: text.to_owned(), vector: None, embedded_by: EmbeddedBy::Nobody, shown: usize::MAX }
}

async fn embed_one(embedder: &OnnxEmbedder, text: &str, kind: InputKind) -> Vec<f32> {
    embedder.embed(vec![text.to_owned()], kind).await.unwrap().remove(0)
}

/// Texts of many lengths.
fn texts() -> Vec<String> {
    let words = "the captain of the white ship saw a whale near the island in a storm and sailed home".split(' ');
    let words: Vec<&str> = words.collect();
    (1..40).map(|n| words.iter().cycle().skip(n).take(n * n % 97 + 1).copied().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn fp32_vectors_are_those_of_the_published_model() {
    let embedder = embedder(Precision::Fp32);

    for case in expected("embedder/expected.json").as_array().unwrap() {
        let vector = embed_one(&embedder, case["text"].as_str().unwrap(), InputKind::Query).await;

        assert!(farthest(&vector, &floats(&case["vector"])) < 1e-6, "{}", case["text"]);
    }
}

#[tokio::test]
async fn int8_vectors_are_near_those_of_the_published_model() {
    let embedder = embedder(Precision::Int8);

    for case in expected("embedder/expected.json").as_array().unwrap() {
        let vector = embed_one(&embedder, case["text"].as_str().unwrap(), InputKind::Query).await;

        let cosine: f32 = vector.iter().zip(floats(&case["vector"])).map(|(left, right)| left * right).sum();
        assert!(cosine > 0.995, "{cosine} for {}", case["text"]);
    }
}

#[tokio::test]
async fn a_vector_does_not_depend_on_its_neighbours() {
    for precision in [Precision::Fp32, Precision::Int8] {
        let embedder = embedder(precision);
        let together = embedder.embed(texts(), InputKind::Passage).await.unwrap();

        for (text, vector) in texts().iter().zip(together) {
            let alone = embed_one(&embedder, text, InputKind::Passage).await;

            assert!(farthest(&alone, &vector) < 1e-5, "{precision:?}: {text}");
        }
    }
}

#[tokio::test]
async fn text_beyond_the_maximum_changes_nothing() {
    let embedder = embedder(Precision::Int8);
    let counter = embedder.token_counter();
    let long = "whale ".repeat(1_000);
    let kept = &long[..counter.token_starts(&long)[embedder.max_tokens()]];

    let whole = embed_one(&embedder, &long, InputKind::Passage).await;

    assert_eq!(embedder.max_tokens(), 254);
    assert_eq!(whole, embed_one(&embedder, kept, InputKind::Passage).await);
    assert_ne!(whole, embed_one(&embedder, "whale", InputKind::Passage).await);
}

#[tokio::test]
async fn odd_text_gives_vectors_of_unit_length() {
    let embedder = embedder(Precision::Int8);
    let texts = ["", " ", "\u{0}", "\u{202e}\u{feff}", "👩‍👩‍👧‍👧", &"a".repeat(100_000), "[CLS] [SEP] [MASK]"];

    let vectors = embedder.embed(texts.map(str::to_owned).into(), InputKind::Passage).await.unwrap();

    for (text, vector) in texts.iter().zip(vectors) {
        let length: f32 = vector.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length} for {text:?}");
    }
}

#[tokio::test]
async fn a_users_own_model_gets_its_prefixes_and_its_own_fingerprint() {
    let dir = tempfile::tempdir().unwrap();
    let shipped = models_dir().join("all-minilm-l6-v2/53aa5117");
    let shipped = shipped.display();
    let models = models_with(
        dir.path(),
        &format!(
            "[[model]]\nname = \"mine\"\nrole = \"embedder\"\nrevision = \"1\"\nlicence = \"MIT\"\nmax_tokens = 128\n\
             local = {{ onnx = \"{shipped}/fp32.onnx\", tokenizer = \"{shipped}/tokenizer.json\" }}\n\
             embedder = {{ dimensions = 384, pooling = \"mean\", normalize = true, query_prefix = \"query: \" }}\n"
        ),
    );
    let runtime = models.load_runtime().unwrap();
    let settings =
        InferenceSettings { embedder: "mine".to_owned(), embedder_threads: 1, ..InferenceSettings::default() };

    let mine = models.load_embedder(&runtime, &settings).unwrap();

    let plain = embedder(Precision::Fp32);
    let prefixed = embed_one(&plain, "query: whale", InputKind::Query).await;
    assert!(farthest(&embed_one(&mine, "whale", InputKind::Query).await, &prefixed) < 1e-6);
    let passage = embed_one(&plain, "whale", InputKind::Passage).await;
    assert!(farthest(&embed_one(&mine, "whale", InputKind::Passage).await, &passage) < 1e-6);
    assert!(mine.max_tokens() < 126, "the prefix takes room");
    assert!(mine.spec().revision.starts_with("1+local+"), "{}", mine.spec().revision);
    assert_ne!(mine.spec().fingerprint(), plain.spec().fingerprint());
}

#[test]
fn a_graph_that_is_not_what_the_manifest_says_is_unusable() {
    let dir = tempfile::tempdir().unwrap();
    let shipped = models_dir().join("all-minilm-l6-v2/53aa5117");
    let shipped = shipped.display();
    let mine = |onnx: &str, facts: &str| {
        let manifest = format!(
            "[[model]]\nname = \"mine\"\nrole = \"embedder\"\nrevision = \"1\"\nlicence = \"MIT\"\nmax_tokens = 128\n\
             local = {{ onnx = \"{onnx}\", tokenizer = \"{shipped}/tokenizer.json\" }}\nembedder = {{ {facts} }}\n"
        );
        let models = models_with(dir.path(), &manifest);
        let settings = InferenceSettings { embedder: "mine".to_owned(), ..InferenceSettings::default() };
        models.load_embedder(&models.load_runtime().unwrap(), &settings).map(|_| ()).unwrap_err()
    };
    let good = format!("{shipped}/fp32.onnx");

    let wide = mine(&good, "dimensions = 768, pooling = \"mean\", normalize = true");
    let pooled = mine(&good, "dimensions = 384, pooling = \"pooled\", normalize = true");
    let text = mine(&format!("{shipped}/config.json"), "dimensions = 384, pooling = \"mean\", normalize = true");
    let absent = mine("nowhere.onnx", "dimensions = 384, pooling = \"mean\", normalize = true");

    assert!(wide.to_string().contains("384 dimensions, the manifest says 768"), "{wide}");
    assert!(pooled.to_string().contains("check the manifest's `pooling`"), "{pooled}");
    assert!(matches!(text, InferenceError::Unusable { .. }), "{text}");
    assert!(matches!(absent, InferenceError::Missing { .. }), "{absent}");
}

#[test]
fn without_files_models_are_missing_and_a_changed_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let models = Models::open(&ModelsSettings::default(), dir.path()).unwrap();
    let runtime = self::models().load_runtime().unwrap();
    let settings = InferenceSettings::default();

    let missing = models.load_runtime().map(|_| ()).unwrap_err();
    assert!(missing.to_string().contains("run `plumb models fetch`"), "{missing}");
    assert!(matches!(models.load_embedder(&runtime, &settings), Err(InferenceError::Missing { .. })));
    assert!(matches!(
        models.load_reranker(&runtime, &settings, RescorerParts::default()),
        Err(InferenceError::Missing { .. })
    ));

    let entry = models.manifest().named(&settings.embedder).unwrap();
    std::fs::create_dir_all(entry.dir(dir.path())).unwrap();
    for file in entry.expected_files() {
        std::fs::copy(entry.dir(&models_dir()).join(file.name), entry.dir(dir.path()).join(file.name)).unwrap();
    }
    assert!(models.load_embedder(&runtime, &settings).is_ok());
    let path = entry.dir(dir.path()).join("int8.onnx");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20_000_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let refused = models.load_embedder(&runtime, &settings).map(|_| ()).unwrap_err();

    assert!(matches!(&refused, InferenceError::WrongHash { file, .. } if file == "int8.onnx"), "{refused}");
}

fn cross_encoder(head: &str, activation: &str) -> Arc<dyn Reranker> {
    let dir = tempfile::tempdir().unwrap();
    let onnx = fixture(&format!("cross_encoder/{}.onnx", if head == "one" { "one-logit" } else { "two-logits" }));
    let models = models_with(
        dir.path(),
        &format!(
            "[[model]]\nname = \"tiny\"\nrole = \"reranker\"\nrevision = \"1\"\nlicence = \"MIT\"\nmax_tokens = 24\n\
             local = {{ onnx = {onnx:?}, tokenizer = {:?} }}\nreranker = {{ head = \"{head}\", activation = \"{activation}\" }}\n",
            fixture("cross_encoder/tokenizer.json")
        ),
    );
    let settings = InferenceSettings { reranker: Some("tiny".to_owned()), ..InferenceSettings::default() };
    models.load_reranker(&models.load_runtime().unwrap(), &settings, RescorerParts::default()).unwrap().unwrap()
}

#[tokio::test]
async fn cross_encoders_score_as_in_the_python_runtime() {
    let expected = expected("cross_encoder/expected.json");
    let sigmoid = |logit: f32| 1.0 / (1.0 + (-logit).exp());
    for (head, activation) in [("one", "none"), ("one", "sigmoid"), ("two", "none"), ("two", "sigmoid")] {
        let reranker = cross_encoder(head, activation);

        for (at, pair) in expected["pairs"].as_array().unwrap().iter().enumerate() {
            let text = |name: &str| pair[name].as_str().unwrap();
            let scores = reranker.rerank(&scope(), &query(text("query")), &[passage(text("passage"))], None).await;

            let logit = match head {
                "one" => floats(&expected["one-logit"][at])[0],
                _ => floats(&expected["two-logits"][at])[1] - floats(&expected["two-logits"][at])[0],
            };
            let wanted = if activation == "none" { logit } else { sigmoid(logit) };
            assert!(farthest(&scores.unwrap(), &[wanted]) < 1e-5, "{head} {activation}: {pair}");
        }
    }
}

#[tokio::test]
async fn the_cross_encoders_that_ship_need_no_fetch_and_find_the_passage_that_answers() {
    let empty = tempfile::tempdir().unwrap();
    let models = Models::open(&ModelsSettings::default(), empty.path()).unwrap();
    let runtime = self::models().load_runtime().unwrap();

    // The rescorer of the same settings is not there: they run alone.
    let mut settings = InferenceSettings::default();
    settings.cross_encoders.push("all-minilm-l6-v2".to_owned());
    let (loaded, failed) = models.load_rerankers(&runtime, &settings, RescorerParts::default());

    let names: Vec<&str> = loaded.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["plumb-reranker-l6", "plumb-reranker-l3"]);
    let failed: Vec<String> = failed.iter().map(InferenceError::to_string).collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(failed[0].contains("splade-tiny-msmarco"), "{failed:?}");
    assert!(failed[1].ends_with("its role is embedder, wanted is reranker"), "{failed:?}");
    let asked = models.reranker_names(&settings);
    assert_eq!(asked, [&names[..], &["all-minilm-l6-v2", "splade-tiny-msmarco"]].concat());
    let passages: Vec<RerankPassage> = PASSAGES.iter().map(|text| passage(text)).collect();
    for one in loaded {
        let scores = one.reranker.rerank(&scope(), &query(QUESTION), &passages, None).await.unwrap();
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        assert_eq!(best, Some(1), "{}: {scores:?}", one.name);
        assert!(one.reranker.expected_pace().is_some());
        assert!(!one.reranker.reads("как заменить ключ"));
        assert!(one.reranker.judges(&PassageSample::new(PASSAGES.join(" ").repeat(3))));
        assert!(!one.reranker.judges(&PassageSample::new(ROMANIAN.to_owned())));
    }
}

#[tokio::test]
async fn a_cross_encoders_score_does_not_depend_on_the_other_passages() {
    let reranker = cross_encoder("one", "none");
    let passages: Vec<RerankPassage> = texts().iter().map(|text| passage(text)).collect();

    let together = reranker.rerank(&scope(), &query("white whale"), &passages, None).await.unwrap();

    for (one, score) in passages.iter().zip(together) {
        let alone = reranker.rerank(&scope(), &query("white whale"), std::slice::from_ref(one), None).await.unwrap();
        assert!(farthest(&alone, &[score]) < 1e-5, "{}", one.text);
    }
}

#[tokio::test]
async fn reranking_gives_up_at_its_deadline() {
    let reranker = cross_encoder("one", "none");
    let passages: Vec<RerankPassage> = (0..4_000).map(|n| passage(&format!("the whale {n}"))).collect();

    let past = reranker.rerank(&scope(), &query("whale"), &passages, Some(Instant::now())).await;
    let soon = Some(Instant::now() + Duration::from_millis(1));
    let during = reranker.rerank(&scope(), &query("whale"), &passages, soon).await;

    assert!(matches!(past, Err(InferenceError::Deadline { .. })));
    assert!(matches!(during, Err(InferenceError::Deadline { .. })));
    let later = reranker.rerank(&scope(), &query("whale"), &passages[..2], None).await;
    assert!(later.is_ok(), "what was given up is not in the way");
}

fn rescorer(rescorer: RescorerSettings, precision: Precision, cache: Option<Arc<Cache>>) -> Arc<dyn Reranker> {
    let models = models();
    let runtime = models.load_runtime().unwrap();
    let settings = InferenceSettings { rescorer, precision, embedder_threads: 1, ..InferenceSettings::default() };
    let embedder = models.load_embedder(&runtime, &settings).unwrap();
    models.load_reranker(&runtime, &settings, RescorerParts { embedder: Some(embedder), cache }).unwrap().unwrap()
}

const PASSAGES: [&str; 4] = [
    "The quarterly report lists revenue by region and product.",
    "To rotate an API key, create a second key, deploy it, and revoke the first one.",
    "Keys of a piano are made of spruce and covered with plastic.",
    "Downtime is announced a week ahead on the status page.",
];
const QUESTION: &str = "how do I replace an api key safely";

fn order(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|left, right| scores[*right].total_cmp(&scores[*left]));
    order
}

#[tokio::test]
async fn each_signal_of_the_rescorer_finds_the_passage_that_answers() {
    let weights = |sparse_weight, cosine_weight, max_sim_weight| RescorerSettings {
        sparse_weight,
        cosine_weight,
        max_sim_weight,
    };
    let passages = PASSAGES.map(passage);
    for settings in [weights(1.0, 1.0, 0.0), weights(1.0, 0.0, 0.0), weights(0.0, 1.0, 0.0), weights(0.0, 0.0, 1.0)] {
        let reranker = rescorer(settings, Precision::Int8, None);

        let scores = reranker.rerank(&scope(), &query(QUESTION), &passages, None).await.unwrap();

        assert_eq!(order(&scores)[0], 1, "{settings:?}: {scores:?}");
        assert!(reranker.rerank(&scope(), &query(QUESTION), &[], None).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn passages_from_the_cache_score_exactly_as_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(Cache::open(dir.path(), &CacheSettings::default()).unwrap());
    let settings = RescorerSettings { max_sim_weight: 1.0, ..RescorerSettings::default() };
    let reranker = rescorer(settings, Precision::Int8, Some(Arc::clone(&cache)));
    let passages = PASSAGES.map(passage);

    let cold = reranker.rerank(&scope(), &query(QUESTION), &passages, None).await.unwrap();
    let kept = cache.entries();
    let warm = reranker.rerank(&scope(), &query(QUESTION), &passages, None).await.unwrap();

    assert_eq!(cold, warm);
    assert_eq!(kept, 8, "token states and token vectors of four passages");
    let other = TenantScope::everything(TenantId::new("other").unwrap());
    assert_eq!(reranker.rerank(&other, &query(QUESTION), &passages, None).await.unwrap(), cold);
    assert_eq!(cache.entries(), 16, "another tenant's entries are its own");
}

#[tokio::test]
async fn a_stored_embedding_stands_for_a_computed_one() {
    let reranker = rescorer(RescorerSettings::default(), Precision::Fp32, None);
    let embedder = embedder(Precision::Fp32);
    let mut passages = PASSAGES.map(passage);
    let computed = reranker.rerank(&scope(), &query(QUESTION), &passages, None).await.unwrap();

    for passage in &mut passages {
        let vector = embed_one(&embedder, &passage.text, InputKind::Passage).await;
        passage.embedding = Some(vector.into_iter().map(f16::from_f32).collect());
    }
    passages[2].embedding = Some(vec![f16::NAN; 384]);
    passages[3].embedding = Some(vec![f16::ONE; 3]);
    let stored = reranker.rerank(&scope(), &query(QUESTION), &passages, None).await.unwrap();

    assert!(farthest(&computed, &stored) < 1e-2, "{computed:?} {stored:?}");
}

#[tokio::test]
async fn the_short_way_round_the_vocabulary_gives_the_whole_product() {
    let models = models();
    let runtime = models.load_runtime().unwrap();
    let entry = models.manifest().named("splade-tiny-msmarco").unwrap();
    let mut whole = entry.clone();
    whole.sparse.as_mut().unwrap().passage = None;
    let limits = queue::QueueLimits { queue_tokens: 9_999, batch: batch::BatchLimits { tokens: 256, rows: 4 } };
    let load = |entry: &ModelEntry| {
        let files = files::read_model(entry, models.dir(), Precision::Fp32).unwrap();
        sparse::SparseEncoder::load(&runtime, (entry, models.dir()), &files, (Precision::Fp32, 1, limits)).unwrap()
    };
    let (short, whole) = (load(entry), load(&whole));
    let texts = PASSAGES.map(str::to_owned);

    let (short_query, whole_query) = (short.query(QUESTION).await.unwrap(), whole.query(QUESTION).await.unwrap());
    let short_passages = short.passages(texts.to_vec()).await.unwrap();
    let whole_passages = whole.passages(texts.to_vec()).await.unwrap();

    for (short, whole) in short_passages.iter().zip(&whole_passages) {
        let (short, whole) = (short_query.score(short), whole_query.score(whole));
        assert!((short - whole).abs() <= 0.01 * whole.max(1.0), "{short} {whole}");
    }
}
