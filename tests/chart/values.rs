//! Every value of the chart, set once: it changes what is rendered, and its word is found there.

use super::programs::{Answer, helm, path, template};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// A value, what else has to be set for it to have an effect, and a word that it puts into what is rendered; none where it
/// takes something away.
struct Case(&'static str, Value, &'static [&'static str], &'static str);

const RECEIVER_INGRESS: &[&str] =
    &["--set=receiver.ingress.enabled=true", "--set-json=receiver.ingress.host=\"a.example.com\""];
const ROUTE: &[&str] =
    &["--set=receiver.httpRoute.enabled=true", "--set-json=receiver.httpRoute.parentRefs=[{\"name\":\"public\"}]"];
const GATEWAY: &[&str] = &["--set=gateway.enabled=true"];
const POLICY: &[&str] = &["--set=networkPolicy.enabled=true"];
const SERVICE_MONITOR: &[&str] = &["--set=metrics.serviceMonitor.enabled=true"];
const POD_MONITOR: &[&str] = &["--set=metrics.podMonitor.enabled=true"];
const ALERTS: &[&str] = &["--set=metrics.prometheusRule.enabled=true"];
const DASHBOARD: &[&str] = &["--set=metrics.dashboard.enabled=true"];
const SCALED: &[&str] = &["--set=receiver.autoscaling.enabled=true"];

#[expect(clippy::too_many_lines, reason = "a line for each value")]
fn cases() -> Vec<Case> {
    let labels = || json!({"example.com/team": "platform"});
    let env = || json!([{"name": "A_SECRET", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]);
    let volume = || json!([{"name": "bundle", "configMap": {"name": "a-bundle"}}]);
    let mount = || json!([{"name": "bundle", "mountPath": "/etc/a-bundle"}]);
    let tolerations = || json!([{"key": "example.com/spot", "operator": "Exists"}]);
    let affinity = || json!({"podAntiAffinity": {}});
    let spread = || json!([{"maxSkew": 3, "topologyKey": "example.com/zone", "whenUnsatisfiable": "ScheduleAnyway"}]);
    let peers = || json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}]);
    let relabelings = || json!([{"action": "labeldrop", "regex": "example_label"}]);
    let digest = format!("sha256:{}", "7".repeat(64));
    let seccomp = json!({"type": "Localhost", "localhostProfile": "a-profile.json"});
    let no_repositories: &[_] = &["--set=features.workspaces.enabled=false"];
    let with_volume: &[_] = &["--set-json=extraVolumes=[{\"name\":\"bundle\",\"emptyDir\":{}}]"];
    let with_receivers_volume: &[_] = &["--set-json=receiver.extraVolumes=[{\"name\":\"bundle\",\"emptyDir\":{}}]"];
    let named: &[_] = &["--set=serviceAccount.name=of-mine"];
    let gateways_named: &[_] = &["--set=gateway.enabled=true", "--set=gateway.serviceAccount.name=of-mine"];
    let receivers_named: &[_] = &["--set=receiver.serviceAccount.name=of-mine"];
    vec![
        Case("features.repositories.enabled", json!(false), no_repositories, "--features=tokens\n"),
        Case("features.workspaces.enabled", json!(false), &[], "--features=tokens,repositories\n"),
        Case("replicas", json!(3), &[], "replicas: 3"),
        Case("strategy", json!({"type": "Recreate"}), &[], "type: Recreate"),
        Case("image.repository", json!("example.com/landfall"), &[], "\"example.com/landfall:"),
        Case("image.tag", json!("v7"), &[], "localhost/landfall:v7"),
        Case("image.digest", json!(digest), &[], "localhost/landfall@sha256:777"),
        Case("image.pullPolicy", json!("Always"), &[], "imagePullPolicy: Always"),
        Case("imagePullSecrets", json!([{"name": "a-registry"}]), &[], "- name: a-registry"),
        Case("nameOverride", json!("hub"), &[], "app.kubernetes.io/name: hub"),
        Case("fullnameOverride", json!("hub"), &[], "name: hub-controller"),
        Case("commonLabels", labels(), &[], "example.com/team: platform"),
        Case("logLevel", json!("landfall=debug"), &[], "--log-level=landfall=debug"),
        Case("logFormat", json!("text"), &[], "--log-format=text"),
        Case("listenAddress", json!("0.0.0.0"), &[], "--health-address=0.0.0.0:8080"),
        Case("secretNamespaces", json!(["team-a"]), &[], "--secret-namespace=team-a"),
        Case("gitUrls.allowedHosts", json!(["git.example.com"]), &[], "--allowed-git-host=git.example.com"),
        Case("gitUrls.allowPrivateAddresses", json!(true), &[], "--allow-private-git-addresses"),
        Case("workspaces.image.repository", json!("example.com/work"), &[], "\"example.com/work:"),
        Case("workspaces.image.tag", json!("v7"), &[], "landfall-workspace:v7"),
        Case("workspaces.image.digest", json!(digest), &[], "landfall-workspace@sha256:777"),
        Case("workspaces.runAsUser", json!(1_000_650_000), &[], "--workspace-user=1000650000"),
        Case("receiver.enabled", json!(false), &[], ""),
        Case("receiver.replicas", json!(7), &[], "replicas: 7"),
        Case("receiver.autoscaling.enabled", json!(true), &[], "kind: HorizontalPodAutoscaler"),
        Case("receiver.autoscaling.minReplicas", json!(3), SCALED, "minReplicas: 3"),
        Case("receiver.autoscaling.maxReplicas", json!(12), SCALED, "maxReplicas: 12"),
        Case("receiver.autoscaling.targetCPUUtilizationPercentage", json!(55), SCALED, "averageUtilization: 55"),
        Case("receiver.autoscaling.targetMemoryUtilizationPercentage", json!(66), SCALED, "name: memory"),
        Case(
            "receiver.autoscaling.behavior",
            json!({"scaleDown": {"stabilizationWindowSeconds": 77}}),
            SCALED,
            "Seconds: 77",
        ),
        Case("receiver.strategy", json!({"rollingUpdate": {"maxSurge": 4}}), &[], "maxSurge: 4"),
        Case("receiver.targetRate", json!(0.5), &[], "--target-rate=0.5"),
        Case("receiver.targetBurst", json!(77), &[], "--target-burst=77"),
        Case("receiver.serviceAccount.create", json!(false), receivers_named, ""),
        Case("receiver.serviceAccount.name", json!("a-receiver"), &[], "serviceAccountName: a-receiver"),
        Case("receiver.serviceAccount.annotations", labels(), &[], "example.com/team: platform"),
        Case("receiver.resources", json!({"requests": {"cpu": "77m"}}), &[], "cpu: 77m"),
        Case("receiver.priorityClassName", json!("a-class"), &[], "priorityClassName: a-class"),
        Case("receiver.nodeSelector", labels(), &[], "example.com/team: platform"),
        Case("receiver.tolerations", tolerations(), &[], "key: example.com/spot"),
        Case("receiver.affinity", affinity(), &[], "podAntiAffinity: {}"),
        Case("receiver.topologySpreadConstraints", spread(), &[], "topologyKey: example.com/zone"),
        Case("receiver.extraArgs", json!(["--target-burst=9"]), &[], "--target-burst=9"),
        Case("receiver.extraEnv", env(), &[], "name: A_SECRET"),
        Case("receiver.extraVolumes", volume(), &[], "name: a-bundle"),
        Case("receiver.extraVolumeMounts", mount(), with_receivers_volume, "mountPath: /etc/a-bundle"),
        Case("receiver.service.type", json!("LoadBalancer"), &[], "type: LoadBalancer"),
        Case("receiver.service.port", json!(8000), &[], "port: 8000"),
        Case("receiver.service.annotations", labels(), &[], "example.com/team: platform"),
        Case("receiver.ingress.enabled", json!(true), &["--set=receiver.ingress.host=a.example.com"], "kind: Ingress"),
        Case("receiver.ingress.className", json!("nginx"), RECEIVER_INGRESS, "ingressClassName: nginx"),
        Case("receiver.ingress.annotations", labels(), RECEIVER_INGRESS, "example.com/team: platform"),
        Case("receiver.ingress.host", json!("b.example.com"), RECEIVER_INGRESS, "b.example.com"),
        Case("receiver.ingress.tls", json!([{"secretName": "a-certificate"}]), RECEIVER_INGRESS, "a-certificate"),
        Case(
            "receiver.httpRoute.enabled",
            json!(true),
            &["--set-json=receiver.httpRoute.parentRefs=[{\"name\":\"public\"}]"],
            "kind: HTTPRoute",
        ),
        Case("receiver.httpRoute.annotations", labels(), ROUTE, "example.com/team: platform"),
        Case("receiver.httpRoute.parentRefs", json!([{"name": "a-gateway"}]), ROUTE, "a-gateway"),
        Case("receiver.httpRoute.hostnames", json!(["b.example.com"]), ROUTE, "b.example.com"),
        Case("gateway.enabled", json!(true), &[], "--gateway-url="),
        Case("gateway.replicas", json!(7), GATEWAY, "replicas: 7"),
        Case("gateway.strategy", json!({"rollingUpdate": {"maxSurge": 4}}), GATEWAY, "maxSurge: 4"),
        Case("gateway.verifyAddresses", json!(false), GATEWAY, "--gateway-any-address"),
        Case("gateway.serviceAccount.create", json!(false), gateways_named, ""),
        Case("gateway.serviceAccount.name", json!("a-gateway"), GATEWAY, "serviceAccountName: a-gateway"),
        Case("gateway.serviceAccount.annotations", labels(), GATEWAY, "example.com/team: platform"),
        Case("gateway.resources", json!({"requests": {"cpu": "77m"}}), GATEWAY, "cpu: 77m"),
        Case("gateway.priorityClassName", json!("a-class"), GATEWAY, "priorityClassName: a-class"),
        Case("gateway.nodeSelector", labels(), GATEWAY, "example.com/team: platform"),
        Case("gateway.tolerations", tolerations(), GATEWAY, "key: example.com/spot"),
        Case("gateway.affinity", affinity(), GATEWAY, "podAntiAffinity: {}"),
        Case("gateway.topologySpreadConstraints", spread(), GATEWAY, "topologyKey: example.com/zone"),
        Case("gateway.extraArgs", json!(["--log-level=trace"]), GATEWAY, "--log-level=trace"),
        Case("gateway.extraEnv", env(), GATEWAY, "name: A_SECRET"),
        Case("insecureDevelopment", json!(true), &[], "- --insecure-development\n"),
        Case("extraArgs", json!(["--no-leader-election"]), &[], "--no-leader-election"),
        Case("extraEnv", env(), &[], "name: A_SECRET"),
        Case("extraVolumes", volume(), &[], "name: a-bundle"),
        Case("extraVolumeMounts", mount(), with_volume, "mountPath: /etc/a-bundle"),
        Case(
            "extraObjects",
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "an-extra"}}, "kind: ConfigMap\nmetadata: {name: of-{{ .Release.Name }}}"]),
            &[],
            "name: an-extra",
        ),
        Case("crds.install", json!(false), &[], ""),
        Case("uninstall.hook", json!(false), &[], ""),
        Case("crds.keep", json!(false), &[], ""),
        Case("serviceAccount.create", json!(false), named, ""),
        Case("serviceAccount.name", json!("a-controller"), &[], "serviceAccountName: a-controller"),
        Case("serviceAccount.annotations", labels(), &[], "example.com/team: platform"),
        Case("rbac.aggregate", json!(false), &[], ""),
        Case("resources", json!({"requests": {"cpu": "77m"}}), &[], "cpu: 77m"),
        Case("podSecurityContext.runAsNonRoot", json!(false), &[], "runAsNonRoot: false"),
        Case("podSecurityContext.runAsUser", json!(1_000_650_000), &[], "runAsUser: 1000650000"),
        Case("podSecurityContext.runAsGroup", json!(1_000_650_000), &[], "runAsGroup: 1000650000"),
        Case("podSecurityContext.fsGroup", json!(1_000_650_000), &[], "fsGroup: 1000650000"),
        Case("podSecurityContext.seccompProfile", seccomp, &[], "a-profile.json"),
        Case("securityContext.allowPrivilegeEscalation", json!(true), &[], "allowPrivilegeEscalation: true"),
        Case("securityContext.readOnlyRootFilesystem", json!(false), &[], "readOnlyRootFilesystem: false"),
        Case("securityContext.capabilities", json!({"drop": ["NET_RAW"]}), &[], "NET_RAW"),
        Case("podAnnotations", labels(), &[], "example.com/team: platform"),
        Case("podLabels", labels(), &[], "example.com/team: platform"),
        Case("dnsPolicy", json!("Default"), &[], "dnsPolicy: Default"),
        Case("dnsConfig", json!({"searches": ["a.example.com"]}), &[], "a.example.com"),
        Case("priorityClassName", json!("a-class"), &[], "priorityClassName: a-class"),
        Case("nodeSelector", labels(), &[], "example.com/team: platform"),
        Case("tolerations", tolerations(), &[], "key: example.com/spot"),
        Case("affinity", affinity(), &[], "podAntiAffinity: {}"),
        Case("topologySpreadConstraints", spread(), &[], "topologyKey: example.com/zone"),
        Case("metrics.service.enabled", json!(false), &[], ""),
        Case("metrics.service.annotations", labels(), &[], "example.com/team: platform"),
        Case("metrics.serviceMonitor.enabled", json!(true), &[], "kind: ServiceMonitor"),
        Case("metrics.serviceMonitor.interval", json!("77s"), SERVICE_MONITOR, "interval: 77s"),
        Case("metrics.serviceMonitor.labels", labels(), SERVICE_MONITOR, "example.com/team: platform"),
        Case("metrics.serviceMonitor.relabelings", relabelings(), SERVICE_MONITOR, "regex: example_label"),
        Case("metrics.serviceMonitor.metricRelabelings", relabelings(), SERVICE_MONITOR, "metricRelabelings:"),
        Case("metrics.podMonitor.enabled", json!(true), &[], "kind: PodMonitor"),
        Case("metrics.podMonitor.interval", json!("77s"), POD_MONITOR, "interval: 77s"),
        Case("metrics.podMonitor.labels", labels(), POD_MONITOR, "example.com/team: platform"),
        Case("metrics.podMonitor.relabelings", relabelings(), POD_MONITOR, "regex: example_label"),
        Case("metrics.podMonitor.metricRelabelings", relabelings(), POD_MONITOR, "metricRelabelings:"),
        Case("metrics.prometheusRule.enabled", json!(true), &[], "kind: PrometheusRule"),
        Case("metrics.prometheusRule.labels", labels(), ALERTS, "example.com/team: platform"),
        Case("metrics.prometheusRule.disabled", json!(["LandfallNoLeader"]), ALERTS, ""),
        Case("metrics.dashboard.enabled", json!(true), &[], "landfall.json:"),
        Case("metrics.dashboard.labels", labels(), DASHBOARD, "example.com/team: platform"),
        Case("metrics.dashboard.annotations", labels(), DASHBOARD, "example.com/team: platform"),
        Case("podDisruptionBudget.enabled", json!(false), &[], ""),
        Case("networkPolicy.enabled", json!(true), &[], "kind: NetworkPolicy"),
        Case("networkPolicy.metricsFrom", peers(), POLICY, "192.0.2.0/24"),
        Case("networkPolicy.deliveriesFrom", peers(), POLICY, "192.0.2.0/24"),
        Case("networkPolicy.dns.to", peers(), POLICY, "192.0.2.0/24"),
        Case("networkPolicy.dns.ports", json!([5353]), POLICY, "port: 5353"),
        Case("networkPolicy.apiServer.to", peers(), POLICY, "192.0.2.0/24"),
        Case("networkPolicy.apiServer.ports", json!([8443]), POLICY, "port: 8443"),
        Case("networkPolicy.github.to", peers(), POLICY, "192.0.2.0/24"),
        Case("networkPolicy.github.ports", json!([3128]), POLICY, "port: 3128"),
    ]
}

