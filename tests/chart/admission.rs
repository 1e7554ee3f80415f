//! What the receiver's account can do to a real API server, with the chart's rules and its policy, and what it could do
//! without the policy.

use super::caller::{Caller, JSON, JSON_PATCH, MERGE, Refusal, until};
use super::cluster::{namespace, with_definitions};
use super::programs::{kubectl, objects, template};
use http::Method;
use landfall_cluster::ApiServer;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const RECEIVER: &str = "system:serviceaccount:landfall-system:landfall-receiver";
const APP: &str = "/apis/landfall.dev/v1alpha1/githubapps/landfall";
const REPOSITORY: &str = "/apis/landfall.dev/v1alpha1/namespaces/team-a/projectrepositories/shop";
const INSTALLATION: &str = "/apis/landfall.dev/v1alpha1/namespaces/team-a/githubinstallations/acme";
const INBOXES: &str = "/apis/landfall.dev/v1alpha1/namespaces/landfall-system/webhookinboxes";
/// The receiver's own pod and its inbox.
const OWN: &str = "receiver-0";
/// The inbox of another replica.
const OTHER: &str = "receiver-1";

impl Caller {
    /// Adds a delivery to an inbox, as the receiver does.
    async fn store(&self, inbox: &str) -> Result<Value, Refusal> {
        let delivery = json!({
            "id": 1, "appName": "landfall", "guid": "a", "event": "push", "receiptTime": "2026-01-01T00:00:00.000000Z",
        });
        let append = json!([{"op": "add", "path": "/status/deliveries/-", "value": delivery.to_string()}]);
        self.ask(Method::PATCH, &format!("{INBOXES}/{inbox}/status"), JSON_PATCH, &append).await
    }
}

struct World {
    server: ApiServer,
    admin: Caller,
    /// The receiver, with the token of its pod.
    receiver: Caller,
}

/// The objects of the chart that say what the receiver may do.
fn rules() -> Vec<Value> {
    let rendered = objects(&template(&[]).expect("the chart renders"));
    let of_receiver = |object: &Value| object["metadata"]["name"] == "landfall-receiver";
    let kinds = [
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ];
    let rules: Vec<Value> = rendered
        .into_iter()
        .filter(|object| of_receiver(object) && kinds.iter().any(|kind| object["kind"] == *kind))
        .collect();
    assert_eq!(rules.len(), kinds.len());
    rules
}

/// An API server with what the chart says of the receiver, which holds already, and an object of each kind.
async fn world() -> World {
    let server = with_definitions().await;
    let kubeconfig = server.kubeconfig();
    for name in ["landfall-system", "team-a"] {
        namespace(&kubeconfig, name);
    }
    let samples = ["githubapp", "githubinstallation", "projectrepository"].map(|file| {
        objects(&std::fs::read_to_string(super::programs::path(&format!("config/samples/{file}.yaml"))).unwrap())
            .remove(0)
    });
    let inboxes = [OWN, OTHER].map(|name| {
        json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "WebhookInbox", "spec": {},
            "metadata": {"name": name, "namespace": "landfall-system"},
        })
    });
    let security = json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 65532,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": OWN, "namespace": "landfall-system"},
        "spec": {
            "serviceAccountName": "landfall-receiver",
            "containers": [{"name": "receiver", "image": "none.invalid/none", "securityContext": security}],
        },
    });
    for object in rules().iter().chain(&samples).chain(&inboxes).chain([&pod]) {
        kubectl(&kubeconfig, &["apply", "--server-side", "-f", "-"], &object.to_string()).expect("it is accepted");
    }
    let kubeconfig = std::fs::read_to_string(&kubeconfig).unwrap();
    let admin = Caller::new(&kubeconfig).await;
    let uid = admin.get(&format!("/api/v1/namespaces/landfall-system/pods/{OWN}")).await["metadata"]["uid"].clone();
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": OWN, "uid": uid});
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}});
    let path = "/api/v1/namespaces/landfall-system/serviceaccounts/landfall-receiver/token";
    let answer = admin.ask(Method::POST, path, JSON, &request).await.unwrap();
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let receiver = Caller::with_token(&kubeconfig, token).await;
    until("the receiver may store", async || receiver.store(OWN).await.is_ok()).await;
    until("the policy holds", async || receiver.store(OTHER).await.is_err_and(|refusal| refusal.is_by_policy())).await;
    admin.ask(Method::PATCH, &format!("{INBOXES}/{OTHER}/status"), MERGE, &json!({"status": null})).await.unwrap();
    World { server, admin, receiver }
}

