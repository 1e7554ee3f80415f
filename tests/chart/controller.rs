//! The requests that a real API server takes from the operator's account with the chart's rules and its policy, and those that it
//! takes without the policy.

use super::caller::{Caller, JSON, MERGE, until};
use super::programs::{kubectl, objects, path, template};
use http::Method;
use landfall_cluster::{ApiServer, Options};
use serde_json::{Value, json};

const OPERATOR: &str = "system:serviceaccount:landfall-system:landfall";
const OURS: &str = "/apis/landfall.dev/v1alpha1";
const TEAM: &str = "/api/v1/namespaces/team-b";
const JOBS: &str = "/apis/batch/v1/namespaces/team-b/jobs";

/// A request of the operator, which changes nothing.
struct Request {
    what: String,
    method: Method,
    path: String,
    kind: &'static str,
    body: Value,
}

impl Request {
    fn new(what: &str, method: Method, path: &str, body: Value) -> Self {
        let kind = if method == Method::PATCH { MERGE } else { JSON };
        Self { what: what.to_owned(), method, path: format!("{path}?dryRun=All"), kind, body }
    }

    async fn send(&self, caller: &Caller) -> Result<Value, super::caller::Refusal> {
        caller.ask(self.method.clone(), &self.path, self.kind, &self.body).await
    }
}

fn owner(kind: &str, name: &str) -> Value {
    json!([{
        "apiVersion": "landfall.dev/v1alpha1", "kind": kind, "name": name, "uid": "5e0b3c1c-0000-4000-8000-000000000001",
        "controller": true, "blockOwnerDeletion": true,
    }])
}

fn labels() -> Value {
    json!({"app.kubernetes.io/managed-by": "landfall", "landfall.dev/workspace": "try", "landfall.dev/role": "work"})
}

/// The spec of a workspace's pod.
fn pod_spec() -> Value {
    let security = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let container = |name: &str| {
        json!({
            "name": name, "image": "none.invalid/none", "securityContext": security,
            "env": [{"name": "LANDFALL_BRANCH", "value": "main"}],
            "volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}],
        })
    };
    let identity = json!({"serviceAccountToken": {"audience": "landfall", "expirationSeconds": 3600, "path": "token"}});
    json!({
        "restartPolicy": "Never", "automountServiceAccountToken": false,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [container("clone")],
        "containers": [container("main")],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": "ws-try"}},
            {"name": "token", "secret": {"secretName": "ws-try"}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "identity", "projected": {"sources": [identity]}},
        ],
    })
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "spec": pod_spec(),
        "metadata": {"name": "ws-try", "namespace": "team-b", "labels": labels(), "ownerReferences": owner("Workspace", "try")},
    })
}

fn job() -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": "ws-try-save-1", "namespace": "team-b", "labels": labels(), "ownerReferences": owner("Workspace", "try"),
        },
        "spec": {"backoffLimit": 2, "template": {"metadata": {"labels": labels()}, "spec": pod_spec()}},
    })
}

fn claim(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "team-b", "labels": labels(), "finalizers": ["landfall.dev/work"]},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    })
}

fn secret(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "stringData": {"token": "a"},
        "metadata": {
            "name": name, "namespace": "team-b", "labels": {"app.kubernetes.io/managed-by": "landfall"},
            "ownerReferences": owner("InstallationToken", "git"),
        },
    })
}

const ARGO_CD: &str = "argocd.argoproj.io/secret-type";

/// A Secret that Argo CD reads.
fn for_argo_cd(kind: &str) -> Value {
    let mut secret = secret("new");
    secret["metadata"]["labels"][ARGO_CD] = json!(kind);
    secret
}

fn volume(name: &str, claim: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "csi": {"driver": "test.landfall.dev", "volumeHandle": name},
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "none",
            "claimRef": {"namespace": "team-b", "name": claim, "uid": "5e0b3c1c-0000-4000-8000-000000000002"},
        },
    })
}

/// The value with another one at this place.
fn with(mut value: Value, place: &str, other: Value) -> Value {
    let (parent, field) = place.rsplit_once('/').unwrap();
    let parent = value.pointer_mut(parent).unwrap_or_else(|| panic!("{place} is not there"));
    match parent {
        Value::Array(items) if field == "-" => items.push(other),
        Value::Array(items) => items[field.parse::<usize>().unwrap()] = other,
        parent => parent[field.replace("~1", "/")] = other,
    }
    value
}

