//! What is wrong with an answer, by field, and which of it is allowed.

use std::collections::BTreeSet;

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use serde::Deserialize;

/// One thing that is not as described.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// A pointer into the body with `*` for indices; or `path`, `status NNN`, `body`, `header NAME`.
    pub field: String,
    /// What about it.
    pub what: String,
}

impl Finding {
    pub fn new(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self { field: field.into(), what: what.into() }
    }
}

/// The validator's errors, as far down as they can be told.
pub fn findings<'a>(errors: impl IntoIterator<Item = ValidationError<'a>>) -> Vec<Finding> {
    let mut found: Vec<Finding> = errors.into_iter().flat_map(|error| of(&error)).collect();
    found.sort();
    found.dedup();
    found
}

fn of(error: &ValidationError<'_>) -> Vec<Finding> {
    let path = error.instance_path().to_string();
    let path: Vec<&str> = path
        .split('/')
        .map(|part| if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) { "*" } else { part })
        .collect();
    let path = path.join("/");
    match error.kind() {
        ValidationErrorKind::UnevaluatedProperties { unexpected }
        | ValidationErrorKind::AdditionalProperties { unexpected } => {
            unexpected.iter().map(|name| Finding::new(format!("{path}/{name}"), "undeclared")).collect()
        }
        ValidationErrorKind::Required { property } => {
            vec![Finding::new(format!("{path}/{}", property.as_str().unwrap_or_default()), "missing")]
        }
        // Of several descriptions the one that was meant is the one with the least wrong; that it is not null is no news.
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            let branch = context.iter().min_by_key(|errors| {
                let other = errors.iter().any(|inner| {
                    matches!(inner.kind(), ValidationErrorKind::Type { .. })
                        && inner.instance_path() == error.instance_path()
                });
                (other, errors.len())
            });
            branch.into_iter().flatten().flat_map(of).collect()
        }
        _ => {
            let mut what = error.to_string();
            what.truncate(what.char_indices().nth(200).map_or(what.len(), |(at, _)| at));
            vec![Finding::new(path, what)]
        }
    }
}

/// A difference that is known and meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// `METHOD /path/{}` with erased parameters, followed by the status if it is a refusal; `* STATUS` for the refusals
    /// of all routes; `webhook NAME`; `*` for everything.
    pub endpoint: String,
    /// As [`Finding::field`]; after `**`, the end of it.
    pub field: String,
    /// The shared schema that the items of this list are held against in place of what the route says.
    #[serde(default)]
    pub instead: Option<String>,
    /// Why the simulator is right, or why it does not matter.
    pub reason: String,
}

/// The list of what is allowed, and which of it was needed.
#[derive(Debug)]
pub struct AllowList {
    pub entries: Vec<Allowed>,
    pub needed: BTreeSet<usize>,
}

impl AllowList {
    pub fn read() -> Self {
        let text = include_str!("../../conformance/allow.yaml");
        Self { entries: serde_saphyr::from_str(text).unwrap(), needed: BTreeSet::new() }
    }

    fn need(&mut self, covers: impl Fn(&Allowed) -> bool) -> Option<&Allowed> {
        let at = self.entries.iter().position(covers)?;
        self.needed.insert(at);
        self.entries.get(at)
    }

    /// Whether a finding is allowed.
    pub fn allows(&mut self, endpoint: &str, finding: &Finding) -> bool {
        let refusal = endpoint.rsplit(' ').next().filter(|last| last.parse::<u16>().is_ok());
        let anywhere = refusal.map(|status| format!("* {status}"));
        let covers = |entry: &Allowed| {
            let here = [endpoint, "*"].contains(&entry.endpoint.as_str()) || anywhere.as_ref() == Some(&entry.endpoint);
            let field = entry.field.strip_prefix("**");
            let of_field = field.map_or(entry.field == finding.field, |end| finding.field.ends_with(end));
            entry.instead.is_none() && here && of_field
        };
        self.need(covers).is_some()
    }

    /// The schema that is meant where the route's own is wrong.
    pub fn instead(&mut self, endpoint: &str) -> Option<String> {
        self.need(|entry| entry.instead.is_some() && entry.endpoint == endpoint)?.instead.clone()
    }
}
