//! Remembers GitHub's rate limits, and refuses calls without sending them until a limit ends.
//!
//! The invariant: after GitHub limited a holder of credentials, no call of that holder is sent before the limit ends (GitHub bans a
//! client that continues). Limits are per holder, because one installation's limit does not affect another. Answers arrive in any
//! order: an answer to an earlier call does not lift a limit. This layer does not wait: it returns the time, and the controllers
//! put that into their queue.
//!
//! Source: <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api#exceeding-the-rate-limit>
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Response, StatusCode};
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::answer::RefusalBody;
use super::auth::Holder;

/// The wait if GitHub names no time, by its documentation; doubled with each further limit.
const SECONDARY_WAIT: SignedDuration = SignedDuration::from_mins(1);
const MOST_DOUBLINGS: i32 = 4;
/// GitHub's windows last an hour. A wrong answer of a proxy, or a wrong clock, does not stop calls for longer.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(61);

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub until: Timestamp,
    pub secondary: bool,
    /// How many limits in a row named no time.
    doublings: i32,
}

#[derive(Default)]
pub(super) struct Budget {
    stops: Mutex<HashMap<Holder, Limit>>,
}

impl Budget {
    /// Whether a call may be sent now.
    pub fn admit(&self, holder: &Holder, now: Timestamp) -> Result<(), Limit> {
        match self.stops().get(holder) {
            Some(stop) if now < stop.until => Err(*stop),
            _ => Ok(()),
        }
    }

    /// Notes the limits in an answer. An error if the answer itself is a rate limit's refusal.
    pub fn learn(
        &self,
        holder: &Holder,
        response: &Response<Bytes>,
        said: &RefusalBody,
        now: Timestamp,
    ) -> Result<(), Limit> {
        let mut stops = self.stops();
        // Tokens expire, so their limits are kept for one window at most.
        stops.retain(|_, stop| now < stop.until.saturating_add(LONGEST_WAIT).unwrap_or(Timestamp::MAX));
        let earlier = stops.get(holder).map_or(0, |stop| stop.doublings);
        match verdict(response.status(), response.headers(), said.message.as_deref(), now, earlier) {
            Verdict::Limited(stop) => {
                note(&mut stops, holder, stop);
                Err(stop)
            }
            Verdict::Last(stop) => {
                note(&mut stops, holder, stop);
                Ok(())
            }
            Verdict::Free => {
                if response.status().is_success() && stops.get(holder).is_some_and(|stop| stop.until <= now) {
                    stops.remove(holder);
                }
                Ok(())
            }
        }
    }

