//! Between domain values and columns.

use std::fmt::Display;
use std::str::FromStr;

use half::f16;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row as _, Sqlite, Type};

use crate::domain::ChunkId;
use crate::store::StoreError;

use super::failure::RESTORE_HINT;

/// JSON of a value that is known to have one.
pub(super) fn to_json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("stored values are maps with text keys")
}

/// A value from a column that this program wrote as JSON.
pub(super) fn from_json<'a, T: Deserialize<'a>>(column: &'static str, json: &'a str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|error| damaged(column, &error.to_string()))
}

/// A stored value that this program cannot have written.
pub(super) fn damaged(column: &'static str, detail: &str) -> StoreError {
    StoreError::Corrupt { detail: format!("{column}: {detail}; {RESTORE_HINT}") }
}

/// Little-endian binary16.
pub(super) fn vector_to_bytes(vector: &[f16]) -> Vec<u8> {
    vector.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn vector_from_bytes(bytes: &[u8]) -> Vec<f16> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|pair| f16::from_le_bytes(*pair)).collect()
}

/// Chunk ids one after the other, 16 bytes each.
pub(super) fn ids_to_bytes(ids: &[ChunkId]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.0).collect()
}

pub(super) fn ids_from_bytes(bytes: &[u8]) -> Vec<ChunkId> {
    let (ids, _) = bytes.as_chunks::<16>();
    ids.iter().map(|id| ChunkId(*id)).collect()
}

/// The text form of an id: its prefix and lower-case hexadecimal digits, as its `Display` writes them, but in a tenth
/// of the time.
pub(super) fn id_text(prefix: &str, bytes: &[u8]) -> String {
    let mut text = String::with_capacity(prefix.len() + 2 * bytes.len());
    text.push_str(prefix);
    push_hex(&mut text, bytes);
    text
}

/// An id or a name in a text column.
pub(super) fn from_text<T: FromStr<Err: Display>>(column: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error: T::Err| damaged(column, &error.to_string()))
}

/// A JSON array of hexadecimal texts: how a list of blobs is bound to one parameter.
pub(super) fn hex_list<'a>(blobs: impl Iterator<Item = &'a [u8]>) -> String {
    let mut json = String::from("[");
    for (index, blob) in blobs.enumerate() {
        json.push_str(if index == 0 { "\"" } else { ",\"" });
        push_hex(&mut json, blob);
        json.push('"');
    }
    json.push(']');
    json
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// The bytes of hexadecimal text, as SQLite's `hex` writes it; `None` if it is not hexadecimal.
pub(super) fn bytes_from_hex(hex: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; hex.len() / 2];
    read_hex(hex, &mut bytes).then_some(bytes)
}

/// A hash in hexadecimal text.
pub(super) fn hash_from_hex<const N: usize>(column: &'static str, hex: &str) -> Result<[u8; N], StoreError> {
    let mut hash = [0; N];
    if read_hex(hex, &mut hash) { Ok(hash) } else { Err(damaged(column, "it is not a hash in hexadecimal")) }
}

// Without a branch for each digit: vectors have 1536 of them.
fn read_hex(hex: &str, bytes: &mut [u8]) -> bool {
    const NO_DIGIT: u8 = 0x80;
    static DIGITS: [u8; 256] = {
        let mut digits = [NO_DIGIT; 256];
        let mut value = 0;
        while value < 16 {
            digits[b"0123456789abcdef"[value] as usize] = value as u8;
            digits[b"0123456789ABCDEF"[value] as usize] = value as u8;
            value += 1;
        }
        digits
    };
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let mut seen = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (DIGITS[usize::from(*high)], DIGITS[usize::from(*low)]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    rest.is_empty() && pairs.len() == bytes.len() && seen & NO_DIGIT == 0
}

/// Reads the columns of a row from left to right.
pub(super) struct Columns<'r> {
    row: &'r SqliteRow,
    next: usize,
}

impl<'r> Columns<'r> {
    pub(super) fn of(row: &'r SqliteRow) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn take<T: Decode<'r, Sqlite> + Type<Sqlite>>(&mut self) -> Result<T, StoreError> {
        let index = self.next;
        self.next += 1;
        Ok(self.row.try_get(index)?)
    }

    pub(super) fn skip(&mut self, columns: usize) {
        self.next += columns;
    }

    /// A count, an offset or a number that is never negative.
    pub(super) fn unsigned(&mut self) -> Result<u64, StoreError> {
        let value: i64 = self.take()?;
        u64::try_from(value).map_err(|_| damaged("a count", "it is negative"))
    }

    pub(super) fn index(&mut self) -> Result<usize, StoreError> {
        Ok(self.unsigned()? as usize)
    }

    /// A blob of exactly `N` bytes.
    pub(super) fn hash<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let bytes: &[u8] = self.take()?;
        bytes.try_into().map_err(|_| damaged("a hash", "its length is wrong"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::domain::CallId;

    use super::*;

    proptest! {
        #[test]
        fn vectors_survive_their_stored_form(bits in proptest::collection::vec(any::<u16>(), 0..64)) {
            let vector: Vec<f16> = bits.iter().map(|bits| f16::from_bits(*bits)).collect();

            let back = vector_from_bytes(&vector_to_bytes(&vector));

            prop_assert_eq!(back.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), bits);
        }

        #[test]
        fn blobs_survive_their_hexadecimal_form(blob in any::<[u8; 16]>()) {
            let list = hex_list(std::iter::once(blob.as_slice()));
            let upper = list[2..34].to_uppercase();

            prop_assert_eq!(hash_from_hex::<16>("x", &list[2..34]).unwrap(), blob);
            prop_assert_eq!(bytes_from_hex(&upper), Some(blob.to_vec()));
            prop_assert!(hash_from_hex::<16>("x", &upper[1..]).is_err());
            prop_assert_eq!(bytes_from_hex(&upper[1..]), None);
        }

        #[test]
        fn ids_have_the_text_form_that_they_have_everywhere(id in any::<[u8; 16]>()) {
            let id = CallId(id);

            let text = id_text("cal_", &id.0);

            prop_assert_eq!(&text, &id.to_string());
            prop_assert_eq!(from_text::<CallId>("x", &text).unwrap(), id);
        }

        #[test]
        fn id_lists_survive_their_stored_form(ids in proptest::collection::vec(any::<[u8; 16]>(), 0..8)) {
            let ids: Vec<ChunkId> = ids.into_iter().map(ChunkId).collect();

            prop_assert_eq!(ids_from_bytes(&ids_to_bytes(&ids)), ids);
        }
    }

    #[test]
    fn blobs_are_listed_as_json_text() {
        let blobs: [&[u8]; 2] = [&[0x00, 0xff], &[0x1a]];

        assert_eq!(hex_list(blobs.into_iter()), r#"["00ff","1a"]"#);
        assert_eq!(hex_list(std::iter::empty()), "[]");
    }
}
