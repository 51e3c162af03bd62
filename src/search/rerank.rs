//! Reranking the head: the first candidates are read again by a model that sees query and passage together.
//!
//! The final score is `blend * reranked + (1 - blend) * fused`, both mapped onto 0 to 1 over the head. Candidates
//! behind the head keep their order and come after it, on the same scale and therefore at or below 0.

use std::time::Instant;

use tokio::time::timeout_at;

use crate::domain::{Degraded, StageScore, TenantScope};
use crate::inference::{EmbeddedBy, InferenceError, PassageSample, RerankPassage, RerankQuery, RerankerKind};

use super::fusion::min_max;
use super::report::{Report, ms_since};
use super::searcher::{Request, Searcher};
use super::survivors::Survivor;
use super::tiers::Tier;

/// Of the head's text, how much its language is told by: about four chunks, which speak for the others. More costs time.
const SAMPLE_BYTES: usize = 4 * 1024;

impl Searcher {
    /// Reranks the first `rerank.depth` survivors in place, if it is asked for and time allows, by the best reranker
    /// that the time is enough for; whatever is skipped or cut short is named in the report.
    pub(super) async fn rerank_head(
        &self,
        request: &Request<'_>,
        survivors: &mut [Survivor],
        report: &mut Report,
    ) -> TailScale {
        let unchanged = TailScale::default();
        if !request.query.rerank.enabled || survivors.is_empty() {
            return unchanged;
        }
        let known = self.tiers_of(request);
        let wanted = request.query.rerank.depth.min(survivors.len());
        let reading: Vec<&Tier> =
            known.iter().copied().filter(|tier| tier.reranker.reads(&request.live().text)).collect();
        let sample = sample(&survivors[..wanted]);
        let tiers: Vec<&Tier> = reading.iter().copied().filter(|tier| tier.reranker.judges(&sample)).collect();
        let Some((last, better)) = tiers.split_last() else {
            let reason = match (known.is_empty(), reading.is_empty()) {
                (true, _) => "unavailable",
                (_, true) => "script",
                _ => "language",
            };
            report.degrade("rerank", reason);
            return unchanged;
        };
        let (start, until) = (Instant::now(), request.plan.work_until);
        let query = rerank_query(request, &survivors[..wanted]);
        if query.embedded_by == EmbeddedBy::Several {
            report.degrade("rerank", "mixed_embedders");
        }
        let passages: Vec<RerankPassage> = survivors[..wanted].iter_mut().map(passage).collect();
        let input = (request.scope, &query, passages.as_slice());

        let mut scored = None;
        let until = self.better_until((start, until), last.pace.time_for(wanted));
        for tier in better {
            let began = Instant::now();
            if tier.pace.affordable(until.saturating_duration_since(began)) < wanted {
                tier.pace.fade();
            } else {
                match rerank_scores(tier, input, until).await {
                    Ok(scores) => {
                        tier.pace.learn(wanted, began.elapsed());
                        scored = Some((*tier, scores));
                        break;
                    }
                    // It would have taken longer than it was let.
                    Err(reason) if reason.reason == "deadline" => tier.pace.learn(wanted, 2 * began.elapsed()),
                    // A refusal is quick, and says nothing about its pace.
                    Err(reason) => {
                        tracing::debug!(reranker = tier.name, reason = reason.reason, "the next one takes over")
                    }
                }
            }
            report.degrade("rerank", "smaller_model");
        }
        if scored.is_none() {
            scored = self.rerank_last(last, (request, input), report).await.map(|scores| (*last, scores));
        }
        report.timings.rerank_ms = ms_since(start);
        let Some((tier, scores)) = scored else { return unchanged };
        report.reranked_by = Some(tier.name.clone());
        let share = match tier.kind {
            RerankerKind::CrossEncoder => self.settings.rerank.cross_encoder_blend,
            RerankerKind::Rescorer => self.settings.rerank.blend,
        };
        blend(survivors, &scores, share)
    }

    /// By the tier that has none behind it: as many as time allows, if they fill the page.
    async fn rerank_last(
        &self,
        tier: &Tier,
        (request, (scope, query, passages)): (&Request<'_>, Input<'_>),
        report: &mut Report,
    ) -> Option<Vec<f32>> {
        let (start, until, wanted) = (Instant::now(), request.plan.work_until, passages.len());
        let depth = wanted.min(tier.pace.affordable(until.saturating_duration_since(start)));
        if depth < wanted {
            report.degrade("rerank", "deadline");
        }
        if depth < wanted.min(request.query.top_k) || start >= until {
            report.degrade("rerank", "deadline");
            tier.pace.fade();
            return None;
        }
        match rerank_scores(tier, (scope, query, &passages[..depth]), until).await {
            Ok(scores) => {
                tier.pace.learn(depth, start.elapsed());
                Some(scores)
            }
            Err(reason) => {
                report.degrade(reason.stage, reason.reason);
                None
            }
        }
    }
}

/// What is reranked: whose it is, the query and the passages.
type Input<'a> = (&'a TenantScope, &'a RerankQuery, &'a [RerankPassage]);

