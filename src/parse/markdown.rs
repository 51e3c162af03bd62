//! Markdown (CommonMark with tables, task lists, footnotes and front matter) to text.
//!
//! Marks go, their text stays: links are their text, images their description, raw HTML its text. Code keeps its
//! fences and line ends. The parser's events are walked in a loop, so nesting costs no stack.

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use crate::domain::ParsedText;

use super::{
    ParseError,
    front_matter::front_matter_title,
    writer::{Gap, TextWriter},
};

/// Each line of a paragraph inside quotes costs the parser as many steps as there are quotes around it.
const MAX_QUOTE_DEPTH: usize = 100;

/// Reads a Markdown document; its title is the front matter's, or a first heading of level 1.
pub(super) fn parse_markdown(text: &str, limit_bytes: usize) -> Result<ParsedText, ParseError> {
    if text.lines().any(|line| quote_depth(line) > MAX_QUOTE_DEPTH) {
        return Err(ParseError::TooDeep { limit: MAX_QUOTE_DEPTH });
    }
    let mut walk = Walk {
        writer: TextWriter::new(limit_bytes),
        lists: Vec::new(),
        mode: Mode::Flow,
        html: String::new(),
        front_matter: None,
        first_heading: None,
        is_first_cell: true,
    };
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS
        | Options::ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS
        | Options::ENABLE_DEFINITION_LIST
        | Options::ENABLE_GFM;
    for event in Parser::new_ext(text, options) {
        walk.take(event);
        if walk.writer.is_full() {
            break;
        }
    }
    let title = walk.front_matter.or(walk.first_heading.flatten());
    walk.writer.finish(title)
}

fn quote_depth(line: &str) -> usize {
    let marks =
        line.bytes().take_while(|byte| matches!(byte, b'>' | b' ' | b'\t' | b'-' | b'*' | b'+' | b'.' | b'0'..=b'9'));
    marks.filter(|&byte| byte == b'>').count()
}

/// What text events mean at the moment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Flow,
    Code,
    FrontMatter,
}

struct Walk {
    writer: TextWriter,
    /// The open lists, outermost first; the next number for ordered ones.
    lists: Vec<Option<u64>>,
    mode: Mode,
    /// The open block of raw HTML, or the front matter.
    html: String,
    front_matter: Option<String>,
    /// The first heading seen; its title if its level is 1.
    first_heading: Option<Option<String>>,
    is_first_cell: bool,
}

