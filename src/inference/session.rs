//! One ONNX graph, ready to run: the only file that speaks to `ort`'s sessions.
//!
//! The runtime's arena is off: it keeps the largest shape it has seen for ever, and shapes vary with every text.

use ort::ep;
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor;

use super::{InferenceError, Runtime};

/// Outputs that are read when the manifest names none, best first.
const USUAL_OUTPUTS: [&str; 5] = ["sentence_embedding", "logits", "sparse", "last_hidden_state", "token_embeddings"];

/// Token ids of one text or pair, special tokens in place, without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub ids: Vec<u32>,
    pub type_ids: Vec<u32>,
}

/// What a run gave: numbers with their shape, batch first.
pub(super) struct Output<'a> {
    pub dims: &'a [i64],
    pub values: &'a [f32],
}

/// A loaded graph. Runs one batch at a time.
pub(super) struct OnnxSession {
    model: String,
    session: Session,
    takes_type_ids: bool,
    output: String,
}

impl OnnxSession {
    /// Loads a graph from bytes whose hash was checked. `output` is the manifest's choice. Blocks.
    pub fn load(
        runtime: &Runtime,
        model: &str,
        onnx: &[u8],
        (output, intra_threads): (Option<&str>, usize),
    ) -> Result<Self, InferenceError> {
        let unusable = |detail: String| InferenceError::Unusable { model: model.to_owned(), detail };
        let mut builder = configure(runtime, intra_threads).map_err(&unusable)?;
        let session = builder.commit_from_memory(onnx).map_err(|error| unusable(error.to_string()))?;
        let has_input = |name: &str| session.inputs().iter().any(|input| input.name() == name);
        if !has_input("input_ids") || !has_input("attention_mask") {
            return Err(unusable("its graph must take input_ids and attention_mask".to_owned()));
        }
        let known = ["input_ids", "attention_mask", "token_type_ids"];
        if let Some(other) = session.inputs().iter().find(|input| !known.contains(&input.name())) {
            return Err(unusable(format!("its graph takes {}, which is not known here", other.name())));
        }
        let takes_type_ids = has_input("token_type_ids");
        let outputs: Vec<&str> = session.outputs().iter().map(|output| output.name()).collect();
        let chosen = match output {
            Some(named) => outputs.iter().find(|name| **name == named),
            None => USUAL_OUTPUTS.iter().find(|usual| outputs.contains(usual)).or(outputs.first()),
        };
        let output = chosen.ok_or_else(|| unusable(format!("its graph has no such output, only {outputs:?}")))?;
        let output = (*output).to_owned();
        Ok(Self { model: model.to_owned(), output, takes_type_ids, session })
    }

    /// Runs `rows` as one batch, padded at the end, and hands the output to `read`. Blocks for the whole run.
    pub fn run<T>(
        &mut self,
        rows: &[&Row],
        read: impl FnOnce(Output<'_>) -> Result<T, String>,
    ) -> Result<T, InferenceError> {
        let model = self.model.clone();
        let failed = |detail: String| InferenceError::Failed { model, detail };
        self.try_run(rows, read).map_err(failed)
    }

    fn try_run<T>(&mut self, rows: &[&Row], read: impl FnOnce(Output<'_>) -> Result<T, String>) -> Result<T, String> {
        let width = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        if width == 0 {
            return Err("there is no token to run on".to_owned());
        }
        let shape = [rows.len(), width];
        let tensor = |part: &dyn Fn(&Row, usize) -> i64| {
            let cells = rows.iter().flat_map(|row| (0..width).map(|at| part(row, at)));
            Tensor::from_array((shape, cells.collect::<Vec<i64>>())).map_err(|error| error.to_string())
        };
        let at = |values: &[u32], at: usize| values.get(at).copied().map_or(0, i64::from);
        let mut inputs: Vec<(&str, SessionInputValue<'_>)> = vec![
            ("input_ids", tensor(&|row, column| at(&row.ids, column))?.into()),
            ("attention_mask", tensor(&|row, column| i64::from(column < row.ids.len()))?.into()),
        ];
        if self.takes_type_ids {
            inputs.push(("token_type_ids", tensor(&|row, column| at(&row.type_ids, column))?.into()));
        }
        let outputs = self.session.run(inputs).map_err(|error| error.to_string())?;
        let output = outputs.get(&self.output).ok_or("the output is not there")?;
        let (dims, values) = output.try_extract_tensor::<f32>().map_err(|error| error.to_string())?;
        if dims.first() != Some(&(rows.len() as i64)) {
            return Err(format!("the output has shape {dims:?} for {} rows", rows.len()));
        }
        read(Output { dims, values })
    }
}

#[expect(clippy::result_large_err, reason = "the error is the builder's own and ends here")]
fn configure(runtime: &Runtime, intra_threads: usize) -> Result<SessionBuilder, String> {
    let builder = Session::builder(runtime.environment()).map_err(|error| error.to_string())?;
    let built = || {
        builder
            .with_execution_providers([ep::CPU::default().with_arena_allocator(false).build()])?
            .with_memory_pattern(false)?
            .with_optimization_level(GraphOptimizationLevel::Level3)?
            .with_intra_threads(intra_threads)?
            // Threads that wait by spinning would take the cores from the rest of the server.
            .with_intra_op_spinning(false)?
            .with_log_level(LogLevel::Warning)
    };
    built().map_err(|error| error.to_string())
}
