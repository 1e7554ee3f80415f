//! Workspaces: created, suspended and resumed, deleted with work in them. There is one pull request, and the work is on
//! GitHub before the volume is deleted.

use super::{MINTED, Told, tenants};
use crate::judge::Counts;
use crate::point::{Fault, Point};
use crate::run::Run;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};
use landfall::api::{InstallationToken, OperatingMode, ProjectRepository, PullRequestState, Workspace};
use landfall_world::objects;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::path::Path;
use std::process::Command;

const LIVE: &str = "live tokens of workspaces";
const KEPT: &str = "volumes kept";
/// The act in which its token is minted.
const CREATED: &str = "a workspace is created";
const BRANCH: &str = "landfall/work";
/// An uncommitted file.
const UNCOMMITTED: (&str, &str) = ("notes/later.txt", "not yet pushed\n");
/// A file that belongs into Git LFS.
const LARGE: (&str, &str) = ("large.bin", "many bytes that are nowhere else");
/// A file that was committed and not pushed.
const COMMITTED: (&str, &str) = ("done.txt", "committed, and not yet pushed\n");

/// The points of a workspace, and those of the end of its token, which is a part of the workspace's end. Other
/// scenarios cover the rest of its token and its repository. Of the intermediate reports only the first of each kind
/// counts. Whether the deletion of the token is reported at all depends on timing.
pub fn records(point: &Point) -> bool {
    const OURS: [&str; 10] = [
        " pods ",
        " jobs ",
        "POST persistentvolumeclaims ",
        "DELETE persistentvolumeclaims ",
        "POST installationtokens ",
        "DELETE installationtokens ",
        "/pulls",
        "/graphql",
        "/repositories/{id}",
        "/shop.git/",
    ];
    const ENDS: [&str; 2] = ["DELETE /installation/token", "DELETE secrets team-a/ws-work"];
    // Others may be faster to change a claim, a token, or the status of a workspace. Then the write is tried again.
    const TOLD: [&str; 6] = [
        "PATCH workspaces team-a/",
        "PATCH workspaces/status ",
        "POST events team-a/Workspace ",
        "PATCH persistentvolumeclaims ",
        "PATCH installationtokens team-a/ws-work held by landfall.dev/revoke",
        "PATCH installationtokens team-a/ws-work let go",
    ];
    let is_any = |of: &[&str]| of.iter().any(|part| point.kind.contains(part));
    is_any(&OURS)
        || is_any(&ENDS)
        || (is_any(&TOLD) && point.ordinal == 1 && !point.kind.ends_with(" WaitingForDependents"))
}

/// Each refusal at some of the points, in turn: refusals only cost time, and a controller treats all of them alike.
pub fn faults(index: usize, fault: Fault) -> bool {
    const REFUSALS: [Fault; 4] = [Fault::Cut, Fault::Conflict, Fault::TooMany, Fault::Unavailable];
    let turn = REFUSALS.iter().position(|refusal| *refusal == fault);
    turn.is_none_or(|turn| turn == index % REFUSALS.len())
}

