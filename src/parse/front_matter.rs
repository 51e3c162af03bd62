//! The title in a Markdown document's front matter: a line of YAML or TOML, not the whole language.

/// What the front matter names as `title`, without quotes.
pub(super) fn front_matter_title(block: &str) -> Option<String> {
    let value = block.lines().find_map(|line| {
        // Only a key at the margin is the document's own.
        let rest = line.strip_prefix("title")?.trim_start();
        rest.strip_prefix(':').or_else(|| rest.strip_prefix('='))
    })?;
    let title = unquote(value.trim());
    (!title.is_empty() && !matches!(title.as_str(), "|" | ">")).then_some(title)
}

fn unquote(value: &str) -> String {
    let inner = |quote: char| value.strip_prefix(quote)?.split_once(quote).map(|(inner, _)| inner);
    match (inner('"'), inner('\'')) {
        (Some(_), _) => unescape(&value[1..]),
        (None, Some(_)) => value[1..value.rfind('\'').unwrap_or(value.len())].replace("''", "'"),
        (None, None) => value.split(" #").next().unwrap_or_default().trim().to_owned(),
    }
}

/// The part of a double-quoted text before its closing quote.
fn unescape(text: &str) -> String {
    let mut title = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => title.extend(chars.next()),
            _ => title.push(c),
        }
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_read_from_yaml_and_toml() {
        let title = |block| front_matter_title(block);

        assert_eq!(title("layout: page\ntitle: Getting started # soon\n").as_deref(), Some("Getting started"));
        assert_eq!(title("title: \"Say \\\"hi\\\": a guide\"\n").as_deref(), Some("Say \"hi\": a guide"));
        assert_eq!(title("title: 'It''s here'\n").as_deref(), Some("It's here"));
        assert_eq!(title("title = \"From TOML\"\n").as_deref(), Some("From TOML"));
        assert_eq!(title("nested:\n  title: no\nsubtitle: no\ntitle:\n"), None);
    }
}
