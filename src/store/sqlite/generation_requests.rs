//! What callers ask of the writer about generations as a whole, and about what they are judged by.

use sqlx::SqliteConnection;

use crate::domain::{
    CollectionName, ContentHash, GenerationId, GenerationPlan, GenerationStatus, Profile, TaskId, TenantId, Timestamp,
};
use crate::store::{EvalCase, GenerationChange, Remains, ShadowSearch, StoreError};

use super::removal::UnusedVectors;
use super::task_requests::Reply;
use super::writer::Answer;
use super::{case_rows, generation_writes, removal};

/// A request of one tenant.
#[derive(Debug)]
pub(super) struct GenerationRequest {
    pub tenant: TenantId,
    pub deed: GenerationDeed,
}

#[derive(Debug)]
pub(super) enum GenerationDeed {
    Begin {
        collection: CollectionName,
        profile: Box<Profile>,
        plan: Box<GenerationPlan>,
    },
    Plan(GenerationId, Box<GenerationPlan>),
    Assign(GenerationId, TaskId),
    Change(GenerationId, GenerationChange),
    /// Up to so many rows, and those of these vectors that no chunk uses.
    Remove {
        id: GenerationId,
        limit: usize,
        unused: Option<UnusedVectors>,
    },
    KeepContexts(Vec<(ContentHash, String)>),
    PutCases {
        collection: CollectionName,
        cases: Vec<EvalCase>,
    },
    DeleteCase {
        collection: CollectionName,
        name: String,
    },
    RecordShadow(Vec<ShadowSearch>),
}

/// What a request about generations is told.
#[derive(Debug)]
pub(super) enum GenerationAnswer {
    Done,
    /// `None`: there is no such generation.
    Status(Option<Box<GenerationStatus>>),
    Remains(Remains),
    /// How many cases the collection has, or how many went.
    Cases(u64),
}

impl GenerationRequest {
    /// About how much text it carries.
    pub(super) fn bytes(&self) -> usize {
        match &self.deed {
            GenerationDeed::KeepContexts(texts) => texts.iter().map(|(_, text)| text.len()).sum(),
            GenerationDeed::PutCases { cases, .. } => cases.iter().map(|case| case.query.len()).sum(),
            _ => 0,
        }
    }

    /// Whether a collection may be another one afterwards.
    pub(super) fn changes_collections(&self) -> bool {
        use GenerationDeed::{Begin, Change, Plan};
        matches!(self.deed, Begin { .. } | Plan(..) | Change(..))
    }
}

/// Applies one request. The outer error is the transaction's.
pub(super) async fn apply(
    connection: &mut SqliteConnection,
    GenerationRequest { tenant, deed }: &GenerationRequest,
    now: Timestamp,
) -> Result<Reply, StoreError> {
    let answer = match deed {
        GenerationDeed::Begin { collection, profile, plan } => {
            generation_writes::begin(connection, (tenant, collection), (profile, plan), now).await?
        }
        GenerationDeed::Plan(id, plan) => Ok(generation_writes::plan(connection, tenant, *id, plan).await?),
        GenerationDeed::Assign(id, task) => Ok(generation_writes::assign(connection, tenant, *id, *task).await?),
        GenerationDeed::Change(id, change) => {
            generation_writes::change(connection, tenant, (*id, *change), now).await?
        }
        GenerationDeed::Remove { id, limit, unused } => {
            removal::remove(connection, (tenant, *id), (*limit, unused.as_ref()), now).await?
        }
        GenerationDeed::KeepContexts(texts) => Ok(case_rows::keep_contexts(connection, tenant, texts, now).await?),
        GenerationDeed::PutCases { collection, cases } => {
            case_rows::put_cases(connection, (tenant, collection), cases, now).await?
        }
        GenerationDeed::DeleteCase { collection, name } => {
            Ok(case_rows::delete_case(connection, (tenant, collection), name).await?)
        }
        GenerationDeed::RecordShadow(searches) => Ok(case_rows::record_shadow(connection, tenant, searches).await?),
    };
    Ok(answer.map(Answer::Generations))
}
