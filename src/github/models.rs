//! GitHub's answers, with the fields that Landfall uses.
//!
//! The models are Landfall's own, because octocrab's are closed: one unknown value makes a whole page unreadable. The invariant: no
//! field or value that GitHub adds, and no field that its description does not promise, makes an answer unreadable. Shapes:
//! GitHub's OpenAPI description of versions 2022-11-28 and 2026-03-10, in which these fields are the same.
mod hook;
mod pull;
mod repository;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::hook::{Hook, HookConfig};
pub use self::pull::{PullBase, PullHead, PullRepository, PullRequest, PullState};
pub use self::repository::{Comparison, MergeType, Merged, Relation, Repository};
use super::secret::Token;
use crate::ids::{AccountId, AppId, InstallationId};

/// GitHub's names of permissions, with their levels.
pub type Permissions = BTreeMap<String, Level>;

/// The level of a permission. An unknown word cannot be compared with the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Level {
    /// `read`
    Read,
    /// `write`, which includes `read`
    Write,
    /// `admin`, which includes `write`
    Admin,
    /// A word that this version does not know.
    Other(String),
}

impl Level {
    /// Whether `self` includes `wanted`. An unknown word includes only itself.
    #[must_use]
    pub fn covers(&self, wanted: &Self) -> bool {
        match (self.rank(), wanted.rank()) {
            (Some(has), Some(wanted)) => has >= wanted,
            _ => self == wanted,
        }
    }

    /// GitHub's word for it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
            Self::Other(word) => word,
        }
    }

    fn rank(&self) -> Option<u8> {
        match self {
            Self::Read => Some(1),
            Self::Write => Some(2),
            Self::Admin => Some(3),
            Self::Other(_) => None,
        }
    }
}

impl From<String> for Level {
    fn from(word: String) -> Self {
        match word.as_str() {
            "read" => Self::Read,
            "write" => Self::Write,
            "admin" => Self::Admin,
            _ => Self::Other(word),
        }
    }
}

impl From<&str> for Level {
    fn from(word: &str) -> Self {
        word.to_owned().into()
    }
}

impl From<Level> for String {
    fn from(level: Level) -> Self {
        level.as_str().to_owned()
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A user, an organization, a bot or an enterprise.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Account {
    /// A rename does not change it.
    pub id: AccountId,
    /// The name in addresses; the slug of an enterprise.
    #[serde(alias = "slug")]
    pub login: String,
    /// `User`, `Organization` or `Bot`; empty for an enterprise, which has none.
    #[serde(rename = "type", default)]
    pub kind: String,
}

/// `GET /app`: <https://docs.github.com/en/rest/apps/apps#get-the-authenticated-app>
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct App {
    pub id: AppId,
    /// The client id; GitHub Enterprise Server before 3.14 sends none here.
    #[serde(default)]
    pub client_id: Option<String>,
    /// The name in addresses, and of the App's bot user. GitHub's description does not promise it: see [`App::slug`].
    #[serde(default)]
    slug: Option<String>,
    /// The display name.
    pub name: String,
    #[serde(default)]
    pub owner: Option<Account>,
    pub html_url: String,
    /// The permissions that the App requests.
    #[serde(default)]
    pub permissions: Permissions,
    /// The events to which the App subscribes.
    #[serde(default)]
    pub events: Vec<String>,
}

impl App {
    /// The name in addresses: as GitHub gives it, or else the last part of the address of the App's page.
    #[must_use]
    pub fn slug(&self) -> Option<&str> {
        let from_page = || self.html_url.trim_end_matches('/').rsplit_once("apps/").map(|(_, slug)| slug);
        self.slug.as_deref().or_else(from_page).filter(|slug| !slug.is_empty() && !slug.contains('/'))
    }
}

/// The kind of access to repositories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum RepositorySelection {
    /// Every repository of the account, also future ones.
    All,
    /// Selected repositories.
    Selected,
    /// A word that this version does not know.
    Other(String),
}

impl RepositorySelection {
    /// GitHub's word for it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::All => "all",
            Self::Selected => "selected",
            Self::Other(word) => word,
        }
    }
}

impl From<String> for RepositorySelection {
    fn from(word: String) -> Self {
        match word.as_str() {
            "all" => Self::All,
            "selected" => Self::Selected,
            _ => Self::Other(word),
        }
    }
}

impl From<RepositorySelection> for String {
    fn from(selection: RepositorySelection) -> Self {
        selection.as_str().to_owned()
    }
}

