//! One search over one snapshot: the cheapest way through each part, then one scoring of all candidates.

use std::collections::HashSet;

use crate::domain::{ChunkId, ScoredChunk};
use crate::index::IndexError;
use crate::index::contract::VectorSearch;

use super::candidates::{Candidate, Candidates};
use super::part::{Part, Snapshot};
use super::quantize::Query;
use super::scan::{Target, scan, scan_rows};
use super::settings::VectorSettings;

/// What looking for an allowed chunk costs, in rows scanned one after another (`benches/vector.rs`).
const PROBE_COST_ROWS: u64 = 2;
/// What multiplying a row found that way costs: it comes from anywhere in memory.
const HIT_COST_ROWS: u64 = 10;
/// A walk for more than one row in this many is no better than a scan.
const WALK_MAX_SHARE: usize = 8;
/// What an engine's own cosine may be off by: it divides by the lengths of the codes, which are not quite 1.
const ENGINE_SLACK: f32 = 1e-3;
/// Standard deviations by which a found row's cosine may be off before it goes without a second look. The error of
/// a code points anywhere, so its share along the query is `1 / √dimensions` of the bound; and a walk is no proof.
const DEVIATIONS: f32 = 4.0;

/// The nearest vectors, best first.
pub(super) fn nearest(
    snapshot: &Snapshot,
    settings: &VectorSettings,
    query: &Query,
    search: VectorSearch<'_>,
) -> Result<Vec<ScoredChunk>, IndexError> {
    let most = search.allowed.map_or(usize::MAX, HashSet::len).min(snapshot.live as usize);
    let depth = search.depth.min(most);
    if depth == 0 {
        return Ok(Vec::new());
    }
    let visit = Visit { settings, query, search: VectorSearch { depth, ..search }, live: snapshot.live };
    let mut candidates = Candidates::new(depth);
    // Graphs first: what they find raises the bar for the scans.
    let (walked, scanned): (Vec<_>, Vec<_>) = (0..).zip(&snapshot.parts).partition(|(_, part)| part.graph.is_some());
    for (index, part) in walked.into_iter().chain(scanned) {
        visit.part(part, index, &mut candidates)?;
    }
    candidates.rescore(query, &snapshot.parts)
}

struct Visit<'a> {
    settings: &'a VectorSettings,
    query: &'a Query,
    search: VectorSearch<'a>,
    /// Rows alive in all parts together.
    live: u64,
}

impl Visit<'_> {
    fn part(&self, part: &Part, index: u32, candidates: &mut Candidates) -> Result<(), IndexError> {
        let passes = |ordinal: u32| {
            !part.dead.contains(ordinal)
                && self.search.allowed.is_none_or(|allowed| allowed.contains(&part.image.id(ordinal)))
        };
        let filtered = self.search.allowed.is_some() || !part.dead.is_empty();
        let target = Target { query: self.query, part, index, accept: if filtered { Some(&passes) } else { None } };
        match (self.way(part), self.search.allowed) {
            (Way::LookUp, Some(allowed)) => look_up(target, allowed, candidates),
            (Way::Walk, _) if self.walk(target, candidates)? => {}
            _ => scan(target, candidates),
        }
        Ok(())
    }

    fn way(&self, part: &Part) -> Way {
        let rows = part.image.rows();
        let walkable =
            part.graph.is_some() && !self.search.exact && self.wanted().saturating_mul(WALK_MAX_SHARE) <= rows as usize;
        // The threshold is the size at which a scan costs what a walk does, so it is also the price of a walk.
        let walk = walkable.then_some(self.settings.exact_threshold as u64);
        let allowed = self.search.allowed.map(|allowed| allowed.len() as u64);
        cheapest(Size { rows: rows.into(), live: self.live }, allowed, walk)
    }

    /// How many rows a graph is asked for.
    fn wanted(&self) -> usize {
        self.search.depth.saturating_mul(self.settings.rescore_factor)
    }

    /// False if the graph gave up.
    fn walk(&self, target: Target<'_>, candidates: &mut Candidates) -> Result<bool, IndexError> {
        let Some(graph) = &target.part.graph else { return Ok(false) };
        let Some(found) = graph.nearest(self.query, self.wanted(), target.accept)? else { return Ok(false) };
        let image = &target.part.image;
        let likely = DEVIATIONS / (image.layout().dimensions as f32).sqrt();
        for (ordinal, estimate) in found {
            let bound = self.query.bound(image.quantized(ordinal)) * likely.min(1.0) + ENGINE_SLACK;
            candidates.push(Candidate { estimate, bound, part: target.index, ordinal });
        }
        Ok(true)
    }
}

fn look_up(target: Target<'_>, allowed: &HashSet<ChunkId>, candidates: &mut Candidates) {
    scan_rows(target, allowed.iter().filter_map(|id| target.part.find_live(id)), candidates);
}

/// A way through a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Scan,
    LookUp,
    Walk,
}

/// How large a part is.
#[derive(Debug, Clone, Copy)]
struct Size {
    rows: u64,
    /// Rows alive in all parts together.
    live: u64,
}

/// The cheapest way through a part if `allowed` of all live rows may be returned; `walk` is the price of an unhindered
/// walk in rows scanned, `None` if there is no graph to walk.
fn cheapest(size: Size, allowed: Option<u64>, walk: Option<u64>) -> Way {
    let live = size.live.max(1);
    let look_up = |allowed: u64| {
        let hits = allowed.saturating_mul(size.rows) / live;
        allowed.saturating_mul(PROBE_COST_ROWS).saturating_add(hits.saturating_mul(HIT_COST_ROWS))
    };
    // A walk goes on until it has found enough, so it lengthens as fewer rows pass.
    let hindered = |walk: u64| walk.saturating_mul(live) / allowed.unwrap_or(live).clamp(1, live);
    let ways = [(Some(size.rows), Way::Scan), (allowed.map(look_up), Way::LookUp), (walk.map(hindered), Way::Walk)];
    let possible = ways.into_iter().filter_map(|(cost, way)| Some((cost?, way)));
    possible.min_by_key(|(cost, _)| *cost).map_or(Way::Scan, |(_, way)| way)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_allowed_are_looked_up_many_are_walked_and_a_small_part_is_scanned() {
        let walk = Some(20_000);
        let whole = |rows| Size { rows, live: rows };

        assert_eq!(cheapest(whole(100_000), None, walk), Way::Walk);
        assert_eq!(cheapest(whole(100_000), None, None), Way::Scan);
        assert_eq!(cheapest(whole(100_000), Some(1_000), walk), Way::LookUp);
        assert_eq!(cheapest(whole(100_000), Some(10_000), walk), Way::Scan);
        assert_eq!(cheapest(whole(100_000), Some(50_000), walk), Way::Walk);
        assert_eq!(cheapest(whole(1_000_000), Some(10_000), walk), Way::LookUp);
        assert_eq!(cheapest(whole(1_000_000), Some(100_000), walk), Way::Walk);
        assert_eq!(cheapest(Size { rows: 5_000, live: 100_000 }, Some(1_000), None), Way::LookUp);
        assert_eq!(cheapest(Size { rows: 500, live: 100_000 }, Some(10_000), None), Way::Scan);
        assert_eq!(cheapest(whole(0), Some(0), None), Way::Scan);
    }
}
