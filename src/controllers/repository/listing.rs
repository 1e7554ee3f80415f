//! Lists the repositories of an installation, when several of its objects are unknown to this process.
//!
//! Invariant: a listing costs fewer calls than the single questions that it replaces, and happens rarely, because tenants
//! can make objects that are unknown. Its token reads names alone, and is revoked at once.

use super::answers::Moment;
use super::memory::Facts;
use crate::github::{Error, GitHub, Listed, Repositories, Repository, Scope};
use crate::ids::{InstallationId, RepositoryId};
use crate::runtime::allowance::{Allowance, Rate};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex as Turn;

/// The number of unknown objects from which a listing is worth its calls: a token, the first page, and the revocation.
const SEVERAL: usize = 4;
/// The listings of one installation.
const RATE: Rate = Rate { burst: 3.0, every: SignedDuration::from_mins(30) };
/// The longest time that a listing takes. Objects of the same App wait for it.
const LONGEST: Duration = Duration::from_mins(1);
/// How long a listing serves looks.
const SERVES: SignedDuration = SignedDuration::from_hours(1);
/// The most pages of a listing: the repositories of the largest installations that the budget is made for. More unknown
/// objects are not counted.
pub const MOST_UNKNOWN: usize = 200;

/// The identity of the connection, and the installation's id.
type Key = (String, InstallationId);

/// The repositories that an installation has.
#[derive(Debug)]
pub struct Listing {
    /// GitHub was asked then.
    moment: Moment,
    at: Timestamp,
    by_id: HashMap<RepositoryId, Arc<Repository>>,
    by_name: HashMap<String, RepositoryId>,
}

impl Listing {
    fn of(repositories: Vec<Repository>, (moment, at): (Moment, Timestamp)) -> Self {
        let by_name = |repository: &Repository| (repository.name.to_ascii_lowercase(), repository.id);
        Self {
            moment,
            at,
            by_name: repositories.iter().map(by_name).collect(),
            by_id: repositories.into_iter().map(|repository| (repository.id, Arc::new(repository))).collect(),
        }
    }

    /// The repository that an object means: by its id, else by its name, if GitHub was asked after this process heard of
    /// the object. Before that, another repository may have had the name.
    #[must_use]
    pub fn find(&self, id: Option<RepositoryId>, name: Option<&str>, heard: Option<Moment>) -> Option<Facts> {
        let repository = match (id, name) {
            (Some(id), _) => self.by_id.get(&id),
            (None, Some(name)) if heard.is_some_and(|heard| self.moment > heard) => {
                self.by_id.get(self.by_name.get(&name.to_ascii_lowercase())?)
            }
            (None, _) => None,
        };
        Some(Facts { repository: Arc::clone(repository?), at: self.at })
    }

    /// The repositories, by their ids.
    #[must_use]
    pub fn by_id(&self) -> &HashMap<RepositoryId, Arc<Repository>> {
        &self.by_id
    }

    /// When GitHub was asked.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }
}

/// The state of one installation.
#[derive(Default)]
struct Last {
    allowance: Option<Allowance>,
    /// How many pages it had when it was last asked.
    pages: usize,
}

/// The last listing of each installation.
#[derive(Default)]
pub struct Listings {
    turns: Mutex<HashMap<Key, Arc<Turn<Last>>>>,
    last: Mutex<HashMap<Key, Arc<Listing>>>,
}

