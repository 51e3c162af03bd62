//! Answering, as the server speaks for it.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::answer::{AnswerError, AnswerEvent as Made, AnswerRequest as Asked, Answerer};
use crate::domain::{Answer, TenantScope};
use crate::gateway::{ChatMessage, GatewayError, Role as Speaker};
use crate::search::SearchError;

use super::ports::{AnswerEvent, AnswerPort, AnswerRequest, Failure, Role};

/// Answering, with the conversation as the answer room reads it.
pub struct AnswerRoom {
    pub answerer: Arc<Answerer>,
}

#[async_trait]
impl AnswerPort for AnswerRoom {
    async fn answer(&self, scope: &TenantScope, request: AnswerRequest) -> Result<Answer, Failure> {
        let taken_at = request.taken_at;
        self.answerer.answer(scope, asked(request), taken_at).await.map_err(|error| failure(&error))
    }

    async fn stream(
        &self,
        scope: &TenantScope,
        request: AnswerRequest,
    ) -> Result<BoxStream<'static, AnswerEvent>, Failure> {
        let taken_at = request.taken_at;
        let events = self.answerer.answer_stream(scope, asked(request), taken_at).await;
        Ok(events.map_err(|error| failure(&error))?.map(event).boxed())
    }
}

fn asked(request: AnswerRequest) -> Asked {
    let history = request.history.into_iter().map(|turn| {
        let speaker = match turn.role {
            Role::User => Speaker::User,
            Role::Assistant => Speaker::Assistant,
        };
        ChatMessage::new(speaker, turn.content)
    });
    let question = ChatMessage::new(Speaker::User, request.question);
    Asked {
        question: None,
        messages: Some(history.chain([question]).collect()),
        search: request.search,
        model: request.model,
        prompt_version: request.prompt_version,
        max_tokens: request.max_tokens,
        session_id: request.session_id,
        trace_id: request.trace_id,
        journal: None,
    }
}

fn event(made: Made) -> AnswerEvent {
    match made {
        Made::Sources(hits) => AnswerEvent::Sources(hits),
        Made::Delta(text) => AnswerEvent::Delta(text),
        Made::Citation(citation) => AnswerEvent::Citation(citation),
        Made::Claim(claim) => AnswerEvent::Claim(claim),
        Made::Done(answer) => AnswerEvent::Done(answer),
        Made::Error(error) => AnswerEvent::Failed(failure(&error)),
    }
}

fn failure(error: &AnswerError) -> Failure {
    if let AnswerError::Gateway(source) = error {
        match source.root() {
            GatewayError::BudgetExceeded { .. } => {
                return Failure::budget_exceeded(source.to_string(), source.retry_after());
            }
            GatewayError::Killed { .. } => return Failure::kill_switch(),
            _ => {}
        }
    }
    let fields = match error {
        AnswerError::Invalid(faults) => faults.iter().cloned().map(Into::into).collect(),
        AnswerError::Search(_) | AnswerError::Gateway(_) => Vec::new(),
    };
    let detail = match error {
        AnswerError::Search(
            source @ (SearchError::EmptyQuery
            | SearchError::UnknownCollection { .. }
            | SearchError::VectorDimensions { .. }
            | SearchError::NotAVector
            | SearchError::NoVectors { .. }
            | SearchError::IndexLagging { .. }
            | SearchError::EmbedderUnavailable { .. }
            | SearchError::Overloaded { .. }),
        ) => Some(source.to_string()),
        _ => None,
    };
    tracing::debug!(error = error as &dyn std::error::Error, "a question could not be answered");
    Failure {
        detail,
        fields,
        retry_after: error.retry_after_ms().map(std::time::Duration::from_millis),
        ..Failure::new(error.kind())
    }
}
