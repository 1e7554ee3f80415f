//! The canary: searches for the key, JSON web tokens, installation tokens and webhook secrets of a whole run everywhere
//! except in Secrets.
//!
//! The search terms come from the places where they must be: the key from the Secret that a person wrote, everything
//! else from the `Authorization` headers of requests to GitHub. Each is searched in plain form, base64-encoded at any
//! alignment, percent-encoded, and by its parts between dots. A leak that is planted in each place shows that the
//! search finds leaks.

use crate::scene::{look, publish, token_in};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use github_sim::{Fault, FaultKind};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DynamicObject, ListParams};
use kube::discovery::{Discovery, verbs};
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken, ProjectRepository};
use landfall::git::reach::Reach;
use landfall::github::{CaBundleError, Connect, HttpsConnect, Transport};
use landfall::runtime::telemetry::{LogFormat, subscriber};
use landfall::webhook::{AppIdentity, CURRENT, Hook, ROOT_KEYS_SECRET, RootKeys};
use landfall_world::operator::{Operator, Start};
use landfall_world::{KEY, SYSTEM, World, id, objects};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tower::ServiceExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Shorter parts are ordinary words.
const SHORTEST: usize = 16;

/// A transport to GitHub that records every credential.
struct TakesDown {
    real: HttpsConnect,
    seen: Arc<Mutex<BTreeSet<String>>>,
}

impl Connect for TakesDown {
    fn connect_within(&self, reach: Reach, ca_bundle: Option<&[u8]>) -> Result<Transport, CaBundleError> {
        let seen = Arc::clone(&self.seen);
        let takes_down = move |request: http::Request<_>| {
            let header = request.headers().get(http::header::AUTHORIZATION);
            let credential = header.and_then(|value| {
                let (scheme, credential) = value.to_str().ok()?.split_once(' ')?;
                if scheme != "Basic" {
                    return Some(credential.to_owned());
                }
                // git sends it after a user name.
                let decoded = String::from_utf8(STANDARD.decode(credential).ok()?).ok()?;
                Some(decoded.split_once(':')?.1.to_owned())
            });
            seen.lock().unwrap().extend(credential);
            request
        };
        Ok(Transport::new(self.real.connect_within(reach, ca_bundle)?.map_request(takes_down)))
    }
}

#[derive(Clone, Default)]
pub struct Log(pub Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The ways to write a secret, each with a description.
fn spellings(name: &str, secret: &str) -> Vec<(String, String)> {
    let mut parts: BTreeSet<&str> = secret.split(['.', '\n']).filter(|part| part.len() >= SHORTEST).collect();
    parts.insert(secret);
    let mut spellings = Vec::new();
    for part in parts {
        // The header of every JSON web token is the same, and so are the first and last lines of every PEM. These are
        // not secret.
        if part.starts_with("-----") || part == URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"RS256"}"#) {
            continue;
        }
        spellings.push((format!("{name}, as it is"), part.to_owned()));
        spellings.push((format!("{name}, in percents"), utf8_percent_encode(part, NON_ALPHANUMERIC).to_string()));
        for before in 0..3 {
            // Preceding characters shift the encoding, and the characters at its ends depend on their neighbours.
            let shifted = [&vec![b'x'; before][..], part.as_bytes()].concat();
            for encoded in [STANDARD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
                let encoded = encoded.trim_end_matches('=');
                spellings.push((format!("{name}, in base64"), encoded[4..encoded.len() - 4].to_owned()));
            }
        }
    }
    spellings
}

/// The findings: the place, and the description of the secret.
fn search(places: &BTreeMap<&str, String>, secrets: &[(String, String)]) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (place, text) in places {
        for (name, spelling) in secrets {
            if text.contains(spelling.as_str()) {
                found.insert(((*place).to_owned(), name.clone()));
            }
        }
    }
    found
}

/// All objects of all kinds except Secrets, as the API server returns them, including managed fields.
async fn objects_of_all_kinds(world: &World) -> String {
    let discovery = Discovery::new(world.admin.clone()).run().await.expect("the kinds");
    let mut text = String::new();
    let mut kinds = BTreeSet::new();
    for (resource, capabilities) in discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources) {
        if !capabilities.supports_operation(verbs::LIST) || resource.kind == "Secret" {
            continue;
        }
        let api: Api<DynamicObject> = Api::all_with(world.admin.clone(), &resource);
        for object in
            api.list(&ListParams::default()).await.unwrap_or_else(|error| panic!("{}: {error}", resource.kind))
        {
            kinds.insert(resource.kind.clone());
            text.push_str(&serde_json::to_string(&object).expect("json"));
            text.push('\n');
        }
    }
    for kind in ["GitHubApp", "GitHubInstallation", "InstallationToken", "Event", "Lease", "ConfigMap"] {
        assert!(kinds.contains(kind), "{kind} is not among {kinds:?}");
    }
    text
}

