//! Packing atoms into chunks: where to cut, given the limits.
//!
//! Sections (a heading with what follows it) stay apart unless they are tiny. Inside a section each chunk ends at the
//! cheapest border within reach: near the target length, at a strong border, not behind a heading. The choice depends
//! only on what follows, so two editions of a text that share a border share all chunks after it up to their next
//! difference.

use std::ops::Range;

use super::atom::{Atom, Border};

/// Limits in tokens; `min` and `overlap` are at most half of `target`, and `target` at most `max`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub target: u64,
    pub max: u64,
    pub min: u64,
    pub overlap: u64,
}

/// The atoms of one chunk; the first `overlap` of them also end the chunk before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packed {
    pub atoms: Range<usize>,
    pub overlap: usize,
}

/// Divides all atoms, in order.
pub(super) fn pack(atoms: &[Atom], limits: &Limits) -> Vec<Packed> {
    let mut packed = Vec::new();
    let weights = Weights::new(atoms);
    for group in groups(atoms, &weights, limits) {
        let mut from = group.start;
        while from < group.end {
            let overlap = if from == group.start { 0 } else { overlap_atoms(atoms, last_start(&packed)..from, limits) };
            let room = limits.max - weights.of(from - overlap..from);
            let end = choose_end(atoms, &weights, from..group.end, &Limits { max: room, ..*limits });
            packed.push(Packed { atoms: from - overlap..end, overlap });
            from = end;
        }
    }
    packed
}

fn last_start(packed: &[Packed]) -> usize {
    packed.last().map_or(0, |last| last.atoms.start + last.overlap)
}

/// Sums of weights over ranges.
struct Weights {
    until: Vec<u64>,
}

impl Weights {
    fn new(atoms: &[Atom]) -> Self {
        let mut sum = 0;
        let sums = atoms.iter().map(|atom| {
            sum += u64::from(atom.weight);
            sum
        });
        Self { until: std::iter::once(0).chain(sums).collect() }
    }

    fn of(&self, range: Range<usize>) -> u64 {
        self.until[range.end] - self.until[range.start]
    }
}

/// Sections, each joined with its neighbour where it is too small to stand alone.
fn groups(atoms: &[Atom], weights: &Weights, limits: &Limits) -> Vec<Range<usize>> {
    let mut groups: Vec<Group> = Vec::new();
    for section in sections(atoms) {
        let body =
            section.clone().filter(|&index| !atoms[index].is_heading).map(|index| u64::from(atoms[index].weight)).sum();
        let section = Group { atoms: section, body };
        match groups.last_mut() {
            // A heading alone goes with what follows, however long that is.
            Some(last) if last.body == 0 => last.take(section),
            Some(last) if last.body < limits.min && weights.of(last.atoms.start..section.atoms.end) <= limits.max => {
                last.take(section);
            }
            _ => groups.push(section),
        }
    }
    join_tiny_last(&mut groups, weights, limits);
    groups.into_iter().map(|group| group.atoms).collect()
}

struct Group {
    atoms: Range<usize>,
    /// Weight of what is not heading.
    body: u64,
}

impl Group {
    fn take(&mut self, next: Group) {
        self.atoms.end = next.atoms.end;
        self.body += next.body;
    }
}

fn sections(atoms: &[Atom]) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let first = atoms.get(from)?.heading;
        let len = atoms[from..].iter().take_while(|atom| atom.heading == first).count();
        let section = from..from + len;
        from = section.end;
        Some(section)
    })
}

fn join_tiny_last(groups: &mut Vec<Group>, weights: &Weights, limits: &Limits) {
    if let [.., before, last] = groups.as_mut_slice()
        && last.body < limits.min
        && weights.of(before.atoms.start..last.atoms.end) <= limits.max
    {
        before.atoms.end = last.atoms.end;
        groups.pop();
    }
}

/// End of the chunk that starts with the first atom of `rest`.
fn choose_end(atoms: &[Atom], weights: &Weights, rest: Range<usize>, limits: &Limits) -> usize {
    let left = weights.of(rest.clone());
    if left <= limits.max {
        return rest.end;
    }
    let mut best = (u64::MAX, rest.start + 1);
    for end in rest.start + 1..rest.end {
        let size = weights.of(rest.start..end);
        if size > limits.max {
            break;
        }
        let cost = size_cost(size, limits)
            + border_cost(atoms[end].before)
            + neighbour_cost(&atoms[end - 1])
            + if left - size < limits.min { TINY_COST } else { 0 };
        // Of equal costs the longer chunk wins.
        if cost <= best.0 {
            best = (cost, end);
        }
    }
    best.1
}

// Costs are thousandths of the cost of a chunk without any length. A paragraph's end at half the target is as good as
// a sentence's end at the target.
const TINY_COST: u64 = 1_500;
const BEHIND_HEADING_COST: u64 = 10_000;
const BEHIND_COLON_COST: u64 = 300;

fn size_cost(size: u64, limits: &Limits) -> u64 {
    let off = size.abs_diff(limits.target);
    let cost = off * off * 1_000 / (limits.target * limits.target);
    if size < limits.min { cost + TINY_COST } else { cost }
}

fn border_cost(before: Border) -> u64 {
    match before {
        Border::Heading | Border::Paragraph => 0,
        Border::Item => 100,
        Border::Sentence => 250,
        Border::Word => 1_000,
        Border::InsideWord => 2_000,
    }
}

fn neighbour_cost(last: &Atom) -> u64 {
    match (last.is_heading, last.leads_on) {
        (true, _) => BEHIND_HEADING_COST,
        (false, true) => BEHIND_COLON_COST,
        (false, false) => 0,
    }
}

/// How many of the last atoms of the chunk before are repeated: whole sentences, never all of them, no heading.
fn overlap_atoms(atoms: &[Atom], before: Range<usize>, limits: &Limits) -> usize {
    let (mut weight, mut taken) = (0, 0);
    for index in before.clone().rev() {
        weight += u64::from(atoms[index].weight);
        if weight > limits.overlap || index == before.start || atoms[index].is_heading {
            break;
        }
        if atoms[index].before >= Border::Sentence {
            taken = before.end - index;
        }
    }
    taken
}
