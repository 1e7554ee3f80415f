//! The workspace's repository at its host: what is there, what is fetched from it and pushed to it.
//!
//! The invariant: it is reached at the address that Landfall was given, never at one that a repository's configuration names,
//! with a token that comes from [`super::credential`] alone. A push never forces: git itself compares with what the host says
//! it has, and the host with that again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::credential::{RepositoryUrl, helper};
use crate::git::{Sealed, SealedError, Sha};

/// Where a workspace's repository is, and how it is reached.
#[derive(Clone, Debug)]
pub struct Access {
    /// The repository's address.
    pub url: RepositoryUrl,
    /// The file with the token.
    pub token_file: PathBuf,
    /// Certificates to trust instead of the system's, as a PEM file.
    pub ca_file: Option<PathBuf>,
    /// Our own binary, which git asks for the token.
    pub program: PathBuf,
}

/// Why something is not at the remote, or did not come from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum Trouble {
    /// The token was refused, or there was none.
    Unauthorized,
    /// There is no such repository for whoever asks.
    NotFound,
    /// The token does not reach that far, or the repository is read-only.
    Forbidden,
    /// The repository has another address by now.
    Moved,
    /// No connection, a cut one, or a server in trouble.
    Unreachable,
    /// A certificate that is not trusted.
    Untrusted,
    /// The host takes no file of that size.
    TooLarge,
    /// The host refused it by a rule of its own: a protected branch, a hook.
    Refused,
    /// Somebody else moved it meanwhile, or it has gone another way.
    Conflict,
    /// It could not be read from the volume.
    Unreadable,
    /// It is not a thing that git can keep.
    NotForGit,
    /// A repository in the repository, which belongs to another remote.
    Nested,
    /// Not in time.
    Late,
    /// What git says about it is known to nobody here.
    #[default]
    Unknown,
}

impl Trouble {
    /// Whether the same may succeed later without anybody's doing.
    #[must_use]
    pub fn passes(self) -> bool {
        matches!(self, Self::Unauthorized | Self::Unreachable | Self::Conflict | Self::Late | Self::Unknown)
    }

    /// Whether nothing else gets through either.
    #[must_use]
    pub fn concerns_all(self) -> bool {
        let all = [Self::Unauthorized, Self::NotFound, Self::Moved, Self::Unreachable, Self::Untrusted, Self::Late];
        all.contains(&self)
    }

    /// What an error of git's is about, by its words: git has no other way to say it.
    fn of(error: &SealedError) -> Self {
        let SealedError::Failed { words, .. } = error else {
            return if matches!(error, SealedError::Late { .. }) { Self::Late } else { Self::Unknown };
        };
        let says = |texts: &[&str]| texts.iter().any(|text| words.contains(text));
        if says(&[
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

/// A remote that did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct RemoteError {
    /// What about.
    pub trouble: Trouble,
    /// git's own words.
    pub words: String,
}

impl From<SealedError> for RemoteError {
    fn from(error: SealedError) -> Self {
        Self { trouble: Trouble::of(&error), words: error.words() }
    }
}

/// The refs of a remote, by their full names.
pub type Refs = BTreeMap<String, Sha>;

/// The remote, as `git` reaches it.
#[derive(Clone, Debug)]
pub struct Remote {
    git: Sealed,
    address: String,
}

impl Access {
    /// `git` with what it needs to reach the repository.
    #[must_use]
    pub fn unlocked(&self, git: Sealed) -> Sealed {
        let helper = helper(&self.program, std::slice::from_ref(&self.url), &self.token_file);
        let git = git.setting("credential.helper", &helper).setting("credential.useHttpPath", "true");
        match &self.ca_file {
            Some(file) => git.setting("http.sslCAInfo", &file.to_string_lossy()),
            None => git,
        }
    }

    /// The remote, with `git` of the repository that is fetched into and pushed from.
    #[must_use]
    pub fn remote(&self, git: Sealed) -> Remote {
        Remote { git: self.unlocked(git), address: self.url.address() }
    }
}

impl Remote {
    /// One at an address that is not looked at: for tests, with a path.
    #[must_use]
    pub fn local(git: Sealed, path: &Path) -> Self {
        Self { git: git.with_local_remotes(), address: path.to_string_lossy().into_owned() }
    }

    /// All refs of the remote.
    ///
    /// # Errors
    /// git's own words.
    pub async fn refs(&self) -> Result<Refs, RemoteError> {
        let listed = self.git.text(&["ls-remote", "--quiet", "--refs", "--end-of-options", &self.address]).await?;
        let entry = |line: &str| {
            let (sha, name) = line.split_once('\t')?;
            Some((name.to_owned(), sha.parse().ok()?))
        };
        Ok(listed.lines().filter_map(entry).collect())
    }

    /// Gets what these refs name, and keeps it under no name.
    ///
    /// # Errors
    /// git's own words.
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

    /// Makes or fast-forwards a ref, given by its full name.
    ///
    /// # Errors
    /// git's own words.
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
