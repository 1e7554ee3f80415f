//! `landfall webhook`: for people who manage a webhook by hand, or exchange the key that secrets are derived from.
//!
//! Runs with the rights of whoever calls it: to read the Secret with the root keys is to know every webhook's secret.

use crate::api::GitHubApp;
use crate::github::{Endpoint, PlainHttp};
use crate::runtime::lenient::Lenient;
use crate::webhook::root_keys;
use crate::webhook::{
    AppIdentity, CURRENT, CURRENT_ID, Hook, PREVIOUS, PREVIOUS_ID, REPOSITORY_EVENTS, ROOT_KEYS_SECRET, RootKeys,
};
use clap::{Args, Subcommand, ValueEnum};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Print what a webhook needs that is managed by hand: address, content type, secret, events. The secret is printed too.
    Show(Show),
    /// Make a new root key. The one of before stays valid for deliveries; webhooks that the operator manages get their new secrets from it at once.
    Rotate(Rotate),
}

/// Which webhook, and how it is printed.
#[derive(Args)]
pub struct Show {
    /// The GitHubApp. Default: the only one there is.
    #[arg(long)]
    app: Option<String>,
    /// The own webhook of the repository with this id; else the App's.
    #[arg(long)]
    repository_id: Option<u64>,
    /// The operator's own namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "landfall-system")]
    namespace: String,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Where the key is.
#[derive(Args)]
pub struct Rotate {
    /// The operator's own namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "landfall-system")]
    namespace: String,
}

/// Does it.
///
/// # Errors
/// What is missing, and where to get it.
pub async fn run(command: Command) -> Outcome {
    let client = Client::try_default().await.map_err(|error| format!("no cluster to talk to: {error}"))?;
    match command {
        Command::Show(show) => print(&client, show).await,
        Command::Rotate(rotate_in) => rotate(&client, &rotate_in.namespace).await,
    }
}

async fn print(client: &Client, show: Show) -> Outcome {
    let app = app(client, show.app).await?;
    let name = app.name_any();
    let webhook = app.spec.webhook.as_ref();
    let base = &webhook
        .ok_or_else(|| {
            format!("GitHubApp {name} has no spec.webhook.url: set the address under which GitHub reaches the receiver")
        })?
        .url;
    let endpoint = Endpoint::parse(
        &app.spec.api_url,
        app.spec.web_url.as_deref(),
        app.spec.graphql_url.as_deref(),
        PlainHttp::Anywhere,
    )?;
    let known = app.status.as_ref().and_then(|status| status.app_id).or(app.spec.app_id);
    let app_id = known.and_then(|id| u64::try_from(id).ok());
    let app_id = app_id.ok_or_else(|| format!("the id of GitHubApp {name} is not known yet: see its conditions"))?;
    let secrets: Api<Lenient<Secret>> = Api::namespaced(client.clone(), &show.namespace);
    let secret = secrets.get_opt(ROOT_KEYS_SECRET).await?.map(Lenient::read).transpose()?;
    let secret = secret.ok_or_else(|| {
        format!("there is no Secret {ROOT_KEYS_SECRET} in namespace {}: `landfall controller` makes it at its first start (--namespace names the operator's namespace)", show.namespace)
    })?;
    let data = secret.data.unwrap_or_default();
    let keys = RootKeys::read(|key| data.get(key).map(|value| value.0.as_slice()))?;
    let hook = show.repository_id.map_or(Hook::App, Hook::Repository);
    let url = hook.url(base, &name);
    let signed = keys.current.secret(&AppIdentity { host: endpoint.host(), app_id }, hook);
    // An App is told of its installations without asking for it.
    let events = REPOSITORY_EVENTS;
    match show.output {
        Output::Json => {
            let whole = json!({
                "url": url, "contentType": "application/json", "secret": signed.expose(), "events": events,
                "insecureSSL": false, "keyID": keys.current.id(),
            });
            println!("{whole:#}");
        }
        Output::Text => {
            println!("Payload URL       {url}");
            println!("Content type      application/json");
            println!("Secret            {}", signed.expose());
            println!("SSL verification  enabled");
            println!("Events            {}", events.join(", "));
        }
    }
    Ok(())
}

async fn app(client: &Client, name: Option<String>) -> Result<GitHubApp, Box<dyn std::error::Error>> {
    let apps: Api<Lenient<GitHubApp>> = Api::all(client.clone());
    if let Some(name) = name {
        let found = apps.get_opt(&name).await?.map(Lenient::read).transpose()?;
        return found
            .ok_or_else(|| format!("there is no GitHubApp {name}: `kubectl get githubapps` lists them").into());
    }
    let mut all = apps.list(&ListParams::default().limit(50)).await?.items;
    match all.len() {
        0 => Err("there is no GitHubApp".into()),
        1 => Ok(all.remove(0).read()?),
        _ => Err("there are several GitHubApps: say which with --app".into()),
    }
}

async fn rotate(client: &Client, namespace: &str) -> Outcome {
    let secrets: Api<Lenient<Secret>> = Api::namespaced(client.clone(), namespace);
    let (id, key) = root_keys::new_key()?;
    match secrets.get_opt(ROOT_KEYS_SECRET).await?.map(Lenient::read).transpose()? {
        None => {
            secrets.create(&PostParams::default(), &Lenient::from(root_keys::fresh()?)).await?;
            println!("made Secret {ROOT_KEYS_SECRET} in namespace {namespace}");
            return Ok(());
        }
        Some(mut secret) => {
            let data = secret.data.get_or_insert_default();
            for (now, before) in [(CURRENT, PREVIOUS), (CURRENT_ID, PREVIOUS_ID)] {
                match data.remove(now) {
                    Some(value) => data.insert(before.to_owned(), value),
                    None => data.remove(before),
                };
            }
            data.insert(CURRENT.to_owned(), ByteString(key));
            data.insert(CURRENT_ID.to_owned(), ByteString(id.clone().into()));
            // As the version that was read: two who rotate at once must not both take the other's key for the one of before.
            secrets.replace(ROOT_KEYS_SECRET, &PostParams::default(), &Lenient::from(secret)).await.map_err(
                |error| match error {
                    kube::Error::Api(status) if status.code == 409 => {
                        "somebody else rotated it at the same time: look first, then try again".to_owned()
                    }
                    error => error.to_string(),
                },
            )?;
        }
    }
    println!("{id} is the root key now; the one of before is still accepted.");
    println!(
        "The operator sets the webhooks it manages anew by itself. Those that are managed by hand need their new secret: landfall webhook show"
    );
    println!("Rotate again only when all of them have it.");
    Ok(())
}
