//! What the receiver's account can do to a real API server, with the chart's rules and its policy, and what it could do
//! without the policy.

use super::caller::{APPLY, Caller, JSON, MERGE, Refusal, until};
use super::cluster::{namespace, with_definitions};
use super::programs::{kubectl, objects, template};
use http::Method;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use landfall::api::{GitHubApp, ProjectRepository};
use landfall_cluster::ApiServer;
use serde_json::{Map, Value, json};

const RECEIVER: &str = "system:serviceaccount:landfall-system:landfall-receiver";
const APP: &str = "/apis/landfall.dev/v1alpha1/githubapps/landfall";
const REPOSITORY: &str = "/apis/landfall.dev/v1alpha1/namespaces/team-a/projectrepositories/shop";
const INSTALLATION: &str = "/apis/landfall.dev/v1alpha1/namespaces/team-a/githubinstallations/acme";

impl Caller {
    /// Patches the status of an object with these fields.
    async fn note(&self, path: &str, status: Value) -> Result<Value, Refusal> {
        self.ask(Method::PATCH, &format!("{path}/status"), MERGE, &json!({"status": status})).await
    }

    /// The same, for a try.
    async fn would_note(&self, path: &str, status: Value) -> Result<Value, Refusal> {
        self.ask(Method::PATCH, &format!("{path}/status?dryRun=All"), MERGE, &json!({"status": status})).await
    }

    /// Applies the status of the repository, as a manager of this name.
    async fn apply(&self, manager: &str, status: Value) -> Result<Value, Refusal> {
        let object = json!({
            "apiVersion": "landfall.dev/v1alpha1",
            "kind": "ProjectRepository",
            "metadata": {"name": "shop", "namespace": "team-a"},
            "status": status,
        });
        let path = format!("{REPOSITORY}/status?fieldManager={manager}&force=true");
        self.ask(Method::PATCH, &path, APPLY, &object).await
    }
}

/// The properties of a kind's status.
fn status_of<K: CustomResourceExt>() -> JSONSchemaProps {
    let kind = K::crd().spec.names.kind;
    let definition = landfall::controllers::definitions().into_iter().find(|crd| crd.spec.names.kind == kind);
    let version = definition.unwrap().spec.versions.remove(0);
    let mut schema = version.schema.unwrap().open_api_v3_schema.unwrap();
    schema.properties.as_mut().unwrap().remove("status").unwrap()
}

