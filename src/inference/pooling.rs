//! From a graph's output to one vector a text. Pure functions; padding never enters.

use super::manifest::Pooling;
use super::session::{Output, Row};

/// What is wanted of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extract {
    /// One vector.
    Pooled(Pooling),
    /// Every token's vector, one after the other.
    States,
    /// The row as it is: logits.
    Plain,
    /// Weights over the vocabulary: as they are, or pooled here from the logits of each token.
    Sparse,
}

/// One vector for each row, in order; errors say what is wrong with the output's shape.
pub(super) fn extract(output: &Output<'_>, rows: &[&Row], wanted: Extract) -> Result<Vec<Vec<f32>>, String> {
    let vectors: Vec<Vec<f32>> = match (output.dims, wanted) {
        (&[_, width], Extract::Pooled(Pooling::Pooled) | Extract::Plain | Extract::Sparse) => {
            output.values.chunks_exact(positive(width)?).map(<[f32]>::to_vec).collect()
        }
        (&[_, tokens, width], Extract::Pooled(_) | Extract::States | Extract::Sparse) => {
            let (tokens, width) = (positive(tokens)?, positive(width)?);
            let texts = output.values.chunks_exact(tokens * width).zip(rows);
            let texts = texts.map(|(states, row)| (&states[..row.ids.len().min(tokens) * width], width));
            match wanted {
                Extract::Pooled(Pooling::Cls) => texts.map(|(states, width)| states[..width].to_vec()).collect(),
                Extract::Pooled(Pooling::Mean) => texts.map(|(states, width)| mean(states, width)).collect(),
                Extract::Sparse => texts.map(|(logits, width)| splade(logits, width)).collect(),
                Extract::States => texts.map(|(states, _)| states.to_vec()).collect(),
                Extract::Pooled(Pooling::Pooled) | Extract::Plain => return Err(mismatch(output.dims, wanted)),
            }
        }
        (dims, wanted) => return Err(mismatch(dims, wanted)),
    };
    let finite = |vectors: &[Vec<f32>]| vectors.iter().flatten().all(|value| value.is_finite());
    if finite(&vectors) { Ok(vectors) } else { Err("the output holds numbers that are not finite".to_owned()) }
}

/// Scales `vector` to unit length; a vector of zeros stays.
pub(super) fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value /= length);
    }
}

/// Average of the token vectors (Reimers and Gurevych, EMNLP 2019).
fn mean(states: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for state in states.chunks_exact(width) {
        sum.iter_mut().zip(state).for_each(|(sum, value)| *sum += value);
    }
    let tokens = (states.len() / width) as f32;
    sum.iter_mut().for_each(|value| *value /= tokens);
    sum
}

/// `max over tokens of log(1 + relu(logit))` (Formal et al., SIGIR 2021, with the max pooling of SPLADE v2).
fn splade(logits: &[f32], width: usize) -> Vec<f32> {
    let mut most = vec![0.0_f32; width];
    for token in logits.chunks_exact(width) {
        most.iter_mut().zip(token).for_each(|(most, logit)| *most = most.max(*logit));
    }
    most.iter_mut().for_each(|value| *value = value.ln_1p());
    most
}

fn positive(dim: i64) -> Result<usize, String> {
    usize::try_from(dim).ok().filter(|dim| *dim > 0).ok_or_else(|| "the output is empty".to_owned())
}

fn mismatch(dims: &[i64], wanted: Extract) -> String {
    format!(
        "its output has shape {dims:?}, from which {wanted:?} cannot be read; check the manifest's `pooling` and `output`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tokens: usize) -> Row {
        Row { ids: vec![1; tokens], type_ids: vec![0; tokens] }
    }

    /// Two texts of one and two tokens, two wide; the first text is padded with nonsense.
    const STATES: [f32; 8] = [1.0, 2.0, 1e9, -1e9, 3.0, -4.0, 5.0, 6.0];

    fn of_states(wanted: Extract) -> Vec<Vec<f32>> {
        let rows = [row(1), row(2)];
        let output = Output { dims: &[2, 2, 2], values: &STATES };
        extract(&output, &rows.iter().collect::<Vec<_>>(), wanted).unwrap()
    }

    #[test]
    fn padding_enters_no_vector() {
        assert_eq!(of_states(Extract::Pooled(Pooling::Mean)), [[1.0, 2.0], [4.0, 1.0]]);
        assert_eq!(of_states(Extract::Pooled(Pooling::Cls)), [[1.0, 2.0], [3.0, -4.0]]);
        assert_eq!(of_states(Extract::States), [vec![1.0, 2.0], vec![3.0, -4.0, 5.0, 6.0]]);
        for (weights, logits) in of_states(Extract::Sparse).iter().zip([[1.0_f32, 2.0], [5.0, 6.0]]) {
            weights.iter().zip(logits).for_each(|(weight, logit)| assert!((weight - logit.ln_1p()).abs() < 1e-6));
        }
    }

    #[test]
    fn an_output_of_another_shape_or_with_nan_is_refused() {
        let one = row(1);
        let refused =
            |dims: &[i64], values: &[f32], wanted| extract(&Output { dims, values }, &[&one], wanted).is_err();

        assert!(refused(&[1, 1, 2], &[1.0, 2.0], Extract::Plain));
        assert!(refused(&[1, 2], &[1.0, 2.0], Extract::Pooled(Pooling::Mean)));
        assert!(refused(&[1, 0], &[], Extract::Plain));
        assert!(refused(&[1, 2], &[1.0, f32::NAN], Extract::Plain));
    }

    #[test]
    fn zeros_stay_zeros_when_normalised() {
        let (mut zeros, mut vector) = ([0.0; 3], [3.0, 4.0]);
        normalize(&mut zeros);
        normalize(&mut vector);

        assert_eq!(zeros, [0.0; 3]);
        assert_eq!(vector, [0.6, 0.8]);
    }
}
