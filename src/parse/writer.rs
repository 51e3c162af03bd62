//! Writing normalized text with its outline: what every structured format is turned into.
//!
//! Blocks are separated by blank lines, items and rows by line ends. Each block is normalized before it is appended,
//! so a heading's span points into the final text.

use crate::domain::{ByteSpan, Heading, Outline, ParsedText};
use crate::text::normalize;

use super::ParseError;

/// Longest heading title kept in an outline, in characters; the text keeps all of it.
const TITLE_MAX_CHARS: usize = 200;
/// Deeper lists are indented like this depth, so that indentation cannot outgrow the text.
const INDENT_MAX_DEPTH: usize = 8;

/// What stands between two blocks; greater is wider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gap {
    Line,
    Paragraph,
}

/// Collects blocks; see the file's header.
pub(super) struct TextWriter {
    text: String,
    headings: Vec<Heading>,
    block: String,
    gap: Gap,
    /// Goes in front of the next block: `- `, `3. `.
    marker: Option<String>,
    depth: usize,
    limit_bytes: usize,
    is_full: bool,
}

impl TextWriter {
    /// A writer that gives up beyond `limit_bytes` of text.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            text: String::new(),
            headings: Vec::new(),
            block: String::new(),
            gap: Gap::Paragraph,
            marker: None,
            depth: 0,
            limit_bytes,
            is_full: false,
        }
    }

    /// Appends running text to the block; runs of white space become one space.
    pub fn flow(&mut self, text: &str) {
        if text.starts_with(char::is_whitespace) && !self.ends_in_space() {
            self.block.push(' ');
        }
        let mut words = text.split_whitespace().peekable();
        let any = words.peek().is_some();
        while let Some(word) = words.next() {
            self.block.push_str(word);
            if words.peek().is_some() {
                self.block.push(' ');
            }
        }
        if any && text.ends_with(char::is_whitespace) {
            self.block.push(' ');
        }
        self.watch_size();
    }

    /// Appends text as it is.
    pub fn verbatim(&mut self, text: &str) {
        self.block.push_str(text);
        self.watch_size();
    }

    /// Ends the line inside the block.
    pub fn break_line(&mut self) {
        self.block.truncate(self.block.trim_end_matches(' ').len());
        self.block.push('\n');
    }

    /// Ends the block, if one is open; at least `gap` goes in front of the next.
    pub fn end_block(&mut self, gap: Gap) {
        let block = std::mem::take(&mut self.block);
        self.append(&block, gap);
    }

    /// Like `end_block`, but nothing happens where no text was written into the block.
    pub fn end_open_block(&mut self, gap: Gap) {
        if !self.block.trim().is_empty() {
            self.end_block(gap);
        }
    }

    /// Ends the block as a row of a table; a row of empty cells leaves no trace.
    pub fn end_row(&mut self) {
        if self.block.chars().all(|c| c.is_whitespace() || c == '|') {
            self.block.clear();
        }
        self.end_block(Gap::Line);
    }

    /// Ends the block as a heading of `level`, 1 the outermost; an empty one leaves no trace.
    pub fn end_heading(&mut self, level: u8) {
        let block = std::mem::take(&mut self.block);
        let line = block.split_whitespace().collect::<Vec<_>>().join(" ");
        // A heading never carries the marker of the list it stands in: its span is its title.
        let marker = self.marker.take();
        self.gap = Gap::Paragraph;
        let depth = std::mem::take(&mut self.depth);
        if let Some(span) = self.append(&line, Gap::Paragraph) {
            let title = self.text[span.start..span.end].chars().take(TITLE_MAX_CHARS).collect();
            self.headings.push(Heading { level, title, span });
        } else {
            self.marker = marker;
        }
        self.depth = depth;
    }

    /// Title of the last heading, empty before the first.
    pub fn last_heading(&self) -> &str {
        self.headings.last().map_or("", |heading| &heading.title)
    }

    /// The next block starts with this, as an item of a list.
    pub fn set_marker(&mut self, marker: String) {
        self.marker = Some(marker);
    }

    /// Forgets a marker whose item turned out empty.
    pub fn drop_marker(&mut self) {
        self.marker = None;
    }

    /// How many lists the next blocks stand in; moves them to the right.
    pub fn set_depth(&mut self, depth: usize) {
        self.depth = depth.min(INDENT_MAX_DEPTH);
    }

    /// True once the text is over its limit: whoever writes may stop.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Bytes written so far, the open block not counted.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// The text with its outline; an error if it is over the limit.
    pub fn finish(mut self, title: Option<String>) -> Result<ParsedText, ParseError> {
        self.end_block(Gap::Paragraph);
        if self.is_full || self.text.len() > self.limit_bytes {
            return Err(ParseError::TextTooLarge { limit_bytes: self.limit_bytes });
        }
        let outline = Outline { headings: self.headings, page_starts: Vec::new() };
        let title = title.map(|title| normalize(&title).split_whitespace().collect::<Vec<_>>().join(" "));
        Ok(ParsedText { text: self.text, outline, title: title.filter(|title| !title.is_empty()) })
    }

    fn append(&mut self, block: &str, gap: Gap) -> Option<ByteSpan> {
        let block = normalize(block.trim_end().trim_start_matches('\n'));
        if block.trim().is_empty() {
            self.gap = self.gap.max(gap);
            return None;
        }
        if !self.text.is_empty() {
            self.text.push_str(if self.gap == Gap::Line { "\n" } else { "\n\n" });
        }
        self.gap = gap;
        let hanging = 2 * self.depth;
        match self.marker.take() {
            Some(marker) => {
                self.indent(hanging.saturating_sub(2));
                self.text.push_str(&marker);
            }
            None => self.indent(hanging),
        }
        let start = self.text.len();
        for (index, line) in block.split('\n').enumerate() {
            if index > 0 {
                self.text.push('\n');
                self.indent(if line.is_empty() { 0 } else { hanging });
            }
            self.text.push_str(line);
        }
        self.watch_size();
        Some(ByteSpan::new(start, self.text.len()))
    }

    fn indent(&mut self, spaces: usize) {
        self.text.extend(std::iter::repeat_n(' ', spaces));
    }

    fn ends_in_space(&self) -> bool {
        self.block.is_empty() || self.block.ends_with([' ', '\n'])
    }

    fn watch_size(&mut self) {
        if self.text.len() + self.block.len() > self.limit_bytes {
            self.is_full = true;
            self.block.clear();
        }
    }
}
