//! What a commit says about itself, kept inside the engine's own metadata so that it changes with it.

use serde::{Deserialize, Serialize};

use crate::domain::{AnalyzerSpec, ContentHash, Sequence};

/// Grows with every change of schema or meaning of what is on disk.
const FORMAT: u32 = 1;

/// The state that a commit was meant to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Payload {
    pub sequence: Sequence,
    /// Live chunks.
    pub live: u64,
    pub analyzer: AnalyzerSpec,
    format: u32,
}

impl Payload {
    pub(super) fn new(sequence: Sequence, live: u64, analyzer: &AnalyzerSpec) -> Self {
        Self { sequence, live, analyzer: analyzer.clone(), format: FORMAT }
    }

    /// The payload after its own hash: the engine's metadata has no checksum.
    pub(super) fn encode(&self) -> String {
        let json = serde_json::to_string(self).expect("a payload holds only numbers and strings");
        format!("{} {json}", ContentHash::of(json.as_bytes()))
    }

    /// Reads what [`Payload::encode`] wrote; otherwise says what is wrong.
    pub(super) fn decode(text: &str) -> Result<Self, String> {
        let (hash, json) = text.split_once(' ').ok_or("the commit has no checksum")?;
        if hash != ContentHash::of(json.as_bytes()).to_string() {
            return Err("the checksum of the commit does not match".to_owned());
        }
        let payload: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if payload.format != FORMAT {
            return Err(format!("the index has format {}, this program reads {FORMAT}", payload.format));
        }
        Ok(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::lexical::analyzer_spec;

    #[test]
    fn a_payload_is_read_back_and_a_changed_one_refused() {
        let payload = Payload::new(Sequence(7), 3, &analyzer_spec("en"));
        let text = payload.encode();

        assert_eq!(Payload::decode(&text), Ok(payload));
        assert!(Payload::decode(&text.replace(":7", ":8")).unwrap_err().contains("checksum"));
        assert!(Payload::decode("").is_err());
    }
}
