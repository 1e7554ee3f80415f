//! The control API under `/_sim`: the functions of the typed [`crate::Sim`], for people and for other languages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::Permissions;
use crate::fault::Fault;
use crate::forking::Fork;
use crate::hooking::{HookChange, NewHook};
use crate::person::{ControlError, Install, Push};
use crate::secondary::SecondaryLimits;
use crate::seed::{AccountSeed, RepositorySeed, Selection};
use crate::server::Hub;
use crate::state::State;
use crate::{lock, shapes};

type Answer = Result<Response, Failure>;

/// The routes; README.md describes them.
pub(crate) fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/ca", get(ca))
        .route("/state", get(overview))
        .route("/installations", post(install))
        .route("/installations/{id}", delete(uninstall))
        .route("/installations/{id}/suspended", put(suspend).delete(unsuspend))
        .route("/installations/{id}/repositories", put(select))
        .route("/installations/{id}/permissions", put(grant))
        .route("/accounts", post(create_account))
        .route("/accounts/{login}", patch(rename_account))
        .route("/apps/{slug}/keys", put(keys))
        .route("/repositories", post(create))
        .route("/repositories/{owner}/{name}", delete(remove).patch(edit))
        .route("/repositories/{owner}/{name}/hooks", get(hooks).post(create_hook))
        .route("/repositories/{owner}/{name}/pulls", get(pulls))
        .route("/hooks/{id}", patch(change_hook).delete(delete_hook))
        .route("/apps/{slug}/hook", get(app_hook))
        .route("/deliveries/under-way", get(under_way))
        .route("/deliveries/{id}/attempts", post(redeliver))
        .route("/webhook-resolve", put(resolve_webhooks))
        .route("/forks", post(fork))
        .route("/forks/finished", put(finish_forks))
        .route("/fork-delay", put(fork_delay))
        .route("/push", post(push))
        .route("/clock", get(clock))
        .route("/clock/advance", post(advance))
        .route("/token-life", put(token_life))
        .route("/rate-limit", put(rate_limit))
        .route("/secondary-limits", put(secondary_limits).delete(no_secondary_limits))
        .route("/faults", get(faults).post(inject).delete(clear_faults))
        .route("/faults/{id}", delete(remove_fault))
        .route("/requests", get(requests).delete(reset))
        .route("/requests/counts", get(counts))
        .route("/tokens", get(tokens))
        .route("/deliveries", get(deliveries))
        .with_state(hub)
}

/// A failure as JSON.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let status = match error {
            ControlError::NotFound { .. } => StatusCode::NOT_FOUND,
            ControlError::Exists { .. } => StatusCode::CONFLICT,
            ControlError::TooManyKeys | ControlError::Key(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ControlError::Git(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

/// Changes the state in a task that may wait for git.
async fn change<T: Send + 'static>(
    hub: &Hub,
    change: impl FnOnce(&mut State) -> Result<T, ControlError> + Send + 'static,
) -> Result<T, Failure> {
    let state = Arc::clone(&hub.state);
    let changed = tokio::task::spawn_blocking(move || {
        let mut state = lock(&state);
        state.settle_forks();
        change(&mut state)
    });
    let changed = changed.await;
    Ok(changed.map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))??)
}

#[expect(clippy::unnecessary_wraps, reason = "handlers end with it")]
fn done() -> Answer {
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[expect(clippy::unnecessary_wraps, reason = "handlers end with it")]
fn shown(value: impl serde::Serialize) -> Answer {
    Ok(Json(value).into_response())
}

async fn ca(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    let pem =
        hub.ca_pem.clone().ok_or_else(|| Failure(StatusCode::NOT_FOUND, "this simulator serves without TLS".into()))?;
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], pem).into_response())
}

/// An overview of all objects, by names and ids, for a person.
async fn overview(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    let state = lock(&hub.state);
    let links = shapes::Links { web: state.web.clone(), api: format!("{}/api/v3", state.web) };
    shown(json!({
        "now": state.now(),
        "url": state.web,
        "apps": state.apps.values().map(|app| shapes::app(&state, app, &links)).collect::<Vec<Value>>(),
        "accounts": state.accounts.values()
            .map(|account| json!({"id": account.id, "login": account.login, "type": account.kind})).collect::<Vec<_>>(),
        "installations": state.installations.values()
            .map(|installation| shapes::installation(&state, installation, &links)).collect::<Vec<_>>(),
        "repositories": state.repositories.values().map(|found| json!({
            "id": found.id, "full_name": state.full_name(found), "private": found.private,
            "archived": found.archived, "default_branch": found.default_branch, "refs": found.refs,
            "parent": found.parent.and_then(|parent| state.repositories.get(&parent))
                .map(|parent| state.full_name(parent)),
        })).collect::<Vec<_>>(),
    }))
}

