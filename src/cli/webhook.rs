//! `landfall webhook`: for people who manage a webhook by hand, or rotate the key that secrets are derived from.
//!
//! It runs with the caller's rights. A person who can read the Secret with the root keys knows every webhook's secret.

use crate::api::GitHubApp;
use crate::github::{Endpoint, PlainHttp, Proxies};
use crate::ids::RepositoryId;
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

#[derive(Subcommand)]
pub enum Command {
    /// Print the settings of a webhook that is managed by hand: address, content type, secret, events. The output contains the secret.
    Show(Show),
    /// Make a new root key. Deliveries signed with the previous one are still accepted. The operator updates the webhooks that it manages at once.
    Rotate(Rotate),
}

#[derive(Args)]
pub struct Show {
    /// The GitHubApp. Default: the only one.
    #[arg(long)]
    app: Option<String>,
    /// Show the webhook of the repository with this id. Default: the App's webhook.
    #[arg(long)]
    repository_id: Option<RepositoryId>,
    /// The operator's own namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "landfall-system")]
    namespace: String,
    /// The output format.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Args)]
pub struct Rotate {
    /// The operator's own namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "landfall-system")]
    namespace: String,
}

pub async fn run(command: Command) -> Outcome {
    let client = Client::try_from(super::kubernetes::config(&Proxies::from_env()?).await?)?;
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
            format!("GitHubApp {name} has no spec.webhook.url: set the address at which GitHub reaches the receiver")
        })?
        .url;
    let endpoint = Endpoint::parse(
        &app.spec.api_url,
        app.spec.web_url.as_deref(),
        app.spec.graphql_url.as_deref(),
        PlainHttp::Anywhere,
    )?;
    let known = app.status.as_ref().and_then(|status| status.app_id).or(app.spec.app_id);
    let app_id = known.ok_or_else(|| format!("the id of GitHubApp {name} is not known yet: see its conditions"))?;
    let secrets: Api<Lenient<Secret>> = Api::namespaced(client.clone(), &show.namespace);
    let secret = secrets.get_opt(ROOT_KEYS_SECRET).await?.map(Lenient::read).transpose()?;
    let secret = secret.ok_or_else(|| {
        format!("there is no Secret {ROOT_KEYS_SECRET} in namespace {}: `landfall controller` makes it when it first starts; --namespace must be the operator's namespace", show.namespace)
    })?;
    let data = secret.data.unwrap_or_default();
    let keys = RootKeys::read(|key| data.get(key).map(|value| value.0.as_slice()))?;
    let hook = show.repository_id.map_or(Hook::App, Hook::Repository);
    let url = hook.url(base, &name);
    let signed = keys.current.secret(&AppIdentity { host: endpoint.host(), app_id }, hook);
    // An App receives the events of its installations without subscribing to them.
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
        0 => Err("there is no GitHubApp; create one first".into()),
        1 => Ok(all.remove(0).read()?),
        _ => Err("there are several GitHubApps: choose one with --app".into()),
    }
}

async fn rotate(client: &Client, namespace: &str) -> Outcome {
    let secrets: Api<Lenient<Secret>> = Api::namespaced(client.clone(), namespace);
    let (id, key) = root_keys::new_key()?;
    match secrets.get_opt(ROOT_KEYS_SECRET).await?.map(Lenient::read).transpose()? {
        None => {
            secrets.create(&PostParams::default(), &Lenient::from(root_keys::fresh()?)).await?;
            println!("created Secret {ROOT_KEYS_SECRET} in namespace {namespace}");
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
            // At the version that was read: of two rotations at once, one must fail, or a key would be lost.
            secrets.replace(ROOT_KEYS_SECRET, &PostParams::default(), &Lenient::from(secret)).await.map_err(
                |error| match error {
                    kube::Error::Api(status) if status.code == 409 => {
                        "the Secret was changed at the same time: look whether somebody else rotated the key, then try again".to_owned()
                    }
                    error => error.to_string(),
                },
            )?;
        }
    }
    println!("{id} is the root key now; the previous one is still accepted.");
    println!(
        "The operator updates the webhooks that it manages. Webhooks that are managed by hand need their new secret: landfall webhook show"
    );
    println!("Rotate again only after all of them have it.");
    Ok(())
}
