//! The memory of this process about each `GitHubApp`: its client, and GitHub's last answer about its installations.
//!
//! The App's controller owns it; the controllers of installations and tokens read it. One look serves them all, so the
//! number of REST calls grows with the number of Apps and not of objects. Invariant: everything here came from GitHub
//! while this process ran. Nothing is read back from status, except the ids that accounts are pinned to.

use super::deliveries::Announced;
use super::standing::Standing;
use crate::api::{Reason, WebhookPolicy, WebhookStatus};
use crate::github::{Account, App, GitHub, Installation, Transport};
use crate::grant::Pin;
use crate::ids::AccountId;
use crate::runtime::allowance::{Allowance, Rate};
use crate::webhook::AppIdentity;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often looks may be requested, in addition to those that are due.
const REQUESTED_LOOKS: Rate = Rate { burst: 5.0, every: SignedDuration::from_secs(30) };

/// GitHub's answers at one look.
#[derive(Debug, PartialEq)]
pub struct Look {
    /// When GitHub answered.
    pub at: Timestamp,
    pub app: App,
    pub bot_user_id: Option<AccountId>,
    /// All of its installations, suspended ones included.
    pub installations: Vec<Installation>,
}

#[derive(Clone, Default)]
pub struct Connection {
    /// A digest of the App and its GitHub.
    pub identity: String,
    /// A digest of the input that this connection was made from. Another input makes another connection.
    pub made_from: String,
    /// The client. `None` while the credentials cannot be used at all.
    pub github: Option<Arc<GitHub>>,
    /// The transport to the same GitHub for git.
    pub git: Option<Transport>,
    /// The last look that succeeded.
    pub look: Option<Arc<Look>>,
    /// The problem, if the last look failed.
    pub trouble: Option<Standing>,
    /// The input cannot be used, as `trouble` says. An older client may still be there.
    pub is_broken: bool,
    /// The rest of the allowance for requested looks.
    pub requests: Option<Allowance>,
    /// The state of the App's webhook.
    pub hook: AppHook,
    /// The deliveries for which a look was requested, as far as they still wait in an inbox.
    pub told: BTreeSet<Announced>,
    /// The deliveries that a look has covered and that still wait in an inbox.
    pub heard: BTreeSet<Announced>,
    /// When the next look is to be that was requested since the last one began.
    pub wanted: Option<Timestamp>,
    /// While the App is being deleted: the uids of its installations that were deleted, which the cache may still show.
    pub withdrawn: BTreeSet<String>,
    /// When to look again. A look that failed is not repeated before this time, even if something else wakes the
    /// controller.
    pub next_look: Option<Timestamp>,
}

/// The state of an App's webhook.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppHook {
    /// The webhook's status when it was last correct.
    pub ensured: Option<WebhookStatus>,
    /// The problem, if there is one.
    pub trouble: Option<Standing>,
    /// The wanted URL and policy at the last examination.
    pub wanted: Option<(String, WebhookPolicy)>,
    /// When the secret was set, or when an operator that had just started found in status that it is set.
    pub signed_at: Option<Timestamp>,
    /// The value of the annotation that requests a look, at the last examination.
    pub request: Option<String>,
    /// When to examine the webhook.
    pub next: Option<Timestamp>,
}

impl Connection {
    /// The standing of objects that would make calls, while the App itself does not work: they make none of their own. The
    /// next successful look at the App wakes them.
    #[must_use]
    pub fn hindrance(&self, app: &str) -> Option<Standing> {
        let is_general =
            |trouble: &&Standing| [Reason::APIUnreachable, Reason::CredentialsInvalid].contains(&trouble.reason);
        let reason = self.trouble.as_ref().filter(is_general)?.reason;
        let message = format!(
            "GitHubApp {app} does not work: {reason}. `kubectl describe githubapp {app}` says more; this goes on as soon as it does"
        );
        Some(Standing::reconciling(reason, message))
    }

    /// The identity of the App whose webhooks these are.
    #[must_use]
    pub fn app_identity(&self) -> Option<AppIdentity> {
        let host = self.github.as_ref()?.endpoint().host();
        Some(AppIdentity { host, app_id: self.look.as_ref()?.app.id })
    }
}

/// The connections of all Apps, by the `GitHubApp`'s name.
#[derive(Default)]
pub struct Connections {
    by_app: Mutex<HashMap<String, Connection>>,
}

impl Connections {
    /// The connection of an App. `None` until the first look at it since start.
    #[must_use]
    pub fn get(&self, app: &str) -> Option<Connection> {
        self.lock().get(app).cloned()
    }

    pub fn update(&self, app: &str, change: impl FnOnce(&mut Connection)) {
        change(self.lock().entry(app.to_owned()).or_default());
    }

