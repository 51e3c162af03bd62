//! From what a caller says to a complete [`Query`]: defaults are filled in, limits are checked.
//!
//! Every fault is reported at once, each with the JSON pointer of its place in the request.

use serde_json::Value;

use crate::domain::{CollectionName, Context, Filter, Fusion, FusionMethod, GroupBy, Mode, Query, Rerank, Sequence};

use super::SearchSettings;

/// The collection of a request that names none.
pub const DEFAULT_COLLECTION: &str = "default";

/// What a caller may say about a search; everything left out is the server's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueryOverrides {
    pub collection: Option<CollectionName>,
    pub vector: Option<Vec<f32>>,
    pub mode: Option<Mode>,
    pub top_k: Option<usize>,
    /// The caller's JSON, as [`Filter::parse`] reads it.
    pub filter: Option<Value>,
    pub candidate_depth: Option<usize>,
    pub fusion_method: Option<FusionMethod>,
    pub rrf_k: Option<u32>,
    pub lexical_weight: Option<f64>,
    pub vector_weight: Option<f64>,
    pub rerank_enabled: Option<bool>,
    pub rerank_depth: Option<usize>,
    /// Name of a reranker.
    pub rerank_model: Option<String>,
    pub group_by: Option<GroupBy>,
    pub context: Option<Context>,
    pub deadline_ms: Option<u64>,
    pub min_sequence: Option<Sequence>,
    pub exact: Option<bool>,
    pub explain: Option<bool>,
}

/// A fault in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the search request, for example `/fusion/weights/lexical`.
    pub pointer: String,
    /// What is wrong and what is allowed.
    pub detail: String,
}

/// A request that cannot become a [`Query`], with every reason at once; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the search request has {} invalid fields, the first is {}: {}", .0.len(), .0[0].pointer, .0[0].detail)]
pub struct InvalidQuery(pub Vec<FieldError>);

/// Fills in defaults and checks limits.
#[derive(Debug, Clone)]
pub struct SearchDefaults {
    settings: SearchSettings,
    collection: CollectionName,
}

impl SearchDefaults {
    pub fn new(settings: SearchSettings) -> Self {
        let collection = CollectionName::new(DEFAULT_COLLECTION).expect("a plain word is a valid name");
        Self { settings, collection }
    }

    /// The limits in force, for showing them.
    pub fn settings(&self) -> &SearchSettings {
        &self.settings
    }

    /// A complete query. `text` may be left out where a vector is given; then the mode defaults to vector.
    /// A candidate depth below `top_k` is raised to it.
    pub fn query(&self, text: Option<String>, overrides: QueryOverrides) -> Result<Query, InvalidQuery> {
        let mut faults = Faults::default();
        let text = text.unwrap_or_default();
        let mode = self.mode(&text, &overrides, &mut faults);
        self.check_text(&text, &overrides, &mut faults);
        check_vector(overrides.vector.as_deref(), self.settings.limits.max_vector_dimensions, &mut faults);
        let (top_k, candidate_depth) = self.depths(&overrides, &mut faults);
        let fusion = self.fusion(&overrides, &mut faults);
        let rerank = self.rerank(&overrides, &mut faults);
        let context = self.context(&overrides, &mut faults);
        self.check_deadline(overrides.deadline_ms, &mut faults);
        let filter = overrides.filter.as_ref().and_then(|json| faults.parse_filter(json));
        if !faults.0.is_empty() {
            return Err(InvalidQuery(faults.0));
        }
        Ok(Query {
            collection: overrides.collection.unwrap_or_else(|| self.collection.clone()),
            text,
            vector: overrides.vector,
            mode,
            top_k,
            filter,
            candidate_depth,
            fusion,
            rerank,
            group_by: overrides.group_by,
            context,
            deadline_ms: overrides.deadline_ms,
            min_sequence: overrides.min_sequence,
            exact: overrides.exact.unwrap_or(false),
            explain: overrides.explain.unwrap_or(false),
        })
    }

