//! How deep the legs go and how the time is split.

use std::time::{Duration, Instant};

use crate::domain::Query;

use super::SearchSettings;

/// Candidates for each group that is wanted: documents have several good chunks, so a page of groups needs more.
const CANDIDATES_PER_GROUP: usize = 4;
/// Hits are read beyond what is wanted, since a document may have gone since the index was built. 2: re-reading
/// costs one round trip, reading one chunk too many a hundredth of it.
const READ_AHEAD: usize = 2;
/// At most this part of a deadline is kept back for reading hits.
const RESERVE_PART: u32 = 4;

/// The shape of one search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Candidates from each leg.
    pub depth: usize,
    /// How many of them must survive at first.
    pub first_wanted: usize,
    /// Candidates to read from the truth at first: a few more, since some may not survive.
    pub first_read: usize,
    /// Legs and reranker end here; what is left belongs to reading hits.
    pub work_until: Instant,
    /// The whole search ends here.
    pub until: Instant,
}

impl Plan {
    /// The plan of a search that was taken at `taken_at`, over so many generations.
    pub(super) fn of(query: &Query, settings: &SearchSettings, (taken_at, generations): (Instant, usize)) -> Self {
        let limits = &settings.limits;
        let time =
            Duration::from_millis(query.deadline_ms.unwrap_or(limits.max_deadline_ms).min(limits.max_deadline_ms));
        let reserve = Duration::from_millis(settings.hydrate_reserve_ms).min(time / RESERVE_PART);
        let reranked = if query.rerank.enabled { query.rerank.depth } else { 0 };
        let grouped = if query.group_by.is_some() { query.top_k.saturating_mul(CANDIDATES_PER_GROUP) } else { 0 };
        let wanted = query.candidate_depth.max(query.top_k).max(reranked).max(grouped);
        let first = query.top_k.max(reranked);
        Self {
            depth: wanted.min(limits.max_candidate_depth),
            first_wanted: first,
            // Each document is served from one generation, so of the candidates of several all others fall away.
            first_read: first.saturating_mul(generations.max(1)).saturating_add(READ_AHEAD),
            work_until: taken_at + (time - reserve),
            until: taken_at + time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{GroupBy, Rerank};
    use crate::search::{QueryOverrides, SearchDefaults};

    fn query(change: impl FnOnce(&mut Query)) -> Query {
        let defaults = SearchDefaults::new(SearchSettings::default());
        let mut query = defaults.query(Some("whale".to_owned()), QueryOverrides::default()).unwrap();
        query.rerank.enabled = false;
        change(&mut query);
        query
    }

    fn plan(query: &Query) -> (Plan, Instant) {
        let now = Instant::now();
        (Plan::of(query, &SearchSettings::default(), (now, 1)), now)
    }

    #[test]
    fn a_plain_search_reads_hardly_more_than_it_shows() {
        let (plan, _) = plan(&query(|_| {}));

        assert_eq!((plan.depth, plan.first_wanted, plan.first_read), (100, 10, 12));
    }

    #[test]
    fn reranking_and_grouping_reach_deeper() {
        let (reranked, _) = plan(&query(|query| query.rerank = Rerank { enabled: true, depth: 150, model: None }));
        let (grouped, _) = plan(&query(|query| (query.group_by, query.top_k) = (Some(GroupBy::Document), 60)));

        assert_eq!((reranked.depth, reranked.first_read), (150, 152));
        assert_eq!((grouped.depth, grouped.first_read), (240, 62));
    }

    #[test]
    fn over_two_generations_twice_as_much_is_read_and_no_leg_goes_deeper() {
        let plan = Plan::of(&query(|_| {}), &SearchSettings::default(), (Instant::now(), 2));

        assert_eq!((plan.depth, plan.first_wanted, plan.first_read), (100, 10, 22));
    }

    #[test]
    fn a_deadline_keeps_a_part_back_for_reading_and_is_never_beyond_the_servers_own() {
        let (short, now) = plan(&query(|query| query.deadline_ms = Some(8)));
        assert_eq!(short.work_until - now, Duration::from_millis(6));
        assert_eq!(short.until - now, Duration::from_millis(8));

        let (none, now) = plan(&query(|_| {}));
        assert_eq!(none.until - now, Duration::from_millis(30_000));
        assert_eq!(none.until - none.work_until, Duration::from_millis(5));

        let (zero, now) = plan(&query(|query| query.deadline_ms = Some(0)));
        assert_eq!((zero.work_until, zero.until), (now, now));
    }
}
