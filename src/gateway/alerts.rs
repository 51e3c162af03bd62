//! Tells somebody outside that a budget has reached its alert.

use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::domain::BudgetEvent;

use super::GatewayError;

/// Alerts that may wait for a slow receiver; further ones are dropped and said so in the log.
const ROOM: usize = 64;
/// Attempts for one alert, each after a wait twice as long as the one before.
const ATTEMPTS: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);

/// Hands alerts to whoever sends them on.
#[derive(Clone)]
pub struct Alerts(Option<mpsc::Sender<serde_json::Value>>);

impl Alerts {
    /// Alerts are logged and kept in the ledger, and go nowhere else.
    pub fn none() -> Self {
        Self(None)
    }

    /// Posts each alert as JSON to `url`. The task ends when the last clone is gone.
    pub fn webhook(url: &str) -> Result<(Self, JoinHandle<()>), GatewayError> {
        let invalid = |detail: String| GatewayError::Settings { detail: format!("alert_webhook_url: {detail}") };
        let url: reqwest::Url = url.parse().map_err(|error| invalid(format!("{error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("must begin with http or https".to_owned()));
        }
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| invalid(error.without_url().to_string()))?;
        let (sender, receiver) = mpsc::channel(ROOM);
        Ok((Self(Some(sender)), tokio::spawn(post_all(client, url, receiver))))
    }

    /// Never waits.
    pub fn send(&self, event: &BudgetEvent) {
        let Some(sender) = &self.0 else { return };
        let at = jiff::Timestamp::from_microsecond(event.at.0).unwrap_or_default();
        let alert = json!({
            "event": "budget_alert",
            "budget": event.account.name,
            "period": event.account.period.as_str(),
            "tenant": event.tenant.as_str(),
            "detail": event.detail,
            "at": at.to_string(),
        });
        if sender.try_send(alert).is_err() {
            tracing::error!(budget = event.account.name, "an alert was not sent: too many wait for the webhook");
        }
    }
}

async fn post_all(client: reqwest::Client, url: reqwest::Url, mut alerts: mpsc::Receiver<serde_json::Value>) {
    while let Some(alert) = alerts.recv().await {
        let mut wait = FIRST_WAIT;
        for attempt in 1..=ATTEMPTS {
            let sent = client.post(url.clone()).json(&alert).send().await.and_then(reqwest::Response::error_for_status);
            match sent.map_err(reqwest::Error::without_url) {
                Ok(_) => break,
                Err(error) if attempt == ATTEMPTS => tracing::error!(%error, "an alert could not be sent"),
                Err(error) => tracing::warn!(%error, attempt, "an alert was not taken; trying again"),
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::domain::{Account, BudgetAction, BudgetPeriod, TenantId, Timestamp};

    fn event() -> BudgetEvent {
        let account = Account { name: "tenant:acme".to_owned(), period: BudgetPeriod::Day, since: Timestamp(0) };
        BudgetEvent {
            at: Timestamp(1_000_000),
            tenant: TenantId::new("acme").unwrap(),
            account,
            action: BudgetAction::Alert,
            call_id: None,
            detail: "half is spent".to_owned(),
        }
    }

    #[tokio::test]
    async fn an_alert_that_is_not_taken_is_sent_again() {
        super::super::install_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (alerts, _task) = Alerts::webhook(&format!("http://{}/hook", listener.local_addr().unwrap())).unwrap();

        alerts.send(&event());
        let mut seen = Vec::new();
        for status in ["503 Service Unavailable", "204 No Content"] {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            while !String::from_utf8_lossy(&bytes).contains("half is spent") {
                assert!(connection.read_buf(&mut bytes).await.unwrap() > 0);
            }
            seen.push(String::from_utf8(bytes).unwrap());
            let reply = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            connection.write_all(reply.as_bytes()).await.unwrap();
        }

        assert!(seen.iter().all(|request| request.starts_with("POST /hook ")));
        assert!(seen[1].contains("\"budget\":\"tenant:acme\"") && seen[1].contains("\"event\":\"budget_alert\""));
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused_at_start() {
        super::super::install_tls();

        assert!(Alerts::webhook("ftp://example.org").is_err());
        assert!(Alerts::webhook("not an address").is_err());
    }
}