async fn install(Shared(hub): Shared<Arc<Hub>>, Json(wish): Json<Install>) -> Answer {
    let id = change(&hub, move |state| state.install(&wish, None)).await?;
    Ok((StatusCode::CREATED, Json(json!({"id": id}))).into_response())
}

async fn uninstall(Shared(hub): Shared<Arc<Hub>>, Path(id): Path<u64>) -> Answer {
    change(&hub, move |state| state.uninstall(id)).await?;
    done()
}

async fn suspend(Shared(hub): Shared<Arc<Hub>>, Path(id): Path<u64>) -> Answer {
    change(&hub, move |state| state.suspend(id)).await?;
    done()
}

async fn unsuspend(Shared(hub): Shared<Arc<Hub>>, Path(id): Path<u64>) -> Answer {
    change(&hub, move |state| state.unsuspend(id)).await?;
    done()
}

async fn select(Shared(hub): Shared<Arc<Hub>>, Path(id): Path<u64>, Json(selection): Json<Selection>) -> Answer {
    change(&hub, move |state| state.select_repositories(id, &selection)).await?;
    done()
}

async fn grant(Shared(hub): Shared<Arc<Hub>>, Path(id): Path<u64>, Json(permissions): Json<Permissions>) -> Answer {
    change(&hub, move |state| state.grant(id, permissions)).await?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    public_keys: Vec<String>,
}

async fn keys(Shared(hub): Shared<Arc<Hub>>, Path(slug): Path<String>, Json(keys): Json<Keys>) -> Answer {
    change(&hub, move |state| state.set_app_keys(&slug, &keys.public_keys)).await?;
    done()
}

