//! Which format bytes are in: what the caller declares, or, where that says nothing, how they begin.

use std::fmt;

/// The media types that can be parsed, as shown to callers.
pub(super) const SUPPORTED_MEDIA_TYPES: &str = "text/plain, text/markdown, text/html and application/json";

/// How many bytes are looked at to guess a format.
const SNIFF_BYTES: usize = 4 * 1024;

/// A format that can be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    PlainText,
    Markdown,
    Html,
    Json,
}

/// A media type (RFC 9110): type and subtype in lower case, and the charset if one was given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MediaType {
    essence: String,
    charset: Option<String>,
}

impl MediaType {
    /// Reads a `Content-Type`; never fails, an unknown type is refused when it is parsed.
    pub fn new(declared: &str) -> Self {
        let mut parts = declared.split(';');
        let essence = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        let charset = parts.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            let value = value.trim().trim_matches('"');
            (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then(|| value.to_ascii_lowercase())
        });
        Self { essence, charset }
    }

    /// Type and subtype, such as `text/html`.
    pub fn essence(&self) -> &str {
        &self.essence
    }

    /// The charset parameter in lower case.
    pub fn charset(&self) -> Option<&str> {
        self.charset.as_deref()
    }

    /// The format behind the name; `None` where it cannot be parsed.
    pub fn format(&self) -> Option<Format> {
        match self.essence.as_str() {
            "text/plain" => Some(Format::PlainText),
            "text/markdown" | "text/x-markdown" | "text/x-web-markdown" => Some(Format::Markdown),
            "text/html" | "application/xhtml+xml" => Some(Format::Html),
            "application/json" | "text/json" => Some(Format::Json),
            other => (other.starts_with("application/") && other.ends_with("+json")).then_some(Format::Json),
        }
    }

    fn says_nothing(&self) -> bool {
        matches!(
            self.essence.as_str(),
            "" | "*/*" | "application/octet-stream" | "binary/octet-stream" | "application/unknown" | "unknown/unknown"
        )
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.essence)?;
        self.charset.iter().try_for_each(|charset| write!(f, "; charset={charset}"))
    }
}

/// The media type of `bytes`: the declared one, unless it is missing or generic; then by how the bytes begin.
///
/// Bytes that are not text and that no known signature names give `application/octet-stream`.
pub fn detect(declared: Option<&str>, bytes: &[u8]) -> MediaType {
    match declared.map(MediaType::new) {
        Some(declared) if !declared.says_nothing() => declared,
        _ => MediaType::new(sniff(bytes)),
    }
}

/// The media type that a file's name suggests, by its extension in any case; `None` for an unknown one.
pub fn media_type_of_extension(extension: &str) -> Option<MediaType> {
    let name = match extension.to_ascii_lowercase().as_str() {
        "txt" | "text" | "log" | "rst" | "adoc" | "org" | "tex" => "text/plain",
        "md" | "markdown" | "mdown" | "mkd" | "mdx" => "text/markdown",
        "html" | "htm" | "xhtml" => "text/html",
        "json" => "application/json",
        _ => return None,
    };
    Some(MediaType::new(name))
}

fn sniff(bytes: &[u8]) -> &'static str {
    const SIGNATURES: &[(&[u8], &str)] = &[
        (b"%PDF-", "application/pdf"),
        (b"PK\x03\x04", "application/zip"),
        (b"\x1F\x8B", "application/gzip"),
        (b"\x89PNG", "image/png"),
        (b"\xFF\xD8\xFF", "image/jpeg"),
        (b"GIF8", "image/gif"),
        (b"\x7FELF", "application/octet-stream"),
    ];
    if let Some((_, name)) = SIGNATURES.iter().find(|(signature, _)| bytes.starts_with(signature)) {
        return name;
    }
    let head = &bytes[..bytes.len().min(SNIFF_BYTES)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A character that the sample's end cuts in two is no error.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) if looks_like_html(&String::from_utf8_lossy(head)) => return "text/html",
        Err(_) => return "application/octet-stream",
    };
    if text.contains('\0') {
        "application/octet-stream"
    } else if looks_like_html(text) {
        "text/html"
    } else if looks_like_json(text, bytes) {
        "application/json"
    } else if looks_like_markdown(text) {
        "text/markdown"
    } else {
        "text/plain"
    }
}

