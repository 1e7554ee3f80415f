//! Refusals that a test asks for, in GitHub's words: of the API, of git over HTTP, and of a pushed ref.
//!
//! The reasons behind them (a rule, a bill, an address) are not simulated. Sources: the pages "Troubleshooting the 2 GB
//! push limit", "Troubleshooting required status checks", "Working with push protection", "Restricting network traffic"
//! and "About authentication with SAML single sign-on" of docs.github.com, and messages that people quote in public.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::rest::{Content, Reply};

/// The reason of a refusal. The ones from `LargeFile` on concern a pushed ref, and only a push is refused by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// The organization enforces SAML single sign-on.
    SingleSignOn,
    /// The organization's IP allow list lacks the caller's address.
    IpAllowList,
    /// The account is locked because of a bill.
    Billing,
    /// The repository breaks GitHub's terms.
    Terms,
    /// A DMCA takedown: 451.
    Takedown,
    /// The repository is locked for a migration.
    Migration,
    /// A secondary limit that names no time.
    SecondaryLimit,
    /// GitHub's HTML page in an outage.
    Outage,
    /// A proxy's HTML page.
    ProxyPage,
    /// A file is larger than 100 MB.
    LargeFile,
    /// The pack is larger than 2 GB.
    LargePack,
    /// The branch is protected.
    ProtectedBranch,
    /// The protected branch is locked.
    LockedBranch,
    /// The branch accepts signed commits alone.
    UnsignedCommits,
    /// A commit has a private address.
    PrivateEmail,
    /// An LFS object is missing.
    MissingLfs,
    /// A rule of a ruleset.
    Ruleset,
    /// A commit has a secret.
    PushProtection,
}

/// The refusal of a pushed ref.
#[derive(Clone, Copy)]
pub(crate) enum PushRefusal {
    /// The lines that a hook prints. `REF` stands for the ref.
    Lines(&'static str),
    /// git itself refuses the pack.
    PackSize,
}

impl Because {
    /// The refusal of a pushed ref. `None` if the whole request is refused.
    pub(crate) fn of_push(self) -> Option<PushRefusal> {
        let lines = match self {
            Self::LargeFile => {
                "error: Trace: 6ae9c4e1e7f9b7a5b1b9f1b1f3a6d5e0\nerror: See https://gh.io/lfs for more information.\n\
                 error: File big.bin is 120.00 MB; this exceeds GitHub's file size limit of 100.00 MB\n\
                 error: GH001: Large files detected. You may want to try Git Large File Storage - https://git-lfs.github.com."
            }
            Self::LargePack => return Some(PushRefusal::PackSize),
            Self::ProtectedBranch => {
                "error: GH006: Protected branch update failed for REF.\nerror: \n\
                 error: - At least 1 approving review is required by reviewers with write access."
            }
            Self::LockedBranch => {
                "error: GH006: Protected branch update failed for REF.\nerror: \nerror: - Cannot change this locked branch"
            }
            Self::UnsignedCommits => {
                "error: GH013: Repository rule violations found for REF.\n\n- Commits must have verified signatures.\n\
                 \x20 Found 1 violation"
            }
            Self::PrivateEmail => {
                "error: GH007: Your push would publish a private email address.\n\
                 error: You can make your email public or disable this protection by visiting:\n\
                 error: https://github.com/settings/emails"
            }
            Self::MissingLfs => {
                "error: GH008: Your push referenced at least 1 unknown Git LFS object:\n\
                 error:     4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n\
                 error: Try to push them with 'git lfs push --all'."
            }
            Self::Ruleset => {
                "error: GH013: Repository rule violations found for REF.\n\n- Changes must be made through a pull request."
            }
            Self::PushProtection => {
                "error: GH013: Repository rule violations found for REF.\n\n- GITHUB PUSH PROTECTION\n\
                 \x20   Resolve the following violations before pushing again\n\n    - Push cannot contain secrets\n\n\
                 \x20      (?) To push, remove secret from commit(s) or follow this URL to allow the secret.\n\
                 \x20      https://github.com/acme/shop/security/secret-scanning/unblock-secret/2aB3cD"
            }
            _ => return None,
        };
        Some(PushRefusal::Lines(lines))
    }