/// For Helm itself and for charts above this one: there is nothing to render.
const READ_BY_OTHERS: [&str; 2] = ["enabled", "global"];

fn defaults() -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(path("charts/landfall/values.yaml")).unwrap()).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&std::fs::read_to_string(path("charts/landfall/values.schema.json")).unwrap()).unwrap()
}

/// The values that are set as one, by the manual in their comments: what is below a leaf is the user's.
fn leaves(defaults: &Value, schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    let below = defaults.as_object().filter(|fields| !fields.is_empty());
    match (below, &schema["properties"]) {
        (Some(fields), Value::Object(known)) => {
            let named: BTreeSet<_> = fields.keys().collect();
            assert_eq!(named, known.keys().collect(), "{at}: values.yaml and values.schema.json have the same values");
            for (name, value) in fields {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                leaves(value, &known[name], &at, found);
            }
        }
        _ => {
            found.insert(at.to_owned());
        }
    }
}

#[test]
fn every_value_has_a_case() {
    let mut found = BTreeSet::new();
    leaves(&defaults(), &schema(), "", &mut found);
    let tried = cases().into_iter().map(|Case(value, ..)| value).chain(READ_BY_OTHERS).map(str::to_owned).collect();
    assert_eq!(found, tried);
}

#[test]
fn every_value_changes_what_is_rendered() {
    let cases = cases();
    std::thread::scope(|scope| {
        for part in cases.chunks(cases.len().div_ceil(2)) {
            scope.spawn(move || {
                for Case(value, given, further, word) in part {
                    let set = format!("--set-json={value}={given}");
                    let without = template(further).expect(value);
                    let with = template(&[further, &[set.as_str()][..]].concat()).expect(value);
                    assert_ne!(with, without, "{value}");
                    assert!(with.contains(word), "{value}: {word} is not in what is rendered");
                    assert!(word.is_empty() || !without.contains(word), "{value}: {word} is there without it");
                }
            });
        }
    });
}

