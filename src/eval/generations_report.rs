//! What a generation is worth beside another one of its collection: pure sums over searches that were run on both.
//!
//! The word of the report is that of nDCG@10's paired interval alone; the other numbers are for people.

use std::collections::BTreeSet;

use crate::domain::{CollectionName, GenerationCounts, GenerationId, GenerationState, Nanousd};
use crate::store::ShadowSearch;

use super::bootstrap::{Bootstrap, Interval};
use super::metrics::{Grades, Metric};

/// What the metrics are; the first one decides.
pub(super) const METRICS: [Metric; 4] = [Metric::Ndcg(10), Metric::Recall(10), Metric::Recall(100), Metric::Mrr(10)];
/// Documents of each side that the overlap looks at.
const OVERLAP_DEPTH: usize = 10;

/// A generation beside the one that it would replace, or has replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationReport {
    pub collection: CollectionName,
    pub generation: GenerationId,
    pub state: GenerationState,
    /// What it is compared with: the live one, or for the live one the one before it.
    pub beside: GenerationId,
    pub cases: CaseCounts,
    /// True if documents beyond the generation's sample were left out on both sides.
    pub restricted_to_sample: bool,
    /// In the order of [`Metric`]s decided on: nDCG@10, recall@10, recall@100, MRR@10; empty without cases.
    pub metrics: Vec<MetricReport>,
    /// Mean share of the documents among either side's first ten that are among both; `None` without cases.
    pub overlap_at_10: Option<f64>,
    /// Of plain searches for the cases, the two sides taking turns; `None` without cases.
    pub latency: Option<LatencyReport>,
    pub cost: CostReport,
    pub shadow: ShadowReport,
    /// What was skipped or cut short in these searches, as `stage:reason`.
    pub degraded: BTreeSet<String>,
    /// False if the verdict rests on too few cases, on degraded searches or on a generation that is not built yet.
    pub is_conclusive: bool,
    pub verdict: Verdict,
}

/// What became of the collection's cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CaseCounts {
    pub scored: usize,
    /// None of their documents is in the sample.
    pub outside_sample: usize,
    /// Time or the limit of cases was used up before them; more than one only tells that there are more.
    pub not_reached: usize,
}

/// Means of one metric and their difference.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricReport {
    /// `ndcg_at_10` and the like.
    pub name: String,
    pub beside: f64,
    pub generation: f64,
    /// Of generation minus beside, paired by case, with its 95 % interval.
    pub difference: Interval,
}

/// Milliseconds of both sides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatencyReport {
    pub beside: Latency,
    pub generation: Latency,
}

/// By nearest rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    pub p50_ms: f64,
    pub p95_ms: f64,
}

/// What both take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostReport {
    pub beside: SizeReport,
    pub generation: SizeReport,
    /// What calls with the prompt of the generation's contexts have cost since it was begun; `None`: it has none.
    pub contexts: Option<Nanousd>,
}

/// What a generation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeReport {
    pub counts: GenerationCounts,
    /// Of its vectors in the truth, two bytes a dimension; the index holds as much again at most.
    pub vector_bytes: u64,
}

/// Live searches that were put to the generation as well.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ShadowReport {
    pub searches: usize,
    /// `None`: there were none.
    pub mean_overlap: Option<f64>,
    /// Sum of the generation's times over the sum of the live ones'; `None`: there were none.
    pub latency_ratio: Option<f64>,
}

/// What the interval of nDCG@10 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Better,
    Worse,
    Undecided,
    NoCases,
}

impl Verdict {
    /// `better`, `worse`, `undecided` or `no_cases`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Undecided => "undecided",
            Self::NoCases => "no_cases",
        }
    }
}

/// What is to become of a generation that is promoted automatically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Promote,
    Retire,
    /// Nothing speaks clearly for either yet.
    Wait,
}

/// What a report says for a generation in shadow. One that is a sample is never promoted: it does not hold everything.
pub fn judge(report: &GenerationReport) -> Decision {
    if !report.is_conclusive || report.state != GenerationState::Shadow {
        return Decision::Wait;
    }
    match report.verdict {
        Verdict::Better if !report.restricted_to_sample => Decision::Promote,
        Verdict::Worse => Decision::Retire,
        Verdict::Better | Verdict::Undecided | Verdict::NoCases => Decision::Wait,
    }
}

