//! How well the main text of web pages is found: 181 annotated news and blog pages (article-extraction-benchmark).
//!
//! The measure is the benchmark's own: shingles of four words, counted as a bag; precision and recall are the means
//! over pages, F1 is taken of the means. Public extractors reach 0.92 to 0.95. Single words are shown beside it.
//! The pages take their place from `PLUMB_CORPORA` (default `../shared/data`) and are not part of the project.
#![expect(clippy::print_stdout, reason = "a report on standard output is the purpose of this target")]

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use plumb::parse::{MediaType, ParseSettings, Parser, WorkerCommand, worker_main};

/// Measured 0.9509 when this was written; less than this is a regression.
const F1_FLOOR: f64 = 0.945;

fn main() -> ExitCode {
    // HTML is parsed in a child process, which is this program again.
    if std::env::args().nth(1).is_some_and(|argument| argument == "parse-worker") {
        return worker_main().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    the_measure_agrees_with_a_case_worked_by_hand();
    let folder = corpora().join("formats/article-extraction");
    let Ok(truth) = std::fs::read(folder.join("ground-truth.json")) else {
        println!("did not run: extraction of main text (there is no {})", folder.display());
        return ExitCode::SUCCESS;
    };
    let f1 = main_text_f1(&folder, &serde_json::from_slice(&truth).expect("the annotations are JSON"));
    if f1 >= F1_FLOOR {
        return ExitCode::SUCCESS;
    }
    println!("FAILED: F1 is {f1:.4}, it was {F1_FLOOR} or more");
    ExitCode::FAILURE
}

#[tokio::main]
async fn main_text_f1(folder: &Path, truth: &HashMap<String, serde_json::Value>) -> f64 {
    let parser = Parser::new(ParseSettings::default(), this_program_as_worker());
    let (mut words, mut shingles) = (Means::default(), Means::default());
    for (page, annotation) in truth {
        let parsed = parser.parse(&MediaType::new("text/html"), page_bytes(folder, page).into()).await;
        let found = parsed.unwrap_or_else(|error| panic!("{page}: {error}"));
        let body = annotation["articleBody"].as_str().unwrap_or_default();
        words.add(body, &found.text, 1);
        shingles.add(body, &found.text, 4);
    }
    println!("| main text of {} pages | precision | recall | F1 |\n|---|---|---|---|", truth.len());
    for (name, means) in [("words", &words), ("four words", &shingles)] {
        let (precision, recall, f1) = means.result();
        println!("| {name} | {precision:.4} | {recall:.4} | {f1:.4} |");
    }
    shingles.result().2
}

#[expect(clippy::disallowed_methods, reason = "an evaluation is told by the environment where its data are")]
fn corpora() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    std::env::var_os("PLUMB_CORPORA").map_or_else(default, PathBuf::from)
}

fn this_program_as_worker() -> WorkerCommand {
    WorkerCommand {
        program: std::env::current_exe().expect("a running test has a program"),
        args: vec!["parse-worker".to_owned()],
    }
}

fn page_bytes(folder: &Path, page: &str) -> Vec<u8> {
    let packed = std::fs::File::open(folder.join(format!("{page}.html.gz"))).expect("every annotated page is there");
    let mut html = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut html).expect("pages are packed with gzip");
    html
}

#[derive(Default)]
struct Means {
    precisions: Vec<f64>,
    recalls: Vec<f64>,
}

impl Means {
    fn add(&mut self, truth: &str, found: &str, length: usize) {
        let (truth, found) = (shingles(truth, length), shingles(found, length));
        let common: usize =
            truth.iter().map(|(shingle, &count)| count.min(found.get(shingle).copied().unwrap_or(0))).sum();
        let (of_truth, of_found): (usize, usize) = (truth.values().sum(), found.values().sum());
        if of_found > 0 {
            self.precisions.push(common as f64 / of_found as f64);
        }
        if of_truth > 0 {
            self.recalls.push(common as f64 / of_truth as f64);
        }
    }

    fn result(&self) -> (f64, f64, f64) {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let (precision, recall) = (mean(&self.precisions), mean(&self.recalls));
        (precision, recall, 2.0 * precision * recall / (precision + recall))
    }
}

fn shingles(text: &str, length: usize) -> HashMap<Vec<&str>, usize> {
    let words: Vec<&str> =
        text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
    let mut counts = HashMap::new();
    if !words.is_empty() {
        words.windows(length.min(words.len())).for_each(|shingle| *counts.entry(shingle.to_vec()).or_default() += 1);
    }
    counts
}

fn the_measure_agrees_with_a_case_worked_by_hand() {
    let mut means = Means::default();

    // Truth "a b c d e" has shingles abcd, bcde; found "x a b c d" has xabc, abcd: one in common of two each.
    means.add("a b c d e", "x, a b c d!", 4);

    assert_eq!(means.result(), (0.5, 0.5, 0.5));
}
