//! Identifiers: newtypes that cannot be mixed up, each with one text form.
//!
//! Names that callers choose ([`TenantId`], [`CollectionName`], [`DocumentId`]) are checked once, on the way in.
//! Ids that the program derives carry a prefix in their text form (`chk_`, `gen_`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name a caller may choose, in bytes.
pub const NAME_MAX_BYTES: usize = 512;

/// Why a text is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("{kind} must not be empty")]
    Empty { kind: &'static str },
    #[error("{kind} is {bytes} bytes long, at most {NAME_MAX_BYTES} are allowed")]
    TooLong { kind: &'static str, bytes: usize },
    #[error("{kind} must not contain control characters")]
    ControlCharacter { kind: &'static str },
    #[error("{kind} must consist of letters, digits, '_', '-' and '.'")]
    ForbiddenCharacter { kind: &'static str },
    #[error("{kind} must look like {expected}")]
    Malformed { kind: &'static str, expected: &'static str },
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and takes it as a name.
            pub fn new(text: &str) -> Result<Self, InvalidId> {
                check_length($kind, text)?;
                $check($kind, text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A tenant: the border that no search, count or error message crosses.
    TenantId, "tenant", plain_characters
);
name!(
    /// A named set of documents inside a tenant that shares one profile.
    CollectionName, "collection", plain_characters
);
name!(
    /// A document's id, chosen by the caller or derived from its source; unique inside a collection.
    DocumentId, "document id", no_control_characters
);
name!(
    /// Somebody or some group that may be allowed to see a document (`user:ann`, `group:eng`).
    Principal, "principal", no_control_characters
);

name!(
    /// A kind of durable work (`map`, `ingest`).
    TaskKind, "task kind", plain_characters
);
name!(
    /// A step of a task; unique inside it.
    StepName, "step", plain_characters
);

fn check_length(kind: &'static str, text: &str) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty { kind });
    }
    if text.len() > NAME_MAX_BYTES {
        return Err(InvalidId::TooLong { kind, bytes: text.len() });
    }
    Ok(())
}

fn no_control_characters(kind: &'static str, text: &str) -> Result<(), InvalidId> {
    if text.chars().any(char::is_control) {
        return Err(InvalidId::ControlCharacter { kind });
    }
    Ok(())
}

fn plain_characters(kind: &'static str, text: &str) -> Result<(), InvalidId> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if text.chars().all(plain) { Ok(()) } else { Err(InvalidId::ForbiddenCharacter { kind }) }
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let malformed = || InvalidId::Malformed {
                    kind: stringify!($name),
                    expected: concat!($prefix, "<hexadecimal digits>"),
                };
                let digits = text.strip_prefix($prefix).ok_or_else(malformed)?;
                read_hex(digits).map(Self).ok_or_else(malformed)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_id!(
    /// A stored span of a document. See [`ChunkId::derive`].
    ChunkId, 16, "chk_"
);
hash_id!(
    /// One build of a profile for a collection.
    GenerationId, 16, "gen_"
);
hash_id!(
    /// BLAKE3 of some content.
    ContentHash, 32, ""
);
hash_id!(
    /// A hash over a specification; equal fingerprints mean interchangeable results.
    Fingerprint, 16, ""
);
hash_id!(
    /// A W3C trace id: one per request or task.
    TraceId, 16, ""
);
hash_id!(
    /// A W3C span id: one piece of work inside a trace; never all zero.
    SpanId, 8, ""
);
hash_id!(
    /// One call of the gateway to a language model; its attempts share it.
    CallId, 16, "cal_"
);

hash_id!(
    /// A piece of durable work. See [`TaskId::derive`].
    TaskId, 16, "tsk_"
);
hash_id!(
    /// One runner of tasks: a process, or one of several in it.
    RunnerId, 16, "run_"
);

impl ContentHash {
    /// BLAKE3 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl ChunkId {
    /// The id of the `occurrence`-th (from 0) chunk with this text in a document.
    ///
    /// Neither the version nor the position enters, so an edit elsewhere in the document changes no other
    /// chunk's id.
    pub fn derive(owner: &ChunkOwner<'_>, chunker: Fingerprint, text: &str, occurrence: u32) -> Self {
        Self(hash_parts(&[
            b"chunk",
            owner.tenant.as_str().as_bytes(),
            owner.collection.as_str().as_bytes(),
            owner.document.as_str().as_bytes(),
            &chunker.0,
            text.as_bytes(),
            &occurrence.to_le_bytes(),
        ]))
    }
}

/// The document that a chunk belongs to.
#[derive(Debug, Clone, Copy)]
pub struct ChunkOwner<'a> {
    pub tenant: &'a TenantId,
    pub collection: &'a CollectionName,
    pub document: &'a DocumentId,
}

/// The first 16 bytes of BLAKE3 over `parts`, each preceded by its length so that borders count.
pub fn hash_parts(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut head = [0; 16];
    head.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    head
}

/// Position in the operation log. Ordering comes from here, never from the clock; 0 is before everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Sequence(pub u64);

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Microseconds since 1970-01-01T00:00:00Z. The domain stores times and never reads a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn read_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    if digits.len() != 2 * N || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_form() {
        let id = ChunkId(std::array::from_fn(|i| i as u8 * 17));

        assert_eq!(id.to_string().parse::<ChunkId>(), Ok(id));
        assert_eq!(id.to_string(), "chk_00112233445566778899aabbccddeeff");
    }

    #[test]
    fn names_refuse_what_would_break_logs_and_paths() {
        assert!(TenantId::new("").is_err());
        assert!(TenantId::new("../etc").is_err());
        assert!(DocumentId::new("a\nb").is_err());
        assert!(DocumentId::new("docs/a b.md").is_ok());
    }

    #[test]
    fn part_borders_enter_the_hash() {
        assert_ne!(hash_parts(&[b"ab", b"c"]), hash_parts(&[b"a", b"bc"]));
    }
}
