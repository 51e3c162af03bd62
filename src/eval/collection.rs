//! A labelled collection in the BEIR layout (Thakur et al., NeurIPS 2021): `corpus.jsonl`, `queries.jsonl` and
//! `qrels/<split>.tsv`.
//!
//! Documents are read one at a time, so a collection may be larger than memory. Choices are made on the tuning half
//! of the queries and reported on the test half; [`Half::of`] is the only place that says which is which.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::EvalError;
use super::metrics::Qrels;

/// A document of the corpus.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CorpusDocument {
    #[serde(rename = "_id")]
    pub id: String,
    /// Empty where the collection has none.
    #[serde(default)]
    pub title: String,
    pub text: String,
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

/// A question of the collection.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CorpusQuery {
    #[serde(rename = "_id")]
    pub id: String,
    pub text: String,
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

impl CorpusQuery {
    /// The strings of `metadata.answers`, any of which answers the question; empty where none are given.
    pub fn answers(&self) -> Vec<&str> {
        let answers = self.metadata.get("answers").and_then(Value::as_array);
        answers.map(|answers| answers.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }
}

/// Which half of the queries a query belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// For choosing defaults.
    Tuning,
    /// For reporting; nothing is ever chosen on it.
    Test,
}

impl Half {
    /// By the first byte of BLAKE3 over the query id: even is tuning. Independent of order, split and collection size.
    pub fn of(query_id: &str) -> Self {
        if blake3::hash(query_id.as_bytes()).as_bytes()[0].is_multiple_of(2) { Self::Tuning } else { Self::Test }
    }

    /// The part of `qrels` whose queries belong to this half.
    pub fn select(self, qrels: &Qrels) -> Qrels {
        qrels.iter().filter(|(query, _)| Self::of(query) == self).map(|(q, g)| (q.clone(), g.clone())).collect()
    }
}

/// A folder with a labelled collection.
#[derive(Debug, Clone)]
pub struct LabelledCollection {
    root: PathBuf,
}

impl LabelledCollection {
    /// The collection in `root`; fails if one of its parts is missing.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, EvalError> {
        let root = root.into();
        for part in ["queries.jsonl", "qrels"] {
            let path = root.join(part);
            if !path.exists() {
                return Err(EvalError::Missing { path });
            }
        }
        Ok(Self { root })
    }

    /// The folder's name.
    pub fn name(&self) -> &str {
        self.root.file_name().and_then(|name| name.to_str()).unwrap_or("collection")
    }

    /// The documents, one at a time, in the order of the file.
    pub fn documents(&self) -> Result<impl Iterator<Item = Result<CorpusDocument, EvalError>> + use<>, EvalError> {
        json_lines(self.root.join("corpus.jsonl"))
    }

    /// All queries by id, also those without labels.
    pub fn queries(&self) -> Result<BTreeMap<String, CorpusQuery>, EvalError> {
        let queries = json_lines(self.root.join("queries.jsonl"))?;
        queries.map(|query| query.map(|query: CorpusQuery| (query.id.clone(), query))).collect()
    }

    /// The labels of `qrels/<split>.tsv`.
    pub fn qrels(&self, split: &str) -> Result<Qrels, EvalError> {
        let path = self.root.join("qrels").join(format!("{split}.tsv"));
        let mut qrels = Qrels::new();
        for (index, line) in lines(&path)?.enumerate() {
            let line = line.map_err(|source| EvalError::Io { path: path.clone(), source })?;
            // The layout prescribes a header.
            if index == 0 || line.is_empty() {
                continue;
            }
            let (query, document, grade) = label(&line).ok_or_else(|| EvalError::Line {
                path: path.clone(),
                line: index + 1,
                detail: "expected query id, document id and a whole number, separated by tabs".to_owned(),
            })?;
            qrels.entry(query.to_owned()).or_default().insert(document.to_owned(), grade);
        }
        Ok(qrels)
    }
}

