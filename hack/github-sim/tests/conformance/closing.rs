//! From the schemas of GitHub's descriptions to closed JSON Schema 2020-12.
//!
//! The descriptions leave objects open, so a property that GitHub never sends would pass. Here an object that names its
//! properties has no others, unless the description says so by `additionalProperties`. What `allOf` merges is closed as
//! a whole (`unevaluatedProperties`), what `anyOf` and `oneOf` choose from is closed one by one: closed at the wrong
//! place, every merged object would fail, or none.

use serde_json::{Map, Value, json};

/// Keywords that constrain and hold no schema; the others that hold none are annotations.
const PLAIN: &[&str] = &[
    "type",
    "enum",
    "const",
    "format",
    "pattern",
    "required",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "uniqueItems",
];
const REFERENCE: &str = "#/components/schemas/";

/// How a schema stands to the value it describes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It alone describes the value.
    Whole,
    /// It is merged with others, which close the object.
    Part,
}

/// Closes schemas, and collects the components that they refer to.
struct Closing<'a> {
    components: &'a Map<String, Value>,
    definitions: Map<String, Value>,
}

/// The closed schema, complete with what it refers to.
pub fn closed(components: &Map<String, Value>, schema: &Value) -> Value {
    let mut closing = Closing { components, definitions: Map::new() };
    let mut closed = closing.schema(schema, Place::Whole);
    closed["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    closed["$defs"] = Value::Object(closing.definitions);
    closed
}

impl Closing<'_> {
    fn schema(&mut self, schema: &Value, place: Place) -> Value {
        let Some(given) = schema.as_object() else { return schema.clone() };
        if let Some(reference) = given.get("$ref") {
            return json!({"$ref": self.definition(reference.as_str().unwrap(), place)});
        }
        let has =
            |keyword: &str| given.get(keyword).is_some_and(|value| value.as_object().is_none_or(|map| !map.is_empty()));
        let merged = has("properties") || has("allOf");
        let inner = if merged || place == Place::Part { Place::Part } else { Place::Whole };
        let mut out: Map<String, Value> = given
            .iter()
            .filter(|(name, _)| PLAIN.contains(&name.as_str()))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        for keyword in ["allOf", "anyOf", "oneOf"] {
            if let Some(branches) = given.get(keyword).and_then(Value::as_array) {
                let branches = branches.iter().map(|branch| self.schema(branch, inner)).collect();
                out.insert(keyword.to_owned(), Value::Array(branches));
            }
        }
        for keyword in ["items", "additionalProperties"] {
            if let Some(schema) = given.get(keyword) {
                out.insert(keyword.to_owned(), self.schema(schema, Place::Whole));
            }
        }
        if let Some(properties) = given.get("properties").and_then(Value::as_object) {
            let closed = properties.iter().map(|(name, schema)| (name.clone(), self.schema(schema, Place::Whole)));
            out.insert("properties".to_owned(), Value::Object(closed.collect()));
        }
        if merged && place == Place::Whole {
            out.insert("unevaluatedProperties".to_owned(), json!(false));
        }
        if given.get("nullable") == Some(&json!(true)) { nullable(out) } else { Value::Object(out) }
    }

    /// A component is closed where it stands alone, and open where it is merged: two definitions.
    fn definition(&mut self, reference: &str, place: Place) -> String {
        let name = reference.strip_prefix(REFERENCE).unwrap_or_else(|| panic!("{reference} is no schema"));
        let key = format!("{}{name}", if place == Place::Whole { "" } else { "open-" });
        if !self.definitions.contains_key(&key) {
            // A component may refer to itself: its place is taken before it is walked.
            self.definitions.insert(key.clone(), Value::Null);
            let component = &self.components[name];
            let schema = self.schema(component, place);
            self.definitions.insert(key.clone(), schema);
        }
        format!("#/$defs/{key}")
    }
}

/// `OpenAPI` 3.0 says `nullable`, JSON Schema knows the type null.
fn nullable(mut schema: Map<String, Value>) -> Value {
    let branches = ["allOf", "anyOf", "oneOf"].iter().any(|keyword| schema.contains_key(*keyword));
    match schema.get("type").cloned() {
        Some(Value::String(kind)) if !branches => {
            schema.insert("type".to_owned(), json!([kind, "null"]));
            if let Some(Value::Array(values)) = schema.get_mut("enum") {
                values.push(Value::Null);
            }
            Value::Object(schema)
        }
        _ => json!({"anyOf": [schema, {"type": "null"}]}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a value is as a schema says, with `user` (closed by itself: a login) and `tree` (of trees) shared.
    fn valid(schema: &Value, value: &Value) -> bool {
        let shared = json!({
            "user": {"type": "object", "required": ["login"], "properties": {"login": {"type": "string"}}},
            "tree": {"type": "object", "properties": {"leaf": {"$ref": "#/components/schemas/tree"}}},
        });
        let schema = closed(shared.as_object().unwrap(), schema);
        jsonschema::draft202012::options().build(&schema).unwrap().is_valid(value)
    }

    #[test]
    fn what_names_its_properties_has_no_others() {
        let user = json!({"$ref": "#/components/schemas/user"});
        assert!(valid(&user, &json!({"login": "a"})));
        assert!(!valid(&user, &json!({"login": "a", "more": 1})));
        let list = json!({"type": "array", "items": user});
        assert!(!valid(&list, &json!([{"login": "a"}, {"login": "a", "more": 1}])));
        let tree = json!({"$ref": "#/components/schemas/tree"});
        assert!(valid(&tree, &json!({"leaf": {"leaf": {}}})) && !valid(&tree, &json!({"leaf": {"leaf": {"more": 1}}})));
    }

    #[test]
    fn what_is_open_by_its_words_stays_open() {
        assert!(valid(&json!({"type": "object"}), &json!({"any": 1})));
        let numbers = json!({
            "type": "object", "properties": {"name": {"type": "string"}}, "additionalProperties": {"type": "integer"},
        });
        assert!(valid(&numbers, &json!({"name": "a", "more": 1})) && !valid(&numbers, &json!({"more": "a"})));
    }

    #[test]
    fn what_is_merged_is_closed_as_a_whole() {
        let merged = json!({
            "allOf": [{"$ref": "#/components/schemas/user"}, {"type": "object", "properties": {"id": {"type": "integer"}}}],
        });
        assert!(valid(&merged, &json!({"login": "a", "id": 1})));
        assert!(!valid(&merged, &json!({"login": "a", "id": 1, "more": 1})));
        let either = json!({
            "type": "object", "properties": {"id": {"type": "integer"}, "name": {"type": "string"}},
            "anyOf": [{"required": ["id"]}, {"required": ["name"]}],
        });
        assert!(valid(&either, &json!({"name": "a"})) && !valid(&either, &json!({"name": "a", "more": 1})));
    }

    #[test]
    fn what_is_chosen_from_is_closed_one_by_one() {
        let choice = json!({"anyOf": [
            {"$ref": "#/components/schemas/user"},
            {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}},
        ]});
        assert!(valid(&choice, &json!({"login": "a"})) && valid(&choice, &json!({"id": 1})));
        assert!(!valid(&choice, &json!({"login": "a", "id": 1})));
    }

    #[test]
    fn what_is_nullable_may_be_null() {
        for schema in [
            json!({"type": "string", "enum": ["a"], "nullable": true}),
            json!({"nullable": true, "allOf": [{"$ref": "#/components/schemas/user"}]}),
        ] {
            assert!(valid(&schema, &Value::Null) && !valid(&schema, &json!(1)), "{schema}");
        }
    }
}