impl Walk {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => match self.mode {
                Mode::Flow => self.writer.flow(&text),
                Mode::Code => self.writer.verbatim(&text),
                Mode::FrontMatter => self.html.push_str(&text),
            },
            Event::Code(text) | Event::InlineMath(text) | Event::DisplayMath(text) => self.writer.flow(&text),
            Event::Html(html) => self.html.push_str(&html),
            Event::InlineHtml(tag) => {
                if tag.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("<br")) {
                    self.writer.break_line();
                }
            }
            Event::SoftBreak => self.writer.flow(" "),
            Event::HardBreak => self.writer.break_line(),
            Event::Rule => self.writer.end_block(Gap::Paragraph),
            Event::TaskListMarker(true) => self.writer.verbatim("[x] "),
            Event::TaskListMarker(false) => self.writer.verbatim("[ ] "),
            // The note itself follows as a paragraph; its mark would read like a citation.
            Event::FootnoteReference(_) => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::List(first) => {
                self.writer.end_block(Gap::Line);
                self.lists.push(first);
                self.writer.set_depth(self.lists.len());
            }
            Tag::Item => {
                let marker = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}. ", *number - 1)
                    }
                    _ => "- ".to_owned(),
                };
                self.writer.set_marker(marker);
            }
            Tag::CodeBlock(kind) => {
                self.writer.end_block(Gap::Paragraph);
                let language = match &kind {
                    CodeBlockKind::Fenced(info) => info.split_whitespace().next().unwrap_or_default(),
                    CodeBlockKind::Indented => "",
                };
                self.writer.verbatim(&format!("```{language}\n"));
                self.mode = Mode::Code;
            }
            Tag::MetadataBlock(_) => self.mode = Mode::FrontMatter,
            Tag::TableHead | Tag::TableRow => self.is_first_cell = true,
            Tag::TableCell => self.writer.verbatim(if std::mem::take(&mut self.is_first_cell) { "" } else { " | " }),
            Tag::Paragraph | Tag::BlockQuote(_) | Tag::Table(_) | Tag::Heading { .. } => {
                self.writer.end_open_block(Gap::Paragraph);
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(level) => self.end_heading(level),
            TagEnd::List(_) => {
                self.lists.pop();
                self.writer.set_depth(self.lists.len());
                self.writer.drop_marker();
                self.writer.end_block(if self.lists.is_empty() { Gap::Paragraph } else { Gap::Line });
            }
            TagEnd::CodeBlock => {
                self.mode = Mode::Flow;
                self.writer.verbatim("```");
                self.writer.end_block(Gap::Paragraph);
            }
            TagEnd::MetadataBlock(_) => {
                self.mode = Mode::Flow;
                self.front_matter = front_matter_title(&std::mem::take(&mut self.html));
            }
            TagEnd::HtmlBlock => {
                let html = std::mem::take(&mut self.html);
                self.writer.end_block(Gap::Paragraph);
                text_of_html(&html, &mut self.writer);
                self.writer.end_block(Gap::Paragraph);
            }
            TagEnd::Item
            | TagEnd::TableHead
            | TagEnd::TableRow
            | TagEnd::DefinitionListTitle
            | TagEnd::DefinitionListDefinition => self.writer.end_block(Gap::Line),
            TagEnd::Paragraph | TagEnd::BlockQuote(_) | TagEnd::FootnoteDefinition if self.lists.is_empty() => {
                self.writer.end_block(Gap::Paragraph);
            }
            TagEnd::Paragraph => self.writer.end_block(Gap::Line),
            TagEnd::Table | TagEnd::DefinitionList => self.writer.end_block(Gap::Paragraph),
            _ => {}
        }
    }

    fn end_heading(&mut self, level: HeadingLevel) {
        let before = self.writer.len();
        self.writer.end_heading(level as u8);
        if self.first_heading.is_none() && self.writer.len() > before {
            let title = (level == HeadingLevel::H1).then(|| self.writer.last_heading().to_owned());
            self.first_heading = Some(title);
        }
    }
}

/// Writes the text of raw HTML: tags end words or blocks, comments, scripts and styles go, entities are resolved.
fn text_of_html(html: &str, writer: &mut TextWriter) {
    const BLOCKS: &[&str] =
        &["p", "div", "li", "tr", "br", "h1", "h2", "h3", "h4", "h5", "h6", "summary", "details", "dd", "dt"];
    let mut rest = html;
    while !rest.is_empty() {
        let (text, tail) = rest.split_at(rest.find('<').unwrap_or(rest.len()));
        writer.flow(&html_escape::decode_html_entities(text));
        let name_bytes = tail.bytes().skip(1).take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'/').count();
        let name = tail.get(1..=name_bytes).unwrap_or_default().trim_matches('/').to_ascii_lowercase();
        rest = if tail.starts_with("<!--") {
            after(tail, "-->")
        } else if matches!(name.as_str(), "script" | "style") && !tail.starts_with("</") {
            after(after(tail, &format!("</{name}")), ">")
        } else {
            after(tail, ">")
        };
        if BLOCKS.contains(&name.as_str()) {
            writer.end_block(Gap::Paragraph);
        }
    }
}

