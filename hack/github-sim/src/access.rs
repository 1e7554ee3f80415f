//! Permissions of Apps: their levels, and whether a grant covers a request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The level of a permission. Each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Look.
    Read,
    /// Change.
    Write,
    /// Administer (projects only).
    Admin,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        })
    }
}

/// Permissions by GitHub's names.
pub type Permissions = BTreeMap<String, Level>;

/// Whether `granted` covers all of `wanted`. `metadata: read` comes with every App.
pub(crate) fn covers(granted: &Permissions, wanted: &Permissions) -> bool {
    wanted.iter().all(|(name, level)| level_of(granted, name).is_some_and(|granted| granted >= *level))
}

pub(crate) fn level_of(granted: &Permissions, name: &str) -> Option<Level> {
    match granted.get(name) {
        None if name == "metadata" => Some(Level::Read),
        level => level.copied(),
    }
}

/// The permissions of `token` that remain with the account's grant, because an account can withdraw permissions while a
/// token lives.
pub(crate) fn narrowed(token: &Permissions, granted: &Permissions) -> Permissions {
    token.iter().filter_map(|(name, level)| Some((name.clone(), level_of(granted, name)?.min(*level)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(pairs: &[(&str, Level)]) -> Permissions {
        pairs.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect()
    }

    #[test]
    fn write_covers_read_and_not_the_other_way_round() {
        let granted = some(&[("contents", Level::Write)]);
        assert!(covers(&granted, &some(&[("contents", Level::Read)])));
        assert!(covers(&granted, &some(&[("metadata", Level::Read)])));
        assert!(!covers(&some(&[("contents", Level::Read)]), &granted));
        assert!(!covers(&granted, &some(&[("issues", Level::Read)])));
    }

    #[test]
    fn a_permission_taken_back_is_gone_from_living_tokens() {
        let token = some(&[("contents", Level::Write), ("issues", Level::Read)]);
        assert_eq!(narrowed(&token, &some(&[("contents", Level::Read)])), some(&[("contents", Level::Read)]));
    }
}