/// A value of a schema; another one for each of the two variants.
fn value_of(schema: &JSONSchemaProps, variant: usize) -> Value {
    if let Some(choices) = &schema.enum_ {
        return choices[variant.min(choices.len() - 1)].0.clone();
    }
    match schema.type_.as_deref() {
        Some("object") => match (&schema.properties, &schema.additional_properties) {
            (Some(properties), _) => {
                properties.iter().map(|(name, of)| (name.clone(), value_of(of, variant))).collect()
            }
            (None, Some(JSONSchemaPropsOrBool::Schema(values))) => json!({"a": value_of(values, variant)}),
            _ => panic!("a value of {schema:?}"),
        },
        Some("array") => {
            let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items else { panic!("{schema:?}") };
            json!([value_of(items, variant)])
        }
        Some("boolean") => json!(variant == 0),
        Some("integer") => json!(variant + 1),
        Some("string") if schema.format.as_deref() == Some("date-time") => {
            json!(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"][variant])
        }
        Some("string") => json!(["One", "Two"][variant]),
        other => panic!("a value of {other:?} in a status: {schema:?}"),
    }
}

/// A status with every field but the deliveries.
fn full<K: CustomResourceExt>(variant: usize) -> Map<String, Value> {
    let properties = status_of::<K>().properties.unwrap();
    assert!(properties.contains_key("deliveries"));
    let others = properties.iter().filter(|(name, _)| *name != "deliveries");
    others.map(|(name, schema)| (name.clone(), value_of(schema, variant))).collect()
}

struct World {
    server: ApiServer,
    admin: Caller,
    receiver: Caller,
}

/// The objects of the chart that say what the receiver may do.
fn rules() -> Vec<Value> {
    let rendered = objects(&template(&[]).expect("the chart renders"));
    let of_receiver = |object: &Value| object["metadata"]["name"] == "landfall-receiver";
    let kinds = ["ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
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
    for object in rules().iter().chain(&samples) {
        kubectl(&kubeconfig, &["apply", "--server-side", "-f", "-"], &object.to_string()).expect("it is accepted");
    }
    let admin = Caller::new(&std::fs::read_to_string(&kubeconfig).unwrap()).await;
    let receiver = Caller::new(&server.kubeconfig_of(RECEIVER, Some("system:serviceaccounts")).unwrap()).await;
    admin.note(APP, full::<GitHubApp>(0).into()).await.unwrap();
    admin.note(REPOSITORY, full::<ProjectRepository>(0).into()).await.unwrap();
    for path in [APP, REPOSITORY] {
        until("the receiver may note", async || receiver.would_note(path, json!({"deliveries": {}})).await.is_ok())
            .await;
        until("the policy holds", async || receiver.would_note(path, json!({"conditions": null})).await.is_err()).await;
    }
    World { server, admin, receiver }
}

/// What is compared before and after: all but what every write changes.
fn lasting(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("managedFields");
    metadata.remove("resourceVersion");
    object
}

#[tokio::test]
async fn the_receiver_notes_deliveries_and_changes_nothing_else() {
    let World { server, admin, receiver } = world().await;
    for (path, other) in [(APP, full::<GitHubApp>(1)), (REPOSITORY, full::<ProjectRepository>(1))] {
        // Every field of the status, as the definition has them.
        let before = lasting(admin.get(path).await);
        for (field, value) in other {
            assert_ne!(before["status"][&field], value, "{field} would be changed");
            for change in [value, Value::Null] {
                let refused = receiver.note(path, json!({&field: change})).await.unwrap_err();
                assert_eq!(refused.code, 403, "{refused:?}");
                let words = format!("may change status.deliveries alone, not status.{field}");
                assert!(refused.message.ends_with(&words), "{refused:?}");
                // Not beside a delivery either.
                let beside = json!({&field: change, "deliveries": {"a": {"event": "push"}}});
                receiver.note(path, beside).await.unwrap_err();
            }
        }
        receiver.note(path, Value::Null).await.unwrap_err();
        assert_eq!(lasting(admin.get(path).await), before);

        // What else is in the object does not change by a patch of its status.
        let patch = json!({
            "metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["example.com/a"], "ownerReferences": []},
            "spec": {"paused": true},
        });
        receiver.ask(Method::PATCH, &format!("{path}/status"), MERGE, &patch).await.unwrap();
        assert_eq!(lasting(admin.get(path).await), before);

        // Deliveries come, change and go.
        for (patch, left) in [
            (
                json!({"a": {"event": "push", "result": "Pending"}}),
                json!({"a": {"event": "push", "result": "Pending"}}),
            ),
            (json!({"a": null, "b": {"event": "push"}}), json!({"b": {"event": "push"}})),
            (Value::Null, Value::Null),
        ] {
            receiver.note(path, json!({"deliveries": patch})).await.unwrap();
            let mut after = lasting(admin.get(path).await);
            assert_eq!(after["status"].as_object_mut().unwrap().remove("deliveries").unwrap_or_default(), left);
            assert_eq!(after, before);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn what_holds_the_receiver_is_the_policy() {
    let World { server, admin, receiver } = world().await;
    let status = admin.get(REPOSITORY).await["status"].clone();
    // Who applies what is there holds it in place: it stays when the operator no longer applies it.
    let same = json!({"fullName": status["fullName"]});
    for manager in ["landfall", "kubectl"] {
        let refused = receiver.apply(manager, same.clone()).await.unwrap_err();
        assert!(refused.message.contains("and applies nothing"), "{refused:?}");
    }
    // Whoever may write status cannot keep deliveries out by having applied them.
    admin.apply("tenant", json!({"deliveries": {"a": {"event": "push"}}})).await.unwrap();
    receiver.note(REPOSITORY, json!({"deliveries": {"b": {"event": "push"}}})).await.unwrap();

    // Without it.
    kubectl(&server.kubeconfig(), &["delete", "validatingadmissionpolicybinding", "landfall-receiver"], "")
        .expect("gone");
    until("another field can be patched", async || {
        receiver.would_note(REPOSITORY, json!({"conditions": null})).await.is_ok()
    })
    .await;
    for (path, status) in [(APP, full::<GitHubApp>(1)), (REPOSITORY, full::<ProjectRepository>(1))] {
        receiver.note(path, status.clone().into()).await.unwrap();
        let mut after = admin.get(path).await["status"].clone();
        after.as_object_mut().unwrap().remove("deliveries");
        assert_eq!(after, Value::Object(status), "the guard was the policy");
    }
    let same = json!({"fullName": admin.get(REPOSITORY).await["status"]["fullName"]});
    receiver.apply("landfall", same).await.unwrap();
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
    for (method, path, kind, body) in
        of_ours.iter().filter(|(_, path, ..)| !path.contains("projectrepositories/shop/status"))
    {
        let refused = receiver.ask(method.clone(), path, kind, body).await.unwrap_err();
        let words = "may note deliveries in the status of GitHubApps and ProjectRepositories, and write nothing else";
        assert!(refused.message.contains(words), "{method} {path}: {refused:?}");
    }
    assert_eq!(lasting(admin.get(REPOSITORY).await), before);
    server.stop().await;
}
