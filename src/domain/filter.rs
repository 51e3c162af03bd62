//! Filters over metadata: a typed tree, never a string that is put together.
//!
//! An index may use a filter to narrow its candidates; whether a hit leaves is decided by [`Filter::matches`]
//! on what the truth holds.

use serde_json::Value;

use super::Metadata;

/// Deepest nesting of `$and`, `$or` and `$not`.
pub const FILTER_MAX_DEPTH: usize = 8;
/// Most comparisons in one filter, and most values in one `$in`.
pub const FILTER_MAX_TERMS: usize = 256;

/// A condition over fields.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// True if all are; true if empty.
    And(Vec<Filter>),
    /// True if any is; false if empty.
    Or(Vec<Filter>),
    Not(Box<Filter>),
    Compare {
        field: String,
        test: Test,
    },
}

/// A test of one field. Against an array, `Eq`, `In` and the ranges are true if any element passes.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    Eq(Scalar),
    In(Vec<Scalar>),
    Gt(Scalar),
    Gte(Scalar),
    Lt(Scalar),
    Lte(Scalar),
    Exists,
}

/// A value a filter may compare with. Numbers compare with numbers, text with text, nothing else.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
}

/// Why a filter is refused, with the JSON pointer of the place inside it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct InvalidFilter {
    pub pointer: String,
    pub detail: String,
}

/// The values that a filter looks at: the caller's metadata and the reserved fields of a document.
pub trait Fields {
    /// The value of a field, or `None` where the document does not have it.
    fn field(&self, name: &str) -> Option<Value>;
}

impl Fields for Metadata {
    fn field(&self, name: &str) -> Option<Value> {
        self.get(name).cloned()
    }
}

impl Filter {
    /// True if a document with these fields passes.
    pub fn matches(&self, fields: &dyn Fields) -> bool {
        match self {
            Self::And(all) => all.iter().all(|one| one.matches(fields)),
            Self::Or(any) => any.iter().any(|one| one.matches(fields)),
            Self::Not(inner) => !inner.matches(fields),
            Self::Compare { field, test } => test.passes(fields.field(field).as_ref()),
        }
    }

    /// Reads the JSON form (`{"year": {"$gte": 2020}, "$or": [...]}`); an object's entries are joined by *and*.
    pub fn parse(json: &Value) -> Result<Self, InvalidFilter> {
        let mut terms = 0;
        parse_object(json, "", FILTER_MAX_DEPTH, &mut terms)
    }
}

impl Test {
    fn passes(&self, value: Option<&Value>) -> bool {
        let Some(value) = value else {
            return matches!(self, Self::Eq(Scalar::Null));
        };
        match (self, value) {
            (Self::Exists, _) => true,
            (_, Value::Array(items)) => items.iter().any(|item| self.passes_one(item)),
            _ => self.passes_one(value),
        }
    }

    fn passes_one(&self, value: &Value) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = |scalar: &Scalar| scalar.compare(value);
        match self {
            Self::Eq(scalar) => order(scalar) == Some(Equal),
            Self::In(scalars) => scalars.iter().any(|scalar| order(scalar) == Some(Equal)),
            // `order` compares the bound with the value, so "value > bound" is "bound < value".
            Self::Gt(bound) => order(bound) == Some(Less),
            Self::Gte(bound) => matches!(order(bound), Some(Less | Equal)),
            Self::Lt(bound) => order(bound) == Some(Greater),
            Self::Lte(bound) => matches!(order(bound), Some(Greater | Equal)),
            Self::Exists => true,
        }
    }
}

impl Scalar {
    fn compare(&self, value: &Value) -> Option<std::cmp::Ordering> {
        match (self, value) {
            (Self::Null, Value::Null) => Some(std::cmp::Ordering::Equal),
            (Self::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Self::Number(a), Value::Number(b)) => a.partial_cmp(&b.as_f64()?),
            (Self::Text(a), Value::String(b)) => Some(a.as_str().cmp(b.as_str())),
            _ => None,
        }
    }
}

fn refuse<T>(pointer: &str, detail: impl Into<String>) -> Result<T, InvalidFilter> {
    Err(InvalidFilter { pointer: pointer.to_owned(), detail: detail.into() })
}

fn parse_object(json: &Value, at: &str, depth_left: usize, terms: &mut usize) -> Result<Filter, InvalidFilter> {
    let Value::Object(entries) = json else {
        return refuse(at, "a filter is an object such as {\"year\": {\"$gte\": 2020}}");
    };
    if depth_left == 0 {
        return refuse(at, format!("filters nest at most {FILTER_MAX_DEPTH} deep"));
    }
    let mut all = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let here = format!("{at}/{}", escape(key));
        all.push(match key.as_str() {
            "$and" => Filter::And(parse_list(value, &here, depth_left, terms)?),
            "$or" => Filter::Or(parse_list(value, &here, depth_left, terms)?),
            "$not" => Filter::Not(Box::new(parse_object(value, &here, depth_left - 1, terms)?)),
            operator if operator.starts_with('$') => {
                return refuse(&here, format!("unknown operator {operator}: use $and, $or or $not here"));
            }
            field => parse_field(field, value, &here, terms)?,
        });
    }
    Ok(if all.len() == 1 { all.remove(0) } else { Filter::And(all) })
}

fn parse_list(json: &Value, at: &str, depth_left: usize, terms: &mut usize) -> Result<Vec<Filter>, InvalidFilter> {
    let Value::Array(items) = json else {
        return refuse(at, "expects a list of filters");
    };
    let parse = |(index, item)| parse_object(item, &format!("{at}/{index}"), depth_left - 1, terms);
    items.iter().enumerate().map(parse).collect()
}

