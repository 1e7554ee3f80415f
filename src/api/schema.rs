//! The definitions of the kinds, from their types.
//!
//! Owns what every schema has in common. Invariant: a field that is optional may be omitted, and is never null: null and
//! server-side apply do not go together, for a null is a value that somebody owns.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceValidation,
};
use kube::CustomResourceExt;
use kube::core::schema::StructuralSchemaRewriter;
use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

#[cfg(test)]
mod tests;

/// The definition of a kind.
pub(crate) fn definition<K: CustomResourceExt + JsonSchema>() -> CustomResourceDefinition {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let generator = settings
        .with_transform(omit_optional)
        .with_transform(describe_defaults)
        .with_transform(describe_values)
        .with_transform(StructuralSchemaRewriter)
        .with_transform(constrain_conditions)
        .with_transform(replace_lists_whole)
        .with_transform(replace_references_whole);
    let mut schema = generator.into_generator().into_root_schema_for::<K>();
    if let Some(spec) = schema.pointer_mut("/properties/spec") {
        bound(spec);
    }
    // As long as nobody has looked at an object, its status is of an earlier generation than its spec: kstatus takes one
    // without a status for current.
    if let Some(status) = schema.pointer_mut("/properties/status").and_then(Value::as_object_mut) {
        let is_observed = status["properties"].get("observedGeneration").is_some();
        let default = if is_observed { json!({"observedGeneration": -1}) } else { json!({}) };
        status.insert("default".to_owned(), default);
    }
    let mut definition = K::crd();
    for version in &mut definition.spec.versions {
        version.schema = serde_json::from_value(json!({"openAPIV3Schema": schema}))
            .ok()
            .filter(|schema: &CustomResourceValidation| schema.open_api_v3_schema.is_some());
    }
    definition
}

