//! The gateway with everything around it: providers, ledger, budgets, kill switch, and the file that can change them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::cache::Cache;
use crate::config::Config;
use crate::domain::Timestamp;
use crate::gateway::{
    Alerts, Anthropic, Budgets, Clock, Gateway, GatewayError, GatewayParts, KillSwitch, Ollama, OnBySettings,
    OpenAiCompatible, PromptBook, Provider, ProviderKind, ProviderSettings, Scripted,
};
use crate::store::{Ledger, LedgerQueue};

use super::AppError;

/// A gateway with the tasks that keep it.
pub struct RunningGateway {
    pub gateway: Gateway,
    pub reload: Arc<Reload>,
    pub prompts: Arc<ArcSwap<PromptBook>>,
    /// The way into the ledger.
    pub queue: LedgerQueue,
    queue_task: JoinHandle<()>,
    /// They end with the instance.
    tasks: Vec<JoinHandle<()>>,
}

impl RunningGateway {
    /// Builds the gateway, loads its budgets, and begins to watch the switch and the settings file.
    pub async fn start(
        config: &Config,
        data_dir: &Path,
        ledger: Arc<dyn Ledger>,
        cache: Option<Arc<Cache>>,
        clock: Clock,
    ) -> Result<Self, AppError> {
        let settings = config.gateway.clone();
        let (queue, queue_task) = LedgerQueue::start(ledger.clone());
        let mut tasks = Vec::new();
        let alerts = match &settings.alert_webhook_url {
            None => Alerts::none(),
            Some(url) => {
                let (alerts, task) = Alerts::webhook(url)?;
                tasks.push(task);
                alerts
            }
        };
        let configured = settings.configured_budgets()?;
        let budgets = Budgets::load(configured, ledger, queue.clone(), alerts, Arc::clone(&clock));
        let on = if settings.kill_switch { OnBySettings::Yes } else { OnBySettings::No };
        let kill = Arc::new(KillSwitch::new(Some(data_dir), on));
        let reload_every = Duration::from_millis(settings.reload_every_ms);
        let gateway = Gateway::new(GatewayParts {
            settings,
            build: Box::new(build),
            ledger: Some(queue.clone()),
            budgets: Arc::new(budgets.await.map_err(AppError::Store)?),
            kill: Arc::clone(&kill),
            cache,
            clock,
        })?;
        tasks.push(tokio::spawn(async move { kill.watch().await }));
        let prompts = Arc::new(ArcSwap::from_pointee(super::prompts(&config.gateway)?));
        let reload = Arc::new(Reload::default());
        if let Some(file) = config.file().filter(|_| !reload_every.is_zero()) {
            let parts =
                Reloaded { gateway: gateway.clone(), prompts: Arc::clone(&prompts), outcome: Arc::clone(&reload) };
            tasks.push(tokio::spawn(parts.watch(file.to_owned(), reload_every)));
        }
        Ok(Self { gateway, reload, prompts, queue, queue_task, tasks })
    }

    /// Ends the tasks and waits until everything that was submitted is in the ledger.
    pub async fn shutdown(self) {
        for task in &self.tasks {
            task.abort();
        }
        // Other clones of the queue keep its task alive, so it is flushed and then stopped.
        if let Err(error) = self.queue.submit_durable(Vec::new()).await {
            tracing::error!(%error, "the last rows of the ledger are lost");
        }
        self.queue_task.abort();
    }
}

fn build(
    name: &str,
    settings: &ProviderSettings,
    record_from: Option<Arc<dyn Provider>>,
) -> Result<Arc<dyn Provider>, GatewayError> {
    Ok(match settings.kind {
        ProviderKind::OpenaiCompatible => Arc::new(OpenAiCompatible::new(name, settings)?),
        ProviderKind::Anthropic => Arc::new(Anthropic::new(name, settings)?),
        ProviderKind::Ollama => Arc::new(Ollama::new(name, settings)?),
        ProviderKind::Scripted => Arc::new(Scripted::from_settings(name, settings, record_from)?),
    })
}

/// The time of the start, counted on by a clock that nobody sets: a budget must not begin anew because somebody
/// corrects the date.
pub(super) fn steady_clock() -> Clock {
    let (start, started) = (jiff::Timestamp::now().as_microsecond(), Instant::now());
    Arc::new(move || Timestamp(start.saturating_add_unsigned(started.elapsed().as_micros() as u64)))
}

/// Whether the newest settings are in force.
#[derive(Default)]
pub struct Reload(Mutex<Option<String>>);

impl Reload {
    /// Why they are not; `None` if they are.
    pub fn problem(&self) -> Option<String> {
        self.0.lock().clone()
    }
}

/// What new settings change.
struct Reloaded {
    gateway: Gateway,
    prompts: Arc<ArcSwap<PromptBook>>,
    outcome: Arc<Reload>,
}

impl Reloaded {
    /// Reads the settings file whenever its bytes have changed and goes on with its section `gateway`. Settings that are
    /// not acceptable change nothing and are named in the log and in `/readyz`; all other sections need a restart.
    async fn watch(self, file: PathBuf, every: Duration) {
        let mut known = read(&file).await;
        loop {
            tokio::time::sleep(every).await;
            let found = read(&file).await;
            // A file that is being replaced may be absent for a moment: that is no change.
            if found == known || found.is_none() {
                continue;
            }
            known = found;
            let problem = self.load(file.clone()).await.err();
            match &problem {
                None => tracing::info!("the gateway goes on with new settings"),
                Some(problem) => tracing::error!(problem, "the new settings are not in force; the old ones hold"),
            }
            metrics::gauge!("plumb_settings_rejected").set(f64::from(u8::from(problem.is_some())));
            *self.outcome.0.lock() = problem;
        }
    }

    async fn load(&self, file: PathBuf) -> Result<(), String> {
        let read = move || {
            // Some editors empty a file before they write it.
            if std::fs::read(&file).is_ok_and(|bytes| bytes.trim_ascii().is_empty()) {
                return Err("the settings file is empty".to_owned());
            }
            let config = Config::load(Some(&file)).map_err(|error| error.to_string())?;
            let prompts = super::prompts(&config.gateway).map_err(|error| error.to_string())?;
            Ok::<_, String>((config, prompts))
        };
        let loaded = tokio::task::spawn_blocking(read).await;
        let (config, prompts) = loaded.map_err(|_| "reading the settings failed".to_owned())??;
        self.gateway.configure(config.gateway).map_err(|error| error.to_string())?;
        self.prompts.store(Arc::new(prompts));
        Ok(())
    }
}

async fn read(file: &Path) -> Option<blake3::Hash> {
    tokio::fs::read(file).await.ok().map(|bytes| blake3::hash(&bytes))
}
