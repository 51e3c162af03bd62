//! The operator's own questions to the database, in SQL.
//!
//! The connection cannot write, whatever a statement says: the file is opened for reading, and `query_only` is on. What
//! is refused by its first word would mostly fail anyway; here it fails with a better sentence.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Executor as _, Row as _, SqlSafeStr as _,
    SqliteConnection, Statement as _, TypeInfo as _, ValueRef as _,
};

use crate::store::StoreError;

use super::failure::{ERROR, INTERRUPT, READ_ONLY, primary_code};

/// What a statement that only reads begins with.
const READING_WORDS: [&str; 4] = ["SELECT", "WITH", "VALUES", "EXPLAIN"];
/// How often SQLite looks at the clock, in steps of its machine: about ten thousand times a second.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;
/// Longest wait for a lock; a server that writes does not hold readers up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A value as SQLite has it.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    /// What is not UTF-8 is replaced.
    Text(String),
    Blob(Vec<u8>),
}

/// What a statement gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub columns: Vec<String>,
    /// As many cells in each as there are columns.
    pub rows: Vec<Vec<Cell>>,
    /// `None`: these are all rows.
    pub cut: Option<Cut>,
}

/// The limit at which reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Rows,
    Bytes,
}

/// How much one statement may take.
#[derive(Debug, Clone, Copy)]
pub struct QueryLimits {
    pub rows: usize,
    /// Text and blobs of all rows; the row that passes it is the last.
    pub bytes: usize,
    /// From the start of the statement to its last row.
    pub time: Duration,
}

/// Why a question has no answer. Shown to the operator as it is.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    #[error("there is no database {path}")]
    Missing { path: String },
    #[error("there is no statement")]
    Empty,
    #[error("there is more than one statement; give them one at a time")]
    Several,
    #[error("{word} is refused: this only reads, with SELECT, WITH, VALUES or EXPLAIN")]
    NotReading { word: String },
    #[error("the statement writes; this only reads")]
    Writing,
    #[error("the statement took longer than {limit:?}")]
    TooLong { limit: Duration },
    #[error("{message}")]
    Refused { message: String },
    #[error("the database cannot be read")]
    Store(#[source] StoreError),
}

/// A connection for questions. A server may hold the data directory meanwhile; each statement sees what is committed.
#[derive(Debug)]
pub struct Console {
    connection: SqliteConnection,
}

impl Console {
    /// Opens the database in the file `path`; makes none where there is none.
    pub async fn open(path: &Path) -> Result<Self, ConsoleError> {
        if !path.exists() {
            return Err(ConsoleError::Missing { path: path.display().to_string() });
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("query_only", "1")
            .disable_statement_logging();
        let connection = options.connect().await.map_err(|error| ConsoleError::Store(error.into()))?;
        Ok(Self { connection })
    }

    /// The rows of one statement, in its order.
    pub async fn query(&mut self, sql: &str, limits: QueryLimits) -> Result<Table, ConsoleError> {
        check(sql)?;
        let deadline = Instant::now() + limits.time;
        let mut handle = self.connection.lock_handle().await.map_err(|error| refusal(error, limits))?;
        handle.set_progress_handler(STEPS_BETWEEN_LOOKS, move || Instant::now() < deadline);
        drop(handle);
        let read = read(&mut self.connection, sql, limits).await;
        read.map_err(|error| refusal(error, limits))
    }

    /// Every table with its columns, as rows of names and types.
    pub async fn tables(&mut self, limits: QueryLimits) -> Result<Table, ConsoleError> {
        const SQL: &str = "SELECT t.name AS 'table', c.name AS 'column', c.type AS type FROM sqlite_schema t \
            JOIN pragma_table_info(t.name) c WHERE t.type = 'table' AND t.name NOT GLOB 'sqlite_*' \
            AND t.name NOT GLOB '_sqlx_*' ORDER BY t.name, c.cid";
        self.query(SQL, limits).await
    }

    pub async fn close(self) -> Result<(), ConsoleError> {
        self.connection.close().await.map_err(|error| ConsoleError::Store(error.into()))
    }
}

async fn read(connection: &mut SqliteConnection, sql: &str, limits: QueryLimits) -> Result<Table, sqlx::Error> {
    // The operator's statement, on a connection that cannot write.
    let statement = connection.prepare(AssertSqlSafe(sql).into_sql_str()).await?;
    let columns: Vec<String> = statement.columns().iter().map(|column| column.name().to_owned()).collect();
    let mut table = Table { columns, rows: Vec::new(), cut: None };
    let mut bytes = 0;
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        if table.rows.len() == limits.rows {
            table.cut = Some(Cut::Rows);
            break;
        }
        if bytes > limits.bytes {
            table.cut = Some(Cut::Bytes);
            break;
        }
        let cells = (0..row.len()).map(|column| cell(&row, column)).collect::<Result<Vec<_>, _>>()?;
        bytes += cells.iter().map(Cell::bytes).sum::<usize>();
        table.rows.push(cells);
    }
    Ok(table)
}

