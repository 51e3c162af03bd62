//! Filters and visibility to sets of documents.
//!
//! Each condition has two answers: what possibly passes and what certainly does. They differ only where the index
//! is unsure, and *not* turns one into the other, so the set that comes out holds everything that the truth would
//! let pass and little more.

use std::collections::HashSet;
use std::fmt::Debug;
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;

use tantivy::TantivyError;
use tantivy::fastfield::Column;

use crate::domain::{ChunkId, Filter, Scalar, Test, Visibility};
use crate::index::Narrowing;

use super::bits::Bits;
use super::facts::{
    TEXT_FIELDS, TIME_FIELDS, column, equals, exists, open_to, open_to_all, unsure, unsure_of_all, unsure_range,
};
use super::schema::RANGES;
use super::snapshot::{Narrowed, Segment, Snapshot};
use super::times::{Uncertain, instant};

/// The live chunks that a narrowing lets pass; `None` if nothing is narrowed. The last `remembered` answers of a
/// snapshot are kept.
pub(super) fn narrow(
    snapshot: &Snapshot,
    narrowing: Narrowing<'_>,
    remembered: usize,
) -> Result<Option<Arc<Narrowed>>, TantivyError> {
    if narrowing.filter.is_none() && *narrowing.visibility == Visibility::All {
        return Ok(None);
    }
    let key = format!("{narrowing:?}");
    if let Some(found) = recall(snapshot, &key) {
        return Ok(Some(found));
    }
    let passing = |segment| passing(segment, narrowing);
    let docs = snapshot.segments.iter().map(passing).collect::<Result<_, _>>()?;
    let narrowed = Arc::new(Narrowed { docs, ids: std::sync::OnceLock::new() });
    if remembered > 0 {
        let mut kept = snapshot.narrowed.lock();
        if kept.len() >= remembered {
            kept.remove(0);
        }
        kept.push((key, Arc::clone(&narrowed)));
    }
    Ok(Some(narrowed))
}

impl Narrowed {
    /// The chunks as ids.
    pub(super) fn ids(&self, snapshot: &Snapshot) -> Arc<HashSet<ChunkId>> {
        let collect = || {
            let mut ids = HashSet::with_capacity(self.docs.iter().map(Bits::count).sum());
            for (segment, docs) in snapshot.segments.iter().zip(&self.docs) {
                ids.extend(docs.iter().map(|doc| segment.chunk(doc)));
            }
            Arc::new(ids)
        };
        Arc::clone(self.ids.get_or_init(collect))
    }
}

fn recall(snapshot: &Snapshot, key: &str) -> Option<Arc<Narrowed>> {
    let mut kept = snapshot.narrowed.lock();
    let place = kept.iter().position(|(known, _)| known == key)?;
    let found = kept.remove(place);
    let narrowed = Arc::clone(&found.1);
    kept.push(found);
    Some(narrowed)
}

fn passing(segment: &Segment, narrowing: Narrowing<'_>) -> Result<Bits, TantivyError> {
    let mut docs = segment.alive();
    if let Visibility::Principals(principals) = narrowing.visibility {
        let mut visible = segment.having(&open_to_all())?;
        for principal in principals {
            visible = visible.union(&segment.having(&open_to(principal.as_str()))?);
        }
        docs = docs.intersection(&visible);
    }
    if let Some(filter) = narrowing.filter {
        docs = docs.intersection(&answer(segment, filter, Side::Possible)?);
    }
    Ok(docs)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Possible,
    Certain,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Possible => Self::Certain,
            Self::Certain => Self::Possible,
        }
    }
}

