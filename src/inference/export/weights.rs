//! Published BERT checkpoints: `model.safetensors` with `config.json`.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

/// Why weights could not be turned into a graph.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not a BERT configuration: {detail}")]
    Config { path: String, detail: String },
    #[error("{path} is not a safetensors file: {detail}")]
    NotSafetensors { path: String, detail: String },
    #[error("tensor {name} is missing or not {dims:?} of f32")]
    Tensor { name: String, dims: Vec<usize> },
}

/// The part of a BERT `config.json` that shapes the graph.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BertConfig {
    pub num_hidden_layers: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub vocab_size: usize,
    pub layer_norm_eps: f32,
    pub hidden_act: String,
}

impl BertConfig {
    /// Reads a `config.json`; refuses activations other than the exact GELU. Blocks.
    pub fn read(path: &Path) -> Result<Self, ExportError> {
        let text = read(path)?;
        let invalid = |detail: String| ExportError::Config { path: path.display().to_string(), detail };
        let config: Self = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        if config.hidden_act != "gelu" {
            return Err(invalid(format!("activation {} is not supported", config.hidden_act)));
        }
        Ok(config)
    }
}

/// A safetensors file held in memory.
pub struct WeightFile {
    path: String,
    bytes: Vec<u8>,
}

impl WeightFile {
    /// Reads the whole file. Blocks.
    pub fn read(path: &Path) -> Result<Self, ExportError> {
        Ok(Self { path: path.display().to_string(), bytes: read(path)? })
    }

    /// A file whose bytes were read, and checked, by somebody else; `path` is for messages.
    pub fn from_bytes(path: &str, bytes: Vec<u8>) -> Self {
        Self { path: path.to_owned(), bytes }
    }

    pub(super) fn tensors(&self) -> Result<Tensors<'_>, ExportError> {
        let tensors = SafeTensors::deserialize(&self.bytes)
            .map_err(|error| ExportError::NotSafetensors { path: self.path.clone(), detail: error.to_string() })?;
        Ok(Tensors(tensors))
    }

    /// A tensor of f32 by any of its names, checked against `dims`.
    pub fn floats(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>, ExportError> {
        self.tensors()?.floats(name, dims)
    }
}

/// The tensors of a BERT checkpoint, under the several names that are in use for the same thing.
pub(super) struct Tensors<'a>(SafeTensors<'a>);

impl Tensors<'_> {
    /// The tensor `name`, with or without the prefix `bert.`, LayerNorm's weights also by their older names.
    pub fn floats(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>, ExportError> {
        let older = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        let names = [name.to_owned(), format!("bert.{name}"), older.clone(), format!("bert.{older}")];
        let found = names.iter().find_map(|name| self.0.tensor(name).ok());
        match found {
            Some(view) if view.shape() == dims && view.dtype() == Dtype::F32 => {
                let values = view.data().chunks_exact(4);
                Ok(values.map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect())
            }
            _ => Err(ExportError::Tensor { name: name.to_owned(), dims: dims.to_vec() }),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ExportError> {
    std::fs::read(path).map_err(|source| ExportError::Read { path: path.display().to_string(), source })
}
