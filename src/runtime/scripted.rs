//! A Kubernetes API server whose answers a test defines.

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

/// A request.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    pub path: String,
    /// Null if there is none.
    pub body: Value,
}

/// A client for which `answer` gives the status and the body of each response.
pub fn client<A, F>(answer: A) -> kube::Client
where
    A: Fn(Call) -> F + Clone + Send + 'static,
    F: Future<Output = (u16, Value)> + Send + 'static,
{
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("JSON") };
            let (status, body) = answer(Call { method: parts.method, path: parts.uri.path().to_owned(), body }).await;
            let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            Ok::<_, kube::Error>(response.expect("a valid response"))
        }
    });
    kube::Client::new(service, "default")
}

/// The status and body of an error.
pub fn refusal(status: u16, reason: &str) -> (u16, Value) {
    (
        status,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": reason, "message": reason}),
    )
}