/// Fields that a pod must not have, by their place in its spec.
fn too_much() -> Vec<(&'static str, Value)> {
    let volume = |source: Value| {
        let mut volume = json!({"name": "more"});
        volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        volume
    };
    let token = |audience: &Value| {
        let source = json!({"serviceAccountToken": {"audience": audience, "path": "token"}});
        volume(json!({"projected": {"sources": [source]}}))
    };
    vec![
        ("/serviceAccountName", json!("builder")),
        ("/automountServiceAccountToken", json!(true)),
        ("/automountServiceAccountToken", Value::Null),
        ("/hostNetwork", json!(true)),
        ("/hostPID", json!(true)),
        ("/hostIPC", json!(true)),
        ("/nodeName", json!("node-1")),
        ("/volumes/-", volume(json!({"hostPath": {"path": "/"}}))),
        ("/volumes/-", volume(json!({"secret": {"secretName": "theirs"}}))),
        ("/volumes/-", volume(json!({"persistentVolumeClaim": {"claimName": "theirs"}}))),
        ("/volumes/-", volume(json!({"projected": {"sources": [{"secret": {"name": "theirs"}}]}}))),
        ("/volumes/-", volume(json!({"csi": {"driver": "secrets-store.csi.k8s.io"}}))),
        ("/volumes/-", token(&Value::Null)),
        ("/volumes/-", token(&json!("https://kubernetes.default.svc"))),
        ("/securityContext/runAsNonRoot", Value::Null),
        ("/securityContext/seccompProfile", Value::Null),
        ("/securityContext/sysctls", json!([{"name": "kernel.shm_rmid_forced", "value": "1"}])),
        ("/containers/0/securityContext", json!({"privileged": true, "capabilities": {"drop": ["ALL"]}})),
        ("/containers/0/securityContext/allowPrivilegeEscalation", Value::Null),
        ("/containers/0/securityContext/capabilities", json!({"drop": ["ALL"], "add": ["NET_ADMIN"]})),
        ("/containers/0/securityContext/capabilities", Value::Null),
        ("/containers/0/securityContext/runAsUser", json!(0)),
        ("/containers/0/securityContext/seccompProfile", json!({"type": "Unconfined"})),
        ("/initContainers/0/securityContext", Value::Null),
        ("/containers/0/ports", json!([{"containerPort": 80, "hostPort": 80}])),
        ("/containers/0/envFrom", json!([{"secretRef": {"name": "theirs"}}])),
        (
            "/initContainers/0/env/-",
            json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "password"}}}),
        ),
    ]
}

fn sample(file: &str) -> Value {
    let mut sample = objects(&std::fs::read_to_string(path(&format!("config/samples/{file}.yaml"))).unwrap()).remove(0);
    if sample["metadata"]["namespace"].is_string() {
        sample["metadata"]["namespace"] = json!("team-b");
    }
    sample
}