/// What is compared before and after: all but what every write changes.
fn lasting(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("managedFields");
    metadata.remove("resourceVersion");
    object
}

/// Every verb on every resource, as the API server lists them, in the operator's namespace and in another.
#[tokio::test]
async fn the_receiver_reads_our_kinds_and_stores_in_its_inbox_and_may_do_nothing_else() {
    let World { server, admin, receiver } = world().await;
    let mut lists = vec![(String::new(), admin.get("/api/v1").await)];
    for group in admin.get("/apis").await["groups"].as_array().unwrap() {
        let version = group["preferredVersion"]["groupVersion"].as_str().unwrap();
        lists.push((group["name"].as_str().unwrap().to_owned(), admin.get(&format!("/apis/{version}")).await));
    }
    let (mut asked, mut allowed) = (0, BTreeSet::new());
    let verbs = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "impersonate"];
    for (group, list) in &lists {
        for resource in list["resources"].as_array().unwrap() {
            let name = resource["name"].as_str().unwrap();
            let (plain, sub) = name.split_once('/').unwrap_or((name, ""));
            let namespaces =
                if resource["namespaced"] == true { &["landfall-system", "team-a"][..] } else { &[""][..] };
            for (namespace, verb) in namespaces.iter().flat_map(|namespace| verbs.map(|verb| (*namespace, verb))) {
                let attributes = json!({
                    "group": group, "resource": plain, "subresource": sub, "verb": verb, "namespace": namespace,
                });
                let review = json!({
                    "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                    "spec": {"resourceAttributes": attributes},
                });
                let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
                let answer = receiver.ask(Method::POST, path, JSON, &review).await.unwrap();
                asked += 1;
                if answer["status"]["allowed"] == true {
                    allowed
                        .insert(format!("{verb} {name}{}{namespace}", if namespace.is_empty() { "" } else { " in " }));
                }
            }
        }
    }
    assert!(asked > 500, "{asked}");
    let reads = |what: &str| ["get", "list", "watch"].map(|verb| format!("{verb} {what}"));
    let mut expected: BTreeSet<String> = ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"]
        .map(|what| format!("create {what}"))
        .into();
    expected.extend(reads("namespaces"));
    expected.extend(reads("githubapps"));
    for namespace in ["landfall-system", "team-a"] {
        expected.extend(reads(&format!("githubinstallations in {namespace}")));
        expected.extend(reads(&format!("projectrepositories in {namespace}")));
    }
    expected.insert("get webhookinboxes in landfall-system".to_owned());
    expected.insert("patch webhookinboxes/status in landfall-system".to_owned());
    assert_eq!(allowed, expected);
    server.stop().await;
}

#[tokio::test]
async fn a_receiver_stores_in_no_inbox_but_its_own() {
    let World { server, admin, receiver } = world().await;
    let before = lasting(admin.get(&format!("{INBOXES}/{OTHER}")).await);
    let refused = receiver.store(OTHER).await.unwrap_err();
    assert_eq!(refused.code, 403, "{refused:?}");
    assert!(refused.message.contains("in the WebhookInbox of its own pod alone"), "{refused:?}");
    // A token that was issued for no pod stores nowhere.
    let loose = Caller::new(&server.kubeconfig_of(RECEIVER, Some("system:serviceaccounts")).unwrap()).await;
    for inbox in [OWN, OTHER] {
        assert_eq!(loose.store(inbox).await.unwrap_err().code, 403);
    }
    assert_eq!(lasting(admin.get(&format!("{INBOXES}/{OTHER}")).await), before);
    // The rest of its own inbox does not change by a patch of its status.
    let own = format!("{INBOXES}/{OWN}");
    let before = lasting(admin.get(&own).await);
    let patch = json!({
        "metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["example.com/a"], "ownerReferences": []},
    });
    receiver.ask(Method::PATCH, &format!("{own}/status"), MERGE, &patch).await.unwrap();
    assert_eq!(lasting(admin.get(&own).await), before);

    // Without the policy.
    kubectl(&server.kubeconfig(), &["delete", "validatingadmissionpolicybinding", "landfall-receiver"], "")
        .expect("gone");
    until("it stores in another's inbox", async || receiver.store(OTHER).await.is_ok()).await;
    server.stop().await;
}

