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

/// The schema of permissions: the levels are GitHub's.
pub(super) fn permission_levels(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object", "additionalProperties": {"type": "string", "enum": ["read", "write", "admin"]},
    })
}

/// A CEL rule: the names are GitHub's.
pub(super) fn permission_names() -> String {
    let quoted: Vec<_> = NAMES.iter().map(|name| format!("'{name}'")).collect();
    format!("self.all(p, p in [{}])", quoted.join(", "))
}

/// The message of that rule, which names the known permission that was probably meant.
///
/// The API server bounds what an expression may cost, and a name that is not known has no bound: so each mistake is looked
/// up, and none is computed from what stands there.
pub(super) fn permission_names_message() -> String {
    let mistakes = mistakes();
    let hints = mistakes.iter().map(|(wrong, name)| format!("'{wrong}' in self ? '{wrong}: did you mean {name}?' : "));
    let page = "https://docs.github.com/rest/authentication/permissions-required-for-github-apps";
    format!("'GitHub has no permission ' + ({}'of this name: {page} lists them')", hints.collect::<String>())
}

/// Names that are written for a known one: without the plural, with hyphens, without the word in front.
fn mistakes() -> BTreeMap<String, &'static str> {
    let singular = |name: &str| name.strip_suffix('s').map(str::to_owned);
    let hyphened = |name: &str| name.contains('_').then(|| name.replace('_', "-"));
    let of_repositories = |name: &str| name.strip_prefix("repository_").map(str::to_owned);
    let of_organizations = |name: &str| name.strip_prefix("organization_").map(str::to_owned);
    let forms: [fn(&str) -> Option<String>; 4] = [singular, hyphened, of_repositories, of_organizations];
    let mut mistakes = BTreeMap::new();
    for form in forms {
        for name in NAMES {
            if let Some(wrong) = form(name).filter(|wrong| !NAMES.contains(&wrong.as_str())) {
                mistakes.entry(wrong).or_insert(*name);
            }
        }
    }
    mistakes
}

/// The schema `app-permissions` of GitHub's OpenAPI description and of GitHub Enterprise Server's, and the names that GitHub lists
/// for tokens and that the schema lacks, such as `actions_variables`.
/// <https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app>
/// <https://docs.github.com/en/authentication/keeping-your-account-and-data-secure/managing-your-personal-access-tokens>
const NAMES: &[&str] = &[
    "actions",
    "actions_variables",
    "administration",
    "artifact_metadata",
    "attestations",
    "checks",
    "code_quality",
    "codespaces",
    "codespaces_lifecycle_admin",
    "codespaces_metadata",
    "codespaces_secrets",
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
    "organization_actions_variables",
    "organization_administration",
    "organization_announcement_banners",
    "organization_api_insights",
    "organization_code_scanning_dismissal_requests",
    "organization_codespaces",
    "organization_codespaces_secrets",
    "organization_codespaces_settings",
    "organization_copilot_agent_settings",
    "organization_copilot_seat_management",
    "organization_custom_org_roles",
    "organization_custom_properties",
    "organization_custom_roles",
    "organization_dependabot_secrets",
    "organization_events",
    "organization_hooks",
    "organization_packages",
    "organization_personal_access_token_requests",
    "organization_personal_access_tokens",
    "organization_plan",
    "organization_private_registries",
    "organization_projects",
    "organization_secrets",
    "organization_self_hosted_runners",
    "organization_user_blocking",
    "packages",
    "pages",
    "profile",
    "pull_requests",
    "repository_advisories",
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
];

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

    #[test]
    fn a_mistake_leads_to_the_name_that_was_meant() {
        let mistakes = mistakes();
        for (wrong, name) in [
            ("content", "contents"),
            ("pull-requests", "pull_requests"),
            ("hooks", "repository_hooks"),
            ("plan", "organization_plan"),
        ] {
            assert_eq!(mistakes.get(wrong), Some(&name), "{wrong}");
        }
        assert!(NAMES.iter().all(|name| !mistakes.contains_key(*name)));
    }
}
