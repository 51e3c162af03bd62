//! Settings: compiled-in defaults, then a TOML file, then `PLUMB_SECTION__KEY` variables; later ones win.
//!
//! The only reader of the environment. Unknown keys are refused with their path, so a typo never goes unnoticed, and
//! relations between settings are checked before anything starts.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use crate::answer::AnswerSettings;
use crate::cache::CacheSettings;
use crate::eval::ReportSettings;
use crate::gateway::GatewaySettings;
use crate::http::{AuthSettings, HttpSettings};
use crate::index::{LexicalSettings, VectorSettings};
use crate::inference::{InferenceSettings, ModelsSettings, default_models_dir};
use crate::ingest::{GenerationSettings, IndexerSettings, IngestSettings};
use crate::jobs::JobSettings;
use crate::parse::ParseSettings;
use crate::search::SearchSettings;
use crate::store::StoreSettings;
use crate::tasks::TaskSettings;
use crate::telemetry::{TelemetrySettings, TraceSettings};
use crate::text::ChunkingSettings;

/// Variables that begin with `PLUMB_` and are no settings of a section.
const OTHER_VARIABLES: [&str; 8] = [
    "PLUMB_BENCH_PASSAGES",
    "PLUMB_CONFIG",
    "PLUMB_CORPORA",
    "PLUMB_EVALS_ACCEPT",
    "PLUMB_EVALS_ALL",
    "PLUMB_EVALS_TUNE",
    "PLUMB_KILL_SWITCH",
    "PLUMB_MODELS_DIR",
];

/// Every setting of the process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub server: ServerSettings,
    pub compute: ComputeSettings,
    pub log: TelemetrySettings,
    pub trace: TraceSettings,
    pub auth: AuthSettings,
    pub http: HttpSettings,
    pub models: ModelsSettings,
    pub inference: InferenceSettings,
    pub store: StoreSettings,
    pub cache: CacheSettings,
    pub index: IndexSettings,
    pub parse: ParseSettings,
    pub chunking: ChunkingSettings,
    pub ingest: IngestSettings,
    pub generations: GenerationSettings,
    pub search: SearchSettings,
    pub gateway: GatewaySettings,
    pub answer: AnswerSettings,
    pub tasks: TaskSettings,
    pub jobs: JobSettings,
    pub eval: ReportSettings,
    pub client: ClientSettings,
    /// The file that these were read from.
    #[serde(skip)]
    file: Option<PathBuf>,
}

/// Where the server listens and keeps its files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Address of the HTTP server. Default `127.0.0.1:7700`: reachable from this machine only; any other address
    /// needs a key under `auth.keys`.
    pub listen: SocketAddr,
    /// Folder of database, indexes and caches. Default `plumb-data` in the working directory.
    pub data_dir: PathBuf,
}

/// The pool for scans, parsing and chunking.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComputeSettings {
    /// Threads. Default 0: one for each core, at least two, so that both legs of a search run side by side.
    pub threads: usize,
    /// Pieces of work that may wait or run. Default 1,024: a second of searches; beyond it callers get 503.
    pub queue: usize,
}

/// The indexes of every collection, and how they follow the truth.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexSettings {
    /// Language of new collections: an ISO 639-1 code, or `auto` for detection by document. Default `auto`: English
    /// text is stemmed as English either way, and no other language is left out.
    pub language: String,
    pub lexical: LexicalSettings,
    pub vector: VectorSettings,
    pub follow: IndexerSettings,
}

/// How commands talk to a running server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientSettings {
    /// Key sent by `ingest`, `search` and `answer` when they talk to a server. Default none: a server on loopback
    /// without keys asks for none.
    #[serde(serialize_with = "masked", skip_serializing_if = "Option::is_none")]
    pub key: Option<SecretString>,
}

impl ClientSettings {
    /// The key in the clear, for the one header that carries it.
    pub fn key(&self) -> Option<String> {
        self.key.as_ref().map(|key| key.expose_secret().to_owned())
    }
}

impl Default for IndexSettings {
    fn default() -> Self {
        Self {
            language: "auto".to_owned(),
            lexical: LexicalSettings::default(),
            vector: VectorSettings::default(),
            follow: IndexerSettings::default(),
        }
    }
}

fn masked<S: Serializer>(_: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("***")
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7700)), data_dir: PathBuf::from("plumb-data") }
    }
}

impl Default for ComputeSettings {
    fn default() -> Self {
        Self { threads: 0, queue: 1024 }
    }
}