    /// Requests that the App's controller looks at GitHub at its next reconcile, as often as [`REQUESTED_LOOKS`]
    /// allows, because tenants can cause requests too.
    pub fn request_look(&self, app: &str, now: Timestamp) {
        if let Some(connection) = self.lock().get_mut(app) {
            let allowance = connection.requests.get_or_insert_with(|| Allowance::full(REQUESTED_LOOKS, now));
            let at = allowance.take(now).err().unwrap_or(now);
            connection.next_look = Some(connection.next_look.map_or(at, |next| next.min(at)));
            connection.wanted = Some(connection.wanted.map_or(at, |wanted| wanted.min(at)));
        }
    }

    /// Whether there are deliveries among those that wait for which no look was requested yet. From now on they count as
    /// known.
    pub fn are_new(&self, app: &str, waiting: BTreeSet<Announced>) -> bool {
        self.lock().get_mut(app).is_some_and(|connection| {
            let are_new = !waiting.is_subset(&connection.told);
            connection.told = waiting;
            are_new
        })
    }

    /// Whether the account is an organization, according to the App's last look.
    #[must_use]
    pub fn is_organization(&self, app: &str, account_id: AccountId) -> bool {
        let look = self.get(app).and_then(|connection| connection.look);
        look.is_some_and(|look| {
            let accounts = look.installations.iter().filter_map(|installation| installation.account.as_ref());
            accounts.into_iter().any(|account| account.id == account_id && account.kind == "Organization")
        })
    }

    /// Forgets a deleted App.
    pub fn forget(&self, app: &str) {
        self.lock().remove(app);
    }

    // A panic while the lock was held leaves a consistent map, because every change is one insertion or one field.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Connection>> {
        self.by_app.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of searching a look for an account.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AccountFound<'a> {
    /// The App is installed there.
    Installed(&'a Installation),
    /// Another account has the name now. It gets nothing.
    Another {
        /// The id the name is pinned to.
        pinned: AccountId,
        /// The id of the account that has the name now.
        found: AccountId,
    },
    /// The App is not installed there.
    Nowhere,
}

impl Look {
    /// The installation on an account. It is found by the id that the name is pinned to, so that renames are followed,
    /// and by name only before there is a pin.
    #[must_use]
    pub fn find(&self, account: &str, pin: Pin) -> AccountFound<'_> {
        // Enterprises, which have no kind, are skipped: their ids and names are unrelated to those of accounts.
        let of = |matches: &dyn Fn(&Account) -> bool| {
            self.installations.iter().find(|installation| {
                installation.account.as_ref().is_some_and(|account| !account.kind.is_empty() && matches(account))
            })
        };
        let by_name = of(&|found| found.login.eq_ignore_ascii_case(account));
        let Pin::To(pinned) = pin else { return by_name.map_or(AccountFound::Nowhere, AccountFound::Installed) };
        let by_id = of(&|found| found.id == pinned);
        match (by_id, by_name.and_then(|installation| installation.account.as_ref())) {
            (Some(installation), _) => AccountFound::Installed(installation),
            (None, Some(other)) => AccountFound::Another { pinned, found: other.id },
            (None, None) => AccountFound::Nowhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::id;
    use serde_json::json;

    fn look(installations: &[(u64, u64, &str)]) -> Look {
        let installations = installations.iter().map(|(id, account, login)| {
            serde_json::from_value(json!({
                "id": id, "app_id": 1, "account": {"id": account, "login": login, "type": "Organization"},
                "repository_selection": "all", "html_url": "https://github.com/x",
            }))
            .unwrap()
        });
        let app = json!({"id": 1, "slug": "x", "name": "X", "html_url": "https://github.com/apps/x"});
        Look {
            at: Timestamp::UNIX_EPOCH,
            app: serde_json::from_value(app).unwrap(),
            bot_user_id: None,
            installations: installations.collect(),
        }
    }

    #[test]
    fn the_name_is_followed_by_id_and_a_name_taken_over_gets_nothing() {
        let renamed = look(&[(70, 7, "acme-2"), (80, 8, "acme")]);
        assert!(matches!(renamed.find("acme", Pin::To(id(7))), AccountFound::Installed(i) if i.id == id(70)));
        assert!(matches!(renamed.find("acme", Pin::FirstSeen), AccountFound::Installed(i) if i.id == id(80)));
        let taken_over = look(&[(80, 8, "acme")]);
        assert_eq!(taken_over.find("ACME", Pin::To(id(7))), AccountFound::Another { pinned: id(7), found: id(8) });
        assert_eq!(taken_over.find("globex", Pin::FirstSeen), AccountFound::Nowhere);
    }
}
