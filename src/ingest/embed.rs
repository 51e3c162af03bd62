//! Vectors for what has none yet: equal inputs once, inputs embedded before not at all.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use half::f16;
use metrics::counter;
use tokio::sync::Semaphore;
use tracing::{Instrument, debug_span};

use crate::domain::{ContentHash, Fingerprint, TenantScope};
use crate::inference::{Embedder, Embedders, InferenceError, InputKind};
use crate::store::{CorpusStore, StoreError};

use super::draft::unit_vector;
use super::patience::Patience;
use super::{GenerationSettings, IngestSettings, ItemError};

/// Bytes in one call for a building: about what a model computes in one run, so that it keeps one core busy.
const GENTLE_CALL_BYTES: usize = 1000;
/// Texts in such a call.
const GENTLE_CALL_INPUTS: usize = 8;

/// All embedders with their bounds, shared by everything that ingests.
pub(super) struct Embeddings {
    embedders: Embedders,
    each: Vec<Embedding>,
}

impl Embeddings {
    pub(super) fn new(embedders: Embedders, settings: &IngestSettings) -> Self {
        let each = embedders.iter().map(|embedder| Embedding::new(Arc::clone(embedder), settings)).collect();
        Self { embedders, each }
    }

    pub(super) fn embedders(&self) -> &Embedders {
        &self.embedders
    }

    /// The one with this fingerprint, if it is at hand.
    pub(super) fn of(&self, embedder: Fingerprint) -> Option<&Embedding> {
        self.each.iter().find(|one| one.fingerprint == embedder)
    }
}

/// How much of the machine embedding may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Effort<'a> {
    /// Somebody waits.
    Full,
    /// Small calls, one after the other, with rests between them.
    Gentle(&'a GenerationSettings),
}

/// One embedder with its bounds.
pub(super) struct Embedding {
    embedder: Arc<dyn Embedder>,
    fingerprint: Fingerprint,
    slots: Semaphore,
    call_inputs: usize,
    calls_in_flight: usize,
    queue_wait_ms: u64,
}

/// The exact text to embed, by the hash under which its vector is stored.
pub(super) type Inputs = HashMap<ContentHash, String>;

/// What came of a set of inputs; one that is in neither map has no vector because no model is at hand.
#[derive(Debug, Default)]
pub(super) struct Embedded {
    pub vectors: HashMap<ContentHash, Vec<f16>>,
    pub failed: HashMap<ContentHash, Refusal>,
}

/// Why an input has no vector.
#[derive(Debug, Clone)]
pub(super) enum Refusal {
    Busy { waited_ms: u64 },
    Failed { detail: String },
}

impl From<Refusal> for ItemError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy { waited_ms } => Self::Busy { queue: "embedder's queue", waited_ms },
            Refusal::Failed { detail } => Self::Embedding { detail },
        }
    }
}

type Call = Vec<(ContentHash, String)>;

/// The vectors that the truth has for these, made by this embedder, beside the inputs that it has none for.
pub(super) async fn known(
    store: &dyn CorpusStore,
    scope: &TenantScope,
    embedder: Fingerprint,
    hashes: HashSet<ContentHash>,
) -> Result<(Embedded, HashSet<ContentHash>), StoreError> {
    if hashes.is_empty() {
        return Ok((Embedded::default(), hashes));
    }
    let mut asked: Vec<ContentHash> = hashes.iter().copied().collect();
    // In the order of the store's own key.
    asked.sort_unstable();
    let span = debug_span!("store.known_embeddings", inputs = asked.len());
    let vectors = store.known_embeddings(scope, embedder, &asked).instrument(span).await?;
    let missing = hashes.into_iter().filter(|hash| !vectors.contains_key(hash)).collect();
    counter!("plumb_ingest_embeddings_reused_total").increment(vectors.len() as u64);
    Ok((Embedded { vectors, failed: HashMap::new() }, missing))
}

impl Embedding {
    pub(super) fn new(embedder: Arc<dyn Embedder>, settings: &IngestSettings) -> Self {
        let calls_in_flight = settings.embed_calls_in_flight.max(1);
        Self {
            fingerprint: embedder.spec().fingerprint(),
            embedder,
            slots: Semaphore::new(calls_in_flight),
            call_inputs: settings.embed_call_inputs.max(1),
            calls_in_flight,
            queue_wait_ms: settings.queue_wait_ms,
        }
    }

