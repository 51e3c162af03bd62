-- Durable work: tasks, the finished items of their steps, what failed, and who works on what.
--
-- Times are microseconds since 1970 (UTC); they are shown, and decide only when something may start. Order comes from
-- ids, leases from epochs and beats. Ids are text as responses and logs show them, and tenants stand by name.

-- One row for each run of a task.
CREATE TABLE tasks (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id        TEXT    NOT NULL,
    run            INTEGER NOT NULL,
    -- 1 for the newest run of a task.
    is_latest      INTEGER NOT NULL CHECK (is_latest IN (0, 1)),
    tenant         TEXT    NOT NULL,
    kind           TEXT    NOT NULL,
    status         TEXT    NOT NULL CHECK (status IN
                       ('queued', 'waiting', 'running', 'paused', 'succeeded', 'failed', 'cancelled')),
    -- On whose behalf. A JSON array of principals; NULL: all documents of the tenant.
    principals     TEXT,
    -- A JSON array.
    permissions    TEXT    NOT NULL,
    key_id         TEXT,
    priority       INTEGER NOT NULL,
    -- Claims since the last one that brought the task further, and how many items were recorded at that claim.
    tries          INTEGER NOT NULL,
    done_at_claim  INTEGER NOT NULL,
    -- Grows with each claim: writes of a smaller epoch are refused.
    epoch          INTEGER NOT NULL,
    -- Who holds it; NULL unless it runs.
    runner         TEXT,
    wish           TEXT    CHECK (wish IN ('cancel', 'pause')),
    total          INTEGER,
    error_kind     TEXT,
    error          TEXT,
    prompt_name    TEXT,
    prompt_version TEXT,
    prompt_hash    TEXT,
    model          TEXT,
    forked_from    TEXT,
    session_id     TEXT,
    trace_id       TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    -- Not before; and how long that was when it was decided, which bounds the wait where a clock was set.
    ready_at       INTEGER NOT NULL,
    wait_us        INTEGER NOT NULL,
    started_at     INTEGER,
    finished_at    INTEGER,
    UNIQUE (tenant, task_id, run)
) STRICT;

CREATE UNIQUE INDEX tasks_latest ON tasks (tenant, task_id) WHERE is_latest = 1;
CREATE INDEX tasks_queued ON tasks (tenant, kind, priority DESC, id) WHERE status = 'queued';
CREATE INDEX tasks_waiting ON tasks (ready_at) WHERE status = 'waiting';
CREATE INDEX tasks_running ON tasks (runner, tenant, kind) WHERE status = 'running';
CREATE INDEX tasks_of_tenant ON tasks (tenant, id) WHERE is_latest = 1;
CREATE INDEX tasks_of_status ON tasks (tenant, status, id) WHERE is_latest = 1;
CREATE INDEX tasks_of_kind ON tasks (tenant, kind, id) WHERE is_latest = 1;
CREATE INDEX tasks_of_trace ON tasks (trace_id);
CREATE INDEX tasks_by_end ON tasks (finished_at, tenant, kind, status) WHERE finished_at IS NOT NULL;

-- Apart from the rows that change, since SQLite writes a row as a whole.
CREATE TABLE task_inputs (
    -- tasks.id
    task      INTEGER PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    -- A JSON object: the inputs of steps that a fork changed, each as JSON text. Before the input, which may be long.
    overrides TEXT NOT NULL,
    input     TEXT NOT NULL
) STRICT;

CREATE TABLE task_outputs (
    task   INTEGER PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    output TEXT NOT NULL
) STRICT;

-- The finished items of each step. Rows stand in the order in which they were written, whatever task they belong to: a
-- transaction with items of many tasks fills few pages. How many a task has is read from the index alone.
CREATE TABLE task_steps (
    id          INTEGER PRIMARY KEY,
    task        INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    -- Place of the step in the task.
    position    INTEGER NOT NULL,
    step        TEXT    NOT NULL,
    item        INTEGER NOT NULL,
    items       INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    -- 1: taken over from another run or task.
    is_copy     INTEGER NOT NULL DEFAULT 0 CHECK (is_copy IN (0, 1)),
    started_at  INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    input_hash  TEXT    NOT NULL,
    input       TEXT    NOT NULL,
    output      TEXT    NOT NULL,
    UNIQUE (task, step, item)
) STRICT;

