//! What the chart renders for the receiver, and for what lets GitHub reach it.

use super::programs::{named, of_kind, only, template};
use super::render::{container, rendered, rules};
use landfall::manifests::RuleSet;
use landfall::webhook::Hook;
use serde::Deserialize;
use serde_json::{Value, json};

fn flags(objects: &[Value], component: &str) -> Vec<String> {
    let args = container(objects, component)["args"].as_array().unwrap();
    args.iter().map(|arg| arg.as_str().unwrap().to_owned()).collect()
}

fn port(container: &Value, name: &str) -> Value {
    let ports = container["ports"].as_array().unwrap();
    ports.iter().find(|port| port["name"] == name).unwrap()["containerPort"].clone()
}

#[test]
fn without_the_receiver_nothing_of_it_is_left() {
    for object in rendered(&["--set=receiver.enabled=false", "--set=networkPolicy.enabled=true"]) {
        assert!(!object["metadata"]["name"].as_str().unwrap().contains("receiver"), "{object}");
    }
    for way in ["ingress", "httpRoute"] {
        let values = [
            "--set=receiver.enabled=false",
            &format!("--set=receiver.{way}.enabled=true"),
            "--set=receiver.ingress.host=landfall.example.com",
            "--set-json=receiver.httpRoute.parentRefs=[{\"name\":\"public\"}]",
        ];
        assert!(template(&values).refusal(way).contains("need receiver.enabled: true"));
    }
}

