//! A complete cluster on one node: the control plane, containerd, kubelet, kube-proxy and DNS, in separate namespaces.
//!
//! The node has the same addresses in every cluster. Only the cable to the machine differs, so clusters cannot reach
//! each other.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::Api;
use crate::cache::Cache;
use crate::command::{CommandError, run};
use crate::control_plane::{self, ControlPlane, Serving, StartError, component_kubeconfig, create_folder, write};
use crate::image::{self, ImageError};
use crate::namespaces::{self, FIRST, INSIDE, NODE_ADDRESS, NamespaceError};
use crate::node_config::{self, CONTAINERD_SOCKET, DNS_USER, PAUSE, control_group};
use crate::process::{Launcher, Process, Tie};
use crate::programs::{ProgramError, Programs};
use crate::tools::{self, MissingTools};

/// The reason why a node failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The user is not permitted to make namespaces.
    #[error("a node takes root, for namespaces and mounts: run it with sudo, or take --api-only")]
    NotRoot,
    /// The machine lacks tools.
    #[error(transparent)]
    Tools(#[from] MissingTools),
    /// Its programs cannot be found or built.
    #[error(transparent)]
    Programs(#[from] ProgramError),
    /// Its namespaces cannot be made.
    #[error(transparent)]
    Namespaces(#[from] NamespaceError),
    /// Its programs did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The pause image cannot be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The file of an image cannot be opened.
    #[error("the image {} could not be opened", path.display())]
    ImageFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A control group cannot be made or removed.
    #[error("the control group {} could not be made or removed", path.display())]
    ControlGroup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Starts a node in `folder`, where `bin` will contain its programs, and returns when it is ready for pods.
pub(crate) async fn start(cache: &Cache, name: &str, folder: &Path) -> Result<(), NodeError> {
    if !rustix::process::geteuid().is_root() {
        return Err(NodeError::NotRoot);
    }
    tools::require(&tools::API)?;
    tools::require(&tools::NODE)?;
    let programs = Programs::node(cache)?;
    let bin = folder.join("bin");
    programs.link_into(&bin).map_err(|source| StartError::File { path: bin, source })?;
    for part in ["pids", "logs", "node/log", "node/cni"] {
        create_folder(&folder.join(part))?;
    }
    for volume in node_config::volumes() {
        create_folder(&self::volume(folder, &volume))?;
    }
    write_configuration(folder, name, &programs)?;
    make_control_groups(name)?;
    let pause = folder.join("node/pause.tar");
    image::write_pause(PAUSE, &folder.join("node"), &pause)?;

    let first = namespaces::create(folder)?;
    let address = namespaces::connect(&first)?;
    let launcher = Launcher { tie: Tie::Inside(first.pid), folder: folder.to_owned() };
    let mut plane = control_plane::start(&launcher, &programs, &serving(name, address), name).await?;
    for (collection, object) in node_config::objects(name) {
        plane.api.create(collection, &object).await.map_err(StartError::Request)?;
    }

    let scheduler =
        ["--leader-elect=false".to_owned(), flag("kubeconfig", &component_kubeconfig(folder, "kube-scheduler"))];
    plane.start(&launcher, &programs, "kube-scheduler", &scheduler)?;
    plane.start(&launcher, &programs, "containerd", &[flag("config", &configured(folder, "containerd.toml"))])?;
    let socket = PathBuf::from(format!("/proc/{}/root{CONTAINERD_SOCKET}", first.pid));
    plane.wait(&launcher, "containerd", "containerd", async |_| socket.exists()).await?;
    import(&first, &programs.path("ctr"), &pause)?;
    start_pods_programs(&mut plane, &launcher, &programs, name)?;
    plane.wait(&launcher, "kubelet", "the node", async |api| is_ready(api, name).await).await?;
    Ok(())
}

/// Starts the programs that run pods, and route to them by Service and by name.
fn start_pods_programs(
    plane: &mut ControlPlane,
    launcher: &Launcher,
    programs: &Programs,
    name: &str,
) -> Result<(), StartError> {
    let folder = &launcher.folder;
    let kubelet = [
        flag("config", &configured(folder, "kubelet.json")),
        flag("kubeconfig", &component_kubeconfig(folder, "kubelet")),
        format!("--hostname-override={name}"),
        format!("--node-ip={NODE_ADDRESS}"),
        format!("--root-dir={INSIDE}/kubelet"),
    ];
    plane.start(launcher, programs, "kubelet", &kubelet)?;
    plane.start(launcher, programs, "kube-proxy", &[flag("config", &configured(folder, "kube-proxy.json"))])?;
    let coredns = ["-conf".to_owned(), configured(folder, "Corefile").display().to_string()];
    plane.start(launcher, programs, "coredns", &coredns)
}

pub(crate) fn volume(folder: &Path, name: &str) -> PathBuf {
    folder.join("node/volumes").join(name)
}

fn serving(name: &str, address: IpAddr) -> Serving {
    let arguments = [
        "--advertise-address=10.99.0.1",
        "--endpoint-reconciler-type=master-count",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        "--kubelet-preferred-address-types=InternalIP",
    ];
    Serving {
        bind: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        port: 6443,
        reach: address,
        others: vec![NODE_ADDRESS.into()],
        arguments: arguments.map(str::to_owned).to_vec(),
        identities: identities(name),
        durable: false,
    }
}

/// The identities of the node's programs for the API server.
fn identities(name: &str) -> Vec<(&'static str, String, Option<&'static str>)> {
    vec![
        ("kube-scheduler", "system:kube-scheduler".to_owned(), None),
        ("kube-proxy", "system:kube-proxy".to_owned(), None),
        ("kubelet", format!("system:node:{name}"), Some("system:nodes")),
        ("coredns", DNS_USER.to_owned(), None),
    ]
}

fn write_configuration(folder: &Path, name: &str, programs: &Programs) -> Result<(), StartError> {
    let kubeconfig = |component| component_kubeconfig(folder, component);
    let runc = tools::find("runc").unwrap_or_else(|| PathBuf::from("runc"));
    let shim = programs.path("containerd-shim-runc-v2");
    let texts = [
        ("containerd.toml", node_config::containerd(&shim, &runc, &tools::CNI_FOLDERS)),
        ("Corefile", node_config::coredns(&kubeconfig("coredns"), "coredns")),
    ];
    for (file, text) in texts {
        let path = configured(folder, file);
        fs::write(&path, text).map_err(|source| StartError::File { path, source })?;
    }
    write(&configured(folder, "cni/landfall.conflist"), &node_config::network())?;
    write(&configured(folder, "kubelet.json"), &node_config::kubelet(name, &folder.join("pki/ca.crt")))?;
    write(&configured(folder, "kube-proxy.json"), &node_config::kube_proxy(name, &kubeconfig("kube-proxy")))
}

fn configured(folder: &Path, file: &str) -> PathBuf {
    folder.join("node").join(file)
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

async fn is_ready(api: &Api, name: &str) -> bool {
    let Ok(answer) = api.get(&format!("/api/v1/nodes/{name}")).await else { return false };
    let node: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Imports an image into the node.
pub(crate) fn import(first: &Process, ctr: &Path, image: &Path) -> Result<(), NodeError> {
    let file = File::open(image).map_err(|source| NodeError::ImageFile { path: image.to_owned(), source })?;
    let mut command = namespaces::mounts_of(first, ctr);
    command.args(["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "import"]);
    // The unpacked image is enough, and it is in memory.
    command.args(["--local", "--discard-unpacked-layers", "-"]);
    // This process reads the file, because the path may lead elsewhere in the node's mounts.
    Ok(run(command.stdin(file))?)
}

/// Waits until containerd answers in the node of this first process. Blocks.
pub(crate) fn answers(first: i32) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_mins(1);
    let socket = format!("/proc/{first}/root{CONTAINERD_SOCKET}");
    loop {
        match UnixStream::connect(&socket) {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            Ok(_) => return Ok(()),
        }
    }
}

/// The first process of the node in a folder, if it runs.
pub(crate) fn first(folder: &Path) -> io::Result<Option<Process>> {
    Ok(Process::recorded(folder)?.into_iter().find(|process| process.name == FIRST && process.is_running()))
}

const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// The roots of this machine's control groups: one folder under version 2, one for each controller under version 1.
fn control_group_roots() -> Vec<PathBuf> {
    let root = Path::new(CONTROL_GROUPS);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let entries = fs::read_dir(root).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
    let roots: Vec<PathBuf> = entries.unwrap_or_default();
    // Two controllers that share a folder have a link for each name.
    roots.into_iter().filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

fn make_control_groups(name: &str) -> Result<(), NodeError> {
    // Under version 2, a group has the controllers that its parent delegates, and the kubelet refuses a group that
    // lacks one. A controller that cannot be delegated is not needed by these containers.
    let root = Path::new(CONTROL_GROUPS);
    for controller in fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default().split_whitespace() {
        let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    for root in control_group_roots() {
        let path = root.join(control_group(name));
        fs::create_dir_all(&path).map_err(|source| NodeError::ControlGroup { path: path.clone(), source })?;
        // A set of processors can be used only after it names some, and a new set names none.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let (Ok(parent), true) = (fs::read_to_string(root.join(file)), path.join("tasks").exists()) {
                fs::write(path.join(file), parent)
                    .map_err(|source| NodeError::ControlGroup { path: path.clone(), source })?;
            }
        }
    }
    Ok(())
}

/// Removes the remains on the machine after the node's processes have ended.
pub(crate) fn remove_remains(name: &str) -> Result<(), NodeError> {
    for root in control_group_roots() {
        let path = root.join(control_group(name));
        remove_control_group(&path).map_err(|source| NodeError::ControlGroup { path, source })?;
    }
    Ok(())
}

/// Removes a control group after the groups below it. The files in it need not be removed.
fn remove_control_group(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_control_group(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
