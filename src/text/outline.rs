//! Reading an outline: which headings stand above an offset, on which page it lies, and what is embedded with a text.

use crate::domain::Outline;

/// Most characters that title and headings may put in front of a text to embed.
///
/// 256 characters are about 56 tokens: with a chunk of 200 tokens that just fits an embedder of 256. Half of FeedbackQA's
/// titles are longer than 125, with what matters most at their end: on its tuning half the vector leg had nDCG@10 .507 when
/// titles were cut at 100, and .572 with this bound.
pub const PREFIX_MAX_CHARS: usize = 256;

/// Titles of the headings above the byte at `offset`, outermost first; a heading stands above its own line.
pub fn heading_path_at(outline: &Outline, offset: usize) -> Vec<String> {
    let tree = HeadingTree::new(outline);
    let above = outline.headings.partition_point(|heading| heading.span.start <= offset);
    tree.path(outline, above.checked_sub(1))
}

/// Number of the page, from 1, on which the byte at `offset` lies; `None` where the format has no pages.
pub fn page_at(outline: &Outline, offset: usize) -> Option<u32> {
    if outline.page_starts.is_empty() {
        return None;
    }
    let pages = outline.page_starts.partition_point(|&start| start <= offset);
    // Text before the first page start belongs to the first page.
    u32::try_from(pages.max(1)).ok()
}

/// The text to embed for a chunk: title and heading path on a line of their own, then the chunk.
///
/// What the chunk starts with is not repeated, nor a heading that equals the title. The prefix is at most
/// [`PREFIX_MAX_CHARS`] long; where it is longer, the outermost headings go first, and the title keeps
/// at least half.
pub fn embedding_input(title: Option<&str>, heading_path: &[String], text: &str) -> String {
    let mut parts: Vec<&str> = Vec::with_capacity(heading_path.len() + 1);
    for part in title.into_iter().chain(heading_path.iter().map(String::as_str)) {
        let part = part.trim();
        if !part.is_empty() && !parts.last().is_some_and(|last| same(last, part)) {
            parts.push(part);
        }
    }
    parts.truncate(parts.len() - repeated(&parts, text));
    let has_title = title.is_some_and(|title| !title.trim().is_empty());
    let (title, headings) = parts.split_at(usize::from(has_title).min(parts.len()));
    let prefix = join_within_limit(title.first().copied(), headings);
    if prefix.is_empty() { text.to_owned() } else { format!("{prefix}\n{text}") }
}

/// How many of the last `parts` the text opens with, line by line.
fn repeated(parts: &[&str], text: &str) -> usize {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(parts.len()).collect();
    let opens_with = |count: usize| {
        parts[parts.len() - count..].iter().zip(&lines).filter(|(part, line)| same(part, line)).count() == count
    };
    let by_lines = (1..=parts.len()).rev().find(|&count| opens_with(count)).unwrap_or(0);
    // A lone title may also open the text's first sentence.
    if by_lines == 0 && parts.len() == 1 && opens_with_words(text, parts[0]) { 1 } else { by_lines }
}

