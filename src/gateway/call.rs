//! The gateway: every call to a language model goes through here.
//!
//! It decides which models are asked in which order, how often, for how long and for how much. A streamed call is
//! tried again only until its first piece has arrived: what a reader has seen cannot be taken back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::cache::Cache;
use crate::domain::{
    Amount, Attempt, CacheUse, CallId, Nanousd, Payer, PromptVersion, TenantId, TenantScope, Timestamp, TraceId,
};
use crate::store::LedgerQueue;

use super::GatewayError;
use super::budgets::{Budgets, Clock};
use super::contract::{ChatMessage, ChatRequest, ChatResponse, ReplySchema, Tool};
use super::estimate::most_input_tokens;
use super::journal::StepJournal;
use super::kill::KillSwitch;
use super::plan::{BuildProvider, Model, Plan, Route};
use super::reuse::{Reused, UnderWay};
use super::settings::{GatewaySettings, Reuse};
use super::stream::GatewayStream;
use super::token_rate::TokenRate;
use super::upstream::Places;
use super::walk::Walk;

/// On whose behalf and for what a model is called.
#[derive(Debug, Clone)]
pub struct CallContext {
    pub scope: TenantScope,
    pub trace_id: TraceId,
    /// What the call is for (`answer`); a constant, since it becomes a label.
    pub task: &'static str,
    /// The caller's own name for a series of calls.
    pub session_id: Option<String>,
    /// The caller's own limit; the gateway's applies beside it.
    pub deadline: Instant,
    /// The step of durable work that the call belongs to: its rows are committed with the step, and it shares its reply
    /// with no other call.
    pub journal: Option<StepJournal>,
}

/// What a model is asked, whichever model that will be.
#[derive(Debug, Clone, Default)]
pub struct ChatCall {
    /// Oldest first.
    pub messages: Vec<ChatMessage>,
    /// One of the models that [`Gateway::allows`]; it alone is asked then. `None`: those of the task's route.
    pub model: Option<String>,
    /// Most tokens the model may write.
    pub max_tokens: u32,
    /// See [`ChatRequest::temperature`].
    pub temperature: Option<f32>,
    pub tools: Vec<Tool>,
    pub schema: Option<ReplySchema>,
    /// The prompt that the messages were made with.
    pub prompt: Option<PromptVersion>,
    /// What makes two calls of a tenant the same, whatever random marks their messages carry: a hash over everything
    /// that may change the reply. `None`: no call is the same as this one.
    pub identity: Option<[u8; 32]>,
}

/// A reply with the attempts it took, the successful one last.
#[derive(Debug, Clone)]
pub struct CallSuccess {
    pub provider: String,
    pub response: ChatResponse,
    pub attempts: Vec<Attempt>,
    /// Of all attempts together.
    pub cost: Nanousd,
    pub cache: CacheUse,
}

/// The last error with all attempts; none if the call was refused before the first.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct CallFailure {
    #[source]
    pub error: GatewayError,
    pub attempts: Vec<Attempt>,
    /// Servers may charge for calls that failed.
    pub cost: Nanousd,
}

impl CallFailure {
    /// Refused before any attempt.
    pub fn refused(error: GatewayError) -> Self {
        Self { error, attempts: Vec::new(), cost: Nanousd(0) }
    }
}

/// What a gateway is made of.
pub struct GatewayParts {
    pub settings: GatewaySettings,
    pub build: Box<BuildProvider>,
    /// `None`: calls are not written down.
    pub ledger: Option<LedgerQueue>,
    pub budgets: Arc<Budgets>,
    pub kill: Arc<KillSwitch>,
    /// For answers that may be used again; `None`: there are none.
    pub cache: Option<Arc<Cache>>,
    pub clock: Clock,
}

/// Calls to the configured models, bounded in number, time and money. Clones share everything.
#[derive(Clone)]
pub struct Gateway(pub(super) Arc<Core>);

/// See [`Gateway`].
pub(super) struct Core {
    pub plan: ArcSwap<Plan>,
    build: Box<BuildProvider>,
    pub ledger: Option<LedgerQueue>,
    pub budgets: Arc<Budgets>,
    pub kill: Arc<KillSwitch>,
    pub cache: Option<Arc<Cache>>,
    pub clock: Clock,
    pub under_way: UnderWay,
    tenants: Mutex<HashMap<TenantId, Arc<Tenant>>>,
    settings: Mutex<GatewaySettings>,
}

/// What one tenant may take.
pub(super) struct Tenant {
    pub places: Places,
    pub rate: Option<TokenRate>,
}

impl Gateway {
    pub fn new(parts: GatewayParts) -> Result<Self, GatewayError> {
        let plan = Plan::build(&parts.settings, &parts.build, None)?;
        Ok(Self(Arc::new(Core {
            plan: ArcSwap::from_pointee(plan),
            build: parts.build,
            ledger: parts.ledger,
            budgets: parts.budgets,
            kill: parts.kill,
            cache: parts.cache,
            clock: parts.clock,
            under_way: UnderWay::default(),
            tenants: Mutex::default(),
            settings: Mutex::new(parts.settings),
        })))
    }

    /// Goes on with new settings. Calls under way end as they began; an error changes nothing.
    pub fn configure(&self, settings: GatewaySettings) -> Result<(), GatewayError> {
        let plan = Plan::build(&settings, &self.0.build, Some(&self.0.plan.load()))?;
        self.0.budgets.configure(settings.configured_budgets()?);
        self.0.plan.store(Arc::new(plan));
        if settings.kill_switch {
            self.0.kill.turn_on_by_settings();
        }
        // Never both locks at once: a new tenant takes them in the other order.
        let same_tenants = {
            let mut current = self.0.settings.lock();
            let same = current.tenant_max_concurrent_calls == settings.tenant_max_concurrent_calls
                && current.tenant_tokens_per_minute == settings.tenant_tokens_per_minute;
            *current = settings;
            same
        };
        if !same_tenants {
            // Calls under way keep their places; the new bounds hold for those that follow.
            self.0.tenants.lock().clear();
        }
        Ok(())
    }

