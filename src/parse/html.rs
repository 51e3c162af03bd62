//! A tree of HTML elements to text: headings, paragraphs, lists, tables and code as they are read.
//!
//! The tree is walked with a stack of its own, so a deep tree costs memory and never the program's stack.

use dom_query::{NodeData, NodeRef};

use super::writer::{Gap, TextWriter};

/// How much of a tree is content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// All of it: somebody has chosen it already.
    Everything,
    /// What is not navigation, advertisement or a form.
    Content,
}

/// Writes the text under `root`.
pub(super) fn write_html(root: &NodeRef<'_>, scope: Scope, writer: &mut TextWriter) {
    let mut walk = Walk { writer, scope, lists: Vec::new(), in_heading: false, in_row: false, is_first_cell: true };
    let mut steps = vec![Step::Enter(*root)];
    while let Some(step) = steps.pop() {
        match step {
            Step::Leave(element) => walk.leave(element),
            Step::Enter(node) => {
                let Some(found) = walk.enter(&node) else {
                    continue;
                };
                steps.push(Step::Leave(found));
                steps.extend(node.children_it(true).map(Step::Enter));
            }
        }
        if walk.writer.is_full() {
            return;
        }
    }
    walk.writer.end_block(Gap::Paragraph);
}

enum Step<'a> {
    Enter(NodeRef<'a>),
    Leave(Element),
}

/// What an element means for the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Inline,
    Block,
    Heading(u8),
    List(ListKind),
    Item,
    Term,
    Row,
    Cell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListKind {
    Bullets,
    Numbers,
}

struct Walk<'w> {
    writer: &'w mut TextWriter,
    scope: Scope,
    /// The open lists, outermost first; the next number for ordered ones.
    lists: Vec<Option<u64>>,
    in_heading: bool,
    in_row: bool,
    is_first_cell: bool,
}

impl Walk<'_> {
    /// Opens a node; `None` if there is nothing under it to walk.
    fn enter(&mut self, node: &NodeRef<'_>) -> Option<Element> {
        let name = node.query(|found| match &found.data {
            NodeData::Element(element) => Some(element.name.local.to_string()),
            NodeData::Text { contents } => {
                self.writer.flow(contents);
                None
            }
            NodeData::Document | NodeData::Fragment => Some("body".to_owned()),
            _ => None,
        })??;
        if NEVER_TEXT.contains(&name.as_str()) || (self.scope == Scope::Content && is_boilerplate(node, &name)) {
            return None;
        }
        match name.as_str() {
            "br" if self.in_heading || self.in_row => self.writer.flow(" "),
            "br" => self.writer.break_line(),
            "hr" => self.end_block(),
            "pre" => self.code(node),
            _ => {
                let element = meaning(&name, node);
                self.open(element);
                return Some(element);
            }
        }
        None
    }

    fn open(&mut self, element: Element) {
        match element {
            Element::Inline => {}
            Element::Block => self.end_block(),
            Element::Term if self.in_heading || self.in_row => self.writer.flow(" "),
            Element::Term => self.writer.end_block(Gap::Line),
            Element::Heading(_) => {
                self.end_block();
                self.in_heading = true;
            }
            Element::List(kind) => {
                self.end_block();
                self.lists.push((kind == ListKind::Numbers).then_some(1));
                self.writer.set_depth(self.lists.len());
            }
            Element::Item => {
                self.end_block();
                let marker = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}. ", *number - 1)
                    }
                    _ => "- ".to_owned(),
                };
                self.writer.set_marker(marker);
            }
            Element::Row => {
                self.writer.end_block(Gap::Line);
                (self.in_row, self.is_first_cell) = (true, true);
            }
            Element::Cell => {
                if !std::mem::take(&mut self.is_first_cell) {
                    self.writer.verbatim(" | ");
                }
            }
        }
    }

    fn leave(&mut self, element: Element) {
        match element {
            Element::Inline | Element::Cell => {}
            Element::Block => self.end_block(),
            Element::Heading(level) => {
                self.in_heading = false;
                if self.in_row { self.writer.flow(" ") } else { self.writer.end_heading(level) }
            }
            Element::List(_) => {
                self.end_block();
                self.lists.pop();
                self.writer.drop_marker();
                self.writer.set_depth(self.lists.len());
                self.writer.end_block(if self.lists.is_empty() { Gap::Paragraph } else { Gap::Line });
            }
            Element::Item => {
                self.end_block();
                self.writer.drop_marker();
            }
            Element::Term => self.open(element),
            Element::Row => {
                self.in_row = false;
                self.writer.end_row();
            }
        }
    }

    /// Ends the block, unless the place is one that only holds a line.
    fn end_block(&mut self) {
        if self.in_heading || self.in_row {
            self.writer.flow(" ");
        } else {
            self.writer.end_block(if self.lists.is_empty() { Gap::Paragraph } else { Gap::Line });
        }
    }

    fn code(&mut self, node: &NodeRef<'_>) {
        let code = node.text();
        if code.trim().is_empty() {
            return;
        }
        self.end_block();
        if self.in_heading || self.in_row {
            self.writer.flow(&code);
            return;
        }
        self.writer.verbatim("```\n");
        self.writer.verbatim(code.trim_end());
        self.writer.verbatim("\n```");
        self.writer.end_block(Gap::Paragraph);
    }
}