fn answer(segment: &Segment, filter: &Filter, side: Side) -> Result<Bits, TantivyError> {
    let len = segment.reader.max_doc();
    match filter {
        Filter::And(all) => {
            all.iter().try_fold(Bits::all(len), |docs, one| Ok(docs.intersection(&answer(segment, one, side)?)))
        }
        Filter::Or(any) => {
            any.iter().try_fold(Bits::none(len), |docs, one| Ok(docs.union(&answer(segment, one, side)?)))
        }
        Filter::Not(inner) => Ok(answer(segment, inner, side.other())?.complement()),
        Filter::Compare { field, test } => {
            let docs = if TIME_FIELDS.contains(&field.as_str()) {
                time_answer(segment, field, test, side)?
            } else {
                plain_answer(segment, field, test, side)?
            };
            let doubt = segment.having(&unsure_of_all())?.union(&segment.having(&unsure(field))?);
            Ok(match side {
                Side::Possible => docs.union(&doubt),
                Side::Certain => docs.difference(&doubt),
            })
        }
    }
}

fn plain_answer(segment: &Segment, field: &str, test: &Test, side: Side) -> Result<Bits, TantivyError> {
    let len = segment.reader.max_doc();
    match test {
        Test::Eq(scalar) => equal(segment, field, scalar),
        Test::In(scalars) => scalars.iter().try_fold(Bits::none(len), |docs, scalar| {
            // A missing field is no element, but `In` with null still accepts a null that is there.
            let docs_equal = segment.having(&equals(field, scalar))?;
            Ok(docs.union(&docs_equal))
        }),
        // Whether an absent title is missing or null is for the truth to say.
        Test::Exists if TEXT_FIELDS.contains(&field) && side == Side::Possible => Ok(Bits::all(len)),
        Test::Exists => segment.having(&exists(field)),
        Test::Gt(bound) => ranged(segment, field, (Bound::Excluded(bound), Bound::Unbounded), side),
        Test::Gte(bound) => ranged(segment, field, (Bound::Included(bound), Bound::Unbounded), side),
        Test::Lt(bound) => ranged(segment, field, (Bound::Unbounded, Bound::Excluded(bound)), side),
        Test::Lte(bound) => ranged(segment, field, (Bound::Unbounded, Bound::Included(bound)), side),
    }
}

fn equal(segment: &Segment, field: &str, scalar: &Scalar) -> Result<Bits, TantivyError> {
    let docs = segment.having(&equals(field, scalar))?;
    if *scalar == Scalar::Null {
        return Ok(docs.union(&segment.having(&exists(field))?.complement()));
    }
    Ok(docs)
}

type Range<'a> = (Bound<&'a Scalar>, Bound<&'a Scalar>);

fn ranged(segment: &Segment, field: &str, range: Range<'_>, side: Side) -> Result<Bits, TantivyError> {
    let name = format!("{RANGES}.{}", column(field));
    let mut docs = Bits::none(segment.reader.max_doc());
    let bound = match range {
        (Bound::Included(bound) | Bound::Excluded(bound), _) | (_, Bound::Included(bound) | Bound::Excluded(bound)) => {
            bound
        }
        (Bound::Unbounded, Bound::Unbounded) => return Ok(docs),
    };
    match bound {
        Scalar::Number(_) => numbers_within(segment, &name, range, &mut docs)?,
        Scalar::Text(_) => texts_within(segment, &name, range, &mut docs)?,
        // The filter language has no such range; if it had, this would still let too much through.
        Scalar::Null | Scalar::Bool(_) if side == Side::Possible => return Ok(Bits::all(segment.reader.max_doc())),
        Scalar::Null | Scalar::Bool(_) => {}
    }
    let doubt = segment.having(&unsure_range(field))?;
    Ok(match side {
        Side::Possible => docs.union(&doubt),
        Side::Certain => docs.difference(&doubt),
    })
}

fn numbers_within(segment: &Segment, name: &str, range: Range<'_>, docs: &mut Bits) -> Result<(), TantivyError> {
    let number = |scalar: &Scalar| if let Scalar::Number(value) = scalar { *value } else { f64::NAN };
    let low = match range.0 {
        Bound::Unbounded => f64::NEG_INFINITY,
        // Both zeros are one number, but not one column value.
        Bound::Included(bound) => {
            if number(bound) == 0.0 {
                -0.0
            } else {
                number(bound)
            }
        }
        Bound::Excluded(bound) => number(bound).next_up(),
    };
    let high = match range.1 {
        Bound::Unbounded => f64::INFINITY,
        Bound::Included(bound) => number(bound) + 0.0,
        Bound::Excluded(bound) => number(bound).next_down(),
    };
    if let Some(numbers) = segment.reader.fast_fields().column_opt::<f64>(name)? {
        insert_within(&numbers, low..=high, docs);
    }
    Ok(())
}