fn opens_with_words(text: &str, words: &str) -> bool {
    let rest = text.trim_start().strip_prefix(words);
    rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

fn same(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}

fn join_within_limit(title: Option<&str>, headings: &[&str]) -> String {
    const SEPARATOR: &str = " > ";
    let of_headings: usize = headings.iter().map(|heading| heading.chars().count() + SEPARATOR.len()).sum();
    let room = PREFIX_MAX_CHARS.saturating_sub(of_headings).max(PREFIX_MAX_CHARS / 2);
    let head = title.map(|title| cut(title, room)).unwrap_or_default();
    let mut left = PREFIX_MAX_CHARS - head.chars().count();
    let mut kept = Vec::new();
    for heading in headings.iter().rev() {
        // The innermost heading says most about the chunk: it stays, cut if need be.
        let heading =
            if kept.is_empty() { cut(heading, left.saturating_sub(SEPARATOR.len())) } else { (*heading).to_owned() };
        let cost = heading.chars().count() + SEPARATOR.len();
        if cost > left {
            break;
        }
        left -= cost;
        kept.push(heading);
    }
    if !head.is_empty() {
        kept.push(head);
    }
    kept.reverse();
    kept.join(SEPARATOR)
}

/// At most `max_chars` of `text`, cut between words where there is a gap.
fn cut(text: &str, max_chars: usize) -> String {
    let Some((end, _)) = text.char_indices().nth(max_chars) else {
        return text.to_owned();
    };
    let whole = text[..end].rfind(char::is_whitespace).unwrap_or(end);
    text[..whole].trim_end().to_owned()
}

/// For each heading the one it stands under; found once, so that paths cost only their own length.
pub(super) struct HeadingTree {
    parents: Vec<Option<usize>>,
}

impl HeadingTree {
    pub fn new(outline: &Outline) -> Self {
        let mut open: Vec<usize> = Vec::new();
        let mut parents = Vec::with_capacity(outline.headings.len());
        for (index, heading) in outline.headings.iter().enumerate() {
            while open.last().is_some_and(|&last| outline.headings[last].level >= heading.level) {
                open.pop();
            }
            parents.push(open.last().copied());
            open.push(index);
        }
        Self { parents }
    }

    /// Titles from the outermost heading to `heading`.
    pub fn path(&self, outline: &Outline, heading: Option<usize>) -> Vec<String> {
        let mut path: Vec<String> = self.up_from(heading).map(|index| outline.headings[index].title.clone()).collect();
        path.reverse();
        path
    }

    /// The innermost heading that stands above both.
    pub fn common(&self, a: Option<usize>, b: Option<usize>) -> Option<usize> {
        // Parents come before their children, so of two different headings the later one climbs.
        let (mut a, mut b) = (a?, b?);
        while a != b {
            if a > b { a = self.parents[a]? } else { b = self.parents[b]? }
        }
        Some(a)
    }

    fn up_from(&self, heading: Option<usize>) -> impl Iterator<Item = usize> {
        std::iter::successors(heading, |&index| self.parents[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ByteSpan, Heading};

    fn outline(headings: &[(u8, &str, usize)]) -> Outline {
        let heading = |&(level, title, at): &(u8, &str, usize)| Heading {
            level,
            title: title.to_owned(),
            span: ByteSpan::new(at, at + 1),
        };
        Outline { headings: headings.iter().map(heading).collect(), page_starts: vec![0, 50] }
    }

    #[test]
    fn a_path_holds_the_open_headings_only() {
        let outline = outline(&[(1, "A", 0), (2, "A.1", 10), (3, "A.1.1", 20), (2, "A.2", 30), (1, "B", 40)]);

        assert_eq!(heading_path_at(&outline, 25), ["A", "A.1", "A.1.1"]);
        assert_eq!(heading_path_at(&outline, 30), ["A", "A.2"]);
        assert_eq!(heading_path_at(&outline, 99), ["B"]);
        assert!(heading_path_at(&Outline::default(), 5).is_empty());
    }

    #[test]
    fn pages_count_from_one() {
        let outline = outline(&[]);

        assert_eq!([page_at(&outline, 0), page_at(&outline, 49), page_at(&outline, 50)], [Some(1), Some(1), Some(2)]);
        assert_eq!(page_at(&Outline::default(), 0), None);
    }

    #[test]
    fn title_and_headings_go_in_front_and_are_never_said_twice() {
        let path = |titles: &[&str]| titles.iter().map(|&title| title.to_owned()).collect::<Vec<_>>();

        assert_eq!(
            embedding_input(Some("Guide"), &path(&["Setup", "Linux"]), "Run it."),
            "Guide > Setup > Linux\nRun it."
        );
        assert_eq!(embedding_input(Some("Guide"), &path(&["guide", "Linux"]), "Run it."), "Guide > Linux\nRun it.");
        assert_eq!(embedding_input(Some("Guide"), &path(&["Setup"]), "Setup\n\nRun it."), "Guide\nSetup\n\nRun it.");
        assert_eq!(embedding_input(Some("Setup"), &path(&["Setup"]), "Setup\nRun it."), "Setup\nRun it.");
        assert_eq!(embedding_input(Some("Moby Dick"), &[], "Moby Dick, a whale, swims."), "Moby Dick, a whale, swims.");
        assert_eq!(embedding_input(Some("Moby"), &[], "Mobydick"), "Moby\nMobydick");
        assert_eq!(embedding_input(None, &[], "Text"), "Text");
    }

    #[test]
    fn a_long_prefix_keeps_the_title_and_the_innermost_headings() {
        let path: Vec<String> = (0..9).map(|depth| format!("heading {depth} {}", "x".repeat(30))).collect();

        let input = embedding_input(Some(&"title ".repeat(60)), &path, "Text");

        let prefix = input.strip_suffix("\nText").unwrap();
        assert!(prefix.chars().count() <= PREFIX_MAX_CHARS);
        assert!(prefix.starts_with("title title") && prefix.ends_with(&path[8]) && !prefix.contains(&path[0]));
    }
}