/// `null` is no value of a field: the type alone stays.
fn omit_optional(schema: &mut Schema) {
    transform_subschemas(&mut omit_optional, schema);
    let Some(fields) = schema.as_object_mut() else { return };
    fields.remove("nullable");
    if let Some(Value::Array(types)) = fields.get_mut("type") {
        types.retain(|one| one != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            fields.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let is_null = |choice: &Value| choice["type"] == "null" || choice["enum"] == json!([]);
    let Some(Value::Array(choices)) = fields.get_mut("anyOf") else { return };
    choices.retain(|choice| !is_null(choice));
    if let [Value::Object(only)] = choices.as_slice() {
        let only = only.clone();
        fields.remove("anyOf");
        // What the field says of itself goes before what its type says.
        for (name, value) in only {
            fields.entry(name).or_insert(value);
        }
    }
}

/// Names the default of a field in its description, for `kubectl explain`.
fn describe_defaults(schema: &mut Schema) {
    transform_subschemas(&mut describe_defaults, schema);
    let Some(fields) = schema.as_object_mut() else { return };
    let default = match fields.get("default") {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => return,
    };
    let said = fields.get("description").and_then(Value::as_str).unwrap_or_default();
    if !said.contains("Default: ") {
        let description = format!("{said} Default: `{default}`.");
        fields.insert("description".to_owned(), json!(description));
    }
}

/// Bounds what has no bound of its own, which are the fields of Kubernetes' types: a person who may write an object must not be
/// able to make it as large as the API server takes it.
fn bound(schema: &mut Value) {
    const ITEMS: u64 = 64;
    /// A label's key: a domain of 253 characters, a slash, and 63 more.
    const CHARACTERS: u64 = 317;
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(bound),
        Value::Object(fields) => {
            fields.values_mut().for_each(bound);
            match fields.get("type").and_then(Value::as_str) {
                Some("array") => {
                    fields.entry("maxItems").or_insert(json!(ITEMS));
                }
                Some("string") if !fields.contains_key("enum") => {
                    fields.entry("maxLength").or_insert(json!(CHARACTERS));
                }
                Some("object") if fields.contains_key("additionalProperties") => {
                    fields.entry("maxProperties").or_insert(json!(ITEMS));
                }
                _ => {}
            }
        }
        _ => {}
    }
}

/// An enum's values, each with its meaning in the description, for `kubectl explain`.
fn describe_values(schema: &mut Schema) {
    transform_subschemas(&mut describe_values, schema);
    let Some(fields) = schema.as_object_mut() else { return };
    let Some(Value::Array(choices)) = fields.get("oneOf") else { return };
    let Some(values) = choices.iter().map(values_of).collect::<Option<Vec<_>>>() else { return };
    let described = |(value, meaning): &(Value, Option<String>)| {
        let (value, meaning) = (value.as_str()?, meaning.as_ref()?);
        Some(format!("\n- `{value}`: {meaning}"))
    };
    let values: Vec<_> = values.into_iter().flatten().collect();
    let meanings: String = values.iter().filter_map(described).collect();
    let said = fields.get("description").and_then(Value::as_str).unwrap_or_default();
    let description = format!("{said}\n{meanings}");
    fields.remove("oneOf");
    fields.insert("description".to_owned(), json!(description.trim()));
    fields.insert("type".to_owned(), json!("string"));
    fields.insert("enum".to_owned(), values.into_iter().map(|(value, _)| value).collect());
}

/// The values of one choice with their meanings; `None`: it is not one of plain values.
fn values_of(choice: &Value) -> Option<Vec<(Value, Option<String>)>> {
    let choice = choice.as_object()?;
    if choice.get("type")? != "string" {
        return None;
    }
    let meaning = choice.get("description").and_then(Value::as_str).map(|text| text.replace('\n', " "));
    if let Some(value) = choice.get("const") {
        return Some(vec![(value.clone(), meaning)]);
    }
    let values = choice.get("enum")?.as_array()?;
    Some(values.iter().map(|value| (value.clone(), meaning.clone())).collect())
}

/// A list without a type of its own is atomic: an owner replaces it as a whole.
fn replace_lists_whole(schema: &mut Schema) {
    transform_subschemas(&mut replace_lists_whole, schema);
    let Some(fields) = schema.as_object_mut() else { return };
    if fields.get("type").is_some_and(|one| one == "array") {
        fields.entry("x-kubernetes-list-type").or_insert_with(|| json!("atomic"));
    }
}

/// References and selectors are atomic, as in core: two owners must not merge into a pair that neither of them wrote. A reference
/// with a default inside is not: an owner who leaves that field out would conflict with one who wrote the same.
fn replace_references_whole(schema: &mut Schema) {
    transform_subschemas(&mut replace_references_whole, schema);
    let Some(Value::Object(fields)) = schema.as_object_mut().and_then(|schema| schema.get_mut("properties")) else {
        return;
    };
    for (name, field) in fields {
        let is_whole = name.ends_with("Ref") || name.ends_with("Selector") || name == "selector";
        let has_default =
            field["properties"].as_object().is_some_and(|its| its.values().any(|it| it.get("default").is_some()));
        if let (true, Value::Object(field)) = (is_whole && !has_default, field) {
            field.entry("x-kubernetes-map-type").or_insert_with(|| json!("atomic"));
        }
    }
}

/// The constraints that metav1.Condition has on its fields.
/// <https://github.com/kubernetes/apimachinery/blob/v0.36.3/pkg/apis/meta/v1/types.go>
fn constrain_conditions(schema: &mut Schema) {
    transform_subschemas(&mut constrain_conditions, schema);
    let Some(Value::Object(fields)) = schema.as_object_mut().and_then(|schema| schema.get_mut("properties")) else {
        return;
    };
    if !["type", "status", "reason", "message", "lastTransitionTime"].iter().all(|name| fields.contains_key(*name)) {
        return;
    }
    let mut constrain = |name: &str, constraints: Value| {
        if let (Some(Value::Object(field)), Value::Object(constraints)) = (fields.get_mut(name), constraints) {
            field.extend::<Map<_, _>>(constraints);
        }
    };
    constrain(
        "type",
        json!({
            "maxLength": 316,
            "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
        }),
    );
    constrain("status", json!({"enum": ["True", "False", "Unknown"]}));
    constrain(
        "reason",
        json!({"minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"}),
    );
    constrain("message", json!({"maxLength": 32768}));
    constrain("observedGeneration", json!({"minimum": 0}));
}