fn after<'a>(text: &'a str, end: &str) -> &'a str {
    text.find(end).map_or("", |at| &text[at + end.len()..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> ParsedText {
        parse_markdown(text, 10_000_000).unwrap()
    }

    #[test]
    fn marks_go_and_their_text_stays() {
        let parsed = parse(
            "# A *fine* `title`\n\nSome **bold** [link](http://x.y \"t\") and\nwrapped ![a cat](cat.png) text.[^1]  \nNext \
             &amp; last <b>raw</b><br>line.\n\n[^1]: The note.\n",
        );

        assert_eq!(
            parsed.text,
            "A fine title\n\nSome bold link and wrapped a cat text.\nNext & last raw\nline.\n\nThe note."
        );
        assert_eq!(parsed.title.as_deref(), Some("A fine title"));
    }

    #[test]
    fn lists_tables_and_code_stay_readable() {
        let parsed = parse(
            "Intro:\n\n- one\n- two\n  1. deep\n  2. deeper\n- [x] done\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n\
             ```rust\nfn main() {\n\n    x();\n}\n```\n\n> Quoted.\n",
        );

        assert_eq!(
            parsed.text,
            "Intro:\n\n- one\n- two\n  1. deep\n  2. deeper\n- [x] done\n\na | b\n1 | 2\n\n\
             ```rust\nfn main() {\n\n    x();\n}\n```\n\nQuoted."
        );
    }

    #[test]
    fn the_outline_points_into_the_text() {
        let parsed = parse("Setext\n======\n\nText.\n\n## Cafe\u{301}\n\n- # in a list\n\n### \n\nEnd.");

        let headings: Vec<_> = parsed.outline.headings.iter().map(|h| (h.level, h.title.as_str())).collect();
        assert_eq!(headings, [(1, "Setext"), (2, "Café"), (1, "in a list")]);
        for heading in &parsed.outline.headings {
            assert_eq!(heading.span.slice(&parsed.text), Some(heading.title.as_str()));
        }
    }

    #[test]
    fn front_matter_gives_the_title_and_no_text() {
        let parsed = parse("---\ntitle: The guide\ntags: [a]\n---\n\n# Other\n\nText.");

        assert_eq!(parsed.title.as_deref(), Some("The guide"));
        assert_eq!(parsed.text, "Other\n\nText.");
        assert_eq!(parse("## Second level first\n\n# Then first").title, None);
    }

    #[test]
    fn raw_html_blocks_keep_their_text_only() {
        let parsed = parse(
            "<div align=\"center\">\n<h1>Name &lt;3</h1><!-- no --> <script>no()</script>\n<p>One<br>two\n</div>\n\nEnd.",
        );

        assert_eq!(parsed.text, "Name <3\n\nOne\n\ntwo\n\nEnd.");
    }

    #[test]
    fn deep_nesting_harms_neither_stack_nor_clock() {
        let lazy = format!("{}x\n{}", ">".repeat(50_000), "lazy\n".repeat(100_000));
        assert!(matches!(parse_markdown(&lazy, 10_000_000), Err(ParseError::TooDeep { .. })));

        let shapes = [
            ">", "> - ", "- ", "* ", "1. ", "[", "![", "*a ", "**", "`", "<b>", "[a](", "\\", "&", "| ", "~~", "_",
            "<!--", "  ",
        ];
        for shape in shapes {
            for length in [100_000, 20_000] {
                let text = shape.repeat(length / shape.len()) + "x";

                let parsed = parse_markdown(&text, 10_000_000);

                assert!(matches!(parsed, Ok(_) | Err(ParseError::TooDeep { .. })), "{shape}");
            }
        }
        let staircase: String = (0..1_000).map(|depth| format!("{}- x\n", "  ".repeat(depth))).collect();
        assert!(parse(&staircase).text.len() < 3 * staircase.len());
    }

    proptest! {
        #[test]
        fn any_text_gives_normalized_text_with_a_true_outline(
            text in "(#{1,3} |\n{1,2}|- |> |```|[a-zé]{1,5}|\u{301}|\\||---|<p>|&#0;|&nbsp;|\\PC| ){0,60}"
        ) {
            let parsed = parse(&text);

            prop_assert_eq!(crate::text::normalize(&parsed.text), parsed.text.clone());
            prop_assert!(parsed.outline.headings.is_sorted_by_key(|heading| heading.span.start));
            for heading in &parsed.outline.headings {
                prop_assert_eq!(heading.span.slice(&parsed.text), Some(heading.title.as_str()));
            }
        }
    }
}
