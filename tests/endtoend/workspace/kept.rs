//! Work that cannot be pushed: it is kept, waited for, or given up, as the spec says, and always with a report.

use serde_json::json;

use super::super::world::{Kind, run};

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn what_github_refuses_stays_on_the_volume() {
    run("too-large", async |world| {
        let work = world.work("w", &json!({})).await;
        work.sh("echo large >large").await;
        let refs = world.refs();
        world.refuse("echo 'error: GH001: Large files detected.' >&2; exit 1");
        work.delete_and_wait().await;
        assert_eq!(world.refs(), refs);
        let why = work.assert_kept().await;
        assert!(why.contains("GH001"), "{why}");
        let told = work.event("VolumeKept").await;
        assert!(told.contains("is kept") && told.contains("GH001"), "{told}");
        assert_eq!(std::fs::read_to_string(work.clone().join("large")).unwrap(), "large\n");
        // The claim stays, for people who need the files.
        let claim = world.get(Kind::CLAIM, "ws-w").await.expect("the claim stays");
        assert!(claim["metadata"]["deletionTimestamp"].is_null());
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn blocked_it_waits_for_a_person_who_gives_it_up() {
    run("block", async |world| {
        let work = world.work("w", &json!({"save": {"onFailure": "Block"}})).await;
        work.sh("echo large >large").await;
        world.refuse("echo 'error: GH001: Large files detected.' >&2; exit 1");
        work.delete().await;
        let ready = work.until_condition("Ready", "SaveFailed").await;
        let message = ready["message"].as_str().unwrap();
        assert!(message.contains("GH001") && message.contains("landfall.dev/force-delete="), "{message}");
        assert!(world.get(Kind::CLAIM, "ws-w").await.is_some());
        // The uid of another object has no effect.
        let force = async |uid: &str| {
            world
                .patch(Kind::WORKSPACE, "w", &json!({"metadata": {"annotations": {"landfall.dev/force-delete": uid}}}))
                .await;
        };
        force("another").await;
        work.until_condition("Ready", "SaveFailed").await;
        let uid = work.uid.clone();
        force(&uid).await;
        world.gone("w").await;
        let told = work.event("WorkDiscarded").await;
        assert!(told.contains("landfall.dev/force-delete"), "{told}");
        work.assert_let_go().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn discard_says_what_it_gives_up() {
    run("discard", async |world| {
        let work = world.work("w", &json!({"save": {"onFailure": "Discard"}})).await;
        work.sh("echo large >large").await;
        world.refuse("echo 'error: GH001: Large files detected.' >&2; exit 1");
        work.delete_and_wait().await;
        work.event("WorkDiscarded").await;
        work.assert_let_go().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn without_the_app_it_stays_on_the_volume() {
    run("uninstalled", async |world| {
        let work = world.work("w", &json!({})).await;
        work.scribble().await;
        let refs = world.refs();
        world.sim.uninstall(world.installation).unwrap();
        let now = json!({"metadata": {"annotations": {"landfall.dev/reconcile": "now"}}});
        world.patch(Kind::GITHUB_INSTALLATION, &world.name, &now).await;
        work.delete_and_wait().await;
        assert_eq!(world.refs(), refs);
        work.assert_kept().await;
        work.event("VolumeKept").await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn a_namespace_that_goes_takes_no_work_along() {
    run("namespace", async |world| {
        let saved = world.work("saved", &json!({})).await;
        saved.scribble().await;
        let kept = world.work("kept", &json!({})).await;
        kept.sh("echo large >large").await;
        let branch = kept.branch().replace("refs/heads/landfall/", "");
        world.refuse(&format!(
            "while read old new ref; do case $ref in *{branch}*) echo 'error: GH001: Large files detected.' >&2; exit 1;; esac; done"
        ));
        world.delete(Kind::NAMESPACE, &world.name).await;
        world
            .until("the namespace is gone", async || {
                world.get(Kind::NAMESPACE, &world.name).await.is_none().then_some(())
            })
            .await;
        saved.assert_saved_at(&saved.branch());
        let why = kept.assert_kept().await;
        assert!(why.contains("GH001"), "{why}");
        assert_eq!(std::fs::read_to_string(kept.clone().join("large")).unwrap(), "large\n");
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn a_node_that_does_not_answer_is_not_waited_for_without_end() {
    run("node-gone", async |world| {
        // A node that exists only as an object, and a volume that only this node can mount.
        let node = format!("ghost-{}", world.name);
        let labels = json!({"kubernetes.io/hostname": node, "kubernetes.io/os": "linux"});
        let resources = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
        world
            .apply(&json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels},
                "spec": {"taints": [{"key": "ghost", "effect": "NoSchedule"}]},
            }))
            .await;
        let status = json!({"status": {"capacity": resources, "allocatable": resources}});
        world.patch_status(Kind::NODE, &node, &status).await;
        let expressions = json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]);
        world
            .apply(&json!({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": node},
                "spec": {
                    "capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "standard",
                    "local": {"path": "/run/node/nowhere"},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}},
                },
            }))
            .await;
        let tolerations = json!([{"operator": "Exists"}]);
        let spec = json!({"pod": {"nodeSelector": labels, "tolerations": tolerations}, "save": {"timeout": "10s"}});
        world.make("w", &spec).await;
        world
            .until("the pod is at the node", async || {
                let pod = world.get(Kind::POD, "ws-w").await?;
                (pod["spec"]["nodeName"] == node.as_str()).then_some(())
            })
            .await;
        world.delete(Kind::WORKSPACE, "w").await;
        world.gone("w").await;
        let volume = world.get(Kind::VOLUME, &node).await.unwrap();
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain", "{volume:#}");
        let record = volume["metadata"]["annotations"]["landfall.dev/retained-for"].as_str().expect("a record");
        assert!(record.contains(&format!("node {node} does not answer")), "{record}");
        world.delete(Kind::NODE, &node).await;
    });
}
