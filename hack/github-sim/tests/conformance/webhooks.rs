//! What is delivered: what people do that Apps and hooks are told about.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use github_sim::{Level, Push, RepositorySeed, Selection};
use serde_json::Value;

use crate::receiver::{Received, Receiver};
use crate::recorder::Recorder;
use crate::world::{INSTALLATION, permissions};

/// The events that are sent, as the description names them.
pub const EVENTS: &[&str] = &[
    "fork",
    "installation-created",
    "installation-deleted",
    "installation-new-permissions-accepted",
    "installation-repositories-added",
    "installation-repositories-removed",
    "installation-suspend",
    "installation-target-renamed",
    "installation-unsuspend",
    "ping",
    "push",
    "repository-archived",
    "repository-created",
    "repository-deleted",
    "repository-edited",
    "repository-privatized",
    "repository-publicized",
    "repository-renamed",
    "repository-transferred",
    "repository-unarchived",
];
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until so many deliveries are listed; returns them.
pub async fn logged(recorder: &mut Recorder<'_>, path: &str, secret: &str, count: usize) -> Vec<Value> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let listed = recorder.get(path, secret).await;
        let rows = listed.as_array().unwrap().clone();
        if rows.len() >= count {
            return rows;
        }
        tokio::task::yield_now().await;
    }
    panic!("{count} deliveries were not logged at {path}");
}

/// Does what sends each event, and holds all that came against the description.
pub async fn play(recorder: &mut Recorder<'_>, receiver: &Receiver) {
    let person = recorder.get("/users/mona/installation", &recorder.world.jwt()).await["id"].as_u64().unwrap();
    let sim = &recorder.world.sim;
    let some = |names: &[&str]| Selection::Selected(names.iter().map(|&name| name.to_owned()).collect());
    sim.suspend(INSTALLATION).unwrap();
    sim.unsuspend(INSTALLATION).unwrap();
    sim.select_repositories(INSTALLATION, &some(&["shop", "site", "attic"])).unwrap();
    sim.select_repositories(INSTALLATION, &some(&["shop", "site"])).unwrap();
    sim.select_repositories(INSTALLATION, &Selection::All).unwrap();
    sim.create_repository(&RepositorySeed { owner: "acme".into(), name: "new".into(), ..Default::default() }).unwrap();
    sim.rename_repository("acme/new", "newer").unwrap();
    sim.push(&Push { repository: "acme/newer".into(), path: "a".into(), content: "a".into(), ..Push::default() })
        .unwrap();
    let next =
        Push { repository: "acme/newer".into(), branch: Some("next".into()), path: "a".into(), ..Push::default() };
    sim.push(&next).unwrap();
    sim.set_default_branch("acme/newer", "next").unwrap();
    sim.transfer_repository("acme/newer", "mona").unwrap();
    sim.transfer_repository("mona/newer", "acme").unwrap();
    sim.rename_account("acme", "acme-inc").unwrap();
    sim.rename_account("acme-inc", "acme").unwrap();
    sim.delete_repository("acme/newer").unwrap();
    sim.select_repositories(INSTALLATION, &some(&["shop", "site"])).unwrap();
    sim.grant(INSTALLATION, permissions(&[("administration", Level::Write), ("contents", Level::Read)])).unwrap();
    sim.uninstall(person).unwrap();
    let began = Instant::now();
    let received = loop {
        let received = received(receiver).await;
        let seen: BTreeSet<String> = received.iter().map(name).collect();
        let all = EVENTS.iter().all(|&event| seen.contains(event)) && received.len() >= sim.deliveries().len();
        if all || began.elapsed() > PATIENCE {
            break received;
        }
        tokio::task::yield_now().await;
    };
    for one in &received {
        recorder.report.payload(&name(one), &one.headers, &one.payload());
    }
}

/// All that came, by the events that there are.
async fn received(receiver: &Receiver) -> Vec<Received> {
    let mut all = Vec::new();
    for event in
        ["fork", "installation", "installation_repositories", "installation_target", "ping", "push", "repository"]
    {
        all.extend(receiver.events(event, 0).await);
    }
    assert!(all.len() <= receiver.count(), "an event came that is not in the list");
    all
}

/// An event as the description names it: `installation-new-permissions-accepted`.
fn name(received: &Received) -> String {
    let action = received.payload()["action"].as_str().map(|action| format!("-{action}"));
    format!("{}{}", received.event(), action.unwrap_or_default()).replace('_', "-")
}
