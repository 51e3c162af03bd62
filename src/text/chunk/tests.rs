//! What chunks promise, as properties over texts of every shape.

use proptest::prelude::*;

use super::*;
use crate::domain::Heading;

/// Four characters of a word to a token, each ideograph and each mark one: close to what word pieces do.
struct Pieces;

impl TokenPositions for Pieces {
    fn token_starts(&self, text: &str) -> Vec<usize> {
        let mut starts = Vec::new();
        let mut in_word = 0;
        for (at, c) in text.char_indices() {
            if c.is_whitespace() {
                in_word = 0;
            } else if c.is_ascii_alphanumeric() {
                if in_word % 4 == 0 {
                    starts.push(at);
                }
                in_word += 1;
            } else {
                starts.push(at);
                in_word = 0;
            }
        }
        starts
    }
}

/// One "unknown" token for anything between spaces, however long.
struct Unknown;

impl TokenPositions for Unknown {
    fn token_starts(&self, text: &str) -> Vec<usize> {
        text.split_whitespace().map(|word| word.as_ptr() as usize - text.as_ptr() as usize).collect()
    }
}

fn settings(target_tokens: usize, max_tokens: usize, min_tokens: usize, overlap_tokens: usize) -> ChunkingSettings {
    ChunkingSettings { target_tokens, max_tokens, min_tokens, overlap_tokens, ..ChunkingSettings::default() }
}

/// An outline of every line that starts with `#`, as a parser would give it.
fn outline_of(text: &str) -> Outline {
    let mut headings = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let level = line.bytes().take_while(|&byte| byte == b'#').count();
        if level > 0 {
            let span = ByteSpan::new(start, start + line.trim_end().len());
            headings.push(Heading { level: level as u8, title: line[level..].trim().to_owned(), span });
        }
        start += line.len();
    }
    Outline { headings, page_starts: Vec::new() }
}

fn texts<'a>(text: &'a str, chunks: &[TextChunk]) -> Vec<&'a str> {
    chunks.iter().map(|chunk| chunk.span.slice(text).unwrap()).collect()
}

fn cut<'a>(text: &'a str, settings: &ChunkingSettings) -> Vec<&'a str> {
    texts(text, &chunk(text, &outline_of(text), settings, &Pieces))
}

const SENTENCE: &str = "Every write is kept once it was acknowledged. ";

#[test]
fn text_of_whitespace_has_no_chunks() {
    assert!(cut("", &ChunkingSettings::default()).is_empty());
    assert!(cut(" \n\t\n ", &ChunkingSettings::default()).is_empty());
}

#[test]
fn a_short_text_is_one_chunk_without_its_margins() {
    assert_eq!(cut("\n  One. Two.\n\n", &ChunkingSettings::default()), ["One. Two."]);
}

#[test]
fn sections_stay_apart_and_carry_their_headings() {
    let body = SENTENCE.repeat(3);
    let text = format!("# Guide\n\n## Setup\n\n{body}\n\n## Use\n\n{body}");
    let outline = outline_of(&text);

    let chunks = chunk(&text, &outline, &ChunkingSettings::default(), &Pieces);

    assert_eq!(chunks.len(), 2);
    assert_eq!(chunks[0].heading_path, ["Guide", "Setup"]);
    assert_eq!(chunks[1].heading_path, ["Guide", "Use"]);
    assert!(texts(&text, &chunks)[0].starts_with("# Guide\n\n## Setup\n\nEvery"));
}

#[test]
fn tiny_sections_join_and_keep_only_what_stands_above_both() {
    let text = "# Api\n\n## Get\n\nReads.\n\n## Put\n\nWrites.";

    let chunks = chunk(text, &outline_of(text), &ChunkingSettings::default(), &Pieces);

    assert_eq!(texts(text, &chunks), [text]);
    assert_eq!(chunks[0].heading_path, ["Api"]);
}

#[test]
fn a_heading_is_not_separated_from_what_follows_it() {
    let filler = SENTENCE.repeat(5);
    let text = format!("{filler}\n\n# Heading\n\n{}", SENTENCE.repeat(40));

    let chunks = cut(&text, &settings(60, 80, 10, 0));

    assert!(chunks.iter().all(|chunk| !chunk.ends_with("# Heading")));
    assert_eq!(chunks.iter().filter(|chunk| chunk.starts_with("# Heading\n\nEvery")).count(), 1);
}

