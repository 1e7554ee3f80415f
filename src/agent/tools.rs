//! What a person's container is given so that plain `git` and `gh` work there: a directory with a git configuration and two scripts.
//!
//! Scripts, for that container may be of any image: another libc, no git, nothing but a POSIX shell. They read the token at each
//! call from the file that the kubelet renews, and start nothing that would have it for an argument.
//!
//! The invariant: there is no secret in the directory, and each file is there whole or not at all; the configuration, which
//! names the others, comes last.

use crate::guards;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::WorkspaceError;
use super::credential::{RepositoryUrl, shell_quoted};
use super::person;
use super::store::Author;
use crate::git::Sealed;

/// git's configuration, for the variable `GIT_CONFIG_SYSTEM`.
pub const GIT_CONFIG: &str = "gitconfig";
/// git's credential helper.
pub const CREDENTIAL: &str = "git-credential-landfall";
/// The GitHub CLI with the workspace's token, for a directory that goes before the others in `PATH`.
pub const GH: &str = "gh";

const READ_TOKEN: &str = include_str!("tools/token.sh");
const ANSWER: &str = include_str!("tools/git-credential-landfall.sh");
const FIND_GH: &str = include_str!("tools/gh.sh");

/// What the tools are about, as the person's container sees it.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The repository that the token is for.
    pub url: RepositoryUrl,
    /// The directory of the tools.
    pub directory: PathBuf,
    /// The token's file.
    pub token_file: PathBuf,
    /// Certificates to trust instead of the system's, as a PEM file.
    pub ca_file: Option<PathBuf>,
    /// The clone.
    pub clone: PathBuf,
    /// Who the person commits as.
    pub author: Option<Author>,
}

impl Tools {
    /// Writes them into a directory, as it is called here, by means of `git` and `scratch`.
    ///
    /// # Errors
    /// One of the files cannot be written.
    pub async fn write(&self, to: &Path, scratch: &Path, git: &Sealed) -> Result<(), WorkspaceError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| WorkspaceError::Tools { path, source }
        };
        std::fs::create_dir_all(to).map_err(failed(to))?;
        let helper = format!("!{}", shell_quoted(&self.directory.join(CREDENTIAL).to_string_lossy()));
        let config = person::configuration(scratch, git, self, &helper).await?;
        for (name, text, mode) in [
            (CREDENTIAL, self.credential().as_bytes(), 0o555),
            (GH, self.gh().as_bytes(), 0o555),
            (GIT_CONFIG, &config, 0o444),
        ] {
            let file = to.join(name);
            replace(&file, text, mode).map_err(failed(&file))?;
        }
        Ok(())
    }

    /// The lines that both scripts begin with.
    fn beginning(&self, about: &str) -> String {
        let file = shell_quoted(&self.token_file.to_string_lossy());
        // A shell that shows what it does would show the token.
        format!(
            "#!/bin/sh\n# landfall: {about}\n# Written by landfall workspace clone.\n{{ set +x; }} 2>/dev/null\ntoken_file={file}\n"
        )
    }

    fn credential(&self) -> String {
        let mut script = self.beginning("git's credentials for this workspace's repository");
        // Hosts are the same in capitals, paths are not.
        let (host, path) = (any_case(self.url.host()), shell_quoted(self.url.path()));
        let port = if self.url.has_port() { "" } else { " | HOST:443" }.replace("HOST", &host);
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

/// A shell's pattern for a host's name in small letters and capitals.
fn any_case(host: &str) -> String {
    let pattern = |c: char| match c {
        'a'..='z' => format!("[{c}{}]", c.to_ascii_uppercase()),
        '0'..='9' | '.' | '-' => c.to_string(),
        _ => format!("\\{c}"),
    };
    host.chars().map(pattern).collect()
}

/// Replaces a file, by a rename: whoever reads it reads the old one or the new one.
///
/// # Errors
/// It cannot be written.
pub fn replace(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    let mut new = tempfile::Builder::new().prefix(".landfall-").tempfile_in(directory)?;
    io::Write::write_all(&mut new, bytes)?;
    // Past the umask: who reads it may be another user.
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
