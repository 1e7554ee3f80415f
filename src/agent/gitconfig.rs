//! The git configuration for a person in a workspace, with which plain `git commit`, `fetch` and `push` work.
//!
//! It is a file outside the volume that takes the place of git's system configuration (`GIT_CONFIG_SYSTEM`): the person's settings
//! in their home or in the clone override it, it includes the image's own, and nothing of it is written into the clone. It holds no
//! secret: git runs the credential helper, which reads the token each time. With a gateway, the addresses of the repository lead there
//! ([`super::gateway`]).

use std::ffi::OsStr;
use std::path::Path;

use super::WorkspaceError;
use super::tools::Tools;
use crate::git::Sealed;

/// The image's own system configuration.
const OF_THE_IMAGE: &str = "/etc/gitconfig";
const HEAD: &str = "# Written by landfall workspace clone. Settings in your home or your clone override these.\n";

/// The text of the file, which git writes in `scratch`. `helper` gives the credentials of the repository.
pub async fn configuration(
    scratch: &Path,
    git: &Sealed,
    tools: &Tools,
    helper: &str,
) -> Result<Vec<u8>, WorkspaceError> {
    let server = tools.server();
    let mut entries = vec![
        ("include.path".to_owned(), OF_THE_IMAGE.to_owned()),
        // The volume's owner may be another user than the container's.
        ("safe.directory".to_owned(), tools.clone.to_string_lossy().into_owned()),
        // For versions of git that do not know push.autoSetupRemote.
        ("push.default".to_owned(), "current".to_owned()),
        ("push.autoSetupRemote".to_owned(), "true".to_owned()),
    ];
    for address in server.in_credential_sections() {
        entries.push((format!("credential.{address}.useHttpPath"), "true".to_owned()));
        // The empty value removes the image's helpers, which would be given the token to store.
        entries.push((format!("credential.{address}.helper"), String::new()));
        entries.push((format!("credential.{address}.helper"), helper.to_owned()));
    }
    if let Some(ca) = &tools.ca_file {
        entries.push((format!("http.{}.sslCAInfo", server.host_address()), ca.to_string_lossy().into_owned()));
    }
    if tools.gateway.is_some() {
        // The gateway is in the cluster, which a proxy may not reach. An empty value means none.
        entries.push((format!("http.{}.proxy", server.host_address()), String::new()));
    }
    if let Some(author) = &tools.author {
        entries.push(("user.name".to_owned(), author.name.clone()));
        entries.push(("user.email".to_owned(), author.email.clone()));
    }
    let file = tempfile::Builder::new().prefix("landfall-gitconfig-").tempfile_in(scratch);
    let file = file.map_err(WorkspaceError::scratch(scratch))?;
    std::fs::write(file.path(), HEAD).map_err(WorkspaceError::scratch(file.path()))?;
    for (key, value) in &entries {
        // git writes the values itself, because it has its own rules for quoting.
        let arguments = [OsStr::new("config"), "--file".as_ref(), file.path().as_os_str(), "--add".as_ref()];
        git.run(&[&arguments[..], &[key.as_ref(), value.as_ref()]].concat()).await?;
    }
    // git has replaced the file, so it is read by its name.
    let mut text = std::fs::read(file.path()).map_err(WorkspaceError::scratch(file.path()))?;
    if let Some(gateway) = &tools.gateway {
        text.extend_from_slice(super::gateway::rules(&tools.url, gateway).as_bytes());
    }
    Ok(text)
}
