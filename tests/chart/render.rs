//! What the chart renders, for which values.

use super::programs::{helm, kubectl_alone, named, objects, of_kind, path, template};
use landfall::features::Features;
use landfall::manifests::RuleSet;
use serde_json::{Value, json};

/// Values that people combine; each must render, and be accepted by a cluster.
pub const VALUES: &[&[&str]] = &[
    &[],
    &["--set=replicas=3", "--set=priorityClassName=system-cluster-critical"],
    &["--set=secretNamespaces={team-a,team-b}"],
    &["--set=crds.keep=false", "--set=rbac.aggregate=false", "--set=metrics.service.enabled=false"],
    &[
        "--set=serviceAccount.create=false",
        "--set=serviceAccount.name=mine",
        "--set=fullnameOverride=github",
        "--set=nameOverride=hub",
    ],
    &["--set=image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"],
    &["--set=insecureDevelopment=true", "--set=logLevel=landfall=debug\\,kube=info", "--set=logFormat=text"],
    &[
        "--set-json=extraEnv=[{\"name\":\"SSL_CERT_FILE\",\"value\":\"/certificates/ca.pem\"}]",
        "--set-json=imagePullSecrets=[{\"name\":\"registry\"}]",
        "--set-json=podLabels={\"team\":\"platform\"}",
        "--set-json=podAnnotations={\"note\":\"42\"}",
        "--set-json=nodeSelector={\"kubernetes.io/os\":\"linux\"}",
        "--set-json=tolerations=[{\"key\":\"spot\",\"operator\":\"Exists\"}]",
        "--set-json=topologySpreadConstraints=[{\"maxSkew\":1,\"topologyKey\":\"zone\",\"whenUnsatisfiable\":\"ScheduleAnyway\"}]",
        "--set-json=affinity={\"podAntiAffinity\":{}}",
        "--set-json=serviceAccount.annotations={\"note\":\"42\"}",
    ],
    &[
        "--set=networkPolicy.enabled=true",
        "--set-json=networkPolicy.metricsFrom=[{\"namespaceSelector\":{\"matchLabels\":{\"name\":\"monitoring\"}}}]",
        "--set-json=networkPolicy.github.to=[{\"ipBlock\":{\"cidr\":\"192.0.2.0/24\"}}]",
        "--set-json=networkPolicy.deliveriesFrom=[{\"namespaceSelector\":{\"matchLabels\":{\"name\":\"ingress\"}}}]",
    ],
    &["--set=receiver.enabled=false"],
    &[
        "--set=receiver.replicas=1",
        "--set-json=receiver.targetRate=0.5",
        "--set=receiver.service.type=LoadBalancer",
        "--set=receiver.service.port=8000",
        "--set-json=receiver.service.annotations={\"note\":\"42\"}",
        "--set-json=receiver.affinity={\"podAntiAffinity\":{}}",
        "--set-json=receiver.topologySpreadConstraints=[]",
        "--set-json=receiver.resources={}",
    ],
    &[
        "--set=receiver.ingress.enabled=true",
        "--set=receiver.ingress.host=landfall.example.com",
        "--set=receiver.ingress.className=nginx",
        "--set-json=receiver.ingress.annotations={\"note\":\"42\"}",
        "--set-json=receiver.ingress.tls=[{\"hosts\":[\"landfall.example.com\"],\"secretName\":\"landfall-tls\"}]",
    ],
    &["--set-json=gitUrls.allowedHosts=[\"git.example.com\",\"git.example.com:8443\",\"*.example.org\"]"],
    &["--set=gitUrls.allowPrivateAddresses=true"],
    &["--set=features.repositories.enabled=false", "--set=features.workspaces.enabled=false"],
    super::values::IDS_UNSET,
    &[
        "--set=receiver.autoscaling.enabled=true",
        "--set=receiver.autoscaling.targetMemoryUtilizationPercentage=70",
        "--set-json=receiver.autoscaling.behavior={\"scaleDown\":{\"stabilizationWindowSeconds\":77}}",
        "--set-json=receiver.strategy={\"rollingUpdate\":{\"maxSurge\":4}}",
        "--set=receiver.serviceAccount.name=a-receiver",
        "--set=receiver.priorityClassName=system-cluster-critical",
        "--set-json=receiver.tolerations=[{\"key\":\"spot\",\"operator\":\"Exists\"}]",
        "--set-json=receiver.extraArgs=[\"--target-burst=9\"]",
        "--set-json=receiver.extraEnv=[{\"name\":\"A\",\"value\":\"a\"}]",
    ],
    &[
        "--set-json=extraEnv=[{\"name\":\"A\",\"valueFrom\":{\"secretKeyRef\":{\"name\":\"a\",\"key\":\"b\"}}}]",
        "--set-json=extraArgs=[\"--no-leader-election\"]",
        "--set-json=extraVolumes=[{\"name\":\"bundle\",\"configMap\":{\"name\":\"a\"}}]",
        "--set-json=extraVolumeMounts=[{\"name\":\"bundle\",\"mountPath\":\"/etc/bundle\"}]",
        "--set-json=extraObjects=[{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\",\"namespace\":\"team-a\"}}]",
        "--set-json=commonLabels={\"team\":\"platform\"}",
        "--set-json=strategy={\"type\":\"Recreate\"}",
        "--set=dnsPolicy=None",
        "--set-json=dnsConfig={\"nameservers\":[\"192.0.2.1\"]}",
        "--set=metrics.dashboard.enabled=true",
    ],
];

