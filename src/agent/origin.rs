//! The repository that a clone is of, by its configuration.
//!
//! The invariant: work is pushed to the workspace's repository only from the clone that Landfall made, which has a note of its
//! address, or from a clone of the same address. A person may put a clone of another repository into its place, whose readers may
//! not be those of the workspace's. And only the remote-tracking refs of the workspace's repository show what that one has.

use std::collections::BTreeSet;
use std::path::Path;

use url::Url;

use super::WorkspaceError;
use super::credential::RepositoryUrl;
use super::directory::Directory;
use super::dot_git::LocalRefs;
use crate::git::{BranchName, Sealed, SealedError, Sha};

/// The setting in which a clone has the address that it was made from.
pub const NOTE: &str = "landfall.repository";
/// The most bytes of a repository's configuration.
const MOST_CONFIG: u64 = 1 << 20;
/// The settings, as git prints them: the names of sections and keys are in lower case.
const KEYS: &str = r"^(remote\..*\.url|landfall\.repository)$";

/// The remotes of a clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The names of the remotes with the workspace's repository.
    ours: BTreeSet<Vec<u8>>,
    /// The addresses of other remotes, without user names and passwords.
    others: Vec<String>,
    has_note: bool,
}

impl Origin {
    /// Reads it from the configuration of a git directory. git only parses the text, and opens no file that it names.
    pub async fn of(git: &Directory, sealed: &Sealed, repository: &RepositoryUrl) -> Result<Self, WorkspaceError> {
        let file = Path::new("config");
        let text = git.read(file, MOST_CONFIG).map_err(WorkspaceError::volume(file))?.unwrap_or_default();
        let arguments = ["config", "--file", "-", "--no-includes", "--null", "--get-regexp", KEYS];
        let said = match sealed.fed(&arguments, move |to| to.write_all(&text)).await {
            Ok(answer) => answer.stdout,
            // There is none, or the text is no configuration.
            Err(SealedError::Failed { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let settings: Vec<_> = said
            .split(|byte| *byte == 0)
            .filter_map(|setting| {
                let at = setting.iter().position(|byte| *byte == b'\n')?;
                Some((&setting[..at], String::from_utf8_lossy(&setting[at + 1..]).into_owned()))
            })
            .collect();
        let note = settings.iter().find(|(key, _)| *key == NOTE.as_bytes()).map(|(_, value)| value.clone());
        let mut origin = Self { has_note: note.is_some(), ..Self::default() };
        let known: Vec<_> =
            [Some(repository.address()), note].into_iter().flatten().filter_map(|url| place(&url)).collect();
        for (key, value) in settings {
            let Some(name) = key.strip_prefix(b"remote.").and_then(|name| name.strip_suffix(b".url")) else { continue };
            match place(&value) {
                Some(place) if known.iter().any(|known| known.is_same(&place)) => {
                    origin.ours.insert(name.to_vec());
                }
                Some(place) => origin.others.push(place.shown()),
                None => origin.others.push("an address that Landfall does not read".to_owned()),
            }
        }
        Ok(origin)
    }

    /// The addresses of the other repository that this is a clone of. None if it is the workspace's clone, or one of its
    /// repository, or has no remote.
    #[must_use]
    pub fn of_another(&self) -> Option<String> {
        let is_ours = self.has_note || !self.ours.is_empty() || self.others.is_empty();
        (!is_ours).then(|| self.others.join(", "))
    }

    /// The workspace's branch, by the remote-tracking refs.
    #[must_use]
    pub fn tracked(&self, local: &LocalRefs, branch: &BranchName) -> Option<Sha> {
        let name = |remote: &[u8]| [&b"refs/remotes/"[..], remote, b"/", branch.as_str().as_bytes()].concat();
        self.ours.iter().find_map(|remote| local.tracking.get(&name(remote)).cloned())
    }

    /// The commits that the workspace's repository has, by the remote-tracking refs.
    #[must_use]
    pub fn known(&self, local: &LocalRefs) -> Vec<Sha> {
        let is_its = |name: &[u8]| {
            let below = [&b"refs/remotes/"[..], b"refs/prefetch/remotes/"].iter().find_map(|at| name.strip_prefix(*at));
            below.is_some_and(|below| {
                self.ours.iter().any(|ours| below.strip_prefix(&ours[..]).is_some_and(|rest| rest.starts_with(b"/")))
            })
        };
        local.tracking.iter().filter(|(name, _)| is_its(name)).map(|(_, sha)| sha.clone()).collect()
    }
}

/// The host and the path of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    host: String,
    /// None for a protocol other than https, whose port says nothing about the repository.
    port: Option<u16>,
    path: String,
}

impl Place {
    fn is_same(&self, other: &Self) -> bool {
        let is_port = self.port.zip(other.port).is_none_or(|(one, other)| one == other);
        is_port && self.host == other.host && self.path == other.path
    }

    fn shown(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }
}

/// Reads an address of git's: a URL, or `HOST:PATH` for ssh (git-clone(1), "GIT URLS").
fn place(address: &str) -> Option<Place> {
    let plain = |path: &str| {
        let path = path.trim_matches('/').to_ascii_lowercase();
        path.strip_suffix(".git").map_or_else(|| path.clone(), str::to_owned)
    };
    if address.contains("://") {
        let url = Url::parse(address).ok()?;
        let port = (url.scheme() == "https").then(|| url.port_or_known_default()).flatten();
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        return Some(Place { host, port, path: plain(url.path()) });
    }
    let (host, path) = address.split_once(':').filter(|(host, _)| !host.contains('/'))?;
    let host = host.rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
    Some(Place { host, port: None, path: plain(path) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_repository_is_told_by_its_address_however_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let git = Sealed::new(directory.path(), directory.path(), Instant::now() + Duration::from_mins(5));
        let url: RepositoryUrl = "https://github.com/acme/shop.git".parse().unwrap();
        let remote = |name: &str, url: &str| format!("[remote \"{name}\"]\n\turl = {url}\n");
        let note = "[landfall]\n\trepository = https://github.com/acme/former.git\n";
        for (config, another) in [
            (String::new(), None),
            (remote("origin", "https://github.com/acme/shop.git"), None),
            (remote("origin", "https://x:y@GitHub.com/Acme/shop"), None),
            (remote("a.url", "git@github.com:acme/shop.git"), None),
            (remote("origin", "ssh://git@github.com:22/acme/shop"), None),
            (remote("origin", "https://github.com/acme/lib"), Some("github.com/acme/lib")),
            (remote("origin", "https://u:secret@github.com/acme/lib"), Some("github.com/acme/lib")),
            (remote("origin", "https://github.com:8443/acme/shop"), Some("github.com/acme/shop")),
            (remote("origin", "/srv/lib"), Some("an address that Landfall does not read")),
            (remote("origin", "https://github.com/acme/lib") + &remote("up", "git@github.com:acme/shop"), None),
            (remote("origin", "https://github.com/acme/lib") + note, None),
        ] {
            std::fs::write(directory.path().join("config"), &config).unwrap();
            let opened = Directory::open(directory.path()).unwrap();
            let origin = Origin::of(&opened, &git, &url).await.unwrap();
            assert_eq!(origin.of_another().as_deref(), another, "{config}");
        }
        let config =
            remote("origin", "https://github.com/acme/former") + &remote("x", "https://github.com/eve/x") + note;
        std::fs::write(directory.path().join("config"), config).unwrap();
        let origin = Origin::of(&Directory::open(directory.path()).unwrap(), &git, &url).await.unwrap();
        let sha = |digit: &str| digit.repeat(40).parse::<Sha>().unwrap();
        let refs = [("refs/remotes/origin/main", "1"), ("refs/remotes/x/main", "2"), ("refs/remotes/origins/a", "3")];
        let tracking = refs.iter().map(|(name, digit)| (name.as_bytes().to_vec(), sha(digit))).collect();
        let local = LocalRefs { tracking, ..LocalRefs::default() };
        assert_eq!(origin.known(&local), [sha("1")]);
    }
}
