//! The git configuration that a person's git finds in a workspace, so that plain `git commit`, `fetch` and `push` work there.
//!
//! It is a file beside the volume, meant as git's system configuration (`GIT_CONFIG_SYSTEM`): what the person sets, in their home
//! or in the clone, goes before it, what the image brings is included, and nothing of it is written into the clone. There is no
//! secret in it: git asks our helper, which reads the token anew each time.

use std::path::{Path, PathBuf};

use super::WorkspaceError;
use super::credential::helper;
use super::remote::Access;
use super::store::Author;
use crate::git::Sealed;

/// Where an image has its own system configuration.
const OF_THE_IMAGE: &str = "/etc/gitconfig";

/// Writes it to `file`, whole or not at all.
///
/// `program` is our own binary, as the person's container sees it, and so are the paths in `access`.
///
/// # Errors
/// It cannot be written.
pub async fn configure(
    file: &Path,
    git: &Sealed,
    access: &Access,
    directory: &Path,
    author: Option<&Author>,
) -> Result<(), WorkspaceError> {
    let url = &access.url;
    let helper = helper(&access.program, std::slice::from_ref(url), &access.token_file);
    let mut entries = vec![
        ("include.path".to_owned(), OF_THE_IMAGE.to_owned()),
        // The volume's owner may be another than who works on it.
        ("safe.directory".to_owned(), directory.to_string_lossy().into_owned()),
        // The branch of the same name, also with a git that does not know the next one.
        ("push.default".to_owned(), "current".to_owned()),
        ("push.autoSetupRemote".to_owned(), "true".to_owned()),
    ];
    for address in [url.address(), url.bare_address()] {
        entries.push((format!("credential.{address}.useHttpPath"), "true".to_owned()));
        // An empty one first: helpers of the image are not told our token.
        entries.push((format!("credential.{address}.helper"), String::new()));
        entries.push((format!("credential.{address}.helper"), helper.clone()));
    }
    if let Some(ca) = &access.ca_file {
        entries.push((format!("http.{}.sslCAInfo", url.host_address()), ca.to_string_lossy().into_owned()));
    }
    if let Some(author) = author {
        entries.push(("user.name".to_owned(), author.name.clone()));
        entries.push(("user.email".to_owned(), author.email.clone()));
    }
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    std::fs::write(
        &temporary,
        "# Written by landfall workspace clone. Settings in your home or your clone go before these.\n",
    )
    .map_err(WorkspaceError::scratch(&temporary))?;
    for (key, value) in &entries {
        // git itself writes it, for it has rules of its own about quoting.
        let arguments = [
            "config".as_ref(),
            "--file".as_ref(),
            temporary.as_os_str(),
            "--add".as_ref(),
            key.as_ref(),
            value.as_ref(),
        ];
        git.run(&arguments).await?;
    }
    std::fs::rename(&temporary, file).map_err(WorkspaceError::scratch(file))
}