pub fn rendered(values: &[&str]) -> Vec<Value> {
    objects(&template(values).expect("the chart renders"))
}

pub fn rules(set: RuleSet) -> Value {
    serde_json::to_value(set.rules(&Features::default())).unwrap()["rules"].clone()
}

#[test]
fn helm_finds_nothing_to_blame() {
    for values in VALUES {
        helm(&[&["lint", "--strict", &path("charts/landfall")], *values].concat()).expect(&format!("lint {values:?}"));
    }
}

#[test]
fn no_secret_is_made() {
    for values in VALUES {
        assert!(of_kind(&rendered(values), "Secret").is_empty(), "{values:?}");
    }
}

#[test]
fn definitions_are_those_of_the_source() {
    let of_source: Vec<Value> = landfall::controllers::definitions()
        .iter()
        .map(|crd| serde_json::to_value(crd).unwrap()["spec"].clone())
        .collect();
    let objects = rendered(&[]);
    let crds = of_kind(&objects, "CustomResourceDefinition");
    assert_eq!(crds.len(), of_source.len());
    for crd in crds {
        let spec = of_source.iter().find(|spec| spec["names"] == crd["spec"]["names"]).unwrap();
        // Helm reads and writes every number as one of floating point.
        assert_eq!(as_floats(&crd["spec"]), as_floats(spec));
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    assert!(of_kind(&rendered(&["--set=crds.install=false"]), "CustomResourceDefinition").is_empty());
    for crd in of_kind(&rendered(&["--set=crds.keep=false"]), "CustomResourceDefinition") {
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], Value::Null);
    }
}