    /// Embeds every input and adds the results to `embedded`. An input that the model refuses fails alone.
    pub(super) async fn embed(&self, inputs: Inputs, embedded: &mut Embedded, effort: Effort<'_>) {
        let mut inputs: Call = inputs.into_iter().collect();
        // Calls of equal length waste no padding. The hash makes the order the same each time.
        inputs.sort_unstable_by_key(|(hash, text)| (Reverse(text.len()), *hash));
        match effort {
            Effort::Full => {
                let done: Vec<Embedded> = futures::stream::iter(calls(inputs, self.call_inputs, usize::MAX))
                    .map(|call| self.call(call))
                    .buffer_unordered(self.calls_in_flight)
                    .collect()
                    .await;
                done.into_iter().for_each(|part| embedded.add(part));
            }
            Effort::Gentle(settings) => {
                let most = self.call_inputs.min(GENTLE_CALL_INPUTS);
                for call in calls(inputs, most, GENTLE_CALL_BYTES) {
                    let began = Instant::now();
                    embedded.add(self.call(call).await);
                    tokio::time::sleep(settings.rest_after(began.elapsed())).await;
                }
            }
        }
    }

    async fn call(&self, call: Call) -> Embedded {
        let texts: Vec<String> = call.iter().map(|(_, text)| text.clone()).collect();
        let mut embedded = Embedded::default();
        match self.vectors(texts).await {
            Ok(vectors) => {
                for ((hash, _), vector) in call.iter().zip(vectors) {
                    embedded.take(*hash, vector);
                }
            }
            Err(Trouble::Absent) => {}
            Err(Trouble::Refused(refusal @ Refusal::Busy { .. })) => {
                embedded.failed.extend(call.iter().map(|(hash, _)| (*hash, refusal.clone())));
            }
            Err(Trouble::Refused(Refusal::Failed { detail })) => {
                tracing::warn!(inputs = call.len(), detail, "embedding failed; trying each input alone");
                self.one_by_one(call, &mut embedded).await;
            }
        }
        counter!("plumb_ingest_embeddings_made_total").increment(embedded.vectors.len() as u64);
        embedded
    }

    async fn one_by_one(&self, call: Call, embedded: &mut Embedded) {
        for (hash, text) in call {
            match self.vectors(vec![text]).await {
                Ok(vectors) => vectors.into_iter().for_each(|vector| embedded.take(hash, vector)),
                Err(Trouble::Absent) => {}
                Err(Trouble::Refused(refusal)) => {
                    embedded.failed.insert(hash, refusal);
                }
            }
        }
    }

    /// One vector for each text; waits while the embedder's queue is full.
    async fn vectors(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, Trouble> {
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let count = texts.len();
        let mut patience = Patience::new(self.queue_wait_ms);
        loop {
            let error = match self.embedder.embed(texts.clone(), InputKind::Passage).await {
                Ok(vectors) if vectors.len() == count => return Ok(vectors),
                Ok(vectors) => {
                    let detail = format!("{} vectors for {count} texts", vectors.len());
                    return Err(Trouble::Refused(Refusal::Failed { detail }));
                }
                Err(error) => error,
            };
            match error {
                InferenceError::Missing { .. } => return Err(Trouble::Absent),
                InferenceError::Overloaded { .. } | InferenceError::Deadline { .. } => {
                    let busy = |waited_ms| Trouble::Refused(Refusal::Busy { waited_ms });
                    patience.pause().await.map_err(busy)?;
                }
                error => return Err(Trouble::Refused(Refusal::Failed { detail: error.to_string() })),
            }
        }
    }
}

/// Cuts inputs into calls of at most so many texts and bytes, at least one text each.
fn calls(inputs: Call, most: usize, bytes: usize) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::with_capacity(inputs.len().div_ceil(most));
    let mut size = 0_usize;
    for input in inputs {
        size = size.saturating_add(input.1.len());
        match calls.last_mut() {
            Some(call) if call.len() < most && size <= bytes => call.push(input),
            _ => {
                size = input.1.len();
                calls.push(vec![input]);
            }
        }
    }
    calls
}

impl Embedded {
    fn add(&mut self, part: Self) {
        self.vectors.extend(part.vectors);
        self.failed.extend(part.failed);
    }

    fn take(&mut self, hash: ContentHash, vector: Vec<f32>) {
        match unit_vector(&vector) {
            Some(vector) => {
                self.vectors.insert(hash, vector);
            }
            None => {
                let detail = "the model returned a vector that points nowhere".to_owned();
                self.failed.insert(hash, Refusal::Failed { detail });
            }
        }
    }
}

enum Trouble {
    /// No model is at hand: the chunks are stored without vectors.
    Absent,
    Refused(Refusal),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_bounded_by_texts_and_by_bytes_and_lose_nothing() {
        let input = |bytes: usize| (ContentHash::of(&[bytes as u8]), "x".repeat(bytes));
        let sizes = |most, bytes| {
            let inputs = [90, 60, 30, 20, 10].map(input).to_vec();
            calls(inputs, most, bytes).iter().map(Vec::len).collect::<Vec<_>>()
        };

        assert_eq!(sizes(2, usize::MAX), [2, 2, 1]);
        assert_eq!(sizes(8, 60), [1, 1, 3], "one that is too long goes alone");
        assert!(calls(Vec::new(), 2, 10).is_empty());
    }
}
