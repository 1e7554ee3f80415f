//! Lists the refs of the workspace's remote, fetches from it and pushes to it.
//!
//! The invariant: git talks to the address that Landfall was given, or to the gateway in its place, never to one from a repository's
//! configuration, and gets its token from [`super::credential`] alone. No push is forced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::credential::{RepositoryUrl, helper};
use crate::git::{Sealed, SealedError, Sha};
use crate::github::Block;

/// The address of a workspace's repository, and the means to reach it.
#[derive(Clone, Debug)]
pub struct RemoteAccess {
    pub url: RepositoryUrl,
    /// Its address at the gateway, if git reaches it by the gateway. The token and the certificates are then those for the gateway.
    pub gateway: Option<RepositoryUrl>,
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
    /// The push has a commit with a secret, and the host's push protection refuses it.
    Secret,
    /// The host accepts signed commits alone.
    Unsigned,
    /// A commit has an address that its owner keeps private.
    Email,
    /// The push changes a workflow file, and the token lacks the permission `workflows`.
    Workflows,
    /// The repository is archived.
    Archived,
    /// The repository or branch is locked.
    Locked,
    /// The organization enforces SAML single sign-on.
    SingleSignOn,
    /// The organization's IP allow list does not have the cluster's address.
    IpAddress,
    /// The account is locked because of a bill.
    Billing,
    /// The host disabled the repository.
    Disabled,
    /// The host asks to wait.
    RateLimited,
    /// A rule of the host, such as a protected branch or a hook, refused it.
    Refused,
    /// The gateway refused it: the workspace may not push this ref.
    NotAllowed,
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
        matches!(
            self,
            Self::Unauthorized | Self::Unreachable | Self::RateLimited | Self::Conflict | Self::Late | Self::Unknown
        )
    }

    /// Whether every other push will fail for the same reason.
    #[must_use]
    pub fn concerns_all(self) -> bool {
        let all = [
            Self::Unauthorized,
            Self::NotFound,
            Self::Moved,
            Self::Unreachable,
            Self::Untrusted,
            Self::Late,
            Self::RateLimited,
            Self::Archived,
            Self::SingleSignOn,
            Self::IpAddress,
            Self::Billing,
            Self::Disabled,
        ];
        all.contains(&self)
    }

    /// The remedy, where git's message does not say it.
    #[must_use]
    pub fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Self::TooLarge => "remove the file from the commits, or keep it in Git LFS",
            Self::Secret => {
                "remove the secret from the commits, and revoke it; or allow it at the address in the message"
            }
            Self::LargeFile => "push the LFS objects first, with `git lfs push --all`",
            Self::Unsigned => {
                "the repository accepts signed commits alone: have its administrators let the App bypass that rule"
            }
            Self::Email => "use the account's noreply address in spec.author.email and in the commits",
            Self::Workflows => "give the App the permission workflows: write, and have the account accept it",
            Self::Archived => "unarchive the repository in its settings",
            Self::Locked => Block::Locked.remedy(),
            Self::SingleSignOn => Block::SingleSignOn.remedy(),
            Self::IpAddress => Block::IpAddress.remedy(),
            Self::Billing => Block::Billing.remedy(),
            Self::Disabled => Block::Withdrawn.remedy(),
            Self::NotAllowed => {
                "push to the workspace's own branch, or add the ref to spec.push of the Workspace within the grant"
            }
            Self::Refused => {
                "follow the rule that the message names, or have the repository's administrators let the App bypass it"
            }
            _ => return None,
        })
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
            "exceeds maximum allowed size",
            "is too large",
            "HTTP 413",
            "error: 413",
        ]) {
            return Self::TooLarge;
        }
        if says(&[
            "(non-fast-forward)",
            "(not a fast-forward",
            "(fetch first)",
            "(stale info)",
            "(already exists)",
            "cannot lock ref",
            "(failed to update ref)",
        ]) {
            return Self::Conflict;
        }
        let rules: [(Self, &[&str]); 6] = [
            (Self::Secret, &["Push cannot contain secrets", "GITHUB PUSH PROTECTION"]),
            (Self::Email, &["GH007"]),
            (Self::Unsigned, &["must have verified signatures"]),
            (Self::Workflows, &["without `workflows` permission"]),
            (Self::Archived, &["repository was archived so"]),
            (Self::RateLimited, &["rate limit", "error: 429", "HTTP 429"]),
        ];
        if let Some((trouble, _)) = rules.iter().find(|(_, texts)| says(texts)) {
            return *trouble;
        }
        match Block::of(words) {
            Some(Block::SingleSignOn) => return Self::SingleSignOn,
            Some(Block::IpAddress) => return Self::IpAddress,
            Some(Block::Billing) => return Self::Billing,
            Some(Block::Withdrawn) => return Self::Disabled,
            Some(Block::Locked) => return Self::Locked,
            None => {}
        }
        if says(&["[remote rejected]", "ERR access denied"]) {
            let passes = ["Internal Server Error", "internal error", "(GitHub gave no answer", "(GitHub answers 5"];
            return match (says(&passes), says(OF_THE_GATEWAY)) {
                (true, _) => Self::Unreachable,
                (false, true) => Self::NotAllowed,
                (false, false) => Self::Refused,
            };
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
        if says(&["error: 408", "error: 5", "HTTP 5"]) {
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

/// The gateway's reasons in a report of a push (`src/gateway/refs.rs`).
const OF_THE_GATEWAY: &[&str] = &[
    "(this workspace pushes to ",
    "(this workspace deletes only refs below ",
    ", but the GitHubApp does not grant it",
    "; moving a tag takes spec.push.force)",
    "(push options are not passed on",
];

/// A push, fetch or listing failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words}{}", trouble.remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default())]
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
        let server = self.gateway.as_ref().unwrap_or(&self.url);
        let helper = helper(&self.program, std::slice::from_ref(server), &self.token_file);
        let mut git = git.setting("credential.helper", &helper).setting("credential.useHttpPath", "true");
        if let Some(gateway) = &self.gateway {
            // The only address that is given to this git is the whole one, so the prefix needs no care. The gateway is in the
            // cluster, which a proxy may not reach.
            git = git.setting(&format!("url.{}.insteadOf", gateway.address()), &self.url.address());
            git = git.setting("http.proxy", "");
        }
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
            (
                " ! [remote rejected] a -> b (not a fast-forward, and the branch may not be this workspace's own; see spec.push.force)",
                Trouble::Conflict,
            ),
            (" ! [remote rejected] a -> b (GitHub gave no answer; push again)", Trouble::Unreachable),
            (" ! [remote rejected] a -> b (GitHub answers 502 Bad Gateway)", Trouble::Unreachable),
            (
                " ! [remote rejected] a -> main (this workspace pushes to landfall/x only; see spec.push.refs)",
                Trouble::NotAllowed,
            ),
            (" ! [remote rejected] a (this workspace deletes only refs below landfall-wip/x/)", Trouble::NotAllowed),
            (" ! [remote rejected] a -> b (push options are not passed on: \"ci.skip\")", Trouble::NotAllowed),
            (
                "remote: no token of a workspace's pod came with the request\nfatal: Authentication failed for 'https://g/h/7.git/'",
                Trouble::Unauthorized,
            ),
            (
                "remote: the gateway is starting; try again\nfatal: unable to access 'https://g/h/7.git/': The requested URL returned error: 503",
                Trouble::Unreachable,
            ),
            (
                "remote: too many git commands of this workspace run at once; wait for the others\nfatal: unable to access 'https://g/h/7.git/': The requested URL returned error: 429",
                Trouble::RateLimited,
            ),
            (
                "remote: the GitHubApp grants this repository no more\nfatal: unable to access 'https://g/h/7.git/': The requested URL returned error: 403",
                Trouble::Forbidden,
            ),
            (
                "remote: Repository not found. A workspace reaches its own repository only.\nfatal: repository 'https://g/h/7.git/' not found",
                Trouble::NotFound,
            ),
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
                Trouble::RateLimited,
            ),
            (
                "remote: fatal: pack exceeds maximum allowed size (2.00 GiB)\n ! [remote rejected] a -> b (unpacker error)",
                Trouble::TooLarge,
            ),
            (
                "remote: error: GH006: Protected branch update failed for refs/heads/b.\nremote: error: - Commits must have verified signatures.\n ! [remote rejected] a -> b (protected branch hook declined)",
                Trouble::Unsigned,
            ),
            (
                "remote: error: GH006: Protected branch update failed for refs/heads/b.\nremote: error: - Cannot change this locked branch\n ! [remote rejected] a -> b (protected branch hook declined)",
                Trouble::Locked,
            ),
            (
                "remote: error: GH007: Your push would publish a private email address.\n ! [remote rejected] a -> b (push declined due to email privacy restrictions)",
                Trouble::Email,
            ),
            (
                "remote: error: GH008: Your push referenced at least 1 unknown Git LFS object:\n ! [remote rejected] a -> b (pre-receive hook declined)",
                Trouble::LargeFile,
            ),
            (
                "remote: error: GH013: Repository rule violations found for refs/heads/b.\nremote: - Changes must be made through a pull request.\n ! [remote rejected] a -> b (push declined due to repository rule violations)",
                Trouble::Refused,
            ),
            (
                "remote: error: GH013: Repository rule violations found for refs/heads/b.\nremote: - Push cannot contain secrets\n ! [remote rejected] a -> b (push declined due to repository rule violations)",
                Trouble::Secret,
            ),
            (
                " ! [remote rejected] a -> b (refusing to allow a GitHub App to create or update workflow `.github/workflows/ci.yaml` without `workflows` permission)",
                Trouble::Workflows,
            ),
            (
                "remote: This repository was archived so it is read-only.\nfatal: unable to access 'https://h/a/b.git/': The requested URL returned error: 403",
                Trouble::Archived,
            ),
            (
                "remote: The 'a' organization has enabled or enforced SAML SSO.\nfatal: unable to access 'https://h/a/b.git/': The requested URL returned error: 403",
                Trouble::SingleSignOn,
            ),
            (
                "remote: The `a` organization has an IP allow list enabled, and 192.0.2.1 is not permitted to access this resource.\nfatal: unable to access 'https://h/a/b.git/': The requested URL returned error: 403",
                Trouble::IpAddress,
            ),
            (
                "remote: Repository 'a/b' is disabled. Please ask the owner to check their account.\nfatal: unable to access 'https://h/a/b.git/': The requested URL returned error: 403",
                Trouble::Billing,
            ),
            (
                "remote: Access to this repository has been disabled by GitHub staff.\nfatal: unable to access 'https://h/a/b.git/': The requested URL returned error: 403",
                Trouble::Disabled,
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
