//! Helm and kubectl, run as a person runs them.

use landfall_cluster::Cache;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a program answered.
pub struct Answer {
    pub success: bool,
    pub output: String,
    pub errors: String,
}

impl Answer {
    /// What was written, of a program that must have succeeded.
    pub fn expect(self, what: &str) -> String {
        assert!(self.success, "{what}: {}{}", self.output, self.errors);
        self.output
    }

    /// What was said, by a program that must have failed.
    pub fn refusal(self, what: &str) -> String {
        assert!(!self.success, "{what} was accepted: {}", self.output);
        self.output + &self.errors
    }
}

/// A path of this repository.
pub fn path(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).to_str().unwrap().to_owned()
}

pub fn helm(arguments: &[&str]) -> Answer {
    run(Command::new(landfall_cluster::helm(&Cache::from_environment().unwrap()).unwrap()).args(arguments), "")
}

/// What `helm template` gives for the release `landfall` in `landfall-system`, by these further arguments.
pub fn template(arguments: &[&str]) -> Answer {
    let chart = path("charts/landfall");
    helm(&[&["template", "landfall", &chart, "--namespace=landfall-system"], arguments].concat())
}

/// kubectl without a cluster.
pub fn kubectl_alone(arguments: &[&str]) -> Answer {
    run(kubectl_program().args(arguments), "")
}

pub fn kubectl(kubeconfig: &Path, arguments: &[&str], input: &str) -> Answer {
    run(kubectl_program().arg("--kubeconfig").arg(kubeconfig).args(arguments), input)
}

fn kubectl_program() -> Command {
    Command::new(landfall_cluster::kubectl(&Cache::from_environment().unwrap()).unwrap())
}

fn run(command: &mut Command, input: &str) -> Answer {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    // A program that refuses early does not read its input to the end.
    let _ = writer.join().expect("no panic");
    Answer {
        success: output.status.success(),
        output: String::from_utf8(output.stdout).expect("text"),
        errors: String::from_utf8(output.stderr).expect("text"),
    }
}

/// The objects of a YAML stream.
pub fn objects(stream: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(stream).expect("YAML");
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// The one object of a kind.
pub fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = of_kind(objects, kind);
    let one = found.pop().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(found.is_empty(), "there is more than one {kind}");
    one
}

/// The object of this kind and name.
pub fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = of_kind(objects, kind).into_iter().find(|object| object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

pub fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}
