//! That the validation finds what is wrong: a good answer passes, and fails with any one thing changed.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde_json::{Value, json};

use crate::description::{DEFAULT, Description, NEWEST, Undescribed, endpoint};
use crate::finding::{AllowList, Allowed, Finding};
use crate::recorder::{Recorder, Report};
use crate::world::World;

const APP: &str = "GET /app";

/// A good answer to `GET /app`.
async fn app() -> Value {
    let world = World::new().await;
    world.get("/app", &world.jwt()).await.body
}

fn fields(body: &Value) -> Vec<String> {
    let found = Description::rest(DEFAULT).answer(APP, 200, body).unwrap();
    found.into_iter().map(|finding| finding.field).collect()
}

#[tokio::test]
async fn what_is_missing_undeclared_or_of_another_type_is_found() {
    let good = app().await;
    assert_eq!(fields(&good), Vec::<String>::new());
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut body = good.clone();
        change(&mut body);
        fields(&body)
    };
    assert_eq!(changed(&|body| drop(body.as_object_mut().unwrap().remove("node_id"))), ["/node_id"]);
    assert_eq!(changed(&|body| body["surprise"] = json!(1)), ["/surprise"]);
    assert_eq!(changed(&|body| body["owner"]["surprise"] = json!(1)), ["/owner/surprise"]);
    assert!(changed(&|body| body["id"] = json!("1")).contains(&"/id".to_owned()));
    assert!(changed(&|body| body["name"] = Value::Null).contains(&"/name".to_owned()));
    assert!(changed(&|body| body["created_at"] = json!("yesterday")).contains(&"/created_at".to_owned()));
    assert!(changed(&|body| body["events"][0] = json!(1)).contains(&"/events/*".to_owned()));
    assert!(changed(&|body| body["permissions"]["contents"] = json!(7)).contains(&"/permissions/contents".to_owned()));
}

#[test]
fn routes_statuses_and_bodies_that_are_not_described_are_found() {
    let rest = Description::rest(DEFAULT);
    assert_eq!(rest.answer("GET /apple", 200, &Value::Null), Err(Undescribed::Route));
    assert_eq!(rest.answer(APP, 204, &Value::Null), Err(Undescribed::Status));
    let there = rest.answer("DELETE /installation/token", 204, &json!({})).unwrap();
    assert_eq!(there, [Finding::new("body", "there should be none")]);
    assert!(Description::webhooks().delivery("pushed", &http::HeaderMap::new(), &Value::Null).is_none());
}

#[tokio::test]
async fn a_property_that_the_newest_version_took_away_is_found() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let old = world.get("/repos/acme/shop", &token).await.body;
    let at = endpoint("GET", "/repos/{owner}/{repo}");
    assert_eq!(Description::rest(DEFAULT).answer(&at, 200, &old), Ok(Vec::new()));
    let found = Description::rest(NEWEST).answer(&at, 200, &old).unwrap();
    assert!(found.contains(&Finding::new("/has_downloads", "undeclared")), "{found:?}");
}

/// The way from an answer into the report.
#[tokio::test]
async fn a_wrong_answer_is_in_the_report_unless_it_is_allowed() {
    let world = World::new().await;
    let allow = Allowed { endpoint: APP.into(), field: "/allowed".into(), instead: None, reason: String::new() };
    let mut report = Report::new(AllowList { entries: vec![allow], needed: BTreeSet::default() });
    let body = json!({"surprise": true, "allowed": true});
    world.sim.inject(github_sim::Fault::new(
        "GET",
        "/app",
        github_sim::FaultKind::Status { status: 200, body: Some(body), headers: BTreeMap::default() },
    ));
    let mut recorder = Recorder { world: &world, version: DEFAULT, report: &mut report };
    recorder.ask(Method::GET, "/app", &world.jwt(), Value::Null).await;
    let found: Vec<&str> = report.findings.iter().map(|(_, finding)| finding.field.as_str()).collect();
    assert!(found.contains(&"/surprise") && found.contains(&"/id") && !found.contains(&"/allowed"), "{found:?}");
    assert_eq!(report.allowed.needed.len(), 1);
}
