//! What the chart renders for the gateway, and what a real API server takes from its account and from people beside it.

use super::caller::{Caller, JSON, MERGE, until};
use super::cluster::{namespace, with_definitions};
use super::programs::{kubectl, named, objects, of_kind, template};
use super::render::{rendered, rules};
use http::Method;
use landfall::gateway::limits::Limits;
use landfall::gateway::{identity, messages};
use landfall::internal::certificates::{AUTHORITY_SECRET, GATEWAY_SECRET};
use landfall::manifests::RuleSet;
use serde_json::{Value, json};

const ON: &str = "--set=gateway.enabled=true";
const GATEWAY: &str = "system:serviceaccount:landfall-system:landfall-gateway";
const OPERATOR: &str = "system:serviceaccount:landfall-system:landfall";

fn flags(objects: &[Value], component: &str) -> Vec<String> {
    let all = of_kind(objects, "Deployment");
    let containers = all.into_iter().map(|it| &it["spec"]["template"]["spec"]["containers"][0]);
    let args = containers.into_iter().find(|container| container["name"] == component).unwrap()["args"].clone();
    args.as_array().unwrap().iter().map(|arg| arg.as_str().unwrap().to_owned()).collect()
}

#[test]
fn without_the_gateway_nothing_of_it_is_left() {
    let objects = rendered(&["--set=networkPolicy.enabled=true"]);
    for object in &objects {
        let name = object["metadata"]["name"].as_str().unwrap();
        assert!(!["gateway", "internal", "workspace-pods"].iter().any(|word| name.ends_with(word)), "{object}");
    }
    assert!(!flags(&objects, "controller").iter().any(|flag| flag.contains("gateway") || flag.contains("internal")));
    let refusal = template(&[ON, "--set=features.workspaces.enabled=false"]).refusal("a gateway without workspaces");
    assert!(refusal.contains("gateway.enabled needs features.workspaces"), "{refusal}");
    for name in ["landfall", "landfall-receiver"] {
        let refusal = template(&[ON, &format!("--set=gateway.serviceAccount.name={name}")]).refusal(name);
        assert!(refusal.contains("must have an account of its own"), "{refusal}");
    }
}

/// The gateway's number of connections follows from its limit of memory.
#[test]
fn the_gateway_knows_its_memory() {
    let objects = rendered(&[ON]);
    let container = &named(&objects, "Deployment", "landfall-gateway")["spec"]["template"]["spec"]["containers"][0];
    let env = container["env"].as_array().unwrap().iter().find(|it| it["name"] == "LANDFALL_GATEWAY_MEMORY").unwrap();
    assert_eq!(env["valueFrom"]["resourceFieldRef"], json!({"resource": "limits.memory"}));
    assert_eq!(container["resources"]["limits"]["memory"], "512Mi");
    let connections = format!("with 512Mi, {} connections at once", Limits::default().connections);
    let values = include_str!("../../charts/landfall/values.yaml");
    assert!(values.contains(&connections), "{connections}");
}

#[test]
fn the_gateway_may_have_tokens_reviewed_and_sees_one_secret() {
    let objects = rendered(&[ON]);
    let role = named(&objects, "ClusterRole", "landfall-gateway");
    assert_eq!(role["rules"], rules(RuleSet::Gateway));
    assert_eq!(
        role["rules"],
        json!([{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}])
    );
    let bound: Vec<_> = [of_kind(&objects, "ClusterRoleBinding"), of_kind(&objects, "RoleBinding")]
        .concat()
        .into_iter()
        .filter(|binding| binding["subjects"].to_string().contains("landfall-gateway"))
        .map(|binding| &binding["metadata"]["name"])
        .collect();
    assert_eq!(bound, ["landfall-gateway"]);
    let spec = &named(&objects, "Deployment", "landfall-gateway")["spec"]["template"]["spec"];
    assert_eq!(spec["serviceAccountName"], "landfall-gateway");
    let volumes = spec["volumes"].as_array().unwrap();
    let secrets: Vec<_> = volumes.iter().filter_map(|volume| volume["secret"]["secretName"].as_str()).collect();
    assert_eq!(secrets, [GATEWAY_SECRET], "not {AUTHORITY_SECRET}");
    let token = &volumes.iter().find(|volume| volume["name"] == "internal").unwrap()["projected"]["sources"][0];
    assert_eq!(token["serviceAccountToken"]["audience"], messages::AUDIENCE);
    // A transfer may take half an hour.
    assert!(spec["terminationGracePeriodSeconds"].as_i64().unwrap() > 1800);
    assert_eq!(
        named(&objects, "Deployment", "landfall-controller")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
        30
    );
}

