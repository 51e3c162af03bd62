//! The settings as calls use them: names resolved, providers built, prices at hand.
//!
//! A plan never changes. New settings make a new one; calls under way go on with the one they began with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{Budget, BudgetScope, Nanousd};

use super::GatewayError;
use super::contract::Provider;
use super::price::{self, PriceList};
use super::provider_settings::ProviderSettings;
use super::retry::RetryPolicy;
use super::settings::{BudgetSettings, GatewaySettings, LedgerBodies, Reuse};
use super::upstream::Upstream;

/// The route of tasks that have none of their own.
const DEFAULT_ROUTE: &str = "default";

/// Builds a provider from its settings; the lead in [`Plan::build`] that names concrete ones.
pub type BuildProvider =
    dyn Fn(&str, &ProviderSettings, Option<Arc<dyn Provider>>) -> Result<Arc<dyn Provider>, GatewayError> + Send + Sync;

/// A model that can be asked.
pub struct Model {
    /// Its name in the settings.
    pub name: String,
    pub upstream: Arc<Upstream>,
    pub provider: String,
    /// The provider's own name for it.
    pub model: String,
    pub context_tokens: Option<u32>,
}

/// Which models a task uses.
#[derive(Clone, Default)]
pub struct Route {
    pub models: Vec<Arc<Model>>,
    pub on_context_too_long: Vec<Arc<Model>>,
    pub on_content_filter: Vec<Arc<Model>>,
}

/// What calls need to know.
pub struct Plan {
    upstreams: BTreeMap<String, Arc<Upstream>>,
    models: BTreeMap<String, Arc<Model>>,
    routes: BTreeMap<String, Route>,
    allowed: Vec<String>,
    pub prices: PriceList,
    pub retry: RetryPolicy,
    pub call_timeout: Duration,
    pub reuse: Reuse,
    pub cache_ttl: Duration,
    pub bodies: LedgerBodies,
}

impl Plan {
    /// A plan for these settings, which must have no problems. Providers whose settings did not change are taken over
    /// from `previous` with their connections, places and breakers.
    pub fn build(
        settings: &GatewaySettings,
        build: &BuildProvider,
        previous: Option<&Plan>,
    ) -> Result<Self, GatewayError> {
        if let Some(problem) = settings.problems().into_iter().next() {
            return Err(GatewayError::Settings { detail: problem });
        }
        let mut upstreams: BTreeMap<String, Arc<Upstream>> = BTreeMap::new();
        // Those that record others come last, since they need them.
        let (recorders, plain): (Vec<_>, Vec<_>) =
            settings.providers.iter().partition(|(_, provider)| provider.record_from.is_some());
        for (name, provider) in plain.into_iter().chain(recorders) {
            let old = previous.and_then(|plan| plan.upstreams.get(name));
            let upstream = match old.filter(|old| old.fingerprint == provider.fingerprint()) {
                Some(same) => Arc::clone(same),
                None => {
                    let source = provider.record_from.as_ref().and_then(|source| upstreams.get(source));
                    let source = source.map(|upstream| Arc::clone(&upstream.provider));
                    Arc::new(Upstream::new(build(name, provider, source)?, provider))
                }
            };
            upstreams.insert(name.clone(), upstream);
        }
        let models = models(settings, &upstreams);
        let routes = routes(settings, &models);
        Ok(Self {
            upstreams,
            models,
            routes,
            allowed: settings.allowed_models.clone(),
            prices: PriceList::new(settings),
            retry: RetryPolicy::new(settings),
            call_timeout: Duration::from_millis(settings.call_timeout_ms),
            reuse: settings.reuse,
            cache_ttl: Duration::from_secs(settings.cache_ttl_s),
            bodies: settings.ledger_bodies,
        })
    }

    /// True if any task has a model.
    pub fn is_configured(&self) -> bool {
        !self.routes.is_empty()
    }

    /// The models of a task; `None` if it has none.
    pub fn route(&self, task: &str) -> Option<&Route> {
        self.routes.get(task).or_else(|| self.routes.get(DEFAULT_ROUTE))
    }

    /// A model that a request may name for this task.
    pub fn named(&self, task: &str, name: &str) -> Option<&Arc<Model>> {
        let of_route = self.route(task).is_some_and(|route| route.models.iter().any(|model| model.name == name));
        let allowed = of_route || self.allowed.iter().any(|allowed| allowed == name);
        self.models.get(name).filter(|_| allowed)
    }

    /// Providers that are left alone because they failed too often.
    pub fn broken_providers(&self) -> Vec<&str> {
        self.upstreams.iter().filter(|(_, upstream)| upstream.is_broken()).map(|(name, _)| name.as_str()).collect()
    }
}

fn models(settings: &GatewaySettings, upstreams: &BTreeMap<String, Arc<Upstream>>) -> BTreeMap<String, Arc<Model>> {
    let resolve = |(name, model): (&String, &super::settings::ModelSettings)| {
        let upstream = Arc::clone(upstreams.get(&model.provider)?);
        let resolved = Model {
            name: name.clone(),
            upstream,
            provider: model.provider.clone(),
            model: model.model.clone(),
            context_tokens: model.context_tokens,
        };
        Some((name.clone(), Arc::new(resolved)))
    };
    settings.models.iter().filter_map(resolve).collect()
}