    fn mode(&self, text: &str, overrides: &QueryOverrides, faults: &mut Faults) -> Mode {
        let only_vector = text.trim().is_empty() && overrides.vector.is_some();
        match overrides.mode {
            Some(Mode::Lexical | Mode::Hybrid) if only_vector => {
                faults.add("/mode", "without a query text only \"vector\" is possible");
                Mode::Vector
            }
            Some(mode) => mode,
            None if only_vector => Mode::Vector,
            None => self.settings.mode,
        }
    }

    fn check_text(&self, text: &str, overrides: &QueryOverrides, faults: &mut Faults) {
        let limit = self.settings.limits.max_query_bytes;
        if text.len() > limit {
            faults.add("/query", format!("is {} bytes long, at most {limit} are allowed", text.len()));
        }
        if text.trim().is_empty() && overrides.vector.is_none() {
            faults.add("/query", "must not be empty unless a vector is given");
        }
    }

    fn depths(&self, overrides: &QueryOverrides, faults: &mut Faults) -> (usize, usize) {
        let limits = &self.settings.limits;
        let top_k = overrides.top_k.unwrap_or(self.settings.top_k);
        faults.check_range("/top_k", top_k, limits.max_top_k);
        let depth = overrides.candidate_depth.unwrap_or(self.settings.candidate_depth);
        faults.check_range("/candidate_depth", depth, limits.max_candidate_depth);
        (top_k, depth.max(top_k))
    }

    fn fusion(&self, overrides: &QueryOverrides, faults: &mut Faults) -> Fusion {
        let defaults = &self.settings.fusion;
        let fusion = Fusion {
            method: overrides.fusion_method.unwrap_or(defaults.method),
            rrf_k: overrides.rrf_k.unwrap_or(defaults.rrf_k),
            lexical_weight: overrides.lexical_weight.unwrap_or(defaults.lexical_weight),
            vector_weight: overrides.vector_weight.unwrap_or(defaults.vector_weight),
        };
        if fusion.rrf_k == 0 {
            faults.add("/fusion/rrf_k", "must be at least 1");
        }
        let usable = |weight: f64| weight.is_finite() && weight >= 0.0;
        for (pointer, weight) in
            [("/fusion/weights/lexical", fusion.lexical_weight), ("/fusion/weights/vector", fusion.vector_weight)]
        {
            if !usable(weight) {
                faults.add(pointer, "must be a finite number, 0 or more");
            }
        }
        let total = fusion.lexical_weight + fusion.vector_weight;
        if usable(fusion.lexical_weight) && usable(fusion.vector_weight) && !(total > 0.0 && total.is_finite()) {
            faults.add("/fusion/weights", "at least one weight must be above 0, and their sum finite");
        }
        fusion
    }

    fn rerank(&self, overrides: &QueryOverrides, faults: &mut Faults) -> Rerank {
        let depth = overrides.rerank_depth.unwrap_or(self.settings.rerank.depth);
        faults.check_range("/rerank/depth", depth, self.settings.limits.max_rerank_depth);
        let enabled = overrides.rerank_enabled.unwrap_or(self.settings.rerank.enabled);
        Rerank { enabled, depth, model: overrides.rerank_model.clone() }
    }

    fn context(&self, overrides: &QueryOverrides, faults: &mut Faults) -> Context {
        let context = overrides.context.unwrap_or_default();
        let limit = self.settings.limits.max_context;
        for (pointer, count) in [("/context/before", context.before), ("/context/after", context.after)] {
            if count > limit {
                faults.add(pointer, format!("is {count}, at most {limit} neighbours are allowed"));
            }
        }
        context
    }

    fn check_deadline(&self, deadline_ms: Option<u64>, faults: &mut Faults) {
        let limit = self.settings.limits.max_deadline_ms;
        if let Some(deadline_ms) = deadline_ms.filter(|deadline_ms| *deadline_ms > limit) {
            faults.add("/deadline_ms", format!("is {deadline_ms}, at most {limit} are allowed"));
        }
    }
}

fn check_vector(vector: Option<&[f32]>, limit: usize, faults: &mut Faults) {
    let Some(vector) = vector else { return };
    if vector.is_empty() || vector.len() > limit {
        faults.add("/vector", format!("has {} dimensions, from 1 to {limit} are allowed", vector.len()));
    } else if !is_direction(vector) {
        faults.add("/vector", "must hold finite numbers, not all of them 0");
    }
}