/// A case that was put to both sides.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ScoredCase {
    pub grades: Grades,
    pub beside: Ran,
    pub generation: Ran,
}

/// What one side did with a case.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Ran {
    /// Document ids, best first.
    pub ranking: Vec<String>,
    /// Of a plain search.
    pub took_ms: f64,
}

/// The metrics over all cases, the deciding one first; empty without cases.
pub(super) fn metrics(cases: &[ScoredCase], bootstrap: &Bootstrap) -> Vec<MetricReport> {
    let report = |metric: Metric| {
        let values = |side: fn(&ScoredCase) -> &Ran| -> Vec<f64> {
            cases.iter().map(|case| metric.of(&side(case).ranking, &case.grades)).collect()
        };
        let (generation, beside) = (values(|case| &case.generation), values(|case| &case.beside));
        let difference = bootstrap.paired_difference(&generation, &beside)?;
        let (beside, generation) = (super::mean(&beside), super::mean(&generation));
        Some(MetricReport { name: metric.name(), beside, generation, difference })
    };
    METRICS.into_iter().filter_map(report).collect()
}

/// What the interval of the deciding metric says.
pub(super) fn verdict(metrics: &[MetricReport]) -> Verdict {
    match metrics.first().map(|metric| metric.difference) {
        None => Verdict::NoCases,
        Some(Interval { low, .. }) if low > 0.0 => Verdict::Better,
        Some(Interval { high, .. }) if high < 0.0 => Verdict::Worse,
        Some(_) => Verdict::Undecided,
    }
}

/// Mean share of documents that both sides have among the first ten of either; `None` without cases.
pub(super) fn overlap_at_10(cases: &[ScoredCase]) -> Option<f64> {
    let first = |ran: &Ran| ran.ranking.iter().take(OVERLAP_DEPTH).cloned().collect::<BTreeSet<_>>();
    let overlaps: Vec<f64> = cases
        .iter()
        .map(|case| {
            let (one, other) = (first(&case.beside), first(&case.generation));
            let either = one.union(&other).count();
            if either == 0 { 1.0 } else { one.intersection(&other).count() as f64 / either as f64 }
        })
        .collect();
    (!overlaps.is_empty()).then(|| super::mean(&overlaps))
}

/// Latencies of both sides; `None` without cases.
pub(super) fn latency(cases: &[ScoredCase]) -> Option<LatencyReport> {
    let of = |side: fn(&ScoredCase) -> &Ran| {
        let mut times: Vec<f64> = cases.iter().map(|case| side(case).took_ms).collect();
        times.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        (!times.is_empty()).then(|| Latency { p50_ms: at(0.5), p95_ms: at(0.95) })
    };
    Some(LatencyReport { beside: of(|case| &case.beside)?, generation: of(|case| &case.generation)? })
}

