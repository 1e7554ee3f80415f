//! Pods that end abnormally: their work is on the volume or on the remote.

use github_sim::{Fault, FaultKind};
use serde_json::{Value, json};

use super::super::world::{Kind, World, run, run_alone};
use super::Work;

/// Waits for another pod with the same volume and all its files.
async fn another_pod(work: &Work, before: &Value) {
    let pod = work.pod();
    work.world
        .until("another pod has come", async || {
            let found = work.world.get(Kind::POD, &pod).await?;
            (found["metadata"]["uid"] != before["metadata"]["uid"]).then_some(())
        })
        .await;
    work.world.running(&work.name).await;
    assert_eq!(work.sh("cat a/b/new").await, "new");
    assert_eq!(work.world.volume(&pod).await, work.volume);
}

/// Something happens while the pod pushes its save, and all the work still gets to the remote.
async fn struck_while_it_saves(world: &'static World, strike: impl AsyncFnOnce(&Work)) {
    let work = world.work("w", &json!({})).await;
    work.scribble().await;
    let held = work.hold_pushes();
    work.delete().await;
    held.until_one_waits(world).await;
    strike(&work).await;
    held.release();
    world.gone("w").await;
    work.assert_saved_at(&work.branch());
    work.assert_let_go().await;
}

async fn pod(work: &Work) -> Value {
    work.world.get(Kind::POD, &work.pod()).await.expect("the pod is there")
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn a_pod_that_somebody_deletes_or_evicts_comes_again_with_its_work() {
    run("evicted", async |world| {
        let work = world.work("w", &json!({})).await;
        work.scribble().await;
        let head = work.sh("git rev-parse HEAD && git status --porcelain").await;

        let before = pod(&work).await;
        world.delete(Kind::POD, "ws-w").await;
        another_pod(&work, &before).await;
        // A save at the end of a pod that is replaced does not change the clone.
        assert_eq!(work.sh("git rev-parse HEAD && git status --porcelain").await, head);

        let before = pod(&work).await;
        world.evict("ws-w").await;
        another_pod(&work, &before).await;

        // Like an eviction by the kubelet when memory or disk runs out: the pod has failed, and stays until somebody
        // deletes it.
        let before = pod(&work).await;
        world.patch(Kind::POD, "ws-w", &json!({"spec": {"activeDeadlineSeconds": 1}})).await;
        another_pod(&work, &before).await;

        // The pod is not asked to end, so nothing is saved.
        let before = pod(&work).await;
        world.delete_at_once(Kind::POD, "ws-w").await;
        another_pod(&work, &before).await;
        assert_eq!(work.sh("git rev-parse HEAD && git status --porcelain").await, head);

        work.delete_and_wait().await;
        work.assert_saved_at(&work.branch());
        work.assert_let_go().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn what_is_killed_while_it_works_starts_again_where_it_was() {
    run("killed", async |world| {
        let work = world.work("w", &json!({"pod": {"resources": {"limits": {"memory": "64Mi"}}}})).await;
        work.scribble().await;
        // More memory than the limit: the kernel kills the process, or everything in the container.
        let greedy = world.try_exec(&work.pod(), "tail /dev/zero").await;
        assert!(!greedy.status.success());
        world.running("w").await;
        let uid = pod(&work).await["metadata"]["uid"].clone();
        for container in ["main", "agent"] {
            work.kill(container).await;
            world
                .until("it has started again", async || {
                    let pod = pod(&work).await;
                    let fields = ["initContainerStatuses", "containerStatuses"];
                    let statuses = fields.into_iter().filter_map(|field| pod["status"][field].as_array()).flatten();
                    let mut of = statuses.filter(|status| status["name"] == container);
                    of.any(|status| status["restartCount"].as_u64() > Some(0) && status["ready"] == true).then_some(())
                })
                .await;
        }
        world.running("w").await;
        assert_eq!(pod(&work).await["metadata"]["uid"], uid);
        assert_eq!(work.sh("cat a/b/new").await, "new");
        work.delete_and_wait().await;
        work.assert_saved_at(&work.branch());
        work.assert_let_go().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn a_save_that_is_killed_is_made_by_a_job() {
    run("oom", async |world| {
        struck_while_it_saves(world, async |work| work.kill("agent").await).await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn a_github_that_was_away_is_asked_again() {
    run("away", async |world| {
        let work = world.work("w", &json!({})).await;
        work.scribble().await;
        let path = format!("/{}.git/*", world.shop());
        let unavailable = FaultKind::Status { status: 503, body: None, headers: std::collections::BTreeMap::new() };
        world.sim.inject(Fault { method: None, path: Some(path), nth: 1, times: 4, kind: unavailable });
        work.delete_and_wait().await;
        work.assert_saved_at(&work.branch());
        work.assert_let_go().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn a_save_outlives_the_kubelet_and_containerd() {
    run_alone("programs-killed", async |world| {
        struck_while_it_saves(world, async |_| {
            for program in ["kubelet", "containerd"] {
                world.cluster.kill(program).unwrap();
            }
            for program in ["containerd", "kubelet"] {
                world.cluster.restart(program).unwrap();
            }
        })
        .await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn a_claim_that_somebody_deletes_takes_no_work_along() {
    run("claim", async |world| {
        let work = world.work("w", &json!({})).await;
        work.scribble().await;
        let claim = world.get(Kind::CLAIM, "ws-w").await.unwrap();
        world.delete(Kind::CLAIM, "ws-w").await;
        world
            .until("there is another claim", async || {
                let found = world.get(Kind::CLAIM, "ws-w").await?;
                (found["metadata"]["uid"] != claim["metadata"]["uid"]).then_some(())
            })
            .await;
        // The remote has the work, on the branch or beside it, or the volume was kept and an event says so.
        let autosave = format!("refs/landfall/wip/{}", work.uid);
        if world.refs().contains_key(&work.branch()) {
            work.assert_saved_at(&work.branch());
        } else {
            work.assert_kept().await;
            work.event("VolumeKept").await;
            work.assert_saved_at(&autosave);
        }
        world.running("w").await;
        assert_ne!(world.volume("ws-w").await, work.volume);
        work.delete_and_wait().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn an_image_that_is_gone_keeps_no_work_from_being_saved() {
    run("image", async |world| {
        let work = world.work("w", &json!({})).await;
        work.scribble().await;
        work.mode("Suspended").await;
        work.pod_is_gone().await;
        let gone = "localhost/gone:dev";
        world.patch(Kind::WORKSPACE, "w", &json!({"spec": {"image": gone, "operatingMode": "Running"}})).await;
        let ready = work.until_condition("Ready", "PodFailed").await;
        assert!(ready["message"].as_str().unwrap().contains(gone), "{ready}");
        work.delete_and_wait().await;
        work.assert_saved_at(&work.branch());
        work.assert_let_go().await;
    });
}
