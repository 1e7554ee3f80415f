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

/// Null and server-side apply do not go together.
#[test]
fn optional_means_omitted() {
    for crd in crds() {
        let text = serde_json::to_string(&crd).unwrap();
        assert!(!text.contains("nullable") && !text.contains("null,"), "{}", crd.spec.names.kind);
        assert!(!text.contains("\"anyOf\"") && !text.contains("\"oneOf\""), "{}", crd.spec.names.kind);
    }
}

#[test]
fn each_value_is_explained() {
    let mut enums = 0;
    for (place, name, schema) in properties() {
        let of_ours = place.contains(".status.conditions[]") || place.contains("tolerations") || name == "operator";
        for value in schema["enum"].as_array().into_iter().flatten().filter(|_| !of_ours) {
            let (value, description) = (value.as_str().unwrap(), schema["description"].as_str().unwrap_or_default());
            assert!(description.contains(&format!("\n- `{value}`: ")), "{place}: {value}: {description}");
            enums += 1;
        }
    }
    assert!(enums > 30, "{enums}");
}

/// Kubernetes' own types have no bounds. An object with a million tolerations would be refused only when a pod is made of it.
#[test]
fn each_text_and_each_list_of_a_spec_is_bounded() {
    let mut bounded = 0;
    for (place, _, schema) in properties().into_iter().filter(|(place, ..)| place.contains(".spec")) {
        for part in [&schema, &schema["items"], &schema["additionalProperties"]] {
            let bound = match part["type"].as_str() {
                Some("array") => "maxItems",
                Some("string") if part["enum"].is_null() => "maxLength",
                Some("object") if part["additionalProperties"].is_object() => "maxProperties",
                _ => continue,
            };
            assert!(part[bound].is_u64(), "{place}: {bound}");
            bounded += 1;
        }
    }
    assert!(bounded > 60, "{bounded}");
}

#[test]
fn each_default_is_named_in_its_description() {
    let mut named = 0;
    for (place, _, schema) in properties() {
        let Some(default) = schema["default"].as_str().filter(|default| !default.is_empty()) else { continue };
        let description = schema["description"].as_str().unwrap_or_default();
        assert!(description.contains(&format!("Default: `{default}`.")), "{place}: {description}");
        named += 1;
    }
    assert!(named > 15, "{named}");
}

#[test]
fn a_status_has_no_default_that_looks_like_an_observation() {
    for (place, _, schema) in properties().into_iter().filter(|(place, ..)| place.contains(".status.")) {
        let default = &schema["default"];
        assert!(default.is_null() || *default == serde_json::json!([]), "{place}: {default}");
    }
}

#[test]
fn a_status_that_nobody_wrote_is_of_no_generation() {
    for (place, name, schema) in properties() {
        if name == "status" && place.matches('.').count() == 1 {
            let is_observed = schema["properties"].get("observedGeneration").is_some();
            let default =
                if is_observed { serde_json::json!({"observedGeneration": -1}) } else { serde_json::json!({}) };
            assert_eq!(schema["default"], default, "{place}");
        }
    }
}

#[test]
fn conditions_have_the_constraints_of_metav1() {
    let conditions: Vec<_> = properties().into_iter().filter(|(_, name, _)| name == "conditions").collect();
    assert_eq!(conditions.len(), 5);
    for (place, _, schema) in conditions {
        let fields = &schema["items"]["properties"];
        assert_eq!(fields["status"]["enum"], serde_json::json!(["True", "False", "Unknown"]), "{place}");
        assert_eq!(fields["reason"]["maxLength"], 1024, "{place}");
        assert_eq!(fields["type"]["maxLength"], 316, "{place}");
        assert_eq!(fields["message"]["maxLength"], 32768, "{place}");
        assert_eq!(schema["x-kubernetes-list-map-keys"], serde_json::json!(["type"]), "{place}");
    }
}

#[test]
fn columns_have_names_of_one_word() {
    for crd in crds() {
        for column in crd.spec.versions[0].additional_printer_columns.iter().flatten() {
            assert!(!column.name.contains(' '), "{}: {}", crd.spec.names.kind, column.name);
        }
    }
}

#[test]
fn a_duration_is_what_gep_2257_says() {
    use crate::api::duration;
    use jiff::SignedDuration;
    for (text, millis) in [("0s", 0), ("10m", 600_000), ("1h30m", 5_400_000), ("500ms", 500), ("1s1h", 3_601_000)] {
        assert_eq!(duration(text), Some(SignedDuration::from_millis(millis)), "{text}");
    }
    for text in ["", "10", "m", "1d", "1.5h", "-1s", "1h ", "99999999999999999999h"] {
        assert_eq!(duration(text), None, "{text}");
    }
}