impl ComputeSettings {
    /// The number of threads in force.
    pub fn resolved_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2),
            threads => threads,
        }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the settings file {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the settings are not valid: {detail}")]
    Invalid { detail: String },
    #[error("{variable} is not a setting; settings are named PLUMB_SECTION__KEY, for example PLUMB_SERVER__LISTEN")]
    UnknownVariable { variable: String },
    #[error("{} settings are not acceptable:\n{}", .0.len(), .0.join("\n"))]
    Unacceptable(Vec<String>),
}

impl Config {
    /// Merges defaults, the file and the process's environment, and checks the result.
    #[expect(clippy::disallowed_methods, reason = "this file is the reader of the environment")]
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::merge(file, std::env::vars().collect())
    }

    /// The settings as shipped, with the models that this machine has: for test and bench targets, which must not
    /// depend on what else is set.
    #[expect(clippy::disallowed_methods, reason = "this file is the reader of the environment")]
    pub fn for_tests() -> Result<Self, ConfigError> {
        let places = ["PLUMB_MODELS_DIR", "XDG_CACHE_HOME", "HOME"];
        let set = |name: &str| std::env::var(name).ok().map(|value| (name.to_owned(), value));
        Self::merge(None, places.into_iter().filter_map(set).collect())
    }

    /// Merges defaults, the file and these variables, and checks the result.
    pub fn merge(file: Option<&Path>, environment: BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut sources = config::Config::builder();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
            sources = sources.add_source(config::File::from_str(&text, config::FileFormat::Toml));
        }
        let (lists, plain): (HashMap<_, _>, HashMap<_, _>) =
            setting_variables(&environment)?.into_iter().partition(|(_, value)| value.trim_start().starts_with('['));
        let variables = config::Environment::with_prefix("PLUMB")
            .prefix_separator("_")
            .separator("__")
            .try_parsing(true)
            .source(Some(plain));
        sources = sources.add_source(variables);
        for (variable, list) in lists {
            let key = variable.trim_start_matches("PLUMB_").to_ascii_lowercase().replace("__", ".");
            sources = sources.add_source(config::File::from_str(&format!("{key} = {list}"), config::FileFormat::Toml));
        }
        let merged = sources.build().map_err(invalid)?;
        let mut settings: Self = serde_path_to_error::deserialize(merged)
            .map_err(|error| ConfigError::Invalid { detail: with_path(&error) })?;
        settings.file = file.map(Path::to_owned);
        settings.gateway.kill_switch |= kill_switch(&environment)?;
        settings.resolve_models_dir(&environment);
        settings.check()?;
        Ok(settings)
    }

    /// The file that these settings were read from, if one was.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The settings in force as TOML, secrets masked.
    pub fn show(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
    }

    fn resolve_models_dir(&mut self, environment: &BTreeMap<String, String>) {
        let set = |name: &str| environment.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(dir) = set("PLUMB_MODELS_DIR") {
            self.models.dir = Some(dir);
        }
        if self.models.dir.is_none() {
            self.models.dir = default_models_dir(set("XDG_CACHE_HOME").as_deref(), set("HOME").as_deref());
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        problems.extend(self.gateway.problems().into_iter().map(|problem| format!("gateway: {problem}")));
        problems.extend(self.trace.problems().into_iter().map(|problem| format!("trace: {problem}")));
        if self.models.dir.is_none() {
            problems.push("models.dir: neither it nor PLUMB_MODELS_DIR, XDG_CACHE_HOME or HOME is set".to_owned());
        }
        if let Err(error) = self.index.vector.check() {
            problems.push(format!("index.vector: {error}"));
        }
        if let Err(error) = self.chunking.check() {
            problems.push(format!("chunking: {error}"));
        }
        problems.extend(self.inference.problems().into_iter().map(|problem| format!("inference: {problem}")));
        let of_rerank = self.search.rerank.problems();
        problems.extend(of_rerank.into_iter().map(|problem| format!("search.rerank: {problem}")));
        problems.extend(self.generations.problems().into_iter().map(|problem| format!("generations: {problem}")));
        problems.extend(self.answer.problems().into_iter().map(|problem| format!("answer: {problem}")));
        problems.extend(self.tasks.problems().into_iter().map(|problem| format!("tasks: {problem}")));
        let of_jobs = self.jobs.problems(self.tasks.max_items);
        problems.extend(of_jobs.into_iter().map(|problem| format!("jobs: {problem}")));
        if self.compute.queue == 0 {
            problems.push("compute.queue must be above 0".to_owned());
        }
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Unacceptable(problems)) }
    }
}