/// An App's installation in an account: <https://docs.github.com/en/rest/apps/apps#get-an-installation-for-the-authenticated-app>
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Installation {
    /// A reinstallation gets another one.
    pub id: InstallationId,
    pub app_id: AppId,
    /// GitHub's description allows null.
    #[serde(default)]
    pub account: Option<Account>,
    pub repository_selection: RepositorySelection,
    /// The permissions that the account has granted.
    #[serde(default)]
    pub permissions: Permissions,
    #[serde(default)]
    pub events: Vec<String>,
    /// The settings page.
    pub html_url: String,
    /// Set while it is suspended. GitHub lists suspended installations, too.
    #[serde(default)]
    pub suspended_at: Option<Timestamp>,
    #[serde(default)]
    pub suspended_by: Option<Account>,
}

/// `POST /app/installations/{installation_id}/access_tokens`:
/// <https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app>
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Minted {
    pub token: Token,
    /// An hour after the mint.
    pub expires_at: Timestamp,
    /// The permissions of the token.
    #[serde(default)]
    pub permissions: Permissions,
    /// GitHub's description does not promise it, and an answer without it must not lose the token.
    #[serde(default)]
    pub repository_selection: Option<RepositorySelection>,
    /// The selected repositories.
    #[serde(default)]
    pub repositories: Option<Vec<Repository>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_covers_what_is_below_it_and_an_unknown_word_only_itself() {
        let level = Level::from;
        for (has, wanted, covers) in [
            ("write", "read", true),
            ("read", "read", true),
            ("read", "write", false),
            ("admin", "write", true),
            ("maintain", "maintain", true),
            ("maintain", "read", false),
            ("admin", "maintain", false),
        ] {
            assert_eq!(level(has).covers(&level(wanted)), covers, "{has} {wanted}");
        }
    }

    #[test]
    fn unknown_fields_words_and_nulls_are_tolerated() {
        let installation: Installation = serde_json::from_value(serde_json::json!({
            "id": 1, "app_id": 2, "account": null, "repository_selection": "some", "permissions": {"contents": "maintain", "metadata": "read"},
            "html_url": "https://github.com/x", "suspended_at": null, "suspended_by": null, "brand_new": {"a": [1]},
        }))
        .unwrap();
        assert_eq!(installation.repository_selection, RepositorySelection::Other("some".into()));
        assert_eq!(installation.permissions["contents"], Level::Other("maintain".into()));
        assert_eq!(installation.permissions["metadata"], Level::Read);
    }

    #[test]
    fn a_field_that_github_does_not_promise_loses_no_answer() {
        let minted: Minted =
            serde_json::from_value(serde_json::json!({"token": "ghs_x", "expires_at": "2026-11-21T02:00:00Z"}))
                .unwrap();
        assert_eq!(minted.repository_selection, None);
        let app: App = serde_json::from_value(
            serde_json::json!({"id": 7, "name": "Landfall", "html_url": "https://h.example/apps/landfall"}),
        )
        .unwrap();
        assert_eq!(app.slug(), Some("landfall"));
        for (page, slug) in [("https://h.example/github-apps/lf/", Some("lf")), ("https://h.example/x", None)] {
            let app: App = serde_json::from_value(serde_json::json!({"id": 7, "name": "L", "html_url": page})).unwrap();
            assert_eq!(app.slug(), slug, "{page}");
        }
        let merged: Merged = serde_json::from_value(serde_json::json!({"message": "done"})).unwrap();
        assert_eq!(merged.merge_type, None);
    }

    #[test]
    fn an_enterprise_has_a_slug_for_a_login() {
        let account: Account =
            serde_json::from_value(serde_json::json!({"id": 1, "slug": "octo", "name": "Octo"})).unwrap();
        assert_eq!((account.login.as_str(), account.kind.as_str()), ("octo", ""));
    }

    #[test]
    fn a_minted_token_prints_as_redacted() {
        let minted: Minted = serde_json::from_value(serde_json::json!({
            "token": "ghs_1_a.b-c", "expires_at": "2026-11-21T02:00:00Z", "permissions": {"contents": "read"}, "repository_selection": "selected",
        }))
        .unwrap();
        assert_eq!(minted.token.expose(), "ghs_1_a.b-c");
        assert!(!format!("{minted:?}").contains("ghs_1"), "{minted:?}");
    }
}
