//! Why telemetry cannot start.

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("log_filter {filter:?} is not a filter such as \"info,plumb::search=debug\"")]
    Filter {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("logging was started twice")]
    Twice,
    #[error("the metrics registry cannot be built: {detail}")]
    Metrics { detail: String },
    #[error("the exporter of traces cannot be built")]
    Exporter {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
