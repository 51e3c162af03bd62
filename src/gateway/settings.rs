//! Settings of the gateway: models and routes, prices, budgets, and how long and how often a call is tried.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::provider_settings::ProviderSettings;

/// How the gateway reaches language models.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySettings {
    /// Servers, by a name of your choice. Default none: answers are then made of quoted sentences.
    pub providers: BTreeMap<String, ProviderSettings>,
    /// Models, by a name of your choice.
    pub models: BTreeMap<String, ModelSettings>,
    /// Which models a task uses; `default` is for tasks without a route. Default: where there is one model only, it is
    /// the route of every task.
    pub routes: BTreeMap<String, RouteSettings>,
    /// Further models that a request may name, besides those of its route. Default none: a request must not choose what
    /// the operator pays.
    pub allowed_models: Vec<String>,
    /// Prices beside and before the built-in ones. The newest that has begun holds.
    pub prices: Vec<PriceSettings>,
    /// What a model without a price costs. Default `refuse`: the server does not start with such a model.
    pub unknown_price: UnknownPrice,
    /// Caps on spending that hold from the start; more can be set with `PUT /budgets/{scope}`.
    pub budgets: Vec<BudgetSettings>,
    /// Address that gets a POST with each alert of a budget. Default none.
    pub alert_webhook_url: Option<String>,
    /// Versions of prompts that take a share of the calls, by prompt: `answer = { "1" = 90, "2" = 10 }`. Default: the
    /// newest version takes all.
    pub prompt_split: BTreeMap<String, BTreeMap<String, u32>>,
    /// Folder with further versions of prompts. Default none: those that are built in.
    pub prompts_dir: Option<PathBuf>,
    /// Longest whole call with all its attempts, fallbacks and waits, ms. Default 90,000: one slow attempt and another.
    pub call_timeout_ms: u64,
    /// Most attempts of one model in one call. Default 3: more would wait longer than people do.
    pub max_attempts: u32,
    /// Upper end of the first wait between attempts, ms; doubles with each. Default 250.
    pub backoff_base_ms: u64,
    /// Upper end of any wait between attempts, ms. Default 8,000. A longer `Retry-After` is kept nevertheless.
    pub backoff_max_ms: u64,
    /// Most calls of one tenant at once. Default 32: twice what one provider takes, so that a tenant alone can use it.
    pub tenant_max_concurrent_calls: usize,
    /// Most input and output tokens of one tenant a minute. Default none.
    pub tenant_tokens_per_minute: Option<u32>,
    /// Whether calls that are the same are answered once. Default `coalesce`: only those under way at the same time.
    pub reuse: Reuse,
    /// How long a kept answer may be used again, s. Default 3,600.
    pub cache_ttl_s: u64,
    /// Whether prompts and replies are kept in the ledger, redacted. Default `none`: they hold what people wrote.
    pub ledger_bodies: LedgerBodies,
    /// Starts with every call to a model refused. Default false; `PLUMB_KILL_SWITCH=1` is the same.
    pub kill_switch: bool,
    /// Time between two looks at the settings file, ms. Default 1,000; 0 never looks.
    pub reload_every_ms: u64,
}

/// What calls that are the same share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reuse {
    /// Nothing.
    None,
    /// One answer while it is being made.
    Coalesce,
    /// Also an answer that was made before to exactly the same call.
    Exact,
}

/// What a model without a price costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownPrice {
    Refuse,
    /// Nothing: for models on machines of your own.
    Free,
}

/// What the ledger keeps of a call's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerBodies {
    None,
    /// Both, with what looks like a key, an address of mail or a card number replaced.
    Redacted,
}

/// A model of a provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// Name in `gateway.providers`.
    pub provider: String,
    /// The provider's own name for it.
    pub model: String,
    /// Input and output tokens together that it can hold; longer calls go to the next model that holds more.
    #[serde(default)]
    pub context_tokens: Option<u32>,
}

/// Which models a task uses, first to last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSettings {
    /// Names in `gateway.models`; each is asked when the one before it fails.
    pub models: Vec<String>,
    /// Asked instead of the next one when a model says that the call is too long for it.
    #[serde(default)]
    pub on_context_too_long: Vec<String>,
    /// Asked when a model refuses or cuts by its content filter. Default none: the refusal stands.
    #[serde(default)]
    pub on_content_filter: Vec<String>,
}

/// The price of a model from a day on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceSettings {
    /// Name in `gateway.providers`, or `*`.
    pub provider: String,
    /// The provider's own name for the model.
    pub model: String,
    /// First day (UTC) on which it holds, `2026-01-31`.
    pub from: jiff::civil::Date,
    /// US dollars for a million tokens.
    pub input_usd_per_mtok: f64,
    /// For input that the server had cached. Default: as other input.
    #[serde(default)]
    pub cached_input_usd_per_mtok: Option<f64>,
    pub output_usd_per_mtok: f64,
}

/// A cap on spending. At least one limit must be given; each that is given holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetSettings {
    /// `everything`, or dimensions joined by `+`: `tenant:acme+task:answer`, `session:*` (each session for itself).
    pub scope: String,
    /// When counting starts anew (UTC).
    pub period: crate::domain::BudgetPeriod,
    #[serde(default)]
    pub limit_usd: Option<f64>,
    #[serde(default)]
    pub limit_tokens: Option<u64>,
    /// Calls: the turns of a session, the steps of a task.
    #[serde(default)]
    pub limit_calls: Option<u64>,
    /// Share of a limit at which one alert is sent. Default 0.5.
    #[serde(default = "half")]
    pub alert_at: f64,
}

fn half() -> f64 {
    0.5
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            providers: BTreeMap::new(),
            models: BTreeMap::new(),
            routes: BTreeMap::new(),
            allowed_models: Vec::new(),
            prices: Vec::new(),
            unknown_price: UnknownPrice::Refuse,
            budgets: Vec::new(),
            alert_webhook_url: None,
            prompt_split: BTreeMap::new(),
            prompts_dir: None,
            call_timeout_ms: 90_000,
            max_attempts: 3,
            backoff_base_ms: 250,
            backoff_max_ms: 8_000,
            tenant_max_concurrent_calls: 32,
            tenant_tokens_per_minute: None,
            reuse: Reuse::Coalesce,
            cache_ttl_s: 3_600,
            ledger_bodies: LedgerBodies::None,
            kill_switch: false,
            reload_every_ms: 1_000,
        }
    }
}
