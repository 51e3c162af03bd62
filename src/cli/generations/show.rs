//! Generations for people: from the same JSON that the HTTP API returns.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::table::{printable, table};

/// Digits of an id in a listing.
const ID_CHARS: usize = 16;

/// The object itself.
pub fn json(response: &Value) -> String {
    format!("{}\n", serde_json::to_string_pretty(response).unwrap_or_default())
}

/// A listing, one generation a line.
pub fn list(response: &Value) -> String {
    let row = |one: &Value| {
        vec![
            text(one, "id").chars().take(ID_CHARS).collect(),
            text(one, "collection").to_owned(),
            text(one, "state").to_owned(),
            format!("{}/{}", one["built"], one["documents"]),
            one["serving"].to_string(),
            one["chunks"].to_string(),
            eta(one),
            profile(&one["profile"]),
        ]
    };
    let rows: Vec<_> = response["generations"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return "no generations\n".to_owned();
    }
    table(&["id", "collection", "state", "built", "serving", "chunks", "left", "profile"], &rows)
}

/// A generation with its profile and plan.
pub fn one(one: &Value) -> String {
    let mut shown = headline(one);
    for name in ["task_id", "previous", "promotion", "changed_at", "retire_at", "removed_at"] {
        if !text(one, name).is_empty() {
            let _ = writeln!(shown, "  {name:<12} {}", printable(text(one, name)));
        }
    }
    for name in ["sample", "rollout", "shadow_share", "chunks", "vectors", "profile"] {
        let _ = writeln!(shown, "  {name:<12} {}", one[name]);
    }
    shown
}

/// What a change of state has brought about.
pub fn transition(response: &Value) -> String {
    let mut shown = headline(response);
    let (moved, remaining) = (&response["moved"], response["remaining"].as_u64().unwrap_or_default());
    let _ = write!(shown, "{moved} documents moved");
    shown.push_str(&match remaining {
        0 => "\n".to_owned(),
        remaining => format!(", {remaining} follow by themselves while a server runs\n"),
    });
    shown
}

/// How a generation compares with the one beside it.
pub fn report(report: &Value) -> String {
    let conclusive = if report["is_conclusive"] == true { "" } else { " (not conclusive)" };
    let mut shown = format!(
        "{}  {}: {}{conclusive}, {} cases, beside {}\n",
        printable(text(report, "generation")),
        printable(text(report, "collection")),
        text(report, "verdict"),
        report["cases"],
        printable(text(report, "beside")),
    );
    let number = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let metric = |one: &Value| {
        let interval = format!("{} to {}", number(&one["interval"][0]), number(&one["interval"][1]));
        vec![
            text(one, "name").to_owned(),
            number(&one["beside"]),
            number(&one["generation"]),
            number(&one["difference"]),
            interval,
        ]
    };
    let rows: Vec<_> = report["metrics"].as_array().into_iter().flatten().map(metric).collect();
    if rows.is_empty() {
        shown.push_str("no eval cases: PUT /evals/cases gives the collection some\n");
    } else {
        shown.push_str(&table(&["metric", "beside", "generation", "difference", "95 % interval"], &rows));
    }
    for name in ["overlap_at_10", "latency_ms", "size", "shadow", "degraded"] {
        let _ = writeln!(shown, "  {name:<14} {}", report[name]);
    }
    shown
}

fn headline(one: &Value) -> String {
    let left = eta(one);
    let left = if left.is_empty() { left } else { format!(", {left} left") };
    format!(
        "{}  {}: {}, {} of {} documents built{left}, {} served\n",
        printable(text(one, "id")),
        printable(text(one, "collection")),
        printable(text(one, "state")),
        one["built"],
        one["documents"],
        one["serving"],
    )
}

/// How long the rest takes; empty where nothing is left or nothing is known.
fn eta(one: &Value) -> String {
    match one["eta_ms"].as_u64() {
        Some(left_ms) if left_ms > 0 => {
            let seconds = left_ms.div_ceil(1000);
            match seconds {
                0..=119 => format!("{seconds} s"),
                120..=7199 => format!("{} min", seconds / 60),
                _ => format!("{:.1} h", seconds as f64 / 3600.0),
            }
        }
        _ => String::new(),
    }
}

fn profile(profile: &Value) -> String {
    let embedder = profile["embedder"]["name"].as_str().unwrap_or("no vectors");
    let context = match &profile["context"] {
        Value::String(word) => word.as_str(),
        Value::Object(_) => "written",
        _ => "headings",
    };
    format!("{} · {embedder} · {context}", text(&profile["chunker"], "name"))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn generation() -> Value {
        json!({"id": "gen_0123456789abcdef0123456789abcdef", "collection": "books", "state": "building",
            "documents": 40, "built": 10, "serving": 0, "chunks": 90, "vectors": 90, "eta_ms": 150_200,
            "profile": {"chunker": {"name": "window"}, "embedder": null, "context": {"written": {}}}})
    }

    #[test]
    fn a_listing_tells_how_far_each_has_come() {
        let shown = list(&json!({"generations": [generation()]}));

        let line = shown.lines().nth(1).unwrap();
        for part in ["gen_0123456789ab", "books", "building", "10/40", "2 min", "window · no vectors · written"] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert_eq!(list(&json!({"generations": []})), "no generations\n");
    }

    #[test]
    fn a_report_shows_each_difference_with_its_interval() {
        let metric = json!({"name": "ndcg_at_10", "beside": 0.5, "generation": 0.625, "difference": 0.125,
            "interval": [0.0625, 0.25]});

        let shown = report(&json!({"verdict": "better", "is_conclusive": false, "cases": 9, "metrics": [metric]}));

        for part in ["better (not conclusive), 9 cases", "ndcg_at_10", "0.6250", "0.0625 to 0.2500"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(report(&json!({"metrics": []})).contains("no eval cases"));
    }

    #[test]
    fn a_promotion_tells_what_has_moved_and_what_will() {
        let mut told = generation();
        (told["moved"], told["remaining"]) = (json!(7), json!(33));
        let shown = transition(&told);

        assert!(shown.contains("7 documents moved, 33 follow"), "{shown}");
    }
}