/// Shadow searches added up.
pub(super) fn shadow(searches: &[ShadowSearch]) -> ShadowReport {
    let live_us: u64 = searches.iter().map(|search| search.live_us).sum();
    let shadow_us: u64 = searches.iter().map(|search| search.shadow_us).sum();
    let overlaps: Vec<f64> = searches.iter().map(|search| search.overlap).collect();
    ShadowReport {
        searches: searches.len(),
        mean_overlap: (!overlaps.is_empty()).then(|| super::mean(&overlaps)),
        latency_ratio: (live_us > 0).then(|| shadow_us as f64 / live_us as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Mode, Timestamp, TraceId};

    const QUICK: Bootstrap = Bootstrap { resamples: 500, confidence: 0.95, seed: 1 };

    fn ran(ranking: &[&str], took_ms: f64) -> Ran {
        Ran { ranking: ranking.iter().map(|id| (*id).to_owned()).collect(), took_ms }
    }

    fn case(beside: &[&str], generation: &[&str]) -> ScoredCase {
        let grades = [("a".to_owned(), 1)].into();
        ScoredCase { grades, beside: ran(beside, 2.0), generation: ran(generation, 3.0) }
    }

    fn report(cases: &[ScoredCase]) -> GenerationReport {
        let metrics = metrics(cases, &QUICK);
        let size = SizeReport { counts: GenerationCounts::default(), vector_bytes: 0 };
        GenerationReport {
            collection: CollectionName::new("default").unwrap(),
            generation: GenerationId([2; 16]),
            state: GenerationState::Shadow,
            beside: GenerationId([1; 16]),
            cases: CaseCounts { scored: cases.len(), ..CaseCounts::default() },
            restricted_to_sample: false,
            verdict: verdict(&metrics),
            metrics,
            overlap_at_10: overlap_at_10(cases),
            latency: latency(cases),
            cost: CostReport { beside: size, generation: size, contexts: None },
            shadow: ShadowReport::default(),
            degraded: BTreeSet::new(),
            is_conclusive: true,
        }
    }

    #[test]
    fn a_gain_in_every_case_is_better_and_its_mirror_worse() {
        let better: Vec<ScoredCase> = (0..12).map(|_| case(&["x", "a"], &["a", "x"])).collect();
        let worse: Vec<ScoredCase> = (0..12).map(|_| case(&["a", "x"], &["x", "a"])).collect();

        let report_better = report(&better);

        assert_eq!((report_better.verdict, judge(&report_better)), (Verdict::Better, Decision::Promote));
        assert_eq!((report(&worse).verdict, judge(&report(&worse))), (Verdict::Worse, Decision::Retire));
        let names: Vec<&str> = report_better.metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["ndcg_at_10", "recall_at_10", "recall_at_100", "mrr_at_10"]);
        // The second place is worth 1/log2(3) = 0.63093 of nDCG.
        assert!((report_better.metrics[0].difference.mean - (1.0 - 0.630_930)).abs() < 1e-6);
        assert_eq!((report_better.metrics[3].beside, report_better.metrics[3].generation), (0.5, 1.0));
        assert_eq!(report_better.overlap_at_10, Some(1.0));
    }

    #[test]
    fn gains_and_losses_that_cancel_decide_nothing() {
        let mixed: Vec<ScoredCase> =
            (0..20).map(|n| if n % 2 == 0 { case(&["a"], &["x"]) } else { case(&["x"], &["a"]) }).collect();

        let report = report(&mixed);

        assert_eq!((report.verdict, judge(&report)), (Verdict::Undecided, Decision::Wait));
        assert_eq!(report.overlap_at_10, Some(0.0));
    }

    #[test]
    fn without_cases_there_is_nothing_to_say() {
        let report = report(&[]);

        assert_eq!((report.verdict, judge(&report)), (Verdict::NoCases, Decision::Wait));
        assert_eq!((report.metrics.len(), report.overlap_at_10, report.latency), (0, None, None));
    }

    #[test]
    fn a_sample_is_never_promoted_and_nothing_is_decided_on_shaky_ground() {
        let gain: Vec<ScoredCase> = (0..12).map(|_| case(&["x", "a"], &["a", "x"])).collect();
        let loss: Vec<ScoredCase> = (0..12).map(|_| case(&["a", "x"], &["x", "a"])).collect();

        let sample = |cases: &[ScoredCase]| GenerationReport { restricted_to_sample: true, ..report(cases) };
        let shaky = GenerationReport { is_conclusive: false, ..report(&loss) };
        let live = GenerationReport { state: GenerationState::Live, ..report(&loss) };

        assert_eq!((judge(&sample(&gain)), judge(&sample(&loss))), (Decision::Wait, Decision::Retire));
        assert_eq!((judge(&shaky), judge(&live)), (Decision::Wait, Decision::Wait));
    }

    #[test]
    fn latencies_are_taken_by_nearest_rank() {
        let cases: Vec<ScoredCase> = (1..=21)
            .map(|n| ScoredCase { grades: Grades::new(), beside: ran(&[], f64::from(n)), generation: ran(&[], 1.0) })
            .collect();

        let latency = latency(&cases).unwrap();

        assert_eq!(latency.beside, Latency { p50_ms: 11.0, p95_ms: 20.0 });
        assert_eq!(latency.generation, Latency { p50_ms: 1.0, p95_ms: 1.0 });
    }

    #[test]
    fn shadow_searches_are_added_up() {
        let search = |overlap, live_us, shadow_us| ShadowSearch {
            generation: GenerationId([2; 16]),
            trace_id: TraceId([1; 16]),
            mode: Mode::Hybrid,
            top_k: 10,
            overlap,
            live_us,
            shadow_us,
            at: Timestamp(0),
        };

        let report = shadow(&[search(1.0, 100, 150), search(0.5, 300, 450)]);

        let expected = ShadowReport { searches: 2, mean_overlap: Some(0.75), latency_ratio: Some(1.5) };
        assert_eq!(report, expected);
        assert_eq!(shadow(&[]), ShadowReport::default());
    }
}
