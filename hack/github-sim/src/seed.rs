//! The initial state of a simulated GitHub: accounts, Apps, repositories, installations.
//!
//! Everything here could be created by a person on github.com. Ids may be given (for tests that compare answers), or
//! are assigned.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::access::Permissions;

/// The reason why a seed cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file cannot be read.
    #[error("the seed {path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The text is not a valid seed. The source names field and line.
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
    pub repositories: Vec<RepositorySeed>,
    /// The installations of Apps on accounts.
    pub installations: Vec<InstallationSeed>,
    /// The person who acts through the control API: the first person in `accounts`, or `monalisa`.
    pub person: Option<String>,
    /// Life of installation tokens in seconds. The default is 3600.
    pub token_life_seconds: Option<u64>,
    /// Requests per hour and installation. The default is 5000.
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
    /// The user that an App acts as. It is created with the App, not seeded.
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
    #[serde(rename = "type")]
    pub kind: AccountType,
    /// `free` (no drafts in private repositories) or `team` (the default).
    pub plan: Option<String>,
}

/// A GitHub App. One of the three keys must be given.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppSeed {
    /// Its name. By default the slug is made from it.
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
    /// A file with its private key in PKCS#1. It is created if it does not exist.
    pub private_key_file: Option<PathBuf>,
    /// The permissions that it requests, which are also the default grant of installations.
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
    /// The address of its deliveries.
    pub url: String,
    /// The secret that signs them.
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
    pub name: String,
    /// Its number; assigned if absent.
    pub id: Option<u64>,
    /// Whether only accounts with access see it.
    pub private: bool,
    /// The default branch. The default is `main`.
    pub default_branch: Option<String>,
    /// The files of the first commit by path. The default is a README.
    pub files: BTreeMap<String, String>,
    /// Without any commit, like a repository on GitHub without a README.
    pub empty: bool,
    /// Read-only.
    pub archived: bool,
    pub description: Option<String>,
}

/// The repositories of an account that an installation may see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// All of the account, including later ones.
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
    /// The permissions that the account granted. The default is the App's requested ones.
    pub permissions: Option<Permissions>,
    /// Suspended from the start.
    pub suspended: bool,
}
