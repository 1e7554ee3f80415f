//! Bad inputs: each is one change of a sample, and is refused with words that say what to do.

use super::cluster::{try_out, with_definitions};
use super::programs::{kubectl, objects, path};
use serde_json::{Value, json};

fn sample(file: &str) -> Value {
    let text = std::fs::read_to_string(path(&format!("config/samples/{file}.yaml"))).unwrap();
    objects(&text).swap_remove(0)
}

/// Sets a field, or with null removes it.
fn change(object: &mut Value, pointer: &str, value: Value) {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}: no such field"));
    let fields = parent.as_object_mut().unwrap();
    if value.is_null() {
        fields.remove(field);
    } else {
        fields.insert(field.to_owned(), value);
    }
}

/// A change of a sample, by JSON pointers (null removes), and the words of its refusal.
type Bad = (Vec<(&'static str, Value)>, &'static str);

fn bad_apps() -> Vec<Bad> {
    let tenant = |field, value| vec![(field, value)];
    vec![
        (vec![("/spec/clientId", json!("Iv1.abc"))], "set exactly one of spec.appId"),
        (vec![("/spec/appId", Value::Null)], "set exactly one of spec.appId"),
        (
            vec![("/spec/appId", json!(0))],
            "spec.appId: Invalid value: 0: spec.appId in body should be greater than or equal to 1",
        ),
        (vec![("/spec/apiUrl", json!("api.github.com"))], "must be an address that begins with https://"),
        (vec![("/spec/credentialsSecret", Value::Null)], "spec.credentialsSecret: Required value"),
        (vec![("/spec/tenents", json!([]))], "field not declared in schema"),
        (vec![("/metadata/name", json!("a".repeat(64)))], "choose one of at most 63 characters"),
        (tenant("/spec/tenants/0/account", json!("@acme")), "without @ or a URL"),
        (
            tenant("/spec/tenants/0/repositories", json!(["acme/shop"])),
            "takes names without owner, patterns with *, or ids",
        ),
        (tenant("/spec/tenants/0/repositories", json!([])), "should have at least 1 items"),
        (
            tenant("/spec/tenants/0/maxPermissions", json!({"contents": "push"})),
            "takes the levels read, write and admin",
        ),
        (tenant("/spec/tenants/0/namespaces", json!({})), "needs names or a selector"),
        (tenant("/spec/tenants/0/namespaces", json!({"selector": {}})), "would grant every namespace"),
        (tenant("/spec/tenants/0/namespaces", json!({"names": ["team-a", "team-a"]})), "duplicate"),
    ]
}

fn bad_installations() -> Vec<Bad> {
    vec![
        (
            vec![("/spec/account", json!("https://github.com/acme"))],
            "is the login of a user or organization, without @ or a URL",
        ),
        (vec![("/spec/account", Value::Null)], "spec.account: Required value"),
        (vec![("/spec/account", json!("a".repeat(40)))], "may not be more than 39"),
        (vec![("/spec/appRef", json!({}))], "spec.appRef.name: Required value"),
        (vec![("/spec/installationId", json!(7))], "field not declared in schema"),
    ]
}

fn bad_tokens() -> Vec<Bad> {
    let repositories = |repositories: Value| vec![("/spec/repositories", repositories)];
    let secret = |field, value| vec![(field, value)];
    vec![
        (repositories(Value::Null), "a token for every repository must be said"),
        (vec![("/spec/allRepositories", json!(true))], "and not both"),
        (repositories(json!([{"name": "shop"}, {"id": 7}])), "takes all by name or all by id"),
        (repositories(json!([{"name": "shop", "id": 7}])), "is given by name or by id, not both"),
        (repositories(json!([{"name": "acme/shop"}])), "stands without its owner: shop, not acme/shop"),
        (vec![("/spec/permissions", json!({"contents": "rw"}))], "takes the levels read, write and admin"),
        (vec![("/spec/permissions", json!({}))], "should have at least 1 properties"),
        (vec![("/spec/renewBefore", json!("10s"))], "is a duration between 1m and 1h"),
        (vec![("/spec/renewBefore", json!("soon"))], "is a duration between 1m and 1h"),
        (secret("/spec/secret/name", json!("Shop_Git")), "must be a DNS name"),
        (secret("/spec/secret/format", json!("Netrc")), r#"supported values: "BasicAuth", "Opaque""#),
        (secret("/spec/secret/labels", json!({"app.kubernetes.io/managed-by": "me"})), "must not use keys under"),
        (secret("/spec/secret/annotations", json!({"landfall.dev/scope": "{}"})), "must not use keys under"),
        (vec![("/spec/installationRef", Value::Null)], "spec.installationRef: Required value"),
    ]
}

#[tokio::test]
async fn bad_inputs_are_told_what_to_do() {
    let server = with_definitions().await;
    let kubeconfig = server.kubeconfig();
    kubectl(&kubeconfig, &["create", "namespace", "team-a"], "").expect("a namespace");
    let mut wrong = Vec::new();
    for (file, inputs) in
        [("githubapp", bad_apps()), ("githubinstallation", bad_installations()), ("installationtoken", bad_tokens())]
    {
        let good = sample(file);
        try_out(&kubeconfig, std::slice::from_ref(&good)).expect("the sample");
        for (changes, words) in inputs {
            let mut bad = good.clone();
            for (pointer, value) in &changes {
                change(&mut bad, pointer, value.clone());
            }
            let answer = try_out(&kubeconfig, &[bad]);
            if answer.success || !answer.errors.contains(words) {
                wrong.push(format!(
                    "{file} {changes:?}: not refused with {words:?} but {}{}",
                    answer.output, answer.errors
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_changed_says_so() {
    let server = with_definitions().await;
    let kubeconfig = server.kubeconfig();
    kubectl(&kubeconfig, &["create", "namespace", "team-a"], "").expect("a namespace");
    for (file, pointer, value, words) in [
        ("githubapp", "/spec/appId", json!(7), "spec.appId cannot be changed: make another GitHubApp"),
        ("githubapp", "/spec/apiUrl", json!("https://ghe.example.com/api/v3"), "spec.apiUrl cannot be changed"),
        ("githubinstallation", "/spec/appRef/name", json!("other"), "spec.appRef cannot be changed"),
        ("githubinstallation", "/spec/account", json!("other"), "spec.account cannot be changed"),
    ] {
        let mut object = sample(file);
        kubectl(&kubeconfig, &["apply", "--server-side", "-f", "-"], &object.to_string()).expect("the sample");
        try_out(&kubeconfig, std::slice::from_ref(&object)).expect("no change");
        change(&mut object, pointer, value);
        let said = try_out(&kubeconfig, &[object]).refusal(pointer);
        assert!(said.contains(words), "{pointer}: {said}");
    }
    server.stop().await;
}
