//! The door: bytes of a media type to text.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::domain::ParsedText;
use crate::text::normalize;

use super::{
    Format, MediaType, ParseError,
    charset::decode,
    gate::Gate,
    json::parse_json,
    markdown::parse_markdown,
    pool::{ParserPool, WorkerCommand},
};

/// What parsing may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParseSettings {
    /// Parser processes, and as many documents of simple formats at a time. Default 2: parsing must leave cores free
    /// for embedding and search.
    pub workers: usize,
    /// Documents that may wait for a parser, of each sort. Default 256: more would wait longer than their callers.
    pub queue_limit: usize,
    /// Time for one document in a parser process, in milliseconds. Default 30,000: the largest honest pages take less
    /// than a tenth.
    pub timeout_ms: u64,
    /// Address space of a parser process, in MiB. Default 1,024: a page of 10 MB takes about a quarter of it.
    pub memory_limit_mib: u64,
    /// CPU time of a parser process over its life, in seconds. Default 600; must hold the timeout twice.
    pub cpu_limit_seconds: u64,
    /// Documents after which a parser process is replaced. Default 1,000: starting one costs some milliseconds, and
    /// whatever it leaks goes with it.
    pub documents_per_worker: u32,
    /// Largest document, in bytes. Default 64 MiB.
    pub max_input_bytes: usize,
    /// Most text that a document may give, in bytes. Default 50 MB.
    pub max_text_bytes: usize,
}

impl Default for ParseSettings {
    fn default() -> Self {
        Self {
            workers: 2,
            queue_limit: 256,
            timeout_ms: 30_000,
            memory_limit_mib: 1_024,
            cpu_limit_seconds: 600,
            documents_per_worker: 1_000,
            max_input_bytes: 64 << 20,
            max_text_bytes: 50_000_000,
        }
    }
}

/// Why parse settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidParsing {
    #[error("workers, timeout_ms and documents_per_worker must be at least 1")]
    Zero,
    #[error("memory_limit_mib is {memory_limit_mib}, at least {MEMORY_MIN_MIB} are needed")]
    MemoryTooSmall { memory_limit_mib: u64 },
    #[error("cpu_limit_seconds is {cpu_limit_seconds}, it must hold timeout_ms ({timeout_ms}) twice")]
    CpuTooShort { cpu_limit_seconds: u64, timeout_ms: u64 },
}

/// Program, libraries and the parser's own stack take about half of this before any document comes.
const MEMORY_MIN_MIB: u64 = 256;

impl ParseSettings {
    /// Refuses settings under which no document could be read.
    pub fn check(&self) -> Result<(), InvalidParsing> {
        let Self { memory_limit_mib, cpu_limit_seconds, timeout_ms, .. } = *self;
        if self.workers == 0 || timeout_ms == 0 || self.documents_per_worker == 0 {
            return Err(InvalidParsing::Zero);
        }
        if memory_limit_mib < MEMORY_MIN_MIB {
            return Err(InvalidParsing::MemoryTooSmall { memory_limit_mib });
        }
        if cpu_limit_seconds.saturating_mul(1_000) < timeout_ms.saturating_mul(2) {
            return Err(InvalidParsing::CpuTooShort { cpu_limit_seconds, timeout_ms });
        }
        Ok(())
    }
}

/// Documents up to this size are parsed where they are asked for; it takes less than half a millisecond.
const INLINE_MAX_BYTES: usize = 16 << 10;

/// Turns documents into text; see [`MediaType`] for what it can read.
pub struct Parser {
    pool: ParserPool,
    gate: Gate,
    settings: ParseSettings,
}

impl Parser {
    /// Starts no process yet; `command` starts one when the first HTML document comes.
    pub fn new(settings: ParseSettings, command: WorkerCommand) -> Self {
        let gate = Gate::new(settings.workers, settings.queue_limit);
        Self { pool: ParserPool::new(command, settings.clone()), gate, settings }
    }

