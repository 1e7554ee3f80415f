//! Checks that the node has the properties that the other tests rely on.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use serde_json::{Value, json};

use super::world::{Kind, World, condition, run, run_alone};

/// Has git, a shell and editors. The user is 1000.
pub const WORKSPACE: &str = "localhost/landfall-workspace:dev";
/// Has a shell and its commands, but no git. The user is root.
pub const PLAIN: &str = "localhost/plain:dev";

impl World {
    /// A pod that waits, under the restricted pod security, with volumes mounted below `/mnt`. It runs as user 1000.
    pub async fn pod(&self, name: &str, image: &str, volumes: &[(&str, Value)]) {
        self.pod_as(name, image, 1000, volumes).await;
    }

    /// The same with another user.
    pub async fn pod_as(&self, name: &str, image: &str, user: u32, volumes: &[(&str, Value)]) {
        let mounts: Vec<_> =
            volumes.iter().map(|(name, _)| json!({"name": name, "mountPath": format!("/mnt/{name}")})).collect();
        let volumes: Vec<_> = volumes
            .iter()
            .map(|(name, source)| {
                let mut volume = source.clone();
                volume["name"] = json!(name);
                volume
            })
            .collect();
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": self.name},
            "spec": {
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "main", "image": image, "imagePullPolicy": "Never",
                    "command": ["sh", "-c", "sleep infinity"],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": mounts,
                }],
                "volumes": volumes,
            },
        }))
        .await;
        self.until("the pod is ready", async || self.is_ready(name).await.then_some(())).await;
    }

    /// Whether a pod is ready.
    pub async fn is_ready(&self, pod: &str) -> bool {
        let pod = self.get(Kind::POD, pod).await.unwrap_or_default();
        condition(&pod, "Ready").is_some_and(|ready| ready["status"] == "True")
    }

    /// A claim of one of the node's volumes.
    pub async fn claim(&self, name: &str) {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": self.name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }))
        .await;
    }
}

fn claimed(name: &str) -> Value {
    json!({"persistentVolumeClaim": {"claimName": name}})
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn a_volume_is_empty_and_anybodys_whose_group_it_is_given() {
    run("volumes", async |world| {
        assert!(world.list(Kind::VOLUME).await.len() >= 40);
        world.claim("work").await;
        world.pod_as("plain", PLAIN, 12_345, &[("work", claimed("work"))]).await;
        assert_eq!(world.exec("plain", "ls -A /mnt/work").await, "");
        let said = world.exec("plain", "echo text >/mnt/work/file && id -u && ! command -v git && ! whoami").await;
        assert!(said.starts_with("12345"), "{said}");
        // The tests read the files that the pod wrote.
        let folder = world.volume("work").await;
        let file = folder.join("file");
        let about = file.metadata().unwrap();
        assert_eq!(
            (std::fs::read_to_string(&file).unwrap().as_str(), about.uid(), about.gid()),
            ("text\n", 12_345, 12_345)
        );
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o2070, 0o2070);

        let bound = world.get(Kind::CLAIM, "work").await.unwrap()["spec"]["volumeName"].as_str().unwrap().to_owned();
        let volume = world.get(Kind::VOLUME, &bound).await.unwrap();
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Delete");
        world.delete(Kind::POD, "plain").await;
        world.delete(Kind::CLAIM, "work").await;
        // A used volume is not given to another claim: the next claim gets an empty one.
        world
            .until("the volume is not available again", async || {
                let volume = world.get(Kind::VOLUME, &bound).await?;
                matches!(volume["status"]["phase"].as_str()?, "Failed" | "Released").then_some(())
            })
            .await;
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "text\n");
        world.claim("again").await;
        world.pod("workspace", WORKSPACE, &[("work", claimed("again"))]).await;
        assert_eq!(world.exec("workspace", "ls -A /mnt/work").await, "");
        assert_ne!(world.volume("again").await, folder);
        world.exec("workspace", "echo text >/mnt/work/file && git --version && gh --version").await;
        assert_eq!(world.exec("workspace", "readlink /usr/local/bin/gh").await, "/run/landfall/tools/gh");
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn pods_outlive_containerd_and_the_kubelet_and_new_ones_come_up() {
    run_alone("programs", async |world| {
        world.pod("before", PLAIN, &[]).await;
        let started = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"].clone();
        let before = started(&world.get(Kind::POD, "before").await.unwrap());
        world.exec("before", "echo text >/tmp/file").await;
        for program in ["containerd", "kubelet"] {
            world.cluster.kill(program).unwrap();
            assert!(!world.cluster.status().unwrap().is_up());
            world.cluster.restart(program).unwrap();
            // The new pods show whether it works again; the earlier pod shows whether it was spared.
            world.pod(&format!("after-{program}"), PLAIN, &[]).await;
            world
                .until("a command can be run in the pod that was there", async || {
                    let output = world.try_exec("before", "cat /tmp/file").await;
                    (output.stdout == b"text\n").then_some(())
                })
                .await;
        }
        assert!(world.cluster.status().unwrap().is_up());
        assert_eq!(started(&world.get(Kind::POD, "before").await.unwrap()), before);
        assert!(world.cluster.restart("no-such-program").is_err());
    });
}