/// A chart that has this one as a dependency, with values of its own and those of the user who installs it.
fn umbrella(values: &Value, of_the_user: &Value) -> Answer {
    let folder = tempfile::tempdir().unwrap();
    let metadata = json!({
        "apiVersion": "v2", "name": "umbrella", "version": "0.1.0",
        "dependencies": [{
            "name": "landfall", "version": "*", "condition": "landfall.enabled",
            "repository": format!("file://{}", path("charts/landfall")),
        }],
    });
    std::fs::write(folder.path().join("Chart.yaml"), metadata.to_string()).unwrap();
    std::fs::write(folder.path().join("values.yaml"), values.to_string()).unwrap();
    let place = folder.path().to_str().unwrap();
    helm(&["dependency", "build", place]).expect("the dependency is there");
    let users = folder.path().join("of-the-user.json");
    std::fs::write(&users, of_the_user.to_string()).unwrap();
    helm(&["template", "x", place, "--values", users.to_str().unwrap()])
}

#[test]
fn the_chart_is_an_optional_dependency_of_another() {
    let nothing = json!({});
    let rendered =
        umbrella(&json!({"landfall": {"enabled": true}, "global": {"anything": {"of": "others"}}}), &nothing);
    assert!(rendered.expect("it is rendered").contains("kind: Deployment"));
    let without = umbrella(&json!({"landfall": {"enabled": false}}), &nothing).expect("it is left out");
    assert!(!without.contains("kind:"), "{without}");
    // Helm takes a null for a chart below from the user, not from the chart above.
    let ids = json!({"runAsUser": null, "runAsGroup": null, "fsGroup": null});
    let open = json!({"landfall": {"enabled": true, "podSecurityContext": ids, "workspaces": {"runAsUser": null}}});
    let rendered = umbrella(&json!({}), &open).expect("ids may be unset");
    assert!(!rendered.contains("65532") && rendered.contains("--workspace-user=unset"), "{rendered}");
}