fn bytes_of(scalar: &Scalar) -> &[u8] {
    if let Scalar::Text(text) = scalar { text.as_bytes() } else { b"" }
}

fn texts_within(segment: &Segment, name: &str, range: Range<'_>, docs: &mut Bits) -> Result<(), TantivyError> {
    let Some(texts) = segment.reader.fast_fields().str(name)? else { return Ok(()) };
    let (low, high) = texts.dictionary().term_bounds_to_ord(range.0.map(bytes_of), range.1.map(bytes_of))?;
    let count = texts.num_terms() as u64;
    let low = match low {
        Bound::Unbounded => 0,
        Bound::Included(ordinal) => ordinal.min(count),
        Bound::Excluded(ordinal) => ordinal.saturating_add(1).min(count),
    };
    // One past the last.
    let high = match high {
        Bound::Unbounded => count,
        Bound::Included(ordinal) => ordinal.saturating_add(1).min(count),
        Bound::Excluded(ordinal) => ordinal.min(count),
    };
    if low < high {
        insert_within(texts.ords(), low..=high - 1, docs);
    }
    Ok(())
}

fn insert_within<T>(values: &Column<T>, range: RangeInclusive<T>, docs: &mut Bits)
where
    T: PartialOrd + Copy + Debug + Send + Sync + 'static,
{
    // Below the smallest value of a column the engine takes every range for that value itself.
    if range.is_empty() || *range.end() < values.min_value() || *range.start() > values.max_value() {
        return;
    }
    let mut found = Vec::new();
    values.get_docids_for_value_range(range, 0..docs.length(), &mut found);
    found.into_iter().for_each(|doc| docs.insert(doc));
}

// The truth compares times as text in RFC 3339; here they are microseconds, so a second on both sides of a bound
// stays unsure, and so does every bound that does not read as a time.
fn time_answer(segment: &Segment, field: &str, test: &Test, side: Side) -> Result<Bits, TantivyError> {
    let len = segment.reader.max_doc();
    let micros = segment.reader.fast_fields().i64(field)?;
    let within = |low: i64, high: i64| {
        let mut docs = Bits::none(len);
        insert_within(&micros, low..=high, &mut docs);
        docs
    };
    let undecided = || if side == Side::Possible { Bits::all(len) } else { Bits::none(len) };
    let around = |bound: &Scalar| if let Scalar::Text(text) = bound { instant(text) } else { None };
    let equal = |scalar: &Scalar| match (scalar, side) {
        (Scalar::Null | Scalar::Bool(_), _) | (_, Side::Certain) => Bits::none(len),
        (_, Side::Possible) => around(scalar).map_or_else(undecided, |Uncertain { from, to }| within(from, to)),
    };
    Ok(match test {
        Test::Exists => Bits::all(len),
        Test::Eq(scalar) => equal(scalar),
        Test::In(scalars) => scalars.iter().fold(Bits::none(len), |docs, scalar| docs.union(&equal(scalar))),
        Test::Gt(bound) | Test::Gte(bound) => match (around(bound), side) {
            (None, _) => undecided(),
            (Some(Uncertain { from, .. }), Side::Possible) => within(from, i64::MAX),
            (Some(Uncertain { to, .. }), Side::Certain) => within(to.saturating_add(1), i64::MAX),
        },
        Test::Lt(bound) | Test::Lte(bound) => match (around(bound), side) {
            (None, _) => undecided(),
            (Some(Uncertain { to, .. }), Side::Possible) => within(i64::MIN, to),
            (Some(Uncertain { from, .. }), Side::Certain) => within(i64::MIN, from.saturating_sub(1)),
        },
    })
}