#[tokio::test]
async fn the_receivers_token_opens_nothing_else() {
    let World { server, admin, receiver } = world().await;
    let named = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "landfall-system"}});
    admin
        .ask(
            Method::POST,
            "/api/v1/namespaces/landfall-system/secrets",
            JSON,
            &named("Secret", "landfall-webhook-keys"),
        )
        .await
        .unwrap();
    let system = "/api/v1/namespaces/landfall-system";
    let repositories = "/apis/landfall.dev/v1alpha1/namespaces/team-a/projectrepositories";
    let mut repository = admin.get(REPOSITORY).await;
    repository["spec"]["paused"] = json!(true);
    let another = {
        let mut another = repository.clone();
        another["metadata"] = json!({"name": "another", "namespace": "team-a"});
        another
    };
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a", "image": "a"}], "serviceAccountName": "landfall"},
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "a"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    });
    let paused = json!({"spec": {"paused": true}});
    let other = json!({"status": {"installationID": 7}});
    let none = Value::Null;
    let policy = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/landfall-receiver";
    let of_ours = [
        (Method::PATCH, APP.to_owned(), MERGE, &paused),
        (Method::PATCH, REPOSITORY.to_owned(), MERGE, &paused),
        (Method::PUT, REPOSITORY.to_owned(), JSON, &repository),
        (Method::PUT, format!("{REPOSITORY}/status"), JSON, &repository),
        (Method::DELETE, REPOSITORY.to_owned(), JSON, &none),
        (Method::DELETE, repositories.to_owned(), JSON, &none),
        (Method::POST, repositories.to_owned(), JSON, &another),
        (Method::PATCH, INSTALLATION.to_owned(), MERGE, &paused),
        (Method::PATCH, format!("{INSTALLATION}/status"), MERGE, &other),
        (Method::PATCH, format!("{REPOSITORY}/status"), MERGE, &other),
        (Method::PATCH, format!("{APP}/status"), MERGE, &other),
        (Method::PATCH, format!("{INBOXES}/{OWN}"), MERGE, &other),
        (Method::DELETE, format!("{INBOXES}/{OWN}"), JSON, &none),
        (Method::DELETE, INBOXES.to_owned(), JSON, &none),
    ];
    let of_others = [
        (Method::GET, "/api/v1/secrets".to_owned(), JSON, &none),
        (Method::GET, format!("{system}/secrets"), JSON, &none),
        (Method::GET, format!("{system}/secrets/landfall-webhook-keys"), JSON, &none),
        (Method::DELETE, format!("{system}/secrets/landfall-webhook-keys"), JSON, &none),
        (Method::POST, format!("{system}/serviceaccounts/landfall/token"), JSON, &token),
        (Method::POST, format!("{system}/serviceaccounts/landfall-receiver/token"), JSON, &token),
        (Method::POST, format!("{system}/pods"), JSON, &pod),
        (Method::GET, "/api/v1/pods".to_owned(), JSON, &none),
        (Method::POST, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings".to_owned(), JSON, &binding),
        (Method::DELETE, policy.to_owned(), JSON, &none),
        (Method::GET, "/apis/landfall.dev/v1alpha1/installationtokens".to_owned(), JSON, &none),
    ];
    for (method, path, kind, body) in of_ours.iter().chain(&of_others) {
        let refused = receiver.ask(method.clone(), path, kind, body).await.unwrap_err();
        assert_eq!(refused.code, 403, "{method} {path}: {refused:?}");
        assert!(
            !refused.message.contains("ValidatingAdmissionPolicy"),
            "{method} {path} is given by the role: {refused:?}"
        );
    }
    let operator = receiver.posing_as("system:serviceaccount:landfall-system:landfall");
    let refused = operator.ask(Method::GET, "/api/v1/secrets", JSON, &none).await.unwrap_err();
    assert!(refused.message.contains("cannot impersonate"), "{refused:?}");

    // Should somebody give it every right there is, it still writes nothing of ours.
    let role = ["create", "clusterrolebinding", "too-much", "--clusterrole=cluster-admin"];
    let account = "--serviceaccount=landfall-system:landfall-receiver";
    kubectl(&server.kubeconfig(), &[&role[..], &[account]].concat(), "").expect("a binding");
    until("it has every right", async || {
        receiver.ask(Method::GET, "/api/v1/secrets", JSON, &Value::Null).await.is_ok()
    })
    .await;
    let before = lasting(admin.get(REPOSITORY).await);
    for (method, path, kind, body) in &of_ours {
        let refused = receiver.ask(method.clone(), path, kind, body).await.unwrap_err();
        let words = "may store deliveries in the status of its WebhookInbox, and write nothing else of Landfall's";
        assert!(refused.message.contains(words), "{method} {path}: {refused:?}");
    }
    assert_eq!(lasting(admin.get(REPOSITORY).await), before);
    server.stop().await;
}