    /// Reads one document; an error concerns this document alone.
    ///
    /// A dropped future kills the parser process that was at work for it; a simple format is read to its end.
    pub async fn parse(&self, media_type: &MediaType, bytes: Bytes) -> Result<ParsedText, ParseError> {
        let Some(format) = media_type.format() else {
            return Err(ParseError::UnsupportedMediaType { media_type: media_type.essence().to_owned() });
        };
        if bytes.len() > self.settings.max_input_bytes {
            return Err(ParseError::TooLarge { bytes: bytes.len(), limit_bytes: self.settings.max_input_bytes });
        }
        if format == Format::Html {
            return self.pool.parse(media_type.charset(), &bytes).await;
        }
        let limit_bytes = self.settings.max_text_bytes;
        if bytes.len() <= INLINE_MAX_BYTES {
            return parse_here(format, media_type.charset(), &bytes, limit_bytes);
        }
        let place = self.gate.enter().await?;
        let charset = media_type.charset().map(str::to_owned);
        let span = tracing::Span::current();
        let work = tokio::task::spawn_blocking(move || {
            let _place = place;
            span.in_scope(|| parse_here(format, charset.as_deref(), &bytes, limit_bytes))
        });
        work.await.unwrap_or(Err(ParseError::Panicked))
    }
}

/// Formats whose parsers take linear time and bounded stack.
fn parse_here(
    format: Format,
    charset: Option<&str>,
    bytes: &[u8],
    limit_bytes: usize,
) -> Result<ParsedText, ParseError> {
    let text = decode(bytes, charset)?;
    match format {
        Format::Json => parse_json(&text, limit_bytes),
        Format::Markdown => parse_markdown(&normalize(&text), limit_bytes),
        Format::PlainText | Format::Html => {
            debug_assert_eq!(format, Format::PlainText, "HTML is read in a process of its own");
            let text = normalize(&text);
            if text.len() > limit_bytes {
                return Err(ParseError::TextTooLarge { limit_bytes });
            }
            Ok(ParsedText { text, ..ParsedText::default() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ErrorKind;

    fn parser() -> Parser {
        let command = WorkerCommand { program: "/nonexistent/program".into(), args: Vec::new() };
        Parser::new(ParseSettings { max_input_bytes: 1 << 20, ..ParseSettings::default() }, command)
    }

    async fn parse(media_type: &str, bytes: &[u8]) -> Result<ParsedText, ParseError> {
        parser().parse(&MediaType::new(media_type), Bytes::copy_from_slice(bytes)).await
    }

    #[tokio::test]
    async fn text_markdown_and_json_are_read_whatever_their_size() {
        for repeat in [1, 50_000] {
            assert!(parse("text/plain", "a\r\nb ".repeat(repeat).as_bytes()).await.unwrap().text.starts_with("a\nb"));
            assert!(
                parse("text/markdown; charset=utf-8", "*a* ".repeat(repeat).as_bytes())
                    .await
                    .unwrap()
                    .text
                    .starts_with('a')
            );
            assert!(parse("application/json", format!("[{}1]", "1,".repeat(repeat)).as_bytes()).await.is_ok());
        }
    }

    #[test]
    fn settings_under_which_nothing_could_be_read_are_refused() {
        let base = ParseSettings::default();

        assert_eq!(base.check(), Ok(()));
        assert!(ParseSettings { workers: 0, ..base.clone() }.check().is_err());
        assert!(ParseSettings { memory_limit_mib: 1, ..base.clone() }.check().is_err());
        assert!(ParseSettings { cpu_limit_seconds: 59, ..base }.check().is_err());
    }

    #[tokio::test]
    async fn an_empty_document_is_an_empty_text() {
        for media_type in ["text/plain", "text/markdown"] {
            assert_eq!(parse(media_type, b"").await.unwrap(), ParsedText::default());
        }
    }

    #[tokio::test]
    async fn an_unknown_media_type_is_refused_with_what_is_known() {
        let error = parse("image/png", b"x").await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::UnsupportedMediaType);
        assert_eq!(
            error.to_string(),
            "media type \"image/png\" is not supported; supported are text/plain, text/markdown, text/html and \
             application/json"
        );
    }

    #[tokio::test]
    async fn bad_bytes_and_big_documents_are_told_apart() {
        assert_eq!(
            parse("text/plain", b"ab\xFF").await.unwrap_err().to_string(),
            "the document is not valid UTF-8 at byte 2"
        );
        assert_eq!(parse("text/plain", &vec![b'a'; 2 << 20]).await.unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(parse("application/json", b"{").await.unwrap_err().kind(), ErrorKind::Unprocessable);
    }

    #[tokio::test]
    async fn a_program_that_cannot_start_is_no_fault_of_the_document() {
        let error = parse("text/html", b"<p>x").await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Internal);
    }
}