fn label(line: &str) -> Option<(&str, &str, i32)> {
    let mut fields = line.split('\t');
    let (query, document, grade) = (fields.next()?, fields.next()?, fields.next()?);
    Some((query, document, grade.trim().parse().ok()?))
}

fn lines(path: &Path) -> Result<std::io::Lines<BufReader<File>>, EvalError> {
    match File::open(path) {
        Ok(file) => Ok(BufReader::new(file).lines()),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            Err(EvalError::Missing { path: path.to_owned() })
        }
        Err(source) => Err(EvalError::Io { path: path.to_owned(), source }),
    }
}

fn json_lines<T: DeserializeOwned>(
    path: PathBuf,
) -> Result<impl Iterator<Item = Result<T, EvalError>> + use<T>, EvalError> {
    let lines = lines(&path)?.enumerate();
    Ok(lines.filter_map(move |(index, line)| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(serde_json::from_str(&line).map_err(|error| EvalError::Line {
            path: path.clone(),
            line: index + 1,
            detail: error.to_string(),
        })),
        Err(source) => Some(Err(EvalError::Io { path: path.clone(), source })),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collection(corpus: &str, qrels: &str) -> (tempfile::TempDir, LabelledCollection) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("qrels")).unwrap();
        std::fs::write(folder.path().join("corpus.jsonl"), corpus).unwrap();
        let queries = r#"{"_id": "q1", "text": "why?", "metadata": {"answers": ["so", "thus"]}}"#;
        std::fs::write(folder.path().join("queries.jsonl"), queries).unwrap();
        std::fs::write(folder.path().join("qrels/test.tsv"), qrels).unwrap();
        let collection = LabelledCollection::open(folder.path()).unwrap();
        (folder, collection)
    }

    #[test]
    fn documents_queries_and_labels_are_read() {
        let corpus = "{\"_id\": \"d1\", \"title\": \"T\", \"text\": \"x\"}\n\n{\"_id\": \"d2\", \"text\": \"y\"}\n";
        let (_folder, collection) = collection(corpus, "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n");

        let documents: Vec<_> = collection.documents().unwrap().map(Result::unwrap).collect();
        let titles: Vec<_> = documents.iter().map(|d| (d.id.as_str(), d.title.as_str())).collect();
        assert_eq!(titles, [("d1", "T"), ("d2", "")]);
        assert_eq!(collection.queries().unwrap()["q1"].answers(), ["so", "thus"]);
        let grades = &collection.qrels("test").unwrap()["q1"];
        assert_eq!((grades["d1"], grades["d2"]), (2, 0));
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_line() {
        let (_folder, collection) = collection("{\"_id\": \"d1\", \"text\": \"x\"}\n{\"_id\": 2}\n", "h\nq1 d1 1\n");

        let corpus = collection.documents().unwrap().find_map(Result::err).unwrap().to_string();
        let qrels = collection.qrels("test").unwrap_err().to_string();
        let split = collection.qrels("dev").unwrap_err().to_string();

        assert!(corpus.contains("corpus.jsonl, line 2: "), "{corpus}");
        assert!(qrels.contains("test.tsv, line 2: "), "{qrels}");
        assert!(split.contains("qrels/dev.tsv is not there"), "{split}");
        assert!(LabelledCollection::open("/nowhere").is_err());
    }

    #[test]
    fn the_halves_are_fixed_disjoint_and_about_equal() {
        let qrels: Qrels = (0..1_000).map(|id| (format!("q{id}"), Default::default())).collect();
        let (tuning, test) = (Half::Tuning.select(&qrels), Half::Test.select(&qrels));

        assert_eq!(tuning.len() + test.len(), 1_000);
        assert!(tuning.keys().all(|query| !test.contains_key(query)));
        assert!((450..=550).contains(&tuning.len()), "{}", tuning.len());
        // Recorded: moving a query to the other half would mix what was tuned on with what is reported.
        let halves = ["1", "3", "WHO-q0", "56beb4343aeaaa14008c925b"].map(Half::of);
        assert_eq!(halves, [Half::Tuning, Half::Tuning, Half::Tuning, Half::Test]);
    }
}