async fn rerank_scores(tier: &Tier, (scope, query, passages): Input<'_>, until: Instant) -> Result<Vec<f32>, Degraded> {
    let degraded = |reason| Degraded { stage: "rerank", reason };
    let scoring = tier.reranker.rerank(scope, query, passages, Some(until));
    let scores = match timeout_at(until.into(), scoring).await {
        Err(_) | Ok(Err(InferenceError::Deadline { .. })) => return Err(degraded("deadline")),
        Ok(Err(InferenceError::Overloaded { .. })) => return Err(degraded("overloaded")),
        Ok(Err(InferenceError::Missing { .. })) => return Err(degraded("unavailable")),
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "reranking failed");
            return Err(degraded("failed"));
        }
        Ok(Ok(scores)) => scores,
    };
    if scores.len() == passages.len() && scores.iter().all(|score| score.is_finite()) {
        return Ok(scores);
    }
    tracing::warn!(
        reranker = tier.reranker.name(),
        passages = passages.len(),
        scores = scores.len(),
        "a reranker returned scores that cannot be used"
    );
    Err(degraded("failed"))
}

/// The query with the vector that the head's embeddings can be compared with, if that is one.
fn rerank_query(request: &Request<'_>, head: &[Survivor]) -> RerankQuery {
    let of = |survivor: &Survivor| &request.inputs[survivor.fused.source];
    let first = head.first().map_or(request.live(), of);
    let are_alike = head.iter().all(|survivor| of(survivor).embedder() == first.embedder());
    let (vector, embedded_by) = match first.embedder() {
        _ if !are_alike => (None, EmbeddedBy::Several),
        Some(spec) => (first.query_vector.get().map(|vector| vector.to_vec()), EmbeddedBy::One(spec.clone())),
        None => (None, EmbeddedBy::Nobody),
    };
    // Of a group one passage is shown, and any number may come before it.
    let shown = if request.query.group_by.is_some() { usize::MAX } else { request.query.top_k };
    RerankQuery { text: request.query.text.clone(), vector, embedded_by, shown }
}

/// Text of the head, enough to tell its language by.
fn sample(head: &[Survivor]) -> PassageSample {
    let mut sample = String::new();
    for survivor in head {
        let text = survivor.hydrated.chunk.text.as_str();
        let room = SAMPLE_BYTES.saturating_sub(sample.len());
        sample.push_str(&text[..text.floor_char_boundary(room)]);
        if text.len() >= room {
            break;
        }
        sample.push('\n');
    }
    PassageSample::new(sample)
}

// The embedding is for the reranker alone, so it moves.
fn passage(survivor: &mut Survivor) -> RerankPassage {
    let hydrated = &mut survivor.hydrated;
    let (title, chunk) = (hydrated.head.title.as_deref(), &hydrated.chunk);
    let headings = chunk.heading_path.iter().map(String::as_str);
    let lines: Vec<&str> = title.into_iter().chain(headings).chain([chunk.text.as_str()]).collect();
    RerankPassage { id: chunk.id, text: lines.join("\n"), embedding: hydrated.embedding.take() }
}

/// Gives the first `scores.len()` survivors their final score and order, and puts the others on the same scale.
fn blend(survivors: &mut [Survivor], scores: &[f32], blend: f64) -> TailScale {
    let (head, tail) = survivors.split_at_mut(scores.len());
    let reranked: Vec<f64> = scores.iter().copied().map(f64::from).collect();
    let fused: Vec<f64> = head.iter().map(|survivor| survivor.fused.score).collect();
    for ((survivor, score), rank) in head.iter_mut().zip(&reranked).zip(ranks(&reranked)) {
        survivor.reranked = Some(StageScore { rank, score: *score });
    }
    let parts = min_max(&reranked).into_iter().zip(min_max(&fused));
    for (survivor, (reranked, fused)) in head.iter_mut().zip(parts) {
        survivor.score = blend * reranked + (1.0 - blend) * fused;
    }
    head.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.fused.id.cmp(&b.fused.id)));

    let scale = TailScale::behind(&fused, 1.0 - blend);
    scale.apply(tail);
    scale
}

/// How the scores of candidates behind a reranked head continue its scale; they end at or below 0, where the
/// head's begin. The default leaves scores as they are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TailScale(Option<Linear>);

#[derive(Debug, Clone, Copy)]
struct Linear {
    zero: f64,
    factor: f64,
}

impl TailScale {
    /// `fused` are the head's fused scores, best first.
    fn behind(fused: &[f64], weight: f64) -> Self {
        let (first, last) = (fused.first().copied().unwrap_or(0.0), fused.last().copied().unwrap_or(0.0));
        let width = if first > last { first - last } else { 1.0 };
        Self(Some(Linear { zero: last, factor: weight / width }))
    }

    pub(super) fn apply(self, tail: &mut [Survivor]) {
        let Some(Linear { zero, factor }) = self.0 else { return };
        for survivor in tail {
            survivor.score = factor * (survivor.fused.score - zero);
        }
    }
}