    /// The API's answer. `None` if only a push is refused.
    pub(crate) fn of_api(self) -> Option<Reply> {
        let block = |reason: &str| {
            json!({"message": "Repository access blocked", "block": {
                "reason": reason, "created_at": "2026-11-01T00:00:00Z", "html_url": Value::Null,
            }})
        };
        let (status, body) = match self {
            Self::SingleSignOn => (
                403,
                json!({"message": "Resource protected by organization SAML enforcement. You must grant your OAuth token access to this organization."}),
            ),
            Self::IpAllowList => (
                403,
                json!({"message": "Although you appear to have the correct authorization credentials, the `acme` organization has an IP allow list enabled, and your IP address is not permitted to access this resource."}),
            ),
            Self::Billing => (403, block("billing")),
            Self::Terms => (403, block("tos")),
            Self::Takedown => (451, block("dmca")),
            Self::Migration => (403, json!({"message": "Repository has been locked for migration."})),
            Self::SecondaryLimit => (
                403,
                json!({"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."}),
            ),
            Self::Outage | Self::ProxyPage => {
                return self.page().map(|(status, text)| Reply {
                    status,
                    body: Some(Content::Other(text.into())),
                    headers: vec![(header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned())],
                });
            }
            _ => return None,
        };
        let mut body = body;
        body["documentation_url"] = json!(crate::refusal::DOCUMENTATION);
        let mut reply = Reply::new(StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN), body);
        if self == Self::SingleSignOn {
            let url = "required; url=https://github.com/orgs/acme/sso?authorization_request=AAAA".to_owned();
            reply.headers.push((HeaderName::from_static("x-github-sso"), url));
        }
        Some(reply)
    }

    /// The answer to git. `None` if only a pushed ref is refused.
    pub(crate) fn of_git(self) -> Option<Response<axum::body::Body>> {
        let text = match self {
            Self::SingleSignOn => {
                "The 'acme' organization has enabled or enforced SAML SSO. To access this repository, you must use the HTTPS remote with a personal access token or SSH with an SSH key and passphrase that has been authorized for this organization."
            }
            Self::IpAllowList => {
                "The `acme` organization has an IP allow list enabled, and 192.0.2.1 is not permitted to access this resource."
            }
            Self::Billing => "Repository 'acme/shop' is disabled. Please ask the owner to check their account.",
            Self::Terms => "Access to this repository has been disabled by GitHub staff.",
            Self::Takedown => "Repository unavailable due to DMCA takedown.",
            Self::Migration => "This repository has been locked for migration.",
            Self::SecondaryLimit => {
                "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
            }
            Self::Outage | Self::ProxyPage => "",
            _ => return None,
        };
        let (status, kind, text) = match self.page() {
            Some((status, page)) => (status, "text/html; charset=utf-8", page),
            None => (StatusCode::FORBIDDEN, "text/plain; charset=UTF-8", text),
        };
        let mut response = Response::new(axum::body::Body::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        Some(response)
    }

    fn page(self) -> Option<(StatusCode, &'static str)> {
        match self {
            Self::Outage => Some((
                StatusCode::SERVICE_UNAVAILABLE,
                "<!DOCTYPE html>\n<html><head><title>Unicorn! &middot; GitHub</title></head><body><p><strong>No server is currently available to service your request.</strong></p></body></html>",
            )),
            Self::ProxyPage => Some((
                StatusCode::FORBIDDEN,
                "<html><head><title>Access Denied</title></head><body><h1>Your request was blocked by the web filter.</h1></body></html>",
            )),
            _ => None,
        }
    }
}
