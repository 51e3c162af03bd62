//! BERT encoders (Devlin et al., NAACL 2019) as ONNX graphs for ONNX Runtime on CPUs.
//!
//! Attention and bias+GELU are ONNX Runtime's own operators. Residuals are `Sum` and a plain `LayerNormalization`:
//! the fused `SkipLayerNormalization` takes three times as long (measured with 1.32), and `Sum` keeps the runtime
//! from fusing it again.

use serde::{Deserialize, Serialize};

use super::graph::{Attribute, Element, Graph, Port};
use super::quantize::{QuantizedMatrix, lowered_bias, multiply, quantize_gelu, quantize_rows, quantize_signed};
use super::weights::{BertConfig, ExportError, Tensors, WeightFile};

/// What the graph gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BertHead {
    /// `last_hidden_state`, `[batch, tokens, hidden]`.
    TokenStates,
    /// `sparse`, `[batch, vocabulary]`: SPLADE's max pooling, `max over tokens of log(1 + relu(logit))`
    /// (Formal et al., SIGIR 2021, eq. 6 with the max of v2).
    Splade,
    /// `last_hidden_state`, `[batch, tokens, hidden]`, after the transform of the masked language model's head: a
    /// token's logit for a term is its product with the term's embedding plus the term's bias.
    SpladeStates,
}

/// A group of weights that can be stored and multiplied in eight bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Matrix {
    Embeddings,
    Query,
    Key,
    Value,
    AttentionOutput,
    Intermediate,
    Output,
    /// The transform in front of SPLADE's vocabulary.
    Transform,
    /// SPLADE's product with the vocabulary.
    Vocabulary,
}

/// Which graph to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRecipe {
    pub head: BertHead,
    /// What is in int8; the rest stays f32.
    #[serde(default)]
    pub int8: Vec<Matrix>,
}

/// The ONNX file for these weights: inputs `input_ids`, `attention_mask`, `token_type_ids`, each `[batch, tokens]`.
///
/// Equal input gives equal bytes on every platform: only exactly rounded operations are used.
pub fn export_bert(weights: &WeightFile, config: &BertConfig, recipe: &ExportRecipe) -> Result<Vec<u8>, ExportError> {
    let tensors = weights.tensors()?;
    let mut writer = Writer { graph: Graph::default(), tensors, config, int8: &recipe.int8 };
    let mask = writer.graph.node("Cast", &["attention_mask"], &[Attribute::Int("to", Element::I32 as i64)]);
    let mut rows = writer.embeddings()?;
    for layer in 0..config.num_hidden_layers {
        rows = writer.layer(layer, &rows, &mask)?;
    }
    let hidden = config.hidden_size;
    let ports = ["input_ids", "attention_mask", "token_type_ids"];
    let inputs = ports.map(|name| Port { name, element: Element::I64, dims: &[("batch", None), ("tokens", None)] });
    let states = [("batch", None), ("tokens", None), ("hidden", Some(hidden))];
    let states = Port { name: "last_hidden_state", element: Element::F32, dims: &states };
    let sparse = [("batch", None), ("vocabulary", Some(config.vocab_size))];
    let sparse = Port { name: "sparse", element: Element::F32, dims: &sparse };
    let output = match recipe.head {
        BertHead::TokenStates => {
            let shaped = writer.by_token(&rows, hidden);
            writer.graph.output(&shaped, states.name);
            states
        }
        BertHead::SpladeStates => {
            let rows = writer.transform(&rows)?;
            let shaped = writer.by_token(&rows, hidden);
            writer.graph.output(&shaped, states.name);
            states
        }
        BertHead::Splade => {
            let rows = writer.transform(&rows)?;
            let pooled = writer.vocabulary(&rows)?;
            writer.graph.output(&pooled, sparse.name);
            sparse
        }
    };
    Ok(writer.graph.into_model(&inputs, &[output]))
}

