//! Watches that begin with a stream of the objects that exist.
//!
//! A listing in pages costs the API server and the client a request for every few objects, and a listing at once has all of them in
//! memory. A stream is one request, and brings one object at a time. Invariant: an API server that does not stream is listed
//! in pages.

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use kube::Resource;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

type Events<K> = BoxStream<'static, watcher::Result<Event<K>>>;

/// A watch. `config` says how to list in pages.
pub fn streamed<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let streams = watcher(api.clone(), config.clone().streaming_lists()).boxed();
    or_paged(streams, move || watcher(api, config).boxed())
}

/// The events of a watch that streams, and once the API server does not do that, those of one that lists.
fn or_paged<K: Send + 'static>(
    streams: Events<K>,
    paged: impl FnOnce() -> Events<K> + Send + 'static,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static {
    stream::unfold((streams, Some(paged), false), async |(mut events, mut paged, mut began)| {
        let mut event = events.next().await?;
        let does_not_stream = match &event {
            // The stream ended before it had brought all objects.
            Ok(Event::Init) => std::mem::replace(&mut began, true),
            Ok(Event::InitDone) => {
                began = false;
                false
            }
            Ok(_) => false,
            Err(error) => refuses(error),
        };
        if let Some(paged) = paged.take_if(|_| does_not_stream) {
            tracing::info!("the API server streams no lists, so one is read in pages");
            events = paged();
            event = events.next().await?;
        }
        Some((event, (events, paged, began)))
    })
}

/// The API server does not know the parameters of such a watch, or has its feature gate off.
fn refuses(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) | watcher::Error::WatchError(status) => status.code,
        _ => return false,
    };
    matches!(code, 400 | 422)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    type Told = watcher::Result<Event<&'static str>>;

    fn refused(code: u16) -> Told {
        Err(watcher::Error::WatchStartFailed(kube::Error::Api(Box::new(Status { code, ..Status::default() }))))
    }

    async fn told(streams: Vec<Told>) -> Vec<String> {
        let paged = || stream::iter([Ok(Event::Init), Ok(Event::InitApply("paged")), Ok(Event::InitDone)]).boxed();
        let events = or_paged(stream::iter(streams).boxed(), paged);
        let name = |event: Told| match event {
            Ok(Event::Init) => "init".to_owned(),
            Ok(Event::InitDone) => "done".to_owned(),
            Ok(Event::InitApply(object) | Event::Apply(object) | Event::Delete(object)) => object.to_owned(),
            Err(_) => "error".to_owned(),
        };
        events.map(name).collect().await
    }

    #[tokio::test]
    async fn an_api_server_that_refuses_is_listed_in_pages() {
        for code in [400, 422] {
            assert_eq!(told(vec![refused(code), Ok(Event::Apply("never"))]).await, ["init", "paged", "done"]);
        }
    }

    #[tokio::test]
    async fn a_stream_that_never_completes_is_given_up() {
        let streams = vec![Ok(Event::Init), Ok(Event::InitApply("a")), Ok(Event::Init), Ok(Event::InitApply("never"))];
        assert_eq!(told(streams).await, ["init", "a", "init", "paged", "done"]);
    }

    #[tokio::test]
    async fn a_complete_stream_stays_and_so_does_one_that_fails_for_a_while() {
        let streams = vec![refused(403), Ok(Event::Init), Ok(Event::InitDone), refused(503), Ok(Event::Init)];
        assert_eq!(told(streams).await, ["error", "init", "done", "error", "init"]);
    }
}
