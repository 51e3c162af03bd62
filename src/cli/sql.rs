//! `plumb sql`: a question to the database, and its answer as a table, JSON or CSV.
//!
//! It reads the file itself, also while a server holds the data directory.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use serde_json::Value;

use crate::store::{Cell, Console, Cut, DataDirectory, QueryLimits, Table};

use super::args::{SqlArguments, TableFormat};
use super::output::{remark, say};
use super::table::{printable, push_line};

/// Longest time for one statement.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// Most text that is read, so that a careless `SELECT *` does not fill the memory.
const BYTES_LIMIT: usize = 64 << 20;

/// Asks and prints. Fails if there is no data directory, or if the statement is refused.
pub async fn run(data_dir: &Path, arguments: &SqlArguments) -> anyhow::Result<()> {
    if !data_dir.exists() {
        bail!("there is no data directory {}; ingest something first, or name another one", data_dir.display());
    }
    let limits = QueryLimits { rows: arguments.limit, bytes: BYTES_LIMIT, time: TIME_LIMIT };
    let mut console = Console::open(&DataDirectory::database_in(data_dir)).await?;
    let answer = match &arguments.query {
        Some(sql) => console.query(sql, limits).await,
        None => console.tables(limits).await,
    };
    console.close().await?;
    let table = answer?;
    say(&match arguments.format {
        TableFormat::Table => text(&table),
        TableFormat::Json => json(&table),
        TableFormat::Csv => csv(&table),
    })?;
    match table.cut {
        None => {}
        Some(Cut::Rows) => remark(&format!("cut at {} rows; --limit takes more\n", table.rows.len())),
        Some(Cut::Bytes) => remark(&format!("cut at {} MiB; ask for fewer columns or rows\n", BYTES_LIMIT >> 20)),
    }
    Ok(())
}

/// Columns under each other; numbers to the right, and nothing in a cell that could move the cursor.
fn text(table: &Table) -> String {
    let heads: Vec<String> = table.columns.iter().map(|name| printable(name)).collect();
    let rows: Vec<Vec<String>> = table.rows.iter().map(|row| row.iter().map(for_people).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).chain(heads.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = String::new();
    for line in [&heads, &rules] {
        push_line(&mut text, line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")));
    }
    for (row, cells) in rows.iter().zip(&table.rows) {
        let aligned = row.iter().zip(cells).zip(&widths).map(|((shown, cell), width)| match cell {
            Cell::Integer(_) | Cell::Real(_) => format!("{shown:>width$}"),
            Cell::Null | Cell::Text(_) | Cell::Blob(_) => format!("{shown:<width$}"),
        });
        push_line(&mut text, aligned);
    }
    let _ = writeln!(text, "({} {})", rows.len(), if rows.len() == 1 { "row" } else { "rows" });
    text
}

fn for_people(cell: &Cell) -> String {
    match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Integer(number) => number.to_string(),
        Cell::Real(number) => format!("{number:?}"),
        Cell::Text(text) => printable(text),
        Cell::Blob(bytes) => printable(&hex(bytes)),
    }
}

/// An array with an object for each row, its keys in the order of the columns.
fn json(table: &Table) -> String {
    let names: Vec<Value> = unique(&table.columns).into_iter().map(Value::from).collect();
    let object = |row: &Vec<Cell>| {
        let pairs = names.iter().zip(row).map(|(name, cell)| format!("{name}:{}", json_value(cell)));
        format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
    };
    if table.rows.is_empty() {
        return "[]\n".to_owned();
    }
    format!("[\n{}\n]\n", table.rows.iter().map(object).collect::<Vec<_>>().join(",\n"))
}

// Infinity has no number in JSON and is null.
fn json_value(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Integer(number) => Value::from(*number),
        Cell::Real(number) => Value::from(*number),
        Cell::Text(text) => Value::from(text.as_str()),
        Cell::Blob(bytes) => Value::from(hex(bytes)),
    }
}

/// The names, with `:1`, `:2` … behind one that stood before.
fn unique(columns: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(columns.len());
    for column in columns {
        let numbered = (1..).map(|number| format!("{column}:{number}"));
        let mut candidates = std::iter::once(column.clone()).chain(numbered);
        let name = candidates.find(|name| !names.contains(name)).expect("there are more numbers than columns");
        names.push(name);
    }
    names
}

/// As in RFC 4180, with the line ends of Unix. NULL is empty; an empty text is `""`.
fn csv(table: &Table) -> String {
    let mut text = table.columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(",");
    text.push('\n');
    for row in &table.rows {
        let cells: Vec<String> = row.iter().map(csv_cell).collect();
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    text
}

fn csv_cell(cell: &Cell) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Integer(number) => number.to_string(),
        Cell::Real(number) => format!("{number:?}"),
        Cell::Text(text) => quoted(text),
        Cell::Blob(bytes) => hex(bytes),
    }
}

fn quoted(text: &str) -> String {
    let is_plain = !text.is_empty() && !text.contains([',', '"', '\n', '\r']);
    if is_plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::CELL_MAX_CHARS;

    fn table() -> Table {
        let text = |text: &str| Cell::Text(text.to_owned());
        Table {
            columns: ["name", "cost", "name"].map(str::to_owned).into(),
            rows: vec![
                vec![text("a, \"b\"\u{1b}[2J"), Cell::Integer(12_345), Cell::Null],
                vec![text(""), Cell::Real(0.5), Cell::Blob(vec![0, 255])],
            ],
            cut: None,
        }
    }

    #[test]
    fn a_table_is_aligned_and_cannot_move_the_cursor() {
        let expected = "\
name             cost   name
---------------  -----  ----
a, \"b\"\\u{1b}[2J  12345  NULL
                   0.5  00ff
(2 rows)
";
        assert_eq!(text(&table()), expected);
    }

    #[test]
    fn json_keeps_numbers_nulls_and_every_column() {
        let read: Value = serde_json::from_str(&json(&table())).unwrap();

        let expected = serde_json::json!([
            { "name": "a, \"b\"\u{1b}[2J", "cost": 12_345, "name:1": null },
            { "name": "", "cost": 0.5, "name:1": "00ff" },
        ]);
        assert_eq!(read, expected);
        assert!(json(&table()).ends_with("\n{\"name\":\"\",\"cost\":0.5,\"name:1\":\"00ff\"}\n]\n"), "in order");
        assert_eq!(json(&Table { rows: vec![], ..table() }), "[]\n");
    }

    #[test]
    fn csv_quotes_what_needs_it_and_tells_null_from_empty() {
        assert_eq!(csv(&table()), "name,cost,name\n\"a, \"\"b\"\"\u{1b}[2J\",12345,\n\"\",0.5,00ff\n");
    }

    #[tokio::test]
    async fn without_a_data_directory_none_is_made() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = parent.path().join("data");
        let arguments =
            SqlArguments { query: Some("select 1".into()), tables: false, format: TableFormat::Table, limit: 1 };

        let refused = run(&data_dir, &arguments).await.unwrap_err();

        assert!(refused.to_string().starts_with("there is no data directory"), "{refused}");
        assert!(!data_dir.exists());
    }

    #[test]
    fn a_long_cell_is_cut_in_a_table_only() {
        let long = "é".repeat(CELL_MAX_CHARS + 1);
        let table = Table { columns: vec!["a".into()], rows: vec![vec![Cell::Text(long.clone())]], cut: None };

        assert!(text(&table).contains(&format!("{}…\n", "é".repeat(CELL_MAX_CHARS))));
        assert!(csv(&table).contains(&long));
    }
}
