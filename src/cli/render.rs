//! Results for people: from the same JSON that the HTTP API returns, so both doors show the same.

use std::fmt::Write as _;

use serde_json::Value;

/// Longest part of a passage that is printed, in characters.
const PASSAGE_MAX_CHARS: usize = 320;

/// The hits of a search response, one paragraph each.
pub fn search(response: &Value) -> String {
    let mut text = String::new();
    for hit in items(response, "hits") {
        let _ = writeln!(text, "{:>2}. {}  {}", hit["rank"].as_u64().unwrap_or_default(), heading(hit), score(hit));
        let _ = writeln!(text, "    {}", passage(string(hit, "text")));
        if let Some(explain) = hit.get("explain").filter(|explain| explain.is_object()) {
            let _ = writeln!(text, "    {}", breakdown(explain));
        }
    }
    if text.is_empty() {
        text.push_str("nothing found\n");
    }
    let _ = writeln!(text, "{}", footer(response));
    text
}

/// An answer response: the text, then its citations.
pub fn answer(response: &Value) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}\n", string(response, "answer"));
    for citation in items(response, "citations") {
        let range = &citation["byte_range"];
        let place = format!("{} (bytes {}–{})", string(citation, "document_id"), range[0], range[1]);
        let _ = writeln!(text, "[{}] {place}\n    “{}”", citation["marker"], passage(string(citation, "quote")));
    }
    let _ = writeln!(text, "\nstatus: {}{}", string(response, "status"), degraded(response));
    text
}

fn heading(hit: &Value) -> String {
    let id = string(hit, "document_id");
    match hit["title"].as_str().filter(|title| *title != id) {
        Some(title) => format!("{title} · {id}"),
        None => id.to_owned(),
    }
}

fn score(hit: &Value) -> String {
    hit["score"].as_f64().map(|score| format!("({score:.4})")).unwrap_or_default()
}

fn breakdown(explain: &Value) -> String {
    let stage = |name: &str| {
        let stage = explain.get(name).filter(|stage| stage.is_object())?;
        Some(format!("{name} #{} {:.4}", stage["rank"], stage["score"].as_f64().unwrap_or_default()))
    };
    ["lexical", "vector", "fusion", "rerank"].into_iter().filter_map(stage).collect::<Vec<_>>().join(" · ")
}

fn footer(response: &Value) -> String {
    let took = response["took_ms"].as_f64().unwrap_or_default();
    format!("{} in {took:.1} ms{}", string(response, "mode"), degraded(response))
}

fn degraded(response: &Value) -> String {
    let stages: Vec<&str> = items(response, "degraded").iter().filter_map(Value::as_str).collect();
    if stages.is_empty() { String::new() } else { format!(" · degraded: {}", stages.join(", ")) }
}

fn passage(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(PASSAGE_MAX_CHARS) {
        Some((end, _)) => format!("{} …", &flat[..end]),
        None => flat,
    }
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn string<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_hit_shows_rank_title_place_and_stages() {
        let response = json!({"mode": "hybrid", "took_ms": 3.26, "degraded": ["rerank:deadline"], "hits": [
            {"rank": 1, "score": 0.5, "title": "Fire rules", "document_id": "fire.html", "text": "Leave\n by the exit.",
             "explain": {"lexical": {"rank": 2, "score": 7.5}, "vector": null}}]});

        let text = search(&response);

        assert!(text.contains(" 1. Fire rules · fire.html  (0.5000)\n    Leave by the exit.\n    lexical #2 7.5000\n"));
        assert!(text.ends_with("hybrid in 3.3 ms · degraded: rerank:deadline\n"));
    }

    #[test]
    fn no_hits_are_said_to_be_none() {
        assert!(search(&json!({"hits": [], "mode": "lexical"})).starts_with("nothing found\n"));
    }
}
