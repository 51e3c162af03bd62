//! What a user may type after `plumb reindex` and `plumb generations`.

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct ReindexArguments {
    /// Collection to build another generation of.
    #[arg(long, default_value = "default")]
    pub collection: String,
    /// What differs from the live profile: JSON, or a file (JSON or TOML) that holds it.
    #[arg(long, value_name = "FILE|JSON")]
    pub profile: String,
    /// Share of the documents that are built, to be judged; 1 if absent.
    #[arg(long, value_name = "SHARE")]
    pub sample: Option<f64>,
    /// Share of the documents that are served from it once it is built; none if absent.
    #[arg(long, value_name = "SHARE")]
    pub share: Option<f64>,
    /// Only documents that pass this filter are served from it.
    #[arg(long, value_name = "JSON")]
    pub filter: Option<String>,
    /// Share of the searches that it is asked as well, unseen.
    #[arg(long, value_name = "SHARE")]
    pub shadow: Option<f64>,
    /// Promote it by itself once its gain is beyond doubt, and retire it once its loss is.
    #[arg(long)]
    pub automatic: bool,
    /// Watch it until it is built; exit code 1 if that fails.
    #[arg(long)]
    pub watch: bool,
    /// Print the JSON of the HTTP API as it came.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct GenerationsArguments {
    #[command(subcommand)]
    pub command: GenerationsCommand,
    /// Print the JSON of the HTTP API as it came.
    #[arg(long, global = true)]
    pub json: bool,
}

/// What can be done with generations. An id may be cut to a unique beginning of at least 6 digits.
#[derive(Debug, Subcommand)]
pub enum GenerationsCommand {
    /// List generations, the oldest first.
    List {
        /// Of one collection; of all if absent.
        #[arg(long)]
        collection: Option<String>,
    },
    /// Show a generation with its profile and plan.
    Show { id: String },
    /// Change who is served from a generation in shadow, how many searches it sees, and who promotes it.
    Plan(PlanArguments),
    /// Serve all documents from a generation, and new ones too.
    Promote {
        id: String,
        /// Even if documents are not built in it yet.
        #[arg(long)]
        force: bool,
    },
    /// Go back to the generation before a live one, or serve nobody from one in shadow.
    Rollback { id: String },
    /// Take a generation out of service for good, and remove it.
    Retire { id: String },
    /// Compare a generation with the live one: labelled queries, shadow searches, cost.
    Report { id: String },
}

#[derive(Debug, Args)]
pub struct PlanArguments {
    pub id: String,
    /// Share of the documents that are served from it, by lot.
    #[arg(long, value_name = "SHARE")]
    pub share: Option<f64>,
    /// Only documents that pass this filter are served from it; `null`: all.
    #[arg(long, value_name = "JSON")]
    pub filter: Option<String>,
    /// Share of the searches that it is asked as well, unseen.
    #[arg(long, value_name = "SHARE")]
    pub shadow: Option<f64>,
    /// Who promotes it: `manual` or `automatic`.
    #[arg(long)]
    pub promotion: Option<String>,
}