/// The addresses by which pods, the gateway and the controller find each other fit together, under any name of the release.
#[test]
fn the_two_sides_find_each_other() {
    for values in
        [&[ON][..], &[ON, "--set=fullnameOverride=github"], &[ON, "--set=nameOverride=hub", "--namespace=hub"]]
    {
        let objects = rendered(values);
        let controller = flags(&objects, "controller");
        let of = |flags: &[String], name: &str| {
            let prefix = format!("--{name}=");
            flags.iter().find_map(|flag| flag.strip_prefix(&prefix)).unwrap().to_owned()
        };
        let host = of(&controller, "internal-host");
        assert_eq!(of(&flags(&objects, "gateway"), "internal-url"), format!("https://{host}:8444"));
        let services = of_kind(&objects, "Service");
        let service = |host: &str| {
            let (name, namespace) = host.strip_suffix(".svc").unwrap().split_once('.').unwrap();
            let found =
                services.iter().find(|it| it["metadata"]["name"] == name && it["metadata"]["namespace"] == namespace);
            found.unwrap_or_else(|| panic!("no Service {host}"))
        };
        let pods = |component: &str| {
            let all = of_kind(&objects, "Deployment");
            all.into_iter().find(|it| it["spec"]["template"]["spec"]["containers"][0]["name"] == component).unwrap()
        };
        assert_eq!(service(&host)["spec"]["selector"], pods("controller")["spec"]["selector"]["matchLabels"]);
        let url = of(&controller, "gateway-url");
        let service = service(url.strip_prefix("https://").unwrap());
        assert_eq!(service["spec"]["selector"], pods("gateway")["spec"]["selector"]["matchLabels"]);
        assert_eq!(service["spec"]["ports"][0]["port"], 443);
        assert_eq!(
            of(&controller, "gateway-account"),
            pods("gateway")["spec"]["template"]["spec"]["serviceAccountName"]
        );
    }
}

fn labelled(kind: &str, name: &str) -> Value {
    let security = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let spec = json!({
        "restartPolicy": "Never", "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", "image": "none.invalid/none", "securityContext": security}],
    });
    let labels = json!({"app.kubernetes.io/managed-by": "landfall", "landfall.dev/workspace": "try"});
    let owner = json!([{
        "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace", "name": "try",
        "uid": "5e0b3c1c-0000-4000-8000-000000000001", "controller": true,
    }]);
    let metadata = json!({"name": name, "namespace": "team-a", "labels": labels, "ownerReferences": owner});
    if kind == "Pod" {
        return json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec});
    }
    let template = json!({"metadata": {"labels": labels}, "spec": spec});
    json!({"apiVersion": "batch/v1", "kind": kind, "metadata": metadata, "spec": {"template": template}})
}

