//! Which models run, and how much of the machine they may take.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Precision;

/// Where models are found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsSettings {
    /// The user's own manifest, read besides the built-in one. Default: none.
    pub manifest: Option<PathBuf>,
    /// Directory of fetched models. Default: `plumb/models` in the user's cache directory, so that one fetch
    /// serves every data directory.
    pub dir: Option<PathBuf>,
}

/// How models run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InferenceSettings {
    /// Name of the embedder in the manifest. Default: the one that ships.
    pub embedder: String,
    /// Embedders that run beside it, for generations that were or are to be built with them: other models, or the same
    /// one in another precision. Each takes as many threads and as much memory as the first. Default: none.
    pub also: Vec<AlsoEmbedder>,
    /// Name of the reranker in the manifest: a cross-encoder, or a sparse encoder for the rescorer. `None`: no
    /// reranking. Default: the sparse encoder that ships.
    pub reranker: Option<String>,
    /// Names of cross-encoders that rerank together with `reranker`, best and slowest first: a search takes the first
    /// that its time allows, and `reranker` alone where none is. They do not count where `reranker` is a cross-encoder
    /// itself or none. Default: those that ship.
    pub cross_encoders: Vec<String>,
    /// Weight of the cross-encoder beside `reranker`, from 0 to 1. Default 0.3: with
    /// `search.rerank.cross_encoder_blend` at 0.7 this had, of 40 pairs, the best sum for the two that ship among those
    /// that lost on no collection (dev questions, `train.mix`).
    pub cross_encoder_share: f32,
    /// First places of a list that the cross-encoders have to get right: they read in the order of `reranker`'s scores
    /// and stop where nothing later is likely to come among so many, or among as many as the search asks for. Default
    /// 10, as many as a search shows: 14 of 20 passages are read on average (dev questions, `train.mix`).
    pub cross_encoder_places: usize,
    /// Numbers in which shipped models compute. Default int8: half the CPU of fp32 (SciFact's 5,183 documents in
    /// 173 CPU seconds instead of 361) at nDCG@10 .6468 instead of .6451 on its 300 test queries and .6573 instead
    /// of .6602 on the 809 others (`cargo bench --bench embedder`). The cross-encoders that ship are int8 always.
    pub precision: Precision,
    /// Owner threads of the embedder and of each cross-encoder, each with its own copy of the weights (45 MB in int8).
    /// Default 2, for two cores: runs beside each other share nothing and wait for nothing.
    pub embedder_threads: usize,
    /// Threads inside one run of a model. Default 1: a second costs 3 % more CPU for each token and helps only a
    /// query that finds the machine idle.
    pub intra_threads: usize,
    /// Most tokens that may wait for a model in each of its two lanes (interactive, bulk). Default 131,072: five
    /// seconds of work at 25,000 tokens a second.
    pub queue_tokens: usize,
    /// Most tokens in one run, padding counted; a longer row runs alone. Default 256: larger batches are no faster
    /// on a CPU, take more memory, and a query waits for the run that is under way.
    pub batch_tokens: usize,
    /// Most rows in one run. Default 8: short rows gain a fifth by then and nothing more after.
    pub batch_rows: usize,
    /// Query embeddings kept in memory. Default 4,096: 6 MB at 384 dimensions.
    pub query_cache_entries: usize,
    pub rescorer: RescorerSettings,
}

/// One more embedder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlsoEmbedder {
    /// Its name in the manifest.
    pub name: String,
    /// Default: `inference.precision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
}

impl InferenceSettings {
    /// Every embedder that is to run, by name and precision; the first is for new collections.
    pub fn embedders(&self) -> Vec<(&str, Precision)> {
        let also = self.also.iter().map(|also| (also.name.as_str(), also.precision.unwrap_or(self.precision)));
        [(self.embedder.as_str(), self.precision)].into_iter().chain(also).collect()
    }

    /// A sentence for each value that cannot be.
    pub fn problems(&self) -> Vec<String> {
        let all = self.embedders();
        let twice = all.iter().enumerate().filter(|(index, one)| all[..*index].contains(one));
        let mut problems: Vec<String> =
            twice.map(|(_, (name, precision))| format!("also names {name} in {} twice", precision.as_str())).collect();
        if !(0.0..=1.0).contains(&self.cross_encoder_share) {
            problems.push(format!("cross_encoder_share is {}, from 0 to 1 are possible", self.cross_encoder_share));
        }
        if self.cross_encoder_places == 0 {
            problems.push("cross_encoder_places is 0, at least 1 is possible".to_owned());
        }
        let names = &self.cross_encoders;
        let again = names.iter().enumerate().filter(|(index, name)| names[..*index].contains(name));
        problems.extend(again.map(|(_, name)| format!("cross_encoders names {name} twice")));
        problems
    }
}

/// Weights of the rescorer's signals; each is z-normalised over the candidates before it is weighted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RescorerSettings {
    /// Weight of the learned sparse product. Default 1.
    pub sparse_weight: f32,
    /// Weight of the cosine between query and passage embedding. Default 1: with equal weights the sum beat each
    /// signal alone on TREC DL 2019 and 2020.
    pub cosine_weight: f32,
    /// Weight of MaxSim over the embedder's token vectors (Khattab and Zaharia, SIGIR 2020). Default 0: it gained
    /// nothing on average and costs a run of the embedder for each passage not seen before.
    pub max_sim_weight: f32,
}

impl Default for InferenceSettings {
    fn default() -> Self {
        Self {
            embedder: "all-minilm-l6-v2".to_owned(),
            also: Vec::new(),
            reranker: Some("splade-tiny-msmarco".to_owned()),
            cross_encoders: vec!["plumb-reranker-l6".to_owned(), "plumb-reranker-l3".to_owned()],
            cross_encoder_share: 0.3,
            cross_encoder_places: 10,
            precision: Precision::Int8,
            embedder_threads: 2,
            intra_threads: 1,
            queue_tokens: 131_072,
            batch_tokens: 256,
            batch_rows: 8,
            query_cache_entries: 4_096,
            rescorer: RescorerSettings::default(),
        }
    }
}

impl Default for RescorerSettings {
    fn default() -> Self {
        Self { sparse_weight: 1.0, cosine_weight: 1.0, max_sim_weight: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rerankers_are_named_once_and_shares_are_shares() {
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let settings = InferenceSettings {
            cross_encoders: named(&["b", "a", "b"]),
            cross_encoder_share: f32::NAN,
            cross_encoder_places: 0,
            ..InferenceSettings::default()
        };

        let told = [
            "cross_encoder_share is NaN, from 0 to 1 are possible",
            "cross_encoder_places is 0, at least 1 is possible",
            "cross_encoders names b twice",
        ];
        assert_eq!(settings.problems(), told);
    }

    #[test]
    fn one_model_in_two_precisions_is_two_embedders_and_in_one_is_a_mistake() {
        let also = |precision| AlsoEmbedder { name: "all-minilm-l6-v2".to_owned(), precision };
        let with = |also| InferenceSettings { also, ..InferenceSettings::default() };

        assert_eq!(with(vec![also(Some(Precision::Fp32))]).problems(), Vec::<String>::new());
        assert_eq!(with(vec![also(None)]).problems(), ["also names all-minilm-l6-v2 in int8 twice"]);
    }
}
