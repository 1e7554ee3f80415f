//! The secondary rate limits, which depend on load: concurrent requests, points a minute, and created content.
//!
//! They are off until a test or a person turns them on, because most tests are faster than GitHub permits. The limits are
//! per App for requests with its JWT, and per installation for requests with its tokens, as the primary limit is. A
//! refused request counts for nothing.
//!
//! Source: <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits>

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Method, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::rate::Budget;
use crate::refusal::Refusal;
use crate::state::State;
use crate::{lock, rest};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// The limits of each App and of each installation. The default is GitHub's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecondaryLimits {
    /// Concurrent requests, of REST and GraphQL together.
    pub concurrent: usize,
    /// Points a minute of REST: 1 for a read, 5 for a write.
    pub points: u32,
    /// Points a minute of GraphQL: 1 for a query, 5 for a mutation.
    pub graphql_points: u32,
    /// Requests a minute that create content.
    pub content_per_minute: u32,
    /// Requests an hour that create content.
    pub content_per_hour: u32,
}

impl Default for SecondaryLimits {
    fn default() -> Self {
        Self { concurrent: 100, points: 900, graphql_points: 2000, content_per_minute: 80, content_per_hour: 500 }
    }
}

/// The part of a request that a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Counted {
    Rest,
    GraphQl,
    Content,
}

#[derive(Debug, Default)]
pub(crate) struct Secondary {
    pub(crate) limits: Option<SecondaryLimits>,
    /// The admitted requests of the last hour, and their points.
    admitted: HashMap<(Budget, Counted), VecDeque<(Timestamp, u32)>>,
    under_way: HashMap<Budget, usize>,
}

/// A request that is under way. Its end makes room for another one.
pub(crate) struct UnderWay {
    state: Arc<Mutex<State>>,
    budget: Budget,
    /// Whether it is one too many.
    pub(crate) crowded: bool,
}

impl UnderWay {
    /// Counts a request. `None` if the limits are off.
    pub(crate) fn begin(shared: &Arc<Mutex<State>>, state: &mut State, headers: &HeaderMap) -> Option<Self> {
        let limits = state.secondary.limits?;
        let budget = rest::attributed(state, headers).into();
        let count = state.secondary.under_way.entry(budget).or_default();
        *count += 1;
        Some(Self { state: Arc::clone(shared), budget, crowded: *count > limits.concurrent })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        let count = state.secondary.under_way.entry(self.budget).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            state.secondary.under_way.remove(&self.budget);
        }
    }
}

/// A request, as far as the limits depend on it.
pub(crate) struct Load<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) crowded: bool,
}

impl Load<'_> {
    fn is_graphql(&self) -> bool {
        self.path == "/graphql"
    }

    /// GraphQL's requests are all POSTs, so the document decides.
    fn is_write(&self) -> bool {
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(self.method);
        if self.is_graphql() { String::from_utf8_lossy(self.body).contains("mutation") } else { !reads }
    }

    /// Minting and revoking a token create no content.
    fn creates_content(&self) -> bool {
        let in_repository = ["/repos/", "/repositories/"].iter().any(|folder| self.path.starts_with(folder));
        let creates = [Method::POST, Method::PUT, Method::PATCH].contains(self.method);
        self.is_write() && (self.is_graphql() || (in_repository && creates))
    }
}

impl Secondary {
    /// Counts an admitted request, or refuses it.
    pub(crate) fn charge(&mut self, budget: Budget, load: &Load<'_>, now: Timestamp) -> Result<(), Refusal> {
        let Some(limits) = self.limits else { return Ok(()) };
        if load.crowded {
            return Err(refused(StatusCode::TOO_MANY_REQUESTS, MESSAGE, MINUTE));
        }
        let points = if load.is_write() { 5 } else { 1 };
        let (counted, most) =
            if load.is_graphql() { (Counted::GraphQl, limits.graphql_points) } else { (Counted::Rest, limits.points) };
        if let Some(wait) = self.wait((budget, counted), points, most, MINUTE, now) {
            return Err(refused(StatusCode::FORBIDDEN, MESSAGE, wait));
        }
        if load.creates_content() {
            let key = (budget, Counted::Content);
            let waits = [(limits.content_per_minute, MINUTE), (limits.content_per_hour, HOUR)];
            let wait = waits.into_iter().filter_map(|(most, window)| self.wait(key, 1, most, window, now)).max();
            if let Some(wait) = wait {
                return Err(refused(StatusCode::FORBIDDEN, CONTENT, wait));
            }
            self.admitted.entry(key).or_default().push_back((now, 1));
        }
        self.admitted.entry((budget, counted)).or_default().push_back((now, points));
        Ok(())
    }

    /// The time until a window has room for these points. `None` if it has room now.
    fn wait(
        &mut self,
        key: (Budget, Counted),
        points: u32,
        most: u32,
        window: SignedDuration,
        now: Timestamp,
    ) -> Option<SignedDuration> {
        let admitted = self.admitted.entry(key).or_default();
        let end = |at: Timestamp, window| at.saturating_add(window).unwrap_or(Timestamp::MAX);
        admitted.retain(|(at, _)| end(*at, HOUR) > now);
        let mut sum = points;
        let blocking = admitted.iter().rev().filter(|(at, _)| end(*at, window) > now).find(|(_, points)| {
            sum = sum.saturating_add(*points);
            sum > most
        });
        blocking.map(|(at, _)| end(*at, window).duration_since(now))
    }
}

const MESSAGE: &str = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again. For more on \
    scraping GitHub and how it may affect your rights, please review our Terms of Service \
    (https://docs.github.com/en/site-policy/github-terms/github-terms-of-service) If you reach out to GitHub Support for \
    help, please include the request ID.";
const CONTENT: &str = "You have exceeded a secondary rate limit and have been temporarily blocked from content creation. \
    Please retry your request again later. If you reach out to GitHub Support for help, please include the request ID.";

fn refused(status: StatusCode, message: &str, wait: SignedDuration) -> Refusal {
    let whole = wait.as_secs() + i64::from(wait.subsec_nanos() > 0);
    Refusal::new(status, message).with_header(header::RETRY_AFTER, whole.max(1).to_string())
}
