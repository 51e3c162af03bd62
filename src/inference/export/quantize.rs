//! Int8 matrix products whose rows do not depend on each other.
//!
//! Weights: symmetric, one scale a column. Activations: one scale a row, taken when it runs (as in LLM.int8(),
//! Dettmers et al. 2022, section 3.1). ONNX Runtime's own dynamic quantization takes one scale for the whole batch,
//! so a text's vector changes with its neighbours (by 3e-2 on MiniLM) and one outlier costs every token its
//! precision: mean cosine to fp32 0.994, here 0.998, at a tenth less CPU.

use super::graph::{Attribute, Graph};

/// Largest magnitude of a weight: the range is symmetric, -128 is not used.
const WEIGHT_LEVELS: f32 = 127.0;
/// What an activation of 0 becomes where activations have both signs.
const ZERO_POINT: u8 = 128;
/// GELU's least value is -0.16997 (at -0.7518). Raised by this, its output needs no sign and gets all 256 levels.
const GELU_SHIFT: f32 = 0.17;

/// A matrix `[inputs, outputs]` in eight bits.
#[derive(Debug, PartialEq)]
pub(super) struct QuantizedMatrix {
    pub values: Vec<i8>,
    /// One a column.
    pub scales: Vec<f32>,
    pub inputs: usize,
    pub outputs: usize,
}

impl QuantizedMatrix {
    /// Quantizes `weights`, which lie `[outputs, inputs]` as published checkpoints have them.
    pub fn of(weights: &[f32], inputs: usize, outputs: usize) -> Self {
        debug_assert_eq!(weights.len(), inputs * outputs);
        let (rows, scales) = quantize_rows(weights, inputs);
        let mut values = vec![0; inputs * outputs];
        for (output, row) in rows.chunks_exact(inputs).enumerate() {
            for (input, value) in row.iter().enumerate() {
                values[input * outputs + output] = *value;
            }
        }
        Self { values, scales, inputs, outputs }
    }

    /// What the product is raised by when every input is raised by [`GELU_SHIFT`]: one a column.
    fn shift_of_outputs(&self) -> Vec<f32> {
        let mut sums = vec![0_i32; self.outputs];
        for row in self.values.chunks_exact(self.outputs) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += i32::from(*value));
        }
        sums.iter().zip(&self.scales).map(|(sum, scale)| GELU_SHIFT * (*sum as f32 * scale)).collect()
    }
}

/// Quantizes each row of `values` with its own scale, symmetrically. A row of zeros has scale 0.
pub(super) fn quantize_rows(values: &[f32], width: usize) -> (Vec<i8>, Vec<f32>) {
    let mut quantized = Vec::with_capacity(values.len());
    let mut scales = Vec::with_capacity(values.len() / width.max(1));
    for row in values.chunks_exact(width) {
        let scale = row.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / WEIGHT_LEVELS;
        let level = |value: &f32| if scale > 0.0 { (value / scale).round_ties_even() as i8 } else { 0 };
        quantized.extend(row.iter().map(level));
        scales.push(scale);
    }
    (quantized, scales)
}

/// Activations `[rows, width]` in eight bits, ready for several products.
pub(super) struct QuantizedRows {
    values: String,
    /// `[rows, 1]`.
    scales: String,
    zero_point: u8,
}

/// Quantizes activations of both signs.
pub(super) fn quantize_signed(graph: &mut Graph, rows: &str) -> QuantizedRows {
    let magnitude = graph.node("Abs", &[rows], &[]);
    let scales = row_scales(graph, &magnitude, 1.0 / f32::from(i8::MAX));
    let shape = graph.node("Shape", &[&scales], &[]);
    let zero_points = graph.node("ConstantOfShape", &[&shape], &[Attribute::ByteTensor("value", ZERO_POINT)]);
    let values = graph.node("QuantizeLinear", &[rows, &scales, &zero_points], &[Attribute::Int("axis", 0)]);
    QuantizedRows { values, scales: as_column(graph, &scales), zero_point: ZERO_POINT }
}