async fn create_account(Shared(hub): Shared<Arc<Hub>>, Json(seed): Json<AccountSeed>) -> Answer {
    let id = change(&hub, move |state| state.create_account(&seed)).await?;
    Ok((StatusCode::CREATED, Json(json!({"id": id}))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rename {
    login: String,
}

async fn rename_account(
    Shared(hub): Shared<Arc<Hub>>,
    Path(login): Path<String>,
    Json(rename): Json<Rename>,
) -> Answer {
    change(&hub, move |state| state.rename_account(&login, &rename.login)).await?;
    done()
}

async fn create(Shared(hub): Shared<Arc<Hub>>, Json(seed): Json<RepositorySeed>) -> Answer {
    let id = change(&hub, move |state| state.create_repository(&seed)).await?;
    Ok((StatusCode::CREATED, Json(json!({"id": id}))).into_response())
}

async fn remove(Shared(hub): Shared<Arc<Hub>>, Path((owner, name)): Path<(String, String)>) -> Answer {
    change(&hub, move |state| state.delete_repository(&format!("{owner}/{name}"))).await?;
    done()
}

/// Fields that are not given stay unchanged.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    name: Option<String>,
    archived: Option<bool>,
    private: Option<bool>,
    default_branch: Option<String>,
    owner: Option<String>,
}

async fn edit(
    Shared(hub): Shared<Arc<Hub>>,
    Path((owner, name)): Path<(String, String)>,
    Json(edit): Json<Edit>,
) -> Answer {
    let edited = change(&hub, move |state| {
        let mut full_name = format!("{owner}/{name}");
        if let Some(name) = edit.name {
            state.rename_repository(&full_name, &name)?;
            full_name = format!("{owner}/{name}");
        }
        if let Some(private) = edit.private {
            state.set_private(&full_name, private)?;
        }
        if let Some(branch) = edit.default_branch {
            state.set_default_branch(&full_name, &branch)?;
        }
        if let Some(archived) = edit.archived {
            state.set_archived(&full_name, archived)?;
        }
        edit.owner.map_or(Ok(()), |owner| state.transfer_repository(&full_name, &owner))
    });
    edited.await?;
    done()
}

async fn pulls(Shared(hub): Shared<Arc<Hub>>, Path((owner, name)): Path<(String, String)>) -> Answer {
    shown(lock(&hub.state).pulls_of(&format!("{owner}/{name}"))?)
}

async fn hooks(Shared(hub): Shared<Arc<Hub>>, Path((owner, name)): Path<(String, String)>) -> Answer {
    shown(lock(&hub.state).hooks_of(&format!("{owner}/{name}"))?)
}

async fn app_hook(Shared(hub): Shared<Arc<Hub>>, Path(slug): Path<String>) -> Answer {
    shown(lock(&hub.state).hook_of_app(&slug)?)
}

async fn create_hook(
    Shared(hub): Shared<Arc<Hub>>,
    Path((owner, name)): Path<(String, String)>,
    Json(hook): Json<NewHook>,
) -> Answer {
    let id = change(&hub, move |state| state.create_hook(&format!("{owner}/{name}"), &hook)).await?;
    Ok((StatusCode::CREATED, Json(json!({"id": id}))).into_response())
}

async fn change_hook(Shared(hub): Shared<Arc<Hub>>, Path(id): Path<u64>, Json(wish): Json<HookChange>) -> Answer {
    change(&hub, move |state| state.change_hook(id, wish)).await?;
    done()
}

async fn delete_hook(Shared(hub): Shared<Arc<Hub>>, Path(id): Path<u64>) -> Answer {
    change(&hub, move |state| state.delete_hook(id)).await?;
    done()
}

async fn under_way(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    shown(json!({"count": lock(&hub.state).under_way}))
}

async fn redeliver(Shared(hub): Shared<Arc<Hub>>, Path(id): Path<u64>) -> Answer {
    change(&hub, move |state| state.redeliver(id)).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

async fn resolve_webhooks(Shared(hub): Shared<Arc<Hub>>, Json(resolve): Json<BTreeMap<String, SocketAddr>>) -> Answer {
    lock(&hub.state).resolve_webhooks(resolve);
    done()
}

async fn fork(Shared(hub): Shared<Arc<Hub>>, Json(wish): Json<Fork>) -> Answer {
    let id = change(&hub, move |state| state.fork_by_hand(&wish)).await?;
    Ok((StatusCode::CREATED, Json(json!({"id": id}))).into_response())
}

async fn finish_forks(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    change(&hub, |state| {
        state.finish_forks();
        Ok(())
    })
    .await?;
    done()
}

async fn fork_delay(Shared(hub): Shared<Arc<Hub>>, Json(delay): Json<Seconds>) -> Answer {
    lock(&hub.state).fork_delay = Duration::from_secs(delay.seconds);
    done()
}

async fn push(Shared(hub): Shared<Arc<Hub>>, Json(wish): Json<Push>) -> Answer {
    let sha = change(&hub, move |state| state.push(&wish)).await?;
    Ok((StatusCode::CREATED, Json(json!({"sha": sha}))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seconds {
    seconds: u64,
}

async fn clock(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    shown(json!({"now": lock(&hub.state).now()}))
}

async fn advance(Shared(hub): Shared<Arc<Hub>>, Json(by): Json<Seconds>) -> Answer {
    let state = lock(&hub.state);
    state.clock.advance(Duration::from_secs(by.seconds));
    shown(json!({"now": state.now()}))
}

async fn token_life(Shared(hub): Shared<Arc<Hub>>, Json(life): Json<Seconds>) -> Answer {
    lock(&hub.state).token_life = Duration::from_secs(life.seconds);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    limit: u64,
}

async fn rate_limit(Shared(hub): Shared<Arc<Hub>>, Json(limit): Json<Limit>) -> Answer {
    lock(&hub.state).rates.limit = limit.limit;
    done()
}

async fn secondary_limits(Shared(hub): Shared<Arc<Hub>>, Json(limits): Json<SecondaryLimits>) -> Answer {
    lock(&hub.state).secondary.limits = Some(limits);
    done()
}

async fn no_secondary_limits(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    lock(&hub.state).secondary.limits = None;
    done()
}

async fn faults(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    shown(lock(&hub.state).faults.all())
}

async fn inject(Shared(hub): Shared<Arc<Hub>>, Json(fault): Json<Fault>) -> Answer {
    let id = lock(&hub.state).faults.inject(fault);
    Ok((StatusCode::CREATED, Json(json!({"id": id}))).into_response())
}

async fn remove_fault(Shared(hub): Shared<Arc<Hub>>, Path(id): Path<u64>) -> Answer {
    if lock(&hub.state).faults.remove(id) {
        done()
    } else {
        Err(ControlError::not_found("fault", id.to_string()).into())
    }
}

async fn clear_faults(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    lock(&hub.state).faults.clear();
    done()
}

async fn requests(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    shown(lock(&hub.state).journal.entries())
}

async fn reset(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    lock(&hub.state).journal.clear();
    done()
}

async fn counts(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    shown(lock(&hub.state).journal.counts())
}

async fn tokens(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    shown(lock(&hub.state).live_tokens())
}

async fn deliveries(Shared(hub): Shared<Arc<Hub>>) -> Answer {
    shown(lock(&hub.state).deliveries.values().map(shapes::delivery).collect::<Vec<_>>())
}
