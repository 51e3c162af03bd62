//! The vectors of a text's tokens in eight bits: what late interaction needs of a passage, small enough to keep.

use super::pooling::normalize;

/// Largest magnitude of a stored number.
const LEVELS: f32 = 127.0;
/// Numbers that are multiplied at once; the sums in lanes let the compiler use vector instructions.
const LANES: usize = 16;

/// Token vectors, each with its own scale: the largest error is half a 127th of the vector's largest number.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TokenStates {
    width: usize,
    scales: Vec<f32>,
    values: Vec<i8>,
}

impl TokenStates {
    /// Quantizes vectors that lie one after the other.
    pub fn quantize(states: &[f32], width: usize) -> Self {
        let mut quantized =
            Self { width, scales: Vec::with_capacity(states.len() / width), values: Vec::with_capacity(states.len()) };
        for state in states.chunks_exact(width) {
            let scale = state.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / LEVELS;
            quantized.scales.push(scale);
            let level = |value: &f32| if scale > 0.0 { (value / scale).round() as i8 } else { 0 };
            quantized.values.extend(state.iter().map(level));
        }
        quantized
    }

    /// For each of the `queries`, vectors of the same width one after the other, the largest product with any
    /// token; the lowest number there is if there is no token.
    pub fn largest_products(&self, queries: &[f32]) -> Vec<f32> {
        let mut most = vec![f32::MIN; queries.len() / self.width];
        let mut state = vec![0.0; self.width];
        for (values, scale) in self.values.chunks_exact(self.width).zip(&self.scales) {
            state.iter_mut().zip(values).for_each(|(state, value)| *state = f32::from(*value));
            for (most, query) in most.iter_mut().zip(queries.chunks_exact(self.width)) {
                *most = most.max(scale * dot(query, &state));
            }
        }
        most
    }

    /// As bytes: width, number of tokens, scales, values; little endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + 4 * self.scales.len() + self.values.len());
        bytes.extend((self.width as u32).to_le_bytes());
        bytes.extend((self.scales.len() as u32).to_le_bytes());
        bytes.extend(self.scales.iter().flat_map(|scale| scale.to_le_bytes()));
        bytes.extend(self.values.iter().map(|value| value.cast_unsigned()));
        bytes
    }

    /// What [`Self::to_bytes`] gave, if the lengths agree.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (width, rest) = bytes.split_first_chunk()?;
        let (tokens, rest) = rest.split_first_chunk()?;
        let (width, tokens) = (u32::from_le_bytes(*width) as usize, u32::from_le_bytes(*tokens) as usize);
        let (scales, values) = rest.split_at_checked(tokens.checked_mul(4)?)?;
        if width == 0 || values.len() != tokens.checked_mul(width)? {
            return None;
        }
        let scales = scales.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Some(Self { width, scales, values: values.iter().map(|byte| byte.cast_signed()).collect() })
    }
}

/// Scales each of the vectors that lie one after the other to unit length.
pub(super) fn normalize_each(vectors: &mut [f32], width: usize) {
    vectors.chunks_exact_mut(width).for_each(normalize);
}

/// Product of two vectors of equal length.
pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let (left_lanes, left_rest) = left.as_chunks::<LANES>();
    let (right_lanes, right_rest) = right.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (left, right) in left_lanes.iter().zip(right_lanes) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_product_over_the_tokens_is_found() {
        let states = TokenStates::quantize(&[1.0, 0.0, 0.0, 2.0], 2);

        assert_eq!(states.largest_products(&[1.0, 0.0, 0.0, 3.0, -1.0, -1.0]), [1.0, 6.0, -1.0]);
    }

    #[test]
    fn bytes_that_are_cut_are_refused() {
        let bytes = TokenStates::quantize(&[1.0, -0.5, 0.25, 3.0], 2).to_bytes();

        for len in 0..bytes.len() {
            assert_eq!(TokenStates::from_bytes(&bytes[..len]), None, "{len}");
        }
    }

    proptest! {
        #[test]
        fn states_survive_their_bytes(tokens in 0usize..5, width in 1usize..40, seed in prop::collection::vec(-9.0f32..9.0, 200)) {
            let states = TokenStates::quantize(&seed[..tokens * width], width);

            prop_assert_eq!(TokenStates::from_bytes(&states.to_bytes()), Some(states));
        }

        #[test]
        fn a_product_is_the_plain_sum(vector in prop::collection::vec(-4.0f32..4.0, 0..100)) {
            let plain: f64 = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();

            prop_assert!((f64::from(dot(&vector, &vector)) - plain).abs() <= 1e-4 * plain.max(1.0));
        }
    }
}