/// True if a vector points anywhere: finite numbers, not all of them 0.
pub(super) fn is_direction(vector: &[f32]) -> bool {
    vector.iter().all(|value| value.is_finite()) && vector.iter().any(|value| *value != 0.0)
}

#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError { pointer: pointer.into(), detail: detail.into() });
    }

    fn check_range(&mut self, pointer: &str, value: usize, limit: usize) {
        if value == 0 || value > limit {
            self.add(pointer, format!("is {value}, from 1 to {limit} are allowed"));
        }
    }

    fn parse_filter(&mut self, json: &Value) -> Option<Filter> {
        match Filter::parse(json) {
            Ok(filter) => Some(filter),
            Err(invalid) => {
                self.add(format!("/filter{}", invalid.pointer), invalid.detail);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn defaults() -> SearchDefaults {
        SearchDefaults::new(SearchSettings::default())
    }

    fn refused(text: &str, overrides: QueryOverrides) -> Vec<(String, String)> {
        let InvalidQuery(faults) = defaults().query(Some(text.to_owned()), overrides).unwrap_err();
        faults.into_iter().map(|fault| (fault.pointer, fault.detail)).collect()
    }

    #[test]
    fn a_bare_text_becomes_a_complete_query() {
        let query = defaults().query(Some("whale".to_owned()), QueryOverrides::default()).unwrap();

        assert_eq!(query.collection.as_str(), "default");
        assert_eq!((query.mode, query.top_k, query.candidate_depth), (Mode::Hybrid, 10, 100));
        assert!(!query.exact && !query.explain && query.filter.is_none());
    }

    #[test]
    fn every_fault_is_named_at_once_with_its_limit() {
        let overrides = QueryOverrides {
            top_k: Some(1_000_000_000),
            candidate_depth: Some(0),
            rrf_k: Some(0),
            lexical_weight: Some(-1.0),
            vector_weight: Some(f64::NAN),
            rerank_depth: Some(201),
            context: Some(Context { before: 11, after: 0 }),
            deadline_ms: Some(u64::MAX),
            filter: Some(json!({"$or": [{"a": {"$regex": "x"}}]})),
            vector: Some(vec![f32::NAN]),
            ..QueryOverrides::default()
        };

        let faults = refused(&"term ".repeat(10_000), overrides);

        let pointers: Vec<&str> = faults.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(
            pointers,
            [
                "/query",
                "/vector",
                "/top_k",
                "/candidate_depth",
                "/fusion/rrf_k",
                "/fusion/weights/lexical",
                "/fusion/weights/vector",
                "/rerank/depth",
                "/context/before",
                "/deadline_ms",
                "/filter/$or/0/a/$regex",
            ]
        );
        assert!(faults[2].1.contains("is 1000000000, from 1 to 1000 are allowed"), "{}", faults[2].1);
    }

    #[test]
    fn zero_hits_and_zero_weights_are_refused() {
        let overrides = QueryOverrides {
            top_k: Some(0),
            lexical_weight: Some(0.0),
            vector_weight: Some(0.0),
            ..QueryOverrides::default()
        };

        let pointers: Vec<String> = refused("whale", overrides).into_iter().map(|(pointer, _)| pointer).collect();

        assert_eq!(pointers, ["/top_k", "/fusion/weights"]);
    }

    #[test]
    fn a_depth_below_top_k_is_raised_to_it() {
        let overrides = QueryOverrides { top_k: Some(50), candidate_depth: Some(20), ..QueryOverrides::default() };

        let query = defaults().query(Some("whale".to_owned()), overrides).unwrap();

        assert_eq!(query.candidate_depth, 50);
    }

    #[test]
    fn a_vector_alone_searches_vectors_and_nothing_at_all_is_refused() {
        let overrides = QueryOverrides { vector: Some(vec![0.5, 0.5]), ..QueryOverrides::default() };

        assert_eq!(defaults().query(None, overrides.clone()).unwrap().mode, Mode::Vector);
        assert_eq!(refused("  ", QueryOverrides::default())[0].0, "/query");
        let lexical = QueryOverrides { mode: Some(Mode::Lexical), ..overrides };
        assert_eq!(refused("", lexical)[0].0, "/mode");
    }
}
