use super::watch::insert;
use super::*;
use crate::features::Features;
use crate::ids::id;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A cluster with an App that grants team-a the shop and the libraries of acme, and team-b, by label, the plans of globex.
fn cluster() -> Targets {
    let targets = Targets::default();
    for object in [
        json!({"kind": "GitHubApp", "metadata": {"name": "landfall"},
            "spec": {"apiURL": "https://ghe.example/api/v3", "clientID": "Iv1", "credentialsSecretRef": {"name": "s"}, "tenants": [
                {"name": "acme", "account": "acme", "repositories": ["shop", "lib-*"], "namespaces": {"names": ["team-a"]}},
                {"name": "globex", "account": "globex", "repositories": ["plans"], "namespaces": {"selector": {"matchLabels": {"team": "b"}}}},
            ]},
            "status": {"appID": 42, "tenants": [{"account": "acme", "accountID": 7001}, {"account": "globex", "accountID": 7002}]}}),
        json!({"kind": "Namespace", "metadata": {"name": "team-a"}}),
        json!({"kind": "Namespace", "metadata": {"name": "team-b", "labels": {"team": "b"}}}),
        installation("team-a", "acme", "landfall", "acme"),
        installation("team-b", "globex", "landfall", "globex"),
        repository("team-a", "shop", "acme", &json!({"name": "shop"}), Some(9001)),
        repository("team-b", "plans", "globex", &json!({"id": 9101}), None),
    ] {
        insert(&targets, &object);
    }
    targets
}

fn installation(namespace: &str, name: &str, app: &str, account: &str) -> Value {
    json!({"kind": "GitHubInstallation", "metadata": {"namespace": namespace, "name": name},
        "spec": {"appRef": {"name": app}, "account": account}})
}

fn repository(namespace: &str, name: &str, installation: &str, existing: &Value, id: Option<u64>) -> Value {
    json!({"kind": "ProjectRepository", "metadata": {"namespace": namespace, "name": name, "resourceVersion": "5"},
        "spec": {"installationRef": {"name": installation}, "source": {"existing": existing}},
        "status": {"repositoryID": id}})
}

fn payload(number: i64, name: &str, owner: i64) -> Repository {
    Repository { id: id(number), names: vec![name.into()], owners: vec![id(owner)] }
}

fn names(objects: &[Object]) -> Vec<String> {
    let name = |object: &Object| match object {
        Object::App(name) => name.to_string(),
        Object::Repository((namespace, name)) => format!("{namespace}/{name}"),
    };
    let mut names: Vec<_> = objects.iter().map(name).collect();
    names.sort();
    names
}

#[test]
fn a_repositorys_deliveries_reach_objects_that_are_bound_to_it_and_were_granted_it() {
    let targets = cluster();
    let bound = |repository: &Repository| names(&targets.bound_to("landfall", repository));
    assert_eq!(bound(&payload(9001, "shop", 7001)), ["team-a/shop"]);
    assert_eq!(bound(&payload(9101, "plans", 7002)), ["team-b/plans"]);
    assert_eq!(bound(&payload(9002, "shop", 7001)), [""; 0], "another id");
    assert_eq!(bound(&payload(9001, "vault", 7001)), [""; 0], "a name that was not granted");
    assert_eq!(bound(&payload(9001, "shop", 7002)), [""; 0], "of another account");
    assert!(targets.bound_to("other", &payload(9001, "shop", 7001)).is_empty(), "another App");
    let renamed =
        Repository { id: id(9001), names: vec!["store".into(), "shop".into()], owners: vec![id(7009), id(7001)] };
    assert_eq!(bound(&renamed), ["team-a/shop"], "by its former name and owner");
}

#[test]
fn a_forged_id_in_status_gains_nothing() {
    let targets = cluster();
    insert(&targets, &repository("team-b", "spy", "globex", &json!({"name": "plans"}), Some(9001)));
    insert(&targets, &installation("team-b", "acme", "landfall", "acme"));
    insert(&targets, &repository("team-b", "spy-2", "acme", &json!({"name": "shop"}), Some(9001)));
    assert_eq!(names(&targets.bound_to("landfall", &payload(9001, "shop", 7001))), ["team-a/shop"]);
}

#[test]
fn an_account_without_a_known_id_matches_nothing() {
    let targets = cluster();
    let mut app = json!({"kind": "GitHubApp", "metadata": {"name": "landfall"},
        "spec": {"appID": 42, "credentialsSecretRef": {"name": "s"}, "tenants": [
            {"name": "acme", "account": "acme", "repositories": ["shop"], "namespaces": {"names": ["team-a"]}}]}});
    insert(&targets, &app);
    assert!(targets.bound_to("landfall", &payload(9001, "shop", 7001)).is_empty());
    app["spec"]["tenants"][0]["accountID"] = json!(7001);
    insert(&targets, &app);
    assert_eq!(targets.bound_to("landfall", &payload(9001, "shop", 7001)).len(), 1);
}

#[test]
fn a_hook_is_known_by_its_app_and_the_objects_that_are_bound_to_it() {
    let targets = cluster();
    let identity = AppIdentity { host: "ghe.example".into(), app_id: id(42) };
    assert_eq!(targets.identity_of("landfall", Hook::App), Some(identity.clone()));
    assert_eq!(targets.identity_of("landfall", Hook::Repository(id(9001))), Some(identity));
    assert_eq!(targets.identity_of("landfall", Hook::Repository(id(9999))), None);
    assert_eq!(targets.identity_of("other", Hook::App), None);
    let mut polled = repository("team-a", "shop", "acme", &json!({"name": "shop"}), Some(9001));
    polled["spec"]["webhook"] = json!({"mode": "None"});
    insert(&targets, &polled);
    assert_eq!(targets.identity_of("landfall", Hook::Repository(id(9001))), None, "the object only polls");
}

