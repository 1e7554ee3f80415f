//! The programs of a cluster: found on the machine, or built from source once and cached by version.
//!
//! A built program is stored with all inputs of its build (the module's files, the arguments), so that only a changed
//! version or flag causes another build.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::cluster::Kind;
use crate::tools::{self, MissingTools};

/// A module folder in `programs/`, which pins one version of its main dependency.
struct Module {
    folder: &'static str,
    /// The module whose version is that of the programs.
    pins: &'static str,
}

const ETCD: Module = Module { folder: "etcd", pins: "go.etcd.io/etcd/server/v3" };
const KUBERNETES: Module = Module { folder: "kubernetes", pins: "k8s.io/kubernetes" };
const CONTAINERD: Module = Module { folder: "containerd", pins: "github.com/containerd/containerd/v2" };
const COREDNS: Module = Module { folder: "coredns", pins: "github.com/coredns/coredns" };
const HELM: Module = Module { folder: "helm", pins: "helm.sh/helm/v4" };

/// A program that is built here.
struct Program {
    name: &'static str,
    module: &'static Module,
    package: &'static str,
}

/// The programs for `--api-only`: the first three.
const API: usize = 3;
const KUBECTL: usize = 3;
const HELM_PROGRAM: usize = 11;

const PROGRAMS: [Program; 12] = [
    Program { name: "etcd", module: &ETCD, package: "go.etcd.io/etcd/server/v3" },
    Program { name: "kube-apiserver", module: &KUBERNETES, package: "k8s.io/kubernetes/cmd/kube-apiserver" },
    Program {
        name: "kube-controller-manager",
        module: &KUBERNETES,
        package: "k8s.io/kubernetes/cmd/kube-controller-manager",
    },
    Program { name: "kubectl", module: &KUBERNETES, package: "k8s.io/kubernetes/cmd/kubectl" },
    Program { name: "kubelet", module: &KUBERNETES, package: "k8s.io/kubernetes/cmd/kubelet" },
    Program { name: "kube-scheduler", module: &KUBERNETES, package: "k8s.io/kubernetes/cmd/kube-scheduler" },
    Program { name: "kube-proxy", module: &KUBERNETES, package: "k8s.io/kubernetes/cmd/kube-proxy" },
    Program { name: "containerd", module: &CONTAINERD, package: "github.com/containerd/containerd/v2/cmd/containerd" },
    Program {
        name: "containerd-shim-runc-v2",
        module: &CONTAINERD,
        package: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    },
    Program { name: "ctr", module: &CONTAINERD, package: "github.com/containerd/containerd/v2/cmd/ctr" },
    Program { name: "coredns", module: &COREDNS, package: "landfall.dev/hack/cluster/programs/coredns" },
    Program { name: "helm", module: &HELM, package: "helm.sh/helm/v4/cmd/helm" },
];

