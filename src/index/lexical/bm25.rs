//! BM25 over weighted fields: "Simple BM25 extension to multiple weighted fields" (Robertson, Zaragoza and Taylor,
//! CIKM 2004), with the length of each field normalized on its own.
//!
//! A word found in title and body counts once, with its frequencies added before they saturate; scores of fields
//! must not be added, or a word in both would outweigh two words in one.

use tantivy::fieldnorm::FieldNormReader;

use super::settings::LexicalSettings;
use super::snapshot::TEXT_FIELD_COUNT;

/// What a term frequency is multiplied with, by the compressed length of the field.
pub(super) type Norms = [f32; 256];

/// Inverse document frequency, always above 0: `ln(1 + (total - df + 0.5) / (df + 0.5))`.
pub(super) fn idf(document_frequency: u64, total: u64) -> f32 {
    let frequency = document_frequency.min(total) as f64;
    ((total as f64 - frequency + 0.5) / (frequency + 0.5)).ln_1p() as f32
}

/// What a weighted frequency is worth of a word's full weight, 0 to 1.
#[inline]
pub(super) fn saturation(weighted_frequency: f32, k1: f32) -> f32 {
    weighted_frequency / (k1 + weighted_frequency)
}

/// Weight over length normalization, `boost / (1 - b + b * length / mean_length)`, for each field and length.
pub(super) fn norms(settings: &LexicalSettings, mean_lengths: [f32; TEXT_FIELD_COUNT]) -> [Norms; TEXT_FIELD_COUNT] {
    let fields = [
        (settings.title_boost, settings.title_b),
        (settings.heading_boost, settings.heading_b),
        (1.0, settings.body_b),
    ];
    std::array::from_fn(|field| {
        let (boost, b) = fields[field];
        // Lengths below one would make short titles of rare titles endlessly heavy.
        let mean = mean_lengths[field].max(1.0);
        let norm = |id: usize| {
            let length = FieldNormReader::id_to_fieldnorm(u8::try_from(id).expect("ids are bytes")) as f32;
            boost / (1.0 - b + b * length / mean)
        };
        std::array::from_fn(norm)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_gives_what_it_gives_by_hand() {
        assert!((idf(1, 2) - 2.0_f32.ln()).abs() < 1e-6);
        assert!((idf(0, 10) - 22.0_f32.ln()).abs() < 1e-5);
        assert!(idf(10, 10) > 0.0);
        assert!((saturation(1.2, 1.2) - 0.5).abs() < 1e-6);

        let settings = LexicalSettings { title_boost: 2.0, title_b: 0.5, body_b: 0.4, ..LexicalSettings::default() };
        let norms = norms(&settings, [10.0, 0.0, 20.0]);
        let id = |length| usize::from(FieldNormReader::fieldnorm_to_id(length));
        assert!((norms[0][id(10)] - 2.0).abs() < 1e-6);
        assert!((norms[0][id(20)] - 2.0 / 1.5).abs() < 1e-6);
        assert!((norms[2][id(10)] - 1.0 / 0.8).abs() < 1e-6);
    }
}
