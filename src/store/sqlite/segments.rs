//! Cuts a version's text into pieces that are stored as rows of their own.
//!
//! Cuts are made where chunks start, so that most chunks are read with one row, and in between where nothing starts
//! for long. The pieces joined are the text: every byte is in exactly one of them.

use crate::domain::ByteSpan;

/// A piece goes on past the next chunk's start while it is shorter than this, so that tiny chunks share a row.
const SEGMENT_MIN_BYTES: usize = 512;
/// Longest piece: two of them fit on a page, and a chunk in a long one drags little along.
const SEGMENT_MAX_BYTES: usize = 4000;

/// The pieces of `text`, in order; at least one, even if the text is empty.
pub(super) fn cut(text: &str, spans: impl Iterator<Item = ByteSpan>) -> Vec<ByteSpan> {
    let mut starts: Vec<usize> = spans.map(|span| span.start).collect();
    starts.sort_unstable();
    starts.push(text.len());
    let mut pieces = Vec::new();
    let mut begin = 0;
    for end in starts {
        if end < text.len() && end - begin.min(end) < SEGMENT_MIN_BYTES {
            continue;
        }
        while end.saturating_sub(begin) > SEGMENT_MAX_BYTES {
            let cut = text.floor_char_boundary(begin + SEGMENT_MAX_BYTES);
            pieces.push(ByteSpan::new(begin, cut));
            begin = cut;
        }
        if end > begin {
            pieces.push(ByteSpan::new(begin, end));
            begin = end;
        }
    }
    if pieces.is_empty() {
        pieces.push(ByteSpan::new(0, 0));
    }
    pieces
}

/// Which pieces hold `span`: the index of the first, and how many.
pub(super) fn locate(pieces: &[ByteSpan], span: ByteSpan) -> (usize, usize) {
    let first = pieces.partition_point(|piece| piece.start <= span.start).saturating_sub(1);
    let behind = pieces.partition_point(|piece| piece.start < span.end);
    (first, behind.saturating_sub(first).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_and_spans() -> impl Strategy<Value = (String, Vec<ByteSpan>)> {
        let text = "[a-zäß€😀 ]{0,60}".prop_flat_map(|word| (Just(word), 0_usize..400));
        (text, proptest::collection::vec((0.0..1.0_f64, 0.0..1.0_f64), 0..20)).prop_map(|((word, times), places)| {
            let text = word.repeat(times);
            let spans = places.into_iter().map(|(a, b)| {
                let at = |place: f64| text.floor_char_boundary((text.len() as f64 * place) as usize);
                ByteSpan::new(at(a.min(b)), at(a.max(b)))
            });
            let spans = spans.collect();
            (text, spans)
        })
    }

    proptest! {
        #[test]
        fn every_span_is_read_from_its_pieces((text, spans) in text_and_spans()) {
            let pieces = cut(&text, spans.iter().copied());

            let joined: String = pieces.iter().map(|piece| piece.slice(&text).unwrap()).collect();
            prop_assert_eq!(&joined, &text);
            prop_assert!(pieces.iter().all(|piece| piece.len() <= SEGMENT_MAX_BYTES));
            for span in spans {
                let (first, count) = locate(&pieces, span);
                let held: String =
                    pieces[first..first + count].iter().map(|piece| piece.slice(&text).unwrap()).collect();
                let offset = span.start - pieces[first].start;
                prop_assert_eq!(held.get(offset..offset + span.len()), span.slice(&text));
            }
        }
    }

    #[test]
    fn a_chunk_that_follows_another_begins_a_piece() {
        let text = "x".repeat(3000);
        let spans = [ByteSpan::new(0, 1000), ByteSpan::new(1000, 2000), ByteSpan::new(2000, 3000)];

        let pieces = cut(&text, spans.into_iter());

        assert_eq!(pieces, spans);
        assert_eq!(locate(&pieces, spans[1]), (1, 1));
    }
}
