//! The few kinds of failure that retry policy and HTTP status tell apart.

/// Each room's errors map to one of these in one exhaustive match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is malformed.
    InvalidInput,
    /// The request is well-formed but a value in it is not acceptable.
    Unprocessable,
    Unauthenticated,
    Forbidden,
    NotFound,
    Conflict,
    TooLarge,
    UnsupportedMediaType,
    /// The caller asks too much; trying later helps.
    RateLimited,
    /// The process asks too much of itself or a part is missing; trying later helps.
    Unavailable,
    DeadlineExceeded,
    /// No space left for writes.
    StorageFull,
    /// Stored bytes are not what was written.
    Corrupt,
    /// A model server failed.
    Upstream,
    /// A bug here.
    Internal,
}

super::ledger::words!(ErrorKind: InvalidInput = "invalid_input", Unprocessable = "unprocessable",
    Unauthenticated = "unauthenticated", Forbidden = "forbidden", NotFound = "not_found", Conflict = "conflict",
    TooLarge = "too_large", UnsupportedMediaType = "unsupported_media_type", RateLimited = "rate_limited",
    Unavailable = "unavailable", DeadlineExceeded = "deadline_exceeded", StorageFull = "storage_full",
    Corrupt = "corrupt", Upstream = "upstream", Internal = "internal");

impl ErrorKind {
    /// True if the same call may succeed later without a change.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::RateLimited | Self::Unavailable | Self::DeadlineExceeded | Self::StorageFull | Self::Upstream => true,
            Self::InvalidInput
            | Self::Unprocessable
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::NotFound
            | Self::Conflict
            | Self::TooLarge
            | Self::UnsupportedMediaType
            | Self::Corrupt
            | Self::Internal => false,
        }
    }
}
