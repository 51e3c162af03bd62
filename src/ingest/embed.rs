//! Vectors for what has none yet: equal inputs once, inputs embedded before not at all.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use half::f16;
use metrics::counter;
use tokio::sync::Semaphore;
use tracing::{Instrument, debug_span};

use crate::domain::{ContentHash, Fingerprint, TenantScope};
use crate::inference::{Embedder, InferenceError, InputKind};
use crate::store::{CorpusStore, StoreError};

use super::draft::unit_vector;
use super::patience::Patience;
use super::{IngestSettings, ItemError};

/// The embedder with its bounds, shared by everything that ingests.
pub(super) struct Embedding {
    embedder: Arc<dyn Embedder>,
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
            embedder,
            slots: Semaphore::new(calls_in_flight),
            call_inputs: settings.embed_call_inputs.max(1),
            calls_in_flight,
            queue_wait_ms: settings.queue_wait_ms,
        }
    }

    pub(super) fn embedder(&self) -> &Arc<dyn Embedder> {
        &self.embedder
    }

    /// Embeds every input and adds the results to `embedded`. An input that the model refuses fails alone.
    pub(super) async fn embed(&self, inputs: Inputs, embedded: &mut Embedded) {
        let mut inputs: Call = inputs.into_iter().collect();
        // Calls of equal length waste no padding. The hash makes the order the same each time.
        inputs.sort_unstable_by_key(|(hash, text)| (Reverse(text.len()), *hash));
        let mut calls = Vec::with_capacity(inputs.len().div_ceil(self.call_inputs));
        while !inputs.is_empty() {
            let rest = inputs.split_off(inputs.len().min(self.call_inputs));
            calls.push(std::mem::replace(&mut inputs, rest));
        }
        let done: Vec<Embedded> = futures::stream::iter(calls)
            .map(|call| self.call(call))
            .buffer_unordered(self.calls_in_flight)
            .collect()
            .await;
        for part in done {
            embedded.vectors.extend(part.vectors);
            embedded.failed.extend(part.failed);
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

impl Embedded {
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