fn as_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(as_floats).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), as_floats(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn the_operator_gets_the_rules_of_the_source_and_no_more() {
    let objects = rendered(&["--set=rbac.aggregate=false"]);
    let roles = of_kind(&objects, "ClusterRole");
    let given: Vec<_> = roles.iter().map(|role| (&role["metadata"]["name"], &role["rules"])).collect();
    let [name, secrets, receiver] =
        ["landfall-controller", "landfall-controller-secrets", "landfall-receiver"].map(|name| json!(name));
    let wanted = [
        (&name, &rules(RuleSet::Cluster)),
        (&secrets, &rules(RuleSet::Secrets)),
        (&receiver, &rules(RuleSet::Receiver)),
    ];
    assert_eq!(given, wanted);
    assert_eq!(of_kind(&objects, "Role").len(), 3);
    let stop = json!([{
        "apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": ["landfall-controller"], "verbs": ["patch"],
    }]);
    assert_eq!(named(&objects, "Role", "landfall-uninstall")["rules"], stop);
    for (name, set) in [("landfall-controller", RuleSet::Own), ("landfall-receiver", RuleSet::ReceiverOwn)] {
        let own = named(&objects, "Role", name);
        assert_eq!((&own["metadata"]["namespace"], &own["rules"]), (&json!("landfall-system"), &rules(set)));
    }
    for binding in [of_kind(&objects, "ClusterRoleBinding"), of_kind(&objects, "RoleBinding")].concat() {
        let account = if binding["metadata"]["name"] == "landfall-receiver" { "landfall-receiver" } else { "landfall" };
        let subject = json!([{"kind": "ServiceAccount", "name": account, "namespace": "landfall-system"}]);
        assert_eq!(binding["subjects"], subject);
        assert_eq!(binding["roleRef"]["name"], binding["metadata"]["name"]);
    }
}

#[test]
fn secrets_in_listed_namespaces_only() {
    let objects = rendered(&["--set=secretNamespaces={team-a,team-b}", "--set=rbac.aggregate=false"]);
    for role in of_kind(&objects, "ClusterRole") {
        assert!(!role["rules"].to_string().contains("secrets"), "{role}");
    }
    let places: Vec<_> = of_kind(&objects, "Role")
        .iter()
        .filter(|role| role["rules"] == rules(RuleSet::Secrets))
        .map(|role| role["metadata"]["namespace"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(places, ["team-a", "team-b"]);
    // The operator's own namespace, the receiver's inbox, and these two.
    assert_eq!(of_kind(&objects, "RoleBinding").len(), 4);
    let args = container(&objects, "controller")["args"].to_string();
    assert!(args.contains("--secret-namespace=team-a") && args.contains("--secret-namespace=team-b"), "{args}");
}

/// The container of the controller's or the receiver's Deployment.
pub fn container<'a>(objects: &'a [Value], component: &str) -> &'a Value {
    &named(objects, "Deployment", &format!("landfall-{component}"))["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn a_budget_for_several_replicas_only() {
    for (values, budgets) in [
        (&[][..], &["landfall-receiver"][..]),
        (&["--set=replicas=2"], &["landfall-controller", "landfall-receiver"]),
        (&["--set=receiver.replicas=1"], &[]),
        (&["--set=replicas=2", "--set=podDisruptionBudget.enabled=false"], &[]),
    ] {
        let objects = rendered(values);
        let found = of_kind(&objects, "PodDisruptionBudget");
        assert_eq!(found.iter().map(|budget| &budget["metadata"]["name"]).collect::<Vec<_>>(), budgets, "{values:?}");
        for budget in found {
            let pods = named(&objects, "Deployment", budget["metadata"]["name"].as_str().unwrap());
            assert_eq!(budget["spec"]["selector"], pods["spec"]["selector"]);
        }
    }
}

#[test]
fn a_digest_goes_before_a_tag() {
    let image = |values: &[&str]| {
        let objects = rendered(values);
        let image = container(&objects, "controller")["image"].clone();
        assert_eq!(image, container(&objects, "receiver")["image"]);
        image.as_str().unwrap().to_owned()
    };
    assert_eq!(image(&[]), format!("localhost/landfall:{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(image(&["--set=image.tag=dev"]), "localhost/landfall:dev");
    let digest = format!("sha256:{}", "0".repeat(64));
    let set = format!("--set=image.digest={digest}");
    assert_eq!(image(&["--set=image.tag=dev", &set]), format!("localhost/landfall@{digest}"));
}

#[test]
fn a_service_monitor_selects_the_service() {
    let objects = rendered(&["--set=metrics.serviceMonitor.enabled=true"]);
    for (monitor, service) in [("landfall", "landfall-metrics"), ("landfall-receiver", "landfall-receiver-metrics")] {
        let labels = named(&objects, "Service", service)["metadata"]["labels"].as_object().unwrap();
        let wanted = &named(&objects, "ServiceMonitor", monitor)["spec"]["selector"]["matchLabels"];
        assert!(wanted.as_object().unwrap().iter().all(|(key, value)| labels.get(key) == Some(value)), "{wanted}");
        // A port is on one Service only of those that a monitor selects.
        let ports: Vec<_> = of_kind(&objects, "Service")
            .into_iter()
            .filter(|service| {
                service["metadata"]["labels"]["app.kubernetes.io/component"] == wanted["app.kubernetes.io/component"]
            })
            .flat_map(|service| service["spec"]["ports"].as_array().unwrap())
            .filter(|port| port["name"] == "metrics")
            .collect();
        assert_eq!(ports.len(), 1, "{ports:?}");
    }
    let without = ["--set=metrics.serviceMonitor.enabled=true", "--set=metrics.service.enabled=false"];
    assert!(template(&without).refusal("a monitor of no service").contains("needs metrics.service.enabled: true"));
}

#[test]
fn a_network_policy_lets_in_to_health_and_what_pods_report() {
    let objects = rendered(&["--set=networkPolicy.enabled=true"]);
    let spec = &named(&objects, "NetworkPolicy", "landfall-controller")["spec"];
    let reports = json!({"ports": [{"protocol": "TCP", "port": 8082}], "from": [{"namespaceSelector": {}}]});
    assert_eq!(spec["ingress"], json!([{"ports": [{"protocol": "TCP", "port": 8080}]}, reports]));
    assert_eq!(
        spec["egress"],
        json!([
            {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
            {"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]},
            {"ports": [{"protocol": "TCP", "port": 443}]},
        ])
    );
    let pods = &named(&objects, "Deployment", "landfall-controller")["spec"]["selector"]["matchLabels"];
    assert_eq!(&spec["podSelector"]["matchLabels"], pods);
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (value, words) in [
        ("--set=replica=2", ["additional properties", "replica"]),
        ("--set=replicas=many", ["/replicas", "got string, want integer"]),
        ("--set=image.pullPolicy=Sometimes", ["/image/pullPolicy", "must be one of 'Always'"]),
        ("--set=image.digest=deadbeef", ["/image/digest", "does not match pattern"]),
        ("--set=logFormat=xml", ["/logFormat", "must be one of 'json', 'text'"]),
        ("--set=secretNamespaces={Team_A}", ["/secretNamespaces/0", "does not match pattern"]),
        ("--set=secretNamespaces=team-a", ["/secretNamespaces", "want array"]),
        ("--set=insecureDevelopment=1", ["/insecureDevelopment", "want boolean"]),
        (
            "--set-json=extraEnv=[{\"name\":\"A\",\"value\":\"a\",\"valueFrom\":{\"fieldRef\":{}}}]",
            ["/extraEnv/0", "value"],
        ),
        ("--set=networkPolicy.github.ports={0}", ["/networkPolicy/github/ports/0", "minimum"]),
        ("--set=gitUrls.allowedHosts={https://git.example.com}", ["/gitUrls/allowedHosts/0", "does not match pattern"]),
        ("--set=gitUrls.allowedHosts={git.example.com/team}", ["/gitUrls/allowedHosts/0", "does not match pattern"]),
        ("--set=gitUrls.allowPrivateAddresses=yes", ["/gitUrls/allowPrivateAddresses", "want boolean"]),
        ("--set=receiver.replica=1", ["/receiver", "replica"]),
        ("--set=receiver.targetRate=0", ["/receiver/targetRate", "minimum"]),
        ("--set=receiver.targetBurst=0.5", ["/receiver/targetBurst", "want integer"]),
        ("--set=receiver.service.type=ExternalName", ["/receiver/service/type", "must be one of 'ClusterIP'"]),
        ("--set=receiver.policy=false", ["/receiver", "policy"]),
        ("--set=receiver.ingress.enabled=true", ["/receiver/ingress/host", "minLength"]),
        (
            "--set=receiver.ingress.host=https://landfall.example.com",
            ["/receiver/ingress/host", "does not match pattern"],
        ),
        ("--set=receiver.ingress.path=/", ["/receiver/ingress", "path"]),
        ("--set=receiver.httpRoute.enabled=true", ["/receiver/httpRoute/parentRefs", "minItems"]),
        (
            "--set-json=receiver.httpRoute.parentRefs=[{\"namespace\":\"a\"}]",
            ["/receiver/httpRoute/parentRefs/0", "name"],
        ),
        (
            "--set=receiver.httpRoute.hostnames={Landfall}",
            ["/receiver/httpRoute/hostnames/0", "does not match pattern"],
        ),
    ] {
        let said = template(&[value]).refusal(value);
        assert!(words.iter().all(|word| said.contains(word)), "{value}: {said}");
    }
}

/// Without the label that names Helm's release, by which the chart selects.
fn unreleased(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(unreleased).collect(),
        Value::Object(fields) => fields
            .iter()
            .filter(|(key, _)| *key != "app.kubernetes.io/instance")
            .map(|(key, value)| (key.clone(), unreleased(value)))
            .collect(),
        other => other.clone(),
    }
}

/// Who has no Helm gets the same pod, in the same way.
#[test]
fn config_default_is_the_chart_by_default() {
    let mut config = objects(&kubectl_alone(&["kustomize", &path("config/default")]).expect("kustomize builds"));
    let mut chart =
        rendered(&["--set=image.tag=dev", "--set=metrics.service.enabled=false", "--set=uninstall.hook=false"]);
    // Helm knows the namespace, and kustomize does not look for it within words.
    let mut whom = [&mut config, &mut chart].map(|objects| {
        let policies = objects.iter_mut().filter(|object| object["kind"] == "ValidatingAdmissionPolicy");
        policies.map(|policy| policy["spec"]["matchConditions"][0]["expression"].take()).collect::<Vec<_>>()
    });
    whom[0].sort_by_key(Value::to_string);
    let by = |account: &str| {
        json!(format!(
            r#"request.userInfo.username.startsWith("system:serviceaccount:") && request.userInfo.username.endsWith(":{account}")"#
        ))
    };
    assert_eq!(whom[0], [by("landfall-receiver"), by("landfall")]);
    assert_eq!(whom[1].len(), 2);
    for name in ["landfall-controller", "landfall-receiver"] {
        let pod = |objects| unreleased(&named(objects, "Deployment", name)["spec"]["template"]["spec"]);
        assert_eq!(pod(&config), pod(&chart), "{name}");
        let replicas = |objects| named(objects, "Deployment", name)["spec"]["replicas"].clone();
        assert_eq!(replicas(&config), replicas(&chart), "{name}");
    }
    let bare = |objects: &[Value]| {
        let mut seen: Vec<_> = objects
            .iter()
            .filter(|object| !["Namespace", "Deployment"].contains(&object["kind"].as_str().unwrap()))
            .map(|object| {
                let place = (&object["metadata"]["namespace"], &object["metadata"]["name"]);
                let what = ["rules", "roleRef", "subjects", "spec"]
                    .map(|field| as_floats(&unreleased(&object[field])).to_string());
                (object["kind"].to_string(), format!("{place:?}"), what)
            })
            .collect();
        seen.sort();
        seen
    };
    assert_eq!(bare(&config), bare(&chart));
}
