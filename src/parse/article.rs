//! An HTML page to its article: navigation, advertisements and comments go, headings stay.
//!
//! The main content is chosen by dom_smoothie, a port of Mozilla's Readability. Where that finds too little of the
//! page (indexes, forms of documentation that are no articles), the whole page without its obvious boilerplate is taken.

use dom_query::Document;
use dom_smoothie::{Config, Readability};

use crate::domain::ParsedText;

use super::{
    ParseError,
    charset::decode_html,
    html::{Scope, write_html},
    nesting::{MAX_NESTING, nests_too_deep},
    writer::TextWriter,
};

/// Below so many bytes nothing tells an article from a scrap: the page is taken.
const MIN_BYTES: usize = 250;
/// From so many bytes on an article is believed, whatever else is on the page.
const ENOUGH_BYTES: usize = 1_000;
/// Between the two it must be at least this share of the page's content. Short news under long comments are 0.05 of
/// their pages; what is found on index pages is less.
const MIN_SHARE: f64 = 0.04;

/// A page whose content is at least this share of an article that is longer.
const SAME_SHARE: f64 = 0.8;

/// Reads an HTML page. Runs in a process of its own: time and memory are bounded there, not here.
pub(super) fn parse_html(bytes: &[u8], charset: Option<&str>, limit_bytes: usize) -> Result<ParsedText, ParseError> {
    let html = decode_html(bytes, charset)?;
    if nests_too_deep(&html) {
        return Err(ParseError::TooDeep { limit: MAX_NESTING });
    }
    let document = Document::from(html);
    let own_title = own_title(&document);
    let mut page = TextWriter::new(limit_bytes);
    write_html(&document.root(), Scope::Content, &mut page);
    let page = page.finish(own_title)?;
    match extract(document, limit_bytes)? {
        Some(article) if is_believable(&article, &page) => {
            Ok(ParsedText { title: article.title.or(page.title), ..article })
        }
        _ => Ok(page),
    }
}

fn own_title(document: &Document) -> Option<String> {
    let title = document.select_single("title").text();
    let title = if title.trim().is_empty() { document.select_single("h1").text() } else { title };
    (!title.trim().is_empty()).then(|| title.to_string())
}

/// The article that Readability finds, if it finds one.
fn extract(document: Document, limit_bytes: usize) -> Result<Option<ParsedText>, ParseError> {
    let found = Readability::with_document(document, None, Some(Config::default())).and_then(|mut found| found.parse());
    let Ok(article) = found else {
        return Ok(None);
    };
    let mut writer = TextWriter::new(limit_bytes);
    let content = Document::fragment(article.content);
    write_html(&content.root(), Scope::Everything, &mut writer);
    writer.finish(Some(article.title)).map(Some)
}

fn is_believable(article: &ParsedText, page: &ParsedText) -> bool {
    let bytes = article.text.len();
    // About as long as the page's content: Readability left nothing out and kept the page's frame as well.
    let is_whole_page = bytes >= page.text.len() && bytes as f64 * SAME_SHARE <= page.text.len() as f64;
    !is_whole_page
        && (bytes >= ENOUGH_BYTES || (bytes >= MIN_BYTES && bytes as f64 >= MIN_SHARE * page.text.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(html: &str) -> ParsedText {
        parse_html(html.as_bytes(), None, 1_000_000).unwrap()
    }

    fn article(body: &str) -> String {
        let prose =
            "The server keeps what it has acknowledged, through a crash, a kill, and a loss of power. ".repeat(8);
        format!(
            "<html><head><title>Keeping writes</title><style>p {{}}</style></head><body><nav><a href=/>Home</a></nav>\
             <article><h1>Keeping writes</h1><p>{prose}</p>{body}<p>{prose}</p></article>\
             <aside>Buy now</aside><footer>All rights reserved</footer><script>track()</script></body></html>"
        )
    }

    #[test]
    fn an_article_comes_without_what_surrounds_it() {
        let parsed = parse(&article("<h2>How</h2><p>By <b>one</b> transaction.</p>"));

        assert_eq!(parsed.title.as_deref(), Some("Keeping writes"));
        assert!(parsed.text.contains("By one transaction."));
        for noise in ["Home", "Buy now", "All rights", "track", "p {}"] {
            assert!(!parsed.text.contains(noise), "{noise}");
        }
        let how = parsed.outline.headings.iter().find(|heading| heading.title == "How").unwrap();
        assert_eq!(how.span.slice(&parsed.text), Some("How"));
    }

    #[test]
    fn lists_tables_and_code_stay_readable() {
        let parsed = parse(&article(
            "<ul><li>one, and <i>more</i></li><li><p>two</p><ol><li>deep</li></ol></li></ul>\
             <table><thead><tr><th>Name</th><th>Port</th></tr></thead><tr><td>http</td><td>80</td></tr></table>\
             <pre>let a = 1;\n\n  let b;</pre><dl><dt>term</dt><dd>meaning</dd></dl>",
        ));

        for expected in [
            "- one, and more\n- two\n  1. deep",
            "Name | Port\nhttp | 80",
            "```\nlet a = 1;\n\n  let b;\n```",
            "term\nmeaning",
        ] {
            assert!(parsed.text.contains(expected), "{expected}\nin\n{}", parsed.text);
        }
    }

    #[test]
    fn a_page_that_is_no_article_is_kept_whole_but_for_its_frame() {
        let entries: String = (0..40).map(|n| format!("<li><a href=/{n}>Entry number {n}</a></li>")).collect();

        let parsed = parse(&format!(
            "<title>Index</title><body><header>Logo</header><nav>Menu</nav><h1>Index</h1><ul>{entries}</ul>\
             <form><input value=x>Search</form><div hidden>secret</div><p role=navigation>crumbs</p></body>"
        ));

        assert!(parsed.text.starts_with("Index\n\n- Entry number 0\n- Entry number 1\n"), "{}", parsed.text);
        assert!(parsed.text.ends_with("- Entry number 39"), "{}", parsed.text);
        assert_eq!(parsed.outline.headings.len(), 1);
    }

    #[test]
    fn tables_that_only_arrange_a_page_are_read_as_text() {
        let parsed = parse("<body><table><tr><td><p>One.</p><p>Two.</p></td><td>Side</td></tr></table>");

        assert_eq!(parsed.text, "One.\n\nTwo.\n\nSide");
    }

    #[test]
    fn scraps_and_nothing_are_no_errors() {
        for html in [
            "",
            " ",
            "plain words",
            "<p",
            "</div></div>",
            "<html></html>",
            "<!-- only -->",
            "\0",
            "&#0;&#xD800;&bogus;",
        ] {
            parse(html);
        }
        assert_eq!(parse("plain &amp; words").text, "plain & words");
        assert_eq!(parse("e&#x301;").text, "é");
    }

    #[test]
    fn text_over_the_limit_is_refused() {
        let page = article("");

        assert!(matches!(parse_html(page.as_bytes(), None, 100), Err(ParseError::TextTooLarge { limit_bytes: 100 })));
    }
}