/// An operator that is killed loses its tokens for reading, and the workspace's token if that was minted and not
/// published yet.
pub fn allowance(points: &[(Point, &'static str)], index: usize, fault: Fault) -> Counts {
    let (_, act) = &points[index];
    // The volume's claim is created after the token can be used.
    let is_published = points[..index].iter().any(|(point, _)| point.kind.starts_with("POST persistentvolumeclaims"));
    let is_lost = fault.kills() && *act == CREATED && !is_published;
    [(MINTED, if fault.kills() { 3 } else { 0 }), (LIVE, usize::from(is_lost))].into()
}

pub async fn create(run: &Run) -> Told {
    begin(run).await?;
    run.act(CREATED);
    make(run).await?;
    run.between.act(None);
    told(run).await
}

pub async fn suspend(run: &Run) -> Told {
    begin(run).await?;
    make(run).await?;
    work(run).await;

    run.act("it is suspended");
    operate(run, "Suspended").await;
    run.reach("it is suspended, and there is an autosave", async || {
        let Some(workspace) = run.world.get::<Workspace>("team-a", "work").await else { return false };
        run.has_ready::<Workspace>("team-a", "work", ("False", "WorkspaceSuspended")).await
            && workspace.status.and_then(|status| status.save).is_some_and(|save| save.reference.contains("/wip/"))
    })
    .await?;
    let mut suspended = state(run).await;
    // Only an operator that saw the pod end knows its last message. The observed generation of unchanged conditions
    // depends on when they were seen.
    if let Some(conditions) = suspended.pointer_mut("/workspaces/0/status/conditions").and_then(Value::as_array_mut) {
        conditions.retain(|condition| condition["type"] != "WorkSafe");
        let of_pod =
            |condition: &&mut Value| ["CloneReady", "PullRequestReady"].iter().any(|it| condition["type"] == *it);
        conditions.iter_mut().filter(of_pod).for_each(|condition| condition["observedGeneration"] = Value::Null);
    }

    run.act("it is resumed");
    operate(run, "Running").await;
    runs(run).await?;
    run.between.act(None);
    let on_volume = std::fs::read_to_string(clone(run).await.join(UNCOMMITTED.0)).unwrap_or_default();
    let (counts, mut end) = told(run).await?;
    end["while it is suspended"] = suspended;
    end["on the volume"] = json!(on_volume);
    Ok((counts, end))
}

pub async fn delete(run: &Run) -> Told {
    begin(run).await?;
    make(run).await?;
    work(run).await;

    run.act("it is deleted");
    run.world.delete::<Workspace>("team-a", "work").await;
    run.reach("it is gone, with all that was its", async || {
        run.world.get::<Workspace>("team-a", "work").await.is_none()
            && run.world.get::<InstallationToken>("team-a", "ws-work").await.is_none()
    })
    .await?;
    run.between.act(None);
    told(run).await
}

/// The points at which a volume is kept.
pub fn records_keeping(point: &Point) -> bool {
    point.kind.contains(" persistentvolume") || (point.kind.starts_with("POST jobs ") && point.ordinal == 1)
}

pub async fn delete_large(run: &Run) -> Told {
    begin(run).await?;
    make(run).await?;
    let clone = clone(run).await;
    for (name, content) in [(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n"), LARGE] {
        std::fs::write(clone.join(name), content).expect("written");
    }

    run.act("it is deleted with a large file");
    run.world.delete::<Workspace>("team-a", "work").await;
    run.reach("it is gone", async || run.world.get::<Workspace>("team-a", "work").await.is_none()).await?;
    run.between.act(None);
    let (counts, mut end) = told(run).await?;
    end["volumes kept"] = json!(counts[KEPT]);
    Ok((counts, end))
}

/// A repository for the workspace, and a node.
pub async fn begin(run: &Run) -> Result<(), String> {
    run.begin().await;
    let grant = json!({"contents": "write", "metadata": "read", "pull_requests": "write"});
    run.connect(&objects::app(&run.world, &tenants(&grant))).await?;
    run.call(run.world.sim.head("acme/shop", "main").expect("a head"), "the first commit");
    let spec = json!({"webhook": {"mode": "None"}, "pollInterval": "24h"});
    run.world.apply::<ProjectRepository>(&objects::repository("shop", &spec)).await;
    let is_ready = async || run.is_ready::<ProjectRepository>("team-a", "shop", "Observed").await;
    run.reach("the repository is known", is_ready).await?;
    run.add_node().await;
    Ok(())
}

pub async fn make(run: &Run) -> Result<(), String> {
    let workspace = json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace", "metadata": {"name": "work", "namespace": "team-a"},
        "spec": {
            "repositoryRef": {"name": "shop"}, "branch": {"name": BRANCH},
            "pullRequest": {"openOn": "Create", "onDelete": "MarkReady"},
        },
    });
    let workspace: Workspace = run.world.apply(&workspace).await;
    run.call(workspace.uid().expect("a uid"), "the workspace's uid");
    runs(run).await?;
    run.call(run.world.sim.head("acme/shop", BRANCH).expect("a head"), "the branch's first commit");
    Ok(())
}

async fn operate(run: &Run, mode: &str) {
    run.world.merge::<Workspace>("team-a", "work", &json!({"spec": {"operatingMode": mode}})).await.expect("changed");
}

/// Waits until the workspace is ready, and has its pull request.
async fn runs(run: &Run) -> Result<(), String> {
    run.reach("it runs, and has a pull request", async || {
        let Some(workspace) = run.world.get::<Workspace>("team-a", "work").await else { return false };
        workspace.spec.operating_mode == OperatingMode::Running
            && run.is_ready::<Workspace>("team-a", "work", "Running").await
            && workspace
                .status
                .and_then(|status| status.pull_request)
                .is_some_and(|pull| pull.state == PullRequestState::Open)
    })
    .await
}

/// The clone, on the workspace's volume.
async fn clone(run: &Run) -> std::path::PathBuf {
    run.node().directory("ws-work").await.expect("a volume").join("shop")
}

/// Works like a person: makes a commit, and an uncommitted change.
pub async fn work(run: &Run) {
    let clone = clone(run).await;
    std::fs::write(clone.join(COMMITTED.0), COMMITTED.1).expect("written");
    git(&clone, &["add", COMMITTED.0]);
    git(&clone, &["-c", "user.name=Mona", "-c", "user.email=mona@example.com", "commit", "--quiet", "-m", "Work"]);
    run.call(git(&clone, &["rev-parse", "HEAD"]).trim(), "the person's commit");
    let file = clone.join(UNCOMMITTED.0);
    std::fs::create_dir_all(file.parent().expect("a directory")).expect("made");
    std::fs::write(file, UNCOMMITTED.1).expect("written");
}

/// The output of git, run like a person in the workspace.
fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(arguments).env_clear().env("HOME", directory);
    command.env("PATH", std::env::var_os("PATH").expect("a path")).env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.output().expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// All lasting state, and the work on GitHub.
async fn told(run: &Run) -> Told {
    let mut end = state(run).await;
    let is_kept = |volume: &Value| volume["labels"]["landfall.dev/retained"] == "true";
    let kept = end["volumes"].as_array_mut().map_or(0, |volumes| volumes.extract_if(.., |it| is_kept(it)).count());
    let opened = run.done("POST", "/repos/{owner}/{repo}/pulls");
    let alive = run.world.sim.live_tokens();
    let alive = alive.iter().filter(|token| token.permissions.contains_key("pull_requests")).count();
    let counts = [("pull requests", opened), (MINTED, run.world.mints()), (LIVE, alive), (KEPT, kept)].into();
    Ok((counts, end))
}

pub async fn state(run: &Run) -> Value {
    if let Some(head) = run.world.sim.head("acme/shop", BRANCH) {
        run.call(head, "the branch's newest commit");
    }
    let bare = run.world.bare("acme/shop");
    let of_workspaces = git(&bare, &["for-each-ref", "--format=%(refname) %(objectname)", "refs/landfall"]);
    for line in of_workspaces.lines() {
        if let Some((_, autosave)) = line.split_once(' ') {
            run.call(autosave, "the autosave");
        }
    }
    let mut end = run.state().await;
    for (name, mut all) in [
        ("workspaces", all::<Workspace>(run).await),
        ("pods", all::<Pod>(run).await),
        ("jobs", all::<Job>(run).await),
        ("claims", all::<PersistentVolumeClaim>(run).await),
        ("volumes", all::<PersistentVolume>(run).await),
    ] {
        all.iter_mut().for_each(lasting);
        end[name] = run.masked(all);
    }
    let mut work = Vec::new();
    for reference in git(&bare, &["for-each-ref", "--format=%(refname)"]).lines() {
        let commits = git(&bare, &["log", "--format=%an: %s", reference]);
        let mut files = Vec::new();
        for file in git(&bare, &["ls-tree", "-r", "--name-only", reference]).lines() {
            files.push((file.to_owned(), git(&bare, &["show", &format!("{reference}:{file}")])));
        }
        work.push(json!({"ref": reference, "commits": commits.lines().collect::<Vec<_>>(), "files": files}));
    }
    end["at GitHub"] = run.masked(work);
    end["marked as ready"] = json!(run.done("POST", "/graphql") > 0);
    end
}

async fn all<K>(run: &Run) -> Vec<Value>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    let found = Api::<K>::all(run.world.admin.clone()).list(&ListParams::default()).await.expect("objects");
    found.iter().map(|object| serde_json::to_value(object).expect("json")).collect()
}

/// Removes the fields that depend on the way and the time.
fn lasting(object: &mut Value) {
    if let Some(conditions) = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
        // The conditions are a map: their order depends on which was there first.
        conditions.sort_by_key(|condition| condition["type"].to_string());
    }
    let spec = object["spec"].take();
    if object["kind"] == "Workspace" {
        object["spec"] = spec;
        for times in ["/status/timings", "/status/save/time"] {
            if let Some(times) = object.pointer_mut(times) {
                *times = Value::Null;
            }
        }
        return;
    }
    let (mut metadata, phase) = (object["metadata"].take(), object["status"]["phase"].take());
    if object["kind"] == "PersistentVolume" {
        // Its name contains the uid of its claim.
        metadata["name"] = Value::Null;
    }
    *object = json!({
        "name": metadata["name"], "finalizers": metadata["finalizers"], "labels": metadata["labels"],
        "going": metadata["deletionTimestamp"].is_string(), "phase": phase,
    });
}