fn cell(row: &SqliteRow, column: usize) -> Result<Cell, sqlx::Error> {
    let raw = row.try_get_raw(column)?;
    if raw.is_null() {
        return Ok(Cell::Null);
    }
    let kind = raw.type_info();
    Ok(match kind.name() {
        "INTEGER" => Cell::Integer(row.try_get_unchecked(column)?),
        "REAL" => Cell::Real(row.try_get_unchecked(column)?),
        "TEXT" => Cell::Text(String::from_utf8_lossy(row.try_get_unchecked(column)?).into_owned()),
        _ => Cell::Blob(row.try_get_unchecked(column)?),
    })
}

impl Cell {
    fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Integer(_) | Self::Real(_) => 8,
            Self::Text(text) => text.len(),
            Self::Blob(blob) => blob.len(),
        }
    }
}

fn refusal(error: sqlx::Error, limits: QueryLimits) -> ConsoleError {
    match (primary_code(&error), &error) {
        (Some(INTERRUPT), _) => ConsoleError::TooLong { limit: limits.time },
        (Some(READ_ONLY), _) => ConsoleError::Writing,
        (Some(ERROR), sqlx::Error::Database(said)) => ConsoleError::Refused { message: said.message().to_owned() },
        _ => ConsoleError::Store(error.into()),
    }
}

/// One statement, of a kind that reads.
fn check(sql: &str) -> Result<(), ConsoleError> {
    let bare = without_quotes_and_comments(sql);
    let statement = bare.trim_matches(|c: char| c == ';' || c.is_whitespace());
    if statement.is_empty() {
        return Err(ConsoleError::Empty);
    }
    if statement.contains(';') {
        return Err(ConsoleError::Several);
    }
    let word: String = statement.chars().take_while(|c| !c.is_whitespace() && *c != '(').collect();
    if READING_WORDS.iter().any(|reading| word.eq_ignore_ascii_case(reading)) {
        return Ok(());
    }
    Err(ConsoleError::NotReading { word: word.chars().take(20).collect() })
}

/// The statement's own words: each quoted part is a `?`, each comment a space.
fn without_quotes_and_comments(sql: &str) -> String {
    let mut bare = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(letter) = rest.chars().next() {
        let (end, instead) = match letter {
            // A doubled quote ends one part and begins the next.
            '\'' | '"' | '`' => (end_after(rest, 1, &letter.to_string()), '?'),
            '[' => (end_after(rest, 1, "]"), '?'),
            '-' if rest.starts_with("--") => (end_after(rest, 2, "\n"), ' '),
            '/' if rest.starts_with("/*") => (end_after(rest, 2, "*/"), ' '),
            other => (other.len_utf8(), other),
        };
        bare.push(instead);
        rest = &rest[end..];
    }
    bare
}

/// Where the part ends that began with so many bytes and goes on to `mark`; what is never ended reaches to the end.
fn end_after(text: &str, opening: usize, mark: &str) -> usize {
    text[opening..].find(mark).map_or(text.len(), |at| opening + at + mark.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_comments_hide_what_is_in_them() {
        for one in [
            "select 1",
            "  SELECT 1 ; ; ",
            "/* ; */ select ';' -- ; \n",
            "select \"a;b\", [c;d], `e;f`, 'it''s; so' from t",
            "with x as (select 1) select * from x",
            "values(1)",
            "explain query plan select 1",
        ] {
            assert!(check(one).is_ok(), "{one}");
        }
        for several in ["select 1; select 2", "select ''; delete from t", "select 1 /* */ ; -- \n x"] {
            assert!(matches!(check(several), Err(ConsoleError::Several)), "{several}");
        }
        for empty in ["", " ; ", "-- select 1", "/* select 1"] {
            assert!(matches!(check(empty), Err(ConsoleError::Empty)), "{empty}");
        }
    }

    #[test]
    fn a_statement_of_another_kind_is_named() {
        for (sql, expected) in [("delete from t", "delete"), ("PRAGMA user_version", "PRAGMA"), ("é", "é")] {
            let Err(ConsoleError::NotReading { word }) = check(sql) else { panic!("{sql} was taken") };
            assert_eq!(word, expected);
        }
    }
}