fn looks_like_html(text: &str) -> bool {
    let mut body = text.trim_start_matches('\u{FEFF}').trim_start();
    if body.starts_with("<?xml") {
        body = body.split_once("?>").map_or("", |(_, rest)| rest.trim_start());
    }
    while let Some(rest) = body.strip_prefix("<!--") {
        body = rest.split_once("-->").map_or("", |(_, rest)| rest.trim_start());
    }
    let starts_with_tag = |tag: &str| {
        let rest = body.get(..tag.len()).filter(|start| start.eq_ignore_ascii_case(tag)).map(|_| &body[tag.len()..]);
        rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    };
    ["<!doctype html", "<html", "<head", "<body"].into_iter().any(starts_with_tag)
}

fn looks_like_json(text: &str, bytes: &[u8]) -> bool {
    let last = bytes.trim_ascii_end().last();
    match text.trim_start_matches('\u{FEFF}').trim_start().as_bytes() {
        [b'{', rest @ ..] => last == Some(&b'}') && matches!(rest.trim_ascii_start().first(), Some(b'"' | b'}')),
        // A Markdown text may start with a link in brackets, but hardly ends with one.
        [b'[', ..] => last == Some(&b']'),
        _ => false,
    }
}

fn looks_like_markdown(text: &str) -> bool {
    let is_heading = |line: &str| {
        let hashes = line.bytes().take_while(|&byte| byte == b'#').count();
        (1..=6).contains(&hashes) && line[hashes..].starts_with(' ')
    };
    let headings = text.lines().filter(|line| is_heading(line)).count();
    let has_fence = text.lines().any(|line| line.starts_with("```"));
    let has_link = text.contains("](http") || text.contains("](/") || text.contains("](#");
    // One `#` line alone may be a comment in a script.
    headings >= 2
        || (headings == 1
            && (has_fence || has_link || is_heading(text.trim_start().lines().next().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sniffed(bytes: &[u8]) -> String {
        detect(None, bytes).to_string()
    }

    #[test]
    fn what_is_declared_wins_unless_it_says_nothing() {
        let html = b"<!DOCTYPE html><p>x";

        assert_eq!(detect(Some("text/plain; charset=UTF-8"), html), MediaType::new("text/plain;charset=utf-8"));
        assert_eq!(detect(Some("application/octet-stream"), html).format(), Some(Format::Html));
        assert_eq!(detect(Some("image/png"), html).format(), None);
        assert_eq!(detect(Some("Text/HTML"), b"").format(), Some(Format::Html));
        assert_eq!(detect(Some("application/ld+json"), b"").format(), Some(Format::Json));
    }

    #[test]
    fn formats_are_told_by_how_they_begin() {
        assert_eq!(sniffed(b"  <!-- hi --> <HTML lang=en>"), "text/html");
        assert_eq!(sniffed(b"<?xml version='1.0'?><!DOCTYPE html>"), "text/html");
        assert_eq!(sniffed(b"<html>caf\xE9"), "text/html");
        assert_eq!(sniffed(b"{\"a\": 1}\n"), "application/json");
        assert_eq!(sniffed(b"[1, 2]"), "application/json");
        assert_eq!(sniffed(b"{curly} prose"), "text/plain");
        assert_eq!(sniffed(b"# Title\n\nProse."), "text/markdown");
        assert_eq!(sniffed(b"Prose.\n# a comment\nmore"), "text/plain");
        assert_eq!(sniffed(b"%PDF-1.7"), "application/pdf");
        assert_eq!(sniffed(b"a\0b"), "application/octet-stream");
        assert_eq!(sniffed(b"\xFF\xFE\xFA"), "application/octet-stream");
        assert_eq!(sniffed(b""), "text/plain");
        let cut = "é".repeat(SNIFF_BYTES);
        assert_eq!(sniffed(&cut.as_bytes()[..SNIFF_BYTES + 1]), "text/plain");
        assert_eq!(sniffed(format!("a{cut}").as_bytes()), "text/plain");
    }

    #[test]
    fn extensions_name_media_types() {
        assert_eq!(media_type_of_extension("MD").and_then(|found| found.format()), Some(Format::Markdown));
        assert_eq!(media_type_of_extension("exe"), None);
    }
}