#[test]
fn the_receiver_sees_no_secret_but_the_one_that_is_mounted() {
    let objects = rendered(&[]);
    for (kind, set) in [("ClusterRole", RuleSet::Receiver), ("Role", RuleSet::ReceiverOwn)] {
        let role = named(&objects, kind, "landfall-receiver");
        assert_eq!(role["rules"], rules(set));
        for word in ["secrets", "serviceaccounts", "pods", "events", "*", "impersonate", "create", "update", "delete"] {
            assert!(!role["rules"].to_string().contains(&format!("\"{word}")), "{word}: {role}");
        }
    }
    let bound: Vec<_> = [of_kind(&objects, "ClusterRoleBinding"), of_kind(&objects, "RoleBinding")]
        .concat()
        .into_iter()
        .filter(|binding| binding["subjects"].to_string().contains("landfall-receiver"))
        .map(|binding| &binding["metadata"]["name"])
        .collect();
    assert_eq!(bound, ["landfall-receiver"; 2]);

    let spec = &named(&objects, "Deployment", "landfall-receiver")["spec"]["template"]["spec"];
    assert_eq!(spec["serviceAccountName"], "landfall-receiver");
    assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
    assert_eq!(spec["volumes"][0]["secret"]["secretName"], landfall::webhook::ROOT_KEYS_SECRET);
    assert_eq!(spec["volumes"][0]["secret"]["defaultMode"], 0o440, "with fsGroup, for nobody else");
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!((&mount["readOnly"], &mount["subPath"]), (&json!(true), &Value::Null));
    let directory = format!("--key-directory={}", mount["mountPath"].as_str().unwrap());
    assert!(flags(&objects, "receiver").contains(&directory), "{directory}");
    assert_eq!(spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
}

/// Whatever the release is called, each policy speaks of the account that the pods run as, and is in force.
#[test]
fn each_policy_is_for_the_account_of_the_pods() {
    for values in [&[][..], &["--set=fullnameOverride=github"], &["--set=nameOverride=hub", "--namespace=hub"]] {
        let objects = rendered(values);
        for pods in of_kind(&objects, "Deployment") {
            let (namespace, account) =
                (&pods["metadata"]["namespace"], &pods["spec"]["template"]["spec"]["serviceAccountName"]);
            let user = format!("system:serviceaccount:{}:{}", namespace.as_str().unwrap(), account.as_str().unwrap());
            let deployment = pods["metadata"]["name"].as_str().unwrap();
            let policy = named(&objects, "ValidatingAdmissionPolicy", deployment);
            assert_eq!(policy["spec"]["failurePolicy"], "Fail");
            let conditions = policy["spec"]["matchConditions"].as_array().unwrap();
            assert_eq!(conditions.len(), 1);
            assert_eq!(conditions[0]["expression"], format!("request.userInfo.username == \"{user}\""));
            let binding = &named(&objects, "ValidatingAdmissionPolicyBinding", deployment)["spec"];
            let wanted = json!({"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]});
            assert_eq!(binding, &wanted);
        }
    }
}

#[test]
fn deliveries_and_health_come_in_by_ports_of_their_own() {
    let objects = rendered(&[]);
    let receiver = container(&objects, "receiver");
    let flags = flags(&objects, "receiver");
    for (name, flag) in [("http", "--address"), ("health", "--health-address")] {
        let wanted = format!("{flag}=[::]:{}", port(receiver, name));
        assert!(flags.contains(&wanted), "{wanted}: {flags:?}");
    }
    let service = &named(&objects, "Service", "landfall-receiver")["spec"];
    assert_eq!(service["ports"], json!([{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]));
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(receiver[probe]["httpGet"]["port"], "health");
    }
    let pods = &named(&objects, "Deployment", "landfall-receiver")["spec"];
    for name in ["landfall-receiver", "landfall-receiver-metrics"] {
        assert_eq!(named(&objects, "Service", name)["spec"]["selector"], pods["selector"]["matchLabels"]);
    }
    assert_eq!(pods["replicas"], 2);
    assert_eq!(receiver["lifecycle"], Value::Null);
}

#[test]
fn a_network_policy_lets_deliveries_in_and_out_what_goes_to_the_api_server() {
    let from = json!([{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]);
    let objects =
        rendered(&["--set=networkPolicy.enabled=true", &format!("--set-json=networkPolicy.deliveriesFrom={from}")]);
    let spec = &named(&objects, "NetworkPolicy", "landfall-receiver")["spec"];
    let receiver = container(&objects, "receiver");
    let tcp = |port: Value| json!([{"protocol": "TCP", "port": port}]);
    assert_eq!(
        spec["ingress"],
        json!([{"ports": tcp(port(receiver, "http")), "from": from}, {"ports": tcp(port(receiver, "health"))}])
    );
    assert_eq!(
        spec["egress"],
        json!([
            {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
            {"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]},
        ])
    );
    let pods = &named(&objects, "Deployment", "landfall-receiver")["spec"]["selector"]["matchLabels"];
    assert_eq!(&spec["podSelector"]["matchLabels"], pods);
    // Ports alone would let it reach GitHub as well; who says where the API server is holds it to that.
    let to = json!([{"ipBlock": {"cidr": "192.0.2.1/32"}}]);
    let objects =
        rendered(&["--set=networkPolicy.enabled=true", &format!("--set-json=networkPolicy.apiServer.to={to}")]);
    assert_eq!(named(&objects, "NetworkPolicy", "landfall-receiver")["spec"]["egress"][1]["to"], to);
}

#[test]
fn an_ingress_lets_through_webhooks_only() {
    assert!(of_kind(&rendered(&[]), "Ingress").is_empty());
    let objects = rendered(&[
        "--set=receiver.ingress.enabled=true",
        "--set=receiver.ingress.host=landfall.example.com",
        "--set-json=receiver.ingress.tls=[{\"secretName\":\"landfall-tls\"}]",
    ]);
    let spec = &only(&objects, "Ingress")["spec"];
    let backend = json!({"service": {"name": "landfall-receiver", "port": {"name": "http"}}});
    let path = json!({"path": "/webhooks/", "pathType": "Prefix", "backend": backend});
    let rule = json!({"host": "landfall.example.com", "http": {"paths": [path]}});
    assert_eq!(spec, &json!({"tls": [{"secretName": "landfall-tls"}], "rules": [rule]}));
    named(&objects, "Service", "landfall-receiver");
    // What is let through is what hooks are made with.
    for hook in [Hook::App, Hook::Repository(7_u64.try_into().unwrap())] {
        assert!(hook.path("landfall").starts_with("/webhooks/"));
    }
}

/// The parts of an `HTTPRoute` (gateway.networking.k8s.io/v1) that the chart uses; a field that the kind does not have
/// would be dropped by the API server, and is refused here.
mod route {
    use super::Deserialize;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Spec {
        pub parent_refs: Vec<Parent>,
        #[serde(default)]
        pub hostnames: Vec<String>,
        pub rules: Vec<Rule>,
    }
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Parent {
        pub group: Option<String>,
        pub kind: Option<String>,
        pub namespace: Option<String>,
        pub name: String,
        pub section_name: Option<String>,
        pub port: Option<u16>,
    }
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Rule {
        pub matches: Vec<Match>,
        pub backend_refs: Vec<Backend>,
    }
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    pub struct Match {
        pub path: PathMatch,
    }
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    pub struct PathMatch {
        #[serde(rename = "type")]
        pub kind: PathMatchType,
        pub value: String,
    }
    #[derive(Deserialize, Debug, PartialEq)]
    pub enum PathMatchType {
        Exact,
        PathPrefix,
        RegularExpression,
    }
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    pub struct Backend {
        pub name: String,
        pub port: u16,
    }
}

#[test]
fn a_route_lets_through_webhooks_only() {
    assert!(of_kind(&rendered(&[]), "HTTPRoute").is_empty());
    let parent = json!({
        "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "gateways", "name": "public",
        "sectionName": "https", "port": 443,
    });
    let objects = rendered(&[
        "--set=receiver.httpRoute.enabled=true",
        &format!("--set-json=receiver.httpRoute.parentRefs=[{parent}]"),
        "--set=receiver.httpRoute.hostnames={landfall.example.com,*.example.org}",
        "--set=receiver.service.port=8000",
    ]);
    let route = only(&objects, "HTTPRoute");
    assert_eq!(route["apiVersion"], "gateway.networking.k8s.io/v1");
    let spec: route::Spec = serde_json::from_value(route["spec"].clone()).unwrap();
    assert_eq!(spec.parent_refs, [serde_json::from_value(parent).unwrap()]);
    assert_eq!(spec.hostnames, ["landfall.example.com", "*.example.org"]);
    let path = route::PathMatch { kind: route::PathMatchType::PathPrefix, value: "/webhooks/".to_owned() };
    let backend = route::Backend { name: "landfall-receiver".to_owned(), port: 8000 };
    assert_eq!(spec.rules, [route::Rule { matches: vec![route::Match { path }], backend_refs: vec![backend] }]);
    let service = named(&objects, "Service", "landfall-receiver");
    assert_eq!(service["spec"]["ports"][0]["port"], 8000);
}

#[test]
fn hosts_of_git_are_said_to_the_controller() {
    let given = |values: &[&str]| -> Vec<String> {
        let flags = flags(&rendered(values), "controller");
        flags.into_iter().filter(|flag| flag.contains("git")).collect()
    };
    assert!(given(&[]).is_empty());
    assert_eq!(
        given(&[
            "--set-json=gitUrls={\"allowedHosts\":[\"git.example.com\",\"*.example.org\"],\"allowPrivateAddresses\":true}"
        ]),
        ["--allowed-git-host=git.example.com", "--allowed-git-host=*.example.org", "--allow-private-git-addresses"]
    );
}

#[test]
fn the_program_has_every_flag_that_the_chart_gives() {
    let objects = rendered(&[
        "--set=secretNamespaces={team-a}",
        "--set=insecureDevelopment=true",
        "--set=gitUrls.allowedHosts={git.example.com}",
        "--set=gitUrls.allowPrivateAddresses=true",
    ]);
    for component in ["controller", "receiver"] {
        let flags = flags(&objects, component);
        // What is wrong is said before anything is started, and of several things the first.
        let answer = std::process::Command::new(env!("CARGO_BIN_EXE_landfall")).args(&flags).arg("--wrong").output();
        let said = String::from_utf8(answer.unwrap().stderr).unwrap();
        assert!(said.contains("unexpected argument '--wrong'"), "{component} {flags:?}: {said}");
    }
}