/// The root key of webhooks, and the secrets derived from it for the App and for shop.
async fn webhook_secrets(world: &World) -> Vec<(String, String)> {
    let secret = world.until("there is a root key", async || world.get::<Secret>(SYSTEM, ROOT_KEYS_SECRET).await).await;
    let data = secret.data.unwrap();
    let keys = RootKeys::read(|name| data.get(name).map(|value| value.0.as_slice())).unwrap();
    let app = AppIdentity { host: world.sim.address().to_string(), app_id: id(4242) };
    let mut secrets = spellings("the root key of webhooks", &hex::encode(&data[CURRENT].0));
    let encoded = STANDARD.encode(&data[CURRENT].0);
    secrets.push(("the root key of webhooks, in base64".to_owned(), encoded.trim_end_matches('=').to_owned()));
    for hook in [Hook::App, Hook::Repository(id(9001))] {
        secrets.extend(spellings("a webhook's secret", keys.current.secret(&app, hook).expose()));
    }
    secrets
}

/// Webhooks of the App and of a repository. GitHub refuses one at first, with its secret in the answer.
async fn webhooks(world: &World, operator: &Operator) {
    let nobody = "127.0.0.1:1".parse().expect("an address");
    world.sim.resolve_webhooks([("landfall.example.com:443".to_owned(), nobody)].into());
    // GitHub knows the secrets that it was sent, and could repeat them.
    let known = webhook_secrets(world).await.into_iter().filter(|(name, _)| name == "a webhook's secret, as it is");
    let spoken: Vec<String> = known.map(|(_, secret)| secret).collect();
    let body = json!({"message": format!("Validation Failed: {}", spoken.join(" "))});
    let refusal = FaultKind::Status { status: 422, body: Some(body), headers: [].into() };
    world.sim.inject(Fault::new("POST", "/repos/acme/shop/hooks", refusal).times(1));
    let mut tenants = objects::tenants();
    tenants[0]["maxPermissions"]["repository_hooks"] = json!("write");
    let mut app = objects::app(world, &tenants);
    app["spec"]["webhook"] = json!({"url": "https://landfall.example.com"});
    world.apply::<GitHubApp>(&app).await;
    let spec = json!({"webhook": {"mode": "Repository"}});
    world.apply::<ProjectRepository>(&objects::repository("shop", &spec)).await;
    world.until_reason::<ProjectRepository>("team-a", "shop", "WebhookRefused").await;
    world.live_through(operator, SignedDuration::from_mins(70)).await;
    world.until_reason::<ProjectRepository>("team-a", "shop", "Observed").await;
    assert_eq!(world.sim.hooks("acme/shop").expect("hooks").len(), 1);
}

/// A whole run: objects are created, renewed, changed, refused, edited, adopted and deleted, with failures of all
/// kinds. Returns the operator that runs at its end, and the metrics and health of the first one.
async fn live(world: &World, start: impl Fn() -> Start) -> (Operator, String) {
    let operator = world.start(start()).await;
    world.apply::<GitHubApp>(&objects::app(world, &objects::tenants())).await;
    world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
    publish(world, "shop", &json!({})).await;
    publish(
        world,
        "libs",
        &json!({"repositories": [{"name": "lib-core"}], "secret": {"name": "libs", "format": "Opaque"}}),
    )
    .await;
    let rendered = |text: &str| {
        let secret = json!({"name": "rendered", "format": "Template", "template": {"config": text}});
        json!({"repositories": [{"name": "lib-core"}], "secret": secret})
    };
    // It fails with the token, and not with the dummy with which it is tried before.
    let fails = rendered("{{ repositories[9] if 'ghs_4242' in token else token }}");
    world.apply::<InstallationToken>(&objects::token("rendered", &fails)).await;
    world.until_reason::<InstallationToken>("team-a", "rendered", "InvalidTemplate").await;
    publish(world, "rendered", &rendered("{{ (username ~ ':' ~ token)|b64encode }} {{ token|urlencode }}")).await;
    world.apply::<InstallationToken>(&objects::token("vault", &json!({"repositories": [{"id": 9003}]}))).await;
    world.until_reason::<InstallationToken>("team-a", "vault", "RepositoryNotGranted").await;
    let mine = token_in(world, "shop-git").await.unwrap();
    let echoes = json!({"message": format!("Bad token {mine} in request")});
    for (route, kind) in [
        ("/app/installations/*/access_tokens", FaultKind::LoseResponse),
        (
            "/app/installations/*/access_tokens",
            FaultKind::Status { status: 422, body: Some(echoes.clone()), headers: [].into() },
        ),
        ("/installation/repositories", FaultKind::Status { status: 403, body: Some(echoes), headers: [].into() }),
        ("/installation/repositories", FaultKind::Cut),
        ("/app", FaultKind::Status { status: 401, body: None, headers: [].into() }),
    ] {
        world.sim.inject(Fault { method: None, path: Some(route.into()), nth: 1, times: 1, kind });
    }
    look(world).await;
    world.live_through(&operator, SignedDuration::from_mins(70)).await;
    webhooks(world, &operator).await;
    world.merge::<Secret>("team-a", "libs", &json!({"data": {"token": "eHh4"}})).await.unwrap();
    world.live_through(&operator, SignedDuration::from_mins(10)).await;
    let served = operator.serves("/metrics").await.1 + &operator.serves("/readyz").await.1;
    operator.kill();
    world.put_secret(SYSTEM, "github-app", &[("private-key.pem", KEY.public_pem())]).await;
    let operator = world.start(start()).await;
    world.until_reason::<GitHubApp>("", "landfall", "CredentialsInvalid").await;
    world.put_key(KEY.private_pem()).await;
    world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
    publish(world, "libs", &json!({})).await;
    world.delete::<InstallationToken>("team-a", "libs").await;
    world.until_gone::<InstallationToken>("team-a", "libs").await;
    operator.settled().await;
    (operator, served)
}

