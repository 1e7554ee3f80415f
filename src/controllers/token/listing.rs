//! Reads the Secrets with published tokens at the start of the process: in pages, and not one by one.
//!
//! Invariant: a page takes a bounded amount of memory. Tenants can put the operator's label on Secrets of their own, and
//! a Secret may be large. A page that is too large is requested again with fewer Secrets. If the listing fails, the
//! Secrets are read one by one.

use super::TokenKind;
use super::secret::{self, About};
use crate::api::{GitHubApp, GitHubInstallation, InstallationToken, MANAGED_BY, MANAGED_BY_LABEL};
use crate::controllers::watches::SecretMeta;
use crate::runtime::lenient::Lenient;
use futures::AsyncReadExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListMeta, ListParams};
use kube::core::Request;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// The most Secrets and bytes of a page. A Secret of the operator takes about three kilobytes.
const PAGE: Page = Page { secrets: 500, bytes: 8 << 20 };
/// The limit for all pages, for an API server that accepts a request and never answers.
const LONGEST: Duration = Duration::from_mins(2);

#[derive(Clone, Copy)]
struct Page {
    secrets: u32,
    bytes: usize,
}

/// The reason why a listing ended early.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Kubernetes(#[from] kube::Error),
    #[error("the answer broke off")]
    Read(#[from] std::io::Error),
    /// serde's messages can quote a value, so only the category is kept.
    #[error("the answer cannot be parsed ({0:?})")]
    Parse(serde_json::error::Category),
    #[error("a single Secret takes more than {0} bytes")]
    TooLarge(usize),
}

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
    items: Vec<Lenient<Secret>>,
}

/// Notes the Secrets of all tokens that the cache has.
pub async fn note_published(kind: &TokenKind) {
    let shared = &kind.shared;
    let cached = shared.caches.all::<SecretMeta>();
    if cached.is_empty() {
        return;
    }
    let places: BTreeSet<_> = if shared.settings.secret_namespaces.is_empty() {
        [None].into()
    } else {
        cached.iter().map(|secret| secret.namespace()).collect()
    };
    drop(cached);
    let listing = async {
        for namespace in places {
            // One namespace that refuses does not slow down the others.
            if let Err(error) = list(&shared.client, namespace.as_deref(), PAGE, |secret| note(kind, &secret)).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, namespace, "cannot list the Secrets; they are read one by one");
            }
        }
    };
    if tokio::time::timeout(LONGEST, listing).await.is_err() {
        tracing::warn!("the list of the Secrets takes too long; the others are read one by one");
    }
}

/// Notes a Secret if it is that of an `InstallationToken`, and forgets its content otherwise.
fn note(kind: &TokenKind, secret: &Secret) {
    let caches = &kind.shared.caches;
    let namespace = secret.namespace().unwrap_or_default();
    let owners = secret.owner_references().iter().filter(|owner| owner.kind == "InstallationToken");
    let tokens = owners.filter_map(|owner| caches.named::<InstallationToken>(&namespace, &owner.name));
    let is_its = |token: &InstallationToken| {
        token.spec.secret.name == secret.name_any() && secret::is_ours(&secret.metadata, token)
    };
    let Some(token) = tokens.into_iter().find(|token| is_its(token)) else { return };
    let installation = caches.named::<GitHubInstallation>(&namespace, &token.spec.installation_ref.name);
    let app = installation.and_then(|it| caches.get(&ObjectRef::<GitHubApp>::new(&it.spec.app_ref.name)));
    let ca_bundle = app.as_ref().and_then(|app| app.spec.ca_bundle.as_deref());
    // The watch may have brought a newer version meanwhile, so the note counts for this version alone.
    // The installation is not known yet, so a Secret whose format depends on it is read once more.
    let about = About { token: &token, ca_bundle, facts: None };
    kind.notes.ours(about, secret, None, None, kind.shared.now());
}

async fn list(
    client: &Client,
    namespace: Option<&str>,
    mut page: Page,
    mut each: impl FnMut(Secret),
) -> Result<(), Error> {
    let mut params = ListParams::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"));
    loop {
        params.limit = Some(page.secrets);
        let request = Request::new(Secret::url_path(&(), namespace)).list(&params);
        let answer = client.request_stream(request.map_err(kube::Error::BuildRequest)?).await?;
        let mut body = Vec::new();
        std::pin::pin!(answer.take(page.bytes as u64 + 1)).read_to_end(&mut body).await?;
        if body.len() > page.bytes {
            if page.secrets == 1 {
                return Err(Error::TooLarge(page.bytes));
            }
            page.secrets /= 2;
            continue;
        }
        let list: List = serde_json::from_slice(&body).map_err(|error| Error::Parse(error.classify()))?;
        // A Secret that cannot be parsed is read by itself, and the error is then in its object's status.
        list.items.into_iter().filter_map(|secret| secret.read().ok()).for_each(&mut each);
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => params.continue_token = Some(next),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::client::Body;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    /// An API server with seven Secrets, of which the sixth is large, and the limits of the requests.
    fn server() -> (Client, Arc<Mutex<Vec<usize>>>) {
        let limits = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&limits);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let uri = request.uri().to_string();
            assert!(uri.starts_with("/api/v1/namespaces/team-a/secrets?"), "{uri}");
            assert!(uri.contains("labelSelector=app.kubernetes.io%2Fmanaged-by%3Dlandfall"), "{uri}");
            let number = |key: &str| -> Option<usize> { uri.split_once(key)?.1.split('&').next()?.parse().ok() };
            let (from, limit) = (number("continue=").unwrap_or(0), number("limit=").unwrap());
            log.lock().unwrap().push(limit);
            let to = (from + limit).min(7);
            let items: Vec<_> = (from..to)
                .map(|number| {
                    let data = "A".repeat(if number == 5 { 2000 } else { 400 });
                    serde_json::json!({"metadata": {"name": number.to_string()}, "data": {"password": data}})
                })
                .collect();
            let next = if to < 7 { to.to_string() } else { String::new() };
            let body = serde_json::json!({"metadata": {"continue": next}, "items": items});
            let response = http::Response::new(Body::from(serde_json::to_vec(&body).unwrap()));
            async move { Ok::<_, Infallible>(response) }
        });
        (Client::new(service, "team-a"), limits)
    }

    async fn names(client: &Client, page: Page) -> (Result<(), Error>, String) {
        let mut names = String::new();
        let result = list(client, Some("team-a"), page, |secret| names.push_str(&secret.name_any())).await;
        (result, names)
    }

    #[tokio::test]
    async fn a_page_is_bounded_in_secrets_and_in_bytes() {
        let (client, limits) = server();
        let (result, found) = names(&client, Page { secrets: 4, bytes: 100_000 }).await;
        result.unwrap();
        assert_eq!((found.as_str(), limits.lock().unwrap().drain(..).collect::<Vec<_>>()), ("0123456", vec![4, 4]));
        // Four take less than 3,000 bytes, and three with the large one take more.
        let (result, found) = names(&client, Page { secrets: 4, bytes: 2500 }).await;
        result.unwrap();
        let asked: Vec<_> = limits.lock().unwrap().drain(..).collect();
        assert_eq!((found.as_str(), asked), ("0123456", vec![4, 4, 2, 1, 1, 1]));
    }

    #[tokio::test]
    async fn a_secret_that_is_larger_than_a_page_ends_the_listing() {
        let (client, _) = server();
        let (result, found) = names(&client, Page { secrets: 4, bytes: 1000 }).await;
        assert!(matches!(result, Err(Error::TooLarge(1000))), "{result:?}");
        assert_eq!(found, "01234");
    }
}