#[test]
fn paragraphs_and_items_are_preferred_to_sentences() {
    let paragraph = SENTENCE.repeat(4).trim_end().to_owned();
    let text = [paragraph.as_str(); 6].join("\n\n");

    assert!(cut(&text, &settings(60, 80, 10, 0)).iter().all(|&chunk| chunk == paragraph));

    let items: String = (0..30).map(|_| "- an item of a list that goes on for a while and ends\n").collect();
    let chunks = cut(&items, &settings(60, 80, 10, 0));
    assert!(chunks.len() > 1 && chunks.iter().all(|chunk| chunk.starts_with("- an") && chunk.ends_with("ends")));
}

#[test]
fn code_and_tables_are_cut_between_lines() {
    let code = format!("```\n{}```", "let total = first + second; // Sum. Of both\n".repeat(40));
    let table = "| name | value. Unit |\n".repeat(60);

    for chunk in cut(&code, &settings(60, 80, 10, 0)) {
        assert!(chunk.starts_with("```") || chunk.starts_with("let total"), "{chunk}");
    }
    for chunk in cut(&table, &settings(60, 80, 10, 0)) {
        assert!(chunk.starts_with("| name") && chunk.ends_with("Unit |"), "{chunk}");
    }
}

#[test]
fn the_last_piece_is_never_tiny_when_a_neighbour_has_room() {
    for sentences in 1..60 {
        let text = SENTENCE.repeat(sentences);

        let chunks = chunk(&text, &Outline::default(), &settings(60, 80, 20, 0), &Pieces);

        let shortest = chunks.iter().map(|chunk| chunk.token_count).min().unwrap();
        assert!(chunks.len() == 1 || shortest >= 20, "{sentences} sentences: {shortest} tokens");
    }
}

#[test]
fn overlap_repeats_whole_sentences_within_its_limit() {
    let text: String = (0..40).map(|n| format!("Sentence number {n} says a thing or two. ")).collect();

    let chunks = chunk(&text, &Outline::default(), &settings(60, 90, 10, 25), &Pieces);

    assert!(chunks.len() > 3);
    for pair in chunks.windows(2) {
        let shared = ByteSpan::new(pair[1].span.start, pair[0].span.end).slice(&text).unwrap();
        assert!(shared.starts_with("Sentence number") && shared.ends_with("two."), "{shared}");
        assert!(Pieces.token_starts(shared).len() <= 25);
        assert!(pair[1].span.start > pair[0].span.start);
        assert!(pair[1].token_count <= 90);
    }
}

#[test]
fn a_sentence_over_the_limit_is_cut_between_words_only() {
    let text = "unbroken prose without any end ".repeat(200);

    let chunks = cut(&text, &settings(60, 80, 10, 0));

    let words = ["unbroken", "prose", "without", "any", "end"];
    assert!(chunks.len() > 10);
    assert!(chunks.iter().all(|chunk| chunk.split_whitespace().all(|word| words.contains(&word))));
}

#[test]
fn a_word_over_the_limit_is_cut_between_graphemes() {
    let flags = "🇩🇪🇫🇷e\u{301}".repeat(500);

    let chunks = cut(&flags, &settings(60, 80, 10, 0));

    assert!(chunks.len() > 1);
    assert_eq!(chunks.concat(), flags);
    assert!(chunks.iter().all(|chunk| chunk.starts_with('🇩') || chunk.starts_with('🇫') || chunk.starts_with('e')));
    assert!(chunks.iter().all(|chunk| chunk.ends_with('\u{301}') || chunk.chars().rev().take(2).all(|c| c >= '🇦')));
}

#[test]
fn a_blob_that_the_tokenizer_calls_one_token_is_cut_all_the_same() {
    let blob = "QUJD".repeat(100_000);

    let chunks = chunk(&blob, &Outline::default(), &ChunkingSettings::default(), &Unknown);

    assert!(chunks.iter().all(|chunk| chunk.span.len() <= 200 * 32));
    assert_eq!(chunks.iter().map(|chunk| chunk.span.len()).sum::<usize>(), blob.len());
}

/// Prose of `sentences` sentences whose lengths and words differ, a paragraph's end after each `per_paragraph`-th.
fn prose(sentences: u64, per_paragraph: u64) -> String {
    // A linear congruential generator (Knuth's MMIX constants): the same text in every run.
    let mut state = 1u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut text = String::new();
    for sentence in 1..=sentences {
        text.push_str("The");
        for _ in 0..next(25) + 3 {
            text.push(' ');
            (0..next(9) + 1).for_each(|_| text.push((b'a' + next(26) as u8) as char));
        }
        text.push_str(if sentence % per_paragraph == 0 { ".\n\n" } else { ". " });
    }
    text
}

