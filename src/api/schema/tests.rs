use crate::controllers::definitions as crds;
use serde_json::Value;

/// Each property of each kind's schema: where it is, its name and its schema.
fn properties() -> Vec<(String, String, Value)> {
    fn walk(at: &str, schema: &Value, found: &mut Vec<(String, String, Value)>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let place = format!("{at}.{name}");
            walk(&place, property, found);
            found.push((place, name.clone(), property.clone()));
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                walk(&format!("{at}[]"), &schema[inner], found);
            }
        }
    }
    let mut found = Vec::new();
    for crd in crds() {
        let schema = crd.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
        walk(&crd.spec.names.kind, &serde_json::to_value(schema.unwrap()).unwrap(), &mut found);
    }
    assert!(found.len() > 100, "the schemas were walked: {}", found.len());
    found
}

/// `cloneURL` as `clone`, `URL`; `repositoryIDs` as `repository`, `IDs`.
fn words(name: &str) -> Vec<&str> {
    let starts = name.char_indices().zip(std::iter::once('A').chain(name.chars()));
    let mut starts: Vec<_> = starts
        .filter(|((_, now), before)| now.is_uppercase() && !before.is_uppercase())
        .map(|((at, _), _)| at)
        .collect();
    starts.insert(0, 0);
    starts.push(name.len());
    starts.windows(2).map(|pair| &name[pair[0]..pair[1]]).collect()
}

#[test]
fn a_name_is_split_into_its_words() {
    assert_eq!(words("cloneURL"), ["clone", "URL"]);
    assert_eq!(words("repositoryIDs"), ["repository", "IDs"]);
    assert_eq!(words("endsAt"), ["ends", "At"]);
    assert_eq!(words("id"), ["id"]);
}

/// Kubernetes' API conventions: "All letters in the acronym should have the same case"; times end in `Time`.
#[test]
fn names_follow_the_api_conventions() {
    const ACRONYMS: [&str; 16] = [
        "API", "CA", "DNS", "GUID", "HTML", "HTTP", "HTTPS", "ID", "IP", "JSON", "SHA", "SSH", "TLS", "UID", "URI",
        "URL",
    ];
    let mut wrong = Vec::new();
    for (place, name, schema) in properties() {
        for word in &words(&name)[1..] {
            let singular = word.strip_suffix('s').unwrap_or(word);
            if ACRONYMS.iter().any(|acronym| acronym.eq_ignore_ascii_case(singular) && *acronym != singular) {
                wrong.push(format!("{place}: the letters of an acronym have one case"));
            }
        }
        if words(&name).last() == Some(&"At") {
            wrong.push(format!("{place}: a time ends in Time"));
        }
        if schema["format"] == "date-time" && name != "time" && words(&name).last() != Some(&"Time") {
            wrong.push(format!("{place}: a time ends in Time"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