/// Activations flow as `[batch · tokens, width]` and are shaped by token only where attention needs it.
struct Writer<'a> {
    graph: Graph,
    tensors: Tensors<'a>,
    config: &'a BertConfig,
    int8: &'a [Matrix],
}

impl Writer<'_> {
    fn embeddings(&mut self) -> Result<String, ExportError> {
        let (hidden, config) = (self.config.hidden_size, self.config);
        let words = self.word_embeddings()?;
        let kinds = self.floats("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, hidden])?;
        let kinds = self.graph.node("Gather", &[&kinds, "token_type_ids"], &[Attribute::Int("axis", 0)]);
        let positions =
            self.floats("embeddings.position_embeddings.weight", &[config.max_position_embeddings, hidden])?;
        let zero = self.graph.integers("zero", &[1], &[0]);
        let one_dim = [Attribute::Int("start", 1), Attribute::Int("end", 2)];
        let tokens = self.graph.node("Shape", &["input_ids"], &one_dim);
        let positions = self.graph.node("Slice", &[&positions, &zero, &tokens, &zero], &[]);
        let sum = self.graph.node("Sum", &[&words, &kinds, &positions], &[]);
        let normal = self.layer_norm(&sum, "embeddings.LayerNorm")?;
        let flat = self.graph.integers("flat", &[2], &[-1, hidden as i64]);
        Ok(self.graph.node("Reshape", &[&normal, &flat], &[]))
    }

    fn word_embeddings(&mut self) -> Result<String, ExportError> {
        let name = "embeddings.word_embeddings.weight";
        let dims = [self.config.vocab_size, self.config.hidden_size];
        let gather = [Attribute::Int("axis", 0)];
        if !self.int8.contains(&Matrix::Embeddings) {
            let table = self.floats(name, &dims)?;
            return Ok(self.graph.node("Gather", &[&table, "input_ids"], &gather));
        }
        let (values, scales) = quantize_rows(&self.tensors.floats(name, &dims)?, dims[1]);
        let values = self.graph.signed_bytes(&format!("{name}.int8"), &dims, &values);
        let scales = self.graph.floats(&format!("{name}.scales"), &[dims[0], 1], &scales);
        let rows = self.graph.node("Gather", &[&values, "input_ids"], &gather);
        let rows = self.graph.node("Cast", &[&rows], &[Attribute::Int("to", Element::F32 as i64)]);
        let scales = self.graph.node("Gather", &[&scales, "input_ids"], &gather);
        Ok(self.graph.node("Mul", &[&rows, &scales], &[]))
    }

    fn layer(&mut self, layer: usize, rows: &str, mask: &str) -> Result<String, ExportError> {
        let (hidden, wide) = (self.config.hidden_size, self.config.intermediate_size);
        let prefix = format!("encoder.layer.{layer}");
        let context = self.attention(&prefix, rows, mask)?;

        let name = format!("{prefix}.attention.output");
        let (product, bias) =
            self.linear(Matrix::AttentionOutput, &format!("{name}.dense"), &context, (hidden, hidden))?;
        let rows = self.residual(&product, rows, &bias, &name)?;

        let name = format!("{prefix}.intermediate.dense");
        let (product, bias) = self.linear(Matrix::Intermediate, &name, &rows, (hidden, wide))?;
        let bias = self.graph.floats(&format!("{name}.bias"), &[wide], &bias);
        let wide_rows = self.graph.contrib("BiasGelu", &[&product, &bias], &[]);

        let name = format!("{prefix}.output");
        let (product, bias) = self.linear(Matrix::Output, &format!("{name}.dense"), &wide_rows, (wide, hidden))?;
        self.residual(&product, &rows, &bias, &name)
    }

    fn attention(&mut self, prefix: &str, rows: &str, mask: &str) -> Result<String, ExportError> {
        let hidden = self.config.hidden_size;
        let mut quantized = None;
        let mut projections = Vec::with_capacity(3);
        let mut biases = Vec::with_capacity(3 * hidden);
        for (matrix, part) in [(Matrix::Query, "query"), (Matrix::Key, "key"), (Matrix::Value, "value")] {
            let name = format!("{prefix}.attention.self.{part}");
            let weights = self.tensors.floats(&format!("{name}.weight"), &[hidden, hidden])?;
            let product = if self.int8.contains(&matrix) {
                // The three products share one quantization of their input.
                let rows = quantized.get_or_insert_with(|| quantize_signed(&mut self.graph, rows));
                multiply(&mut self.graph, rows, &QuantizedMatrix::of(&weights, hidden, hidden), &name)
            } else {
                self.float_product(&name, rows, (&weights, hidden, hidden))
            };
            projections.push(self.by_token(&product, hidden));
            biases.extend(self.tensors.floats(&format!("{name}.bias"), &[hidden])?);
        }
        let bias = self.graph.floats(&format!("{prefix}.attention.self.bias"), &[3 * hidden], &biases);
        let heads = [Attribute::Int("num_heads", self.config.num_attention_heads as i64)];
        let inputs = [&projections[0], &projections[1], &projections[2], &bias, mask];
        let context = self.graph.contrib("MultiHeadAttention", &inputs, &heads);
        let flat = self.graph.integers("flat", &[2], &[-1, hidden as i64]);
        Ok(self.graph.node("Reshape", &[&context, &flat], &[]))
    }

    /// `rows · weights` and the bias that is still to be added.
    fn linear(
        &mut self,
        matrix: Matrix,
        name: &str,
        rows: &str,
        (inputs, outputs): (usize, usize),
    ) -> Result<(String, Vec<f32>), ExportError> {
        let weights = self.tensors.floats(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.tensors.floats(&format!("{name}.bias"), &[outputs])?;
        if !self.int8.contains(&matrix) {
            return Ok((self.float_product(name, rows, (&weights, inputs, outputs)), bias));
        }
        let quantized = QuantizedMatrix::of(&weights, inputs, outputs);
        // Only the second half of the feed-forward block reads the output of GELU.
        let (rows, bias) = match matrix {
            Matrix::Output => (quantize_gelu(&mut self.graph, rows), lowered_bias(&bias, &quantized)),
            _ => (quantize_signed(&mut self.graph, rows), bias),
        };
        Ok((multiply(&mut self.graph, &rows, &quantized, name), bias))
    }

    fn float_product(&mut self, name: &str, rows: &str, (weights, inputs, outputs): (&[f32], usize, usize)) -> String {
        let mut turned = vec![0.0; weights.len()];
        for (output, row) in weights.chunks_exact(inputs).enumerate() {
            row.iter().enumerate().for_each(|(input, value)| turned[input * outputs + output] = *value);
        }
        let weights = self.graph.floats(&format!("{name}.weight"), &[inputs, outputs], &turned);
        self.graph.node("MatMul", &[rows, &weights], &[])
    }

    fn residual(&mut self, product: &str, rows: &str, bias: &[f32], name: &str) -> Result<String, ExportError> {
        let bias = self.graph.floats(&format!("{name}.bias"), &[bias.len()], bias);
        let sum = self.graph.node("Sum", &[product, rows, &bias], &[]);
        self.layer_norm(&sum, &format!("{name}.LayerNorm"))
    }

    fn layer_norm(&mut self, value: &str, name: &str) -> Result<String, ExportError> {
        let weight = self.floats(&format!("{name}.weight"), &[self.config.hidden_size])?;
        let bias = self.floats(&format!("{name}.bias"), &[self.config.hidden_size])?;
        let attributes = [Attribute::Int("axis", -1), Attribute::Float("epsilon", self.config.layer_norm_eps)];
        Ok(self.graph.node("LayerNormalization", &[value, &weight, &bias], &attributes))
    }

    /// The head's transform: dense, GELU, LayerNorm.
    fn transform(&mut self, rows: &str) -> Result<String, ExportError> {
        let (hidden, name) = (self.config.hidden_size, "cls.predictions.transform");
        let (product, bias) = self.linear(Matrix::Transform, &format!("{name}.dense"), rows, (hidden, hidden))?;
        let bias = self.graph.floats(&format!("{name}.dense.bias"), &[hidden], &bias);
        let active = self.graph.contrib("BiasGelu", &[&product, &bias], &[]);
        self.layer_norm(&active, &format!("{name}.LayerNorm"))
    }

    /// Logits over the vocabulary, pooled over the tokens.
    fn vocabulary(&mut self, rows: &str) -> Result<String, ExportError> {
        let (hidden, terms) = (self.config.hidden_size, self.config.vocab_size);
        let bias = self.tensors.floats("cls.predictions.bias", &[terms])?;
        let bias = self.graph.floats("cls.predictions.bias", &[terms], &bias);
        let rows = self.repeat_first_for_padding(rows);
        let embeddings = self.tensors.floats("embeddings.word_embeddings.weight", &[terms, hidden])?;
        let logits = if self.int8.contains(&Matrix::Vocabulary) {
            let rows = quantize_signed(&mut self.graph, &rows);
            multiply(&mut self.graph, &rows, &QuantizedMatrix::of(&embeddings, hidden, terms), "vocabulary")
        } else {
            // Not turned: the table may be in the graph already, for the input's embeddings.
            let table = self.graph.floats("embeddings.word_embeddings.weight", &[terms, hidden], &embeddings);
            self.graph.node("Gemm", &[&rows, &table], &[Attribute::Int("transB", 1)])
        };
        let logits = self.by_token(&logits, terms);
        let axis = self.graph.integers("axis_1", &[1], &[1]);
        // The bias and the logarithm grow with the logit, so they can wait until one value a term is left.
        let most = self.graph.node("ReduceMax", &[&logits, &axis], &[Attribute::Int("keepdims", 0)]);
        let most = self.graph.node("Add", &[&most, &bias], &[]);
        let most = self.graph.node("Relu", &[&most], &[]);
        let one = self.graph.floats("one", &[], &[1.0]);
        let raised = self.graph.node("Add", &[&most, &one], &[]);
        Ok(self.graph.node("Log", &[&raised], &[]))
    }

    // A repeated token changes no maximum, so padding costs nothing over the wide vocabulary.
    fn repeat_first_for_padding(&mut self, rows: &str) -> String {
        let hidden = self.config.hidden_size;
        let states = self.by_token(rows, hidden);
        let zero = self.graph.integers("zero", &[1], &[0]);
        let first = self.graph.node("Gather", &[&states, &zero], &[Attribute::Int("axis", 1)]);
        let last_axis = self.graph.integers("last_axis", &[1], &[-1]);
        let mask = self.graph.node("Unsqueeze", &["attention_mask", &last_axis], &[]);
        let mask = self.graph.node("Cast", &[&mask], &[Attribute::Int("to", 9)]);
        let states = self.graph.node("Where", &[&mask, &states, &first], &[]);
        let flat = self.graph.integers("flat", &[2], &[-1, hidden as i64]);
        self.graph.node("Reshape", &[&states, &flat], &[])
    }

    /// `[batch · tokens, width]` as `[batch, tokens, width]`.
    fn by_token(&mut self, rows: &str, width: usize) -> String {
        let width_name = self.graph.integers(&format!("width_{width}"), &[1], &[width as i64]);
        let shape = self.graph.node("Shape", &["input_ids"], &[]);
        let shape = self.graph.node("Concat", &[&shape, &width_name], &[Attribute::Int("axis", 0)]);
        self.graph.node("Reshape", &[rows, &shape], &[])
    }

    fn floats(&mut self, name: &str, dims: &[usize]) -> Result<String, ExportError> {
        let values = self.tensors.floats(name, dims)?;
        Ok(self.graph.floats(name, dims, &values))
    }
}
