//! Ids as people type them: whole, or cut to a unique beginning.

use anyhow::bail;
use serde_json::Value;

use crate::cli::door::Door;

/// What every id begins with; people may leave it out.
const PREFIX: &str = "tsk_";
/// Digits of a whole id.
const DIGITS: usize = 32;
/// Fewest digits of a shortened id: among thousands of tasks fewer would seldom be unique.
const MIN_DIGITS: usize = 6;
/// Tasks of one page of the listing that a shortened id is looked up in.
const PAGE: usize = 1_000;
/// Most pages that are looked at.
const MAX_PAGES: usize = 20;

/// The whole id that `typed` stands for; an error if it is none, or the beginning of none or of several.
pub async fn resolve(door: &Door, typed: &str) -> anyhow::Result<String> {
    let typed = typed.to_ascii_lowercase();
    let digits = typed.strip_prefix(PREFIX).unwrap_or(&typed);
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex || !(MIN_DIGITS..=DIGITS).contains(&digits.len()) {
        bail!(
            "{typed} is no id of a task: {PREFIX} and {DIGITS} hexadecimal digits, or the first {MIN_DIGITS} or more"
        );
    }
    let begin = format!("{PREFIX}{digits}");
    if digits.len() == DIGITS {
        return Ok(begin);
    }
    let mut found: Option<String> = None;
    let mut path = format!("/tasks?limit={PAGE}");
    for _ in 0..MAX_PAGES {
        let page = door.get(&path).await?;
        for id in page["tasks"].as_array().into_iter().flatten().filter_map(|task| task["id"].as_str()) {
            match &found {
                _ if !id.starts_with(&begin) => {}
                Some(other) if other != id => {
                    bail!("{begin} is the beginning of {other} and of {id}; type more digits")
                }
                _ => found = Some(id.to_owned()),
            }
        }
        match &page["next_cursor"] {
            Value::String(cursor) => path = next_page(cursor),
            _ => return found.ok_or_else(|| anyhow::anyhow!("there is no task {begin}…")),
        }
    }
    bail!("{begin} may stand for several tasks; type the whole id")
}

fn next_page(cursor: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &PAGE.to_string()).append_pair("cursor", cursor);
    format!("/tasks?{}", query.finish())
}

/// An id as it is shown where space is short: enough to be typed again.
pub fn short(id: &str) -> &str {
    id.get(..PREFIX.len() + 12).unwrap_or(id)
}
