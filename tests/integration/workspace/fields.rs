//! Attacks by somebody who may write a Workspace, and wants a pod that they may not create themselves.

use super::{OBJECTS, Team, needs, workspace};
use k8s_openapi::api::core::v1::{Container, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use landfall::guards::Sabotage;
use landfall_world::World;
use serde_json::{Value, json};

/// Fields of a pod that a workspace's `spec.pod` must not set.
fn fields() -> Vec<Value> {
    let names = ["workspace", "token", "scratch", "tools", "identity"];
    let mut volumes: Vec<Value> = names.iter().map(|name| json!({"name": name, "emptyDir": {}})).collect();
    volumes.push(json!({"name": "stolen", "secret": {"secretName": "victim"}}));
    let with = |further: Value| {
        let mut container = json!({"name": "main", "image": "none.invalid/none"});
        json_patch::merge(&mut container, &further);
        json!({"containers": [container]})
    };
    let reference = json!({"secretKeyRef": {"name": "victim", "key": "password"}});
    vec![
        json!({"hostNetwork": true}),
        json!({"hostPID": true}),
        json!({"hostIPC": true}),
        json!({"serviceAccountName": "robot"}),
        json!({"automountServiceAccountToken": true}),
        json!({"volumes": volumes}),
        with(json!({"securityContext": {"privileged": true}})),
        with(json!({"envFrom": [{"secretRef": {"name": "victim"}}]})),
        with(json!({"env": [{"name": "X", "valueFrom": reference}]})),
        json!({"nodeName": "control-plane"}),
        json!({"priorityClassName": "system-node-critical"}),
    ]
}

/// Whether a pod contains anything that the operator never puts there.
fn is_too_much(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref().expect("a spec");
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let is_privileged = |container: &Container| {
        let security = container.security_context.as_ref();
        security.is_none_or(|security| security.privileged == Some(true) || security.capabilities.is_none())
    };
    let reads = |container: &Container| {
        let env = container.env.as_deref().unwrap_or_default();
        container.env_from.as_ref().is_some_and(|from| !from.is_empty()) || env.iter().any(|it| it.value_from.is_some())
    };
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let is_other = |volume: &k8s_openapi::api::core::v1::Volume| {
        let secret = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref());
        volume.host_path.is_some() || secret.is_some_and(|name| name != OBJECTS)
    };
    [spec.host_network, spec.host_pid, spec.host_ipc, spec.automount_service_account_token].contains(&Some(true))
        || spec.service_account_name.as_deref().is_some_and(|name| name != "default")
        || spec.node_name.is_some()
        || spec.priority_class_name.is_some()
        || volumes.iter().any(is_other)
        || containers().any(|container| is_privileged(container) || reads(container))
}

const DEFINITION: &str = "workspaces.landfall.dev";

async fn define(world: &World, definition: &Value) {
    let all = Api::<CustomResourceDefinition>::all(world.admin.clone());
    let params = PatchParams::apply("test").force();
    all.patch(DEFINITION, &params, &Patch::Apply(definition)).await.expect("the definition is changed");
}

fn definition() -> Value {
    let all = landfall::controllers::definitions().into_iter();
    let ours =
        all.map(|crd| serde_json::to_value(crd).expect("json")).find(|crd| crd["metadata"]["name"] == DEFINITION);
    let mut ours = ours.expect("it is ours");
    ours["apiVersion"] = "apiextensions.k8s.io/v1".into();
    ours["kind"] = "CustomResourceDefinition".into();
    ours
}

/// Through `spec.pod`, with an API server that accepts everything: the operator ignores fields that it does not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_may_more_by_the_fields_of_a_workspace() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        let robot =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": "team-a"}});
        team.world.apply::<ServiceAccount>(&robot).await;
        let mut open = definition();
        let schema =
            &mut open["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["pod"];
        *schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        define(&team.world, &open).await;
        let mut got = Vec::new();
        for (number, fields) in fields().into_iter().enumerate() {
            let name = format!("try-{number}");
            let object = workspace(&name, &json!({"pod": fields}));
            let kept = async || {
                let object: Value = raw(&team.world, &object).await?;
                (object["spec"]["pod"] == fields).then_some(())
            };
            team.world.until("the API server lets it pass", kept).await;
            let pod = async || team.world.get::<Pod>("team-a", &format!("ws-{name}")).await;
            let pod = team.world.until(&format!("there is a pod with {fields}"), pod).await;
            // The names of the token and the volume are those of this workspace.
            let mut pod = serde_json::to_value(pod).unwrap().to_string();
            pod = pod.replace(&format!("ws-{name}\""), &format!("{OBJECTS}\""));
            got.push(is_too_much(&serde_json::from_str(&pod).unwrap()));
        }
        define(&team.world, &definition()).await;
        let refused = async || {
            let object = workspace("try", &json!({"pod": {"hostNetwork": true}}));
            strictly(&team.world, &object).await.is_err().then_some(())
        };
        team.world.until("the definition is ours again", refused).await;
        team.end().await;
        assert!(got.iter().all(|it| *it == got[0]), "{got:?}");
        got[0]
    };
    needs(Sabotage { raw_pod_fields: true, ..Sabotage::default() }, attack).await;
}

