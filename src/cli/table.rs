//! Tables for people: aligned, and unable to move the cursor.

/// Longest cell, in characters.
pub const CELL_MAX_CHARS: usize = 100;

/// Rows under their heads, each column as wide as its widest cell, all to the left.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let heads: Vec<String> = heads.iter().map(|head| head.to_uppercase()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).chain(heads.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for line in std::iter::once(&heads).chain(&rows) {
        push_line(&mut text, line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")));
    }
    text
}

/// Appends a line of cells that have their widths.
pub fn push_line(text: &mut String, cells: impl Iterator<Item = String>) {
    let line = cells.collect::<Vec<_>>().join("  ");
    text.push_str(line.trim_end());
    text.push('\n');
}

/// Text for one cell, cut to its longest. What callers stored may hold escape sequences of a terminal.
pub fn printable(text: &str) -> String {
    let mut shown = String::new();
    for (place, letter) in text.chars().enumerate() {
        if place == CELL_MAX_CHARS {
            shown.push('…');
            break;
        }
        if letter.is_control() { shown.extend(letter.escape_default()) } else { shown.push(letter) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_heads_and_nothing_moves_the_cursor() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["a", "\u{1b}[2J", "x"]), row(["long one", "b", ""])];

        let expected = "\
ID        STATUS     NOTE
a         \\u{1b}[2J  x
long one  b
";
        assert_eq!(table(&["id", "status", "note"], &rows), expected);
    }
}
