//! Windows over a text: of equal length, or of so many sentences.
//!
//! Each window begins inside the one before where an overlap is asked for, and always after that one's first atom.

use std::ops::Range;

use crate::domain::Outline;

use super::atom::{Atom, Grain, cut};
use super::tokens::TokenPositions;

/// Words as atoms; where one is over the limit, pieces of it.
pub(super) fn word_atoms(text: &str, outline: &Outline, max: usize, tokens: &dyn TokenPositions) -> Vec<Atom> {
    cut(text, outline, (max, Grain::Word), tokens)
}

/// Windows as long as `max` allows, each beginning at most `overlap` before the end of the one before.
pub(super) fn word_windows(atoms: &[Atom], max: u64, overlap: u64) -> Vec<Range<usize>> {
    let mut windows = Vec::new();
    let mut start = 0;
    while start < atoms.len() {
        let end = start + fitting(atoms[start..].iter(), max).max(1);
        windows.push(start..end);
        if end == atoms.len() {
            break;
        }
        // What is repeated must leave room for something new.
        let room = overlap.min(max.saturating_sub(u64::from(atoms[end].weight)));
        let back = fitting(atoms[start + 1..end].iter().rev(), room);
        start = end - back;
    }
    windows
}

/// Windows of up to `sentences` sentences of one section that fit `max`, each repeating the last `overlap` of the one
/// before where that belongs to the same section. Headings come with the sentence after them and count as none.
pub(super) fn sentence_windows(atoms: &[Atom], max: u64, sentences: usize, overlap: usize) -> Vec<Range<usize>> {
    let mut windows: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    while start < atoms.len() {
        let end = sentence_end(atoms, start, max, sentences);
        windows.push(start..end);
        if end == atoms.len() {
            break;
        }
        let goes_on = !atoms[end].is_heading && atoms[end].heading == atoms[end - 1].heading;
        let repeated = atoms[start + 1..end].iter().rev().take_while(|atom| !atom.is_heading).take(overlap).count();
        // What is repeated must leave room for something new.
        let room = max.saturating_sub(u64::from(atoms[end].weight));
        let back = fitting(atoms[end - repeated..end].iter().rev(), room);
        start = if goes_on { end - back } else { end };
    }
    windows
}

fn sentence_end(atoms: &[Atom], start: usize, max: u64, sentences: usize) -> usize {
    let (mut weight, mut taken) = (0, 0);
    for (index, atom) in atoms.iter().enumerate().skip(start) {
        let opens_section = atom.is_heading && taken > 0;
        let is_other_section =
            index > start && !atom.is_heading && taken > 0 && atom.heading != atoms[index - 1].heading;
        weight += u64::from(atom.weight);
        let is_full = weight > max || taken == sentences;
        if index > start && (opens_section || is_other_section || is_full) {
            return index;
        }
        taken += usize::from(!atom.is_heading);
    }
    atoms.len()
}

/// How many of the first atoms fit together.
fn fitting<'a>(atoms: impl Iterator<Item = &'a Atom>, max: u64) -> usize {
    let mut weight = 0;
    atoms
        .take_while(|atom| {
            weight += u64::from(atom.weight);
            weight <= max
        })
        .count()
}
