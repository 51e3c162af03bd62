//! What maintenance should do next: pure decisions over the shapes of the sealed segments.
//!
//! Without a graph, segments of about one size are merged once there are `merge_factor` of them, so a vector is
//! copied a logarithm of times (O'Neil et al., "The log-structured merge-tree", 1996). With one, whatever lies beside
//! it is scanned, and is merged into it once that scan would cost as much as the walk.

use super::settings::{Engine, VectorSettings};

/// Segments smaller than this count as equal in size.
const SMALLEST_TIER_ROWS: u64 = 256;
/// For an engine that cannot grow a graph, each addition is a build from nothing: it waits for this much.
const REBUILD_GROWTH_PERCENT: u64 = 50;

/// A sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub rows: u64,
    pub live: u64,
    /// Nodes of the graph that lead nowhere; `None` if there is no graph.
    pub gone: Option<u64>,
}

impl Shape {
    /// Percentage of work wasted on what is not there any more.
    fn wasted_percent(&self) -> u64 {
        let gone = self.gone.unwrap_or(0);
        let all = self.rows + gone;
        ((all - self.live) * 100).checked_div(all).unwrap_or(100)
    }
}

/// What becomes of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GraphWork {
    /// The new segment is scanned.
    None,
    /// Built from nothing.
    Build,
    /// Grown from the graph of this segment.
    Grow(usize),
}

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Replace these segments (indexes, ascending) by one.
    Merge { inputs: Vec<usize>, graph: GraphWork },
    /// Build a graph over this segment as it is.
    Graph(usize),
}

/// The next thing to do, if any. Doing what it says and asking again ends with `None`.
pub(super) fn next(shapes: &[Shape], settings: &VectorSettings) -> Option<Plan> {
    let live: u64 = shapes.iter().map(|shape| shape.live).sum();
    let largest_graph = (0..shapes.len()).filter(|&n| shapes[n].gone.is_some()).max_by_key(|&n| shapes[n].live);
    let graph_wanted = live > settings.exact_threshold as u64;
    if let Some(base) = largest_graph {
        if let Some(plan) = beside_graph(shapes, base, live, settings) {
            return Some(plan);
        }
    } else if graph_wanted {
        return Some(first_graph(shapes, settings));
    }
    rewrite_of_the_dead(shapes, settings).or_else(|| full_tier(shapes, settings))
}

fn first_graph(shapes: &[Shape], settings: &VectorSettings) -> Plan {
    match shapes {
        [only] if only.wasted_percent() < settings.dead_percent.into() => Plan::Graph(0),
        _ => Plan::Merge { inputs: (0..shapes.len()).collect(), graph: GraphWork::Build },
    }
}

fn beside_graph(shapes: &[Shape], base: usize, live: u64, settings: &VectorSettings) -> Option<Plan> {
    let inputs: Vec<usize> = (0..shapes.len()).collect();
    let graph_wanted = live > settings.exact_threshold as u64;
    if shapes[base].wasted_percent() >= settings.dead_percent.into() {
        let graph = if graph_wanted { GraphWork::Build } else { GraphWork::None };
        return Some(Plan::Merge { inputs, graph });
    }
    let beside = live - shapes[base].live;
    let (growth, graph) = match settings.engine {
        Engine::Usearch => (u64::from(settings.graph_growth_percent), GraphWork::Grow(base)),
        Engine::HnswRs => (REBUILD_GROWTH_PERCENT.max(settings.graph_growth_percent.into()), GraphWork::Build),
    };
    // A quarter of the threshold is scanned at a quarter of the price of a walk, so there is no hurry.
    let allowed = (shapes[base].live * growth / 100).max(settings.exact_threshold as u64 / 4);
    (beside > allowed).then_some(Plan::Merge { inputs, graph })
}

fn rewrite_of_the_dead(shapes: &[Shape], settings: &VectorSettings) -> Option<Plan> {
    let wasted = |shape: &Shape| shape.gone.is_none() && shape.wasted_percent() >= settings.dead_percent.into();
    let inputs: Vec<usize> = (0..shapes.len()).filter(|&n| wasted(&shapes[n])).collect();
    (!inputs.is_empty()).then_some(Plan::Merge { inputs, graph: GraphWork::None })
}