impl Listings {
    /// The last listing, if there was one in the last hour. Forgets older ones.
    #[must_use]
    pub fn last(&self, identity: &str, installation: InstallationId, now: Timestamp) -> Option<Arc<Listing>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|_, listing| now.duration_since(listing.at) < SERVES);
        last.get(&(identity.to_owned(), installation)).cloned()
    }

    /// Lists the repositories of an installation, if that is worth it for this many unknown objects. `None`: it is not.
    /// Callers that wait while another one lists get that listing.
    ///
    /// # Errors
    /// GitHub did not answer.
    pub async fn first_sight(
        &self,
        github: &GitHub,
        (identity, installation): (&str, InstallationId),
        unknown: usize,
        began: (Moment, Timestamp),
    ) -> Result<Option<Arc<Listing>>, Error> {
        if unknown < SEVERAL {
            return Ok(None);
        }
        let now = began.1;
        let key = (identity.to_owned(), installation);
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(key.clone()).or_default())
        };
        let came = self.last(identity, installation, now);
        let mut last = turn.lock().await;
        let meanwhile = self.last(identity, installation, now);
        if meanwhile.as_ref().map(Arc::as_ptr) != came.as_ref().map(Arc::as_ptr) {
            return Ok(meanwhile);
        }
        let most = unknown.min(MOST_UNKNOWN);
        if last.pages > most || last.allowance.get_or_insert_with(|| Allowance::full(RATE, now)).take(now).is_err() {
            return Ok(None);
        }
        let scope = Scope {
            repositories: Repositories::All,
            permissions: BTreeMap::from([("metadata".to_owned(), "read".to_owned())]),
        };
        let token = github.mint(installation, &scope).await?.token;
        let listing = tokio::time::timeout(LONGEST, github.repositories(&token, most)).await;
        if let Err(error) = github.revoke(&token).await {
            tracing::info!(%error, "the token for listing repositories was not revoked, and expires within the hour");
        }
        let Ok(listed) = listing else {
            // Looks at single repositories are slow, too, and go on.
            tracing::info!(%installation, "the repositories of an installation could not be listed within a minute");
            return Ok(None);
        };
        let listing = match listed {
            Err(error @ Error::RateLimited { .. }) => {
                // Looks at single repositories go on, because the App pays for what they cannot do without.
                tracing::info!(%installation, %error, "the repositories of an installation are not listed");
                return Ok(None);
            }
            listed => listed?,
        };
        let listing = match listing {
            Listed::All(repositories) => {
                last.pages = repositories.len().div_ceil(100);
                Arc::new(Listing::of(repositories, began))
            }
            Listed::TooMany { pages } => {
                last.pages = pages;
                return Ok(None);
            }
        };
        tracing::info!(%installation, repositories = listing.by_id.len(), unknown, "the repositories of an installation were listed");
        self.last.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&listing));
        Ok(Some(listing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::github::scripted::{NOW, Scripted, answer};
    use crate::ids::id;
    use serde_json::json;

    /// A GitHub whose installation has this many repositories.
    fn with(count: usize) -> Scripted {
        Scripted::new(move |asked| {
            if asked.url.contains("/access_tokens") {
                let minted = json!({"token": "ghs_1_a.b-c", "expires_at": "2026-11-21T02:00:00Z", "permissions": {}, "repository_selection": "all"});
                return answer(201, &[], &minted.to_string());
            }
            if asked.method == "DELETE" {
                return answer(204, &[], "");
            }
            let page: usize = asked.url.rsplit_once("&page=").map_or(1, |(_, page)| page.parse().unwrap());
            let numbers = (page - 1) * 100..count.min(page * 100);
            let repository = |number: usize| {
                let name = format!("Repo-{number}");
                json!({"id": number + 1, "node_id": "R", "name": name, "full_name": format!("acme/{name}"), "private": true})
            };
            let repositories: Vec<_> = numbers.map(repository).collect();
            let next = format!(
                "<https://h.example/api/v3/installation/repositories?per_page=100&page={}>; rel=\"next\"",
                page + 1
            );
            let link = if page * 100 < count { vec![("link", next.as_str())] } else { Vec::new() };
            answer(200, &link, &json!({"total_count": count, "repositories": repositories}).to_string())
        })
    }

    #[tokio::test]
    async fn many_unknown_ones_cost_a_page_for_each_hundred() {
        let (github, listings) = (with(950), Listings::default());
        let sight = async |unknown| {
            listings
                .first_sight(&github.github, ("x", id(501)), unknown, (Moment::default(), NOW.parse().unwrap()))
                .await
                .unwrap()
        };
        assert!(sight(3).await.is_none(), "few are asked for one by one");
        let listing = sight(100).await.unwrap();
        assert_eq!(github.lines().len(), 1 + 10 + 1, "{:?}", github.lines());
        let find = |id, name, heard| Some(listing.find(id, name, heard)?.repository.full_name.clone());
        assert_eq!(find(Some(id(1)), Some("other"), None).as_deref(), Some("acme/Repo-0"));
        assert_eq!(find(None, Some("repo-949"), Some(Moment::default())), None, "another may have had the name since");
        let later = Listing {
            moment: Moment::after(Moment::default()),
            at: listing.at,
            by_id: listing.by_id.clone(),
            by_name: listing.by_name.clone(),
        };
        assert_eq!(later.find(None, Some("repo-949"), Some(Moment::default())).unwrap().repository.id, id(950));
        assert!(later.find(None, Some("repo-950"), Some(Moment::default())).is_none());
        // A few listings, and then seldom.
        for _ in 0..10 {
            sight(100).await;
        }
        assert_eq!(github.lines().len(), 3 * 12);
    }

    #[tokio::test]
    async fn an_installation_with_too_many_for_a_few_unknown_ones_is_not_listed() {
        let (github, listings) = (with(20_000), Listings::default());
        let sight = async |unknown| {
            listings
                .first_sight(&github.github, ("x", id(501)), unknown, (Moment::default(), NOW.parse().unwrap()))
                .await
                .unwrap()
        };
        assert!(sight(10).await.is_none());
        assert_eq!(github.lines().len(), 3, "its first page has the number: {:?}", github.lines());
        assert!(sight(10).await.is_none());
        assert_eq!(github.lines().len(), 3, "it is known");
        assert!(sight(10_000).await.is_some());
        assert_eq!(github.lines().len(), 3 + 202);
    }
}
