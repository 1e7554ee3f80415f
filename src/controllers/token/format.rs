//! The formats of a Secret with a token: the type, the keys and the labels that each of them has.
//!
//! Invariant: every format has the key `token`, so that a program that mounts it does not depend on the format. All
//! other content follows from the token and from facts that the operator knows anyway, so that a Secret changes its
//! format without another token.

use super::template::{self, Problem, Variables};
use crate::api::{InstallationToken, Reason, RepositorySelection, SecretFormat};
use crate::controllers::standing::Standing;
use crate::github::Endpoint;
use crate::ids::InstallationId;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// The user name that git needs with a token: GitHub's "Authenticating as a GitHub App installation".
const GIT_USER: &str = "x-access-token";
/// The key of the token in every format.
pub const TOKEN_KEY: &str = "token";
/// The key of the GitHub's certificates in every format.
const CA_KEY: &str = "ca.crt";
/// The most bytes that all templates of a Secret make.
const LONGEST_TEMPLATES: usize = 256 * 1024;
/// The label by which Argo CD finds its Secrets.
pub const ARGO_CD_LABEL: &str = "argocd.argoproj.io/secret-type";

/// The facts about the installation that some formats write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub endpoint: Endpoint,
    /// The account's current login on GitHub.
    pub account: String,
    pub installation: InstallationId,
}

/// The content of a Secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Formatted {
    pub kind: &'static str,
    pub data: BTreeMap<String, String>,
    pub labels: BTreeMap<&'static str, &'static str>,
}

/// The token and the facts with which a Secret is written.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    pub token: &'a str,
    pub expires_at: Timestamp,
    pub ca_bundle: Option<&'a str>,
    /// `None` for formats that need none, and while the installation is unknown.
    pub facts: Option<&'a Facts>,
}

/// The reason why a Secret cannot be written in the format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("the account and the addresses of its GitHub are not known yet")]
    NotKnown,
    #[error(
        "spec.secret.format ArgoCDRepository needs the address of exactly one repository: name one by its name under \
         spec.repositories, or set spec.secret.format to ArgoCDRepoCreds, which serves several or all repositories"
    )]
    NotOneRepository,
    #[error("spec.secret.template[{key}]{}: {}", line(.problem), .problem.message)]
    Template { key: String, problem: Problem },
    #[error("spec.secret.template makes more than 256 KiB in all: make its texts smaller")]
    TooLong,
}

fn line(problem: &Problem) -> String {
    problem.line.map(|line| format!(", line {line}")).unwrap_or_default()
}

impl FormatError {
    /// The standing of the object.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self {
            Self::NotKnown => Standing::reconciling(Reason::WaitingForReference, self.to_string()),
            Self::NotOneRepository => Standing::stalled(Reason::InvalidSpec, self.to_string()),
            Self::Template { .. } | Self::TooLong => Standing::stalled(Reason::InvalidTemplate, self.to_string()),
        }
    }
}

impl SecretFormat {
    /// Whether a Secret of this format has more in it than the token and certificates.
    #[must_use]
    pub(super) const fn needs_facts(self) -> bool {
        !matches!(self, Self::BasicAuth | Self::Opaque)
    }
}

