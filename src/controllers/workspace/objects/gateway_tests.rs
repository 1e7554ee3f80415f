//! The pods of workspaces whose git goes to the gateway.

use super::{AGENT, CLONE, Gateway, MAIN, SAVE, Target, job, pod};
use crate::api::Workspace;
use crate::settings::WorkspaceSettings;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use serde_json::{Value, json};

const URL: &str = "https://landfall-gateway.landfall-system.svc/github.com/5.git";

/// The pod's and the Job's template.
fn templates(gateway: Option<Gateway>) -> [PodTemplateSpec; 2] {
    let workspace: Workspace = serde_json::from_value(json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace",
        "metadata": {"name": "fix", "namespace": "team-a", "uid": "u-1"},
        "spec": {"repositoryRef": {"name": "shop"}},
    }))
    .unwrap();
    let target = Target {
        url: "https://github.com/acme/shop.git".into(),
        gateway,
        has_ca: true,
        author_name: "a".into(),
        author_email: "a@b".into(),
    };
    let settings = WorkspaceSettings::default();
    let pod = pod(&workspace, &target, &settings);
    let job = job(&workspace, 1, "b", &target, &settings).spec.unwrap().template;
    [PodTemplateSpec { metadata: Some(pod.metadata), spec: pod.spec }, job]
}

fn gateway() -> Gateway {
    Gateway { url: URL.into(), authority: "PEM".into() }
}

/// The files that the containers are told of: their container, the option or variable, and the file.
fn told(spec: &PodSpec) -> Vec<(String, String, String)> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut told = Vec::new();
    for container in containers {
        for variable in container.env.iter().flatten() {
            if ["LANDFALL_TOKEN_FILE", "LANDFALL_CA_FILE", "LANDFALL_GATEWAY_REPOSITORY_URL"]
                .contains(&variable.name.as_str())
            {
                told.push((container.name.clone(), variable.name.clone(), variable.value.clone().unwrap()));
            }
        }
        let args = container.args.clone().unwrap_or_default();
        for pair in
            args.windows(2).filter(|pair| ["--person-token-file", "--person-ca-file"].contains(&pair[0].as_str()))
        {
            told.push((container.name.clone(), pair[0].clone(), pair[1].clone()));
        }
    }
    told
}

#[test]
fn a_pod_with_a_gateway_has_no_secret() {
    let count = |templates: [PodTemplateSpec; 2]| {
        let text = serde_json::to_string(&templates).unwrap();
        assert!(!text.contains("secretKeyRef") && !text.contains("envFrom"), "{text}");
        text.matches("secretName").count()
    };
    assert_eq!(count(templates(None)), 2, "this test finds a Secret where there is one");
    assert_eq!(count(templates(Some(gateway()))), 0);
}

#[test]
fn every_container_with_git_has_the_token_for_the_gateway_and_its_certificates() {
    let mut containers = Vec::new();
    for PodTemplateSpec { metadata, spec } in templates(Some(gateway())) {
        let (metadata, spec) = (metadata.unwrap(), spec.unwrap());
        assert_eq!(metadata.annotations.unwrap()["landfall.dev/gateway-ca"], "PEM");
        assert_eq!(spec.automount_service_account_token, Some(false));
        assert_eq!(spec.service_account_name, None);
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == "gateway").unwrap();
        let expected = json!({"defaultMode": 0o440, "sources": [
            {"serviceAccountToken": {"audience": "landfall-git", "expirationSeconds": 3600, "path": "token"}},
            {"downwardAPI": {"items": [
                {"path": "ca.crt", "fieldRef": {"fieldPath": "metadata.annotations['landfall.dev/gateway-ca']"}},
            ]}},
        ]});
        assert_eq!(json!(volume.projected), expected);
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let mounts = container.volume_mounts.as_ref().unwrap().iter().filter(|mount| mount.name == "gateway");
            let mounts: Vec<Value> = mounts.map(|mount| json!(mount)).collect();
            let expected = json!({"name": "gateway", "mountPath": "/run/landfall/gateway", "readOnly": true});
            assert_eq!(mounts, [expected], "{}", container.name);
            assert!(container.volume_mounts.iter().flatten().all(|mount| mount.name != "token"), "{}", container.name);
            containers.push(container.name.clone());
        }
        for (container, name, value) in told(&spec) {
            let expected = match name.as_str() {
                "LANDFALL_TOKEN_FILE" | "--person-token-file" => "/run/landfall/gateway/token",
                "LANDFALL_CA_FILE" | "--person-ca-file" => "/run/landfall/gateway/ca.crt",
                _ => URL,
            };
            assert_eq!(value, expected, "{container} {name}");
        }
    }
    assert_eq!(containers, [CLONE, AGENT, MAIN, SAVE]);
    let told: Vec<_> =
        templates(Some(gateway())).iter().flat_map(|template| told(template.spec.as_ref().unwrap())).collect();
    assert_eq!(told.len(), 3 * 3 + 2, "{told:?}");
    assert!(templates(None).iter().flat_map(told_names).all(|name| name != "LANDFALL_GATEWAY_REPOSITORY_URL"));
}

fn told_names(template: &PodTemplateSpec) -> Vec<String> {
    told(template.spec.as_ref().unwrap()).into_iter().map(|(_, name, _)| name).collect()
}

#[test]
fn a_pod_asks_the_gateway_until_it_knows_the_pod() {
    let attempts = |gateway| {
        let templates = templates(gateway);
        let specs = templates.iter().map(|template| template.spec.as_ref().unwrap());
        let containers = specs.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        let asking = containers.filter(|it| it.args.iter().flatten().any(|argument| argument == "--attempts=7"));
        asking.map(|container| container.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(attempts(None), Vec::<String>::new());
    assert_eq!(attempts(Some(gateway())), [CLONE, SAVE]);
}
