//! The scope that a token was requested for, as it is stored on the Secret with the token.
//!
//! Invariant: two scopes are equal exactly when a token minted for one serves the other. The scope is an annotation of
//! the Secret, written in the same request as the token, so that after a restart between publishing and writing status
//! the operator knows the scope of the published token. A tenant can edit it. It is therefore only compared with the
//! wanted scope, and GitHub's answer to it is compared with the grant again.

use crate::api::{InstallationToken, Permissions, RepositoryReference, RepositorySelection};
use crate::grant::Known;
use crate::ids::{InstallationId, RepositoryId};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Repositories {
    /// All repositories that the installation can see.
    All,
    /// These, by name or id, sorted.
    Only(Vec<Named>),
}

/// A repository as the spec names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Named {
    Id(RepositoryId),
    /// By name, in lower case.
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    /// The installation's id. Another installation after a reinstallation needs another token.
    pub installation: InstallationId,
    pub repositories: Repositories,
    /// The permissions. They always include `metadata: read`, which GitHub gives with every token.
    pub permissions: Permissions,
}

impl Repositories {
    pub const fn selection(&self) -> RepositorySelection {
        match self {
            Self::All => RepositorySelection::All,
            Self::Only(_) => RepositorySelection::Selected,
        }
    }
}

impl Scope {
    /// The scope in the spec.
    #[must_use]
    pub fn wanted(token: &InstallationToken, installation: InstallationId) -> Self {
        let repositories = if token.spec.repository_selection == RepositorySelection::All {
            Repositories::All
        } else {
            let mut named: Vec<_> = token.spec.repositories.iter().filter_map(Named::from_reference).collect();
            named.sort();
            named.dedup();
            Repositories::Only(named)
        };
        let mut permissions = token.spec.permissions.clone();
        permissions.entry("metadata".to_owned()).or_insert_with(|| "read".to_owned());
        Self { installation, repositories, permissions }
    }

    /// The repositories, for the check against a grant.
    #[must_use]
    pub fn known(&self) -> Option<Vec<Known>> {
        match &self.repositories {
            Repositories::All => None,
            Repositories::Only(named) => Some(named.iter().map(Named::known).collect()),
        }
    }

    /// A description for people: "shop, id 7 with contents: read".
    #[must_use]
    pub fn describe(&self) -> String {
        let repositories = match &self.repositories {
            Repositories::All => "all repositories".to_owned(),
            Repositories::Only(named) => {
                let first: Vec<_> = named.iter().take(5).map(Named::describe).collect();
                match named.len().checked_sub(5) {
                    Some(more @ 1..) => format!("{} and {more} more", first.join(", ")),
                    _ => first.join(", "),
                }
            }
        };
        let permissions: Vec<_> = self.permissions.iter().map(|(name, level)| format!("{name}: {level}")).collect();
        format!("{repositories} with {}", permissions.join(", "))
    }
}

impl Named {
    fn from_reference(reference: &RepositoryReference) -> Option<Self> {
        reference.id.map(Self::Id).or_else(|| reference.name.as_ref().map(|name| Self::Name(name.to_ascii_lowercase())))
    }

    fn known(&self) -> Known {
        match self {
            Self::Id(id) => Known { name: None, id: Some(*id) },
            Self::Name(name) => Known { name: Some(name.clone()), id: None },
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Id(id) => format!("id {id}"),
            Self::Name(name) => name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::id;
    use serde_json::json;

    fn token(spec: &serde_json::Value) -> InstallationToken {
        let mut spec = spec.clone();
        spec["installationRef"] = json!({"name": "acme"});
        spec["secret"] = json!({"name": "git"});
        serde_json::from_value(json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken", "metadata": {"name": "t"}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn order_case_and_repetition_do_not_make_another_scope() {
        let one = token(&json!({"repositories": [{"name": "Shop"}, {"id": 7}, {"name": "lib"}]}));
        let other = token(&json!({"repositories": [{"name": "lib"}, {"name": "shop"}, {"id": 7}, {"id": 7}],
            "permissions": {"metadata": "read", "contents": "read"}}));
        assert_eq!(Scope::wanted(&one, id(1)), Scope::wanted(&other, id(1)));
        assert_ne!(Scope::wanted(&one, id(1)), Scope::wanted(&one, id(2)), "a reinstallation");
    }

    #[test]
    fn it_reads_back_what_it_wrote() {
        for spec in [json!({"repositorySelection": "All"}), json!({"repositories": [{"name": "a"}, {"id": 7}]})] {
            let scope = Scope::wanted(&token(&spec), id(5));
            let text = serde_json::to_string(&scope).unwrap();
            assert_eq!(serde_json::from_str::<Scope>(&text).unwrap(), scope, "{text}");
        }
    }
}
