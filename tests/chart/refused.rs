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
        (vec![("/spec/clientID", json!("Iv1.abc"))], "set exactly one of spec.appID"),
        (vec![("/spec/appID", Value::Null)], "set exactly one of spec.appID"),
        (
            vec![("/spec/appID", json!(0))],
            "spec.appID: Invalid value: 0: spec.appID in body should be greater than or equal to 1",
        ),
        (vec![("/spec/apiURL", json!("api.github.com"))], "must be an address that begins with https://"),
        (vec![("/spec/credentialsSecretRef", Value::Null)], "spec.credentialsSecretRef: Required value"),
        (vec![("/spec/tenents", json!([]))], "field not declared in schema"),
        (
            vec![("/spec/webhook", json!({"url": "landfall.example.com"}))],
            "must be an address that begins with https://",
        ),
        (vec![("/metadata/name", json!("a".repeat(64)))], "choose one of at most 63 characters"),
        (tenant("/spec/tenants/0/account", json!("@acme")), "without @ or a URL"),
        (
            tenant("/spec/tenants/0/repositories", json!(["acme/shop"])),
            "takes names without owner, patterns with *, or ids",
        ),
        (tenant("/spec/tenants/0/repositories", json!([])), "should have at least 1 items"),
        (tenant("/spec/tenants/0/push", json!({"refs": ["release/*"]})), "patterns of refs are refs/heads/NAME"),
        (tenant("/spec/tenants/0/maxPermissions", json!({"contents": "push"})), "Unsupported value"),
        (
            tenant("/spec/tenants/0/maxPermissions", json!({"pull-requests": "read"})),
            "GitHub has no permission pull-requests: did you mean pull_requests?",
        ),
        (tenant("/spec/tenants/0/name", Value::Null), r#"omits all key fields ["name"]"#),
        (tenant("/spec/tenants/0/name", json!("Team A")), "must be lower-case letters, digits and -"),
        (
            vec![("/spec/credentialsSecretRef/key", json!("a/b"))],
            "must be a key of the Secret, such as private-key.pem",
        ),
        (tenant("/spec/tenants/0/namespaces", json!({"names": []})), "should have at least 1 items"),
        (vec![("/spec/webURL", json!("github.example.com"))], "spec.webURL must be an address"),
        (
            vec![("/spec/webhook", json!({"url": "https://landfall.example.com", "policy": "Forced"}))],
            r#"supported values: "Managed", "Adopt", "Manual""#,
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
            "must be the login of a user or organization, without @ or a URL",
        ),
        (vec![("/spec/account", Value::Null)], "spec.account: Required value"),
        (vec![("/spec/account", json!("a".repeat(40)))], "may not be more than 39"),
        (vec![("/spec/appRef", json!({}))], "spec.appRef.name: Required value"),
        (vec![("/spec/installationID", json!(7))], "field not declared in schema"),
    ]
}

