//! Bytes to normalized text: the one form in which text is stored, chunked, indexed and cited.
//!
//! Every offset the program hands out counts bytes of *this* form, so the steps must not change lightly:
//! UTF-8 is checked; byte order marks at the start go; CR LF, lone CR, form feed and vertical tab become LF; the
//! other C0 controls and DEL go, tab stays; the rest is composed (Unicode NFC). Normalizing twice changes nothing.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Why bytes are not text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidText {
    #[error("not valid UTF-8 at byte {offset}")]
    NotUtf8 { offset: usize },
    #[error("not valid {charset}")]
    NotInCharset { charset: String },
}

/// Checks that `bytes` are UTF-8 and normalizes them; the error's offset counts from the first byte given.
pub fn normalize_bytes(bytes: &[u8]) -> Result<String, InvalidText> {
    let text = std::str::from_utf8(bytes).map_err(|error| InvalidText::NotUtf8 { offset: error.valid_up_to() })?;
    Ok(normalize(text))
}

/// The normalized form of `text`; see the file's header for what changes.
pub fn normalize(text: &str) -> String {
    let clean = without_controls(text);
    // Controls go first: two characters that a control kept apart may compose once it is gone.
    let clean = clean.trim_start_matches('\u{FEFF}');
    match is_nfc_quick(clean.chars()) {
        IsNormalized::Yes => clean.to_owned(),
        IsNormalized::No | IsNormalized::Maybe => clean.nfc().collect(),
    }
}

fn without_controls(text: &str) -> Cow<'_, str> {
    let is_control = |byte: u8| (byte < b' ' && byte != b'\n' && byte != b'\t') || byte == 0x7F;
    if !text.bytes().any(is_control) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            // They separate lines or pages; dropping them would glue two words together.
            '\r' | '\u{B}' | '\u{C}' => clean.push('\n'),
            '\n' | '\t' => clean.push(c),
            _ if c.is_ascii_control() => {}
            _ => clean.push(c),
        }
    }
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_that_are_not_text_are_refused_with_the_place() {
        assert_eq!(normalize_bytes(b"caf\xE9 au lait"), Err(InvalidText::NotUtf8 { offset: 3 }));
        assert_eq!(InvalidText::NotUtf8 { offset: 3 }.to_string(), "not valid UTF-8 at byte 3");
    }

    #[test]
    fn line_ends_controls_and_byte_order_marks_are_settled() {
        assert_eq!(normalize("\u{FEFF}a\r\nb\rc\n\td\u{C}e"), "a\nb\nc\n\td\ne");
        assert_eq!(normalize("N\0U\u{7}L\u{7F}"), "NUL");
        assert_eq!(normalize("\0\u{FEFF}\u{FEFF}x\u{FEFF}y"), "x\u{FEFF}y");
    }

    #[test]
    fn letters_are_composed_also_across_a_removed_control() {
        assert_eq!(normalize("Cafe\u{301}"), "Café");
        assert_eq!(normalize("Cafe\0\u{301}"), "Café");
    }

    #[test]
    fn a_million_combining_marks_do_no_harm() {
        let text: String = std::iter::once('a').chain(std::iter::repeat_n('\u{301}', 1_000_000)).collect();

        assert!(normalize(&text).starts_with('á'));
    }

    proptest! {
        #[test]
        fn normalizing_twice_changes_nothing(text in "(\\PC|[\0-\u{7F}]|[\u{300}-\u{36F}]|\u{FEFF}|[가-힣]|[\u{1100}-\u{11FF}]){0,60}") {
            let once = normalize(&text);

            prop_assert_eq!(normalize(&once), once.clone());
            prop_assert!(!once.chars().any(|c| c.is_ascii_control() && c != '\n' && c != '\t'));
        }
    }
}
