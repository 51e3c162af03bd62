//! Bytes to characters, by the charset that the document or its sender names.
//!
//! Nothing is guessed: without a name the bytes must be UTF-8, and a wrong byte is an error, never a `�`.

use encoding_rs::{Encoding, UTF_8};

use crate::text::InvalidText;

use super::ParseError;

/// How far into an HTML document its own charset is looked for, as browsers do.
const META_BYTES: usize = 1024;

/// Decodes text in the declared charset, UTF-8 without one.
pub(super) fn decode(bytes: &[u8], charset: Option<&str>) -> Result<String, ParseError> {
    let encoding = charset.map_or(Ok(UTF_8), encoding)?;
    decode_as(bytes, encoding)
}

/// Decodes HTML: byte order mark, then the declared charset, then UTF-8 if the bytes are, then the document's own.
pub(super) fn decode_html(bytes: &[u8], charset: Option<&str>) -> Result<String, ParseError> {
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        return decode_as(bytes, encoding);
    }
    if charset.is_some() {
        return decode(bytes, charset);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => match meta_charset(&bytes[..bytes.len().min(META_BYTES)]) {
            Some(label) if encoding(&label)? != UTF_8 => decode_as(bytes, encoding(&label)?),
            _ => Err(InvalidText::NotUtf8 { offset: error.valid_up_to() }.into()),
        },
    }
}

fn encoding(label: &str) -> Result<&'static Encoding, ParseError> {
    Encoding::for_label(label.as_bytes()).ok_or_else(|| ParseError::UnknownCharset { charset: label.to_owned() })
}

fn decode_as(bytes: &[u8], encoding: &'static Encoding) -> Result<String, ParseError> {
    if encoding == UTF_8 {
        let text = std::str::from_utf8(bytes).map_err(|error| InvalidText::NotUtf8 { offset: error.valid_up_to() })?;
        return Ok(text.to_owned());
    }
    let (text, malformed) = encoding.decode_with_bom_removal(bytes);
    if malformed {
        return Err(ParseError::NotText(InvalidText::NotInCharset { charset: encoding.name().to_owned() }));
    }
    Ok(text.into_owned())
}

/// The value behind the first `charset=` of a `<meta` element, in lower case.
fn meta_charset(head: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let metas = head.split("<meta").skip(1);
    metas.filter_map(|meta| meta.split('>').next()?.split_once("charset=")).find_map(|(_, value)| {
        let value = value.trim_start_matches(['"', '\'', ' ']);
        let label = value.split(['"', '\'', ' ', ';', '/']).next().unwrap_or_default();
        (!label.is_empty()).then(|| label.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_may_name_its_own_charset() {
        let html = b"<html><head><meta charset=\"iso-8859-1\"><p>caf\xE9";

        assert!(decode_html(html, None).unwrap().ends_with("café"));
        assert!(
            decode_html(b"<meta http-equiv=x content='text/html; charset=windows-1251'>\xE4\xE0", None)
                .unwrap()
                .ends_with("да")
        );
        assert!(decode_html("\u{FEFF}é".as_bytes(), Some("latin1")).unwrap().ends_with('é'));
        assert_eq!(decode(b"caf\xE9", Some("latin1")).unwrap(), "café");
    }

    #[test]
    fn nothing_is_guessed() {
        assert_eq!(decode(b"caf\xE9", None).unwrap_err().to_string(), "the document is not valid UTF-8 at byte 3");
        assert!(matches!(
            decode_html(b"<p>caf\xE9", None),
            Err(ParseError::NotText(InvalidText::NotUtf8 { offset: 6 }))
        ));
        assert!(matches!(decode(b"x", Some("klingon")), Err(ParseError::UnknownCharset { .. })));
        assert!(matches!(
            decode(b"\x81\x20", Some("shift_jis")),
            Err(ParseError::NotText(InvalidText::NotInCharset { .. }))
        ));
    }
}