/// Requests that are the operator's work.
fn allowed() -> Vec<Request> {
    let (post, patch, delete) = (Method::POST, Method::PATCH, Method::DELETE);
    let finalizers = json!({"metadata": {"finalizers": ["landfall.dev/dependents"]}});
    let token = {
        let mut token = sample("installationtoken");
        token["metadata"] = json!({
            "name": "ws-new", "labels": labels(), "ownerReferences": owner("Workspace", "new"),
        });
        token
    };
    vec![
        Request::new(
            "its pod",
            post.clone(),
            &format!("{TEAM}/pods"),
            with(pod(), "/metadata/name", json!("ws-try-2")),
        ),
        Request::new("its Job", post.clone(), JOBS, job()),
        Request::new("the end of its pod", delete.clone(), &format!("{TEAM}/pods/ws-try"), Value::Null),
        Request::new("its Secret", post.clone(), &format!("{TEAM}/secrets"), secret("new")),
        Request::new("its Secret for Argo CD", post.clone(), &format!("{TEAM}/secrets"), for_argo_cd("repo-creds")),
        Request::new(
            "a change of a Secret that somebody labelled",
            patch.clone(),
            &format!("{TEAM}/secrets/labelled"),
            json!({"data": {"token": "Yg=="}}),
        ),
        Request::new(
            "a change of its Secret",
            patch.clone(),
            &format!("{TEAM}/secrets/git"),
            json!({"data": {"token": "Yg=="}}),
        ),
        Request::new("the end of its Secret", delete.clone(), &format!("{TEAM}/secrets/git"), Value::Null),
        Request::new(
            "the root keys",
            post.clone(),
            "/api/v1/namespaces/landfall-system/secrets",
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "landfall-webhook-keys"}}),
        ),
        Request::new(
            "its claim",
            post.clone(),
            &format!("{TEAM}/persistentvolumeclaims"),
            with(
                with(claim("ws-new"), "/metadata/labels/landfall.dev~1workspace", json!("new")),
                "/metadata/name",
                json!("ws-new"),
            ),
        ),
        Request::new(
            "a note on its claim",
            patch.clone(),
            &format!("{TEAM}/persistentvolumeclaims/ws-try"),
            json!({"metadata": {"annotations": {"landfall.dev/saved": "a"}, "finalizers": []}}),
        ),
        Request::new(
            "the end of its claim",
            delete.clone(),
            &format!("{TEAM}/persistentvolumeclaims/ws-try"),
            Value::Null,
        ),
        Request::new(
            "the mark of a clone",
            patch.clone(),
            "/api/v1/persistentvolumes/ours",
            json!({"metadata": {"annotations": {"landfall.dev/cloned-for": "a"}}}),
        ),
        Request::new(
            "a volume that is kept",
            patch.clone(),
            "/api/v1/persistentvolumes/ours",
            json!({"metadata": {"labels": {"landfall.dev/retained": "true"}}, "spec": {"persistentVolumeReclaimPolicy": "Retain"}}),
        ),
        Request::new("a finalizer", patch.clone(), &format!("{OURS}/githubapps/landfall"), finalizers.clone()),
        Request::new(
            "a finalizer",
            patch.clone(),
            &format!("{OURS}/namespaces/team-b/projectrepositories/shop"),
            finalizers,
        ),
        Request::new(
            "a status",
            patch,
            &format!("{OURS}/githubapps/landfall/status"),
            json!({"status": {"observedGeneration": 1}}),
        ),
        Request::new("the token of a Workspace", post, &format!("{OURS}/namespaces/team-b/installationtokens"), token),
    ]
}

/// Requests that its role allows, and its policy does not.
fn forbidden() -> Vec<Request> {
    let mut requests = forbidden_pods();
    requests.extend(forbidden_of_kubernetes());
    requests.extend(forbidden_of_ours());
    requests
}

fn forbidden_pods() -> Vec<Request> {
    let post = Method::POST;
    let mut requests = Vec::new();
    for (place, value) in too_much() {
        let spec = with(pod_spec(), place, value.clone());
        let renamed = with(pod(), "/metadata/name", json!("ws-try-2"));
        let what = format!("{place} {value}");
        requests.push(Request::new(
            &format!("a pod with {what}"),
            post.clone(),
            &format!("{TEAM}/pods"),
            with(renamed, "/spec", spec.clone()),
        ));
        requests.push(Request::new(
            &format!("a Job with {what}"),
            post.clone(),
            JOBS,
            with(job(), "/spec/template/spec", spec),
        ));
    }
    for (place, value) in [
        ("/metadata/name", json!("other")),
        ("/metadata/labels", json!({"app.kubernetes.io/managed-by": "landfall"})),
        ("/metadata/ownerReferences", Value::Null),
        ("/metadata/ownerReferences", owner("InstallationToken", "git")),
    ] {
        let pod = with(with(pod(), "/metadata/name", json!("ws-try-2")), place, value.clone());
        requests.push(Request::new(&format!("a pod with {place} {value}"), post.clone(), &format!("{TEAM}/pods"), pod));
        requests.push(Request::new(
            &format!("a Job with {place} {value}"),
            post.clone(),
            JOBS,
            with(job(), place, value),
        ));
    }
    let relabelled = with(job(), "/spec/template/metadata/labels", json!({"landfall.dev/workspace": "other"}));
    requests.push(Request::new("a Job whose pods are another Workspace's", post.clone(), JOBS, relabelled));
    requests
}