#[test]
fn an_object_without_an_id_waits_by_name() {
    let targets = cluster();
    insert(&targets, &repository("team-a", "lib", "acme", &json!({"name": "lib-core"}), None));
    insert(&targets, &repository("team-a", "secret", "acme", &json!({"name": "vault"}), None));
    let waiting = |name, owner| names(&targets.waiting_for("landfall", &payload(1, name, owner)));
    assert_eq!(waiting("Lib-Core", 7001), ["team-a/lib"]);
    assert_eq!(waiting("lib-core", 7002), [""; 0]);
    assert_eq!(waiting("vault", 7001), [""; 0], "not granted");
    assert_eq!(waiting("shop", 7001), [""; 0], "it has an id");
}

#[test]
fn a_selection_reaches_the_repositories_that_it_lists_or_all_of_the_account() {
    let targets = cluster();
    insert(&targets, &repository("team-a", "core", "acme", &json!({"name": "lib-core"}), Some(9002)));
    let selected = |app: &str, owner: i64, repositories: &[i64]| {
        let repositories = repositories.iter().copied().map(id).collect();
        names(&targets.selected(app, &Selection { owner: id(owner), repositories }))
    };
    assert_eq!(selected("landfall", 7001, &[]), ["team-a/core", "team-a/shop"]);
    assert_eq!(selected("landfall", 7001, &[9002, 5]), ["team-a/core"]);
    assert_eq!(selected("landfall", 7001, &[9101]), [""; 0], "of another account");
    assert_eq!(selected("other", 7001, &[]), [""; 0], "another App");
    // An object without an id waits for any repository.
    insert(&targets, &repository("team-a", "core", "acme", &json!({"name": "lib-core"}), None));
    assert_eq!(selected("landfall", 7001, &[5]), ["team-a/core"]);
}

#[test]
fn a_namespace_with_many_objects_of_a_repository_leaves_room_for_the_others() {
    let targets = cluster();
    for n in 0..MOST_OBJECTS {
        insert(&targets, &repository("team-a", &format!("many-{n:03}"), "acme", &json!({"name": "shop"}), Some(9001)));
        insert(&targets, &repository("team-a", &format!("wait-{n:03}"), "acme", &json!({"name": "lib-core"}), None));
    }
    let first = |prefix: &str| -> Vec<_> { (0..16).map(|n| format!("team-a/{prefix}-{n:03}")).collect() };
    assert_eq!(names(&targets.bound_to("landfall", &payload(9001, "shop", 7001))), first("many"));
    assert_eq!(names(&targets.waiting_for("landfall", &payload(1, "lib-core", 7001))), first("wait"));
    // An object of another namespace, last by name, gets the same selection.
    let mut app = json!({"kind": "GitHubApp", "metadata": {"name": "landfall"},
        "spec": {"appID": 42, "credentialsSecretRef": {"name": "s"}, "tenants": [
            {"name": "acme", "account": "acme", "accountID": 7001, "repositories": ["*"], "namespaces": {"names": ["team-a", "team-b"]}}]}});
    app["metadata"]["resourceVersion"] = json!("9");
    insert(&targets, &app);
    insert(&targets, &installation("team-b", "acme", "landfall", "acme"));
    insert(&targets, &repository("team-b", "zoo", "acme", &json!({"name": "zoo"}), Some(9009)));
    let selected = names(&targets.selected("landfall", &Selection { owner: id(7001), repositories: BTreeSet::new() }));
    assert_eq!(selected.len(), MOST_OBJECTS);
    assert!(selected.contains(&"team-b/zoo".to_owned()));
}

#[tokio::test]
async fn the_checks_exist_before_anything_is_watched() {
    let readiness = crate::runtime::readiness::Readiness::new();
    let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let not_polled = watch(Targets::default(), client, &readiness, &Features::default());
    assert_eq!(readiness.checks().iter().filter(|(_, passes)| !passes).count(), watch::KINDS);
    drop(not_polled);
}

#[test]
fn metadata_that_a_tenant_can_make_large_is_not_kept() {
    let mut large = repository("team-a", "shop", "acme", &json!({"name": "shop"}), Some(9001));
    large["metadata"]["labels"] = json!({"a": "b"});
    large["metadata"]["annotations"] = json!({"a": "b"});
    large["metadata"]["managedFields"] = json!([{"manager": "m"}]);
    let read: slim::SlimRepository = serde_json::from_value(large).unwrap();
    let kept = kube::core::ObjectMeta {
        name: Some("shop".into()),
        namespace: Some("team-a".into()),
        // Without it, a watch ends at each event, and everything is listed again.
        resource_version: Some("5".into()),
        ..kube::core::ObjectMeta::default()
    };
    assert_eq!(read.metadata, kept);
}

#[test]
fn an_odd_value_affects_no_other_field() {
    let targets = cluster();
    let mut odd = repository("team-a", "shop", "acme", &json!({"name": "shop"}), Some(9001));
    odd["spec"]["branch"] = json!({"not": "a branch"});
    odd["spec"]["webhook"] = json!(5);
    odd["status"]["head"] = json!("x");
    odd["metadata"]["managedFields"] = json!([{"time": "9999-12-31T23:59:59Z"}]);
    insert(&targets, &odd);
    assert_eq!(targets.bound_to("landfall", &payload(9001, "shop", 7001)).len(), 1);
}
