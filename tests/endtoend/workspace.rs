//! Workspaces: pods whose work is pushed before they are deleted.
//!
//! The tests read a workspace's work from its volume's folder, which nothing wipes, and the remote from the simulator's
//! repository on disk. `compare` decides whether they are the same.

mod ending;
mod kept;
mod life;
mod many;
mod saved;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::comparing::differences;
use super::world::{Kind, World, condition};

/// A workspace of a test.
pub struct Work {
    world: &'static World,
    name: String,
    uid: String,
    /// Its volume, on this machine.
    volume: PathBuf,
}

impl World {
    /// The `ProjectRepository`.
    pub async fn project(&self) {
        self.apply(&json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "ProjectRepository",
            "metadata": {"name": "shop", "namespace": self.name},
            "spec": {"installationRef": {"name": self.name}, "source": {"existing": {"name": "shop"}}},
        }))
        .await;
    }

    /// Makes a workspace without a pull request and without autosaves, unless the spec says otherwise.
    pub async fn make(&self, name: &str, spec: &Value) {
        self.project().await;
        let mut whole = json!({
            "repositoryRef": {"name": "shop"}, "pullRequest": {"mode": "None"},
            "save": {"interval": "0s", "timeout": "30s"},
        });
        for (field, value) in spec.as_object().into_iter().flatten() {
            match (&mut whole[field], value) {
                (Value::Object(there), Value::Object(more)) => there.extend(more.clone()),
                (there, value) => *there = value.clone(),
            }
        }
        self.apply(&json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace",
            "metadata": {"name": name, "namespace": self.name}, "spec": whole,
        }))
        .await;
    }

    /// Makes a workspace, and waits until it is ready.
    pub async fn work(&'static self, name: &str, spec: &Value) -> Work {
        self.make(name, spec).await;
        self.running(name).await;
        let object = self.get(Kind::WORKSPACE, name).await.expect("it is there");
        let uid = object["metadata"]["uid"].as_str().unwrap().to_owned();
        Work { world: self, name: name.to_owned(), uid, volume: self.volume(&format!("ws-{name}")).await }
    }

    /// Waits until a workspace is ready.
    pub async fn running(&self, name: &str) {
        self.until(&format!("workspace {name} is Ready"), async || {
            let object = self.get(Kind::WORKSPACE, name).await?;
            let ready = condition(&object, "Ready")?;
            (ready["status"] == "True"
                && ready["reason"] != "WorkspaceSuspended"
                && self.is_ready(&format!("ws-{name}")).await)
                .then_some(())
        })
        .await;
    }

    /// Waits until a workspace is gone.
    pub async fn gone(&self, name: &str) {
        self.until(&format!("workspace {name} is gone"), async || {
            self.get(Kind::WORKSPACE, name).await.is_none().then_some(())
        })
        .await;
    }
}

impl Work {
    pub fn pod(&self) -> String {
        format!("ws-{}", self.name)
    }

    /// Runs a script in its clone, which must succeed.
    pub async fn sh(&self, script: &str) -> String {
        self.world.exec(&self.pod(), script).await
    }

    /// Creates work of each kind, all uncommitted except for the first file.
    pub async fn scribble(&self) {
        let script = "echo committed >committed && git add committed && git commit -qm committed && \
            echo staged >staged && git add staged && echo changed >>README.md && mkdir -p a/b && echo new >a/b/new && \
            printf '#!/bin/sh\\n' >a/run && chmod 755 a/run && ln -s ../outside a/link && printf 'a\\r\\n' >\"with
newline\" && printf '*.log\\n' >.gitignore && echo ignored >ignored.log";
        self.sh(script).await;
    }

    /// Its branch's full name.
    pub fn branch(&self) -> String {
        format!("refs/heads/landfall/{}-{}", self.name, &self.uid[..5])
    }

    /// The prefix of refs for work that does not go to its branch.
    pub fn beside(&self) -> String {
        format!("refs/heads/landfall-wip/{}-{}/", self.name, &self.uid[..5])
    }

    /// The remote's refs beside the branch: names without the prefix, and commits.
    pub fn found_beside(&self) -> BTreeMap<String, String> {
        let prefix = self.beside();
        let behind = |(name, sha): (String, String)| Some((name.strip_prefix(&prefix)?.to_owned(), sha));
        self.world.refs().into_iter().filter_map(behind).collect()
    }

    /// The clone on the volume.
    pub fn clone(&self) -> PathBuf {
        self.volume.join("shop")
    }

    /// Panics unless a commit on the remote equals the volume.
    pub fn assert_saved_at(&self, reference: &str) {
        let refs = self.world.refs();
        let commit = refs.get(reference).unwrap_or_else(|| panic!("the remote has no {reference}: {refs:#?}"));
        let found = differences(&self.clone(), &self.world.bare(), commit);
        assert_eq!(found, Ok(()), "{reference} and the volume of {}: {refs:#?}", self.name);
    }

