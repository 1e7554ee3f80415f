//! The address that a delivery connects to: that of its URL, or an override in the simulator.
//!
//! Only the connection goes elsewhere. The request keeps its URL, and a certificate is still verified for the URL's
//! host. A receiver with another address therefore gets deliveries as if the name resolved to it.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use tower::Service;

use crate::lock;
use crate::state::State;

/// Connects, with the overrides of the state.
#[derive(Clone)]
pub(super) struct Connector {
    http: HttpConnector,
    state: Arc<Mutex<State>>,
}

impl Connector {
    pub(super) fn new(state: Arc<Mutex<State>>) -> Self {
        let mut http = HttpConnector::new();
        // TLS is added outside of this connector.
        http.enforce_http(false);
        Self { http, state }
    }

    fn instead(&self, uri: &Uri) -> Option<Uri> {
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let asked = format!("{}:{port}", uri.host()?.to_lowercase());
        let address = *lock(&self.state).webhook_resolve.get(&asked)?;
        Uri::builder().scheme("http").authority(address.to_string()).path_and_query("/").build().ok()
    }
}

impl Service<Uri> for Connector {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = <HttpConnector as Service<Uri>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Uri>::poll_ready(&mut self.http, context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let uri = self.instead(&uri).unwrap_or(uri);
        self.http.call(uri)
    }
}
