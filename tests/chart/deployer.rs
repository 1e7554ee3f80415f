//! In whose name a push rolls workloads: the operator has no such right from the chart, and one account's from the sample.

use super::caller::{Caller, JSON, MERGE, until};
use super::cluster::namespace;
use super::programs::{kubectl, objects, path, template};
use http::Method;
use landfall_cluster::{ApiServer, Options};
use serde_json::{Value, json};

const OPERATOR: &str = "system:serviceaccount:landfall-system:landfall";

fn shop(namespace: &str) -> String {
    format!("/apis/apps/v1/namespaces/{namespace}/deployments/shop")
}

#[tokio::test]
async fn a_namespace_lends_one_account_and_no_other() {
    let server = ApiServer::start(Options::default()).await.unwrap();
    let kubeconfig = server.kubeconfig();
    let apply =
        |text: &str| kubectl(&kubeconfig, &["apply", "--server-side", "-f", "-"], text).expect("it is accepted");
    for name in ["landfall-system", "team-a", "team-b"] {
        namespace(&kubeconfig, name);
    }
    let sample = |file: &str| std::fs::read_to_string(path(&format!("config/samples/{file}.yaml"))).unwrap();
    for name in ["team-a", "team-b"] {
        apply(&sample("deployment").replace("team-a", name));
    }
    for object in objects(&template(&[]).expect("the chart renders")) {
        if object["kind"].as_str().unwrap().contains("Role") {
            apply(&object.to_string());
        }
    }
    let operator = Caller::new(&server.kubeconfig_of(OPERATOR, Some("system:serviceaccounts")).unwrap()).await;
    let deployer = operator.posing_as("system:serviceaccount:team-a:deployer");
    let roll = json!({"spec": {"template": {"metadata": {"annotations": {"landfall.dev/sha": "a"}}}}});
    let rolls = async |caller: &Caller, namespace: &str| {
        let path = shop(namespace);
        let answer = caller.ask(Method::PATCH, &path, MERGE, &roll).await;
        answer.map_err(|refused| assert_eq!(refused.code, 403, "{refused:?}")).is_ok()
    };
    until("the operator has its rights", async || {
        operator.ask(Method::GET, "/api/v1/namespaces", JSON, &Value::Null).await.is_ok()
    })
    .await;
    assert!(!rolls(&operator, "team-a").await, "in its own name");
    assert!(!rolls(&deployer, "team-a").await, "without the namespace's consent");

    apply(&sample("deployer"));
    until("the namespace lends the account", async || rolls(&deployer, "team-a").await).await;
    assert!(!rolls(&operator, "team-a").await, "in its own name");
    assert!(!rolls(&deployer, "team-b").await, "in another namespace");
    for other in ["system:serviceaccount:team-a:default", "system:serviceaccount:team-b:deployer", "admin"] {
        let refused =
            operator.posing_as(other).ask(Method::GET, &shop("team-a"), JSON, &Value::Null).await.unwrap_err();
        assert!(refused.message.contains("cannot impersonate"), "{refused:?}");
    }
    for (method, path) in [
        (Method::DELETE, shop("team-a")),
        (Method::GET, "/api/v1/namespaces/team-a/secrets".to_owned()),
        (Method::GET, "/api/v1/namespaces/team-a/pods".to_owned()),
    ] {
        let refused = deployer.ask(method, &path, JSON, &Value::Null).await.unwrap_err();
        assert_eq!(refused.code, 403, "{path}: {refused:?}");
    }

    // The Role of the operator taken back, it is as it was before.
    let gone = ["delete", "rolebinding", "landfall-as-deployer", "-n", "team-a"];
    kubectl(&kubeconfig, &gone, "").expect("it is there");
    until("the account is the namespace's again", async || !rolls(&deployer, "team-a").await).await;
    server.stop().await;
}
