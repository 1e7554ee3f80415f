//! The plain receiver: for each delivery it reads the webhook's Secret, verifies the signature, and patches an annotation
//! of the object that the delivery is for. It answers after the patch. This is the usual way, for example that of Flux's
//! notification-controller.
//!
//! A delivery is as durable as with Landfall's receiver: 202 means that the API server stored it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde_json::json;
use tokio::net::TcpListener;

use super::collection;
use crate::api_server::write;
use crate::{BenchmarkError, cluster};

const NAMESPACE: &str = "default";
const KIND: &str = "PlainRepository";
const ANNOTATION: &str = "bench.landfall.dev/requested-at";
/// The key of each webhook's Secret that signs.
const SECRET: &[u8] = b"the secret of a webhook";
/// The largest body that is read.
const MOST_BODY: usize = 1 << 20;
/// The message of its log that tells its address.
pub(crate) const LISTENS: &str = "receiving deliveries";

/// Makes so many objects with their Secrets.
pub(crate) async fn objects(client: &Client, count: u64) -> Result<(), kube::Error> {
    for number in 0..count {
        let name = name(number);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "stringData": {"token": String::from_utf8_lossy(SECRET)},
        });
        let secrets = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
        write(client, "POST", &secrets, "application/json", &secret).await?;
        let object = super::object(KIND, &name, &json!({"url": "https://github.example/acme/shop"}));
        write(client, "POST", &collection(KIND, NAMESPACE), "application/json", &object).await?;
    }
    Ok(())
}

/// The path that receives the deliveries for an object.
pub(crate) fn path(number: u64) -> String {
    format!("/hooks/{}", name(number))
}

/// The value of `X-Hub-Signature-256` for a body.
pub(crate) fn signature(body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    format!("sha256={}", hex::encode(hmac::sign(&key, body)))
}

fn name(number: u64) -> String {
    format!("repository-{number:02}")
}

/// Serves until its standard input ends, and so at the latest with the process that started it.
pub(crate) async fn serve(kubeconfig: &Path) -> Result<(), BenchmarkError> {
    let client = cluster::client(kubeconfig).await?;
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.map_err(BenchmarkError::Reference)?;
    let address = listener.local_addr().map_err(BenchmarkError::Reference)?;
    eprintln!("{}", json!({"message": LISTENS, "address": address.to_string()}));
    let accept = async {
        while let Ok((stream, _)) = listener.accept().await {
            // An answer is small, and the sender waits for it.
            let _ = stream.set_nodelay(true);
            let client = client.clone();
            let service = service_fn(move |request| answer(client.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move { drop(connection.await) });
        }
    };
    tokio::select! {
        () = accept => {}
        () = super::input_ended() => {}
    }
    Ok(())
}

async fn answer(client: Client, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match receive(&client, request).await {
        Ok(()) => (StatusCode::ACCEPTED, String::new()),
        Err(refused) => refused,
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    Ok(response)
}

async fn receive(client: &Client, request: Request<Incoming>) -> Result<(), (StatusCode, String)> {
    let (head, body) = request.into_parts();
    let refused = |status: StatusCode| (status, status.to_string());
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let name = head.uri.path().strip_prefix("/hooks/").ok_or(refused(StatusCode::NOT_FOUND))?;
    let signature = header("x-hub-signature-256").and_then(|value| hex::decode(value.strip_prefix("sha256=")?).ok());
    let signature = signature.ok_or(refused(StatusCode::UNAUTHORIZED))?;
    let guid = header("x-github-delivery").ok_or(refused(StatusCode::BAD_REQUEST))?;
    let body = Limited::new(body, MOST_BODY).collect().await.map_err(|_| refused(StatusCode::PAYLOAD_TOO_LARGE))?;
    let failed = |error: kube::Error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());

    let secret = Api::<Secret>::namespaced(client.clone(), NAMESPACE).get(name).await.map_err(failed)?;
    let key = secret.data.as_ref().and_then(|data| data.get("token")).ok_or(refused(StatusCode::UNAUTHORIZED))?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key.0);
    hmac::verify(&key, &body.to_bytes(), &signature).map_err(|_| refused(StatusCode::UNAUTHORIZED))?;

    let path = format!("{}/{name}", collection(KIND, NAMESPACE));
    let change = json!({"metadata": {"annotations": {ANNOTATION: guid}}});
    loop {
        match write(client, "PATCH", &path, "application/merge-patch+json", &change).await {
            // Others patch the same object at the same time. The sender would have to send again.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            written => return written.map_err(failed),
        }
    }
}
