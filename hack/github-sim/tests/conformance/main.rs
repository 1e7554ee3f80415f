//! Every answer and every payload of the simulator, held against GitHub's own descriptions.
//!
//! The scenario is played in both API versions over a real listener; each exchange is validated as it happens. Needs
//! what `conformance/fetch` fetches.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod bites;
mod closing;
mod description;
mod fetched;
mod finding;
mod recorder;
mod scenario;
mod webhooks;

#[path = "../behaviour/receiver.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod receiver;
#[path = "../behaviour/world.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod world;

use std::collections::BTreeSet;

use github_sim::Sim;
use tokio::sync::OnceCell;

use crate::description::{DEFAULT, NEWEST, endpoint};
use crate::finding::AllowList;
use crate::recorder::Report;

/// The most entries of the allow-list.
const MOST_ALLOWED: usize = 13;
/// Routes that only refuse: people have them, Apps do not.
const ONLY_REFUSE: &[&str] = &["GET /user"];

/// What came of the whole scenario, which is played once for all tests here.
async fn report() -> &'static Report {
    static REPORT: OnceCell<Report> = OnceCell::const_new();
    REPORT
        .get_or_init(|| async {
            let mut report = Report::new(AllowList::read());
            for version in [DEFAULT, NEWEST] {
                scenario::play(version, &mut report).await;
            }
            report
        })
        .await
}

#[tokio::test]
async fn everything_is_as_described() {
    let report = report().await;
    println!("{} answers of {} routes, {} payloads", report.answers, report.answered.len(), report.payloads);
    let told: Vec<String> =
        report.findings.iter().map(|(at, found)| format!("{at}: {} {}", found.field, found.what)).collect();
    assert!(told.is_empty(), "{} differences from GitHub's description:\n{}", told.len(), told.join("\n"));
    assert!(report.answers > 200, "only {} answers were held against the description", report.answers);
}

#[tokio::test]
async fn every_route_was_held_against_its_description() {
    let report = report().await;
    let served: BTreeSet<String> = Sim::routes().map(|(method, template)| endpoint(method, template)).collect();
    let expected: BTreeSet<String> =
        served.iter().filter(|route| !ONLY_REFUSE.contains(&route.as_str())).cloned().collect();
    let succeeded = &report.succeeded;
    let never: Vec<&String> = expected.difference(succeeded).collect();
    assert!(never.is_empty(), "the scenario has no success of {never:?}");
    assert_eq!(report.answered.iter().collect::<Vec<_>>(), served.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn every_event_was_held_against_its_description() {
    let report = report().await;
    let expected: BTreeSet<String> = webhooks::EVENTS.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(report.delivered, expected);
}

#[tokio::test]
async fn the_allow_list_is_short_and_needed() {
    let AllowList { entries, needed } = &report().await.allowed;
    assert!(entries.len() <= MOST_ALLOWED, "{} differences are too many to allow", entries.len());
    for (at, entry) in entries.iter().enumerate() {
        assert!(needed.contains(&at), "{} {} does not differ any more: remove it", entry.endpoint, entry.field);
        assert!(entry.reason.len() > 20, "{} {} needs a reason", entry.endpoint, entry.field);
    }
}
