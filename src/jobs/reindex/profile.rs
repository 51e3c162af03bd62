//! A profile as a person writes it: what differs from the live one, by name.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::domain::{AnalyzerSpec, ChunkerSpec, ContextSpec, EmbedderSpec, Profile};
use crate::gateway::{Gateway, PromptBook};
use crate::inference::{Embedder, Embedders};
use crate::ingest::CALLER_REVISION;
use crate::jobs::contexts::{PROMPT, TASK};
use crate::jobs::input::{Faults, read_value};
use crate::text::{ChunkingSettings, ChunkingStrategy, chunker_spec, chunking_of};

/// What differs from the live profile; what is left out is as it is there.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileRequest {
    chunker: Option<ChunkerRequest>,
    /// A name, a name with a precision or revision, or `null` for no vectors.
    #[serde(deserialize_with = "present")]
    embedder: Option<Value>,
    analyzer: Option<AnalyzerRequest>,
    /// `none`, `headings`, or an object for one that a model writes.
    context: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ChunkerRequest {
    strategy: Option<ChunkingStrategy>,
    target_tokens: Option<usize>,
    max_tokens: Option<usize>,
    min_tokens: Option<usize>,
    overlap_tokens: Option<usize>,
    window_sentences: Option<usize>,
    overlap_sentences: Option<usize>,
    /// The way of counting tokens.
    counter: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EmbedderRequest {
    name: String,
    precision: Option<String>,
    revision: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AnalyzerRequest {
    language: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ContextRequest {
    /// Name of the prompt, or `name@version`.
    prompt: Option<String>,
    /// `context` for the models of that task's route, or one model that it may name.
    route: Option<String>,
}

/// What a profile can be made of here.
pub struct Offer<'a> {
    pub live: &'a Profile,
    /// The one of new collections: its analyzer is this program's.
    pub newest: &'a Profile,
    pub embedders: &'a Embedders,
    /// Names of the ways of counting tokens.
    pub counters: Vec<&'a str>,
    pub prompts: &'a PromptBook,
    pub gateway: &'a Gateway,
}

impl ProfileRequest {
    /// The whole profile; what it says is only meaningful without faults.
    pub fn complete(self, offer: &Offer<'_>, faults: &mut Faults) -> Profile {
        let embedder = offer.embedder(self.embedder, faults);
        let chunker = offer.chunker(self.chunker, embedder.as_ref(), faults);
        let analyzer = match self.analyzer.and_then(|analyzer| analyzer.language) {
            None => offer.live.analyzer.clone(),
            Some(language) => {
                if language != "auto" && !(language.len() == 2 && language.bytes().all(|b| b.is_ascii_lowercase())) {
                    let detail = format!("is {language:?}, an ISO 639-1 code such as \"en\" or \"auto\" is allowed");
                    faults.add("/profile/analyzer/language", detail);
                }
                AnalyzerSpec { language, ..offer.newest.analyzer.clone() }
            }
        };
        let context = match self.context {
            None => offer.live.context.clone(),
            Some(asked) => offer.context(asked, faults),
        };
        Profile { chunker, embedder, analyzer, context }
    }
}

impl Offer<'_> {
    fn embedder(&self, asked: Option<Value>, faults: &mut Faults) -> Option<EmbedderSpec> {
        const AT: &str = "/profile/embedder";
        let asked = match asked {
            None => return self.live_embedder(faults),
            Some(Value::Null) => return None,
            Some(Value::String(name)) => EmbedderRequest { name, ..EmbedderRequest::default() },
            Some(object @ Value::Object(_)) => read_value(object, AT, faults)?,
            Some(_) => {
                faults.add(AT, "must be a name, an object with a name, or null");
                return None;
            }
        };
        let fits = |spec: &EmbedderSpec| {
            let is_precision = |precision: &String| spec.revision.split('+').any(|part| part == precision);
            spec.name == asked.name
                && asked.precision.as_ref().is_none_or(is_precision)
                && asked.revision.as_ref().is_none_or(|revision| *revision == spec.revision)
        };
        let found = self.embedders.iter().map(|embedder| embedder.spec()).find(|spec| fits(spec));
        if found.is_none() {
            faults.add(AT, format!("is not at hand; {}", self.embedders_at_hand()));
        }
        found.cloned()
    }

    fn live_embedder(&self, faults: &mut Faults) -> Option<EmbedderSpec> {
        let spec = self.live.embedder.clone()?;
        if spec.revision == CALLER_REVISION {
            let detail =
                "must be given: the collection's vectors are the caller's, and only the caller can make others";
            faults.add("/profile/embedder", detail);
        } else if self.embedders.of(&spec).is_none() {
            let detail =
                format!("{}, the collection's own, is not at hand; {}", full_name(&spec), self.embedders_at_hand());
            faults.add("/profile/embedder", detail);
        }
        Some(spec)
    }

    fn embedders_at_hand(&self) -> String {
        let names: Vec<String> = self.embedders.iter().map(|embedder| full_name(embedder.spec())).collect();
        let names = if names.is_empty() { "no model".to_owned() } else { names.join(", ") };
        format!("here are {names} (settings inference.embedder and inference.also), or null for none")
    }

    fn chunker(
        &self,
        asked: Option<ChunkerRequest>,
        embedder: Option<&EmbedderSpec>,
        faults: &mut Faults,
    ) -> ChunkerSpec {
        const AT: &str = "/profile/chunker";
        let live = &self.live.chunker;
        let counter = match asked.as_ref().and_then(|asked| asked.counter.clone()) {
            Some(counter) => counter,
            None => live.params.get("counter").cloned().unwrap_or_default(),
        };
        if !self.counters.contains(&counter.as_str()) {
            faults.add(format!("{AT}/counter"), format!("is {counter:?}, here are {}", self.counters.join(", ")));
        }
        let Some(asked) = asked else { return live.clone() };
        // Numbers of another strategy mean something else.
        let of_live = chunking_of(live).filter(|live| asked.strategy.is_none_or(|strategy| strategy == live.strategy));
        let base = of_live.unwrap_or_default();
        let settings = ChunkingSettings {
            strategy: asked.strategy.unwrap_or(base.strategy),
            target_tokens: asked.target_tokens.unwrap_or(base.target_tokens),
            max_tokens: asked.max_tokens.unwrap_or(base.max_tokens),
            min_tokens: asked.min_tokens.unwrap_or(base.min_tokens),
            overlap_tokens: asked.overlap_tokens.unwrap_or(base.overlap_tokens),
            window_sentences: asked.window_sentences.unwrap_or(base.window_sentences),
            overlap_sentences: asked.overlap_sentences.unwrap_or(base.overlap_sentences),
        };
        if let Err(invalid) = settings.check() {
            faults.add(AT, invalid.to_string());
        }
        let reads = embedder.and_then(|spec| self.embedders.of(spec)).map(|embedder| Embedder::max_tokens(&**embedder));
        if let Some(reads) = reads.filter(|reads| settings.max_tokens > *reads) {
            let detail = format!("is {}, the embedder reads no more than {reads}", settings.max_tokens);
            faults.add(format!("{AT}/max_tokens"), detail);
        }
        chunker_spec(&settings, &counter)
    }

    fn context(&self, asked: Value, faults: &mut Faults) -> ContextSpec {
        const AT: &str = "/profile/context";
        match asked {
            Value::String(word) if word == "none" => ContextSpec::None,
            Value::String(word) if word == "headings" => ContextSpec::Headings,
            object @ Value::Object(_) => match read_value(object, AT, faults) {
                Some(asked) => self.written(asked, faults),
                None => ContextSpec::Headings,
            },
            _ => {
                faults.add(AT, "must be \"none\", \"headings\" or an object with prompt and route");
                ContextSpec::Headings
            }
        }
    }

    fn written(&self, asked: ContextRequest, faults: &mut Faults) -> ContextSpec {
        let ContextRequest { prompt, route } = asked;
        let prompt = prompt.unwrap_or_else(|| PROMPT.to_owned());
        let (name, pinned) = match prompt.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (prompt.as_str(), None),
        };
        let versions: Vec<&str> =
            self.prompts.versions(name).iter().map(|edition| edition.template.version.version.as_str()).collect();
        let version = match pinned {
            None => versions.last().copied(),
            Some(pinned) => versions.iter().copied().find(|version| *version == pinned),
        };
        let is_about_chunks = self
            .prompts
            .versions(name)
            .iter()
            .all(|edition| edition.template.variables.iter().any(|variable| variable == "chunk"));
        if version.is_none() || !is_about_chunks {
            let known = self.prompts.versions(PROMPT).iter().map(|edition| &edition.template.version.version);
            let known: Vec<String> = known.map(|version| format!("{PROMPT}@{version}")).collect();
            faults.add("/profile/context/prompt", format!("is {prompt:?}, here are {}", known.join(", ")));
        }
        let route = route.unwrap_or_else(|| TASK.to_owned());
        if route != TASK && !self.gateway.allows(TASK, &route) {
            let detail = format!("is {route:?}, neither {TASK:?} nor a model that calls of that task may name");
            faults.add("/profile/context/route", detail);
        }
        if !self.gateway.is_configured() {
            faults
                .add("/profile/context", "asks a language model to write, and none is configured (gateway.providers)");
        }
        ContextSpec::Written { prompt: name.to_owned(), version: version.unwrap_or_default().to_owned(), route }
    }
}

fn full_name(spec: &EmbedderSpec) -> String {
    format!("{}@{}", spec.name, spec.revision)
}

/// Tells `null` from nothing.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
