//! What a real API server says to the chart, to config/ and to the samples.

use super::programs::{helm, kubectl, kubectl_alone, named, objects, of_kind, only, path, template};
use super::render::VALUES;
use landfall_cluster::{ApiServer, Options};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// An API server with the definitions, which are established.
pub async fn with_definitions() -> ApiServer {
    let server = ApiServer::start(Options::default()).await.unwrap();
    let crds = path("crds");
    kubectl(&server.kubeconfig(), &["apply", "--server-side", "-f", &crds], "").expect("the definitions are accepted");
    let established = ["wait", "--for=condition=Established", "--timeout=120s", "-f", &crds];
    kubectl(&server.kubeconfig(), &established, "").expect("the definitions are established");
    server
}

/// Asks the API server, and not kubectl, what it would do with these objects.
pub fn try_out(kubeconfig: &Path, objects: &[Value]) -> super::programs::Answer {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=false", "-f", "-"];
    kubectl(kubeconfig, &apply, &list)
}

pub fn namespace(kubeconfig: &Path, name: &str) {
    let labels =
        json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"});
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}).to_string();
    kubectl(kubeconfig, &["apply", "--server-side", "-f", "-"], &namespace).expect("a namespace");
    let deadline = Instant::now() + Duration::from_mins(2);
    while !kubectl(kubeconfig, &["get", "serviceaccount", "default", "-n", name], "").success {
        assert!(Instant::now() < deadline, "not within 2 min: the default service account of {name}");
    }
}

#[tokio::test]
async fn every_rendering_is_accepted_under_restricted_pod_security() {
    let server = with_definitions().await;
    let kubeconfig = server.kubeconfig();
    for name in ["landfall-system", "team-a", "team-b"] {
        namespace(&kubeconfig, name);
    }
    for values in VALUES {
        let rendered = objects(&template(values).expect("the chart renders"));
        let answer = try_out(&kubeconfig, &rendered);
        assert_eq!(answer.errors, "", "{values:?}");
        assert!(answer.success);
    }

    // The standard is enforced on pods, and would be heard.
    let rendered = objects(&template(&[]).expect("the chart renders"));
    for name in ["landfall-controller", "landfall-receiver"] {
        let mut pod = named(&rendered, "Deployment", name)["spec"]["template"].clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"] = json!({"name": name, "namespace": "landfall-system"});
        pod["spec"]["serviceAccountName"] = json!("default");
        try_out(&kubeconfig, std::slice::from_ref(&pod)).expect(name);
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
        assert!(try_out(&kubeconfig, &[pod]).refusal("a lax pod").contains("violates PodSecurity \"restricted"));
    }
    server.stop().await;
}

