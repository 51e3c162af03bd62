//! Settings of the kinds of work: how much one task may ask for, and what it asks where the caller does not say.

use serde::{Deserialize, Serialize};

/// What tasks may ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JobSettings {
    /// Tokens of a window of consecutive chunks that one call of a `map` reads. Default 1,000: a page or two, which small
    /// models still read with care.
    pub window_tokens: u32,
    /// Most tokens of a window that a task may ask for. Default 32,000: a quarter of what large models hold.
    pub max_window_tokens: u32,
    /// Estimated tokens of outputs that one call of a `reduce` reads. Default 6,000: with prompt and reply it fits a
    /// context of 8,192; more outputs are reduced in levels.
    pub reduce_tokens: usize,
    /// Documents that one `map` may name. Default 1,000.
    pub max_map_documents: usize,
    /// Chunks that one `map` may name. Default 10,000.
    pub max_map_chunks: usize,
    /// Items of one `map`. Default 10,000, and never more than `tasks.max_items`: their outputs are held in memory.
    pub max_map_items: usize,
    /// Bytes of a prompt, a system prompt or instructions. Default 32 KiB: as long as a book's chapter.
    pub max_prompt_bytes: usize,
    /// Most tokens that a model may write in one call where the task does not say. Default 512.
    pub max_tokens: u32,
    /// Most tokens that a task may ask for. Default 4,096.
    pub max_tokens_limit: u32,
    /// Sampling temperature where the task does not say. Default 0: the same work should give the same result. None leaves
    /// it to the server, which reasoning models demand.
    pub temperature: Option<f32>,
    /// Longest call with its attempts and fallbacks, ms. Default 120,000: nobody waits at the other end, so slow models may
    /// take their time; `gateway.call_timeout_ms` holds beside it.
    pub call_timeout_ms: u64,
    /// Steps of one `pipeline`. Default 32.
    pub max_pipeline_steps: usize,
    /// Bytes of a text that `extract` reads. Default 128 KiB: about 32,000 tokens.
    pub max_extract_bytes: usize,
    /// Bytes of a JSON schema. Default 32 KiB.
    pub max_schema_bytes: usize,
    /// Documents of one `ingest`. Default 10,000, and never more than `tasks.max_items`.
    pub max_ingest_documents: usize,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            window_tokens: 1_000,
            max_window_tokens: 32_000,
            reduce_tokens: 6_000,
            max_map_documents: 1_000,
            max_map_chunks: 10_000,
            max_map_items: 10_000,
            max_prompt_bytes: 32 << 10,
            max_tokens: 512,
            max_tokens_limit: 4_096,
            temperature: Some(0.0),
            call_timeout_ms: 120_000,
            max_pipeline_steps: 32,
            max_extract_bytes: 128 << 10,
            max_schema_bytes: 32 << 10,
            max_ingest_documents: 10_000,
        }
    }
}

impl JobSettings {
    /// What is wrong with these settings, one sentence each, naming the field; empty if nothing is. `max_items` is what a
    /// step may have.
    pub fn problems(&self, max_items: usize) -> Vec<String> {
        let positive = [
            ("window_tokens", u64::from(self.window_tokens)),
            ("reduce_tokens", self.reduce_tokens as u64),
            ("max_map_documents", self.max_map_documents as u64),
            ("max_map_chunks", self.max_map_chunks as u64),
            ("max_map_items", self.max_map_items as u64),
            ("max_prompt_bytes", self.max_prompt_bytes as u64),
            ("max_tokens", u64::from(self.max_tokens)),
            ("call_timeout_ms", self.call_timeout_ms),
            ("max_pipeline_steps", self.max_pipeline_steps as u64),
            ("max_extract_bytes", self.max_extract_bytes as u64),
            ("max_schema_bytes", self.max_schema_bytes as u64),
            ("max_ingest_documents", self.max_ingest_documents as u64),
        ];
        let zero = positive.iter().filter(|(_, value)| *value == 0).map(|(name, _)| format!("{name} must be above 0"));
        let mut problems: Vec<String> = zero.collect();
        if self.window_tokens > self.max_window_tokens {
            problems.push("window_tokens must not be above max_window_tokens".to_owned());
        }
        if self.max_tokens > self.max_tokens_limit {
            problems.push("max_tokens must not be above max_tokens_limit".to_owned());
        }
        for (name, items) in
            [("max_map_items", self.max_map_items), ("max_ingest_documents", self.max_ingest_documents)]
        {
            if items > max_items {
                problems.push(format!("{name} must not be above tasks.max_items, which is {max_items}"));
            }
        }
        if self.temperature.is_some_and(|temperature| !(0.0..=2.0).contains(&temperature)) {
            problems.push("temperature must lie between 0 and 2".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_contradictions_are_named() {
        assert_eq!(JobSettings::default().problems(10_000), Vec::<String>::new());

        let wrong =
            JobSettings { window_tokens: 0, max_tokens: 5_000, temperature: Some(3.0), ..JobSettings::default() };
        assert_eq!(wrong.problems(5_000).len(), 5, "{:?}", wrong.problems(5_000));
    }
}