fn forbidden_of_kubernetes() -> Vec<Request> {
    let (post, patch, delete) = (Method::POST, Method::PATCH, Method::DELETE);
    let marked = json!({"metadata": {"annotations": {"landfall.dev/force-delete": "true"}}});
    [
        ("another's pod", &delete, format!("{TEAM}/pods/theirs"), Value::Null),
        ("another's Job", &delete, format!("{JOBS}/theirs"), Value::Null),
        ("another's Secret", &delete, format!("{TEAM}/secrets/theirs"), Value::Null),
        ("another's Secret", &patch, format!("{TEAM}/secrets/theirs"), json!({"data": {"password": "Yg=="}})),
        (
            "a Secret that it makes its own",
            &patch,
            format!("{TEAM}/secrets/theirs"),
            json!({"metadata": {"ownerReferences": owner("InstallationToken", "git")}}),
        ),
        (
            "a Secret of nobody",
            &post,
            format!("{TEAM}/secrets"),
            with(secret("new"), "/metadata/ownerReferences", Value::Null),
        ),
        (
            "root keys elsewhere",
            &post,
            format!("{TEAM}/secrets"),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "landfall-webhook-keys"}}),
        ),
        (
            "the token of an account",
            &post,
            format!("{TEAM}/secrets"),
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
                "metadata": {"name": "new", "annotations": {"kubernetes.io/service-account.name": "builder"}},
            }),
        ),
        (
            "the token of an account in a Secret that seems its own",
            &post,
            format!("{TEAM}/secrets"),
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
                "metadata": {
                    "name": "new", "labels": {"app.kubernetes.io/managed-by": "landfall"},
                    "annotations": {"kubernetes.io/service-account.name": "builder"},
                    "ownerReferences": owner("InstallationToken", "git"),
                },
            }),
        ),
        ("a cluster for Argo CD", &post, format!("{TEAM}/secrets"), for_argo_cd("cluster")),
        (
            "a Secret that becomes a cluster of Argo CD",
            &patch,
            format!("{TEAM}/secrets/git"),
            json!({"metadata": {"labels": {ARGO_CD: "cluster"}}}),
        ),
        ("another's claim", &delete, format!("{TEAM}/persistentvolumeclaims/theirs"), Value::Null),
        ("another's claim", &patch, format!("{TEAM}/persistentvolumeclaims/theirs"), marked),
        (
            "a claim of another's volume",
            &post,
            format!("{TEAM}/persistentvolumeclaims"),
            with(
                with(claim("ws-new"), "/metadata/labels/landfall.dev~1workspace", json!("new")),
                "/spec/volumeName",
                json!("theirs"),
            ),
        ),
        (
            "a copy of another's claim",
            &post,
            format!("{TEAM}/persistentvolumeclaims"),
            with(
                with(claim("ws-new"), "/metadata/labels/landfall.dev~1workspace", json!("new")),
                "/spec/dataSource",
                json!({"kind": "PersistentVolumeClaim", "name": "theirs"}),
            ),
        ),
        ("a claim of no Workspace", &post, format!("{TEAM}/persistentvolumeclaims"), claim("ws-new")),
        (
            "another's volume",
            &patch,
            "/api/v1/persistentvolumes/theirs".to_owned(),
            json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}),
        ),
        (
            "a volume to be deleted",
            &patch,
            "/api/v1/persistentvolumes/ours".to_owned(),
            json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}}),
        ),
        (
            "a volume for another claim",
            &patch,
            "/api/v1/persistentvolumes/ours".to_owned(),
            json!({"spec": {"persistentVolumeReclaimPolicy": "Retain", "claimRef": {"name": "theirs", "uid": null}}}),
        ),
    ]
    .into_iter()
    .map(|(what, method, path, body)| Request::new(what, method.clone(), &path, body))
    .collect()
}

