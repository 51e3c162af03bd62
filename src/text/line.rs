//! What a single line looks like: blank, list item, table row, code fence, or running text.
//!
//! Read from the text itself, so that plain text and every parsed format are cut by the same rules.

/// The look of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineKind {
    Blank,
    /// Starts with a bullet or a short number and a dot or bracket.
    Item,
    /// Holds cells separated by tabs or bars.
    Row,
    /// Opens or closes a block of code.
    Fence,
    /// A heading or quotation mark of Markdown that stands in plain text.
    Marked,
    Text,
}

/// Tells what `line` (without its line end) looks like.
pub(super) fn line_kind(line: &str) -> LineKind {
    let body = line.trim();
    if body.is_empty() {
        LineKind::Blank
    } else if body.starts_with("```") || body.starts_with("~~~") {
        LineKind::Fence
    } else if body.starts_with('|') || body.contains('\t') || body.contains(" | ") {
        LineKind::Row
    } else if is_item(body) {
        LineKind::Item
    } else if body.starts_with('>') || is_marked_heading(body) {
        LineKind::Marked
    } else {
        LineKind::Text
    }
}

fn is_item(body: &str) -> bool {
    let mut chars = body.chars();
    let Some(first) = chars.next() else {
        return false;
    };
    if matches!(first, '-' | '*' | '+' | '•' | '‣' | '◦' | '▪' | '·' | '–' | '—') {
        return chars.next().is_some_and(char::is_whitespace);
    }
    // At most three digits or one letter: `12.`, `3)`, `b)`; a year at the start of a line is no item.
    let digits = body.bytes().take_while(u8::is_ascii_digit).count();
    let mut after = if digits > 0 { body[digits..].chars() } else { chars };
    let mark = after.next();
    let marked = match digits {
        0 => first.is_ascii_lowercase() && mark == Some(')'),
        1..=3 => matches!(mark, Some('.' | ')')),
        _ => false,
    };
    marked && after.next().is_some_and(char::is_whitespace)
}

fn is_marked_heading(body: &str) -> bool {
    let hashes = body.bytes().take_while(|&byte| byte == b'#').count();
    (1..=6).contains(&hashes) && body[hashes..].starts_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let of = |kind, lines: &[&str]| lines.iter().for_each(|line| assert_eq!(line_kind(line), kind, "{line:?}"));

        of(LineKind::Blank, &["", " \t"]);
        of(LineKind::Item, &["- one", "  * two", "3. three", "12) x", "b) y", "• z"]);
        of(LineKind::Row, &["| a | b |", "a | b", "a\tb"]);
        of(LineKind::Fence, &["```rust", "~~~"]);
        of(LineKind::Marked, &["# Heading", "> quoted"]);
        of(LineKind::Text, &["1984 was a year.", "-5 degrees", "a", "3.14 is pi", "#include <x>", "e) "]);
    }
}
