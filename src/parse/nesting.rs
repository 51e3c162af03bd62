//! How deep HTML nests, told from its tags alone, before a tree is built.
//!
//! Building a tree costs steps in proportion to depth for every element, so a million open tags would take hours. This
//! scan is linear and errs on the side of letting through: whatever gets past it meets the process's limits.

/// Deepest nesting of elements. Browsers stop at 512; pages whose tags are left open reach more by this count.
pub(super) const MAX_NESTING: usize = 1_000;

/// True if more than [`MAX_NESTING`] elements are open at some place.
pub(super) fn nests_too_deep(html: &str) -> bool {
    let mut open = 0usize;
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end..]);
            continue;
        }
        let closes = rest.starts_with('/');
        let body = if closes { &rest[1..] } else { rest };
        let name_bytes = body.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'-').count();
        if name_bytes == 0 {
            continue;
        }
        let name = body[..name_bytes].to_ascii_lowercase();
        let tail = after_tag(&body[name_bytes..]);
        rest = tail.text;
        if NOT_COUNTED.contains(&name.as_str()) {
            continue;
        }
        if closes {
            open = open.saturating_sub(1);
        } else if RAW_TEXT.contains(&name.as_str()) {
            rest = after_raw_text(rest, &name);
        } else if !tail.is_self_closing || !is_foreign(&name) {
            open += 1;
        }
        if open > MAX_NESTING {
            return true;
        }
    }
    false
}

/// Elements without content, and those that the next of their kind closes.
const NOT_COUNTED: &[&str] = &[
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr", "p",
    "li", "dt", "dd", "option", "optgroup", "tr", "td", "th", "thead", "tbody", "tfoot", "colgroup", "rp", "rt",
    "html", "head", "body",
];

/// Elements whose content holds no tags.
const RAW_TEXT: &[&str] = &["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"];

/// Elements of SVG, where `/>` does close.
fn is_foreign(name: &str) -> bool {
    const FOREIGN: &[&str] = &[
        "path",
        "circle",
        "rect",
        "line",
        "polygon",
        "polyline",
        "ellipse",
        "use",
        "stop",
        "g",
        "image",
        "animate",
        "fegaussianblur",
        "feoffset",
        "feblend",
        "lineargradient",
        "clippath",
        "mask",
        "symbol",
        "tspan",
    ];
    FOREIGN.contains(&name)
}

struct Tail<'a> {
    text: &'a str,
    is_self_closing: bool,
}

/// What follows the tag whose attributes start at `attributes`; a `>` in quotes does not end it.
fn after_tag(attributes: &str) -> Tail<'_> {
    let mut quote = None;
    let bytes = attributes.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => {
                let is_self_closing = at > 0 && bytes[at - 1] == b'/';
                return Tail { text: &attributes[at + 1..], is_self_closing };
            }
            (None, b'"' | b'\'') if at > 0 && bytes[at - 1] == b'=' => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    Tail { text: "", is_self_closing: false }
}

fn after_raw_text<'a>(text: &'a str, name: &str) -> &'a str {
    let mut rest = text;
    while let Some(at) = rest.find("</") {
        rest = &rest[at + 2..];
        if rest.get(..name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name)) {
            return after_tag(&rest[name.len()..]).text;
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_tags_are_counted_and_paragraphs_are_not() {
        let nested = |tag: &str, count| tag.repeat(count);

        assert!(nests_too_deep(&nested("<div>", MAX_NESTING + 1)));
        assert!(nests_too_deep(&nested("<b x='>'>", MAX_NESTING + 1)));
        assert!(nests_too_deep(&nested("<div/>", MAX_NESTING + 1)));
        assert!(!nests_too_deep(&nested("<div>", MAX_NESTING)));
        assert!(!nests_too_deep(&nested("<p>text<br><li>", 100_000)));
        assert!(!nests_too_deep(&nested("<div><span>x</span></div>", 100_000)));
        assert!(!nests_too_deep(&format!("<script>{}</script>", nested("<div>", 10_000))));
        assert!(!nests_too_deep(&format!("<!-- {} -->", nested("<div>", 10_000))));
        assert!(!nests_too_deep(&nested("<svg><path d='M0'/><path d=\"M1\"/></svg>", 10_000)));
    }

    #[test]
    fn torn_tags_are_read_in_one_pass() {
        for shape in ["<", "<a", "<a b='", "<!--", "</", "<script>", "<a <", "</script", "<script>'</", "<ä"] {
            nests_too_deep(&shape.repeat(1_000_000 / shape.len()));
        }
    }
}