fn routes(settings: &GatewaySettings, models: &BTreeMap<String, Arc<Model>>) -> BTreeMap<String, Route> {
    let resolve = |names: &[String]| names.iter().filter_map(|name| models.get(name).cloned()).collect();
    if settings.routes.is_empty() && models.len() == 1 {
        let route = Route { models: models.values().cloned().collect(), ..Route::default() };
        return [(DEFAULT_ROUTE.to_owned(), route)].into();
    }
    let route = |(task, route): (&String, &super::settings::RouteSettings)| {
        let resolved = Route {
            models: resolve(&route.models),
            on_context_too_long: resolve(&route.on_context_too_long),
            on_content_filter: resolve(&route.on_content_filter),
        };
        (task.clone(), resolved)
    };
    settings.routes.iter().map(route).collect()
}

impl GatewaySettings {
    /// What is wrong with these settings, one sentence each, naming the field; empty if nothing is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = price::problems(&self.prices);
        let positive = [
            ("call_timeout_ms", self.call_timeout_ms),
            ("max_attempts", u64::from(self.max_attempts)),
            ("tenant_max_concurrent_calls", self.tenant_max_concurrent_calls as u64),
            ("tenant_tokens_per_minute", self.tenant_tokens_per_minute.map_or(1, u64::from)),
        ];
        problems.extend(
            positive.iter().filter(|(_, value)| *value == 0).map(|(name, _)| format!("{name} must be above 0")),
        );
        for (name, provider) in &self.providers {
            problems.extend(provider.problems().into_iter().map(|problem| format!("providers.{name}: {problem}")));
            let source = provider.record_from.as_ref();
            if let Some(unknown) = source.filter(|source| !self.providers.contains_key(*source) || *source == name) {
                problems.push(format!("providers.{name}: record_from names {unknown:?}, which is no other provider"));
            }
        }
        self.model_problems(&mut problems);
        self.route_problems(&mut problems);
        self.budget_problems(&mut problems);
        problems
    }

    /// The budgets of the settings.
    pub fn configured_budgets(&self) -> Result<Vec<Budget>, GatewayError> {
        self.budgets.iter().map(|budget| budget.read().map_err(|detail| GatewayError::Settings { detail })).collect()
    }

    fn budget_problems(&self, problems: &mut Vec<String>) {
        let faults = self.budgets.iter().filter_map(|budget| budget.read().err());
        problems.extend(faults.map(|fault| format!("budgets: {fault}")));
    }

    fn model_problems(&self, problems: &mut Vec<String>) {
        let prices = PriceList::new(self);
        let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        for (name, model) in &self.models {
            if !self.providers.contains_key(&model.provider) {
                problems.push(format!("models.{name}: there is no provider {:?}", model.provider));
            } else if model.model.is_empty() {
                problems.push(format!("models.{name}: model must be named"));
            } else if prices.price(&model.provider, &model.model, today).is_none() {
                problems.push(format!(
                    "models.{name}: no price is known for {:?} of {:?}; add one under gateway.prices, or set \
                     gateway.unknown_price = \"free\" if it costs nothing",
                    model.model, model.provider
                ));
            }
        }
    }

    fn route_problems(&self, problems: &mut Vec<String>) {
        for (task, route) in &self.routes {
            if route.models.is_empty() {
                problems.push(format!("routes.{task}: models must name at least one"));
            }
            let named = route.models.iter().chain(&route.on_context_too_long).chain(&route.on_content_filter);
            let unknown = named.filter(|name| !self.models.contains_key(*name));
            problems.extend(unknown.map(|name| format!("routes.{task}: there is no model {name:?}")));
        }
        let unknown = self.allowed_models.iter().filter(|name| !self.models.contains_key(*name));
        problems.extend(unknown.map(|name| format!("allowed_models: there is no model {name:?}")));
        if self.routes.is_empty() && self.models.len() > 1 {
            problems.push("routes: with several models, routes.default must say which is asked".to_owned());
        }
    }
}

impl BudgetSettings {
    /// The budget, or what is wrong with it.
    fn read(&self) -> Result<Budget, String> {
        let scope: BudgetScope = self.scope.parse().map_err(|fault| format!("{:?}: {fault}", self.scope))?;
        let limit = match self.limit_usd {
            None => None,
            Some(usd) => Some(Nanousd::from_usd(usd).ok_or_else(|| format!("{scope}: limit_usd must be 0 or above"))?),
        };
        if limit.is_none() && self.limit_tokens.is_none() && self.limit_calls.is_none() {
            return Err(format!("{scope}: one of limit_usd, limit_tokens and limit_calls must be given"));
        }
        if !(0.0..=1.0).contains(&self.alert_at) {
            return Err(format!("{scope}: alert_at must lie between 0 and 1"));
        }
        let (limit_tokens, limit_calls) = (self.limit_tokens, self.limit_calls);
        Ok(Budget { scope, period: self.period, limit, limit_tokens, limit_calls, alert_at: self.alert_at })
    }
}
