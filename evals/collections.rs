//! The collections, and which queries of each are reported.

use std::path::PathBuf;

use plumb::eval::{Half, LabelledCollection, Qrels};

/// A labelled collection with its halves.
pub struct Collection {
    pub name: String,
    /// True if it takes minutes to embed, so that it runs only when it is asked for.
    pub is_large: bool,
    pub root: PathBuf,
    /// Split whose queries are reported.
    split: &'static str,
    /// Split for tuning, or `None`: a half of `split`, by the hash of the query id, is kept for it.
    tuning_split: Option<&'static str>,
    /// Only documents and queries of this language (the prefix of the document ids).
    pub language: Option<&'static str>,
    /// True if no half is kept for tuning, since nothing is ever tuned on it.
    whole: bool,
    /// At most this many queries, the first by id; `None`: all.
    most_queries: Option<usize>,
    /// Published nDCG@10 of BM25, where there is one.
    pub published_bm25: Option<f64>,
}

/// Queries of each language of the smoke test: enough to see nothing from something.
const SMOKE_QUERIES: usize = 100;

/// Languages of the multilingual smoke test; each must find something.
const LANGUAGES: [&str; 12] = ["en", "de", "es", "ru", "zh", "ar", "el", "hi", "ro", "th", "tr", "vi"];

impl Collection {
    pub fn is_at_hand(&self) -> bool {
        self.root.join("queries.jsonl").exists()
    }

    pub fn open(&self) -> anyhow::Result<LabelledCollection> {
        Ok(LabelledCollection::open(&self.root)?)
    }

    /// Labels of the queries that are reported.
    pub fn test_qrels(&self) -> anyhow::Result<Qrels> {
        let qrels = self.open()?.qrels(self.split)?;
        let test = if self.whole || self.tuning_split.is_some() { qrels } else { Half::Test.select(&qrels) };
        Ok(test.into_iter().take(self.most_queries.unwrap_or(usize::MAX)).collect())
    }

    /// Labels of the queries that defaults are chosen on; `None` where nothing is tuned.
    pub fn tuning_qrels(&self) -> anyhow::Result<Option<Qrels>> {
        if self.whole {
            return Ok(None);
        }
        let split = self.tuning_split.unwrap_or(self.split);
        let qrels = self.open()?.qrels(split)?;
        Ok(Some(if self.tuning_split.is_some() { qrels } else { Half::Tuning.select(&qrels) }))
    }
}

/// Every collection, at hand or not. Large ones come last.
pub fn all() -> Vec<Collection> {
    let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let corpora = crate::variable("PLUMB_CORPORA").map_or_else(|| committed.join("../shared/data"), PathBuf::from);
    let retrieval = corpora.join("retrieval");
    let plain = |name: &str, root: PathBuf| Collection {
        name: name.to_owned(),
        is_large: false,
        root,
        split: "test",
        tuning_split: None,
        language: None,
        whole: false,
        most_queries: None,
        published_bm25: None,
    };
    let mut all = vec![
        Collection { whole: true, ..plain("tiny", committed.join("corpora/tiny")) },
        Collection {
            tuning_split: Some("train"),
            published_bm25: Some(0.6789),
            ..plain("scifact", retrieval.join("scifact"))
        },
        plain("feedbackqa", retrieval.join("feedbackqa")),
    ];
    all.extend(LANGUAGES.map(|language| Collection {
        split: xquad_split(language),
        language: Some(language),
        whole: true,
        most_queries: Some(SMOKE_QUERIES),
        ..plain(&format!("xquad-{language}"), retrieval.join("xquad"))
    }));
    all.push(Collection { is_large: true, ..plain("squad-mid", retrieval.join("squad-mid")) });
    all
}

fn xquad_split(language: &str) -> &'static str {
    match language {
        "de" => "test-de",
        "es" => "test-es",
        "ru" => "test-ru",
        "zh" => "test-zh",
        "ar" => "test-ar",
        "el" => "test-el",
        "hi" => "test-hi",
        "ro" => "test-ro",
        "th" => "test-th",
        "tr" => "test-tr",
        "vi" => "test-vi",
        _ => "test",
    }
}