/// The content of the Secret of an object.
pub fn format(object: &InstallationToken, known: &Known<'_>) -> Result<Formatted, FormatError> {
    let mut data = BTreeMap::new();
    let mut put = |key: &str, value: &str| data.insert(key.to_owned(), value.to_owned());
    let mut labels = BTreeMap::new();
    let mut kind = "Opaque";
    let facts = || known.facts.ok_or(FormatError::NotKnown);
    match object.spec.secret.format {
        SecretFormat::BasicAuth => {
            put("username", GIT_USER);
            put("password", known.token);
            kind = "kubernetes.io/basic-auth";
        }
        SecretFormat::Opaque => {}
        SecretFormat::GitCredentials => {
            put(".git-credentials", &git_credentials(&facts()?.endpoint, known.token));
        }
        SecretFormat::Netrc => {
            put(".netrc", &netrc(&facts()?.endpoint, known.token));
        }
        SecretFormat::ArgoCDRepository => {
            let facts = facts()?;
            let name = only_repository(object).ok_or(FormatError::NotOneRepository)?;
            labels.insert(ARGO_CD_LABEL, "repository");
            put("type", "git");
            put("url", &format!("{}/{}/{name}", facts.endpoint.web_url(), facts.account));
            put("username", GIT_USER);
            put("password", known.token);
        }
        SecretFormat::ArgoCDRepoCreds => {
            let facts = facts()?;
            labels.insert(ARGO_CD_LABEL, "repo-creds");
            put("type", "git");
            // Argo CD compares it with the beginning of a repository's address. Without the slash it would also serve
            // the repositories of accounts whose names begin with this one.
            put("url", &format!("{}/{}/", facts.endpoint.web_url(), facts.account));
            put("username", GIT_USER);
            put("password", known.token);
        }
        SecretFormat::Template => {
            for (key, text) in rendered(object, known, facts()?)? {
                put(&key, &text);
            }
        }
    }
    put(TOKEN_KEY, known.token);
    if let Some(ca_bundle) = known.ca_bundle {
        put(CA_KEY, ca_bundle);
    }
    Ok(Formatted { kind, data, labels })
}

/// The keys that the templates make.
fn rendered(
    object: &InstallationToken,
    known: &Known<'_>,
    facts: &Facts,
) -> Result<Vec<(String, String)>, FormatError> {
    let names = object.spec.repositories.iter().filter_map(|repository| repository.name.as_ref());
    let variables = Variables {
        token: known.token,
        username: GIT_USER,
        expires_at: known.expires_at.to_string(),
        host: facts.endpoint.web_host(),
        api_url: facts.endpoint.api_url(),
        account: &facts.account,
        installation_id: facts.installation.into(),
        repositories: names.map(|name| format!("{}/{name}", facts.account)).collect(),
    };
    let mut all = Vec::new();
    let mut length = 0;
    for (key, text) in &object.spec.secret.template {
        let text = template::render(text, &variables)
            .map_err(|problem| FormatError::Template { key: key.clone(), problem })?;
        length += text.len();
        if length > LONGEST_TEMPLATES {
            return Err(FormatError::TooLong);
        }
        all.push((key.clone(), text));
    }
    Ok(all)
}

/// The line that git's credential helper `store` reads. It compares scheme and host, with the port.
fn git_credentials(endpoint: &Endpoint, token: &str) -> String {
    let token = percent_encoding::utf8_percent_encode(token, UNRESERVED);
    let (scheme, _) = endpoint.web_url().split_once("://").unwrap_or(("https", ""));
    format!("{scheme}://{GIT_USER}:{token}@{}\n", endpoint.web_host())
}

/// All characters but those that RFC 3986 calls unreserved.
pub const UNRESERVED: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The line that curl, git and Go read. A netrc file knows no ports.
fn netrc(endpoint: &Endpoint, token: &str) -> String {
    let host = endpoint.web_host();
    let host = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host);
    format!("machine {host} login {GIT_USER} password {token}\n")
}

/// The name of the repository, if the spec selects exactly one by name.
fn only_repository(object: &InstallationToken) -> Option<&str> {
    match object.spec.repositories.as_slice() {
        [only] if object.spec.repository_selection == RepositorySelection::Selected => only.name.as_deref(),
        _ => None,
    }
}

/// Whether a Secret can be written at all. The plan asks this before it asks GitHub for a token, so the token here is a
/// dummy of the usual length.
pub fn check(object: &InstallationToken, facts: Option<&Facts>) -> Result<(), FormatError> {
    if facts.is_none() {
        return Ok(());
    }
    let token = format!("ghs_{}", "x".repeat(516));
    format(object, &Known { token: &token, expires_at: Timestamp::UNIX_EPOCH, ca_bundle: None, facts }).map(drop)
}

#[cfg(test)]
mod tests;