// Rank of each score among all, from 1; equal scores keep the order that they came in.
fn ranks(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut ranks = vec![0; scores.len()];
    for (rank, index) in order.into_iter().enumerate() {
        ranks[index] = rank + 1;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        ByteSpan, Chunk, ChunkId, ChunkerSpec, CollectionName, ContentHash, DocumentHead, DocumentId, GenerationId,
        GroupBy, Metadata, Provenance, Timestamp,
    };
    use crate::search::fusion::Fused;
    use crate::search::present::Groups;
    use crate::store::HydratedChunk;
    use serde_json::json;

    fn survivor(n: u8, score: f64) -> Survivor {
        let document_id = DocumentId::new(&format!("doc {}", n / 2)).unwrap();
        let id = ChunkId([n; 16]);
        let hash = ContentHash([0; 32]);
        Survivor {
            hydrated: HydratedChunk {
                chunk: Chunk {
                    id,
                    ordinal: 0,
                    span: ByteSpan::new(0, 1),
                    text: "x".to_owned(),
                    heading_path: vec!["Part".to_owned()],
                    token_count: 1,
                    page: None,
                    metadata: None,
                    context: None,
                },
                provenance: Provenance {
                    document_id: document_id.clone(),
                    document_version: 1,
                    content_hash: hash,
                    source_uri: None,
                    span: ByteSpan::new(0, 1),
                    page: None,
                    heading_path: Vec::new(),
                    ordinal: 0,
                    chunker: ChunkerSpec { name: "c".to_owned(), version: 1, params: Default::default() },
                    embedder: None,
                    generation: GenerationId([0; 16]),
                    indexed_at: None,
                },
                head: DocumentHead {
                    id: document_id,
                    collection: CollectionName::new("default").unwrap(),
                    title: Some("Title".to_owned()),
                    source_uri: None,
                    media_type: "text/plain".to_owned(),
                    metadata: Metadata::new(),
                    acl: None,
                },
                created_at: Timestamp(0),
                updated_at: Timestamp(0),
                embedding: None,
            },
            fused: Fused { id, score, lexical: None, vector: None, source: 0 },
            fused_rank: usize::from(n),
            reranked: None,
            score,
        }
    }

    fn order(survivors: &[Survivor]) -> Vec<(u8, f64)> {
        survivors.iter().map(|one| (one.fused.id.0[0], (one.score * 1e6).round() / 1e6)).collect()
    }

    #[test]
    fn the_head_is_blended_as_worked_by_hand_and_the_tail_stays_behind_it() {
        let mut survivors: Vec<Survivor> =
            [(1, 0.9), (2, 0.8), (3, 0.5), (4, 0.3)].map(|(n, score)| survivor(n, score)).into();

        let scale = blend(&mut survivors, &[-2.0, 6.0, 2.0], 0.75);

        // 2: .75 * 1 + .25 * .75, 3: .75 * .5 + .25 * 0, 1: .75 * 0 + .25 * 1, 4: .25 * (.3 - .5) / .4.
        assert_eq!(order(&survivors), [(2, 0.9375), (3, 0.375), (1, 0.25), (4, -0.125)]);
        assert_eq!(survivors[0].reranked, Some(StageScore { rank: 1, score: 6.0 }));
        assert_eq!(survivors[2].reranked, Some(StageScore { rank: 3, score: -2.0 }));
        assert_eq!(survivors[3].reranked, None);

        let mut later = [survivor(5, 0.1)];
        scale.apply(&mut later);
        assert_eq!(order(&later), [(5, -0.25)]);
    }

    #[test]
    fn equal_scores_are_ordered_by_chunk_id_and_stay_finite() {
        let mut survivors: Vec<Survivor> = [(9, 0.5), (4, 0.5)].map(|(n, score)| survivor(n, score)).into();

        blend(&mut survivors, &[1.0, 1.0], 0.5);

        assert_eq!(order(&survivors), [(4, 1.0), (9, 1.0)]);
    }

    #[test]
    fn a_passage_is_read_with_title_and_headings() {
        assert_eq!(passage(&mut survivor(1, 0.0)).text, "Title\nPart\nx");
    }

    #[test]
    fn one_of_each_group_passes_and_those_without_a_group_stand_alone() {
        let admitted = |by: Option<&GroupBy>, of: &[Survivor]| {
            let mut groups = Groups::new(by);
            of.iter().filter(|one| groups.admit(&one.hydrated)).map(|one| one.fused.id.0[0]).collect::<Vec<_>>()
        };
        let mut survivors: Vec<Survivor> = (2..6).map(|n| survivor(n, 1.0)).collect();
        for (survivor, lang) in survivors.iter_mut().zip([json!(1), json!("1"), json!(1)]) {
            survivor.hydrated.head.metadata.insert("lang".to_owned(), lang);
        }

        assert_eq!(admitted(None, &survivors), [2, 3, 4, 5]);
        assert_eq!(admitted(Some(&GroupBy::Document), &survivors), [2, 4]);
        assert_eq!(admitted(Some(&GroupBy::Metadata("lang".to_owned())), &survivors), [2, 3, 5]);
    }
}
