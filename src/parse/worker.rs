//! The parser process: reads documents from standard input, writes their text to standard output, one at a time.
//!
//! It is started with limits and without an environment, and ends when its input does.

use std::io::{self, Read, Write};

use crate::domain::ParsedText;

use super::{
    ParseError,
    article::parse_html,
    limits,
    wire::{GREETING, Outcome, RequestHead, ResponseHead},
};

/// Parsers written by others may recurse; this is room for more than [`super::nesting::MAX_NESTING`] levels.
const STACK_BYTES: usize = 64 << 20;
/// A request's head is some hundred bytes.
const HEAD_MAX_BYTES: usize = 64 << 10;

/// Serves until standard input ends; what the program does when it is started as a parser.
pub fn worker_main() -> io::Result<()> {
    serve(&mut io::stdin().lock(), &mut io::stdout().lock())
}

fn serve(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    output.write_all(GREETING)?;
    output.flush()?;
    while let Some(head) = read_head(input)? {
        let mut body = vec![0; head.body_bytes];
        input.read_exact(&mut body)?;
        let (outcome, text) = Outcome::of(parse_apart(&head, &body));
        let used = limits::used();
        let head =
            ResponseHead { outcome, body_bytes: text.len(), cpu_ms: used.cpu_ms, resident_bytes: used.resident_bytes };
        let head = serde_json::to_vec(&head)?;
        let head_bytes = u32::try_from(head.len()).map_err(io::Error::other)?;
        output.write_all(&head_bytes.to_le_bytes())?;
        output.write_all(&head)?;
        output.write_all(text.as_bytes())?;
        output.flush()?;
    }
    Ok(())
}

/// The next request; `None` at the end of input.
fn read_head(input: &mut impl Read) -> io::Result<Option<RequestHead>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > HEAD_MAX_BYTES {
        return Err(io::Error::other("the request's head is too long"));
    }
    let mut head = vec![0; length];
    input.read_exact(&mut head)?;
    Ok(Some(serde_json::from_slice(&head)?))
}

/// Parses on a thread of its own, which has a large stack and may panic.
fn parse_apart(head: &RequestHead, body: &[u8]) -> Result<ParsedText, ParseError> {
    std::thread::scope(|scope| {
        let parse = || parse_html(body, head.charset.as_deref(), head.limit_bytes);
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, parse);
        let thread = thread.map_err(|source| ParseError::CannotStart { source })?;
        thread.join().unwrap_or(Err(ParseError::Panicked))
    })
}