#[tokio::test]
async fn helm_installs_upgrades_and_keeps_the_definitions() {
    let server = ApiServer::start(Options::default()).await.unwrap();
    let kubeconfig = server.kubeconfig();
    namespace(&kubeconfig, "landfall-system");
    namespace(&kubeconfig, "team-a");
    let kubeconfig_flag = format!("--kubeconfig={}", kubeconfig.display());
    let release = |command: &[&str]| helm(&[command, &[&kubeconfig_flag, "--namespace=landfall-system"]].concat());
    let notes = release(&["install", "landfall", &path("charts/landfall")]).expect("the release is installed");
    assert!(notes.contains("--from-file=private-key.pem="), "the notes say what comes next: {notes}");

    for (question, answer) in [
        (["create", "installationtokens.landfall.dev", "edit"], true),
        (["get", "installationtokens.landfall.dev", "view"], true),
        (["get", "githubinstallations.landfall.dev", "view"], true),
        (["create", "installationtokens.landfall.dev", "view"], false),
        (["create", "githubinstallations.landfall.dev", "edit"], false),
        (["create", "githubinstallations.landfall.dev", "admin"], true),
        (["create", "githubapps.landfall.dev", "admin"], false),
        (["create", "projectrepositories.landfall.dev", "edit"], true),
        (["get", "projectrepositories.landfall.dev", "view"], true),
        (["create", "projectrepositories.landfall.dev", "view"], false),
        (["patch", "projectrepositories.landfall.dev --subresource=status", "admin"], false),
        (["patch", "installationtokens.landfall.dev --subresource=status", "admin"], false),
    ] {
        person_may(&kubeconfig, question, answer);
    }

    // Another release would fight with this one for every object.
    let another = [
        "install",
        "another",
        &path("charts/landfall"),
        &kubeconfig_flag,
        "--namespace=team-a",
        "--set=crds.install=false",
    ];
    let refusal = helm(&another).refusal("a second release");
    assert!(refusal.contains("release landfall in namespace landfall-system"), "{refusal}");

    // An upgrade reaches the definitions: one that was changed is as the chart has it again.
    let broken = r#"{"spec":{"names":{"shortNames":["other"]}}}"#;
    let crd = ["crd", "githubapps.landfall.dev"];
    kubectl(&kubeconfig, &[&["patch", "--type=merge", "-p", broken], &crd[..]].concat(), "").expect("a change");
    release(&["upgrade", "landfall", &path("charts/landfall"), "--set=replicas=2", "--force-conflicts"])
        .expect("the release is upgraded");
    let short = [&["get", "-o", "jsonpath={.spec.names.shortNames}"], &crd[..]].concat();
    assert_eq!(kubectl(&kubeconfig, &short, "").expect("the definition"), r#"["ghapp"]"#);

    let explained = kubectl(&kubeconfig, &["explain", "installationtoken.spec.renewBefore"], "").expect("a manual");
    assert!(explained.contains("The time before its expiry at which the token is renewed"), "{explained}");

    // No node runs the Job of the hook.
    release(&["uninstall", "landfall", "--no-hooks"]).expect("the release is removed");
    assert!(
        kubectl(&kubeconfig, &["get", "crd", "githubapps.landfall.dev"], "").success,
        "and its objects would go too"
    );
    assert!(!kubectl(&kubeconfig, &["get", "clusterrole", "landfall-controller"], "").success);
    server.stop().await;
}

/// Somebody with one of the cluster's own roles in the namespace `team-a`.
fn person_may(kubeconfig: &Path, [verb, resource, role]: [&str; 3], expected: bool) {
    let user = format!("--user=somebody-who-may-{role}");
    let binding = ["create", "rolebinding", role, "--clusterrole", role, &user, "-n", "team-a"];
    kubectl(kubeconfig, &binding, ""); // the second time it is there
    let person = format!("--as=somebody-who-may-{role}");
    let mut ask = vec!["auth", "can-i", "-n", "team-a", &person, verb];
    ask.extend(resource.split(' '));
    // Roles are aggregated by a controller, bindings are seen by a watch.
    let deadline = Instant::now() + Duration::from_mins(2);
    while kubectl(kubeconfig, &ask, "").output.trim() != if expected { "yes" } else { "no" } {
        assert!(Instant::now() < deadline, "{role} may {verb} {resource}: not {expected} within 2 min");
    }
}

#[tokio::test]
async fn config_and_samples_are_accepted() {
    let server = with_definitions().await;
    let kubeconfig = server.kubeconfig();
    for name in ["landfall-system", "team-a"] {
        namespace(&kubeconfig, name);
    }
    for folder in ["config/default", "config/samples", "config/crd"] {
        let built = objects(&kubectl_alone(&["kustomize", &path(folder)]).expect("kustomize builds"));
        let answer = try_out(&kubeconfig, &built);
        assert_eq!(answer.errors, "", "{folder}");
        assert_eq!(answer.output.lines().count(), built.len(), "{folder}: {}", answer.output);
    }
    let samples = objects(&kubectl_alone(&["kustomize", &path("config/samples")]).expect("kustomize builds"));
    // Nobody but the operator makes an inbox.
    for kind in landfall::controllers::definitions().into_iter().map(|crd| crd.spec.names.kind) {
        if kind != "WebhookInbox" {
            only(&samples, &kind);
        }
    }
    assert!(of_kind(&samples, "Secret").is_empty());
    // Those too that need more than the sample's App.
    for file in ["projectrepository-fork", "projectrepository-url"] {
        let sample = objects(&std::fs::read_to_string(path(&format!("config/samples/{file}.yaml"))).unwrap());
        try_out(&kubeconfig, &sample).expect(file);
    }
    server.stop().await;
}
