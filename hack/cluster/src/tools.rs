//! The required tools of the machine, and how to get missing ones.
//!
//! All missing tools are reported at once, a line for each, because people give up if each attempt reports only the
//! next one.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// The program, or the path of a file if it is not on the path.
    program: &'static str,
    /// Further folders that may contain it.
    folders: &'static [&'static str],
    purpose: &'static str,
    /// The Debian package, if Debian's version is good enough.
    package: Option<&'static str>,
}

const fn tool(program: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool { program, folders: &[], purpose, package: Some(package) }
}

/// Builds the programs. Debian's Go is too old for them.
pub(crate) const GO: Tool = Tool {
    program: "go",
    folders: &["/usr/local/go/bin"],
    purpose: "builds the cluster's programs (1.26 or newer)",
    package: None,
};

/// The tools that start an API server and end it.
pub(crate) const API: [Tool; 2] = [
    tool("setpriv", "util-linux", "ends the API server with the test that started it"),
    tool("setsid", "util-linux", "keeps the API server when the terminal closes"),
];

/// The folders in which Debian and the project's own archives put the network plugins.
pub(crate) const CNI_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// The further tools of a node.
pub(crate) const NODE: [Tool; 9] = [
    tool("unshare", "util-linux", "makes the node's namespaces"),
    tool("nsenter", "util-linux", "starts programs in the node's namespaces"),
    tool("ip", "iproute2", "makes the node's network"),
    tool("runc", "runc", "runs containers"),
    tool("nft", "nftables", "carries Services, for kube-proxy"),
    tool("iptables", "iptables", "carries host ports, for the network plugins"),
    tool("conntrack", "conntrack", "forgets connections to ended pods, for kube-proxy"),
    tool("cc", "gcc", "builds the pause container's program"),
    Tool {
        program: "host-local",
        folders: &CNI_FOLDERS,
        purpose: "gives pods their addresses, with the other network plugins",
        package: Some("containernetworking-plugins"),
    },
];

/// The tools that make images.
pub(crate) const IMAGES: [Tool; 3] = [
    tool("debootstrap", "debootstrap", "makes the images' Debian"),
    tool("tar", "tar", "packs the images' layers"),
    tool("unshare", "util-linux", "keeps the images' Debian from the machine's mounts"),
];

/// Tools are missing and could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("{}", lines(missing))]
pub struct MissingTools {
    missing: Vec<Tool>,
}

fn lines(missing: &[Tool]) -> String {
    let line = |tool: &Tool| match tool.package {
        Some(package) => format!("{} is missing, which {}: install the package {package}", tool.program, tool.purpose),
        None => format!("{} is missing, which {}: install it and put it on PATH", tool.program, tool.purpose),
    };
    missing.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Checks that the tools exist. On Debian and as root, missing ones are installed.
pub(crate) fn require(tools: &[Tool]) -> Result<(), MissingTools> {
    let missing = missing(tools);
    let packages: Vec<_> = missing.iter().filter_map(|tool| tool.package).collect();
    if !packages.is_empty() && Path::new("/etc/debian_version").exists() && rustix::process::geteuid().is_root() {
        eprintln!("installing {} with apt-get", packages.join(", "));
        // A failed installation is noticed below, and apt-get has printed the reason.
        let _ = apt_get(&["update", "-qq"]);
        let _ = apt_get(&[&["install", "-y", "-qq", "--no-install-recommends"], packages.as_slice()].concat());
    }
    let missing = self::missing(&missing);
    if missing.is_empty() { Ok(()) } else { Err(MissingTools { missing }) }
}

fn missing(tools: &[Tool]) -> Vec<Tool> {
    tools.iter().filter(|tool| find_in(tool.program, tool.folders).is_none()).copied().collect()
}

fn apt_get(arguments: &[&str]) -> std::io::Result<std::process::ExitStatus> {
    // Standard output is for the result of the command.
    Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(std::io::stderr()).status()
}

/// The folders that a user's `PATH` may lack.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The path of a program, from `PATH` and the system's folders, which a user's `PATH` may lack.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    find_in(program, &[])
}

fn find_in(program: &str, folders: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let others = folders.iter().chain(&SYSTEM_FOLDERS).map(PathBuf::from);
    env::split_paths(&path).chain(others).map(|folder| folder.join(program)).find(|path| is_program(path))
}

pub(crate) fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// `PATH` and the system's folders, for programs that look for others.
pub(crate) fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let all: Vec<_> = env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from)).collect();
    // Only a folder with a colon in its name cannot be joined, and a part of PATH has none.
    env::join_paths(all).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: Tool = Tool { program: "no-such-program", folders: &[], purpose: "does nothing", package: None };

    #[test]
    fn each_missing_tool_has_a_line() {
        let packaged = Tool { package: Some("some-package"), ..ABSENT };
        let text = MissingTools { missing: vec![ABSENT, packaged] }.to_string();
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| line.starts_with("no-such-program is missing, which does nothing: install ")));
        assert!(text.ends_with("install the package some-package"));
    }

    #[test]
    fn what_cannot_be_installed_is_an_error() {
        assert!(require(&[tool("sh", "dash", "is a shell")]).is_ok());
        assert!(require(&[ABSENT]).is_err());
    }
}
