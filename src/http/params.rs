//! Query strings, read strictly: an unknown or doubled parameter is an error, never ignored.
//!
//! Pointers of faults go into the object of parameters (`/limit`).

use std::fmt::Display;
use std::str::FromStr;

use super::problem::{FieldError, Problem};

/// The parameters of one request. Take what is known, then [`Params::finish`].
pub(super) struct Params {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl Params {
    pub(super) fn read(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
        Self { pairs, known: Vec::new(), errors: Vec::new() }
    }

    /// The parameter as text; a second one of the same name is a fault.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let mut values = self.all(name);
        if values.len() > 1 {
            self.refuse(name, format!("{name} is given {} times; once is allowed", values.len()));
        }
        values.pop()
    }

    /// The parameter in its type; a text that does not fit is a fault.
    pub(super) fn value<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Option<T> {
        let text = self.text(name)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(name, format!("{name}: {error}"));
                None
            }
        }
    }

    /// A parameter that may be repeated, in order.
    pub(super) fn all(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        self.pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    pub(super) fn refuse(&mut self, name: &str, detail: impl Into<String>) {
        self.errors.push(FieldError::new(format!("/{name}"), detail));
    }

    /// All faults, those of unknown parameters included.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        for (key, _) in &self.pairs {
            if !self.known.contains(&key.as_str()) {
                let known = if self.known.is_empty() { "none".to_owned() } else { self.known.join(", ") };
                let detail = format!("unknown parameter; known here: {known}");
                self.errors.push(FieldError::new(format!("/{}", super::json::escape(key)), detail));
            }
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::fields(self.errors)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_doubled_and_ill_typed_parameters_are_all_named() {
        let mut params = Params::read(Some("limit=ten&cursor=a&cursor=b&colection=x"));
        let _ = params.value::<usize>("limit");
        let _ = params.text("cursor");

        let problem = params.finish().unwrap_err();

        let pointers: Vec<_> = problem.errors.iter().map(|one| one.pointer.as_str()).collect();
        assert_eq!(pointers, ["/limit", "/cursor", "/colection"]);
    }

    #[test]
    fn values_are_percent_decoded_and_may_repeat() {
        let mut params = Params::read(Some("acl=user%3Aann&acl=group:eng&title=a+b"));

        assert_eq!(params.all("acl"), ["user:ann", "group:eng"]);
        assert_eq!(params.text("title").as_deref(), Some("a b"));
        assert!(params.finish().is_ok());
    }
}