/// The requirements of `restricted-v2`, the default policy of `OpenShift`.
pub const IDS_UNSET: &[&str] = &[
    "--set=podSecurityContext.runAsUser=null",
    "--set=podSecurityContext.runAsGroup=null",
    "--set=podSecurityContext.fsGroup=null",
    "--set=workspaces.runAsUser=null",
];

#[test]
fn ids_may_be_unset() {
    let rendered = template(IDS_UNSET).expect("ids may be unset");
    for word in ["65532", "runAsUser:", "runAsGroup:", "fsGroup:"] {
        assert!(!rendered.contains(word) || word != "65532" && is_in_definitions_alone(&rendered, word), "{word}");
    }
    assert!(rendered.contains("--workspace-user=unset") && rendered.contains("runAsNonRoot: true"));
    let none = template(&["--set=podSecurityContext=null", "--set=securityContext=null"]).expect("none at all");
    assert!(!none.contains("runAsNonRoot: true") && !none.contains("allowPrivilegeEscalation: "));
}

/// The definition of Workspace has a field of that name.
fn is_in_definitions_alone(rendered: &str, word: &str) -> bool {
    let documents = rendered.split("\n---").filter(|document| document.contains(word));
    documents.into_iter().all(|document| document.contains("kind: CustomResourceDefinition"))
}

