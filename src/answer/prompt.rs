//! The prompts that ship with the answers: one file for each version.

/// The files, for [`PromptBook`](crate::gateway::PromptBook). A version that was released is never changed.
pub const PROMPTS: &[&str] = &[include_str!("prompts/answer.v1.txt")];

/// The prompt that answers are made with. Its variables: `mark`, `passages`, `question`.
pub const ANSWER_PROMPT: &str = "answer";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::PromptBook;

    #[test]
    fn the_built_in_prompt_is_well_formed_and_found_by_version() {
        let book = PromptBook::new(PROMPTS).unwrap();

        let newest = book.pick(ANSWER_PROMPT, None, b"session").unwrap();

        assert_eq!((newest.version.name.as_str(), newest.version.version.as_str()), ("answer", "1"));
        assert_eq!(newest.variables, ["mark", "passages", "question"]);
        assert_eq!(book.pick(ANSWER_PROMPT, Some("1"), b"session"), Some(newest));
        assert_eq!(book.pick(ANSWER_PROMPT, Some("0"), b"session"), None);
    }

    #[test]
    fn a_released_version_keeps_its_text() {
        let book = PromptBook::new(PROMPTS).unwrap();

        let hash = |version| book.pick(ANSWER_PROMPT, Some(version), b"").map(|prompt| prompt.version.hash.clone());

        assert_eq!(hash("1").as_deref(), Some("bd868394fdab981d7e3876eecbbfaeddc540257586ad9915b38934301f8ecfa3"));
    }
}
