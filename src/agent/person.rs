//! The git configuration that a person's git finds in a workspace, so that plain `git commit`, `fetch` and `push` work there.
//!
//! It is a file beside the volume, meant as git's system configuration (`GIT_CONFIG_SYSTEM`): what the person sets, in their home
//! or in the clone, goes before it, what the image brings is included, and nothing of it is written into the clone. There is no
//! secret in it: git asks our helper, which reads the token anew each time.

use std::ffi::OsStr;
use std::path::Path;

use super::WorkspaceError;
use super::tools::Tools;
use crate::git::Sealed;

/// Where an image has its own system configuration.
const OF_THE_IMAGE: &str = "/etc/gitconfig";
const HEAD: &str = "# Written by landfall workspace clone. Settings in your home or your clone go before these.\n";

/// Its text, made in `scratch`. `helper` is asked for the credentials of the one repository.
///
/// # Errors
/// git cannot write it.
pub async fn configuration(
    scratch: &Path,
    git: &Sealed,
    tools: &Tools,
    helper: &str,
) -> Result<Vec<u8>, WorkspaceError> {
    let url = &tools.url;
    let mut entries = vec![
        ("include.path".to_owned(), OF_THE_IMAGE.to_owned()),
        // The volume's owner may be another than who works on it.
        ("safe.directory".to_owned(), tools.clone.to_string_lossy().into_owned()),
        // The branch of the same name, also with a git that does not know the next one.
        ("push.default".to_owned(), "current".to_owned()),
        ("push.autoSetupRemote".to_owned(), "true".to_owned()),
    ];
    for address in [url.address(), url.bare_address()] {
        entries.push((format!("credential.{address}.useHttpPath"), "true".to_owned()));
        // An empty one first: helpers of the image are not told our token.
        entries.push((format!("credential.{address}.helper"), String::new()));
        entries.push((format!("credential.{address}.helper"), helper.to_owned()));
    }
    if let Some(ca) = &tools.ca_file {
        entries.push((format!("http.{}.sslCAInfo", url.host_address()), ca.to_string_lossy().into_owned()));
    }
    if let Some(author) = &tools.author {
        entries.push(("user.name".to_owned(), author.name.clone()));
        entries.push(("user.email".to_owned(), author.email.clone()));
    }
    let file = tempfile::Builder::new().prefix("landfall-gitconfig-").tempfile_in(scratch);
    let file = file.map_err(WorkspaceError::scratch(scratch))?;
    std::fs::write(file.path(), HEAD).map_err(WorkspaceError::scratch(file.path()))?;
    for (key, value) in &entries {
        // git itself writes it, for it has rules of its own about quoting.
        let arguments = [OsStr::new("config"), "--file".as_ref(), file.path().as_os_str(), "--add".as_ref()];
        git.run(&[&arguments[..], &[key.as_ref(), value.as_ref()]].concat()).await?;
    }
    // git has replaced the file by another of that name.
    std::fs::read(file.path()).map_err(WorkspaceError::scratch(file.path()))
}