fn forbidden_of_ours() -> Vec<Request> {
    let (post, patch, delete) = (Method::POST, Method::PATCH, Method::DELETE);
    let paused = json!({"spec": {"paused": true}});
    let marked = json!({"metadata": {"annotations": {"landfall.dev/force-delete": "true"}}});
    [
        ("a grant", &patch, format!("{OURS}/githubapps/landfall"), json!({"spec": {"tenants": []}})),
        (
            "a label of a GitHubApp",
            &patch,
            format!("{OURS}/githubapps/landfall"),
            json!({"metadata": {"labels": {"a": "b"}}}),
        ),
        ("a person's repository", &patch, format!("{OURS}/namespaces/team-b/projectrepositories/shop"), paused.clone()),
        ("a person's workspace", &patch, format!("{OURS}/namespaces/team-b/workspaces/fix-typo"), marked),
        ("a person's token", &patch, format!("{OURS}/namespaces/team-b/installationtokens/shop-git"), paused.clone()),
        ("a person's token", &delete, format!("{OURS}/namespaces/team-b/installationtokens/shop-git"), Value::Null),
        ("a token of nobody", &post, format!("{OURS}/namespaces/team-b/installationtokens"), {
            let mut token = sample("installationtoken");
            token["metadata"] = json!({"name": "new"});
            token
        }),
        ("a person's installation", &patch, format!("{OURS}/namespaces/team-b/githubinstallations/acme"), paused),
        ("a person's installation", &delete, format!("{OURS}/namespaces/team-b/githubinstallations/acme"), Value::Null),
    ]
    .into_iter()
    .map(|(what, method, path, body)| Request::new(what, method.clone(), &path, body))
    .collect()
}

async fn world() -> (ApiServer, Caller) {
    let api_server_arguments = vec!["--allow-privileged=true".to_owned()];
    let server = ApiServer::start(Options { api_server_arguments, ..Options::default() }).await.unwrap();
    let kubeconfig = server.kubeconfig();
    let crds = path("crds");
    kubectl(&kubeconfig, &["apply", "--server-side", "-f", &crds], "").expect("the definitions are accepted");
    kubectl(&kubeconfig, &["wait", "--for=condition=Established", "--timeout=120s", "-f", &crds], "")
        .expect("established");
    let mut items: Vec<Value> = ["landfall-system", "team-b"]
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .into();
    items.extend(["default", "builder"].map(
        |name| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "team-b"}}),
    ));
    let plain = |mut object: Value| {
        object["metadata"] = json!({"name": "theirs", "namespace": "team-b"});
        object
    };
    items.extend([pod(), plain(pod()), plain(job()), claim("ws-try"), plain(claim("theirs"))]);
    let mut labelled = for_argo_cd("cluster");
    labelled["metadata"]["name"] = json!("labelled");
    items.extend([
        labelled,
        secret("git"),
        plain(secret("theirs")),
        volume("ours", "ws-try"),
        volume("theirs", "theirs"),
    ]);
    items
        .extend(["githubapp", "githubinstallation", "installationtoken", "projectrepository", "workspace"].map(sample));
    let rendered = objects(&template(&["--set=crds.install=false"]).expect("the chart renders"));
    let kinds = ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
    items.extend(rendered.into_iter().filter(|object| {
        let kind = object["kind"].as_str().unwrap();
        object["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("landfall-controller"))
            && (kinds.contains(&kind) || kind.starts_with("ValidatingAdmissionPolicy"))
    }));
    for item in items {
        kubectl(&kubeconfig, &["apply", "--server-side", "-f", "-"], &item.to_string()).expect(&item.to_string());
    }
    let operator = Caller::new(&server.kubeconfig_of(OPERATOR, Some("system:serviceaccounts")).unwrap()).await;
    (server, operator)
}

#[tokio::test]
async fn the_operator_does_its_work_and_nothing_else() {
    let (server, operator) = world().await;
    let forbidden = forbidden();
    until("the policy holds", async || forbidden[0].send(&operator).await.is_err_and(|refusal| refusal.is_by_policy()))
        .await;
    for request in &allowed() {
        if let Err(refusal) = request.send(&operator).await {
            panic!("{} is refused: {refusal:?}", request.what);
        }
    }
    for request in &forbidden {
        let what = &request.what;
        let refusal = request.send(&operator).await.err().unwrap_or_else(|| panic!("{what} is allowed"));
        let by_policy = "ValidatingAdmissionPolicy 'landfall-controller'";
        assert!(refusal.code == 403 && refusal.message.contains(by_policy), "{what}: {refusal:?}");
        assert!(!refusal.message.contains("failed"), "{what} is refused by an expression that broke: {refusal:?}");
    }

    // Without the policy.
    let binding = ["delete", "validatingadmissionpolicybinding", "landfall-controller"];
    kubectl(&server.kubeconfig(), &binding, "").expect("gone");
    until("the policy holds no more", async || forbidden[0].send(&operator).await.is_ok()).await;
    for request in &forbidden {
        if let Err(refusal) = request.send(&operator).await {
            panic!("{} is refused by something else: {refusal:?}", request.what);
        }
    }
    server.stop().await;
}
