//! The tools with which plain `git` and `gh` work in a person's container: a directory with a git configuration and two scripts.
//!
//! The tools are scripts, because that container may have any image: another libc, no git, only a POSIX shell. They read the token
//! at each call from the file that the kubelet renews, and never pass it as an argument.
//!
//! The invariant: the directory holds no secret, and each file in it is complete; the configuration, which names the others, is
//! written last.

use crate::guards;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::WorkspaceError;
use super::credential::{RepositoryUrl, shell_quoted};
use super::gitconfig;
use super::store::Author;
use crate::git::Sealed;

/// git's configuration, for `GIT_CONFIG_SYSTEM`.
pub const GIT_CONFIG: &str = "gitconfig";
/// git's credential helper.
pub const CREDENTIAL: &str = "git-credential-landfall";
/// A wrapper that gives the GitHub CLI the workspace's token; its directory comes first in `PATH`.
pub const GH: &str = "gh";

const READ_TOKEN: &str = include_str!("tools/token.sh");
const ANSWER: &str = include_str!("tools/git-credential-landfall.sh");
const FIND_GH: &str = include_str!("tools/gh.sh");

/// The paths are those in the person's container.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The token's repository.
    pub url: RepositoryUrl,
    /// Its address at the gateway, if git reaches it by the gateway.
    pub gateway: Option<RepositoryUrl>,
    pub directory: PathBuf,
    pub token_file: PathBuf,
    /// A PEM file of certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    pub clone: PathBuf,
    /// The author of the person's commits.
    pub author: Option<Author>,
}

impl Tools {
    /// The address of the repository for which the token and the certificates are.
    #[must_use]
    pub fn server(&self) -> &RepositoryUrl {
        self.gateway.as_ref().unwrap_or(&self.url)
    }

    /// Writes the tools into `to`, the directory's path in this container.
    pub async fn write(&self, to: &Path, scratch: &Path, git: &Sealed) -> Result<(), WorkspaceError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| WorkspaceError::Tools { path, source }
        };
        std::fs::create_dir_all(to).map_err(failed(to))?;
        let helper = format!("!{}", shell_quoted(&self.directory.join(CREDENTIAL).to_string_lossy()));
        let config = gitconfig::configuration(scratch, git, self, &helper).await?;
        let (credential, gh) = (self.credential(), self.gh());
        let mut files = vec![(CREDENTIAL, credential.as_bytes(), 0o555)];
        // The gateway's token opens nothing at GitHub's API.
        if self.gateway.is_none() {
            files.push((GH, gh.as_bytes(), 0o555));
        }
        files.push((GIT_CONFIG, &config, 0o444));
        for (name, text, mode) in files {
            let file = to.join(name);
            replace(&file, text, mode).map_err(failed(&file))?;
        }
        Ok(())
    }

    /// The first lines of both scripts.
    fn beginning(&self, about: &str) -> String {
        let file = shell_quoted(&self.token_file.to_string_lossy());
        // With `set -x` a shell prints the token.
        format!(
            "#!/bin/sh\n# landfall: {about}\n# Written by landfall workspace clone.\n{{ set +x; }} 2>/dev/null\ntoken_file={file}\n"
        )
    }

    fn credential(&self) -> String {
        let mut script = self.beginning("git's credentials for this workspace's repository");
        // The case of a host does not matter, that of a path does.
        let server = self.server();
        let (host, path) = (any_case(server.host()), shell_quoted(server.path()));
        let port = if server.has_port() { "" } else { " | HOST:443" }.replace("HOST", &host);
        let _ = write!(
            script,
            "is_ours() {{\n  case $1 in\n    {host}{port}) [ \"$2\" = {path} ] ;;\n    *) return 1 ;;\n  esac\n}}\n"
        );
        guards::credential_script(script) + READ_TOKEN + ANSWER
    }

    fn gh(&self) -> String {
        let mut script = self.beginning("gh");
        let ca_file = self.ca_file.as_deref().map(Path::to_string_lossy).unwrap_or_default();
        let _ = write!(script, "host={}\nca_file={}\n", shell_quoted(self.url.host()), shell_quoted(&ca_file));
        script + READ_TOKEN + FIND_GH
    }
}

/// A shell pattern that matches a host's name in any case.
fn any_case(host: &str) -> String {
    let pattern = |c: char| match c {
        'a'..='z' => format!("[{c}{}]", c.to_ascii_uppercase()),
        '0'..='9' | '.' | '-' => c.to_string(),
        _ => format!("\\{c}"),
    };
    host.chars().map(pattern).collect()
}

/// Replaces a file by a rename, so that a reader gets the old content or the new.
pub fn replace(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    let mut new = tempfile::Builder::new().prefix(".landfall-").tempfile_in(directory)?;
    io::Write::write_all(&mut new, bytes)?;
    // Regardless of the umask, because another user may read it.
    new.as_file().set_permissions(Permissions::from_mode(mode))?;
    new.persist(file).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_pattern_of_itself() {
        assert_eq!(any_case("git-1.ex:80"), r"[gG][iI][tT]-1.[eE][xX]\:80");
        assert_eq!(any_case("[::1]"), r"\[\:\:1\]");
    }

    #[test]
    fn a_file_is_replaced_past_one_that_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        for text in ["one", "two"] {
            replace(&file, text.as_bytes(), 0o555).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o555);
        }
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }
}
