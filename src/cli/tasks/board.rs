//! Progress of several things at once: bars on a terminal, a line for each change elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output::{remark, say};
use crate::cli::table::printable;

/// One thing that makes progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Stays the same as long as it is shown.
    pub label: String,
    pub done: u64,
    /// `None`: not known yet.
    pub total: Option<u64>,
    pub note: String,
}

impl Row {
    /// The row in words, for where there are no bars.
    fn line(&self) -> String {
        let total = self.total.map(|total| format!("/{total}")).unwrap_or_default();
        let line = format!("{}  {}{total}  {}", printable(&self.label), self.done, printable(&self.note));
        format!("{}\n", line.trim_end())
    }
}

/// Where progress is shown: standard output, since it is what the command was asked for.
pub enum Board {
    Bars { all: MultiProgress, bars: BTreeMap<String, ProgressBar> },
    Lines { shown: BTreeMap<String, Row> },
}

impl Board {
    /// Bars if standard output is a terminal, lines if not.
    pub fn on_stdout() -> Self {
        if std::io::stdout().is_terminal() {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
            return Self::Bars { all, bars: BTreeMap::new() };
        }
        Self::Lines { shown: BTreeMap::new() }
    }

    /// Shows these rows and no others. Lines are written only for rows that are not as they were.
    pub fn show(&mut self, rows: &[Row]) -> anyhow::Result<()> {
        match self {
            Self::Bars { all, bars } => {
                let is_gone = |label: &String| !rows.iter().any(|row| row.label == *label);
                for (_, bar) in bars.extract_if(.., |label, _| is_gone(label)) {
                    bar.finish_and_clear();
                    all.remove(&bar);
                }
                for row in rows {
                    let bar = bars.entry(row.label.clone()).or_insert_with(|| all.add(new_bar(&row.label)));
                    // Without a known end the bar is full of what is done.
                    bar.set_length(row.total.unwrap_or(row.done));
                    bar.set_position(row.done);
                    bar.set_message(printable(&row.note));
                }
                Ok(())
            }
            // Beside what is printed for programs.
            Self::Lines { shown } => {
                remark(&changed(shown, rows));
                Ok(())
            }
        }
    }

    /// A text that stays.
    pub fn say(&self, text: &str) -> anyhow::Result<()> {
        match self {
            Self::Bars { all, .. } => all.suspend(|| say(text)),
            Self::Lines { .. } => say(text),
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        if let Self::Bars { bars, .. } = self {
            bars.values().for_each(ProgressBar::finish_and_clear);
        }
    }
}

/// Lines for the rows that are not as they were; afterwards `shown` is what was shown.
fn changed(shown: &mut BTreeMap<String, Row>, rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        if shown.get(&row.label) != Some(row) {
            text.push_str(&row.line());
        }
    }
    *shown = rows.iter().map(|row| (row.label.clone(), row.clone())).collect();
    text
}

fn new_bar(label: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{prefix:24} [{bar:30}] {pos}/{len}  {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_prefix(printable(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, done: u64, note: &str) -> Row {
        Row { label: label.to_owned(), done, total: Some(4), note: note.to_owned() }
    }

    #[test]
    fn lines_are_written_for_what_changed_alone() {
        let mut shown = BTreeMap::new();

        assert_eq!(changed(&mut shown, &[row("a", 1, ""), row("b", 0, "queued")]), "a  1/4\nb  0/4  queued\n");
        assert_eq!(changed(&mut shown, &[row("a", 1, ""), row("b", 1, "running")]), "b  1/4  running\n");
        assert_eq!(changed(&mut shown, &[row("b", 1, "running")]), "");
        assert_eq!(changed(&mut shown, &[row("a", 1, ""), row("b", 1, "running")]), "a  1/4\n");
    }
}
