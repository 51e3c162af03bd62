//! Bytes cut into lines: what server-sent events and newline-delimited JSON have in common.
//!
//! It must stay linear and bounded whatever arrives: a buffer that is searched again with every read costs the square
//! of a long line's length when that line comes byte by byte.

/// Cuts bytes into lines. Bytes may arrive cut anywhere.
#[derive(Debug, Default)]
pub struct LineDecoder {
    buffer: Vec<u8>,
    /// Where in `buffer` the next line starts.
    start: usize,
    /// Bytes of `buffer` already searched for a line end.
    scanned: usize,
}

impl LineDecoder {
    /// Takes bytes as they arrive; the caller bounds their sum.
    pub fn push(&mut self, bytes: &[u8]) {
        // Lines already taken are dropped before the buffer grows, so it never holds more than one read and a line.
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next line without its end (LF or CRLF); `None` until more bytes arrive. What no line end follows is not a
    /// line. A lone CR, which no model server sends, does not end one.
    pub fn next_line(&mut self) -> Option<&[u8]> {
        let Some(offset) = self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n') else {
            self.scanned = self.buffer.len();
            return None;
        };
        let newline = self.scanned + offset;
        let start = std::mem::replace(&mut self.start, newline + 1);
        self.scanned = self.start;
        let line = &self.buffer[start..newline];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_with_lf_or_crlf_and_may_arrive_in_pieces() {
        let mut decoder = LineDecoder::default();
        let mut lines = Vec::new();
        for piece in ["one\r", "\ntw", "o\n\nth", "ree"] {
            decoder.push(piece.as_bytes());
            while let Some(line) = decoder.next_line() {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }

        assert_eq!(lines, ["one", "two", ""]);
    }
}
