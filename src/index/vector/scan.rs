//! Exact search: every row's codes against the query's.
//!
//! A large part is split over the rayon pool the caller is on; off a pool it is scanned by the caller alone.

use std::ops::Range;

use super::candidates::{Candidate, Candidates};
use super::graph::Accept;
use super::kernel;
use super::part::Part;
use super::quantize::Query;

/// Rows multiplied at a time: their products stay in the first-level cache.
const BLOCK_ROWS: u32 = 256;
/// Rows below which a second thread costs more than it brings.
const SPLIT_ROWS: u32 = 16_384;

/// One part of a snapshot as a search sees it.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub query: &'a Query,
    pub part: &'a Part,
    /// Index of the part in the snapshot.
    pub index: u32,
    /// `None`: every row may be returned.
    pub accept: Option<Accept<'a>>,
}

impl Target<'_> {
    fn candidate(&self, ordinal: u32, product: i32) -> Candidate {
        let quantized = self.part.image.quantized(ordinal);
        Candidate {
            estimate: self.query.estimate(product, quantized),
            bound: self.query.bound(quantized),
            part: self.index,
            ordinal,
        }
    }

    fn accepts(&self, ordinal: u32) -> bool {
        self.accept.is_none_or(|accept| accept(ordinal))
    }
}

/// Looks at all rows.
pub(super) fn scan(target: Target<'_>, candidates: &mut Candidates) {
    scan_range(target, 0..target.part.image.rows(), candidates);
}

/// Looks at the rows given; whether they are accepted is the caller's business.
pub(super) fn scan_rows(target: Target<'_>, ordinals: impl Iterator<Item = u32>, candidates: &mut Candidates) {
    for ordinal in ordinals {
        let codes = target.part.image.codes(ordinal, ordinal + 1);
        candidates.push(target.candidate(ordinal, kernel::dot_pair(&target.query.codes, codes)));
    }
}

fn scan_range(target: Target<'_>, rows: Range<u32>, candidates: &mut Candidates) {
    let length = rows.end - rows.start;
    let on_pool = rayon::current_thread_index().is_some() && rayon::current_num_threads() > 1;
    if length < 2 * SPLIT_ROWS || !on_pool {
        return scan_blocks(target, rows, candidates);
    }
    let middle = rows.start + length / 2;
    let mut right = candidates.fork();
    rayon::join(
        || scan_range(target, rows.start..middle, candidates),
        || scan_range(target, middle..rows.end, &mut right),
    );
    candidates.absorb(right);
}

fn scan_blocks(target: Target<'_>, rows: Range<u32>, candidates: &mut Candidates) {
    let (query, image) = (target.query, &target.part.image);
    let mut products = [0; BLOCK_ROWS as usize];
    let mut uppers = [0.0; BLOCK_ROWS as usize];
    let mut floor = candidates.floor();
    let mut first = rows.start;
    while first < rows.end {
        let end = rows.end.min(first + BLOCK_ROWS);
        let count = (end - first) as usize;
        let (products, uppers) = (&mut products[..count], &mut uppers[..count]);
        kernel::dot_rows(&query.codes, image.codes(first, end), products);
        // In a loop of its own the compiler makes it SIMD; hardly any row passes the test below.
        for ((upper, &product), row) in uppers.iter_mut().zip(&*products).zip(image.quantized_rows(first, end)) {
            *upper = query.estimate(product, row) + query.bound(row);
        }
        for (ordinal, (&upper, &product)) in (first..end).zip(uppers.iter().zip(&*products)) {
            if upper >= floor && target.accepts(ordinal) {
                candidates.push(target.candidate(ordinal, product));
                floor = candidates.floor();
            }
        }
        first = end;
    }
}
