//! How a command reaches the documents: through a running server, or by opening the data directory itself.
//!
//! Both ways speak the HTTP API's JSON, so a command behaves the same either way.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::app::{App, AppError};
use crate::config::Config;
use crate::http::LocalDoor;

use super::args::Global;

/// Longest wait for the indexes of a directory that was just opened; then searches say that they are behind.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);

/// A way to the documents.
pub enum Door {
    /// The data directory, opened by this process.
    Local { app: Box<App>, door: LocalDoor },
    /// A server that runs already.
    Remote(Remote),
}

/// A server and what is needed to talk to it.
pub struct Remote {
    client: reqwest::Client,
    base_url: String,
    key: Option<String>,
}

impl Door {
    /// The server named on the command line; else the data directory; else, if a server holds that, that server.
    pub async fn open(global: &Global, config: Config) -> anyhow::Result<Self> {
        let key = config.client.key();
        if let Some(server) = &global.server {
            return Remote::new(server, key).map(Self::Remote);
        }
        match App::start(config).await {
            Ok(app) => {
                app.catch_up(CATCH_UP_LIMIT).await?;
                let door = app.local_door()?;
                Ok(Self::Local { app: Box::new(app), door })
            }
            Err(AppError::InUse { address: Some(address), .. }) => {
                Remote::new(&format!("http://{address}"), key).map(Self::Remote)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends JSON and returns the JSON of the answer; a problem document becomes an error with its own words.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, value) = self.post_any(path, body).await?;
        if status >= 400 {
            bail!("{}", problem(&value, status));
        }
        Ok(value)
    }

    /// Sends JSON and returns status and JSON of the answer, also of a problem document.
    pub async fn post_any(&self, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let body = serde_json::to_vec(body)?;
        let (status, bytes) = match self {
            Self::Local { door, .. } => door.post(path, body).await,
            Self::Remote(remote) => remote.post(path, body).await?,
        };
        let value: Value = serde_json::from_slice(&bytes)
            .with_context(|| format!("the server answered {status} with something that is not JSON"))?;
        Ok((status, value))
    }

    /// Waits for what is under way and closes the data directory, if this process opened it.
    pub async fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Local { app, .. } => Ok(app.shutdown().await?),
            Self::Remote(_) => Ok(()),
        }
    }
}

impl Remote {
    fn new(server: &str, key: Option<String>) -> anyhow::Result<Self> {
        crate::gateway::install_tls();
        let base_url = server.trim_end_matches('/').to_owned();
        let parsed = url::Url::parse(&base_url).with_context(|| format!("{server} is not a URL"))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            bail!("{server} must begin with http:// or https://");
        }
        Ok(Self { client: reqwest::Client::builder().no_proxy().build()?, base_url, key })
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> anyhow::Result<(u16, Vec<u8>)> {
        let mut request = self.client.post(format!("{}{path}", self.base_url)).body(body);
        request = request.header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.with_context(|| format!("cannot reach {}", self.base_url))?;
        let status = response.status().as_u16();
        Ok((status, response.bytes().await?.to_vec()))
    }
}

/// A problem document in words.
pub fn problem(value: &Value, status: u16) -> String {
    let title = value["title"].as_str().unwrap_or("the request failed");
    let mut text = format!("{status} {title}");
    let errors = value["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    // The detail of a problem with fields names the first of them.
    match value["detail"].as_str() {
        Some(detail) if errors.is_empty() => text.push_str(&format!(": {detail}")),
        _ => {}
    }
    for error in errors {
        let pointer = error["pointer"].as_str().unwrap_or_default();
        text.push_str(&format!("\n  {pointer} {}", error["detail"].as_str().unwrap_or_default()));
    }
    if status == 401 {
        text.push_str("\n  set PLUMB_CLIENT__KEY to a key of that server");
    }
    text
}
