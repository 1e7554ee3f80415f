//! The configuration files of a node's programs, and the initial objects of a new cluster.
//!
//! Paths are those within the node's namespaces.

use std::path::Path;

use serde_json::{Value, json};

use crate::namespaces::{INSIDE, NODE_ADDRESS};

/// The image of a pod's first container.
pub(crate) const PAUSE: &str = "localhost/pause:landfall";
/// The addresses of pods.
const POD_RANGE: &str = "10.88.0.0/16";
/// The user with which coredns reads Services.
pub(crate) const DNS_USER: &str = "landfall-cluster-dns";
/// The number of volumes for claims, and the size that each declares. They are enough for two runs of all tests,
/// because a released volume is neither bound again nor wiped.
const VOLUMES: u8 = 128;
const VOLUME_SIZE: &str = "20Gi";

pub(crate) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// The configuration of containerd, in version 3 of its format.
pub(crate) fn containerd(shim: &Path, runc: &Path, plugins: &[&str]) -> String {
    // Images are in memory, in the node's own /run. On a disk, thousands of files would be written and removed again
    // for each cluster, which took up to 20 s beside a busy compiler.
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE, as in a container, runc could not lower the score and would
    // fail.
    format!(
        r#"version = 3
root = "/run/images"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = {plugins:?}
conf_dir = "{INSIDE}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
runtime_path = "{shim}"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"#,
        shim = shim.display(),
        runc = runc.display(),
    )
}

/// The pods' network: a bridge, addresses, host ports.
pub(crate) fn network() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "landfall",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "lf0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni-addresses",
                    "ranges": [[{"subnet": POD_RANGE}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// The control group that contains those of the node's containers.
pub(crate) fn control_group(name: &str) -> String {
    format!("landfall-{name}")
}

pub(crate) fn kubelet(name: &str, authority: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": authority}},
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        // The machine manages its own control groups. The node limits only its containers, also under version 1.
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", control_group(name)),
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        // The disk is the machine's. A full disk must not evict the pods of a test, nor remove images that were
        // imported from files.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "makeIPTablesUtilChains": false,
        "serializeImagePulls": false,
        // How soon a changed Secret appears in the pods that mount it. The default is a minute.
        "syncFrequency": "5s",
    })
}

pub(crate) fn kube_proxy(name: &str, kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": name,
        "mode": "nftables",
        // The connection table belongs to the machine, so the node must not set its size.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
    })
}

pub(crate) fn coredns(kubeconfig: &Path, context: &str) -> String {
    format!(
        "cluster.local:53 in-addr.arpa:53 {{\n  bind {NODE_ADDRESS}\n  errors\n  cache 5\n  kubernetes {{\n    kubeconfig {} {context}\n  }}\n}}\n",
        kubeconfig.display()
    )
}

/// The initial objects of a new cluster, each with its collection: volumes for claims, and the permissions of DNS.
pub(crate) fn objects(name: &str) -> Vec<(&'static str, Value)> {
    let mut objects = vec![
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            json!({
                "metadata": {"name": DNS_USER},
                "rules": [
                    {"apiGroups": [""], "resources": ["services", "namespaces", "pods"], "verbs": ["list", "watch"]},
                    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
                ],
            }),
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            json!({
                "metadata": {"name": DNS_USER},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": DNS_USER},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": DNS_USER}],
            }),
        ),
        (
            "/apis/storage.k8s.io/v1/storageclasses",
            json!({
                "metadata": {
                    "name": "standard",
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            }),
        ),
    ];
    objects.extend(volumes().map(|volume| {
        let affinity = json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}]);
        let object = json!({
            "metadata": {"name": volume},
            "spec": {
                "capacity": {"storage": VOLUME_SIZE},
                "accessModes": ["ReadWriteOnce"],
                // Like the storage classes of clouds. Nothing deletes a folder of this machine, so the volume becomes
                // Failed.
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": "standard",
                "local": {"path": format!("{INSIDE}/volumes/{volume}")},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": affinity}]}},
            },
        });
        ("/api/v1/persistentvolumes", object)
    }));
    objects
}

/// The names of the volumes, which are also those of their folders.
pub(crate) fn volumes() -> impl Iterator<Item = String> {
    (0..VOLUMES).map(|number| format!("local-{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_class_has_volumes_for_the_node() {
        let objects = objects("demo");
        let of = |collection: &str| {
            objects.iter().filter(|(other, _)| *other == collection).map(|(_, object)| object).collect::<Vec<_>>()
        };
        assert_eq!(of("/apis/storage.k8s.io/v1/storageclasses").len(), 1);
        let volumes = of("/api/v1/persistentvolumes");
        assert_eq!(volumes.len(), usize::from(VOLUMES));
        let terms = &volumes[0]["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchExpressions"][0]["values"], json!(["demo"]));
    }
}
