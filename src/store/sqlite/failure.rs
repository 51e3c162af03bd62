//! What SQLite's result codes mean for the caller, and which of them end writing.

use std::sync::Arc;

use crate::store::StoreError;

// Primary result codes, https://www.sqlite.org/rescode.html.
pub(super) const ERROR: i32 = 1;
const BUSY: i32 = 5;
pub(super) const READ_ONLY: i32 = 8;
pub(super) const INTERRUPT: i32 = 9;
const IO_ERROR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CONSTRAINT: i32 = 19;
const NOT_A_DATABASE: i32 = 26;

/// What to tell an operator whose database is damaged.
pub(super) const RESTORE_HINT: &str = "restore the data directory from a backup, or move it aside to start empty";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match primary_code(&error) {
            Some(FULL) => Self::Full(error),
            Some(CORRUPT | NOT_A_DATABASE) => Self::Corrupt { detail: format!("{error}; {RESTORE_HINT}") },
            _ => Self::Sql(error),
        }
    }
}

/// What the writer does about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// One write breaks a rule of the schema; its neighbours can do without it.
    Constraint,
    /// The transaction is lost and nothing else.
    Transaction,
    /// The state of the disk is unknown: no write may be acknowledged any more.
    Fatal,
}

/// Where a failure came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Statement,
    /// `COMMIT` or a checkpoint: whatever fails here may have failed in an fsync.
    Sync,
}

/// How bad a failure of the writer is.
///
/// After a failed fsync the kernel may have dropped the pages and marked them clean, so trying again would succeed
/// without writing them: see "Can Applications Recover from fsync Failures?" (Rebello et al., USENIX ATC 2020).
pub(super) fn severity(error: &StoreError, stage: Stage) -> Severity {
    // A row that cannot be read is the trouble of whoever asked for it; what is on the disk is not in doubt.
    if matches!((error, stage), (StoreError::Corrupt { .. }, Stage::Statement)) {
        return Severity::Constraint;
    }
    let StoreError::Sql(error) = error else {
        return if matches!(error, StoreError::Full(_)) { Severity::Transaction } else { Severity::Fatal };
    };
    match (primary_code(error), stage) {
        (Some(CONSTRAINT), _) => Severity::Constraint,
        (Some(BUSY), _) => Severity::Transaction,
        (Some(IO_ERROR) | None, _) | (_, Stage::Sync) => Severity::Fatal,
        (Some(_), Stage::Statement) => Severity::Transaction,
    }
}

/// True if `ROLLBACK` failed only because SQLite had rolled back by itself.
pub(super) fn was_rolled_back_already(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(ERROR)
}

/// The same failure once more, for another caller of the same transaction.
pub(super) fn share(error: StoreError) -> impl Fn() -> StoreError {
    let error = Arc::new(error);
    move || match &*error {
        StoreError::Full(_) => StoreError::Full(sqlx::Error::AnyDriverError(Box::new(Arc::clone(&error)))),
        StoreError::Corrupt { detail } => StoreError::Corrupt { detail: detail.clone() },
        StoreError::Poisoned => StoreError::Poisoned,
        _ => StoreError::Sql(sqlx::Error::AnyDriverError(Box::new(Arc::clone(&error)))),
    }
}

/// SQLite's result code without its extension; `None` for what is not SQLite's.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    // The low byte of an extended code is its primary code.
    code.parse::<i32>().ok().map(|code| code & 0xff)
}
