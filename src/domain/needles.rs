//! What a document's text is recognized by, wherever a piece of it may lie.
//!
//! Two questions are asked. Does this record tell something of the text? Answered by runs of words, whatever stands
//! between them. Does this file still hold bytes of it? Answered by blocks of bytes: a rolling hash finds every block of
//! the text at any offset, in one pass (Karp and Rabin, "Efficient randomized pattern-matching algorithms", 1987).
//! Needles are the text in other words: they are kept in memory only.

use std::collections::{HashMap, HashSet};

use super::{ChunkId, hash_parts};

/// Words in a row that say where a text comes from. 6: fewer are met by chance in any two texts of a trade.
const PHRASE_WORDS: usize = 6;
/// A shorter text, its words joined, is nobody's: "see below" stands everywhere.
const SHORT_MIN_BYTES: usize = 12;
/// Bytes of a block: whatever is left of twice as many in a row holds a whole one.
const BLOCK_BYTES: usize = 32;
/// Bytes of a title or an address by which it is searched.
const BRIEF_BYTES: usize = 12;
/// Most blocks. 256 Ki: 8 MiB of text, some 20 MB of memory; longer texts are searched by their beginning.
const MOST_BLOCKS: usize = 1 << 18;
/// An odd number without a pattern.
const RADIX: u64 = 0x9E37_79B9_7F4A_7C15;

/// Everything that tells a document's text.
#[derive(Debug, Default)]
pub struct Needles {
    phrases: HashSet<[u8; 16]>,
    /// Texts of fewer words than a phrase, as their words.
    short: HashSet<String>,
    chunks: HashSet<String>,
    long: Blocks<BLOCK_BYTES>,
    brief: Blocks<BRIEF_BYTES>,
}

impl Needles {
    /// Takes in a version's text.
    pub fn add_text(&mut self, text: &str) {
        let words = words(text);
        for phrase in words.windows(PHRASE_WORDS) {
            self.phrases.insert(hash_of(phrase));
        }
        let joined = words.join(" ");
        if words.len() < PHRASE_WORDS && joined.len() >= SHORT_MIN_BYTES {
            self.short.insert(joined);
        }
        self.long.add(text.as_bytes());
        if text.len() < BLOCK_BYTES {
            self.brief.add(&text.as_bytes()[..text.len().min(BRIEF_BYTES)]);
        }
    }

    /// Takes in a title or an address: searched for in files, but no sign of whose a record is.
    pub fn add_name(&mut self, name: &str) {
        let name = name.as_bytes();
        self.brief.add(&name[..name.len().min(BRIEF_BYTES)]);
    }

    pub fn add_chunk(&mut self, id: ChunkId) {
        self.chunks.insert(id.to_string());
    }

    pub fn is_empty(&self) -> bool {
        self.phrases.is_empty() && self.short.is_empty() && self.chunks.is_empty() && self.brief.rows.is_empty()
    }

    /// True if a record tells something of the text: as it is, or as JSON, or as JSON inside JSON.
    pub fn are_told_by(&self, record: &str) -> bool {
        let names_chunk = |(at, _): (usize, &str)| {
            let end = (at + CHUNK_ID_BYTES).min(record.len());
            record.get(at..end).is_some_and(|id| self.chunks.contains(id))
        };
        if !self.chunks.is_empty() && record.match_indices("chk_").any(names_chunk) {
            return true;
        }
        let words = words(record);
        if words.windows(PHRASE_WORDS).any(|phrase| self.phrases.contains(&hash_of(phrase))) {
            return true;
        }
        (1..PHRASE_WORDS).any(|length| {
            !self.short.is_empty() && words.windows(length).any(|run| self.short.contains(&run.join(" ")))
        })
    }

    /// Adds the blocks that `bytes` hold to `found`. Whoever reads a file in portions lets each begin with the last
    /// [`Self::OVERLAP_BYTES`] of the one before.
    pub fn find_blocks(&self, bytes: &[u8], found: &mut HashSet<Vec<u8>>) {
        self.long.find(bytes, found);
        self.brief.find(bytes, found);
    }

    /// How many bytes of two portions must be the same.
    pub const OVERLAP_BYTES: usize = BLOCK_BYTES - 1;
}

/// `chk_` and 32 digits.
const CHUNK_ID_BYTES: usize = 36;

fn hash_of(phrase: &[String]) -> [u8; 16] {
    let parts: Vec<&[u8]> = phrase.iter().map(String::as_bytes).collect();
    hash_parts(&parts)
}

/// The words of a text in lower case. Escapes of JSON, however often escaped again, are what they stand for.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '\\' {
            while letters.next_if_eq(&'\\').is_some() {}
            letters.next_if(|escaped| matches!(escaped, 'n' | 'r' | 't' | 'b' | 'f'));
        }
        if letter.is_alphanumeric() {
            word.extend(letter.to_lowercase());
        } else if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Blocks of `WIDTH` bytes by their hash.
