//! What this process knows of each `GitHubApp`: its client, and what GitHub last said of its installations.
//!
//! Owned by the App's controller, read by those of installations and tokens: one look serves them all, so REST calls
//! grow with the number of Apps and not of objects. Invariant: what is here came from GitHub in this process's life;
//! nothing is read back from status, but for the ids that accounts are pinned to.

use super::deliveries::Announced;
use super::standing::Standing;
use crate::api::{WebhookPolicy, WebhookStatus};
use crate::github::{Account, App, GitHub, Installation, Transport};
use crate::grant::Pin;
use crate::ids::AccountId;
use crate::runtime::allowance::{Allowance, Rate};
use crate::webhook::AppIdentity;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often a look may be asked for, besides those that are due.
const REQUESTED_LOOKS: Rate = Rate { burst: 5.0, every: SignedDuration::from_secs(30) };

/// What GitHub said at one look.
#[derive(Debug, PartialEq)]
pub struct Look {
    /// When.
    pub at: Timestamp,
    /// The App.
    pub app: App,
    /// The id of its bot user.
    pub bot_user_id: Option<AccountId>,
    /// All of its installations, suspended ones included.
    pub installations: Vec<Installation>,
}

/// The connection to one App.
#[derive(Clone, Default)]
pub struct Connection {
    /// Which App on which GitHub it is.
    pub identity: String,
    /// What it was made from; another one makes another connection.
    pub made_from: String,
    /// The client. None while the credentials cannot be used at all.
    pub github: Option<Arc<GitHub>>,
    /// The way to the same GitHub for git.
    pub git: Option<Transport>,
    /// The last look that succeeded.
    pub look: Option<Arc<Look>>,
    /// What is wrong, if the last look failed.
    pub trouble: Option<Standing>,
    /// What it is made from cannot be used, as `trouble` says. An older client may still be there.
    pub is_broken: bool,
    /// What is left of the looks that may be asked for.
    pub requests: Option<Allowance>,
    /// What is known of the App's webhook.
    pub hook: AppHook,
    /// The deliveries that a look has covered and that are yet to be marked.
    pub heard: BTreeSet<Announced>,
    /// While the App is being deleted: the uids of its installations that were deleted, which the cache may still show.
    pub withdrawn: BTreeSet<String>,
    /// When to look again; a look that failed is not repeated before, whatever else wakes the controller up.
    pub next_look: Option<Timestamp>,
}

/// What is known of the App's webhook.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppHook {
    /// How it was when it was last as it should be.
    pub ensured: Option<WebhookStatus>,
    /// What is wrong.
    pub trouble: Option<Standing>,
    /// What was wanted then.
    pub wanted: Option<(String, WebhookPolicy)>,
    /// When the secret was set; or found to be noted as set, by an operator that has just begun.
    pub signed_at: Option<Timestamp>,
    /// The value of the annotation that asks for a look, when it was examined.
    pub request: Option<String>,
    /// When to examine it.
    pub next: Option<Timestamp>,
}

impl Connection {
    /// Whose webhooks the App's are.
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
    /// What is known of an App. Nothing is known of one that was not looked at since start.
    #[must_use]
    pub fn get(&self, app: &str) -> Option<Connection> {
        self.lock().get(app).cloned()
    }

    /// Changes what is known of an App.
    pub fn update(&self, app: &str, change: impl FnOnce(&mut Connection)) {
        change(self.lock().entry(app.to_owned()).or_default());
    }

    /// Asks the App's controller to look at GitHub at its next reconcile, as often as [`REQUESTED_LOOKS`] allows: tenants
    /// can ask too.
    pub fn request_look(&self, app: &str, now: Timestamp) {
        if let Some(connection) = self.lock().get_mut(app) {
            let allowance = connection.requests.get_or_insert_with(|| Allowance::full(REQUESTED_LOOKS, now));
            let at = allowance.take(now).err().unwrap_or(now);
            connection.next_look = Some(connection.next_look.map_or(at, |next| next.min(at)));
        }
    }

    /// Whether the account is an organization, by the App's last look.
    #[must_use]
    pub fn is_organization(&self, app: &str, account_id: AccountId) -> bool {
        let look = self.get(app).and_then(|connection| connection.look);
        look.is_some_and(|look| {
            let accounts = look.installations.iter().filter_map(|installation| installation.account.as_ref());
            accounts.into_iter().any(|account| account.id == account_id && account.kind == "Organization")
        })
    }

    /// Forgets an App that is gone.
    pub fn forget(&self, app: &str) {
        self.lock().remove(app);
    }

    // A panic while the lock was held leaves a map that is whole: every change is one insertion or one field.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Connection>> {
        self.by_app.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the look knows of an account.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AccountFound<'a> {
    /// The App is installed there.
    Installed(&'a Installation),
    /// Another account has the name now; it gets nothing.
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
    /// The installation on an account: by the id its name is pinned to, so that renames are followed; by name only
    /// before there is a pin.
    #[must_use]
    pub fn find(&self, account: &str, pin: Pin) -> AccountFound<'_> {
        // An enterprise, which has no kind, has ids and names of another realm.
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
