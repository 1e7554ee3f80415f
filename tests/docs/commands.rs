//! Where the commands of the pages run: a folder with what the repository has, and stand-ins for the programs.
//!
//! bash itself runs each block, so that quotes, pipes and substitutions count. What it finds on its PATH are a few of the
//! system's programs, and stand-ins (`stand-ins/`): kubectl asks the API server and changes nothing, helm renders, and the
//! rest look for the command and each of its flags in what the program says of itself. Anything else is not found, and fails.

use super::page::root;
use landfall_cluster::Cache;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The system's programs that the pages use.
const SYSTEM: &[&str] = &[
    "base64", "bash", "cat", "chmod", "cut", "date", "dirname", "env", "grep", "head", "jq", "mkdir", "printf", "sed",
    "tr",
];
/// Stand-ins for `hack/NAME`.
const SCRIPTS: &[&str] = &["bench", "demo", "docs", "endtoend", "fuzz", "generate", "test"];

pub struct Bench {
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    helm: PathBuf,
}

impl Bench {
    pub fn new(kubeconfig: PathBuf) -> Self {
        let cache = Cache::from_environment().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for folder in ["bin", "hack", "home"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        for name in ["Cargo.toml", "charts", "config", "crds", "docs", "src"] {
            std::os::unix::fs::symlink(root().join(name), at(name)).unwrap();
        }
        std::os::unix::fs::symlink(root().join("hack/images"), at("hack/images")).unwrap();
        let stand_ins = root().join("tests/docs/stand-ins");
        for name in SYSTEM {
            std::os::unix::fs::symlink(on_path(name), at("bin").join(name)).unwrap();
        }
        for name in ["cargo", "git", "helm", "kubectl", "landfall"] {
            std::os::unix::fs::symlink(stand_ins.join(name), at("bin").join(name)).unwrap();
        }
        for name in SCRIPTS {
            std::os::unix::fs::symlink(stand_ins.join("script"), at("hack").join(name)).unwrap();
        }
        // The file that GitHub gives with a new key.
        std::fs::write(at("NAME.DATE.private-key.pem"), "not a key").unwrap();
        let (kubectl, helm) = (landfall_cluster::kubectl(&cache).unwrap(), landfall_cluster::helm(&cache).unwrap());
        Self { folder, kubeconfig, kubectl, helm }
    }

    /// The definitions, and the namespaces of the pages.
    pub fn prepare(&self) {
        let apply = ["apply", "--server-side", "-f"];
        self.kubectl(&[&apply[..], &["crds"]].concat(), "").expect("the definitions");
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=120s", "-f", "crds"], "")
            .expect("established");
        for name in ["landfall-system", "team-a", "argocd"] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string();
            self.kubectl(&[&apply[..], &["-"]].concat(), &namespace).expect("a namespace");
        }
    }

    /// The samples, of which the commands speak.
    pub fn apply_samples(&self) {
        let apply = ["apply", "--server-side", "-f"];
        for name in
            ["githubapp", "githubinstallation", "installationtoken", "projectrepository", "workspace", "deployment"]
        {
            self.kubectl(&[&apply[..], &[&format!("config/samples/{name}.yaml")]].concat(), "").expect(name);
        }
    }

    /// Asks the API server what it would do with these objects: an unknown field is an error.
    pub fn try_out(&self, objects: &[Value]) -> Result<(), String> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
        self.kubectl(&apply, &list).map(drop)
    }

    /// Renders the chart with these values.
    pub fn render(&self, values: &str) -> Result<(), String> {
        let chart = root().join("charts/landfall");
        let mut helm = Command::new(&self.helm);
        helm.arg("template").arg("landfall").arg(chart).args(["--namespace=landfall-system", "--values=-"]);
        run(helm, values).map(drop)
    }

    /// Runs the commands of a block.
    pub fn run(&self, script: &str) -> Result<(), String> {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script]).current_dir(self.folder.path()).env_clear();
        bash.env("PATH", self.folder.path().join("bin")).env("HOME", self.folder.path().join("home"));
        bash.env("ROOT", root()).env("REAL_PATH", std::env::var_os("PATH").unwrap_or_default());
        bash.env("REAL_HOME", std::env::var_os("HOME").unwrap_or_default());
        bash.env("KUBECONFIG", &self.kubeconfig).env("KUBECTL", &self.kubectl).env("HELM", &self.helm);
        bash.env("LANDFALL", env!("CARGO_BIN_EXE_landfall"));
        run(bash, "").map(drop)
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut kubectl = Command::new(&self.kubectl);
        kubectl.current_dir(root()).arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        run(kubectl, input)
    }
}

fn on_path(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").expect("PATH");
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not on PATH"))
}

fn run(mut command: Command, input: &str) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", Path::new(command.get_program()).display()))?;
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    // A program that refuses early does not read its input to the end.
    let _ = writer.join().expect("no panic");
    let [said, errors] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    if output.status.success() { Ok(said) } else { Err(format!("{}{}", said.trim(), errors.trim())) }
}
