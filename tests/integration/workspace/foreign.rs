//! Objects of others with the names or labels of a workspace's objects: they are neither used, nor believed, nor
//! changed.

use super::{OBJECTS, Team, needs, nothing_to_do};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::ResourceExt;
use landfall::api::{InstallationToken, Workspace};
use landfall::guards::Sabotage;
use landfall_world::World;
use serde_json::{Value, json};

const LABELS: [(&str, &str); 2] = [("landfall.dev/workspace", "try"), ("landfall.dev/role", "work")];

fn anybody() -> Sabotage {
    Sabotage { any_owner: true, ..Sabotage::default() }
}

/// An object from before the workspace, with the name and labels of the workspace's own.
fn before(version: &str, kind: &str, spec: &Value) -> Value {
    let labels: std::collections::BTreeMap<_, _> = LABELS.into();
    let metadata = json!({"name": OBJECTS, "namespace": "team-a", "labels": labels});
    json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
}

/// Waits until the workspace `try` either reports that a name is taken, or something happened.
async fn taken_over(team: &Team, happened: impl AsyncFn() -> bool) -> bool {
    let told = async || {
        team.operator.settled().await;
        if happened().await {
            return Some(true);
        }
        (team.reason().await.as_deref() == Some("NameTaken")).then_some(false)
    };
    team.world.until("the name is taken, or what has it", told).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_there_before() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        team.world.apply::<PersistentVolumeClaim>(&before("v1", "PersistentVolumeClaim", &spec)).await;
        team.make("try", &json!({})).await;
        let is_held = async || {
            let claim = team.world.get::<PersistentVolumeClaim>("team-a", OBJECTS).await.expect("the claim");
            claim.finalizers().iter().any(|finalizer| finalizer == "landfall.dev/work")
        };
        let is_taken = taken_over(&team, is_held).await;
        team.end().await;
        is_taken
    };
    needs(anybody(), attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_there_before() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        let spec = json!({
            "installationRef": {"name": "acme"}, "repositories": [{"id": 9002}], "permissions": {"metadata": "read"},
            "secret": {"name": "mine"},
        });
        let mine = before("landfall.dev/v1alpha1", "InstallationToken", &spec);
        let mine = team.world.apply::<InstallationToken>(&mine).await.spec;
        team.make("try", &json!({})).await;
        let is_changed =
            async || team.world.get::<InstallationToken>("team-a", OBJECTS).await.expect("the token").spec != mine;
        let is_taken = taken_over(&team, is_changed).await;
        team.end().await;
        is_taken
    };
    needs(anybody(), attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_there_before() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        let spec = json!({"containers": [{"name": "main", "image": "none.invalid/none"}]});
        let mine = team.world.apply::<Pod>(&before("v1", "Pod", &spec)).await.uid();
        team.make("try", &json!({"operatingMode": "Suspended"})).await;
        let gone = async || team.world.get::<Pod>("team-a", OBJECTS).await.is_none_or(|pod| pod.uid() != mine);
        let decided = async || {
            team.operator.settled().await;
            if gone().await {
                return Some(true);
            }
            (team.reason().await.as_deref() == Some("WorkspaceSuspended")).then_some(false)
        };
        let is_ended = team.world.until("it is suspended, or ended another's pod", decided).await;
        team.end().await;
        is_ended
    };
    needs(anybody(), attack).await;
}

/// The Secret of the token is replaced by one with another token. The operator does not use that for calls to GitHub.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_under_the_name_of_the_tokens() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        team.works(&json!({})).await;
        let strangers = || {
            let asked = team.world.sim.requests();
            asked.iter().filter(|asked| asked.path.contains("shop") && asked.status == Some(401)).count()
        };
        team.world.delete::<Secret>("team-a", OBJECTS).await;
        until_gone_or_other(&team.world, &[("password", "ghs_stolen"), ("username", "x")]).await;
        // A call with the operator's own token may have been under way. That token is revoked because its Secret was
        // deleted.
        team.operator.settled().await;
        let before = strangers();
        // It is asked to look again and again. It either makes no calls, or uses a token of its own.
        let mut is_used = false;
        for look in 0..30 {
            let change = json!({"metadata": {"annotations": {"landfall.dev/reconcile": look.to_string()}}});
            team.world.merge::<Workspace>("team-a", "try", &change).await.expect("annotated");
            team.operator.settled().await;
            is_used |= strangers() > before;
            team.world.advance(SignedDuration::from_secs(10));
        }
        team.end().await;
        is_used
    };
    needs(anybody(), attack).await;
}

