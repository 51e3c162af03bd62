//! Statements that add many rows at once.
//!
//! A statement's round trip to its connection's thread costs more than what SQLite does in it, so rows travel in
//! blocks. A block that is not full is padded with NULL rows, which keeps the number of prepared statements small.

use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type};

use crate::store::StoreError;

/// Rows of one statement.
const BLOCK_SIZES: [usize; 3] = [1, 8, 64];
/// The same where the numbers of rows of several tables vary independently: fewer sizes make fewer scripts, and seven
/// rows of padding cost less than preparing one more.
const STEADY_BLOCK_SIZES: [usize; 2] = [8, 64];

/// Statements that are sent together, with their parameters one after the other.
///
/// Parameters have no names: sqlx asks SQLite for each one's, which takes time in proportion to their number.
pub(super) struct Script<'c> {
    connection: &'c mut SqliteConnection,
    sql: String,
    parameters: Parameters,
}

impl<'c> Script<'c> {
    pub(super) fn new(connection: &'c mut SqliteConnection) -> Self {
        Self { connection, sql: String::new(), parameters: Parameters::default() }
    }

    /// Adds a statement over a JSON list, unless the list is empty.
    pub(super) fn list<T>(&mut self, sql: &'static str, items: &[T], to_json: impl Fn(&T) -> String) {
        if items.is_empty() {
            return;
        }
        let items: Vec<String> = items.iter().map(to_json).collect();
        self.parameters.add(format!("[{}]", items.join(",")));
        self.push(sql);
    }

    /// Adds one statement with the parameters that `bind` gives.
    pub(super) fn add(&mut self, sql: &'static str, bind: impl FnOnce(&mut Parameters)) {
        bind(&mut self.parameters);
        self.push(sql);
    }

    /// Adds rows in blocks. Large blocks leave at once, so that the scripts differ in few ways and stay prepared.
    pub(super) async fn insert<R>(
        &mut self,
        insert: &Insert,
        rows: &[R],
        bind: impl Fn(&R, &mut Parameters),
    ) -> Result<(), StoreError> {
        let mut rest = rows;
        while !rest.is_empty() {
            let fits = |(size, _): &&(usize, String)| *size >= rest.len();
            let (size, sql) = insert.statements.iter().find(fits).unwrap_or(insert.largest());
            let (block, behind) = rest.split_at(rest.len().min(*size));
            let is_large = *size == insert.largest().0;
            if is_large {
                self.flush().await?;
            }
            block.iter().for_each(|row| bind(row, &mut self.parameters));
            (0..(size - block.len()) * insert.columns).for_each(|_| self.parameters.add_null());
            self.push(sql);
            if is_large {
                self.flush().await?;
            }
            rest = behind;
        }
        Ok(())
    }

    fn push(&mut self, sql: &str) {
        if !self.sql.is_empty() {
            self.sql.push(';');
        }
        self.sql.push_str(sql);
    }

    pub(super) async fn flush(&mut self) -> Result<(), StoreError> {
        if self.sql.is_empty() {
            return Ok(());
        }
        let parameters = std::mem::take(&mut self.parameters);
        // Put together from this file's own text: no value is ever part of a statement.
        let sql = AssertSqlSafe(std::mem::take(&mut self.sql));
        sqlx::query_with(sql, parameters.0).execute(&mut *self.connection).await?;
        Ok(())
    }
}

/// Collects the parameters of a script.
#[derive(Default)]
pub(super) struct Parameters(SqliteArguments);

impl Parameters {
    pub(super) fn add<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> &mut Self {
        self.0.add(value).expect("integers, texts and blobs can always be bound");
        self
    }

    pub(super) fn add_count(&mut self, count: usize) -> &mut Self {
        self.add(i64::try_from(count).expect("sizes in memory fit 63 bits"))
    }

    /// As far as SQLite can count: beyond it the largest number it knows.
    pub(super) fn add_saturated(&mut self, number: u64) -> &mut Self {
        self.add(i64::try_from(number).unwrap_or(i64::MAX))
    }

    pub(super) fn add_null(&mut self) {
        self.add(None::<i64>);
    }
}

/// One table's insert statements, by how many rows they take.
pub(super) struct Insert {
    columns: usize,
    /// Smallest first.
    statements: Vec<(usize, String)>,
}

impl Insert {
    pub(super) fn into(table: &str, columns: &[&str], conflict: &str) -> Self {
        Self::in_blocks(&BLOCK_SIZES, table, columns, conflict)
    }

    /// With few sizes of blocks; the columns are in one text, between commas.
    pub(super) fn steady(table: &str, columns: &str, conflict: &str) -> Self {
        Self::in_blocks(&STEADY_BLOCK_SIZES, table, &columns.split(", ").collect::<Vec<_>>(), conflict)
    }

    fn in_blocks(sizes: &[usize], table: &str, columns: &[&str], conflict: &str) -> Self {
        let row = format!("({})", vec!["?"; columns.len()].join(","));
        let statement = |rows: usize| {
            let (columns, values) = (columns.join(", "), vec![row.as_str(); rows].join(","));
            format!(
                "INSERT INTO {table} ({columns}) SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL {conflict}"
            )
        };
        Self { columns: columns.len(), statements: sizes.iter().map(|rows| (*rows, statement(*rows))).collect() }
    }

    fn largest(&self) -> &(usize, String) {
        self.statements.last().expect("every table has statements")
    }
}
