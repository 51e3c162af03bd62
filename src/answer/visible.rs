//! Taking away what people cannot see: text that hides from its readers must not reach a model, nor leave one.
//!
//! Hidden characters carry instructions that no reviewer of a document notices (tag characters, zero-width codes),
//! and bidirectional controls make text read differently from what it says.

/// `text` without invisible, bidirectional, private-use and control characters; line ends and tabs stay.
pub fn visible(text: &str) -> String {
    text.chars().filter(|c| !is_hidden(*c)).collect()
}

/// True for characters without a shape of their own.
pub fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Joiners shape Persian, Indic and emoji text.
        '\u{200C}' | '\u{200D}' => false,
        _ if c.is_control() => true,
        // Soft hyphen, fillers, Mongolian separators.
        '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' => true,
        '\u{180B}'..='\u{180F}' | '\u{3164}' | '\u{FFA0}' => true,
        // Zero width, bidirectional marks, embeddings, isolates, invisible operators.
        '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{206F}' => true,
        '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' => true,
        // Private use, tags, variation selectors supplement.
        '\u{E000}'..='\u{F8FF}' | '\u{E0000}'..='\u{E0FFF}' | '\u{F0000}'..='\u{10FFFF}' => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_text_is_taken_away_and_visible_text_stays() {
        let tagged: String = "ignore".chars().map(|c| char::from_u32(0xE0000 + c as u32).unwrap()).collect();

        assert_eq!(visible(&format!("a{tagged}b\u{202E}c\u{200B}\u{7}d\n\te")), "abcd\n\te");
        for text in ["Größe 東京 مرحبا می\u{200C}خواهم 👩\u{200D}💻", "x² ≤ 3 €"] {
            assert_eq!(visible(text), text);
        }
    }
}