/// Quantizes the output of GELU. The product must be lowered again: see [`lowered_bias`].
pub(super) fn quantize_gelu(graph: &mut Graph, rows: &str) -> QuantizedRows {
    let shift = graph.floats("gelu_shift", &[], &[GELU_SHIFT]);
    let raised = graph.node("Add", &[rows, &shift], &[]);
    let scales = row_scales(graph, &raised, 1.0 / f32::from(u8::MAX));
    let values = graph.node("QuantizeLinear", &[&raised, &scales], &[Attribute::Int("axis", 0)]);
    QuantizedRows { values, scales: as_column(graph, &scales), zero_point: 0 }
}

/// The bias to use after a product with [`quantize_gelu`]'s output.
pub(super) fn lowered_bias(bias: &[f32], matrix: &QuantizedMatrix) -> Vec<f32> {
    bias.iter().zip(matrix.shift_of_outputs()).map(|(bias, shift)| bias - shift).collect()
}

/// `rows · matrix` in floats, `[rows, outputs]`, without bias.
pub(super) fn multiply(graph: &mut Graph, rows: &QuantizedRows, matrix: &QuantizedMatrix, name: &str) -> String {
    let dims = [matrix.inputs, matrix.outputs];
    let values = graph.signed_bytes(&format!("{name}.int8"), &dims, &matrix.values);
    let scales = graph.floats(&format!("{name}.scales"), &[matrix.outputs], &matrix.scales);
    let one = graph.floats("one", &[], &[1.0]);
    let zero_point = graph.byte(&format!("zero_point_{}", rows.zero_point), rows.zero_point);
    let product = graph.contrib("MatMulIntegerToFloat", &[&rows.values, &values, &one, &scales, &zero_point], &[]);
    graph.node("Mul", &[&product, &rows.scales], &[])
}

fn row_scales(graph: &mut Graph, magnitude: &str, level: f32) -> String {
    let last_axis = graph.integers("last_axis", &[1], &[-1]);
    let largest = graph.node("ReduceMax", &[magnitude, &last_axis], &[Attribute::Int("keepdims", 0)]);
    let level = graph.floats(&format!("level_{level}"), &[], &[level]);
    graph.node("Mul", &[&largest, &level], &[])
}

fn as_column(graph: &mut Graph, scales: &str) -> String {
    let axis = graph.integers("axis_1", &[1], &[1]);
    graph.node("Unsqueeze", &[scales, &axis], &[])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_matrix_is_turned_and_each_column_has_its_scale() {
        // Two outputs of three inputs each: [[1, -2, 0.5], [0, 0, 10]].
        let matrix = QuantizedMatrix::of(&[1.0, -2.0, 0.5, 0.0, 0.0, 10.0], 3, 2);

        assert_eq!(matrix.scales, [2.0 / 127.0, 10.0 / 127.0]);
        assert_eq!(matrix.values, [64, 0, -127, 0, 32, 127]);
    }

    #[test]
    fn gelu_is_never_below_the_shift() {
        let gelu = |x: f64| 0.5 * x * (1.0 + libm_erf(x / std::f64::consts::SQRT_2));
        let least = (-4_000..0).map(|i| gelu(f64::from(i) / 1_000.0)).fold(0.0, f64::min);

        assert!(least > -f64::from(GELU_SHIFT), "{least}");
        assert!(least < -0.169, "the shift wastes levels: {least}");
    }

    // Abramowitz and Stegun 7.1.26, to 1.5e-7.
    fn libm_erf(x: f64) -> f64 {
        let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
        let poly =
            t * (0.254_829_592 + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
        x.signum() * (1.0 - poly * (-x * x).exp())
    }

    proptest! {
        #[test]
        fn quantizing_errs_by_half_a_level_at_most(row in prop::collection::vec(-100.0f32..100.0, 1..40)) {
            let (values, scales) = quantize_rows(&row, row.len());

            for (value, level) in row.iter().zip(values) {
                prop_assert!((value - f32::from(level) * scales[0]).abs() <= scales[0] * 0.5001);
            }
        }
    }
}
