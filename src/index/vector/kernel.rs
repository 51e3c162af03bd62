//! The inner loops: products of int8 codes and cosines from f16 rows.
//!
//! Each has a scalar form, which is its definition, and SIMD forms chosen at run time. Integer products are equal
//! bit for bit; cosines are the same on one machine whoever asks, so that equal rows tie.

/// Code rows are padded with zeros to a multiple of this: one AVX-512 register.
pub(super) const LANE: usize = 64;

/// Writes the product of `query` with every row of `rows` to `out`.
///
/// Bytes are int8 in `-127..=127`. The query's length is a multiple of [`LANE`] and the length of a row; at most
/// 65,536, so that no sum leaves an i32.
pub(super) fn dot_rows(query: &[u8], rows: &[u8], out: &mut [i32]) {
    debug_assert_eq!(query.len() % LANE, 0);
    debug_assert_eq!(rows.len(), query.len() * out.len());
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni") {
            // SAFETY: the features that the function is compiled for have just been detected.
            return unsafe { x86::dot_rows_vnni(query, rows, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { x86::dot_rows_avx2(query, rows, out) };
        }
    }
    dot_rows_scalar(query, rows, out);
}

/// The product of two code rows.
pub(super) fn dot_pair(a: &[u8], b: &[u8]) -> i32 {
    let mut out = [0];
    dot_rows(a, b, &mut out);
    out[0]
}

fn dot_rows_scalar(query: &[u8], rows: &[u8], out: &mut [i32]) {
    for (row, out) in rows.chunks_exact(query.len()).zip(out) {
        *out = query.iter().zip(row).map(|(&a, &b)| i32::from(a.cast_signed()) * i32::from(b.cast_signed())).sum();
    }
}

/// Cosine of the unit vector `query` and a row of little-endian f16, in `-1..=1`.
///
/// The row's own length enters, because rounding to f16 has moved it off 1.
pub(super) fn cosine(query: &[f32], row: &[u8]) -> f32 {
    debug_assert_eq!(query.len() * 2, row.len());
    let (dot, square) = dot_and_square(query, row);
    (dot / square.sqrt()).clamp(-1.0, 1.0)
}

fn dot_and_square(query: &[f32], row: &[u8]) -> (f32, f32) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            // SAFETY: the features that the function is compiled for have just been detected.
            return unsafe { x86::dot_and_square_f16c(query, row) };
        }
    }
    dot_and_square_scalar(query, row)
}

