//! Permissions by GitHub's names, and the rules with which the API server refuses others.

use std::collections::BTreeMap;

/// Repository permission names with levels, as GitHub's "Create an installation access token" takes them:
/// `{"contents": "read", "pull_requests": "write"}`.
pub type Permissions = BTreeMap<String, String>;

/// What a token may do when nothing is said: read code, and the metadata that GitHub always includes.
#[must_use]
pub fn default_permissions() -> Permissions {
    [("contents", "read"), ("metadata", "read")].map(|(name, level)| (name.to_owned(), level.to_owned())).into()
}

/// A CEL rule: the levels are GitHub's.
pub(super) const PERMISSION_LEVELS: &str = "self.all(p, self[p] in ['read', 'write', 'admin'])";

macro_rules! known {
    ($($name:literal),+ $(,)?) => {
        /// A CEL rule: the names are GitHub's.
        pub(super) const PERMISSION_NAMES: &str = concat!("self.all(p, p in [", $("'", $name, "',",)+ "])");

        /// The message of that rule, which names the first unknown permission, and the known one that was probably meant.
        pub(super) const PERMISSION_NAMES_MESSAGE: &str = concat!(
            "[self.filter(p, !(p in [", $("'", $name, "',",)+ "]))[0]].map(p, 'GitHub has no permission ' + p + ",
            "[p + 's', p.replace('-', '_'), p.replace('-', '_') + 's', 'repository_' + p, 'organization_' + p]",
            ".filter(c, c in [", $("'", $name, "',",)+ "]).map(c, ': did you mean ' + c + '?').join(''))[0]",
        );

        #[cfg(test)]
        const NAMES: &[&str] = &[$($name),+];
    };
}

// The schema `app-permissions` of GitHub's OpenAPI description, and of GitHub Enterprise Server's.
// https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app
known! {
    "actions",
    "administration",
    "artifact_metadata",
    "attestations",
    "checks",
    "codespaces",
    "contents",
    "custom_properties_for_organizations",
    "dependabot_secrets",
    "deployments",
    "discussions",
    "email_addresses",
    "enterprise_custom_properties_for_organizations",
    "environments",
    "followers",
    "git_ssh_keys",
    "gpg_keys",
    "interaction_limits",
    "issues",
    "members",
    "merge_queues",
    "metadata",
    "organization_administration",
    "organization_announcement_banners",
    "organization_copilot_agent_settings",
    "organization_copilot_seat_management",
    "organization_custom_org_roles",
    "organization_custom_properties",
    "organization_custom_roles",
    "organization_events",
    "organization_hooks",
    "organization_packages",
    "organization_personal_access_token_requests",
    "organization_personal_access_tokens",
    "organization_plan",
    "organization_projects",
    "organization_secrets",
    "organization_self_hosted_runners",
    "organization_user_blocking",
    "packages",
    "pages",
    "profile",
    "pull_requests",
    "repository_custom_properties",
    "repository_hooks",
    "repository_projects",
    "secret_scanning_alerts",
    "secrets",
    "security_events",
    "single_file",
    "starring",
    "statuses",
    "team_discussions",
    "vulnerability_alerts",
    "workflows",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_of_known_permissions() {
        for name in default_permissions().keys() {
            assert!(NAMES.contains(&name.as_str()), "{name}");
        }
        assert!(NAMES.is_sorted());
    }
}
