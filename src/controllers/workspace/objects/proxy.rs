//! The variables that name the proxy to the programs in a workspace's pods.
//!
//! The invariant: all containers of a workspace, that of its Job included, have one proxy: the workspace's own if `spec.pod.env`
//! names one in any spelling, else the operator's. The same holds for the exempt hosts.

use super::container::literal;
use crate::api::Workspace;
use crate::github::proxy::{EXCEPTION_VARIABLES, PROXY_VARIABLES};
use crate::settings::WorkspaceSettings;
use k8s_openapi::api::core::v1::EnvVar;

/// The operator's proxy and exempt hosts, where the workspace names none. Some programs read the names in capitals, and some those
/// in small letters.
pub(super) fn given(workspace: &Workspace, settings: &WorkspaceSettings) -> Vec<EnvVar> {
    let proxy = &settings.proxy;
    [
        (&PROXY_VARIABLES[..], ["HTTPS_PROXY", "https_proxy"], &proxy.address),
        (&EXCEPTION_VARIABLES[..], ["NO_PROXY", "no_proxy"], &proxy.exceptions),
    ]
    .into_iter()
    .filter(|(spellings, ..)| !workspace.spec.pod.env.iter().any(|own| spellings.contains(&own.name.as_str())))
    .filter_map(|(_, names, value)| value.as_ref().map(|value| names.map(|name| literal(name, value))))
    .flatten()
    .collect()
}

/// The workspace's own.
pub(super) fn own(workspace: &Workspace) -> impl Iterator<Item = EnvVar> {
    let known = |name: &str| PROXY_VARIABLES.contains(&name) || EXCEPTION_VARIABLES.contains(&name);
    let own = workspace.spec.pod.env.iter().filter(move |variable| known(&variable.name));
    own.map(|variable| literal(&variable.name, &variable.value))
}

#[cfg(test)]
mod tests {
    use super::super::{AGENT, CLONE, MAIN, SAVE, Target, job, pod};
    use super::*;
    use crate::github::{PodProxy, Proxies};
    use k8s_openapi::api::core::v1::Container;
    use serde_json::{Value, json};

    fn workspace(env: &Value) -> Workspace {
        serde_json::from_value(json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace",
            "metadata": {"name": "fix", "namespace": "team-a", "uid": "u-1"},
            "spec": {"repositoryRef": {"name": "shop"}, "pod": {"env": env}},
        }))
        .unwrap()
    }

    /// The proxy variables of each container of the pod and of the Job, in the order of their names.
    fn variables(env: &Value, proxy: PodProxy) -> Vec<(String, Vec<String>)> {
        let settings = WorkspaceSettings { proxy, ..WorkspaceSettings::default() };
        let target = Target {
            url: "https://github.com/acme/shop.git".into(),
            gateway: None,
            has_ca: false,
            author_name: "a".into(),
            author_email: "a@b".into(),
        };
        let workspace = workspace(env);
        let pod = pod(&workspace, &target, &settings).spec.unwrap();
        let job = job(&workspace, 1, "b", &target, &settings).spec.unwrap().template.spec.unwrap();
        let containers = pod.init_containers.into_iter().flatten().chain(pod.containers).chain(job.containers);
        let of = |container: Container| {
            let mut env = container.env.unwrap();
            env.retain(|variable| variable.name.to_ascii_lowercase().ends_with("proxy"));
            let mut env: Vec<_> = env.into_iter().map(|it| format!("{}={}", it.name, it.value.unwrap())).collect();
            env.sort();
            (container.name, env)
        };
        containers.map(of).collect()
    }

    fn operator() -> PodProxy {
        PodProxy { address: Some("http://proxy.example:3128".into()), exceptions: Some(".svc,10.0.0.0/8".into()) }
    }

    #[track_caller]
    fn all_have(found: Vec<(String, Vec<String>)>, expected: &[&str]) {
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [CLONE, AGENT, MAIN, SAVE]);
        for (name, variables) in found {
            assert_eq!(variables, expected, "{name}");
        }
    }

    #[test]
    fn every_container_has_the_operators_proxy() {
        all_have(variables(&json!([{"name": "HOME", "value": "/tmp"}]), PodProxy::default()), &[]);
        let expected = [
            "HTTPS_PROXY=http://proxy.example:3128",
            "NO_PROXY=.svc,10.0.0.0/8",
            "https_proxy=http://proxy.example:3128",
            "no_proxy=.svc,10.0.0.0/8",
        ];
        all_have(variables(&json!([{"name": "HOME", "value": "/tmp"}]), operator()), &expected);
    }

    #[test]
    fn a_workspaces_own_proxy_wins_in_every_container() {
        for (name, value) in [
            ("HTTPS_PROXY", "http://own:1"),
            ("https_proxy", "http://own:1"),
            ("ALL_PROXY", "socks5h://own:1"),
            ("https_proxy", ""),
        ] {
            let own = format!("{name}={value}");
            let mut expected = ["NO_PROXY=.svc,10.0.0.0/8", &own, "no_proxy=.svc,10.0.0.0/8"];
            expected.sort_unstable();
            all_have(variables(&json!([{"name": name, "value": value}]), operator()), &expected);
            all_have(variables(&json!([{"name": name, "value": value}]), PodProxy::default()), &[&own]);
        }
        let expected =
            ["HTTPS_PROXY=http://proxy.example:3128", "https_proxy=http://proxy.example:3128", "no_proxy=git.example"];
        all_have(variables(&json!([{"name": "no_proxy", "value": "git.example"}]), operator()), &expected);
    }

    #[test]
    fn a_proxy_with_credentials_is_in_no_pod() {
        let value = |name: &str| (name == "HTTPS_PROXY").then(|| "http://me:hunter2@proxy.example:3128".into());
        let proxies = Proxies::read(value).unwrap();
        all_have(variables(&json!([]), proxies.for_pods()), &[]);
    }
}