#[derive(Debug, Default)]
struct Blocks<const WIDTH: usize> {
    rows: HashMap<u64, Vec<[u8; WIDTH]>>,
    count: usize,
}

impl<const WIDTH: usize> Blocks<WIDTH> {
    /// Takes in one block after the other; those that might stand anywhere are left out.
    fn add(&mut self, bytes: &[u8]) {
        let (blocks, _) = bytes.as_chunks::<WIDTH>();
        for block in blocks.iter().filter(|block| is_telling(*block)) {
            let row = self.rows.entry(hash(block)).or_default();
            if self.count < MOST_BLOCKS && !row.contains(block) {
                row.push(*block);
                self.count += 1;
            }
        }
    }

    fn find(&self, bytes: &[u8], found: &mut HashSet<Vec<u8>>) {
        if self.rows.is_empty() || bytes.len() < WIDTH {
            return;
        }
        let lead = (1..WIDTH).fold(1_u64, |power, _| power.wrapping_mul(RADIX));
        let mut rolling = hash(&bytes[..WIDTH]);
        for at in 0..=bytes.len() - WIDTH {
            let window = &bytes[at..at + WIDTH];
            if let Some(row) = self.rows.get(&rolling)
                && row.iter().any(|block| block == window)
            {
                found.insert(window.to_vec());
            }
            if let Some(next) = bytes.get(at + WIDTH) {
                let without = rolling.wrapping_sub(u64::from(bytes[at]).wrapping_mul(lead));
                rolling = without.wrapping_mul(RADIX).wrapping_add(u64::from(*next));
            }
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |hash, byte| hash.wrapping_mul(RADIX).wrapping_add(u64::from(*byte)))
}

/// Half of it letters or digits, and not the same few.
fn is_telling(block: &[u8]) -> bool {
    let letters = block.iter().filter(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii()).count();
    let different: HashSet<&u8> = block.iter().collect();
    letters * 2 >= block.len() && different.len() >= 6
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "The sluice keeper wrote:\n\"nobody opens gate seven before dawn\" – and nobody did.";

    fn needles() -> Needles {
        let mut needles = Needles::default();
        needles.add_text(TEXT);
        needles
    }

    #[test]
    fn a_record_that_quotes_six_words_tells_the_text_however_it_is_escaped() {
        let needles = needles();
        let once = serde_json::json!({"prompt": TEXT}).to_string();
        let twice = serde_json::json!({"body": once}).to_string();

        for record in [TEXT, &once, &twice, "He said: nobody opens gate SEVEN before: dawn"] {
            assert!(needles.are_told_by(record), "{record}");
        }
        assert!(!needles.are_told_by("nobody opens gate seven at noon"));
    }

    #[test]
    fn a_short_text_is_told_by_all_of_its_words_and_one_that_stands_everywhere_by_nothing() {
        let mut needles = Needles::default();
        needles.add_text("Gate seven, dawn.");
        needles.add_text("See below.");

        assert!(needles.are_told_by("at gate seven: dawn"));
        assert!(!needles.are_told_by("gate seven"));
        assert!(!needles.are_told_by("see below"));
    }

    #[test]
    fn a_record_that_names_a_chunk_tells_of_it() {
        let mut needles = Needles::default();
        needles.add_chunk(ChunkId([7; 16]));

        assert!(needles.are_told_by(&format!("{{\"chunk_id\":\"{}\"}}", ChunkId([7; 16]))));
        assert!(!needles.are_told_by(&ChunkId([8; 16]).to_string()));
    }

    #[test]
    fn a_title_is_found_in_bytes_and_is_no_sign_of_a_record() {
        let mut needles = Needles::default();
        needles.add_name("The keeper's book");
        let mut found = HashSet::new();

        needles.find_blocks(b"\0\0The keeper's book\0", &mut found);

        assert_eq!(found.len(), 1);
        assert!(!needles.are_told_by("The keeper's book"));
    }

    proptest! {
        #[test]
        fn a_block_is_found_wherever_it_lies(before in proptest::collection::vec(any::<u8>(), 0..99), behind in 0_usize..9) {
            let needles = needles();
            let mut bytes = before;
            bytes.extend_from_slice(&TEXT.as_bytes()[..BLOCK_BYTES]);
            bytes.extend(vec![0; behind]);
            let mut found = HashSet::new();

            needles.find_blocks(&bytes, &mut found);

            prop_assert!(found.contains(&TEXT.as_bytes()[..BLOCK_BYTES]));
            found.clear();
            needles.find_blocks(&bytes[..bytes.len() - behind - 1], &mut found);
            prop_assert!(found.is_empty());
        }
    }
}
