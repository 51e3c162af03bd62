//! Counters, gauges and histograms of the process, in the text format of Prometheus.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::error::TelemetryError;
use super::process::{cpu_time, resident_bytes};

/// The process's counters, gauges and histograms.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// The registry of the process, made on first use; the `metrics` macros of every room lead to it.
    pub fn start() -> Result<Self, TelemetryError> {
        static REGISTRY: OnceLock<Result<Metrics, String>> = OnceLock::new();
        let made = REGISTRY.get_or_init(|| install().map(Metrics));
        made.clone().map_err(|detail| TelemetryError::Metrics { detail })
    }

    /// Everything in the text format of Prometheus, with the process's own gauges read now.
    pub fn render(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
        }
        metrics::gauge!("process_cpu_seconds_total").set(cpu_time().as_secs_f64());
        self.0.render()
    }

    /// Folds recorded samples into the histograms; call it every few seconds, or they take memory until the next
    /// [`Metrics::render`].
    pub fn fold(&self) {
        self.0.run_upkeep();
    }
}

fn install() -> Result<PrometheusHandle, String> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| error.to_string())?;
    metrics::gauge!("plumb_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for (name, help) in GAUGES {
        metrics::describe_gauge!(name, help);
    }
    for (name, help) in COUNTERS {
        metrics::describe_counter!(name, help);
    }
    for (name, help) in HISTOGRAMS {
        metrics::describe_histogram!(name, metrics::Unit::Seconds, help);
    }
    Ok(handle)
}

const GAUGES: [(&str, &str); 9] = [
    ("plumb_build_info", "Always 1; the version is a label"),
    ("plumb_http_requests_in_flight", "Requests being worked on"),
    ("plumb_kill_switch", "1 while no model may be called"),
    ("plumb_settings_rejected", "1 while the settings file on disk is not the one in force"),
    ("plumb_index_visible_sequence", "Operation up to which every search sees the truth"),
    ("plumb_task_failure_rate", "Failed among the tasks that ended today (UTC), by kind"),
    ("plumb_tasks", "Tasks that have not ended, by kind and status"),
    ("process_cpu_seconds_total", "CPU time used by the process, user and system"),
    ("process_resident_memory_bytes", "Memory held by the process"),
];
const COUNTERS: [(&str, &str); 18] = [
    ("plumb_http_requests_total", "Requests by route, method and status"),
    ("plumb_index_failures_total", "Times that an index could not follow the truth"),
    ("plumb_index_operations_total", "Operations handed to the indexes"),
    ("plumb_ingest_documents_total", "Documents by what became of them"),
    ("plumb_ingest_embeddings_made_total", "Vectors that were computed"),
    ("plumb_ingest_embeddings_reused_total", "Vectors that an equal text had already"),
    ("plumb_budget_alerts_total", "Budgets that reached their alert"),
    ("plumb_budget_refusals_total", "Model calls that a budget refused"),
    ("plumb_llm_calls_total", "Attempts to call a model, by task, provider, model and outcome"),
    ("plumb_llm_cost_nanousd_total", "What they cost, in billionths of a US dollar"),
    ("plumb_llm_input_tokens_total", "Tokens that models read"),
    ("plumb_llm_output_tokens_total", "Tokens that models wrote"),
    ("plumb_llm_reused_total", "Replies that an equal call had already"),
    ("plumb_search_degraded_total", "Searches that left a stage out, by stage and reason"),
    ("plumb_task_ends_total", "Attempts of tasks that ended, by kind and by what became of the task"),
    ("plumb_task_failures_total", "Attempts of items and tasks that failed, by kind and error"),
    ("plumb_traces_dropped_total", "Traces that should have been kept and could not be, by reason"),
    ("plumb_traces_total", "Requests and tasks that ended, by why their trace was kept"),
];
const HISTOGRAMS: [(&str, &str); 6] = [
    ("plumb_http_request_duration_seconds", "From the head of a request to its response"),
    ("plumb_index_commit_seconds", "Making what was indexed searchable"),
    ("plumb_llm_call_seconds", "One attempt to call a model"),
    ("plumb_search_seconds", "A whole search, by mode"),
    ("plumb_search_stage_seconds", "One stage of a search"),
    ("plumb_task_step_seconds", "One item of a task's step, by kind"),
];

// From a lexical search (under a millisecond) to an answer of a slow model.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_the_process_and_its_version() {
        let text = Metrics::start().unwrap().render();

        assert!(text.contains("process_cpu_seconds_total"));
        assert!(text.contains("plumb_build_info{version="));
    }
}
