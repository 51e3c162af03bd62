//! Server-sent events (WHATWG HTML, "Interpreting an event stream"), as far as model servers use them: `data` only.

use super::lines::LineDecoder;

/// Cuts bytes into events. Bytes may arrive cut anywhere.
#[derive(Debug, Default)]
pub struct SseDecoder {
    lines: LineDecoder,
    data: Option<String>,
}

impl SseDecoder {
    /// Takes bytes as they arrive; the caller bounds their sum.
    pub fn push(&mut self, bytes: &[u8]) {
        self.lines.push(bytes);
    }

    /// The `data` of the next complete event; `None` until more bytes arrive. Comments and other fields are skipped.
    /// An event that is not closed by an empty line is not an event.
    pub fn next_event(&mut self) -> Result<Option<String>, std::str::Utf8Error> {
        while let Some(line) = self.lines.next_line() {
            let line = std::str::from_utf8(line)?;
            if line.is_empty() {
                if let Some(data) = self.data.take() {
                    return Ok(Some(data));
                }
            } else if let Some(value) = data_field(line) {
                match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => self.data = Some(value.to_owned()),
                }
            }
        }
        Ok(None)
    }
}

fn data_field(line: &str) -> Option<&str> {
    let value = line.trim_start_matches('\u{feff}').strip_prefix("data")?;
    if value.is_empty() {
        return Some("");
    }
    let value = value.strip_prefix(':')?;
    Some(value.strip_prefix(' ').unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(decoder: &mut SseDecoder) -> Vec<String> {
        std::iter::from_fn(|| decoder.next_event().unwrap()).collect()
    }

    #[test]
    fn events_are_data_lines_up_to_an_empty_line() {
        let mut decoder = SseDecoder::default();
        decoder.push(b": hello\r\nevent: x\ndata: one\r\n\r\ndata:two\ndata: three\n\n\n\ndata\n\ndatabase: no\n\nda");
        decoder.push(b"ta: open");

        assert_eq!(events(&mut decoder), ["one", "two\nthree", ""]);
        decoder.push(b"\n\n");
        assert_eq!(events(&mut decoder), ["open"]);
    }

    #[test]
    fn what_is_not_utf_8_is_an_error() {
        let mut decoder = SseDecoder::default();
        decoder.push(b"data: \xff\n\n");

        assert!(decoder.next_event().is_err());
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_changes_nothing(
            lines in proptest::collection::vec("(data: ?)?[a-zé ]{0,6}\r?\n|\n", 0..12),
            cuts in proptest::collection::vec(1_usize..7, 1..20),
        ) {
            let bytes = lines.concat().into_bytes();
            let mut whole = SseDecoder::default();
            whole.push(&bytes);
            let expected = events(&mut whole);

            let mut decoder = SseDecoder::default();
            let mut found = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                decoder.push(head);
                found.extend(events(&mut decoder));
                rest = tail;
            }
            prop_assert_eq!(found, expected);
        }
    }
}
