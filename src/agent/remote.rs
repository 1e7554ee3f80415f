//! Lists the refs of the workspace's remote, fetches from it and pushes to it.
//!
//! The invariant: git talks to the address that Landfall was given, never to one from a repository's configuration, and gets its
//! token from [`super::credential`] alone. No push is forced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::credential::{RepositoryUrl, helper};
use crate::git::{Sealed, SealedError, Sha};

/// The address of a workspace's repository, and the means to reach it.
#[derive(Clone, Debug)]
pub struct RemoteAccess {
    pub url: RepositoryUrl,
    pub token_file: PathBuf,
    /// A PEM file of certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Landfall's own binary, which git runs as its credential helper.
    pub program: PathBuf,
}

/// Why something could not be pushed or fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum Trouble {
    /// The token was refused, or there is none.
    Unauthorized,
    /// The repository does not exist, or the token has no access to it.
    NotFound,
    /// The token lacks a permission, or the repository is read-only.
    Forbidden,
    /// The repository was renamed or transferred.
    Moved,
    /// No connection, a broken one, or a server error.
    Unreachable,
    /// A certificate that is not trusted.
    Untrusted,
    /// A file is larger than the host accepts.
    TooLarge,
    /// A rule of the host, such as a protected branch or a hook, refused it.
    Refused,
    /// The ref changed meanwhile, or has diverged.
    Conflict,
    /// It could not be read from the volume.
    Unreadable,
    /// git cannot store it.
    NotForGit,
    /// It belongs into Git LFS, and is on the volume alone.
    LargeFile,
    /// A repository of another remote, in the clone or outside it.
    Nested,
    /// The deadline passed.
    Late,
    /// git's message is not known here.
    #[default]
    Unknown,
}

impl Trouble {
    /// Whether a retry may succeed although nobody acts.
    #[must_use]
    pub fn passes(self) -> bool {
        matches!(self, Self::Unauthorized | Self::Unreachable | Self::Conflict | Self::Late | Self::Unknown)
    }

    /// Whether every other push will fail for the same reason.
    #[must_use]
    pub fn concerns_all(self) -> bool {
        let all = [Self::Unauthorized, Self::NotFound, Self::Moved, Self::Unreachable, Self::Untrusted, Self::Late];
        all.contains(&self)
    }

    /// Classifies an error by git's words, because git tells it in no other way.
    fn of(error: &SealedError) -> Self {
        let SealedError::Failed { words, .. } = error else {
            return if matches!(error, SealedError::Late { .. }) { Self::Late } else { Self::Unknown };
        };
        let says = |texts: &[&str]| texts.iter().any(|text| words.contains(text));
        if says(&["GH008"]) {
            return Self::LargeFile;
        }
        if says(&[
            super::parts::WHOLE,
            "exceeds GitHub's file size limit",
            "GH001",
            "exceeds the maximum",
            "is too large",
            "HTTP 413",
            "error: 413",
        ]) {
            return Self::TooLarge;
        }
        if says(&[
            "(non-fast-forward)",
            "(fetch first)",
            "(stale info)",
            "(already exists)",
            "cannot lock ref",
            "(failed to update ref)",
        ]) {
            return Self::Conflict;
        }
        if says(&["[remote rejected]", "ERR access denied"]) {
            return if says(&["Internal Server Error", "internal error"]) { Self::Unreachable } else { Self::Refused };
        }
        if says(&[
            "Authentication failed",
            "could not read Username",
            "could not read Password",
            "error: 401",
            "HTTP 401",
        ]) {
            return Self::Unauthorized;
        }
        if says(&["rate limit", "error: 429", "HTTP 429", "error: 408", "error: 5", "HTTP 5"]) {
            return Self::Unreachable;
        }
        if says(&["error: 403", "HTTP 403", "denied to"]) {
            return Self::Forbidden;
        }
        if says(&["Repository not found", "error: 404", "HTTP 404", "repository '"]) && says(&["not found", "404"]) {
            return Self::NotFound;
        }
        if says(&["error: 301", "error: 302", "error: 307", "error: 308", "HTTP 301", "HTTP 302", "redirect"]) {
            return Self::Moved;
        }
        if says(&["certificate", "SSL_ERROR", "CAfile"]) {
            return Self::Untrusted;
        }
        let network = [
            "Could not resolve",
            "Failed to connect",
            "Couldn't connect",
            "Connection",
            "timed out",
            "early EOF",
            "RPC failed",
            "unexpected disconnect",
            "hung up unexpectedly",
            "Empty reply",
            "unable to access",
            "Operation too slow",
        ];
        if says(&network) { Self::Unreachable } else { Self::Unknown }
    }
}

/// A push, fetch or listing failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct RemoteError {
    pub trouble: Trouble,
    /// git's message.
    pub words: String,
}

impl From<SealedError> for RemoteError {
    fn from(error: SealedError) -> Self {
        Self { trouble: Trouble::of(&error), words: error.words() }
    }
}

/// A remote's refs, by their full names.
pub type RemoteRefs = BTreeMap<String, Sha>;

