//! Where a chunk says it is from, there it is: for every version that is kept, the bytes of `/content` at a chunk's
//! `byte_range` are the chunk's text, whatever was sent, in whatever format.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tokio::runtime::Runtime;

use crate::process::Server;

const CASES: u32 = 60;
const MEDIA_TYPES: [&str; 4] = ["text/plain", "text/markdown", "text/html", "application/json"];

struct World {
    server: Server,
    http: reqwest::Client,
    runtime: Runtime,
    given: AtomicUsize,
    _dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let server = Server::start(&dir.path().join("data"));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { server, http, runtime, given: AtomicUsize::new(0), _dir: dir }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address())
    }

    fn get(&self, path: &str) -> (u16, Vec<u8>) {
        self.runtime.block_on(async {
            let response = self.http.get(self.url(path)).send().await.unwrap();
            (response.status().as_u16(), response.bytes().await.unwrap().to_vec())
        })
    }

    fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// True if it was taken; what is not a document of its format may be refused.
    fn put(&self, id: &str, media_type: &str, text: &str) -> bool {
        let body = json!({"documents": [{"id": id, "media_type": media_type, "text": text}]}).to_string();
        let request = self.http.post(self.url("/documents")).header("content-type", "application/json").body(body);
        self.runtime.block_on(async {
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            assert!(status < 500, "{status}");
            let answer: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
            status < 300 && answer["failed"] == 0
        })
    }

    /// Looks at every chunk of every version, and gives how many there are.
    fn check(&self, id: &str) -> Result<usize, String> {
        let mut looked_at = 0;
        for version in self.json(&format!("/documents/{id}/versions"))["versions"].as_array().unwrap() {
            let version = version["version"].as_u64().unwrap();
            let (status, content) = self.get(&format!("/documents/{id}/content?version={version}"));
            if status != 200 {
                return Err(format!("the text of version {version}: {status}"));
            }
            let chunks = self.json(&format!("/documents/{id}/chunks?version={version}"));
            for chunk in chunks["chunks"].as_array().unwrap() {
                let range = &chunk["provenance"]["byte_range"];
                let border = |at: usize| range[at].as_u64().unwrap() as usize;
                let slice = content.get(border(0)..border(1));
                if slice != chunk["text"].as_str().map(str::as_bytes) {
                    return Err(format!("version {version}: {chunk} is not {slice:?}"));
                }
                if chunk["provenance"]["document_version"] != version {
                    return Err(format!("version {version}: {chunk} is of another version"));
                }
                looked_at += 1;
            }
        }
        Ok(looked_at)
    }
}

/// What makes positions go wrong: characters of one to four bytes and of several code points, all ends of lines,
/// control characters, marks of the formats, long lines.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-z]{1,9}( [a-zA-Z]{1,9}){0,12}[.!?]? ",
        2 => "[äßéπ漢字😀👩‍👩‍👧‍👦e\u{301}\u{feff}\u{200b}\u{2028}]{1,12}",
        2 => Just("\r\n".to_owned()),
        1 => Just("\r".to_owned()),
        2 => Just("\n\n".to_owned()),
        1 => Just("\0\u{1}\u{7f}".to_owned()),
        1 => Just("\n# Heading &amp; more\n\n- item\n- item\n\n```\ncode\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n".to_owned()),
        1 => Just("<p>one</p><ul><li>two &lt; three</ul><script>no</script>".to_owned()),
        1 => Just("word ".repeat(600)),
        1 => "[a-z]{400,900}",
    ];
    proptest::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

fn of_format(media_type: &str, text: &str) -> String {
    match media_type {
        "text/html" => {
            format!("<!doctype html><html><head><title>t</title></head><body><h1>H</h1>{text}</body></html>")
        }
        "application/json" => json!({"title": "t", "body": text, "list": [text, 1]}).to_string(),
        _ => text.to_owned(),
    }
}

#[test]
fn the_slice_at_a_chunks_range_is_its_text_for_whatever_is_sent() {
    let world = World::new();
    let (taken, chunks) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let cases = (0..MEDIA_TYPES.len(), text(), text());

    let ran = TestRunner::new(config).run(&cases, |(format, first, second)| {
        let id = format!("case-{}", world.given.fetch_add(1, Ordering::Relaxed));
        let media_type = MEDIA_TYPES[format];
        // Sent, changed in the middle, and replaced.
        let changed = format!("{first}Something else.\r\n\r\n{second}");
        let sent = [&first, &changed, &second].map(|text| world.put(&id, media_type, &of_format(media_type, text)));
        if sent.contains(&true) {
            taken.fetch_add(1, Ordering::Relaxed);
            chunks.fetch_add(world.check(&id).map_err(TestCaseError::fail)?, Ordering::Relaxed);
        }
        Ok(())
    });

    ran.unwrap();
    let (taken, chunks) = (taken.into_inner(), chunks.into_inner());
    assert!(taken >= CASES as usize / 2 && chunks > taken, "{taken} taken, {chunks} chunks");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn the_slice_at_a_chunks_range_is_its_text_in_files_of_every_kind() {
    let world = World::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("README.md"), root.join("ARCHITECTURE.md"), root.join("Cargo.toml")];
    paths.extend(files(&root.join("corpora/tiny/docs")));
    let mut chunks = 0;

    for (n, path) in paths.iter().enumerate() {
        let text = std::fs::read_to_string(path).unwrap();
        let markdown_as_is = path.extension().is_some_and(|extension| extension == "md");
        let media_type = if markdown_as_is { "text/markdown" } else { "text/plain" };
        let id = format!("file-{n}");
        // As it is, with the other ends of lines, and as a page.
        assert!(world.put(&id, media_type, &text), "{}", path.display());
        assert!(world.put(&id, media_type, &text.replace('\n', "\r\n")), "{}", path.display());
        assert!(world.put(&id, "text/html", &of_format("text/html", &text)), "{}", path.display());
        chunks += world.check(&id).unwrap_or_else(|wrong| panic!("{}: {wrong}", path.display()));
    }

    assert!(chunks > 3 * paths.len(), "{chunks} chunks of {} files", paths.len());
}