/// The short name of `gateway.kill_switch`, for hands that shake.
fn kill_switch(environment: &BTreeMap<String, String>) -> Result<bool, ConfigError> {
    match environment.get("PLUMB_KILL_SWITCH").map(String::as_str) {
        None | Some("" | "0" | "false") => Ok(false),
        Some("1" | "true") => Ok(true),
        Some(other) => Err(ConfigError::Invalid { detail: format!("PLUMB_KILL_SWITCH is {other:?}, not 1 or 0") }),
    }
}

/// The variables that set something; any other one with our prefix is most likely a typo.
fn setting_variables(environment: &BTreeMap<String, String>) -> Result<HashMap<String, String>, ConfigError> {
    let mut settings = HashMap::new();
    for (variable, value) in environment {
        let Some(rest) = variable.strip_prefix("PLUMB_") else { continue };
        if rest.contains("__") {
            settings.insert(variable.clone(), value.clone());
        } else if !OTHER_VARIABLES.contains(&variable.as_str()) {
            return Err(ConfigError::UnknownVariable { variable: variable.clone() });
        }
    }
    Ok(settings)
}

fn invalid(error: config::ConfigError) -> ConfigError {
    ConfigError::Invalid { detail: error.to_string() }
}

fn with_path(error: &serde_path_to_error::Error<config::ConfigError>) -> String {
    let path = error.path().to_string();
    let detail = error.inner().to_string();
    if path == "." || detail.contains(&path) { detail } else { format!("{path}: {detail}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let home = [("HOME", "/home/ann")];
        home.iter().chain(pairs).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn variables_win_over_the_file_and_the_file_over_defaults() {
        let file = file("[search]\ntop_k = 7\ncandidate_depth = 50\n");
        let variables = environment(&[("PLUMB_SEARCH__TOP_K", "9"), ("PLUMB_SERVER__LISTEN", "127.0.0.1:9")]);

        let config = Config::merge(Some(file.path()), variables).unwrap();

        assert_eq!((config.search.top_k, config.search.candidate_depth), (9, 50));
        assert_eq!(config.server.listen.port(), 9);
        assert_eq!(config.models.dir, Some(PathBuf::from("/home/ann/.cache/plumb/models")));
    }

    #[test]
    fn a_list_is_given_in_a_variable_as_in_the_file() {
        let variables = environment(&[("PLUMB_HTTP__ALLOWED_HOSTS", r#"["a.example", "b.example"]"#)]);
        assert_eq!(Config::merge(None, variables).unwrap().http.allowed_hosts, ["a.example", "b.example"]);

        let broken = environment(&[("PLUMB_HTTP__ALLOWED_HOSTS", "[\"a.example")]);
        assert!(matches!(Config::merge(None, broken), Err(ConfigError::Invalid { .. })));
    }

    #[test]
    fn a_typo_is_refused_with_its_path() {
        let misspelt = file("[search]\ntopk = 7\n");
        let wrong_type = file("[search]\ntop_k = \"many\"\n");

        let error = Config::merge(Some(misspelt.path()), environment(&[])).unwrap_err().to_string();
        assert!(error.contains("topk"), "{error}");
        let error = Config::merge(Some(wrong_type.path()), environment(&[])).unwrap_err().to_string();
        assert!(error.contains("search.top_k"), "{error}");
        let error = Config::merge(None, environment(&[("PLUMB_LISTEN", "x")])).unwrap_err().to_string();
        assert!(error.contains("PLUMB_LISTEN is not a setting"), "{error}");
    }

    #[test]
    fn what_is_shown_can_be_read_back_and_hides_secrets() {
        let variables = environment(&[
            ("PLUMB_GATEWAY__PROVIDERS__LOCAL__API_KEY", "sk-very-secret"),
            ("PLUMB_GATEWAY__MODELS__MAIN__PROVIDER", "local"),
            ("PLUMB_GATEWAY__MODELS__MAIN__MODEL", "m"),
            ("PLUMB_GATEWAY__UNKNOWN_PRICE", "free"),
        ]);
        let shown = Config::merge(None, variables).unwrap().show();

        assert!(!shown.contains("sk-very-secret"), "{shown}");
        let reread = Config::merge(Some(file(&shown).path()), environment(&[])).unwrap();
        assert_eq!(reread.gateway.models["main"].model, "m");
    }
}
