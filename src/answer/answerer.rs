//! The walk of an answer: check the request, search, compose.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use futures::stream::BoxStream;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span, info};

use crate::domain::{Answer, AnswerStatus, TenantScope, TraceId};
use crate::gateway::{Gateway, PromptBook};
use crate::inference::Embedder;
use crate::search::{SearchDefaults, Searcher};

use super::AnswerError;
use super::compose::Composer;
use super::request::{AnswerRequest, RequestRules};
use super::settings::AnswerSettings;
use super::stream::{AnswerEvent, stream};

/// What an [`Answerer`] is made of.
pub struct AnswererParts {
    pub searcher: Arc<Searcher>,
    pub defaults: SearchDefaults,
    pub gateway: Gateway,
    /// For choosing quotes by similarity, where the settings ask for it; `None`: words alone decide.
    pub embedder: Option<Arc<dyn Embedder>>,
    pub settings: AnswerSettings,
    /// May be replaced at any time; a request goes on with the book that it began with.
    pub prompts: Arc<ArcSwap<PromptBook>>,
}

/// Answers questions from a tenant's documents.
pub struct Answerer {
    searcher: Arc<Searcher>,
    defaults: SearchDefaults,
    composer: Arc<Composer>,
    prompts: Arc<ArcSwap<PromptBook>>,
}

impl Answerer {
    pub fn new(parts: AnswererParts) -> Self {
        let composer = Composer { gateway: parts.gateway, embedder: parts.embedder, settings: parts.settings };
        Self {
            searcher: parts.searcher,
            defaults: parts.defaults,
            composer: Arc::new(composer),
            prompts: parts.prompts,
        }
    }

    /// Answers a request that was taken at `taken_at`, the moment from which its deadline counts.
    ///
    /// A model that is missing or fails is no error: the answer then has status `Fallback` or `Abstained` and names
    /// the reason in `degraded`. Dropping the future stops the call to the model.
    pub async fn answer(
        &self,
        scope: &TenantScope,
        request: AnswerRequest,
        taken_at: Instant,
    ) -> Result<Answer, AnswerError> {
        let (ask, query) = self.rules(&self.prompts.load()).check(request, taken_at)?;
        let walk = async {
            let found = self.searcher.search(scope, &query, taken_at).await?;
            let compose = debug_span!("answer.compose", passages = found.hits.len());
            let answer = self.composer.compose(scope, &ask, found).instrument(compose).await;
            record(&Span::current(), &answer);
            Ok(answer)
        };
        let answer: Result<Answer, AnswerError> = walk.instrument(answer_span()).await;
        answer.inspect(|answer| log(ask.trace_id, scope, answer))
    }

    /// The same as a stream of events; see [`AnswerEvent`] for their order. Faults of the request and of the search
    /// are found before the stream begins. Dropping the stream stops the call to the model.
    pub async fn answer_stream(
        &self,
        scope: &TenantScope,
        request: AnswerRequest,
        taken_at: Instant,
    ) -> Result<BoxStream<'static, AnswerEvent>, AnswerError> {
        let (ask, query) = self.rules(&self.prompts.load()).check(request, taken_at)?;
        let span = answer_span();
        let found = self.searcher.search(scope, &query, taken_at).instrument(span.clone()).await?;
        Ok(span.in_scope(|| stream(Arc::clone(&self.composer), scope.clone(), ask, found)))
    }

    fn rules<'a>(&'a self, prompts: &'a PromptBook) -> RequestRules<'a> {
        RequestRules {
            settings: &self.composer.settings,
            defaults: &self.defaults,
            gateway: &self.composer.gateway,
            prompts,
        }
    }
}

/// The span of a whole answer.
fn answer_span() -> Span {
    debug_span!("answer", status = Empty, sources = Empty, claims = Empty, error = Empty)
}

/// What came of it, in the answer's span.
pub(super) fn record(span: &Span, answer: &Answer) {
    let status = match answer.status {
        AnswerStatus::Answered => "answered",
        AnswerStatus::Abstained => "abstained",
        AnswerStatus::Fallback => "fallback",
    };
    span.record("status", status).record("sources", answer.sources.len()).record("claims", answer.claims.len());
}

fn log(trace_id: TraceId, scope: &TenantScope, answer: &Answer) {
    info!(
        trace_id = %trace_id,
        tenant = %scope.tenant,
        status = ?answer.status,
        sources = answer.sources.len(),
        claims = answer.claims.len(),
        search_ms = answer.search_ms,
        model_ms = answer.model_ms,
        "question answered"
    );
}