/// The reason why a program is not available.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A tool for its build is missing.
    #[error(transparent)]
    Tools(#[from] MissingTools),
    /// A file of the build cannot be read or written.
    #[error("{} could not be used for the build of {program}", path.display())]
    File {
        program: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The module's `go.mod` pins no version of its main dependency.
    #[error("{} requires no version of {module}: add it", path.display())]
    Unpinned {
        path: PathBuf,
        /// The module that it should pin.
        module: &'static str,
    },
    /// The build failed.
    #[error("{program} could not be built; Go says:\n{output}")]
    Build {
        program: &'static str,
        /// The last lines of Go's output.
        output: String,
    },
}

/// The paths of programs, by name.
#[derive(Debug, Clone)]
pub(crate) struct Programs(BTreeMap<&'static str, PathBuf>);

impl Programs {
    /// The programs of an API server: those of `KUBEBUILDER_ASSETS`, else those on `PATH`, else those built here.
    /// Assets without a controller manager are not enough, because deletions wait for its garbage collector.
    pub(crate) fn api(cache: &Cache) -> Result<Self, ProgramError> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let in_assets = |name| Some(assets.as_ref()?.join(name)).filter(|path| tools::is_program(path));
        let found = Self::found(in_assets).or_else(|| Self::found(tools::find));
        found.map_or_else(|| Self::built_api(cache), Ok)
    }

    /// The programs of an API server, built here.
    pub(crate) fn built_api(cache: &Cache) -> Result<Self, ProgramError> {
        build(cache, &PROGRAMS[..API])
    }

    /// The same with kubectl.
    pub(crate) fn with_kubectl(mut self, cache: &Cache) -> Result<Self, ProgramError> {
        self.0.insert("kubectl", kubectl(cache)?);
        Ok(self)
    }

    /// All programs, built here, because the parts of a node must have the same version.
    pub(crate) fn node(cache: &Cache) -> Result<Self, ProgramError> {
        build(cache, &PROGRAMS)
    }

    fn found(find: impl Fn(&'static str) -> Option<PathBuf>) -> Option<Self> {
        PROGRAMS[..API].iter().map(|program| Some((program.name, find(program.name)?))).collect::<Option<_>>().map(Self)
    }

    /// The path of a program. A program that is not stored here is called by its name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.get(name).cloned().unwrap_or_else(|| PathBuf::from(name))
    }

    /// Makes a folder for a person's PATH, with the programs for people. It does not contain the others: the next
    /// cluster would find them on PATH, and lose them with this one.
    pub(crate) fn link_into(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let called = ["ctr", "helm", "kubectl"].into_iter().filter_map(|name| Some((name, self.0.get(name)?)));
        called.into_iter().try_for_each(|(name, path)| std::os::unix::fs::symlink(path, folder.join(name)))
    }
}

/// Builds the missing programs of a cluster of this kind.
pub(crate) fn build_all(cache: &Cache, kind: Kind) -> Result<(), ProgramError> {
    match kind {
        Kind::ApiOnly => Programs::built_api(cache),
        Kind::Node => Programs::node(cache),
    }
    .map(drop)
}

/// kubectl in the version of the cluster, built if it is missing.
pub fn kubectl(cache: &Cache) -> Result<PathBuf, ProgramError> {
    PROGRAMS[KUBECTL].build(cache)
}

/// Helm, built if it is missing.
pub fn helm(cache: &Cache) -> Result<PathBuf, ProgramError> {
    PROGRAMS[HELM_PROGRAM].build(cache)
}

/// Builds the missing programs and returns the paths of all.
fn build(cache: &Cache, programs: &[Program]) -> Result<Programs, ProgramError> {
    programs.iter().map(|program| Ok((program.name, program.build(cache)?))).collect::<Result<_, _>>().map(Programs)
}

impl Program {
    fn build(&self, cache: &Cache) -> Result<PathBuf, ProgramError> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(self.module.folder);
        let in_file = |path: &Path| {
            let path = path.to_owned();
            move |source| ProgramError::File { program: self.name, path, source }
        };
        let manifest = source.join("go.mod");
        let text = fs::read_to_string(&manifest).map_err(in_file(&manifest))?;
        let version = required_version(&text, self.module.pins)
            .ok_or(ProgramError::Unpinned { path: manifest, module: self.module.pins })?;
        let arguments = self.arguments(version);
        let inputs = inputs(&source, &arguments).map_err(in_file(&source))?;

        let folder = cache.programs().join(format!("{}-{}", self.module.folder, version.trim_start_matches('v')));
        let program = folder.join(self.name);
        let record = folder.join(format!("{}.inputs", self.name));
        let is_kept = || tools::is_program(&program) && fs::read_to_string(&record).is_ok_and(|kept| kept == inputs);
        if is_kept() {
            return Ok(program);
        }
        tools::require(&[tools::GO])?;
        fs::create_dir_all(&folder).map_err(in_file(&folder))?;
        let lock = File::create(folder.join("lock")).map_err(in_file(&folder))?;
        lock.lock().map_err(in_file(&folder))?;
        if is_kept() {
            return Ok(program); // built by whoever held the lock
        }
        let part = folder.join(format!("{}.part", self.name));
        self.compile(&source, &arguments, &part, version)?;
        fs::rename(&part, &program).map_err(in_file(&program))?;
        fs::write(&record, &inputs).map_err(in_file(&record))?;
        Ok(program)
    }

    fn arguments(&self, version: &str) -> Vec<String> {
        let mut linker = "-s -w".to_owned();
        if self.module.folder == KUBERNETES.folder {
            // Without these the programs report version v0.0.0, which clients and the kubelet refuse.
            let numbers: Vec<_> = version.trim_start_matches('v').split('.').collect();
            for (name, value) in [("gitVersion", version), ("gitMajor", numbers[0]), ("gitMinor", numbers[1])] {
                linker = format!("{linker} -X k8s.io/component-base/version.{name}={value}");
            }
        }
        vec!["-mod=readonly".to_owned(), "-trimpath".to_owned(), format!("-ldflags={linker}")]
    }

    /// Compiles, and shows the number of finished packages.
    fn compile(&self, source: &Path, arguments: &[String], output: &Path, version: &str) -> Result<(), ProgramError> {
        let failed = |output: String| ProgramError::Build { program: self.name, output };
        let go = |arguments: &[&str]| {
            let mut command = Command::new("go");
            command.args(arguments).current_dir(source).env("CGO_ENABLED", "0").stdin(Stdio::null());
            command
        };
        let mut progress = Progress::new(format!("building {} {version}", self.name));
        progress.show("loading its packages");
        let list = go(&["list", "-deps", self.package]).output().map_err(|error| failed(error.to_string()))?;
        if !list.status.success() {
            return Err(failed(String::from_utf8_lossy(&list.stderr).into_owned()));
        }
        let total = String::from_utf8_lossy(&list.stdout).lines().count();

        let mut command = go(&["build", "-v", "-o"]);
        command.arg(output).args(arguments).arg(self.package).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let mut written = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                written.push(line);
                // Packages that were compiled for another program are not compiled again, so this ends below the total.
                progress.show(&format!("{} of at most {total} packages", written.len()));
            }
        }
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        progress.finish();
        if status.success() { Ok(()) } else { Err(failed(written[written.len().saturating_sub(20)..].join("\n"))) }
    }
}

