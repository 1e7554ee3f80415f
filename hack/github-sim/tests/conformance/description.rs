//! GitHub's descriptions of itself: what it answers on which route, and what its webhooks carry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use jsonschema::Validator;
use serde_json::{Map, Value};

use crate::closing::closed;
use crate::fetched::fetched;
use crate::finding::{Finding, findings};

/// What a request without a version gets, and what the REST description's plain shapes are.
pub const DEFAULT: &str = "2022-11-28";
/// The version that the description holds as changes to the plain shapes.
pub const NEWEST: &str = "2026-03-10";

fn document(package: &str) -> Value {
    let path = fetched("npm", "package-lock.json").join("node_modules/@octokit").join(package);
    serde_json::from_slice(&std::fs::read(path.join("generated/api.github.com.json")).unwrap()).unwrap()
}

/// One description: operations, and the schemas that they share.
pub struct Description {
    operations: Map<String, Value>,
    components: Value,
    /// Compiled schemas by what they are for.
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// Why an answer cannot be held against the description.
#[derive(Debug, PartialEq, Eq)]
pub enum Undescribed {
    /// No such method and path.
    Route,
    /// The route does not answer with this status.
    Status,
}

impl Description {
    /// The REST API in a version. What is missing is said by each test that needs it: a lazy lock that failed once says only that.
    pub fn rest(version: &str) -> &'static Self {
        static DOCUMENT: OnceLock<Value> = OnceLock::new();
        static PLAIN: OnceLock<Description> = OnceLock::new();
        static CHANGED: OnceLock<Description> = OnceLock::new();
        let document = DOCUMENT.get_or_init(|| document("openapi"));
        match version {
            DEFAULT => PLAIN.get_or_init(|| Self::new(document, "paths")),
            NEWEST => CHANGED.get_or_init(|| {
                let mut document = document.clone();
                let applied = change(&mut document);
                assert!(applied > 50, "the description has only {applied} changes for {NEWEST}");
                Self::new(&document, "paths")
            }),
            other => panic!("GitHub has no version {other}"),
        }
    }

    /// The webhooks.
    pub fn webhooks() -> &'static Self {
        static WEBHOOKS: OnceLock<Description> = OnceLock::new();
        WEBHOOKS.get_or_init(|| Self::new(&document("openapi-webhooks"), "webhooks"))
    }

    fn new(document: &Value, operations: &str) -> Self {
        let mut described = Map::new();
        for (path, methods) in document[operations].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let name = if operations == "paths" { endpoint(&method.to_uppercase(), path) } else { path.clone() };
                described.insert(name, operation.clone());
            }
        }
        Self { operations: described, components: document["components"].clone(), validators: Mutex::default() }
    }

    /// What is wrong with an answer: its body as described for this status of this route.
    pub fn answer(&self, endpoint: &str, status: u16, body: &Value) -> Result<Vec<Finding>, Undescribed> {
        let operation = self.operations.get(endpoint).ok_or(Undescribed::Route)?;
        let response = operation["responses"].get(status.to_string()).ok_or(Undescribed::Status)?;
        let response = match response["$ref"].as_str() {
            Some(reference) => &self.components["responses"][reference.rsplit('/').next().unwrap()],
            None => response,
        };
        let schema = &response["content"]["application/json"]["schema"];
        Ok(match (schema, body) {
            (Value::Null, body) if status >= 400 => self.refusal(status, body),
            (Value::Null, Value::Null) => Vec::new(),
            (Value::Null, _) => vec![Finding::new("body", "there should be none")],
            (schema, body) => self.check(&format!("{endpoint} {status}"), schema, body),
        })
    }

    /// What is wrong with the body of a refusal that the route does not describe itself: all share their shape.
    pub fn refusal(&self, status: u16, body: &Value) -> Vec<Finding> {
        match status {
            304 if body.is_null() => Vec::new(),
            422 => self.component("validation-error", body),
            _ => self.component("basic-error", body),
        }
    }

    /// What is wrong with a body, by the name of a shared schema.
    pub fn component(&self, name: &str, body: &Value) -> Vec<Finding> {
        let schema = &self.components["schemas"][name];
        assert!(schema.is_object(), "there is no schema {name}");
        self.check(name, schema, body)
    }

    /// What is wrong with a webhook's request; `name` is the event or event-action.
    pub fn delivery(&self, name: &str, headers: &http::HeaderMap, payload: &Value) -> Option<Vec<Finding>> {
        let operation = self.operations.get(name)?;
        let mut found = self.check(name, &operation["requestBody"]["content"]["application/json"]["schema"], payload);
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let header = parameter["name"].as_str().unwrap();
            let optional = parameter["required"] != Value::Bool(true);
            if !optional && !headers.contains_key(header) {
                found.push(Finding::new(format!("header {header}"), "missing"));
            }
        }
        Some(found)
    }

    fn check(&self, name: &str, schema: &Value, body: &Value) -> Vec<Finding> {
        let validator = {
            let mut validators = self.validators.lock().unwrap();
            let components = self.components["schemas"].as_object().unwrap();
            let compiled = validators.entry(name.to_owned()).or_insert_with(|| {
                let schema = closed(components, schema);
                Arc::new(jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap())
            });
            Arc::clone(compiled)
        };
        if validator.is_valid(body) { Vec::new() } else { findings(validator.iter_errors(body)) }
    }
}

/// Method and path with the parameters' names erased: `GET /repos/{}/{}/branches/{}`. The simulator marks a parameter
/// that takes several segments by `*`, and its paths by id are the same operations as those by name.
pub fn endpoint(method: &str, template: &str) -> String {
    let template = match template.strip_prefix("/repositories/{repository_id}") {
        Some(rest) => format!("/repos/{{}}/{{}}{rest}"),
        None => template.to_owned(),
    };
    let erased = template.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment });
    format!("{method} {}", erased.collect::<Vec<_>>().join("/"))
}

/// Applies the changes of [`NEWEST`] everywhere in a document; a change is a JSON Patch (a list) or a merge patch.
fn change(value: &mut Value) -> usize {
    let mut applied = 0;
    match value {
        Value::Object(fields) => applied += fields.values_mut().map(change).sum::<usize>(),
        Value::Array(items) => applied += items.iter_mut().map(change).sum::<usize>(),
        _ => {}
    }
    let Some(Value::Array(changes)) = value.as_object_mut().and_then(|f| f.remove("x-github-breaking-changes")) else {
        return applied;
    };
    for change in changes.into_iter().filter(|change| change["version"] == NEWEST) {
        match &change["patch"] {
            list @ Value::Array(_) => {
                let patch: json_patch::Patch = serde_json::from_value(list.clone()).unwrap();
                json_patch::patch(value, &patch).unwrap();
            }
            merge => json_patch::merge(value, merge),
        }
        applied += 1;
    }
    applied
}
