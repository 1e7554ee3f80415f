//! The deliveries: pushes of 6 KB to each of the repositories, signed, each with a GUID of its own.

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use landfall::webhook::{AppIdentity, CURRENT, CURRENT_ID, Hook, RootKeys};
use serde_json::json;

use super::{ACCOUNT_ID, APP, APP_ID, OBJECTS, ROOT_KEY, name};
use crate::{BenchmarkError, reference};

/// How large a body is, in bytes: a push of a few commits.
const BODY: usize = 6 * 1024;

/// A push to each of the repositories, for one receiver.
pub(super) struct Deliveries {
    pushes: Vec<Push>,
    /// How many loads there were: no two of them have a GUID in common, because a GUID that was seen is not stored again.
    loads: u16,
}

#[derive(Clone)]
struct Push {
    path: String,
    body: Bytes,
    signature: String,
}

impl Deliveries {
    /// By the App's webhook.
    pub(super) fn to_landfall() -> Result<Self, BenchmarkError> {
        let keys = RootKeys::read(|file| match file {
            CURRENT => Some(&ROOT_KEY[..]),
            CURRENT_ID => Some(b"bench"),
            _ => None,
        })?;
        let identity = AppIdentity { host: "api.github.com".into(), app_id: APP_ID.try_into()? };
        let secret = keys.current.secret(&identity, Hook::App);
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        let push = |id| {
            let body = body(id);
            let signature = format!("sha256={}", hex::encode(hmac::sign(&key, &body)));
            Push { path: Hook::App.path(APP), body, signature }
        };
        Ok(Self { pushes: (1..=OBJECTS).map(push).collect(), loads: 0 })
    }

    /// By a webhook for each repository.
    pub(super) fn to_plain_receiver() -> Self {
        let push = |number| {
            let body = body(number + 1);
            let signature = reference::receiver::signature(&body);
            Push { path: reference::receiver::path(number), body, signature }
        };
        Self { pushes: (0..OBJECTS).map(push).collect(), loads: 0 }
    }

    /// The deliveries of another load.
    pub(super) fn right(&mut self) -> impl Fn(u64) -> Request<Full<Bytes>> + use<'_> {
        self.loads += 1;
        let load = self.loads;
        move |number| {
            let object = number % OBJECTS;
            let push = &self.pushes[usize::try_from(object).unwrap_or_default()];
            request(push, &push.signature, &guid(load, object, number))
        }
    }

    /// Deliveries for a webhook that there is, signed with another secret.
    pub(super) fn wrong(&self) -> impl Fn(u64) -> Request<Full<Bytes>> + Send + use<> {
        let (push, signature) = (self.pushes[0].clone(), format!("sha256={}", "ab".repeat(32)));
        move |number| request(&push, &signature, &guid(0, 0, number))
    }
}

/// A GUID that no other delivery of this load has.
fn guid(load: u16, object: u64, number: u64) -> String {
    format!("{object:08x}-{load:04x}-4000-8000-{number:012x}")
}

fn request(push: &Push, signature: &str, guid: &str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(push.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::try_from(&push.path).unwrap_or_default();
    let headers = [
        ("host", "landfall"),
        ("user-agent", "GitHub-Hookshot/bench"),
        ("content-type", "application/json"),
        ("x-github-event", "push"),
        ("x-github-delivery", guid),
        ("x-hub-signature-256", signature),
    ];
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            request.headers_mut().insert(name, value);
        }
    }
    request
}

/// A push's payload: the fields that are read are at its ends, as in GitHub's.
fn body(id: u64) -> Bytes {
    let payload = |messages: &str| {
        json!({
            "ref": "refs/heads/main", "before": "1".repeat(40), "after": "2".repeat(40),
            "commits": [{"id": "2".repeat(40), "message": messages, "author": {"name": "a"}}],
            "installation": {"id": 501},
            "repository": {"id": id, "name": name(id), "owner": {"id": ACCOUNT_ID, "login": "acme"}},
        })
        .to_string()
    };
    let rest = BODY - payload("").len();
    Bytes::from(payload(&"x".repeat(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn a_delivery_is_of_its_size_and_no_two_have_the_same_guid() {
        let mut guids = std::collections::BTreeSet::new();
        let (ours, plain) = (Deliveries::to_landfall().unwrap(), Deliveries::to_plain_receiver());
        for (mut deliveries, path) in [(ours, "/webhooks/app/landfall"), (plain, "/hooks/repository-00")] {
            guids.clear();
            for _ in 0..2 {
                let right = deliveries.right();
                for number in 0..100 {
                    let request = right(50 * number);
                    assert_eq!(request.uri().path(), path);
                    guids.insert(request.headers()["x-github-delivery"].to_str().unwrap().to_owned());
                    assert_eq!(request.into_body().collect().await.unwrap().to_bytes().len(), BODY);
                }
            }
            assert_eq!(guids.len(), 200);
            assert!(guids.iter().all(|guid| guid.len() == 36), "{guids:?}");
        }
    }
}
