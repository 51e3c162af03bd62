//! Settings of the vector index.

use serde::{Deserialize, Serialize};

use crate::index::IndexError;

/// The library that builds and walks graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// Graphs over int8 codes in files that are mapped: small, and there at once after a restart.
    #[default]
    Usearch,
    /// Pure Rust. Graphs live in memory only (its files cannot be read back safely) and are built anew after a
    /// restart; until then the segment is scanned.
    HnswRs,
}

/// How vectors are kept and searched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VectorSettings {
    /// Which library builds graphs. Default `usearch`: less memory, less CPU a query (`benches/vector.rs`).
    pub engine: Engine,
    /// Vectors in an index up to which there is no graph, only exact scans. Default 150,000: among 100,000 embedded
    /// passages the best hundred take a scan 1.5 ms of CPU with recall 1 and a graph walk 1.5 ms with recall .97, and a
    /// scan has no upkeep (`benches/vector.rs`). Where beyond 100,000 the walk wins has not been measured.
    pub exact_threshold: usize,
    /// Links a node has on each layer above the lowest, which has twice as many (HNSW paper, `M`). Default 16: the
    /// paper's middle.
    pub m: usize,
    /// Candidates considered when a node is linked (HNSW paper, `efConstruction`). Default 128: more costs build
    /// time and wins no recall after rescoring.
    pub ef_construction: usize,
    /// Candidates kept while a graph is walked (HNSW paper, `ef`); at least `rescore_factor` times the depth is
    /// used. Default 400, what four times the usual depth of 100 comes to: with 64, the best ten of 100,000 passages have
    /// recall .91. What 400 reaches there has not been measured.
    pub ef_search: usize,
    /// How many times the depth is fetched from a graph, to be scored again from the f16 vectors. Default 4: among
    /// 100,000 embedded passages of documentation the recall of the best hundred is .862 with 1, .934 with 2 and .970
    /// with 4 (`benches/vector.rs`, `--file`; clumps of random vectors are easier).
    pub rescore_factor: usize,
    /// Vectors kept in memory before they are written to a segment even without a flush. Default 16,384: about
    /// 20 MB at 384 dimensions.
    pub seal_rows: usize,
    /// How many segments of about one size there may be before they are merged into one. Default 8: a vector is
    /// copied once for each factor of 8 it is outnumbered by.
    pub merge_factor: usize,
    /// Percentage of the graph's size that segments without a graph may reach before they are added to it. Default
    /// 10: the scan of that tenth costs less than the walk.
    pub graph_growth_percent: u8,
    /// Percentage of removed vectors at which a segment is written anew without them. Default 30.
    pub dead_percent: u8,
    /// Threads that build a graph; 0 means one for each core. Default 0: they run at low priority.
    pub build_threads: usize,
}

impl Default for VectorSettings {
    fn default() -> Self {
        Self {
            engine: Engine::Usearch,
            exact_threshold: 150_000,
            m: 16,
            ef_construction: 128,
            ef_search: 400,
            rescore_factor: 4,
            seal_rows: 16_384,
            merge_factor: 8,
            graph_growth_percent: 10,
            dead_percent: 30,
            build_threads: 0,
        }
    }
}

impl VectorSettings {
    /// Refuses what the engines would not survive: hnsw_rs ends the process over `m` above 256.
    pub fn check(&self) -> Result<(), IndexError> {
        let limits = [
            ("m", self.m, 2, 128),
            ("ef_construction", self.ef_construction, 8, 4_096),
            ("ef_search", self.ef_search, 1, 4_096),
            ("rescore_factor", self.rescore_factor, 1, 64),
            ("seal_rows", self.seal_rows, 1, 1 << 24),
            ("merge_factor", self.merge_factor, 2, 64),
            ("graph_growth_percent", self.graph_growth_percent.into(), 1, 100),
            ("dead_percent", self.dead_percent.into(), 1, 100),
            ("build_threads", self.build_threads, 0, 1_024),
        ];
        for (name, value, least, most) in limits {
            if !(least..=most).contains(&value) {
                return Err(IndexError::Engine { detail: format!("{name} is {value}, must be {least} to {most}") });
            }
        }
        Ok(())
    }

    /// Threads to build a graph with; at least 1.
    pub(super) fn build_threads(&self) -> usize {
        match self.build_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_and_nonsense_does_not() {
        assert!(VectorSettings::default().check().is_ok());
        assert!(VectorSettings { m: 300, ..Default::default() }.check().is_err());
        assert!(VectorSettings { merge_factor: 1, ..Default::default() }.check().is_err());
        assert!(toml::from_str::<VectorSettings>("engine = \"hnsw_rs\"\nm = 8").is_ok());
        assert!(toml::from_str::<VectorSettings>("links = 8").is_err());
    }
}
