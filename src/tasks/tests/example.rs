//! A whole kind of work: what a handler must say, and no more.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::domain::{ContentHash, JsonText, TaskKind, TaskStatus, TenantScope};
use crate::tasks::{JobHandler, Prepared, TaskError, Work};

use super::world::World;

/// Adds up the lengths of texts.
struct Lengths;

#[derive(Serialize, Deserialize)]
struct Texts {
    texts: Vec<String>,
}

#[async_trait]
impl JobHandler for Lengths {
    fn kind(&self) -> TaskKind {
        TaskKind::new("lengths").expect("the name is plain")
    }

    fn permission(&self) -> crate::domain::Permission {
        crate::domain::Permission::Search
    }

    async fn prepare(&self, _: &TenantScope, input: JsonText, model: Option<String>) -> Result<Prepared, TaskError> {
        let texts: Texts =
            input.read().map_err(|error| TaskError::invalid(vec![(String::new(), error.to_string())]))?;
        let total = Some(texts.texts.len() as u64 + 1);
        // It reads nothing but its input, so no other state is part of what it is.
        Ok(Prepared { input, context: ContentHash([0; 32]), prompt: None, model, total })
    }

    async fn run(&self, work: &Work) -> Result<JsonText, TaskError> {
        let input: Texts = work.input()?;
        let lengths = work.fan_out("length", &input.texts, |text: String, _| async move { Ok(text.len()) }).await?;
        let lengths: Vec<usize> = lengths.into_iter().flatten().collect();
        let sum: usize =
            work.step("sum", &lengths, |lengths: Vec<usize>, _| async move { Ok(lengths.iter().sum()) }).await?;
        Ok(JsonText::of_value(&serde_json::json!({ "sum": sum })))
    }
}

#[tokio::test]
async fn the_smallest_kind_of_work_runs() {
    let world = World::new(vec![std::sync::Arc::new(Lengths)]).await;

    let task = world.run_to("lengths", json!({"texts": ["a", "bcd"]}), TaskStatus::Succeeded).await;

    assert_eq!(task.output.unwrap().as_str(), r#"{"sum":4}"#);
    assert_eq!((task.done, task.total), (3, Some(3)));
}
