//! What the ledger keeps of prompts and replies, where the settings ask for it: redacted and bounded.
//!
//! Redaction is a net, not a wall: it takes out what looks like a secret by its shape. Whoever must not keep what
//! people write leaves `gateway.ledger_bodies` at `none`.

use serde_json::json;

use super::contract::ChatRequest;

/// Most bytes kept of one body.
const BODY_MAX_BYTES: usize = 32 << 10;
/// Words of letters and digits that are this long are keys rather than words.
const KEY_MIN_CHARS: usize = 20;
const HIDDEN: &str = "[redacted]";

/// The messages of a request.
pub fn of_request(request: &ChatRequest) -> String {
    let messages: Vec<_> = request
        .messages
        .iter()
        .map(|message| json!({"role": message.role.as_str(), "content": redact(&message.content)}))
        .collect();
    bounded(json!(messages).to_string())
}

/// The text of a reply.
pub fn of_reply(text: &str) -> String {
    bounded(redact(text))
}

/// `text` without what looks like a key, an address of mail, or the number of a card.
pub fn redact(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut word_start = 0;
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '_' | '-' | '+' | '/' | '=');
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        if is_part(c) {
            continue;
        }
        let word = &text[word_start..at];
        clean.push_str(if is_secret(word) { HIDDEN } else { word });
        if at < text.len() {
            clean.push(c);
        }
        word_start = at + c.len_utf8();
    }
    hide_card_numbers(&clean)
}

fn is_secret(word: &str) -> bool {
    let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let is_mail = core.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'));
    let has = |test: fn(&char) -> bool| core.chars().any(|c| test(&c));
    let is_key = core.len() >= KEY_MIN_CHARS
        && has(char::is_ascii_digit)
        && has(char::is_ascii_alphabetic)
        // Paths and file names are long, too, but their parts are words.
        && core.split(['/', '.', '-', '_']).any(|part| part.len() >= KEY_MIN_CHARS - 4 && part.bytes().any(|b| b.is_ascii_digit()));
    is_mail || is_key
}

/// Hides 13 to 19 digits, alone or in groups, whose check digit is right (Luhn, ISO/IEC 7812-1).
fn hide_card_numbers(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut run = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_digit() || (matches!(c, ' ' | '-') && run.ends_with(|last: char| last.is_ascii_digit())) {
            run.push(c);
            continue;
        }
        let digits: Vec<u32> = run.chars().filter_map(|c| c.to_digit(10)).collect();
        if (13..=19).contains(&digits.len()) && luhn(&digits) {
            clean.push_str(HIDDEN);
            clean.extend(run.chars().rev().take_while(|c| !c.is_ascii_digit()).collect::<Vec<_>>().into_iter().rev());
        } else {
            clean.push_str(&run);
        }
        run.clear();
        if c != '\0' {
            clean.push(c);
        }
    }
    clean
}

fn luhn(digits: &[u32]) -> bool {
    let doubled = |digit: u32| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
    let sum: u32 =
        digits.iter().rev().enumerate().map(|(at, digit)| if at % 2 == 1 { doubled(*digit) } else { *digit }).sum();
    sum.is_multiple_of(10)
}

fn bounded(mut text: String) -> String {
    if text.len() > BODY_MAX_BYTES {
        let end = (0..=BODY_MAX_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("… [cut]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mail_and_card_numbers_are_hidden_and_words_are_not() {
        for (text, expected) in [
            ("use sk-proj-a1B2c3D4e5F6g7H8i9J0 now", "use [redacted] now"),
            ("Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6.e30", "Bearer [redacted]"),
            ("write to ann.lee@example.org, please", "write to [redacted], please"),
            ("card 4111 1111 1111 1111 ok", "card [redacted] ok"),
            ("order 1234 5678 9012 3456 ok", "order 1234 5678 9012 3456 ok"),
            ("see runbooks/2026-restart-the-server.md", "see runbooks/2026-restart-the-server.md"),
            ("ERR_CONN_4012 in v2.13.1", "ERR_CONN_4012 in v2.13.1"),
            ("", ""),
        ] {
            assert_eq!(redact(text), expected, "{text}");
        }
    }

    #[test]
    fn a_long_body_is_cut_at_a_character() {
        let text = bounded("é".repeat(BODY_MAX_BYTES));

        assert!(text.len() < BODY_MAX_BYTES + 20);
        assert!(text.ends_with("[cut]"));
    }
}