#[test]
fn an_edit_at_the_start_leaves_later_chunks_alone() {
    for per_paragraph in [1, 4, 1_000] {
        let before = prose(1_000, per_paragraph);
        let after = format!("A new sentence was put in front of everything else here. {before}");

        let old = cut(&before, &ChunkingSettings::default());
        let new = cut(&after, &ChunkingSettings::default());

        let changed = new.iter().filter(|chunk| !old.contains(chunk)).count();
        assert!(changed <= 8, "{changed} of {} chunks differ", new.len());
    }
}

#[test]
fn hostile_shapes_stay_linear() {
    let others = [ChunkingStrategy::Window, ChunkingStrategy::Sentences].map(|strategy| ChunkingSettings {
        strategy,
        overlap_tokens: 40,
        ..ChunkingSettings::default()
    });
    let shapes = [
        "# h\n", "a ", "a. ", "\n\na", "()", "我", "- x\n", "e\u{301}", "```\n", "|", " \u{300}", "A.", "a:\n\n", "\t",
    ];
    for shape in shapes {
        let text = shape.repeat(1_000_000 / shape.len());
        let outline = outline_of(&text);

        let chunks = chunk(&text, &outline, &settings(160, 200, 24, 40), &Pieces);

        assert!(chunks.iter().all(|chunk| chunk.token_count <= 200), "{shape:?}");
        // They share their atoms with the first, so a shorter text shows what they add.
        let text = &text[..text.floor_char_boundary(200_000)];
        let outline = outline_of(text);
        for settings in &others {
            let chunks = chunk(text, &outline, settings, &Pieces);

            assert!(chunks.iter().all(|chunk| chunk.token_count <= 200), "{shape:?}");
        }
    }
}

#[test]
fn contradicting_settings_are_refused() {
    assert_eq!(ChunkingSettings::default().check(), Ok(()));
    assert!(settings(160, 8, 0, 0).check().is_err());
    assert!(settings(300, 200, 0, 0).check().is_err());
    assert!(settings(100, 200, 60, 0).check().is_err());
    assert!(settings(100, 200, 0, 60).check().is_err());
}

#[test]
fn windows_are_as_long_as_they_may_be_and_repeat_what_they_are_told_to() {
    let text: String = (0..200).map(|n| format!("w{n:03} ")).collect();
    let window = |overlap_tokens| ChunkingSettings {
        strategy: ChunkingStrategy::Window,
        max_tokens: 16,
        overlap_tokens,
        ..ChunkingSettings::default()
    };

    let plain = cut(&text, &window(0));
    let overlapping = cut(&text, &window(4));

    assert!(plain[..plain.len() - 1].iter().all(|chunk| chunk.split(' ').count() == 16), "{plain:?}");
    assert!(plain[1].starts_with("w016 "));
    assert!(overlapping[1].starts_with("w012 ") && overlapping[1].ends_with(" w027"), "{}", overlapping[1]);
}

#[test]
fn sentence_windows_hold_whole_sentences_of_one_section() {
    let text = "# A\n\nOne. Two. Three. Four.\n\n# B\n\nFive. Six.";
    let settings = ChunkingSettings { strategy: ChunkingStrategy::Sentences, ..ChunkingSettings::default() };

    let chunks = chunk(text, &outline_of(text), &settings, &Pieces);

    assert_eq!(texts(text, &chunks), ["# A\n\nOne. Two. Three.", "Three. Four.", "# B\n\nFive. Six."]);
    assert_eq!(chunks[1].heading_path, ["A"]);
}

#[test]
fn a_specification_can_be_read_back_and_an_unknown_one_is_refused() {
    for strategy in [ChunkingStrategy::Structure, ChunkingStrategy::Window, ChunkingStrategy::Sentences] {
        let settings = ChunkingSettings { strategy, max_tokens: 190, ..ChunkingSettings::default() };
        let spec = chunker_spec(&settings, "wordpiece");

        assert_eq!(chunking_of(&spec), Some(settings));
        assert_eq!(chunking_of(&ChunkerSpec { version: 99, ..spec.clone() }), None);
        assert_eq!(chunking_of(&ChunkerSpec { name: "pages".to_owned(), ..spec }), None);
    }
}

#[test]
fn settings_and_counter_enter_the_fingerprint() {
    let fingerprint = |settings: &ChunkingSettings, counter| chunker_spec(settings, counter).fingerprint();
    let base = ChunkingSettings::default();

    assert_eq!(fingerprint(&base, "wordpiece"), fingerprint(&base, "wordpiece"));
    assert_ne!(fingerprint(&base, "wordpiece"), fingerprint(&base, "bytes"));
    assert_ne!(fingerprint(&base, "wordpiece"), fingerprint(&settings(160, 200, 24, 8), "wordpiece"));
}

fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z]{1,9} ",
        2 => "[A-Z][a-z]{1,9}[.!?] ",
        1 => "[a-z]{60,300} ",
        1 => "[0-9a-f+/]{300,500}",
        1 => "(我|你|好|。){1,40}",
        1 => "(\n|\n\n|\t| ){1,3}",
        1 => "\n#{1,3} [a-z]{1,20}\n",
        1 => "\n- [a-z ]{1,20}\n",
        1 => "\n```\n",
        1 => "\\PC{1,8}",
        1 => "(e\u{301}|🇩🇪|👩‍👩‍👧){1,30}",
    ];
    proptest::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

fn any_settings() -> impl Strategy<Value = ChunkingSettings> {
    (16usize..80).prop_flat_map(|max| (Just(max), max / 2..=max)).prop_flat_map(|(max, target)| {
        (Just(target), Just(max), 0..=target / 2, prop_oneof![Just(0), 0..=target / 2])
            .prop_map(|(target, max, min, overlap)| settings(target, max, min, overlap))
    })
}

/// Settings of the strategies that only look at length.
fn any_windows() -> impl Strategy<Value = ChunkingSettings> {
    let window = (16usize..80).prop_flat_map(|max| (Just(max), 0..=max / 2));
    let window = window.prop_map(|(max, overlap)| ChunkingSettings {
        strategy: ChunkingStrategy::Window,
        max_tokens: max,
        overlap_tokens: overlap,
        ..ChunkingSettings::default()
    });
    let sentences = (16usize..80, 1usize..6).prop_flat_map(|(max, of)| (Just(max), Just(of), 0..of));
    let sentences = sentences.prop_map(|(max, of, overlap)| ChunkingSettings {
        strategy: ChunkingStrategy::Sentences,
        max_tokens: max,
        window_sentences: of,
        overlap_sentences: overlap,
        overlap_tokens: 0,
        ..ChunkingSettings::default()
    });
    prop_oneof![window, sentences]
}

/// How much of a word may be one piece.
fn reach(settings: &ChunkingSettings) -> usize {
    match settings.strategy {
        ChunkingStrategy::Structure => settings.max_tokens - settings.overlap_tokens,
        ChunkingStrategy::Window | ChunkingStrategy::Sentences => settings.max_tokens,
    }
}

fn repeats(settings: &ChunkingSettings) -> bool {
    match settings.strategy {
        ChunkingStrategy::Structure | ChunkingStrategy::Window => settings.overlap_tokens > 0,
        ChunkingStrategy::Sentences => settings.overlap_sentences > 0,
    }
}

fn is_cut_allowed(text: &str, at: usize, max_tokens: usize) -> bool {
    let (before, after) = text.split_at(at);
    let marks = &before[before.trim_end_matches(|c: char| !c.is_alphanumeric()).len()..];
    if before.is_empty()
        || before.ends_with(char::is_whitespace)
        || after.starts_with(char::is_whitespace)
        || marks.chars().any(crate::text::sentence::is_wide_terminator)
    {
        return true;
    }
    let left = before.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let left = text.ceil_char_boundary(left);
    let right = after.find(char::is_whitespace).map_or(text.len(), |end| at + end);
    let word = &text[left..right];
    Pieces.token_starts(word).len() > max_tokens || word.len() > 32 * max_tokens
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn chunks_keep_every_promise(text in any_text(), settings in prop_oneof![any_settings(), any_windows()]) {
        let outline = outline_of(&text);
        let chunks = chunk(&text, &outline, &settings, &Pieces);

        let mut covered = 0;
        let mut previous: Option<&TextChunk> = None;
        for chunk in &chunks {
            let slice = chunk.span.slice(&text).expect("chunks lie on character borders");
            prop_assert_eq!(slice.trim(), slice);
            prop_assert!(!slice.is_empty());
            prop_assert!(Pieces.token_starts(slice).len() <= settings.max_tokens, "limit");
            prop_assert_eq!(chunk.token_count as usize, Pieces.token_starts(slice).len());
            if let Some(previous) = previous {
                prop_assert!(chunk.span.start > previous.span.start && chunk.span.end > previous.span.end);
                prop_assert!(repeats(&settings) || chunk.span.start >= previous.span.end);
            }
            if chunk.span.start > covered {
                prop_assert!(text[covered..chunk.span.start].trim().is_empty(), "coverage");
            }
            let allowed = is_cut_allowed(&text, chunk.span.start, reach(&settings));
            prop_assert!(allowed, "a word is cut at {}", chunk.span.start);
            covered = chunk.span.end;
            previous = Some(chunk);
        }
        prop_assert!(text[covered..].trim().is_empty(), "coverage at the end");
        prop_assert_eq!(super::chunk(&text, &outline, &settings, &Pieces), chunks);
    }
}
