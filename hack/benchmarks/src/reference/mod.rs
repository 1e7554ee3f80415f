//! The references: programs and kinds that are not Landfall's, as small as they can be, which do the same work in the
//! usual way. Landfall takes turns with them against one API server.
//!
//! Invariant: no code of Landfall's is in them and no kind of Landfall's is written by them, so that a cost of our own
//! never hides in the yardstick.

pub mod receiver;
pub mod tokens;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

/// The API group of their kinds.
const GROUP: &str = "bench.landfall.dev";

/// The definitions of their kinds: few fields, and no rules that the API server would have to evaluate.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let text = json!({"type": "string", "maxLength": 256});
    let delivery = json!({
        "type": "object",
        "required": ["id", "receiptTime"],
        "properties": {
            "id": text, "app": text, "namespace": text, "name": text, "event": text, "action": text, "ref": text,
            "sha": text, "guid": text, "receiptTime": {"type": "string", "format": "date-time"},
        },
    });
    let deliveries = json!({"type": "array", "maxItems": 1024, "x-kubernetes-list-type": "atomic", "items": delivery});
    let condition = json!({
        "type": "object",
        "required": ["type", "status"],
        "properties": {"type": text, "status": text, "reason": text, "message": text, "lastTransitionTime": text},
    });
    let conditions = json!({
        "type": "array", "items": condition, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
    });
    let kinds = [
        ("PlainRepository", json!({"url": text}), json!({"observedRevision": text})),
        (
            "PlainInbox",
            json!({}),
            json!({"deliveries": deliveries, "texts": {"type": "array", "maxItems": 1024, "items": text}}),
        ),
        ("PlainApp", json!({"installation": text, "repository": text}), json!({})),
        (
            "PlainToken",
            json!({"appRef": text, "secret": text, "refreshInterval": text}),
            json!({"conditions": conditions, "refreshTime": text}),
        ),
    ];
    kinds.into_iter().filter_map(|(kind, spec, status)| definition(kind, &spec, &status).ok()).collect()
}

fn definition(kind: &str, spec: &Value, status: &Value) -> Result<CustomResourceDefinition, serde_json::Error> {
    let plural = plural(kind);
    serde_json::from_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {"type": "object", "properties": spec},
                        "status": {"type": "object", "properties": status},
                    },
                }},
            }],
        },
    }))
}

/// The name of a kind in addresses.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if kind.ends_with('x') => format!("{kind}es"),
        None => format!("{kind}s"),
    }
}

/// The address of a namespace's objects of a kind.
pub(crate) fn collection(kind: &str, namespace: &str) -> String {
    format!("/apis/{GROUP}/v1/namespaces/{namespace}/{}", plural(kind))
}

/// An object of a kind.
pub(crate) fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Returns when the standard input of this process ends, which the process that started it holds open.
async fn input_ended() {
    // An error is an end, too. Nobody writes anything.
    let read = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    let _ = tokio::task::spawn_blocking(read).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_definition_with_a_status() {
        let definitions = definitions();
        let plurals: Vec<_> = definitions.iter().map(|definition| definition.spec.names.plural.as_str()).collect();
        assert_eq!(plurals, ["plainrepositories", "plaininboxes", "plainapps", "plaintokens"]);
        for definition in &definitions {
            assert!(definition.spec.versions[0].subresources.as_ref().is_some_and(|parts| parts.status.is_some()));
        }
        assert_eq!(collection("PlainInbox", "a"), "/apis/bench.landfall.dev/v1/namespaces/a/plaininboxes");
    }
}