fn dot_and_square_scalar(query: &[f32], row: &[u8]) -> (f32, f32) {
    let (mut dot, mut square) = (0.0, 0.0);
    for (&q, bytes) in query.iter().zip(row.chunks_exact(2)) {
        let value = half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        dot += q * value;
        square += value * value;
    }
    (dot, square)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::LANE;

    /// `vpdpbusd` multiplies unsigned by signed bytes, so rows are shifted by 128 and the shift is taken off again.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn dot_rows_vnni(query: &[u8], rows: &[u8], out: &mut [i32]) {
        let shift = _mm512_set1_epi8(i8::MIN);
        let mut shifted = _mm512_setzero_si512();
        for q in query.chunks_exact(LANE) {
            shifted = _mm512_dpbusd_epi32(shifted, shift, load(q));
        }
        let shifted = _mm512_reduce_add_epi32(shifted);
        for (row, out) in rows.chunks_exact(query.len()).zip(out) {
            let mut sum = _mm512_setzero_si512();
            for (q, r) in query.chunks_exact(LANE).zip(row.chunks_exact(LANE)) {
                sum = _mm512_dpbusd_epi32(sum, _mm512_xor_si512(load(r), shift), load(q));
            }
            *out = _mm512_reduce_add_epi32(sum).wrapping_sub(shifted);
        }
    }

    #[target_feature(enable = "avx512f")]
    fn load(lane: &[u8]) -> __m512i {
        debug_assert_eq!(lane.len(), LANE);
        // SAFETY: callers pass chunks of exactly 64 bytes, and the load needs no alignment.
        unsafe { _mm512_loadu_si512(lane.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn dot_rows_avx2(query: &[u8], rows: &[u8], out: &mut [i32]) {
        for (row, out) in rows.chunks_exact(query.len()).zip(out) {
            let mut sum = _mm256_setzero_si256();
            for (q, r) in query.chunks_exact(16).zip(row.chunks_exact(16)) {
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(widen(q), widen(r)));
            }
            *out = add_lanes(sum);
        }
    }

    #[target_feature(enable = "avx2")]
    fn widen(bytes: &[u8]) -> __m256i {
        debug_assert_eq!(bytes.len(), 16);
        // SAFETY: callers pass chunks of exactly 16 bytes, and the load needs no alignment.
        _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
    }

    #[target_feature(enable = "avx2")]
    fn add_lanes(sum: __m256i) -> i32 {
        let half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let pair = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
        _mm_cvtsi128_si32(_mm_add_epi32(pair, _mm_shuffle_epi32::<0b10_11_00_01>(pair)))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn dot_and_square_f16c(query: &[f32], row: &[u8]) -> (f32, f32) {
        let (mut dot, mut square) = (_mm256_setzero_ps(), _mm256_setzero_ps());
        let (queries, values) = (query.chunks_exact(8), row.chunks_exact(16));
        let (rest_query, rest_row) = (queries.remainder(), values.remainder());
        for (q, v) in queries.zip(values) {
            // SAFETY: the chunks have exactly 8 floats and 16 bytes, and the loads need no alignment.
            let (q, v) = unsafe { (_mm256_loadu_ps(q.as_ptr()), _mm_loadu_si128(v.as_ptr().cast())) };
            let v = _mm256_cvtph_ps(v);
            dot = _mm256_fmadd_ps(q, v, dot);
            square = _mm256_fmadd_ps(v, v, square);
        }
        let (rest_dot, rest_square) = super::dot_and_square_scalar(rest_query, rest_row);
        (add_floats(dot) + rest_dot, add_floats(square) + rest_square)
    }

    #[target_feature(enable = "avx2")]
    fn add_floats(sum: __m256) -> f32 {
        let half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
        _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<0b01>(pair, pair)))
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;

    fn codes(lanes: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec((-127_i8..=127).prop_map(i8::cast_unsigned), lanes * LANE)
    }

    proptest! {
        #[test]
        fn simd_products_equal_the_scalar_ones(
            (query, rows) in (1_usize..8, 0_usize..6).prop_flat_map(|(lanes, n)| (codes(lanes), codes(lanes * n))),
        ) {
            let count = rows.len() / query.len();
            let (mut expected, mut found) = (vec![0; count], vec![1; count]);
            dot_rows_scalar(&query, &rows, &mut expected);

            dot_rows(&query, &rows, &mut found);
            prop_assert_eq!(&found, &expected);

            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the feature has just been detected.
                unsafe { x86::dot_rows_avx2(&query, &rows, &mut found) };
                prop_assert_eq!(&found, &expected);
            }
        }

        #[test]
        fn simd_cosines_are_near_the_scalar_ones_and_in_range(
            values in proptest::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 1..200),
        ) {
            let query: Vec<f32> = values.iter().map(|pair| pair.0).collect();
            let row: Vec<u8> = values.iter().flat_map(|pair| f16::from_f32(pair.1).to_le_bytes()).collect();

            let (dot, square) = dot_and_square(&query, &row);
            let (expected_dot, expected_square) = dot_and_square_scalar(&query, &row);

            prop_assert!((dot - expected_dot).abs() <= 1e-4 && (square - expected_square).abs() <= 1e-4);
        }
    }

    #[test]
    fn the_largest_allowed_row_does_not_overflow() {
        let row = vec![127_u8; 65_536];
        let opposite = vec![(-127_i8).cast_unsigned(); 65_536];

        assert_eq!(dot_pair(&row, &row), 127 * 127 * 65_536);
        assert_eq!(dot_pair(&row, &opposite), -127 * 127 * 65_536);
    }

    #[test]
    fn a_cosine_by_hand() {
        let row: Vec<u8> = [3.0, 4.0].iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();

        assert_eq!(cosine(&[1.0, 0.0], &row), 0.6);
        assert_eq!(cosine(&[0.6, 0.8], &row), 1.0);
    }
}
