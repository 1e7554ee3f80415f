//! What a simulated GitHub begins with: accounts, Apps, repositories, installations.
//!
//! Everything here is what a person could have clicked together on github.com; ids may be given (tests that compare
//! answers) or are assigned.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::access::Permissions;

/// Why a seed cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file cannot be read.
    #[error("the seed {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text does not say what a seed says; the source names field and line.
    #[error("the seed is not valid: {0}")]
    Parse(String),
}

/// The first state of a simulator.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seed {
    /// Organisations and people.
    pub accounts: Vec<AccountSeed>,
    /// GitHub Apps.
    pub apps: Vec<AppSeed>,
    /// Repositories.
    pub repositories: Vec<RepositorySeed>,
    /// Where which App is installed.
    pub installations: Vec<InstallationSeed>,
    /// The person who acts through the control API: the first person in `accounts`, or `monalisa`.
    pub person: Option<String>,
    /// Life of installation tokens in seconds: 3600 unless told.
    pub token_life_seconds: Option<u64>,
    /// Requests per hour and installation: 5000 unless told.
    pub rate_limit: Option<u64>,
}

impl Seed {
    /// Reads a seed from YAML; paths in it are relative to the working directory.
    pub fn from_yaml(text: &str) -> Result<Self, SeedError> {
        serde_saphyr::from_str(text).map_err(|error| SeedError::Parse(error.to_string()))
    }

    /// Reads a seed from a YAML file; paths in it are relative to the file.
    pub fn from_file(path: &Path) -> Result<Self, SeedError> {
        let text = std::fs::read_to_string(path).map_err(|source| SeedError::Read { path: path.to_owned(), source })?;
        let mut seed = Self::from_yaml(&text)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for app in &mut seed.apps {
            for file in [&mut app.public_key_file, &mut app.private_key_file].into_iter().flatten() {
                *file = folder.join(&*file);
            }
        }
        Ok(seed)
    }
}

/// The kinds of account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountType {
    /// A person.
    #[default]
    User,
    /// An organisation.
    Organization,
    /// The user an App acts as; made with the App, not seeded.
    Bot,
}

/// An organisation or a person.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccountSeed {
    /// Its name in URLs.
    pub login: String,
    /// Its number; assigned if absent.
    pub id: Option<u64>,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: AccountType,
    /// `free` (no drafts in private repositories) or `team` (the default).
    pub plan: Option<String>,
}

/// A GitHub App. One of the three keys must be given.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppSeed {
    /// Its name; the slug is made from it unless given.
    pub name: String,
    /// Its name in URLs and in its bot's login.
    pub slug: Option<String>,
    /// The account that owns it.
    pub owner: String,
    /// Its number; assigned if absent.
    pub id: Option<u64>,
    /// Its client id (`Iv23…`); assigned if absent.
    pub client_id: Option<String>,
    /// A PEM text with its public (or private) key.
    pub public_key: Option<String>,
    /// A file with the same.
    pub public_key_file: Option<PathBuf>,
    /// A file with its private key in PKCS#1; made if it does not exist.
    pub private_key_file: Option<PathBuf>,
    /// What it asks for, and what installations grant unless they say otherwise.
    pub permissions: Permissions,
    /// The events it subscribes to.
    pub events: Vec<String>,
    /// Its hook.
    pub webhook: Option<WebhookSeed>,
}

/// The hook of an App.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookSeed {
    /// Where deliveries go.
    pub url: String,
    /// What they are signed with.
    pub secret: Option<String>,
    /// `form` (the default) or `json`.
    pub content_type: Option<String>,
}

/// A repository, with a first commit unless `empty`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositorySeed {
    /// The login of its owner.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// Its number; assigned if absent.
    pub id: Option<u64>,
    /// Whether only those with access see it.
    pub private: bool,
    /// The default branch: `main` unless told.
    pub default_branch: Option<String>,
    /// The files of the first commit by path; a README if none are named.
    pub files: BTreeMap<String, String>,
    /// No commit at all, as GitHub makes a repository without a README.
    pub empty: bool,
    /// Read-only.
    pub archived: bool,
    /// What it is for.
    pub description: Option<String>,
}

/// Which repositories of an account an installation may see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// All of the account, also later ones.
    #[default]
    All,
    /// These, by name.
    Selected(Vec<String>),
}

/// An App on an account.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InstallationSeed {
    /// The slug of the App.
    pub app: String,
    /// The login of the account.
    pub account: String,
    /// Its number; assigned if absent.
    pub id: Option<u64>,
    /// All repositories of the account (the default), or the named ones: `selection: {selected: [shop]}`.
    pub selection: Selection,
    /// What the account granted; what the App asks for unless told.
    pub permissions: Option<Permissions>,
    /// Suspended from the start.
    pub suspended: bool,
}