/// Applies a workspace; returns it as the API server stores it.
async fn raw(world: &World, object: &Value) -> Option<Value> {
    patched(world, object, "").await.ok()
}

/// Asks whether the API server would accept a workspace with strict validation of fields.
async fn strictly(world: &World, object: &Value) -> kube::Result<Value> {
    patched(world, object, "&fieldValidation=Strict&dryRun=All").await
}

async fn patched(world: &World, object: &Value, further: &str) -> kube::Result<Value> {
    let name = object["metadata"]["name"].as_str().expect("a name");
    let path = format!("/apis/landfall.dev/v1alpha1/namespaces/team-a/workspaces/{name}");
    let patch = http::Request::patch(format!("{path}?fieldManager=test&force=true{further}"))
        .header("content-type", "application/apply-patch+yaml")
        .body(object.to_string().into_bytes());
    world.admin.request(patch.expect("a request")).await
}

/// The API server refuses such fields, and others, with the real definition.
#[tokio::test(flavor = "multi_thread")]
async fn no_such_field_is_in_the_definition() {
    let team = Team::new(Sabotage::default()).await;
    let fine = json!({"env": [{"name": "A", "value": "$(HOME)"}], "nodeSelector": {"disk": "fast"}});
    strictly(&team.world, &workspace("try", &json!({"pod": fine}))).await.expect("what is allowed is");
    let mut all = fields();
    all.extend([
        json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "victim", "key": "password"}}}]}),
        json!({"env": [{"name": "GITHUB_TOKEN", "value": "x"}]}),
        json!({"env": [{"name": "GIT_CONFIG_SYSTEM", "value": "x"}]}),
        json!({"env": [{"name": "LANDFALL_BRANCH", "value": "main"}]}),
        json!({"ports": [{"containerPort": 80, "hostPort": 80}]}),
        json!({"securityContext": {"runAsUser": 0}}),
        json!({"resources": {"claims": [{"name": "x"}]}}),
        json!({"affinity": {"hostNetwork": true}}),
        json!({"affinity": {"nodeAfinity": {}}}),
        json!({"affinity": {"nodeAffinity": "everywhere"}}),
        json!({"affinity": {"podAffinity": {"requiredDuringScheduling": []}}}),
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}}),
    ]);
    let mut objects: Vec<_> = all.iter().map(|fields| workspace("try", &json!({"pod": fields}))).collect();
    objects.extend([
        workspace("try", &json!({"runAsUser": 0})),
        workspace("try", &json!({"image": "a b"})),
        workspace("try", &json!({"image": "a\nb"})),
        workspace("try", &json!({"serviceAccountName": "robot"})),
    ]);
    for object in objects {
        let refused = strictly(&team.world, &object).await;
        assert!(refused.is_err(), "{object}");
    }
    let zones = json!({"key": "zone", "operator": "In", "values": ["a"]});
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [zones]}]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    let env = json!([{"name": "A", "value": "$(GIT_CONFIG_SYSTEM) $$(GIT_CONFIG_SYSTEM) $$ $"}]);
    team.make("try", &json!({"pod": {"affinity": affinity, "env": env}})).await;
    let pod = team.world.until("there is a pod", async || team.world.get::<Pod>("team-a", OBJECTS).await).await;
    assert!(!is_too_much(&pod), "{pod:?}");
    let spec = pod.spec.unwrap();
    let env = spec.containers[0].env.as_deref().unwrap_or_default();
    let value = env.iter().find(|variable| variable.name == "A").and_then(|variable| variable.value.as_deref());
    assert_eq!(value.map(expanded).as_deref(), Some("$(GIT_CONFIG_SYSTEM) $$(GIT_CONFIG_SYSTEM) $$ $"));
    assert_eq!(serde_json::to_value(&spec.affinity).unwrap(), affinity);
    team.end().await;
}

/// The kubelet's result for a value in which each name stands for `x`.
/// <https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/>
fn expanded(value: &str) -> String {
    let (mut out, mut rest) = (String::new(), value);
    while let Some(at) = rest.find('$') {
        out += &rest[..at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((_, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            out.push('x');
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}
