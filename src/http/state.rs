//! What every handler can reach.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::domain::CollectionName;
use crate::store::{CaseStore, CorpusStore, Ledger};
use crate::tasks::TaskDesk;

use super::auth::{AuthError, AuthSettings, Authenticator};
use super::permits::Permits;
use super::ports::{AnswerPort, ControlPort, GenerationPort, IngestPort, ReportPort, SearchPort, StatusPort};
use super::settings::HttpSettings;

/// The rooms that the server speaks for.
#[derive(Clone)]
pub struct Services {
    pub store: Arc<dyn CorpusStore>,
    pub ledger: Arc<dyn Ledger>,
    pub cases: Arc<dyn CaseStore>,
    pub search: Arc<dyn SearchPort>,
    pub ingest: Arc<dyn IngestPort>,
    pub answer: Arc<dyn AnswerPort>,
    pub status: Arc<dyn StatusPort>,
    pub control: Arc<dyn ControlPort>,
    pub tasks: Arc<TaskDesk>,
    pub generations: Arc<dyn GenerationPort>,
    pub reports: Arc<dyn ReportPort>,
}

/// Shared by all requests.
#[derive(Clone)]
pub(super) struct AppState(Arc<Parts>);

/// See [`AppState`].
pub(super) struct Parts {
    pub services: Services,
    pub settings: HttpSettings,
    pub authenticator: Authenticator,
    pub permits: Permits,
    pub default_collection: CollectionName,
    /// The description of the API, as JSON.
    pub openapi: Bytes,
    /// Cancelled when the server was told to stop.
    pub stopping: CancellationToken,
}

impl AppState {
    pub(super) fn new(
        services: Services,
        settings: HttpSettings,
        auth: &AuthSettings,
        (openapi, stopping): (Bytes, CancellationToken),
    ) -> Result<Self, AuthError> {
        Ok(Self(Arc::new(Parts {
            services,
            permits: Permits::new(&settings),
            settings,
            authenticator: Authenticator::new(auth)?,
            default_collection: CollectionName::new("default").expect("a plain word is a collection"),
            openapi,
            stopping,
        })))
    }
}

impl Deref for AppState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