-- Each failed attempt.
CREATE TABLE task_failures (
    id             INTEGER PRIMARY KEY,
    task           INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    task_id        TEXT    NOT NULL,
    run            INTEGER NOT NULL,
    tenant         TEXT    NOT NULL,
    kind           TEXT    NOT NULL,
    step           TEXT,
    item           INTEGER,
    input_hash     TEXT,
    error_kind     TEXT    NOT NULL,
    error          TEXT    NOT NULL,
    model          TEXT,
    prompt_version TEXT,
    trace_id       TEXT    NOT NULL,
    attempt        INTEGER NOT NULL,
    is_final       INTEGER NOT NULL CHECK (is_final IN (0, 1)),
    at             INTEGER NOT NULL
) STRICT;

CREATE INDEX task_failures_of_task ON task_failures (task);
CREATE INDEX task_failures_by_time ON task_failures (at, tenant, kind);

-- Calls to language models that a step has begun and not yet recorded, each with the most it can have cost. One that
-- outlives its lease becomes a row of llm_calls with the outcome `unknown`.
CREATE TABLE task_calls (
    call_id       TEXT    PRIMARY KEY,
    task          INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    position      INTEGER NOT NULL,
    item          INTEGER NOT NULL,
    tenant        TEXT    NOT NULL,
    trace_id      TEXT    NOT NULL,
    -- As llm_calls.task has it.
    purpose       TEXT    NOT NULL,
    session_id    TEXT,
    key_id        TEXT,
    provider      TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    prompt_name   TEXT,
    prompt_version TEXT,
    prompt_hash   TEXT,
    opened_at     INTEGER NOT NULL,
    input_tokens  INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_nanousd  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX task_calls_of_item ON task_calls (task, position, item);

-- How many tasks are in each state that is not an end; rows of none go. Kept by triggers, so that a limit or the first
-- task in line is found in the same time whether ten tasks wait or a million.
CREATE TABLE task_counts (
    status TEXT    NOT NULL,
    tenant TEXT    NOT NULL,
    kind   TEXT    NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (status, tenant, kind)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER tasks_counted AFTER INSERT ON tasks
WHEN NEW.status IN ('queued', 'waiting', 'running', 'paused') BEGIN
    INSERT INTO task_counts (status, tenant, kind, number) VALUES (NEW.status, NEW.tenant, NEW.kind, 1)
        ON CONFLICT (status, tenant, kind) DO UPDATE SET number = number + 1;
END;

CREATE TRIGGER tasks_recounted AFTER UPDATE OF status ON tasks
WHEN NEW.status <> OLD.status BEGIN
    UPDATE task_counts SET number = number - 1
        WHERE status = OLD.status AND tenant = OLD.tenant AND kind = OLD.kind;
    DELETE FROM task_counts
        WHERE status = OLD.status AND tenant = OLD.tenant AND kind = OLD.kind AND number = 0;
    INSERT INTO task_counts (status, tenant, kind, number) SELECT NEW.status, NEW.tenant, NEW.kind, 1
        WHERE NEW.status IN ('queued', 'waiting', 'running', 'paused')
        ON CONFLICT (status, tenant, kind) DO UPDATE SET number = number + 1;
END;

CREATE TRIGGER tasks_uncounted AFTER DELETE ON tasks
WHEN OLD.status IN ('queued', 'waiting', 'running', 'paused') BEGIN
    UPDATE task_counts SET number = number - 1
        WHERE status = OLD.status AND tenant = OLD.tenant AND kind = OLD.kind;
    DELETE FROM task_counts
        WHERE status = OLD.status AND tenant = OLD.tenant AND kind = OLD.kind AND number = 0;
END;

-- Who works: a runner whose beat stands still for longer than a lease is dead to the others.
CREATE TABLE runners (
    runner TEXT    PRIMARY KEY,
    beat   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What GET /failures?by=day shows: tasks that ended by day and kind, and attempts that failed.
CREATE VIEW task_days (day, tenant, kind, succeeded, failed, failures) AS
    SELECT day, tenant, kind, SUM(succeeded), SUM(failed), SUM(failures) FROM (
        SELECT date(finished_at / 1000000, 'unixepoch') AS day, tenant, kind,
            status = 'succeeded' AS succeeded, status = 'failed' AS failed, 0 AS failures
        FROM tasks WHERE finished_at IS NOT NULL AND status IN ('succeeded', 'failed')
        UNION ALL
        SELECT date(at / 1000000, 'unixepoch'), tenant, kind, 0, 0, 1 FROM task_failures
    ) GROUP BY day, tenant, kind;

PRAGMA user_version = 3;