#[tokio::test]
async fn nobody_else_makes_a_pod_that_passes_for_a_workspaces_and_the_gateway_writes_nothing() {
    let server = with_definitions().await;
    let kubeconfig = server.kubeconfig();
    for name in ["landfall-system", "team-a"] {
        namespace(&kubeconfig, name);
    }
    let kinds = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
    let policies = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
    for object in objects(&template(&[ON]).expect("the chart renders")) {
        if kinds.iter().chain(&policies).any(|kind| object["kind"] == *kind) {
            kubectl(&kubeconfig, &["apply", "--server-side", "-f", "-"], &object.to_string()).expect("it is accepted");
        }
    }
    let admin = Caller::new(&std::fs::read_to_string(&kubeconfig).unwrap()).await;
    let operator = admin.posing_as(OPERATOR);
    let (pods, jobs) = ("/api/v1/namespaces/team-a/pods", "/apis/batch/v1/namespaces/team-a/jobs");
    let dry = |path: &str| format!("{path}?dryRun=All");
    let (pod, job) = (labelled("Pod", "ws-try"), labelled("Job", "ws-try-save-1"));
    let refuses = async || admin.ask(Method::POST, &dry(pods), JSON, &pod).await.is_err_and(|it| it.is_by_policy());
    until("the policy holds", refuses).await;
    for (path, object) in [(pods, &pod), (jobs, &job)] {
        let refused = admin.ask(Method::POST, &dry(path), JSON, object).await.unwrap_err();
        assert!(refused.message.contains("made by the operator alone"), "{}", refused.message);
        operator.ask(Method::POST, &dry(path), JSON, object).await.unwrap();
    }
    // Neither does a pod become one, or change its owner.
    let mut plain = pod.clone();
    plain["metadata"] = json!({"name": "plain", "namespace": "team-a"});
    admin.ask(Method::POST, pods, JSON, &plain).await.unwrap();
    operator.ask(Method::POST, pods, JSON, &pod).await.unwrap();
    let label = json!({"metadata": {"labels": {"landfall.dev/workspace": "try"}}});
    let owner = json!({"metadata": {"ownerReferences": [{
        "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace", "name": "other",
        "uid": "5e0b3c1c-0000-4000-8000-000000000002", "controller": true,
    }]}});
    for (name, change, is_taken) in [
        ("plain", &label, false),
        ("ws-try", &owner, false),
        ("ws-try", &json!({"metadata": {"annotations": {"landfall.dev/workspace-uid": "x"}}}), false),
        ("ws-try", &json!({"metadata": {"annotations": {"example.com/note": "x"}}}), true),
        ("ws-try", &json!({"metadata": {"ownerReferences": null}}), true),
    ] {
        let answer = admin.ask(Method::PATCH, &dry(&format!("{pods}/{name}")), MERGE, change).await;
        assert_eq!(answer.is_ok(), is_taken, "{name} {change}: {answer:?}");
    }
    let gateway = admin.posing_as(GATEWAY);
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"audiences": [identity::AUDIENCE], "token": "a.b.c"},
    });
    gateway.ask(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", JSON, &review).await.unwrap();
    for path in [pods, "/api/v1/secrets", "/apis/landfall.dev/v1alpha1/workspaces", "/api/v1/namespaces"] {
        assert_eq!(gateway.ask(Method::GET, path, JSON, &Value::Null).await.unwrap_err().code, 403, "{path}");
    }
    // With all rights, it still writes nothing.
    let account = "--serviceaccount=landfall-system:landfall-gateway";
    kubectl(&kubeconfig, &["create", "clusterrolebinding", "too-much", "--clusterrole=cluster-admin", account], "")
        .expect("bound");
    until("the rights hold", async || gateway.ask(Method::GET, pods, JSON, &Value::Null).await.is_ok()).await;
    let mut other = plain;
    other["metadata"]["name"] = json!("other");
    let refused = gateway.ask(Method::POST, &dry(pods), JSON, &other).await.unwrap_err();
    assert!(refused.message.contains("write nothing"), "{}", refused.message);
    server.stop().await;
}

/// The operator may keep the two Secrets of the gateway, and take over no other.
#[tokio::test]
async fn the_operator_keeps_the_two_secrets_of_the_gateway() {
    let server = with_definitions().await;
    let kubeconfig = server.kubeconfig();
    for name in ["landfall-system", "team-a"] {
        namespace(&kubeconfig, name);
    }
    for object in objects(&template(&[ON]).expect("the chart renders")) {
        let kind = object["kind"].as_str().unwrap();
        if kind.contains("Role") || kind.contains("Policy") && kind.starts_with("Validating") {
            kubectl(&kubeconfig, &["apply", "--server-side", "-f", "-"], &object.to_string()).expect("it is accepted");
        }
    }
    let admin = Caller::new(&std::fs::read_to_string(&kubeconfig).unwrap()).await;
    let operator = admin.posing_as(OPERATOR);
    let own = "/api/v1/namespaces/landfall-system/secrets";
    let secret =
        |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque"});
    let other = secret("other");
    let refuses = async || operator.ask(Method::POST, own, JSON, &other).await.is_err_and(|it| it.is_by_policy());
    until("the policy holds", refuses).await;
    for name in [AUTHORITY_SECRET, GATEWAY_SECRET] {
        let made = operator.ask(Method::POST, own, JSON, &secret(name)).await.unwrap();
        operator.ask(Method::PUT, &format!("{own}/{name}"), JSON, &made).await.unwrap();
        operator.ask(Method::DELETE, &format!("{own}/{name}"), JSON, &Value::Null).await.unwrap_err();
        let elsewhere = "/api/v1/namespaces/team-a/secrets";
        operator.ask(Method::POST, elsewhere, JSON, &secret(name)).await.unwrap_err();
    }
    server.stop().await;
}
