//! Lines out of the frames of a body, at constant memory.
//!
//! A line that is too long is dropped while it comes in and reported by its number; the next one starts fresh.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A line of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1, blank lines counted.
    pub number: u64,
    /// Without the line break; `None`: longer than allowed.
    pub text: Option<Bytes>,
}

/// Cuts frames into lines. Blank lines are left out.
pub(super) struct LineCutter {
    /// The beginning of a line whose end has not come yet; never longer than `max_bytes`.
    partial: BytesMut,
    max_bytes: usize,
    /// The present line is longer than allowed.
    overflowed: bool,
    number: u64,
}

impl LineCutter {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { partial: BytesMut::new(), max_bytes, overflowed: false, number: 1 }
    }

    /// Appends the lines that end inside `frame` to `lines`.
    pub(super) fn cut(&mut self, mut frame: Bytes, lines: &mut VecDeque<Line>) {
        while let Some(end) = frame.iter().position(|byte| *byte == b'\n') {
            let rest = frame.split_off(end + 1);
            frame.truncate(end);
            self.append(frame);
            lines.extend(self.finish());
            frame = rest;
        }
        self.append(frame);
    }

    /// The last line, if it does not end in a line break.
    pub(super) fn finish(&mut self) -> Option<Line> {
        let number = self.number;
        self.number += 1;
        let text = self.partial.split().freeze();
        if std::mem::take(&mut self.overflowed) {
            return Some(Line { number, text: None });
        }
        // A byte order mark is no part of the first line's JSON.
        let text = if number == 1 && text.starts_with(b"\xef\xbb\xbf") { text.slice(3..) } else { text };
        let is_blank = text.iter().all(u8::is_ascii_whitespace);
        (!is_blank).then_some(Line { number, text: Some(text) })
    }

    fn append(&mut self, piece: Bytes) {
        if self.overflowed {
            return;
        }
        if self.partial.len() + piece.len() > self.max_bytes {
            self.overflowed = true;
            // Given back, not kept: one long line must not make every later one expensive.
            self.partial = BytesMut::new();
            return;
        }
        self.partial.extend_from_slice(&piece);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(frames: &[&[u8]], max_bytes: usize) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut cutter = LineCutter::new(max_bytes);
        let mut lines = VecDeque::new();
        for frame in frames {
            cutter.cut(Bytes::copy_from_slice(frame), &mut lines);
            assert!(cutter.partial.len() <= max_bytes);
        }
        lines.extend(cutter.finish());
        lines.into_iter().map(|line| (line.number, line.text.map(|text| text.to_vec()))).collect()
    }

    #[test]
    fn numbers_count_every_line_and_long_ones_are_dropped_alone() {
        let lines = cut(&[b"a\n\n  \nlong", b"long\nb\r\n", b"c"], 5);

        let text = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(lines, [(1, text("a")), (4, None), (5, text("b\r")), (6, text("c"))]);
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_first_line() {
        assert_eq!(cut(&[b"\xef\xbb\xbf{}\n\xef\xbb\xbf{}"], 10)[0].1.as_deref(), Some(&b"{}"[..]));
    }

    proptest! {
        #[test]
        fn frame_borders_change_nothing(text in "[ab\n ]{0,60}", cuts in prop::collection::vec(0_usize..60, 0..6)) {
            let bytes = text.as_bytes();
            let mut borders: Vec<usize> = cuts.into_iter().map(|at| at.min(bytes.len())).collect();
            borders.extend([0, bytes.len()]);
            borders.sort_unstable();
            let frames: Vec<&[u8]> = borders.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();

            prop_assert_eq!(cut(&frames, 4), cut(&[bytes], 4));
        }
    }
}