/// Elements whose content is never text of the document.
const NEVER_TEXT: &[&str] = &[
    "script", "style", "noscript", "template", "svg", "math", "iframe", "object", "embed", "canvas", "audio", "video",
    "button", "select", "input", "textarea", "head", "map", "datalist", "progress", "meter",
];

fn meaning(name: &str, node: &NodeRef<'_>) -> Element {
    match name {
        "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => Element::Heading(name.as_bytes()[1] - b'0'),
        "ul" | "menu" | "dir" => Element::List(ListKind::Bullets),
        "ol" => Element::List(ListKind::Numbers),
        "li" => Element::Item,
        "dt" | "dd" => Element::Term,
        "tr" if is_layout(node) => Element::Block,
        "tr" => Element::Row,
        "td" | "th" if node.parent().is_none_or(|row| is_layout(&row)) => Element::Block,
        "td" | "th" => Element::Cell,
        _ if BLOCKS.contains(&name) => Element::Block,
        _ => Element::Inline,
    }
}

const BLOCKS: &[&str] = &[
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "caption",
    "center",
    "details",
    "dialog",
    "div",
    "dl",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "header",
    "hgroup",
    "html",
    "legend",
    "main",
    "nav",
    "p",
    "search",
    "section",
    "summary",
    "table",
];

/// True if a row's cells hold blocks: then the table arranges a page and has no data.
fn is_layout(row: &NodeRef<'_>) -> bool {
    const LAYOUT: &[&str] =
        &["p", "div", "table", "h1", "h2", "h3", "h4", "ul", "ol", "article", "section", "blockquote"];
    let cells = row.children_it(false);
    let has_block = |cell: NodeRef<'_>| {
        let blocks = cell
            .children_it(false)
            .filter(|child| child.node_name().is_some_and(|name| LAYOUT.contains(&name.as_ref())));
        // One block alone may only wrap the cell's words.
        blocks.take(2).count() == 2 || cell.children_it(false).any(|child| child.has_name("table"))
    };
    cells.into_iter().any(has_block)
}

fn is_boilerplate(node: &NodeRef<'_>, name: &str) -> bool {
    const NAMES: &[&str] = &["nav", "footer", "aside", "dialog", "search"];
    const ROLES: &[&str] =
        &["navigation", "banner", "contentinfo", "search", "complementary", "dialog", "menu", "menubar"];
    NAMES.contains(&name)
        || (name == "form" && !holds_prose(node))
        || (name == "header" && !is_inside_article(node))
        || node.has_attr("hidden")
        || node.attr("aria-hidden").is_some_and(|value| value.as_ref() == "true")
        || node.attr("role").is_some_and(|role| ROLES.contains(&role.as_ref()))
}

/// Some programs put the whole page into one form.
fn holds_prose(form: &NodeRef<'_>) -> bool {
    form.descendants_it().any(|below| below.has_name("p") || below.has_name("article") || below.has_name("h1"))
}

fn is_inside_article(node: &NodeRef<'_>) -> bool {
    node.ancestors_it(None).any(|above| above.has_name("article") || above.has_name("main"))
}