    /// Deletes it, without waiting.
    pub async fn delete(&self) {
        self.world.delete(Kind::WORKSPACE, &self.name).await;
    }

    /// Deletes it and waits until it is gone.
    pub async fn delete_and_wait(&self) {
        self.delete().await;
        self.world.gone(&self.name).await;
    }

    /// Suspends it or lets it run.
    pub async fn mode(&self, mode: &str) {
        self.world.patch(Kind::WORKSPACE, &self.name, &json!({"spec": {"operatingMode": mode}})).await;
    }

    /// Waits until its pod is gone.
    pub async fn pod_is_gone(&self) {
        let pod = self.pod();
        self.world
            .until("the pod is gone", async || self.world.get(Kind::POD, &pod).await.is_none().then_some(()))
            .await;
    }

    /// The current object.
    pub async fn object(&self) -> Value {
        self.world.get(Kind::WORKSPACE, &self.name).await.expect("the workspace is there")
    }

    /// Waits for a condition of its status to have a reason.
    pub async fn until_condition(&self, kind: &str, reason: &str) -> Value {
        self.world
            .until(&format!("{kind} of workspace {} because of {reason}", self.name), async || {
                let object = self.object().await;
                condition(&object, kind).filter(|found| found["reason"] == reason).cloned()
            })
            .await
    }

    /// Waits for an event about it, in its namespace, and returns the message.
    pub async fn event(&self, reason: &str) -> String {
        self.world
            .until(&format!("an event {reason} about workspace {}", self.name), async || {
                let events = self.world.list(Kind::EVENT).await;
                let about = |event: &&Value| event["regarding"]["name"] == self.name && event["reason"] == reason;
                Some(events.iter().find(about)?["note"].as_str()?.to_owned())
            })
            .await
    }

    pub async fn persistent_volume(&self) -> Value {
        let name = self.volume.file_name().unwrap().to_str().unwrap();
        self.world.get(Kind::VOLUME, name).await.expect("the volume is there")
    }

    /// Panics unless the volume is kept, with a record of its workspace. Returns the reason.
    pub async fn assert_kept(&self) -> String {
        let volume = self.persistent_volume().await;
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain", "{volume:#}");
        assert_eq!(volume["metadata"]["labels"]["landfall.dev/retained"], "true");
        let record = volume["metadata"]["annotations"]["landfall.dev/retained-for"].as_str().expect("a record");
        let record: Value = serde_json::from_str(record).unwrap();
        assert_eq!((&record["workspace"], &record["uid"]), (&json!(self.name), &json!(self.uid)));
        record["why"].as_str().unwrap().to_owned()
    }

    /// Panics unless the volume was released.
    pub async fn assert_let_go(&self) {
        let volume = self.persistent_volume().await;
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Delete", "{volume:#}");
        let claim = self.world.get(Kind::CLAIM, &self.pod()).await;
        let is_gone = claim.is_none_or(|claim| claim["metadata"]["deletionTimestamp"].is_string());
        assert!(is_gone, "the claim stays");
    }

    /// Makes GitHub hold pushes until they are released. Returns a handle that shows whether one waits.
    pub fn hold_pushes(&self) -> Held {
        let bare = self.world.bare();
        std::fs::write(bare.join("held"), "").unwrap();
        self.world.refuse("touch waits; while [ -e held ]; do sleep 0.1; done");
        Held { bare }
    }

    /// Kills a container of its pod from outside, like the kernel when memory runs out.
    pub async fn kill(&self, container: &str) {
        let pod = self.world.get(Kind::POD, &self.pod()).await.expect("the pod is there");
        let statuses =
            ["initContainerStatuses", "containerStatuses"].map(|field| pod["status"][field].as_array().cloned());
        let found = statuses.into_iter().flatten().flatten().find(|status| status["name"] == container);
        let id =
            found.and_then(|status| Some(status["containerID"].as_str()?.strip_prefix("containerd://")?.to_owned()));
        self.world.kill_container(&id.expect("the container ran")).await;
    }
}

/// Pushes that wait.
pub struct Held {
    bare: PathBuf,
}

impl Held {
    /// Waits until somebody pushes.
    pub async fn until_one_waits(&self, world: &World) {
        world.until("somebody pushes", async || self.bare.join("waits").exists().then_some(())).await;
    }

    /// Releases the waiting pushes, and later ones.
    pub fn release(&self) {
        // Removed first, because an existing hook must be complete.
        let _ = std::fs::remove_file(self.bare.join("refuse"));
        let _ = std::fs::remove_file(self.bare.join("held"));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}