    fn stops(&self) -> MutexGuard<'_, HashMap<Holder, Limit>> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the later of two limits.
fn note(stops: &mut HashMap<Holder, Limit>, holder: &Holder, stop: Limit) {
    let noted = stops.entry(holder.clone()).or_insert(stop);
    if noted.until <= stop.until {
        *noted = stop;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// This call was refused by a limit.
    Limited(Limit),
    /// This call was the last of the hour's budget.
    Last(Limit),
    Free,
}

fn verdict(status: StatusCode, headers: &HeaderMap, message: Option<&str>, now: Timestamp, earlier: i32) -> Verdict {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
    let words = message.map(str::to_ascii_lowercase).unwrap_or_default();
    let secondary_words = words.contains("secondary rate limit") || words.contains("abuse detection");
    let stop = |until: Option<Timestamp>, secondary: bool, doublings: i32| {
        let bound = |wait| now.saturating_add(wait).unwrap_or(now);
        let until = until.unwrap_or_else(|| bound(SECONDARY_WAIT * (1 << doublings.min(MOST_DOUBLINGS))));
        Limit { until: until.min(bound(LONGEST_WAIT)), secondary, doublings }
    };
    let retry_after =
        number("retry-after").and_then(|seconds| now.checked_add(SignedDuration::from_secs(seconds)).ok());
    // A time in the past comes from a wrong clock, and counts as none.
    let reset = (number("x-ratelimit-remaining") == Some(0))
        .then(|| number("x-ratelimit-reset").and_then(|seconds| Timestamp::from_second(seconds).ok()))
        .flatten()
        .filter(|reset| *reset > now);

    let may_limit = matches!(status, StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS);
    // A 403 is a limit only if GitHub says so: by a time, by its message, or by an empty budget without another
    // message.
    let limited = may_limit
        && (status == StatusCode::TOO_MANY_REQUESTS
            || retry_after.is_some()
            || secondary_words
            || words.contains("rate limit")
            || (reset.is_some() && words.is_empty()));
    match (limited, retry_after, reset) {
        (true, Some(until), _) => Verdict::Limited(stop(Some(until), true, 0)),
        (true, None, Some(until)) if !secondary_words => Verdict::Limited(stop(Some(until), false, 0)),
        (true, None, _) => Verdict::Limited(stop(None, true, earlier)).doubled(),
        (false, _, Some(until)) => Verdict::Last(stop(Some(until), false, 0)),
        (false, _, None) => Verdict::Free,
    }
}

impl Verdict {
    fn doubled(self) -> Self {
        match self {
            Self::Limited(stop) => Self::Limited(Limit { doublings: stop.doublings + 1, ..stop }),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::id;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn after(seconds: i64) -> Timestamp {
        NOW + SignedDuration::from_secs(seconds)
    }

    fn headers(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_is_a_limit_and_what_is_not() {
        const PERMISSION: &str = "Resource not accessible by integration";
        const PRIMARY: &str = "API rate limit exceeded for installation ID 1.";
        const SECONDARY: &str =
            "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
        const EMPTY: &[(&str, &str)] = &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "600")];
        const LEFT: &[(&str, &str)] = &[("x-ratelimit-remaining", "17"), ("x-ratelimit-reset", "600")];
        let limited = |until: i64, secondary: bool| Some((true, after(until), secondary));
        let last = |until: i64| Some((false, after(until), false));
        #[rustfmt::skip]
        let table = [
            (200, LEFT, None, None),
            (200, EMPTY, None, last(600)),
            (403, LEFT, Some(PERMISSION), None),
            // The last call of the hour failed because of a missing permission. That is the error, and the budget is
            // empty, too.
            (403, EMPTY, Some(PERMISSION), last(600)),
            (403, EMPTY, Some(PRIMARY), limited(600, false)),
            (403, EMPTY, None, limited(600, false)),
            (429, EMPTY, Some(PRIMARY), limited(600, false)),
            (403, LEFT, Some(SECONDARY), limited(60, true)),
            (403, &[], Some(SECONDARY), limited(60, true)),
            (403, &[], Some("You have triggered an abuse detection mechanism."), limited(60, true)),
            (403, EMPTY, Some(SECONDARY), limited(60, true)),
            (403, &[("retry-after", "30")], Some(SECONDARY), limited(30, true)),
            (403, &[("retry-after", "30")], None, limited(30, true)),
            (429, &[("retry-after", "30")], None, limited(30, true)),
            (429, &[], None, limited(60, true)),
            (429, &[("retry-after", "soon")], None, limited(60, true)),
            // Longer than any window of GitHub's, and a reset in the past: the clock is wrong.
            (429, &[("retry-after", "999999")], None, limited(3660, true)),
            (403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "999999")], Some(PRIMARY), limited(3660, false)),
            (403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "-5")], Some(PRIMARY), limited(60, true)),
            (403, &[], Some(PERMISSION), None),
            (403, &[], Some("This installation has been suspended"), None),
            (403, &[], None, None),
            (401, LEFT, Some("Bad credentials"), None),
            (404, &[("retry-after", "30")], None, None),
            (500, &[], Some(SECONDARY), None),
        ];
        for (status, lines, message, expected) in table {
            let verdict = verdict(StatusCode::from_u16(status).unwrap(), &headers(lines), message, NOW, 0);
            let found = match verdict {
                Verdict::Limited(stop) => Some((true, stop.until, stop.secondary)),
                Verdict::Last(stop) => Some((false, stop.until, stop.secondary)),
                Verdict::Free => None,
            };
            assert_eq!(found, expected, "{status} {lines:?} {message:?}");
        }
    }

    #[test]
    fn a_wait_that_github_does_not_name_doubles_until_a_call_succeeds() {
        let budget = Budget::default();
        let holder = Holder::App;
        let answer = |status: u16| Response::builder().status(status).body(Bytes::new()).unwrap();
        let mut now = NOW;
        for expected in [60, 120, 240, 480, 960, 960] {
            let stop = budget.learn(&holder, &answer(429), &RefusalBody::default(), now).unwrap_err();
            assert_eq!(stop.until.duration_since(now), SignedDuration::from_secs(expected));
            assert_eq!(budget.admit(&holder, now), Err(stop));
            assert_eq!(budget.admit(&Holder::Nobody, now), Ok(()));
            now = stop.until;
            assert_eq!(budget.admit(&holder, now), Ok(()));
        }
        budget.learn(&holder, &answer(200), &RefusalBody::default(), now).unwrap();
        let stop = budget.learn(&holder, &answer(429), &RefusalBody::default(), now).unwrap_err();
        assert_eq!(stop.until.duration_since(now), SignedDuration::from_secs(60));
    }

    #[test]
    fn an_answer_from_before_the_limit_takes_nothing_back() {
        let budget = Budget::default();
        let holder = Holder::Installation(id(3));
        let answer = |status: u16, retry_after: Option<&str>| {
            let response =
                retry_after.map_or_else(Response::builder, |at| Response::builder().header("retry-after", at));
            response.status(status).body(Bytes::new()).unwrap()
        };
        let learn = |response| budget.learn(&holder, &response, &RefusalBody::default(), NOW);
        learn(answer(429, Some("90"))).unwrap_err();
        learn(answer(200, None)).unwrap();
        learn(answer(429, Some("30"))).unwrap_err();
        assert_eq!(budget.admit(&holder, after(89)).unwrap_err().until, after(90));
        assert_eq!(budget.admit(&Holder::Installation(id(4)), NOW), Ok(()));
        assert_eq!(budget.admit(&holder, after(90)), Ok(()));
    }

    #[test]
    fn what_a_token_was_told_is_forgotten_after_a_window() {
        let budget = Budget::default();
        let answer = Response::builder().status(429).body(Bytes::new()).unwrap();
        for token in 0..10 {
            let now = after(token * 10_000);
            budget.learn(&Holder::Token(token.to_string()), &answer, &RefusalBody::default(), now).unwrap_err();
        }
        assert_eq!(budget.stops().len(), 1);
    }
}