/// All inputs of the build, as text.
fn inputs(source: &Path, arguments: &[String]) -> io::Result<String> {
    let mut files: Vec<_> = fs::read_dir(source)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    let mut text = arguments.join("\n");
    for file in files {
        text.push('\n');
        text.push_str(&fs::read_to_string(file)?);
    }
    Ok(text)
}

/// The version of a module that a `go.mod` requires.
fn required_version<'a>(manifest: &'a str, module: &str) -> Option<&'a str> {
    manifest.lines().find_map(|line| {
        let mut words = line.trim_start().strip_prefix("require ").unwrap_or(line).split_ascii_whitespace();
        (words.next()? == module).then(|| words.next()).flatten().filter(|version| version.starts_with('v'))
    })
}

/// A line that shows the progress of a build: rewritten on a terminal, else printed every few seconds.
struct Progress {
    what: String,
    started: Instant,
    shown: Option<Instant>,
}

impl Progress {
    fn new(what: String) -> Self {
        Self { what, started: Instant::now(), shown: None }
    }

    fn show(&mut self, state: &str) {
        let terminal = io::stderr().is_terminal();
        let pause = if terminal { Duration::from_millis(100) } else { Duration::from_secs(10) };
        if self.shown.is_some_and(|shown| shown.elapsed() < pause) {
            return;
        }
        self.shown = Some(Instant::now());
        let (start, end) = if terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        // A build continues if its progress cannot be printed.
        let _ = write!(io::stderr(), "{start}{}: {state}{end}", self.what);
    }

    fn finish(&self) {
        let start = if io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
        let _ = writeln!(io::stderr(), "{start}{}: {} s", self.what, self.started.elapsed().as_secs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_pins_what_it_is_for() {
        for module in [&ETCD, &KUBERNETES, &CONTAINERD, &COREDNS, &HELM] {
            let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(module.folder).join("go.mod");
            assert!(required_version(&fs::read_to_string(manifest).unwrap(), module.pins).is_some(), "{}", module.pins);
        }
    }

    #[test]
    fn a_version_is_read_from_a_requirement_only() {
        let manifest = "tool a.b/c\nrequire a.b/c/v2 v2.0.1\nrequire (\n\ta.b/c v1.2.3 // indirect\n)\n";
        assert_eq!(required_version(manifest, "a.b/c"), Some("v1.2.3"));
        assert_eq!(required_version(manifest, "a.b/c/v2"), Some("v2.0.1"));
        assert_eq!(required_version("replace a.b/c => a.b/c v1.0.0\ntool a.b/c\n", "a.b/c"), None);
    }

    #[test]
    fn a_change_of_any_input_shows() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("go.mod"), "module a").unwrap();
        let before = inputs(folder.path(), &["-x".to_owned()]).unwrap();
        assert_eq!(inputs(folder.path(), &["-x".to_owned()]).unwrap(), before);
        assert_ne!(inputs(folder.path(), &["-y".to_owned()]).unwrap(), before);
        fs::write(folder.path().join("main.go"), "package main").unwrap();
        assert_ne!(inputs(folder.path(), &["-x".to_owned()]).unwrap(), before);
    }
}
