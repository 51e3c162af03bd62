-- The ledger: calls to language models, budgets, traces. Read it with any SQL client; README has ready queries.
--
-- Times are microseconds since 1970 (UTC): datetime(started_at / 1000000, 'unixepoch'). Money is in billionths of a
-- US dollar. Ids are text as responses and logs show them, and tenants stand by name: these tables are for people.

CREATE TABLE llm_calls (
    id                  INTEGER PRIMARY KEY,
    call_id             TEXT    NOT NULL,
    attempt             INTEGER NOT NULL,
    trace_id            TEXT    NOT NULL,
    span_id             TEXT    NOT NULL,
    tenant              TEXT    NOT NULL,
    task                TEXT    NOT NULL,
    session_id          TEXT,
    key_id              TEXT,
    provider            TEXT    NOT NULL,
    model               TEXT    NOT NULL,
    answered_model      TEXT,
    prompt_name         TEXT,
    prompt_version      TEXT,
    prompt_hash         TEXT,
    started_at          INTEGER NOT NULL,
    latency_us          INTEGER NOT NULL,
    first_token_us      INTEGER,
    outcome             TEXT    NOT NULL,
    status              INTEGER,
    finish              TEXT,
    is_streamed         INTEGER NOT NULL,
    cache               TEXT    NOT NULL CHECK (cache IN ('miss', 'exact', 'semantic', 'coalesced')),
    input_tokens        INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    output_tokens       INTEGER NOT NULL,
    usage_source        TEXT    NOT NULL CHECK (usage_source IN ('none', 'reported', 'estimated', 'worst_case')),
    cost_nanousd        INTEGER NOT NULL,
    request_body        TEXT,
    response_body       TEXT,
    UNIQUE (call_id, attempt)
) STRICT;

CREATE INDEX llm_calls_of_trace ON llm_calls (trace_id);
CREATE INDEX llm_calls_of_session ON llm_calls (tenant, session_id) WHERE session_id IS NOT NULL;
CREATE INDEX llm_calls_by_time ON llm_calls (tenant, started_at);

-- A request or task as a whole. Those with errors, slow ones and those that called a model are always kept.
CREATE TABLE traces (
    id          INTEGER PRIMARY KEY,
    trace_id    TEXT    NOT NULL,
    tenant      TEXT,
    name        TEXT    NOT NULL,
    started_at  INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    status      INTEGER NOT NULL,
    kept        TEXT    NOT NULL
) STRICT;

CREATE INDEX traces_of_trace ON traces (trace_id);
CREATE INDEX traces_by_time ON traces (started_at);

-- Ten for each request: one tree that only grows at its end, and the trace id stands once, in `traces`.
CREATE TABLE spans (
    -- traces.id
    request_id     INTEGER NOT NULL REFERENCES traces (id) ON DELETE CASCADE,
    -- From 0, as the spans ended.
    ordinal        INTEGER NOT NULL,
    span_id        TEXT    NOT NULL,
    parent_span_id TEXT,
    name           TEXT    NOT NULL,
    started_at     INTEGER NOT NULL,
    duration_us    INTEGER NOT NULL,
    is_error       INTEGER NOT NULL,
    -- JSON.
    attributes     TEXT    NOT NULL,
    PRIMARY KEY (request_id, ordinal)
) STRICT, WITHOUT ROWID;

CREATE TABLE searches (
    id            INTEGER PRIMARY KEY,
    trace_id      TEXT    NOT NULL,
    tenant        TEXT    NOT NULL,
    collection    TEXT    NOT NULL,
    mode          TEXT    NOT NULL,
    generation    TEXT,
    top_k         INTEGER NOT NULL,
    hits          INTEGER NOT NULL,
    started_at    INTEGER NOT NULL,
    took_us       INTEGER NOT NULL,
    embed_us      INTEGER NOT NULL,
    lexical_us    INTEGER NOT NULL,
    vector_us     INTEGER NOT NULL,
    fusion_us     INTEGER NOT NULL,
    rerank_us     INTEGER NOT NULL,
    hydrate_us    INTEGER NOT NULL,
    -- A JSON array of `stage:reason`.
    degraded      TEXT    NOT NULL
) STRICT;

CREATE INDEX searches_of_trace ON searches (trace_id);
CREATE INDEX searches_by_time ON searches (started_at);

-- Caps that were set at run time; those of the configuration file are not here.
CREATE TABLE budgets (
    scope         TEXT    NOT NULL,
    period        TEXT    NOT NULL CHECK (period IN ('day', 'month', 'total')),
    limit_nanousd INTEGER,
    limit_tokens  INTEGER,
    limit_calls   INTEGER,
    alert_at      REAL    NOT NULL,
    updated_at    INTEGER NOT NULL,
    PRIMARY KEY (scope, period)
) STRICT;

-- What was spent from each account: one instance of a budget in one period.
CREATE TABLE budget_spending (
    account      TEXT    NOT NULL,
    period       TEXT    NOT NULL CHECK (period IN ('day', 'month', 'total')),
    since        INTEGER NOT NULL,
    cost_nanousd INTEGER NOT NULL,
    tokens       INTEGER NOT NULL,
    calls        INTEGER NOT NULL,
    PRIMARY KEY (account, period, since)
) STRICT, WITHOUT ROWID;

CREATE INDEX budget_spending_by_time ON budget_spending (period, since);

-- The worst case of each call that is under way. A row that outlives its process counts until it is resolved.
CREATE TABLE budget_reservations (
    call_id      TEXT    NOT NULL,
    tenant       TEXT    NOT NULL,
    account      TEXT    NOT NULL,
    period       TEXT    NOT NULL,
    since        INTEGER NOT NULL,
    cost_nanousd INTEGER NOT NULL,
    tokens       INTEGER NOT NULL,
    calls        INTEGER NOT NULL,
    made_at      INTEGER NOT NULL,
    PRIMARY KEY (call_id, account, period)
) STRICT, WITHOUT ROWID;

CREATE TABLE budget_events (
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    tenant  TEXT    NOT NULL,
    account TEXT    NOT NULL,
    period  TEXT    NOT NULL,
    since   INTEGER NOT NULL,
    action  TEXT    NOT NULL CHECK (action IN ('alert', 'refused', 'cut', 'resolved')),
    call_id TEXT,
    detail  TEXT    NOT NULL
) STRICT;

CREATE INDEX budget_events_by_time ON budget_events (at);

PRAGMA user_version = 2;