#[test]
fn addresses_are_for_both_families() {
    let rendered = template(&[]).expect("the chart renders");
    assert!(!rendered.contains("0.0.0.0"));
    for port in ["--health-address=[::]:8080", "--address=[::]:8081", "--reports-address=[::]:8082"] {
        assert!(rendered.contains(port), "{port}");
    }
}

#[test]
fn what_excludes_each_other_says_so() {
    for (values, words) in [
        (&["--set=serviceAccount.create=false"][..], "serviceAccount.create: false needs serviceAccount.name"),
        (&["--set=receiver.serviceAccount.create=false"], "needs receiver.serviceAccount.name"),
        (&["--set=receiver.serviceAccount.name=landfall"], "must have an account of its own"),
        (&["--set=features.repositories.enabled=false"], "features.workspaces needs features.repositories"),
        (&["--set=metrics.serviceMonitor.enabled=true", "--set=metrics.podMonitor.enabled=true"], "exclude each other"),
        (
            &["--set=metrics.prometheusRule.enabled=true", "--set=metrics.prometheusRule.disabled={Landfall}"],
            "names Landfall; the alerts are LandfallNoLeader,",
        ),
        (
            &["--set=receiver.autoscaling.enabled=true", "--set=receiver.autoscaling.minReplicas=12"],
            "minReplicas is 12, which is more than maxReplicas, 10",
        ),
        (
            &[
                "--set=receiver.autoscaling.enabled=true",
                "--set=receiver.autoscaling.targetCPUUtilizationPercentage=null",
            ],
            "needs targetCPUUtilizationPercentage or",
        ),
    ] {
        let said = template(values).refusal(words);
        assert!(said.contains(words), "{values:?}: {said}");
    }
}

