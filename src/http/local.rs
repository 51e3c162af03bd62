//! The API without a socket: for commands that open the data directory themselves.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, header};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::auth::{AuthError, AuthSettings};
use super::router::router;
use super::settings::HttpSettings;
use super::state::Services;

/// The router, called in this process by its owner: keys are for others, so none is asked for.
#[derive(Clone)]
pub struct LocalDoor {
    router: Router,
}

impl LocalDoor {
    pub fn new(services: Services, settings: HttpSettings) -> Result<Self, AuthError> {
        Ok(Self { router: router(services, settings, &AuthSettings::default(), CancellationToken::new())? })
    }

    /// Status and body of the answer to a JSON request.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .expect("the parts are fixed and valid");
        let response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status().as_u16();
        // Bodies of this process's own are as large as its own limits allow.
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await;
        (status, bytes.map(|bytes| bytes.to_vec()).unwrap_or_default())
    }
}