fn full_tier(shapes: &[Shape], settings: &VectorSettings) -> Option<Plan> {
    let factor = settings.merge_factor as u64;
    let tier = |shape: &Shape| (shape.live.max(1).div_ceil(SMALLEST_TIER_ROWS)).ilog(factor);
    let flat: Vec<usize> = (0..shapes.len()).filter(|&n| shapes[n].gone.is_none()).collect();
    let members = |wanted: u32| flat.iter().copied().filter(move |&n| tier(&shapes[n]) == wanted);
    let full = flat.iter().map(|&n| tier(&shapes[n])).filter(|&t| members(t).count() >= settings.merge_factor).min()?;
    // Smaller ones come along: they would only be copied again soon.
    let inputs = flat.iter().copied().filter(|&n| tier(&shapes[n]) <= full).collect();
    Some(Plan::Merge { inputs, graph: GraphWork::None })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(engine: Engine) -> VectorSettings {
        VectorSettings { engine, exact_threshold: 1_000, ..Default::default() }
    }

    fn flat(rows: u64, live: u64) -> Shape {
        Shape { rows, live, gone: None }
    }

    /// Does what a plan says to the shapes; returns the rows that were copied.
    fn carry_out(plan: &Plan, shapes: &mut Vec<Shape>) -> u64 {
        let (inputs, graph) = match plan {
            Plan::Graph(n) => {
                shapes[*n].gone = Some(0);
                return 0;
            }
            Plan::Merge { inputs, graph } => (inputs, graph),
        };
        let live: u64 = inputs.iter().map(|&n| shapes[n].live).sum();
        let gone = match graph {
            GraphWork::None => None,
            GraphWork::Build => Some(0),
            GraphWork::Grow(n) => Some(shapes[*n].gone.unwrap() + shapes[*n].rows - shapes[*n].live),
        };
        for &n in inputs.iter().rev() {
            shapes.remove(n);
        }
        if live > 0 {
            shapes.push(Shape { rows: live, live, gone });
        }
        live
    }

    fn settle(shapes: &mut Vec<Shape>, settings: &VectorSettings) -> u64 {
        let mut copied = 0;
        for _ in 0..100 {
            match next(shapes, settings) {
                Some(plan) => copied += carry_out(&plan, shapes),
                None => return copied,
            }
        }
        panic!("maintenance does not come to rest: {shapes:?}");
    }

    proptest! {
        #[test]
        fn maintenance_comes_to_rest(
            shapes in proptest::collection::vec((1_u64..5_000, 0_u64..100, any::<bool>()), 0..30),
            usearch in any::<bool>(),
        ) {
            let mut shapes: Vec<Shape> = shapes
                .into_iter()
                .map(|(rows, dead, graph)| Shape { rows, live: rows - rows * dead / 100, gone: graph.then_some(0) })
                .collect();
            let live: u64 = shapes.iter().map(|shape| shape.live).sum();
            let settings = settings(if usearch { Engine::Usearch } else { Engine::HnswRs });

            settle(&mut shapes, &settings);

            prop_assert_eq!(shapes.iter().map(|shape| shape.live).sum::<u64>(), live);
        }
    }

    #[test]
    fn a_bulk_load_ends_with_one_graph_over_nearly_everything_at_amortized_cost() {
        let settings = VectorSettings { exact_threshold: 20_000, ..Default::default() };
        let mut shapes = Vec::new();
        let mut copied = 0;

        for _ in 0..200 {
            shapes.push(flat(500, 500));
            copied += settle(&mut shapes, &settings);
        }

        let graphs: Vec<&Shape> = shapes.iter().filter(|shape| shape.gone.is_some()).collect();
        assert_eq!(graphs.len(), 1);
        assert!(graphs[0].live >= 85_000, "{shapes:?}");
        assert!(copied < 100_000 * 12, "{copied} rows copied");
    }

    #[test]
    fn below_the_threshold_there_is_no_graph_and_few_segments() {
        let settings = VectorSettings::default();
        let mut shapes = Vec::new();

        for _ in 0..1_000 {
            shapes.push(flat(10, 10));
            settle(&mut shapes, &settings);
        }

        assert!(shapes.iter().all(|shape| shape.gone.is_none()));
        assert!(shapes.len() <= 3 * settings.merge_factor, "{} segments", shapes.len());
    }

    #[test]
    fn a_mostly_dead_graph_is_built_anew_and_a_dead_segment_goes() {
        let settings = settings(Engine::Usearch);
        let shapes = [Shape { rows: 3_000, live: 2_000, gone: Some(100) }];
        assert_eq!(next(&shapes, &settings), Some(Plan::Merge { inputs: vec![0], graph: GraphWork::Build }));

        let shapes = [Shape { rows: 3_000, live: 500, gone: Some(0) }];
        assert_eq!(next(&shapes, &settings), Some(Plan::Merge { inputs: vec![0], graph: GraphWork::None }));

        assert_eq!(
            next(&[flat(10, 0), flat(10, 10)], &settings),
            Some(Plan::Merge { inputs: vec![0], graph: GraphWork::None })
        );
    }

    #[test]
    fn a_lone_segment_gets_its_graph_without_being_copied() {
        assert_eq!(next(&[flat(2_000, 1_990)], &settings(Engine::HnswRs)), Some(Plan::Graph(0)));
    }
}
