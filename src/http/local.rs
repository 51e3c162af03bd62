//! The API without a socket: for commands that open the data directory themselves.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, header};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::ready;
use futures::stream::BoxStream;
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
        whole(self.send(Method::POST, path, Body::from(body)).await).await
    }

    /// As [`Self::post`], for what is put in place of something.
    pub async fn put(&self, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        whole(self.send(Method::PUT, path, Body::from(body)).await).await
    }

    /// Status and body of the answer to a request without a body.
    pub async fn get(&self, path: &str) -> (u16, Vec<u8>) {
        whole(self.send(Method::GET, path, Body::empty()).await).await
    }

    /// As [`Self::get`], with the body as it comes; it ends early if it breaks off.
    pub async fn stream(&self, path: &str) -> (u16, BoxStream<'static, Bytes>) {
        let response = self.send(Method::GET, path, Body::empty()).await;
        let status = response.status().as_u16();
        let frames = response.into_body().into_data_stream();
        (status, frames.take_while(|frame| ready(frame.is_ok())).filter_map(|frame| ready(frame.ok())).boxed())
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Response {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .expect("callers ask for paths of this API");
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

async fn whole(response: Response) -> (u16, Vec<u8>) {
    let status = response.status().as_u16();
    // Bodies of this process's own are as large as its own limits allow.
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await;
    (status, bytes.map(|bytes| bytes.to_vec()).unwrap_or_default())
}
