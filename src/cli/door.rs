//! How a command reaches the documents: through a running server, or by opening the data directory itself.
//!
//! Both ways speak the HTTP API's JSON, so a command behaves the same either way.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use crate::app::{App, AppError};
use crate::config::Config;
use crate::http::LocalDoor;

use super::args::Global;
use super::events::{Event, events};

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

    /// As [`Self::post`], in place of what is there.
    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = serde_json::to_vec(body)?;
        let (status, bytes) = match self {
            Self::Local { door, .. } => door.put(path, body).await,
            Self::Remote(remote) => remote.put(path, body).await?,
        };
        let value = json(status, &bytes)?;
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
        Ok((status, json(status, &bytes)?))
    }

    /// Asks and returns the JSON of the answer; a problem document becomes an error with its own words.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let (status, bytes) = match self {
            Self::Local { door, .. } => door.get(path).await,
            Self::Remote(remote) => remote.get(path).await?,
        };
        let value = json(status, &bytes)?;
        if status >= 400 {
            bail!("{}", problem(&value, status));
        }
        Ok(value)
    }

    /// Asks for a stream of events and returns them as they come; a problem document becomes an error.
    pub async fn follow(&self, path: &str) -> anyhow::Result<BoxStream<'static, anyhow::Result<Event>>> {
        let (status, mut frames) = match self {
            Self::Local { door, .. } => {
                let (status, frames) = door.stream(path).await;
                (status, frames.map(anyhow::Ok).boxed())
            }
            Self::Remote(remote) => remote.stream(path).await?,
        };
        if status < 400 {
            return Ok(events(frames));
        }
        let mut bytes = Vec::new();
        while let Some(frame) = frames.try_next().await? {
            bytes.extend_from_slice(&frame);
        }
        bail!("{}", problem(&json(status, &bytes)?, status));
    }

    /// Has the tasks that are in line done, if this process opened the data directory; a server does them anyway.
    pub fn work_on_tasks(&self) {
        if let Self::Local { app, .. } = self {
            app.work_on_tasks();
        }
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
        let request = self.client.post(self.url(path)).body(body).header("content-type", "application/json");
        whole(self.send(request).await?).await
    }

    async fn put(&self, path: &str, body: Vec<u8>) -> anyhow::Result<(u16, Vec<u8>)> {
        let request = self.client.put(self.url(path)).body(body).header("content-type", "application/json");
        whole(self.send(request).await?).await
    }

    async fn get(&self, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
        whole(self.send(self.client.get(self.url(path))).await?).await
    }

    async fn stream(&self, path: &str) -> anyhow::Result<(u16, BoxStream<'static, anyhow::Result<Bytes>>)> {
        let response = self.send(self.client.get(self.url(path))).await?;
        Ok((response.status().as_u16(), response.bytes_stream().map_err(Into::into).boxed()))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url)
    }

    async fn send(&self, mut request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        request.send().await.with_context(|| format!("cannot reach {}", self.base_url))
    }
}

async fn whole(response: reqwest::Response) -> anyhow::Result<(u16, Vec<u8>)> {
    let status = response.status().as_u16();
    Ok((status, response.bytes().await?.to_vec()))
}

fn json(status: u16, bytes: &[u8]) -> anyhow::Result<Value> {
    serde_json::from_slice(bytes)
        .with_context(|| format!("the server answered {status} with something that is not JSON"))
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