fn bad_tokens() -> Vec<Bad> {
    let repositories = |repositories: Value| vec![("/spec/repositories", repositories)];
    let secret = |field, value| vec![(field, value)];
    let templates =
        |keys: Value| vec![("/spec/secret", json!({"name": "git", "format": "Template", "template": keys}))];
    vec![
        (repositories(Value::Null), "a token for every repository must be asked for"),
        (
            vec![("/spec/repositorySelection", json!("All"))],
            "exactly one of spec.repositories and spec.repositorySelection: All",
        ),
        (repositories(json!([{"name": "shop"}, {"id": 7}])), "takes all by name or all by id"),
        (repositories(json!([{"name": "shop", "id": 7}])), "exactly one of name and id must be set"),
        (repositories(json!([{"name": "acme/shop"}])), "must stand without its owner: shop, not acme/shop"),
        (vec![("/spec/permissions", json!({"contents": "rw"}))], "Unsupported value"),
        (
            vec![("/spec/permissions", json!({"content": "read"}))],
            "GitHub has no permission content: did you mean contents?",
        ),
        (vec![("/spec/permissions", json!({"hooks": "write"}))], "did you mean repository_hooks?"),
        (
            vec![("/spec/permissions", json!({"everything": "write"}))],
            "GitHub has no permission of this name: https://docs.github.com/",
        ),
        (vec![("/spec/repositorySelection", json!("Some"))], r#"supported values: "Selected", "All""#),
        (vec![("/spec/permissions", json!({}))], "should have at least 1 properties"),
        (vec![("/spec/renewBefore", json!("10s"))], "must be a duration between 1m and 1h"),
        (vec![("/spec/renewBefore", json!("soon"))], "must be a duration between 1m and 1h"),
        (vec![("/spec/renewBefore", json!("1.5m"))], "must be a duration between 1m and 1h"),
        (secret("/spec/secret/name", json!("Shop_Git")), "must be a DNS name"),
        (secret("/spec/secret/format", json!("Other")), r#"supported values: "BasicAuth", "Opaque""#),
        (
            vec![
                ("/spec/secret", json!({"name": "git", "format": "ArgoCDRepository"})),
                ("/spec/repositories", json!([{"name": "shop"}, {"name": "lib"}])),
            ],
            "or set spec.secret.format to ArgoCDRepoCreds",
        ),
        (
            vec![
                ("/spec/secret", json!({"name": "git", "format": "ArgoCDRepository"})),
                ("/spec/repositories", json!([{"id": 7}])),
            ],
            "name one by its name under spec.repositories",
        ),
        (
            secret("/spec/secret/labels", json!({"argocd.argoproj.io/secret-type": "cluster"})),
            "must not use keys under argoproj.io",
        ),
        (
            secret("/spec/secret", json!({"name": "git", "format": "Template"})),
            "spec.secret.template must be set with spec.secret.format Template",
        ),
        (secret("/spec/secret", json!({"name": "git", "template": {"a": "b"}})), "and with no other format"),
        (templates(json!({"token": "a"})), "which the operator writes in every format"),
        (templates(json!({"ca.crt": "a"})), "which the operator writes in every format"),
        (templates(json!({"a/b": "a"})), "must have keys that a Secret can have"),
        (templates(json!({"..": "a"})), "must have keys that a Secret can have"),
        (templates(json!({"a": "b".repeat(4097)})), "may not be more than 4096"),
        (templates((0..17).map(|number| (format!("k{number}"), json!("a"))).collect()), "must have at most 16"),
        (
            secret("/spec/secret/labels", json!({"app.kubernetes.io/managed-by": "me"})),
            "must not use app.kubernetes.io/managed-by",
        ),
        (secret("/spec/secret/labels", json!({"node.kubernetes.io/a": "b"})), "nor keys under landfall.dev"),
        (secret("/spec/secret/labels", json!({"team": "A and B"})), "should match '^(([A-Za-z0-9]"),
        (
            vec![("/spec/installationRef/name", json!("../secrets/a"))],
            "spec.installationRef.name must be the name of a GitHubInstallation",
        ),
        (secret("/spec/secret/annotations", json!({"landfall.dev/scope": "{}"})), "must not use keys under"),
        (vec![("/spec/installationRef", Value::Null)], "spec.installationRef: Required value"),
    ]
}

fn bad_repositories() -> Vec<Bad> {
    let restart = "/spec/onPush/actions/0/rolloutRestart";
    let spec = |field: &'static str, value| vec![(field, value)];
    vec![
        (spec("/spec/source/url", json!("https://git.example.com/a")), "takes exactly one of existing, fork and url"),
        (spec("/spec/source/existing", Value::Null), "takes exactly one of existing, fork and url"),
        (spec("/spec/source/existing", json!({"name": "shop", "id": 7})), "exactly one of name and id must be set"),
        (spec("/spec/source/existing", json!({"name": "acme/shop"})), "must stand without its owner"),
        (spec("/spec/source/credentialsSecretRef", json!({"name": "a"})), "is for source.url"),
        (spec("/spec/installationRef", Value::Null), "spec.installationRef is needed for source.existing"),
        (spec("/spec/branch", json!("refs/heads/main")), "without refs/heads/"),
        (spec("/spec/branch", json!("a b")), "without refs/heads/, and as git check-ref-format has it"),
        (spec("/spec/branch", json!("a\\b")), "without refs/heads/, and as git check-ref-format has it"),
        (spec("/spec/pollInterval", json!("1s")), "must be a duration between 30s and 24h"),
        (spec("/spec/webhook", json!({"mode": "Both"})), r#"supported values: "App", "Repository", "None""#),
        (spec("/spec/onPush/serviceAccountName", Value::Null), "spec.onPush.serviceAccountName: Required value"),
        (
            spec("/spec/onPush/serviceAccountName", json!("system:serviceaccount:team-b:deployer")),
            "must be the name of a ServiceAccount in this namespace",
        ),
        (spec("/spec/onPush/debounce", json!("1h")), "must be a duration of at most 10m"),
        (spec("/spec/onPush/actions", json!([])), "should have at least 1 items"),
        (
            vec![("/spec/onPush/actions/0/rolloutRestart", json!({"kind": "Deployment"}))],
            "must have exactly one of name and selector",
        ),
        (
            spec(restart, json!({"kind": "Deployment", "name": "a", "selector": {"matchLabels": {"a": "b"}}})),
            "must have exactly one of name and selector",
        ),
        (spec(restart, json!({"kind": "Deployment", "selector": {}})), "would roll every workload"),
        (spec(restart, json!({"kind": "Pod", "name": "a"})), r#"supported values: "Deployment""#),
        (
            spec(restart, json!({"kind": "Deployment", "name": "other/a"})),
            "must be the name of a workload in this namespace",
        ),
    ]
}

fn bad_forks() -> Vec<Bad> {
    let fork = |field: &'static str, value| vec![(field, value)];
    vec![
        (fork("/spec/source/fork/of", json!("lib")), "must be owner/name, such as upstream/lib"),
        (fork("/spec/source/fork/of", json!("https://github.com/upstream/lib")), "must be owner/name"),
        (fork("/spec/source/fork/name", json!("acme/lib")), "must stand without its owner"),
        (fork("/spec/source/fork/branches", json!("Main")), r#"supported values: "Default", "All""#),
        (fork("/spec/source/fork/sync/interval", json!("10s")), "must be a duration between 1m and 168h"),
    ]
}

fn bad_urls() -> Vec<Bad> {
    let url = |value| vec![("/spec/source/url", value)];
    vec![
        (url(json!("http://git.example.com/team/lib.git")), "must begin with https://"),
        (
            vec![("/spec/source/credentialsSecretRef/name", json!("../configmaps/a"))],
            "spec.source.credentialsSecretRef.name must be the name of a Secret",
        ),
        (
            vec![("/spec/source/credentialsSecretRef/key", json!("a b"))],
            "must be a key of the Secret, such as password",
        ),
        (url(json!("git@git.example.com:team/lib.git")), "must begin with https://"),
        (url(json!("https://mona:secret@git.example.com/team/lib.git")), "must not hold credentials"),
        (vec![("/spec/installationRef", json!({"name": "acme"}))], "has no meaning for source.url"),
        (vec![("/spec/webhook", json!({"mode": "Repository"}))], "needs GitHub's API"),
    ]
}

fn bad_workspaces() -> Vec<Bad> {
    let pod = |value| vec![("/spec/pod", value)];
    vec![
        (pod(json!({"env": [{"name": "GITHUB_TOKEN", "value": "x"}]})), "GITHUB_TOKEN would be a credential"),
        (
            pod(json!({"ports": [{"containerPort": 80, "protocol": "ICMP"}]})),
            r#"supported values: "TCP", "UDP", "SCTP""#,
        ),
        (pod(json!({"ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}]})), "duplicate"),
        (pod(json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]})), "duplicate"),
        (pod(json!({"imagePullSecrets": [{}]})), r#"omits all key fields ["name"]"#),
        (vec![("/spec/githubTokenInEnvironment", json!(true))], "field not declared in schema"),
        (vec![("/spec/push", json!({"refs": ["refs/remotes/x"]}))], "patterns of refs are refs/heads/NAME"),
        (vec![("/spec/push", json!({"refs": ["refs/heads/a b"]}))], "patterns of refs are refs/heads/NAME"),
        (
            vec![("/spec/push", json!({"force": ["refs/heads/landfall-wip/try-0a1b2/head"]}))],
            "where the work of workspaces goes",
        ),
        (vec![("/spec/push", json!({"refs": ["refs/heads/a", "refs/heads/a"]}))], "duplicate"),
        (vec![("/spec/save", json!({"timeout": "10"}))], "must be a duration between 10s and 1h"),
        (vec![("/spec/storage/size", json!(0))], "spec.storage.size must be more than 0"),
        (vec![("/spec/clone", json!({"depth": 0}))], "should be greater than or equal to 1"),
        (pod(json!({"resources": {"limits": {"cpu": "much"}}})), "should match '^[0-9]+"),
        (pod(json!({"affinity": {"nodeAffinity": "everywhere"}})), ".spec.pod.affinity.nodeAffinity: expected map"),
        (pod(json!({"affinity": {"nodeAfinity": {}}})), "field not declared in schema"),
        (pod(json!({"tolerations": vec![json!({"operator": "Exists"}); 33]})), "must have at most 32 items"),
    ]
}

#[tokio::test]
async fn bad_inputs_are_told_what_to_do() {
    let server = with_definitions().await;
    let kubeconfig = server.kubeconfig();
    kubectl(&kubeconfig, &["create", "namespace", "team-a"], "").expect("a namespace");
    let mut wrong = Vec::new();
    for (file, inputs) in [
        ("githubapp", bad_apps()),
        ("githubinstallation", bad_installations()),
        ("installationtoken", bad_tokens()),
        ("projectrepository", bad_repositories()),
        ("projectrepository-fork", bad_forks()),
        ("projectrepository-url", bad_urls()),
        ("workspace", bad_workspaces()),
    ] {
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
        ("githubapp", "/spec/appID", json!(7), "spec.appID cannot be changed: make another GitHubApp"),
        ("githubapp", "/spec/apiURL", json!("https://ghe.example.com/api/v3"), "spec.apiURL cannot be changed"),
        ("githubinstallation", "/spec/appRef/name", json!("other"), "spec.appRef cannot be changed"),
        ("githubinstallation", "/spec/account", json!("other"), "spec.account cannot be changed"),
        ("projectrepository", "/spec/installationRef/name", json!("other"), "spec.installationRef cannot be changed"),
        (
            "projectrepository",
            "/spec/source/existing",
            json!({"name": "other"}),
            "spec.source.existing cannot be changed",
        ),
        ("projectrepository", "/spec/source", json!({"fork": {"of": "a/b"}}), "cannot become one of another kind"),
        (
            "projectrepository-fork",
            "/spec/source/fork/of",
            json!("upstream/other"),
            "spec.source.fork.of cannot be changed",
        ),
        (
            "projectrepository-url",
            "/spec/source/url",
            json!("https://git.example.com/b"),
            "spec.source.url cannot be changed",
        ),
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

/// A volume may grow, as a claim may; nothing else of it changes.
#[tokio::test]
async fn a_volume_may_grow() {
    let server = with_definitions().await;
    let kubeconfig = server.kubeconfig();
    kubectl(&kubeconfig, &["create", "namespace", "team-a"], "").expect("a namespace");
    let with = |storage: Value| {
        let mut object = sample("workspace");
        change(&mut object, "/spec/storage", storage);
        object
    };
    let apply =
        |storage: Value| kubectl(&kubeconfig, &["apply", "--server-side", "-f", "-"], &with(storage).to_string());
    apply(json!({"size": "10Gi"})).expect("the sample");
    for bigger in [json!({"size": "10240Mi"}), json!({"size": "20Gi"}), json!({"size": "1Ti"})] {
        apply(bigger).expect("it grows");
    }
    let refused = |storage: Value| try_out(&kubeconfig, &[with(storage)]).refusal("/spec/storage");
    let said = refused(json!({"size": "20Gi"}));
    assert!(said.contains("spec.storage.size can grow, and cannot shrink"), "{said}");
    for other in
        [json!({"size": "1Ti", "storageClassName": "fast"}), json!({"size": "1Ti", "accessMode": "ReadWriteMany"})]
    {
        let said = refused(other);
        assert!(said.contains("spec.storage.storageClassName and spec.storage.accessMode cannot be changed"), "{said}");
    }
    server.stop().await;
}

/// Two owners apply entries of their own.
#[tokio::test]
async fn each_owner_applies_tenants_of_their_own() {
    let server = with_definitions().await;
    let kubeconfig = server.kubeconfig();
    let app = sample("githubapp");
    let mut mine =
        json!({"apiVersion": app["apiVersion"], "kind": app["kind"], "metadata": app["metadata"], "spec": {}});
    mine["spec"]["appID"] = app["spec"]["appID"].clone();
    mine["spec"]["credentialsSecretRef"] = app["spec"]["credentialsSecretRef"].clone();
    kubectl(&kubeconfig, &["apply", "--server-side", "-f", "-"], &app.to_string()).expect("the first owner's");
    mine["spec"]["tenants"] =
        json!([{"name": "globex", "account": "globex", "repositories": ["*"], "namespaces": {"names": ["team-b"]}}]);
    let apply = ["apply", "--server-side", "--field-manager", "another", "-f", "-"];
    kubectl(&kubeconfig, &apply, &mine.to_string()).expect("the second owner's");
    let whole = kubectl(&kubeconfig, &["get", "githubapp", "landfall", "-o", "json"], "").expect("both");
    let whole: Value = serde_json::from_str(&whole).unwrap();
    let names: Vec<_> = whole["spec"]["tenants"].as_array().unwrap().iter().map(|tenant| &tenant["name"]).collect();
    assert_eq!(names, ["acme", "globex"]);
    server.stop().await;
}

/// Who looks for the dependents of an object asks the API server for them alone.
#[tokio::test]
async fn references_are_selectable() {
    let server = with_definitions().await;
    let kubeconfig = server.kubeconfig();
    kubectl(&kubeconfig, &["create", "namespace", "team-a"], "").expect("a namespace");
    for (file, plural, field) in [
        ("installationtoken", "installationtokens", "spec.installationRef.name"),
        ("projectrepository", "projectrepositories", "spec.installationRef.name"),
        ("workspace", "workspaces.landfall.dev", "spec.repositoryRef.name"),
    ] {
        let object = sample(file);
        let pointer = format!("/{}", field.replace('.', "/"));
        let name = object.pointer(&pointer).and_then(Value::as_str).unwrap().to_owned();
        kubectl(&kubeconfig, &["apply", "--server-side", "-f", "-"], &object.to_string()).expect("the sample");
        let find = |value: &str| {
            let selector = format!("{field}={value}");
            kubectl(&kubeconfig, &["get", plural, "-n", "team-a", "-o", "name", "--field-selector", &selector], "")
        };
        assert!(!find(&name).expect("selectable").trim().is_empty(), "{plural}");
        assert!(find("another").expect("selectable").trim().is_empty(), "{plural}");
    }
    server.stop().await;
}
