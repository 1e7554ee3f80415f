//! The formats of objects in answers and payloads: every field that GitHub's description requires, and none that it
//! does not declare.

mod account;
mod app;
mod git;
mod hook;
mod pull;
mod repository;

pub(crate) use account::{simple_user, user};
pub(crate) use app::{app, installation, permissions};
pub(crate) use git::{branch, commit, content, files, reference, short_branch};
pub(crate) use hook::{config, delivery, delivery_item, hook};
pub(crate) use pull::{in_media_type, label, pull, pull_simple};
pub(crate) use repository::{full, repository, trivial};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The bases of URLs: the web's and the API's.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    pub(crate) web: String,
    pub(crate) api: String,
}

/// The GraphQL id of an object: a prefix for its type, and opaque characters.
pub(crate) fn node_id(prefix: &str, id: u64) -> String {
    format!("{prefix}_{}", URL_SAFE_NO_PAD.encode([&[0x92, 0x00, 0xce][..], &id.to_be_bytes()[..]].concat()))
}

/// The number in a [`node_id`] of this prefix.
pub(crate) fn id_of_node(prefix: &str, node: &str) -> Option<u64> {
    let bytes = URL_SAFE_NO_PAD.decode(node.strip_prefix(prefix)?.strip_prefix('_')?).ok()?;
    Some(u64::from_be_bytes(bytes.get(3..)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_can_be_read_back() {
        assert_eq!(id_of_node("PR", &node_id("PR", 77)), Some(77));
        assert_eq!(id_of_node("R", &node_id("PR", 77)), None);
        assert_eq!(id_of_node("PR", "PR_%%"), None);
    }
}
