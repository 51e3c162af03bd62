//! Trace ids: random ones, and those that callers send along (W3C Trace Context).

use crate::domain::{SpanId, TraceId};

/// A new random trace id (W3C Trace Context §3.2.2.3: not all zero).
pub fn new_trace_id() -> TraceId {
    loop {
        let bytes = random_bytes::<16>();
        if bytes != [0; 16] {
            return TraceId(bytes);
        }
    }
}

/// Where a request comes from, as its caller says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: TraceId,
    /// The caller's own span.
    pub span: SpanId,
}

/// The ids of a W3C `traceparent` header; `None` if the header is not valid and a new trace must start.
///
/// Later versions than 00 may append fields after a dash (Trace Context §4.3).
pub fn parse_traceparent(header: &str) -> Option<TraceParent> {
    let fixed = header.get(..55)?;
    let mut parts = fixed.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex =
        |part: &str, length| part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let rest_fits = match &header[55..] {
        "" => true,
        rest => version != "00" && rest.starts_with('-'),
    };
    let fits = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2) && version != "ff";
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    if !fits || !rest_fits || zero(trace) || zero(parent) {
        return None;
    }
    Some(TraceParent { trace: trace.parse().ok()?, span: parent.parse().ok()? })
}

/// Bytes from the operating system's random generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_is_continued_only_if_it_is_valid() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let continued = |header: &str| parse_traceparent(header).map(|parent| parent.trace.to_string());

        let valid = format!("00-{trace}-00f067aa0ba902b7-01");
        assert_eq!(continued(&valid).as_deref(), Some(trace));
        assert_eq!(parse_traceparent(&valid).unwrap().span.to_string(), "00f067aa0ba902b7");
        assert_eq!(continued(&format!("01-{trace}-00f067aa0ba902b7-01-later")).as_deref(), Some(trace));
        for invalid in [
            String::new(),
            valid[..54].to_owned(),
            format!("{valid}-more"),
            format!("{valid}0"),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{trace}-0000000000000000-01"),
            format!("00_{trace}_00f067aa0ba902b7_01"),
            format!("00-{trace}-00f067aa0ba902b7-ü1"),
        ] {
            assert_eq!(continued(&invalid), None, "{invalid}");
        }
    }
}
