//! The names in the text are those of the source.

use super::page::{pages, root};
use landfall::api::Reason;
use serde_json::Value;
use std::collections::BTreeSet;

/// Fields of Kubernetes' own kinds that the pages speak of.
const KUBERNETES: &[&str] = &["spec.claimRef", "spec.volumeName", "spec.selector"];

#[test]
fn fields_are_those_of_the_kinds() {
    let schemas: Vec<Value> = landfall::controllers::definitions()
        .iter()
        .map(|crd| serde_json::to_value(crd).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
        .collect();
    let mut wrong = Vec::new();
    for page in pages() {
        // What was decided against, and what was called otherwise before, is named there too.
        if page.path.ends_with("decisions.md") || page.path.ends_with("CHANGELOG.md") {
            continue;
        }
        for word in page.words {
            let path = word.split([':', ' ', '=']).next().unwrap_or_default();
            let is_field = (path.starts_with("spec.") || path.starts_with("status."))
                && path.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '[' | ']'));
            if is_field && !KUBERNETES.contains(&path) && !schemas.iter().any(|schema| has(schema, path)) {
                wrong.push(format!("{}: no kind has the field {path}", page.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn has(schema: &Value, path: &str) -> bool {
    let mut here = schema;
    for part in path.split('.') {
        let name = part.trim_end_matches("[]");
        let properties = &here["properties"];
        let next = if properties.get(name).is_some() { &properties[name] } else { &here["additionalProperties"] };
        if next.is_null() {
            return false;
        }
        here = if next.get("items").is_some() { &next["items"] } else { next };
    }
    true
}

#[test]
fn paths_of_the_repository_are_there() {
    let folders = ["charts/", "config/", "docs/", "hack/", "src/", "tests/"];
    let mut wrong = Vec::new();
    for page in pages() {
        for word in page.words {
            let path = word.split([' ', '*']).next().unwrap_or_default();
            // Capitals stand for something else.
            let is_path = folders.iter().any(|folder| path.starts_with(folder)) && !path.contains(char::is_uppercase);
            if is_path && !root().join(path).exists() {
                wrong.push(format!("{}: there is no {path}", page.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_reason_is_explained_and_no_other() {
    let text = std::fs::read_to_string(root().join("docs/src/troubleshooting.md")).unwrap();
    // The first column of the tables of reasons.
    let mut is_of_reasons = false;
    let mut explained: Vec<&str> = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("| ").and_then(|row| row.split(" |").next()) {
            Some("reason") => is_of_reasons = true,
            Some(cell) if is_of_reasons => {
                explained.extend(cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')))
            }
            Some(_) => {}
            None => is_of_reasons &= line.starts_with("|-"),
        }
    }
    let once: BTreeSet<&str> = explained.iter().copied().collect();
    assert_eq!(once.len(), explained.len(), "a reason is explained twice: {explained:?}");
    let known: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(once, known);
}

#[test]
fn metrics_are_those_of_the_reference() {
    let reference = std::fs::read_to_string(root().join("docs/src/metrics.md")).unwrap();
    let known: BTreeSet<&str> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("| `landfall_"))
        .filter_map(|rest| rest.split('`').next())
        .collect();
    assert!(known.len() > 10, "{known:?}");
    let mut wrong = BTreeSet::new();
    for page in pages() {
        let blocks = page.blocks.iter().map(|block| &block.text);
        for text in page.words.iter().chain(blocks) {
            for found in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
                let Some(name) = found.strip_prefix("landfall_") else { continue };
                let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
                if !known.contains(name) && !known.contains(base) {
                    wrong.insert(format!("{}: no metric is called {found}", page.path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