#[tokio::test]
async fn no_secret_is_told_anywhere() {
    let world = World::new().await;
    world.namespace("team-a", &[]).await;
    let mark = world.audit.mark().unwrap();
    let log = Log::default();
    let writer = log.clone();
    let level = "info,landfall=trace,kube=debug,kube_client=trace,kube_runtime=debug,hyper=debug,hyper_util=debug,octocrab=trace,tower=debug,rustls=debug";
    let dispatch = tracing::Dispatch::new(subscriber(level, LogFormat::Json, move || writer.clone()).unwrap());
    // If it were the only subscriber, tracing would ask the thread that reaches a line first, which may belong to
    // another test without a log, and then omit the line for all.
    let _second = tracing::Dispatch::new(subscriber(level, LogFormat::Json, std::io::sink).unwrap());
    // As a side effect, records of the older kind reach the log too, as they do in the operator.
    drop(tracing_subscriber::registry().set_default());
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let connect = Arc::new(TakesDown { real: HttpsConnect::new(), seen: Arc::clone(&seen) });
    let start = || Start { elects: true, log: Some(dispatch.clone()), github: connect.clone(), ..Start::default() };

    let (operator, served) = live(&world, start).await;

    // The secrets that must not appear.
    let mut secrets = spellings("the App's key", KEY.private_pem());
    secrets.extend(webhook_secrets(&world).await);
    let credentials: Vec<_> = seen.lock().unwrap().iter().cloned().collect();
    let tokens: Vec<_> = credentials.iter().filter(|credential| credential.starts_with("ghs_")).collect();
    assert!(tokens.len() >= 6 && credentials.len() > tokens.len(), "{} and {}", tokens.len(), credentials.len());
    for alive in world.sim.live_tokens() {
        // A token whose answer was lost is known to nobody, and one that was never used only to GitHub.
        let is_known = tokens.iter().any(|token| crate::scene::sha256(token) == alive.sha256);
        assert!(is_known || alive.uses == 0, "a token in use was not taken down");
    }
    for credential in &credentials {
        let name = if credential.starts_with("ghs_") { "a token" } else { "a JSON web token" };
        secrets.extend(spellings(name, credential));
    }

    let log_text = || String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    let urls = || format!("{:?}", world.sim.requests());
    let audit = || format!("{:?}", world.audit.since(mark).unwrap());
    let maps: Api<ConfigMap> = Api::namespaced(world.admin.clone(), "team-a");
    let places = BTreeMap::from([
        ("log", log_text()),
        ("objects", objects_of_all_kinds(&world).await),
        ("metrics and health", served + &operator.serves("/metrics").await.1),
        ("requests to GitHub", urls()),
        ("requests to Kubernetes", audit()),
    ]);
    assert!(
        places["log"].contains("\"level\":\"DEBUG\"") && places["log"].contains("hyper_util"),
        "the log was loud enough"
    );
    let found = search(&places, &secrets);
    assert!(found.is_empty(), "{found:?}");

    // A planted leak is found in each place, in any spelling.
    let token = credentials.iter().find(|credential| credential.starts_with("ghs_")).unwrap();
    let basic = STANDARD.encode(format!("x-access-token:{token}"));
    tracing::dispatcher::with_default(&dispatch, || tracing::info!(header = basic, "planted"));
    let claims = token.split('.').nth(1).unwrap();
    world
        .apply::<ConfigMap>(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "planted", "namespace": "team-a"},
            "data": {"claims": claims},
        }))
        .await;
    let line = KEY.private_pem().lines().nth(3).unwrap();
    let line = utf8_percent_encode(line, NON_ALPHANUMERIC);
    let get = http::Request::get(format!("/version?key={line}")).body(Vec::new()).unwrap();
    world.admin.request::<serde_json::Value>(get).await.unwrap();
    let places = BTreeMap::from([
        ("log", log_text()),
        ("objects", objects_of_all_kinds(&world).await),
        ("requests to Kubernetes", audit()),
    ]);
    maps.delete("planted", &kube::api::DeleteParams::default()).await.unwrap();
    let found: BTreeSet<_> =
        search(&places, &secrets).into_iter().map(|(place, name)| format!("{place}: {name}")).collect();
    for leak in
        ["log: a token, in base64", "objects: a token, as it is", "requests to Kubernetes: the App's key, in percents"]
    {
        assert!(found.contains(leak), "{leak} was planted, and found was {found:?}");
    }
    operator.stop().await;
}