fn parse_field(field: &str, json: &Value, at: &str, terms: &mut usize) -> Result<Filter, InvalidFilter> {
    let Value::Object(operators) = json else {
        count(terms, at)?;
        return Ok(Filter::Compare { field: field.to_owned(), test: Test::Eq(scalar(json, at)?) });
    };
    let mut all = Vec::with_capacity(operators.len());
    for (operator, value) in operators {
        count(terms, at)?;
        all.push(parse_test(field, operator, value, &format!("{at}/{operator}"))?);
    }
    if all.is_empty() {
        return refuse(at, "expects a value or operators such as {\"$gte\": 2020}");
    }
    Ok(if all.len() == 1 { all.remove(0) } else { Filter::And(all) })
}

fn parse_test(field: &str, operator: &str, value: &Value, at: &str) -> Result<Filter, InvalidFilter> {
    let compare = |test| Filter::Compare { field: field.to_owned(), test };
    let negated = |test| Filter::Not(Box::new(compare(test)));
    Ok(match operator {
        "$eq" => compare(Test::Eq(scalar(value, at)?)),
        "$ne" => negated(Test::Eq(scalar(value, at)?)),
        "$in" => compare(Test::In(scalars(value, at)?)),
        "$nin" => negated(Test::In(scalars(value, at)?)),
        "$gt" => compare(Test::Gt(ordered(value, at)?)),
        "$gte" => compare(Test::Gte(ordered(value, at)?)),
        "$lt" => compare(Test::Lt(ordered(value, at)?)),
        "$lte" => compare(Test::Lte(ordered(value, at)?)),
        "$exists" => match value {
            Value::Bool(true) => compare(Test::Exists),
            Value::Bool(false) => negated(Test::Exists),
            _ => return refuse(at, "$exists expects true or false"),
        },
        "$not" => return refuse(at, "write {\"$not\": {\"field\": …}} around the field instead"),
        other => {
            return refuse(at, format!("unknown operator {other}: use $eq $ne $in $nin $gt $gte $lt $lte $exists"));
        }
    })
}

fn scalars(json: &Value, at: &str) -> Result<Vec<Scalar>, InvalidFilter> {
    match json {
        Value::Array(items) if items.len() > FILTER_MAX_TERMS => {
            refuse(at, format!("at most {FILTER_MAX_TERMS} values are allowed"))
        }
        Value::Array(items) => items.iter().map(|item| scalar(item, at)).collect(),
        _ => refuse(at, "expects a list of values"),
    }
}

fn ordered(json: &Value, at: &str) -> Result<Scalar, InvalidFilter> {
    match scalar(json, at)? {
        Scalar::Null | Scalar::Bool(_) => refuse(at, "expects a number or a text to compare with"),
        scalar => Ok(scalar),
    }
}

fn scalar(json: &Value, at: &str) -> Result<Scalar, InvalidFilter> {
    Ok(match json {
        Value::Null => Scalar::Null,
        Value::Bool(value) => Scalar::Bool(*value),
        Value::Number(number) => match number.as_f64().filter(|value| value.is_finite()) {
            Some(value) => Scalar::Number(value),
            None => return refuse(at, "the number is out of range"),
        },
        Value::String(text) => Scalar::Text(text.clone()),
        Value::Array(_) | Value::Object(_) => {
            return refuse(at, "expects a text, a number, true, false or null");
        }
    })
}

fn count(terms: &mut usize, at: &str) -> Result<(), InvalidFilter> {
    *terms += 1;
    if *terms > FILTER_MAX_TERMS {
        return refuse(at, format!("at most {FILTER_MAX_TERMS} comparisons are allowed"));
    }
    Ok(())
}

// JSON pointer, RFC 6901 §3.
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn passes(filter: Value, metadata: Value) -> bool {
        let Value::Object(metadata) = metadata else { panic!("metadata is an object") };
        Filter::parse(&filter).unwrap().matches(&metadata)
    }

    #[test]
    fn each_operator_means_what_its_name_says() {
        let book = json!({"year": 2021, "lang": "en", "tags": ["a", "b"], "draft": false, "note": null});

        for (filter, expected) in [
            (json!({}), true),
            (json!({"year": 2021}), true),
            (json!({"year": {"$ne": 2021}}), false),
            (json!({"year": {"$gte": 2021, "$lt": 2022}}), true),
            (json!({"year": {"$gt": 2021}}), false),
            (json!({"year": {"$lte": 2020}}), false),
            (json!({"year": "2021"}), false),
            (json!({"lang": {"$in": ["de", "en"]}}), true),
            (json!({"lang": {"$nin": ["de", "en"]}}), false),
            (json!({"tags": "b"}), true),
            (json!({"tags": {"$nin": ["b"]}}), false),
            (json!({"missing": {"$exists": false}}), true),
            (json!({"missing": {"$ne": 1}}), true),
            (json!({"missing": null}), true),
            (json!({"note": null}), true),
            (json!({"draft": {"$exists": true}}), true),
            (json!({"$or": [{"year": 1}, {"lang": "en"}]}), true),
            (json!({"$or": []}), false),
            (json!({"$and": [{"year": 1}, {"lang": "en"}]}), false),
            (json!({"$not": {"lang": "en"}}), false),
        ] {
            assert_eq!(passes(filter.clone(), book.clone()), expected, "{filter}");
        }
    }

    #[test]
    fn a_refused_filter_names_the_place() {
        let error = Filter::parse(&json!({"$or": [{"a/b": {"$regex": "x"}}]})).unwrap_err();

        assert_eq!(error.pointer, "/$or/0/a~1b/$regex");
        assert!(error.detail.contains("unknown operator $regex"));
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = (0..100).fold(json!({"a": 1}), |inner, _| json!({"$not": inner}));

        assert!(Filter::parse(&deep).unwrap_err().detail.contains("at most 8 deep"));
    }
}