/// A remote, and git with the credentials for it.
#[derive(Clone, Debug)]
pub struct RemoteGit {
    git: Sealed,
    address: String,
}

impl RemoteAccess {
    /// `git` with credentials and certificates for the repository.
    #[must_use]
    pub fn unlocked(&self, git: Sealed) -> Sealed {
        let helper = helper(&self.program, std::slice::from_ref(&self.url), &self.token_file);
        let git = git.setting("credential.helper", &helper).setting("credential.useHttpPath", "true");
        match &self.ca_file {
            Some(file) => git.setting("http.sslCAInfo", &file.to_string_lossy()),
            None => git,
        }
    }

    /// The remote, for a `git` of the local repository.
    #[must_use]
    pub fn remote(&self, git: Sealed) -> RemoteGit {
        RemoteGit { git: self.unlocked(git), address: self.url.address() }
    }
}

impl RemoteGit {
    /// A remote at a path, for tests.
    #[must_use]
    pub fn local(git: Sealed, path: &Path) -> Self {
        Self { git: git.with_local_remotes(), address: path.to_string_lossy().into_owned() }
    }

    /// Lists all refs.
    pub async fn refs(&self) -> Result<RemoteRefs, RemoteError> {
        let listed = self.git.text(&["ls-remote", "--quiet", "--refs", "--end-of-options", &self.address]).await?;
        let entry = |line: &str| {
            let (sha, name) = line.split_once('\t')?;
            Some((name.to_owned(), sha.parse().ok()?))
        };
        Ok(listed.lines().filter_map(entry).collect())
    }

    /// Fetches these refs' objects without making local refs.
    pub async fn fetch(&self, names: &[String]) -> Result<(), RemoteError> {
        let mut arguments =
            ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--end-of-options"]
                .map(str::to_owned)
                .to_vec();
        arguments.push(self.address.clone());
        arguments.extend_from_slice(names);
        self.git.run(&arguments).await?;
        Ok(())
    }

    /// Creates or fast-forwards a ref, given by its full name.
    pub async fn push(&self, commit: &Sha, name: &str) -> Result<(), RemoteError> {
        let refspec = format!("{commit}:{name}");
        let arguments = [
            "push",
            "--quiet",
            "--no-verify",
            "--no-follow-tags",
            "--no-force",
            "--end-of-options",
            &self.address,
            &refspec,
        ];
        self.git.run(&arguments).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_are_told_by_gits_words() {
        let table = [
            (" ! [remote rejected] a -> main (protected branch hook declined)", Trouble::Refused),
            (
                "remote: error: GH001: Large files detected.\n ! [remote rejected] a -> b (pre-receive hook declined)",
                Trouble::TooLarge,
            ),
            (
                "remote: error: GH008: Your push referenced at least 1 unknown Git LFS object\n ! [remote rejected] a -> b (pre-receive hook declined)",
                Trouble::LargeFile,
            ),
            (
                "remote: error: GH013: Repository rule violations found for refs/heads/b.\n ! [remote rejected] a -> b (push declined due to repository rule violations)",
                Trouble::Refused,
            ),
            (
                "remote: fatal: pack exceeds maximum allowed size (2.00 GiB)\nerror: remote unpack failed: index-pack abnormal exit\n ! [remote rejected] a -> b (failed)",
                Trouble::TooLarge,
            ),
            (" ! [rejected] a -> main (non-fast-forward)", Trouble::Conflict),
            (" ! [rejected] a -> main (fetch first)", Trouble::Conflict),
            (" ! [remote rejected] a -> b (cannot lock ref 'refs/heads/b': is at 1 but expected 2)", Trouble::Conflict),
            ("fatal: Authentication failed for 'https://h/a/b.git/'", Trouble::Unauthorized),
            ("fatal: could not read Username for 'https://h': terminal prompts disabled", Trouble::Unauthorized),
            (
                "remote: Permission to a/b.git denied to x[bot].\nfatal: unable to access 'https://h/a/b.git/': The requested URL returned error: 403",
                Trouble::Forbidden,
            ),
            ("remote: Repository not found.\nfatal: repository 'https://h/a/b.git/' not found", Trouble::NotFound),
            ("fatal: unable to access 'https://h/': The requested URL returned error: 301", Trouble::Moved),
            ("fatal: unable to access 'https://h/': The requested URL returned error: 503", Trouble::Unreachable),
            (
                "remote: You have exceeded a secondary rate limit\nfatal: unable to access 'https://h/': The requested URL returned error: 403",
                Trouble::Unreachable,
            ),
            ("fatal: unable to access 'https://h/': Could not resolve host: h", Trouble::Unreachable),
            ("error: RPC failed; curl 56 GnuTLS recv error\nfatal: early EOF", Trouble::Unreachable),
            (
                "fatal: unable to access 'https://h/': server certificate verification failed. CAfile: none CRLfile: none",
                Trouble::Untrusted,
            ),
            ("fatal: something new", Trouble::Unknown),
        ];
        for (words, trouble) in table {
            let error = SealedError::Failed { command: "push".into(), status: Some(128), words: words.into() };
            assert_eq!(Trouble::of(&error), trouble, "{words}");
        }
    }
}