/// Replaces the token's Secret with another one. If the operator creates its own again first, that one is replaced.
async fn until_gone_or_other(world: &World, data: &[(&str, &str)]) {
    let object = before("v1", "Secret", &Value::Null);
    let data: std::collections::BTreeMap<_, _> = data.iter().copied().collect();
    let put = async || {
        let mut object = object.clone();
        object.as_object_mut()?.remove("spec");
        object["metadata"]["labels"] = json!({});
        object["stringData"] = json!(data);
        world.try_apply::<Secret>(&object).await.ok()?;
        let there = world.get::<Secret>("team-a", OBJECTS).await?;
        if there.owner_references().is_empty() {
            return Some(());
        }
        world.delete::<Secret>("team-a", OBJECTS).await;
        None
    };
    world.until("another's Secret is there", put).await;
}

/// A pod of another namespace that claims to be the workspace's reports that there was nothing to save.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_pod_in_another_namespace() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        let uid = team.works(&json!({})).await.uid().unwrap();
        let change = json!({"spec": {"operatingMode": "Suspended"}});
        team.world.merge::<Workspace>("team-a", "try", &change).await.unwrap();
        team.world.until_reason::<Workspace>("team-a", "try", "WorkspaceSuspended").await;
        team.pretender("team-b", OBJECTS, "try", &uid).await;
        team.say("team-b", OBJECTS, &nothing_to_do()).await;
        // The operator has seen the end of that pod, because it has seen this workspace's pod, which was written later.
        team.pretender("team-a", "spy", "try", &uid).await;
        team.operator.settled().await;
        let is_lost = team.loses_the_volume().await;
        team.end().await;
        is_lost
    };
    needs(Sabotage { any_namespace: true, ..Sabotage::default() }, attack).await;
}

/// A claim that claims to be the workspace's names the volume of another: that volume is not retained.
#[tokio::test(flavor = "multi_thread")]
async fn the_volume_of_another_claim() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        let claim = |name: &str, namespace: &str, further: &Value| {
            let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}});
            json_patch::merge(&mut spec, further);
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": namespace}, "spec": spec})
        };
        team.world.apply::<PersistentVolumeClaim>(&claim("theirs", "team-b", &json!({}))).await;
        let volume = team.bind("team-b", "theirs").await;
        let spec = json!({"repositoryRef": {"name": "nowhere"}, "paused": true});
        let uid = team.make("try", &spec).await.uid();
        team.world.until_reason::<Workspace>("team-a", "try", "Paused").await;
        let mut object = claim(OBJECTS, "team-a", &json!({"volumeName": volume}));
        object["metadata"]["annotations"] = json!({"landfall.dev/workspace-uid": uid});
        team.world.apply::<PersistentVolumeClaim>(&object).await;
        team.world.delete::<Workspace>("team-a", "try").await;
        let gone = async || {
            team.operator.settled().await;
            team.world.advance(SignedDuration::from_secs(10));
            team.world.get::<Workspace>("team-a", "try").await.is_none().then_some(())
        };
        team.world.until("the workspace is gone", gone).await;
        let theirs = team.world.get::<PersistentVolume>("", &volume).await.unwrap();
        let is_labelled = theirs.labels().contains_key("landfall.dev/retained");
        let is_kept = theirs.spec.unwrap().persistent_volume_reclaim_policy.as_deref() == Some("Retain");
        assert_eq!(is_kept, is_labelled);
        team.end().await;
        is_kept
    };
    needs(Sabotage { any_volume: true, ..Sabotage::default() }, attack).await;
}
