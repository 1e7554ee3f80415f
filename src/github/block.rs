//! Refusals that are neither a rate limit nor a missing permission: a person has to act outside of Landfall's objects.
//!
//! GitHub uses the same status for them as for a missing permission, so only the words distinguish them. The words are
//! those of the API, of git over HTTP, and of a refused push. All have a space, so that no name of a repository or branch
//! matches.

use std::fmt;

/// The reason why these credentials are refused, whatever their permissions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// The organization enforces SAML single sign-on, and the credentials were not authorized for it.
    SingleSignOn,
    /// The organization or enterprise has an IP allow list without the address of this call.
    IpAddress,
    /// The account is locked because of a bill.
    Billing,
    /// GitHub withdrew the repository, because of its terms or of the law.
    Withdrawn,
    /// The repository or branch is locked, for example for a migration.
    Locked,
}

const WORDS: &[(Block, &[&str])] = &[
    (Block::SingleSignOn, &["saml sso", "saml enforcement"]),
    (Block::IpAddress, &["ip allow list"]),
    (Block::Billing, &["billing issue", "is disabled. please ask the owner to check"]),
    (Block::Withdrawn, &["repository access blocked", "disabled by github staff", "dmca takedown"]),
    (Block::Locked, &["locked for migration", "cannot change this locked branch", "repository is locked"]),
];

impl Block {
    /// The block that GitHub's words name.
    #[must_use]
    pub fn of(words: &str) -> Option<Self> {
        let words = words.to_ascii_lowercase();
        WORDS.iter().find(|(_, texts)| texts.iter().any(|text| words.contains(text))).map(|(block, _)| *block)
    }

    /// The block of a refusal whose body has a `block.reason`.
    #[must_use]
    pub fn of_reason(reason: &str) -> Self {
        if reason == "billing" { Self::Billing } else { Self::Withdrawn }
    }

    /// The remedy.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::SingleSignOn => {
                "the organization enforces SAML single sign-on: its owners have to authorize these credentials, or use an App, whose installation tokens need no authorization"
            }
            Self::IpAddress => {
                "the owners of the organization have to add the cluster's outgoing address to its IP allow list, or allow the addresses that the App's settings list"
            }
            Self::Billing => {
                "the account is locked because of a bill: its owners have to settle it in its billing settings"
            }
            Self::Withdrawn => {
                "GitHub disabled access to the repository: its owners find the reason on its page, and can ask GitHub Support"
            }
            Self::Locked => "it is locked: wait for the end of the migration, or have an administrator unlock it",
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_is_known_by_githubs_words() {
        let table = [
            (
                "Resource protected by organization SAML enforcement. You must grant your OAuth token access to this organization.",
                Some(Block::SingleSignOn),
            ),
            ("remote: The 'acme' organization has enabled or enforced SAML SSO.", Some(Block::SingleSignOn)),
            (
                "Although you appear to have the correct authorization credentials, the `acme` organization has an IP allow list enabled, and your IP address is not permitted to access this resource.",
                Some(Block::IpAddress),
            ),
            (
                "remote: Repository 'acme/shop' is disabled. Please ask the owner to check their account.",
                Some(Block::Billing),
            ),
            ("Your account is locked due to a billing issue.", Some(Block::Billing)),
            ("Repository access blocked", Some(Block::Withdrawn)),
            ("Access to this repository has been disabled by GitHub staff.", Some(Block::Withdrawn)),
            ("Repository unavailable due to DMCA takedown.", Some(Block::Withdrawn)),
            ("Repository has been locked for migration.", Some(Block::Locked)),
            ("remote: error: - Cannot change this locked branch", Some(Block::Locked)),
            ("Resource not accessible by integration", None),
            ("Permission to acme/saml-sso.git denied to landfall[bot].", None),
        ];
        for (words, block) in table {
            assert_eq!(Block::of(words), block, "{words}");
        }
        assert_eq!(
            ["billing", "tos", "dmca"].map(Block::of_reason),
            [Block::Billing, Block::Withdrawn, Block::Withdrawn]
        );
    }
}