/// The metrics that the source declares, with their labels: the tables that stand in its modules.
fn declared() -> Map<String, Value> {
    let mut metrics = Map::new();
    for file in ["src/runtime/metrics.rs", "src/receiver/metrics.rs"] {
        let text = std::fs::read_to_string(path(file)).unwrap();
        for row in text.lines().filter_map(|line| line.strip_prefix("//! | `landfall_")) {
            let mut cells = row.split(" | ").map(str::trim);
            let name = format!("landfall_{}", cells.next().unwrap().trim_end_matches('`'));
            let labels: Vec<_> = cells.nth(1).unwrap().split('`').skip(1).step_by(2).collect();
            metrics.insert(name, json!(labels));
        }
    }
    assert!(metrics.len() > 15, "{metrics:?}");
    metrics
}

/// The metrics that an expression asks for, with the labels that it selects by.
fn asked(expression: &str) -> Vec<(String, Vec<String>)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("landfall_") {
        let rest = &expression[at..];
        let (name, rest) = rest.split_at(rest.find(|c| !word(c)).unwrap_or(rest.len()));
        let selector = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
        let labels = selector.split(',').filter(|part| !part.is_empty());
        let labels = labels.map(|part| part.chars().take_while(|c| word(*c)).collect());
        found.push((name.to_owned(), labels.collect()));
    }
    found
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let declared = declared();
    let alerts: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(path("charts/landfall/files/alerts.yaml")).unwrap()).unwrap();
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(path("charts/landfall/files/dashboard.json")).unwrap()).unwrap();
    let mut expressions = Vec::new();
    for rule in alerts["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        assert!(["critical", "warning"].iter().any(|severity| rule["labels"]["severity"] == *severity), "{rule}");
        assert!(rule["annotations"]["summary"].is_string() && rule["annotations"]["description"].is_string(), "{rule}");
        expressions.push(rule["expr"].as_str().unwrap().to_owned());
    }
    let targets = dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array());
    expressions.extend(targets.flatten().map(|target| target["expr"].as_str().unwrap().to_owned()));
    let mut seen = BTreeSet::new();
    for expression in &expressions {
        let metrics = asked(expression);
        assert!(!metrics.is_empty(), "{expression}");
        for (name, labels) in metrics {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let base = base.filter(|_| !declared.contains_key(&name)).unwrap_or(&name).to_owned();
            let known = declared.get(&base).unwrap_or_else(|| panic!("{expression}: there is no metric {name}"));
            for label in labels.iter().filter(|label| *label != "namespace") {
                assert!(known.as_array().unwrap().contains(&json!(label)), "{expression}: {name} has no label {label}");
            }
            seen.insert(base);
        }
    }
    // The dashboard shows what there is.
    assert!(seen.len() >= 15, "{seen:?}");
}
