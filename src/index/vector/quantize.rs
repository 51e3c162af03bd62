//! int8 codes with a scale per vector and a proven bound on what they get wrong.
//!
//! A unit vector `u` becomes `scale · codes` with `‖u − scale · codes‖ ≤ error`. By Cauchy and Schwarz the product of
//! two coded vectors is off by at most `error_q + error_u · (1 + error_q)`, so a scan over codes can say for certain
//! which rows need no second look: that is what makes a scan exact and not merely good.

use half::f16;

use crate::index::IndexError;

use super::kernel::{self, LANE};

/// The most dimensions an index takes: the bounds below are proven up to here.
pub(super) const DIMENSIONS_MAX: usize = 8_192;

/// Covers f32 rounding: a product of unit vectors summed in eight lanes is off by at most `d / 8 · 2⁻²⁴`.
const ROUNDING: f32 = 1e-4;

/// What belongs to a row of codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quantized {
    pub scale: f32,
    /// Upper bound of the distance between the unit vector and its coded form.
    pub error: f32,
}

/// The length in bytes of a row of codes, padding included.
pub(super) fn stride(dimensions: usize) -> usize {
    dimensions.next_multiple_of(LANE)
}

/// Scales to unit length; `None` for what has no direction: zero, infinite or NaN.
pub(super) fn unit(values: impl Iterator<Item = f32> + Clone) -> Option<Vec<f32>> {
    // In f64, so that neither the largest nor the smallest f32 leaves the range when squared.
    let norm = values.clone().map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    if !norm.is_finite() || norm == 0.0 {
        return None;
    }
    Some(values.map(|v| (f64::from(v) / norm) as f32).collect())
}

/// Writes the codes of a unit vector to the front of `codes`; the padding behind them is left as it is.
pub(super) fn quantize(unit: &[f32], codes: &mut [u8]) -> Quantized {
    let largest = unit.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
    let scale = largest / 127.0;
    let mut square = 0.0;
    for (&value, code) in unit.iter().zip(codes) {
        let rounded = (value / scale).round().clamp(-127.0, 127.0);
        *code = (rounded as i8).cast_unsigned();
        let off = value - scale * rounded;
        square += off * off;
    }
    Quantized { scale, error: square.sqrt() * (1.0 + ROUNDING) }
}

/// A query in the two forms that a search needs.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub unit: Vec<f32>,
    pub codes: Vec<u8>,
    quantized: Quantized,
}

impl Query {
    /// Refuses what has the wrong length or no direction.
    pub(super) fn new(values: &[f32], dimensions: usize) -> Result<Self, IndexError> {
        if values.len() != dimensions {
            return Err(IndexError::Dimensions { found: values.len(), expected: dimensions });
        }
        let unit = unit(values.iter().copied()).ok_or(IndexError::NotAVector)?;
        let mut codes = vec![0; stride(dimensions)];
        let quantized = quantize(&unit, &mut codes);
        Ok(Self { unit, codes, quantized })
    }

    /// What one step of the query's codes is worth.
    pub(super) fn scale(&self) -> f32 {
        self.quantized.scale
    }

    /// The cosine with a row as its codes tell it, from the product of the codes.
    pub(super) fn estimate(&self, product: i32, row: Quantized) -> f32 {
        product as f32 * (self.quantized.scale * row.scale)
    }

    /// How far the true cosine can be from [`Query::estimate`].
    pub(super) fn bound(&self, row: Quantized) -> f32 {
        self.quantized.error + row.error * (1.0 + self.quantized.error) + ROUNDING
    }
}

/// A vector as it is stored: little-endian f16, then codes. Refuses what has no direction.
pub(super) fn encode(vector: &[f16], codes: &mut [u8]) -> Result<(Vec<u8>, Quantized), IndexError> {
    let unit = unit(vector.iter().map(|v| v.to_f32())).ok_or(IndexError::NotAVector)?;
    let quantized = quantize(&unit, codes);
    Ok((vector.iter().flat_map(|v| v.to_le_bytes()).collect(), quantized))
}

/// Checks what [`encode`] would refuse.
pub(super) fn check(vector: &[f16], dimensions: usize) -> Result<(), IndexError> {
    if vector.len() != dimensions {
        return Err(IndexError::Dimensions { found: vector.len(), expected: dimensions });
    }
    let whole = vector.iter().all(|v| v.is_finite()) && vector.iter().any(|v| v.to_f32() != 0.0);
    if whole { Ok(()) } else { Err(IndexError::NotAVector) }
}

/// The estimated cosine of two stored rows, without bound: for building graphs.
pub(super) fn between(a: (&[u8], f32), b: (&[u8], f32)) -> f32 {
    kernel::dot_pair(a.0, b.0) as f32 * (a.1 * b.1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector(dimensions: usize) -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-1.0_f32..1.0, dimensions)
            .prop_filter("has a direction", |v| v.iter().any(|x| x.abs() > 1e-3))
    }

    proptest! {
        #[test]
        fn the_true_cosine_lies_within_the_bound(
            (query, row) in (1_usize..130).prop_flat_map(|d| (vector(d), vector(d))),
        ) {
            let query = Query::new(&query, query.len()).unwrap();
            let row: Vec<f16> = row.iter().map(|&v| f16::from_f32(v)).collect();
            prop_assume!(check(&row, row.len()).is_ok());
            let mut codes = vec![0; stride(row.len())];

            let (bytes, quantized) = encode(&row, &mut codes).unwrap();

            let estimate = query.estimate(kernel::dot_pair(&query.codes, &codes), quantized);
            let off = (kernel::cosine(&query.unit, &bytes) - estimate).abs();
            prop_assert!(off <= query.bound(quantized), "off by {}, bound {}", off, query.bound(quantized));
        }
    }

    #[test]
    fn what_has_no_direction_is_refused() {
        for values in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            assert!(matches!(Query::new(&values, 2), Err(IndexError::NotAVector)));
            assert!(matches!(check(&values.map(f16::from_f32), 2), Err(IndexError::NotAVector)));
        }
        assert!(matches!(Query::new(&[1.0], 2), Err(IndexError::Dimensions { found: 1, expected: 2 })));
        assert!(matches!(check(&[f16::ONE], 2), Err(IndexError::Dimensions { found: 1, expected: 2 })));
    }

    #[test]
    fn the_largest_and_the_smallest_floats_have_a_direction() {
        assert_eq!(Query::new(&[f32::MAX, 0.0], 2).unwrap().unit, [1.0, 0.0]);
        assert_eq!(Query::new(&[0.0, f32::MIN_POSITIVE], 2).unwrap().unit, [0.0, 1.0]);
    }
}