    /// True if calls can be made at all.
    pub fn is_configured(&self) -> bool {
        self.0.plan.load().is_configured()
    }

    /// True if a request of this task may name this model.
    pub fn allows(&self, task: &str, model: &str) -> bool {
        self.0.plan.load().named(task, model).is_some()
    }

    /// The models that a task's calls are made with where they name none, as `provider/model`, in order.
    pub fn route_models(&self, task: &str) -> Vec<String> {
        let plan = self.0.plan.load();
        let models = plan.route(task).map(|route| route.models.as_slice()).unwrap_or_default();
        models.iter().map(|model| format!("{}/{}", model.provider, model.model)).collect()
    }

    /// Providers that are left alone for now because they failed too often.
    pub fn broken_providers(&self) -> Vec<String> {
        self.0.plan.load().broken_providers().into_iter().map(str::to_owned).collect()
    }

    pub fn kill_switch(&self) -> &KillSwitch {
        &self.0.kill
    }

    pub fn budgets(&self) -> &Arc<Budgets> {
        &self.0.budgets
    }

    /// Waits until everything that was told of calls so far is in the ledger; false if that failed.
    pub async fn settle_ledger(&self) -> bool {
        match &self.0.ledger {
            Some(ledger) => ledger.submit_durable(Vec::new()).await.is_ok(),
            None => true,
        }
    }

    /// Asks for a whole reply. Dropping the future stops the call, unless another caller waits for the same reply.
    pub async fn call(&self, call: ChatCall, context: CallContext) -> Result<CallSuccess, CallFailure> {
        self.0.kill.check().map_err(CallFailure::refused)?;
        let plan = self.0.plan.load_full();
        match call.identity.filter(|_| plan.reuse > Reuse::None && context.journal.is_none()) {
            Some(identity) => Reused { core: &self.0, plan, identity }.call(call, context).await,
            None => Walk::begin(Arc::clone(&self.0), plan, call, context).await?.whole().await,
        }
    }

    /// Asks for a streamed reply; returns when its first piece has arrived.
    ///
    /// A journal has all rows before the stream's last event is given; of a stream that is dropped, a moment later.
    pub async fn call_stream(&self, call: ChatCall, context: CallContext) -> Result<GatewayStream, CallFailure> {
        self.0.kill.check().map_err(CallFailure::refused)?;
        let plan = self.0.plan.load_full();
        Walk::begin(Arc::clone(&self.0), plan, call, context).await?.streamed().await
    }
}

impl Core {
    pub fn tenant(&self, tenant: &TenantId) -> Arc<Tenant> {
        let mut tenants = self.tenants.lock();
        if let Some(known) = tenants.get(tenant) {
            return Arc::clone(known);
        }
        let settings = self.settings.lock();
        let new = Arc::new(Tenant {
            places: Places::new(settings.tenant_max_concurrent_calls, settings.tenant_max_concurrent_calls),
            rate: settings.tenant_tokens_per_minute.map(|rate| TokenRate::new(rate, Instant::now())),
        });
        tenants.insert(tenant.clone(), Arc::clone(&new));
        new
    }
}

/// Which models a call may ask: its route, or the one it names.
pub(super) fn route_of(plan: &Plan, call: &ChatCall, task: &str) -> Result<Route, GatewayError> {
    match &call.model {
        None => plan.route(task).filter(|route| !route.models.is_empty()).cloned().ok_or(GatewayError::NotConfigured),
        Some(name) => {
            let model = plan.named(task, name).ok_or(GatewayError::NotConfigured)?;
            Ok(Route { models: vec![Arc::clone(model)], ..Route::default() })
        }
    }
}

/// The most that a call can cost: every attempt of every model that may be asked, each as long as it may be.
pub(super) fn worst_case(plan: &Plan, route: &Route, request: &ChatRequest, clock: &Clock) -> Amount {
    // A model that stands in two lists may be asked twice, with all its attempts each time.
    let lists = route.models.iter().chain(&route.on_context_too_long).chain(&route.on_content_filter);
    let models: Vec<&Arc<Model>> = lists.collect();
    let usage = crate::domain::Usage {
        input_tokens: most_input_tokens(request),
        cached_input_tokens: 0,
        output_tokens: u64::from(request.max_tokens),
    };
    let attempts = u64::from(plan.retry.max_attempts);
    let (day, tokens) = (super::walk::day(clock()), usage.input_tokens + usage.output_tokens);
    let cost = models.iter().map(|model| {
        let price = plan.prices.price(&model.provider, &model.model, day).unwrap_or_default();
        Nanousd(price.of(usage).0.saturating_mul(attempts))
    });
    Amount { cost: cost.sum(), tokens: tokens * attempts * models.len() as u64, calls: 1 }
}

/// Whom budgets charge.
pub(super) fn payer<'a>(context: &'a CallContext) -> Payer<'a> {
    Payer {
        tenant: context.scope.tenant.as_str(),
        task: context.task,
        session: context.session_id.as_deref(),
        key: context.scope.key_id.as_deref(),
    }
}

/// Ids grow with time, so that the ledger's index is written at one end; eight random bytes keep them apart.
pub(super) fn new_call_id(now: Timestamp) -> CallId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&now.0.to_be_bytes());
    id[8..].copy_from_slice(&rand::random::<u64>().to_be_bytes());
    CallId(id)
}
