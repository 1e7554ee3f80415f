//! Follows GitHub's redirects.
//!
//! A renamed or transferred repository answers 301 to a GET and 307 to everything else, to `…/repositories/ID`
//! (<https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api#follow-redirects>). The
//! invariant: method and body do not change, so only a 307 or 308 redirects a method other than GET (for a 301 or 302,
//! some clients turn a POST into a GET); three hops at most. A call that changes a repository is not redirected at all:
//! it is meant for the repository that had this name when its id was looked up, and the caller looks it up again
//! ([`Error::Moved`]). [`super::auth`] keeps every hop within the API.
use http::{Method, Response, StatusCode, header};
use hyper::body::Bytes;
use tower::ServiceExt;
use url::Url;

use super::{Call, Next};
use crate::github::error::Error;

const HOPS: usize = 3;

pub(super) async fn follow(mut call: Call, next: Next) -> Result<Response<Bytes>, Error> {
    let target = call.target.clone();
    let malformed = |what: String| Error::Malformed { target: target.clone(), what };
    for _ in 0..=HOPS {
        let response = next.clone().oneshot(call.clone()).await?;
        if !is_followed(call.request.method(), target.route.template, response.status()) {
            return Ok(response);
        }
        let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
        let from = Url::parse(&call.request.uri().to_string()).ok();
        *call.request.uri_mut() = from
            .zip(location)
            .and_then(|(from, to)| from.join(to).ok())
            .and_then(|location| location.as_str().parse().ok())
            .ok_or_else(|| malformed(format!("it redirects ({}) to no readable address", response.status())))?;
    }
    Err(malformed(format!("it redirects more than {HOPS} times")))
}

fn is_followed(method: &Method, template: &str, status: StatusCode) -> bool {
    match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
            method == Method::GET || !template.starts_with("/repos/")
        }
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => method == Method::GET,
        _ => false,
    }
}
