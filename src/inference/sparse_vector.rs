//! Weights over a vocabulary, of which most are zero.

use half::f16;

/// Term numbers, ascending, with positive weights.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct SparseVector {
    pub terms: Vec<u32>,
    pub weights: Vec<f32>,
}

impl SparseVector {
    /// Keeps what is positive of one weight a term.
    pub fn of(dense: &[f32]) -> Self {
        let positive = dense.iter().enumerate().filter(|(_, weight)| **weight > 0.0);
        let (terms, weights) = positive.map(|(term, weight)| (term as u32, *weight)).unzip();
        Self { terms, weights }
    }

    /// Sum over the shared terms of the product of their weights.
    pub fn dot(&self, other: &Self) -> f32 {
        let (mut left, mut right, mut sum) = (0, 0, 0.0);
        while left < self.terms.len() && right < other.terms.len() {
            match self.terms[left].cmp(&other.terms[right]) {
                std::cmp::Ordering::Less => left += 1,
                std::cmp::Ordering::Greater => right += 1,
                std::cmp::Ordering::Equal => {
                    sum += self.weights[left] * other.weights[right];
                    left += 1;
                    right += 1;
                }
            }
        }
        sum
    }

    /// As bytes: six a term (number as u32, weight as f16), little endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let entry = |(term, weight): (&u32, &f32)| {
            let (term, weight) = (term.to_le_bytes(), f16::from_f32(*weight).to_le_bytes());
            [term[0], term[1], term[2], term[3], weight[0], weight[1]]
        };
        self.terms.iter().zip(&self.weights).flat_map(entry).collect()
    }

    /// What [`Self::to_bytes`] gave, weights rounded to f16.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (entries, rest) = bytes.as_chunks::<6>();
        let entry =
            |e: &[u8; 6]| (u32::from_le_bytes([e[0], e[1], e[2], e[3]]), f16::from_le_bytes([e[4], e[5]]).to_f32());
        let (terms, weights) = entries.iter().map(entry).unzip();
        rest.is_empty().then_some(Self { terms, weights })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_shared_terms_count() {
        let left = SparseVector::of(&[0.0, 2.0, -1.0, 3.0, 0.5]);
        let right = SparseVector::of(&[1.0, 4.0, 9.0, 0.0, 2.0]);

        assert_eq!(left.terms, [1, 3, 4]);
        assert_eq!(left.dot(&right), 2.0 * 4.0 + 0.5 * 2.0);
        assert_eq!(left.dot(&SparseVector::default()), 0.0);
    }

    proptest! {
        #[test]
        fn the_product_is_that_of_the_dense_vectors(pairs in prop::collection::vec((0u8..9, 0u8..9), 0..60)) {
            let left: Vec<f32> = pairs.iter().map(|pair| f32::from(pair.0)).collect();
            let right: Vec<f32> = pairs.iter().map(|pair| f32::from(pair.1)).collect();
            let dense: f32 = left.iter().zip(&right).map(|(left, right)| left * right).sum();

            prop_assert_eq!(SparseVector::of(&left).dot(&SparseVector::of(&right)), dense);
            // Small integers are exact in f16.
            let vector = SparseVector::of(&left);
            prop_assert_eq!(SparseVector::from_bytes(&vector.to_bytes()), Some(vector));
        }
    }
}
