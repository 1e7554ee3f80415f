//! From a seed to a state.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedSender};

use crate::bare::GitError;
use crate::clock::Clock;
use crate::fault::Faults;
use crate::journal::Journal;
use crate::keys::{self, AppKey, KeyError};
use crate::model::{App, HookConfig, HookOwner};
use crate::person::{ControlError, Install};
use crate::rate::Rates;
use crate::secondary::Secondary;
use crate::seed::{AccountType, AppSeed, Seed};
use crate::state::State;
use crate::webhook::Attempt;

/// The reason why a simulator cannot start with this seed.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// An App has no key, or one that cannot be used.
    #[error("the key of App {app:?}")]
    Key {
        /// The App's name.
        app: String,
        #[source]
        source: KeyError,
    },
    /// No key was given.
    #[error("App {0:?} has no key; give public_key, public_key_file or private_key_file")]
    NoKey(String),
    /// A file cannot be read or written.
    #[error("{path}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A name in the seed refers to a missing object, or exists twice.
    #[error("the seed")]
    Seed(#[from] ControlError),
    /// git failed.
    #[error("the repositories")]
    Git(#[from] GitError),
}

/// Commits that change workflow files need a permission of their own. The simulator sets an environment variable that
/// says whether the pusher has it. git runs this for each ref, after it has the objects.
///
/// A refusal that a test asked for comes first, in another variable.
const UPDATE_HOOK: &str = r#"#!/bin/sh
if [ -n "$GITHUB_SIM_REFUSAL" ]; then
  printf '%s\n' "$GITHUB_SIM_REFUSAL" | sed "s|REF|$1|" >&2
  exit 1
fi
[ "$GITHUB_SIM_WORKFLOWS" = refused ] || exit 0
case "$3" in *[!0]*) ;; *) exit 0 ;; esac
touched=$(git log --format= --name-only "$3" --not --all -- .github/workflows) || exit 1
[ -z "$touched" ] && exit 0
touched=$(printf '%s\n' "$touched" | head -n 1)
echo "refusing to allow a GitHub App to create or update workflow \`$touched\` without \`workflows\` permission" >&2
exit 1
"#;

/// Makes the initial state; git directories are created in `folder`.
pub(crate) fn state(
    seed: &Seed,
    web: String,
    folder: &Path,
    clock: Clock,
    outbox: UnboundedSender<Attempt>,
) -> Result<State, BeginError> {
    let hooks = folder.join("hooks");
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| BeginError::File { path, source }
    };
    std::fs::create_dir_all(&hooks).map_err(file(&hooks))?;
    let update = hooks.join("update");
    std::fs::write(&update, UPDATE_HOOK).map_err(file(&update))?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&update, executable).map_err(file(&update))?;

    let mut state = State {
        clock,
        web,
        folder: folder.to_owned(),
        accounts: BTreeMap::new(),
        apps: BTreeMap::new(),
        repositories: BTreeMap::new(),
        moved: HashMap::new(),
        installations: BTreeMap::new(),
        tokens: HashMap::new(),
        hooks: BTreeMap::new(),
        deliveries: BTreeMap::new(),
        pulls: BTreeMap::new(),
        person: 0,
        token_life: Duration::from_secs(seed.token_life_seconds.unwrap_or(3600)),
        fork_delay: Duration::ZERO,
        webhook_resolve: BTreeMap::new(),
        rates: Rates::new(seed.rate_limit.unwrap_or(5000)),
        secondary: Secondary::default(),
        faults: Faults::default(),
        journal: Journal::default(),
        // The initial state causes no events, so nobody reads from this channel.
        outbox: mpsc::unbounded_channel().0,
        under_way: 0,
        next_id: 100_000,
    };
    for account in &seed.accounts {
        state.create_account(account)?;
    }
    state.person = person(&mut state, seed)?;
    for app in &seed.apps {
        add_app(&mut state, app)?;
    }
    for repository in &seed.repositories {
        state.create_repository(repository)?;
    }
    for seed in &seed.installations {
        let (app, account) = (seed.app.clone(), seed.account.clone());
        let (selection, permissions) = (seed.selection.clone(), seed.permissions.clone());
        let id = state.install(&Install { app, account, selection, permissions }, seed.id)?;
        if seed.suspended {
            state.suspend(id)?;
        }
    }
    state.outbox = outbox;
    Ok(state)
}

/// The person who acts through the control API.
fn person(state: &mut State, seed: &Seed) -> Result<u64, ControlError> {
    if let Some(login) = &seed.person {
        let found = state.account(login).map(|account| account.id);
        return found.ok_or_else(|| ControlError::not_found("account", login));
    }
    let found = state.accounts.values().find(|account| account.kind == AccountType::User).map(|account| account.id);
    Ok(found.unwrap_or_else(|| state.add_account(None, "monalisa", AccountType::User, "team")))
}

fn add_app(state: &mut State, seed: &AppSeed) -> Result<(), BeginError> {
    let slug = seed.slug.clone().unwrap_or_else(|| seed.name.to_lowercase().replace(' ', "-"));
    if state.app_by_slug(&slug).is_some() {
        return Err(ControlError::Exists { name: slug }.into());
    }
    let owner = state.account(&seed.owner).ok_or_else(|| ControlError::not_found("account", &seed.owner))?.id;
    let key = public_key(seed)?;
    let id = state.id_or_new(seed.id);
    let bot = state.add_account(None, &format!("{slug}[bot]"), AccountType::Bot, "team");
    let webhook = seed.webhook.clone();
    let config = HookConfig {
        url: webhook.as_ref().map(|webhook| webhook.url.clone()),
        content_type: webhook.as_ref().and_then(|webhook| webhook.content_type.clone()).unwrap_or("form".to_owned()),
        secret: webhook.and_then(|webhook| webhook.secret),
        insecure_ssl: "0".to_owned(),
    };
    let hook = state.add_hook(HookOwner::App(id), config, seed.events.clone(), true);
    let app = App {
        id,
        client_id: seed.client_id.clone().unwrap_or_else(|| format!("Iv23li{id:014}")),
        slug,
        name: seed.name.clone(),
        owner,
        bot,
        keys: vec![key],
        permissions: seed.permissions.clone(),
        events: seed.events.clone(),
        hook,
        created: state.now(),
    };
    state.apps.insert(id, app);
    Ok(())
}

fn public_key(seed: &AppSeed) -> Result<Vec<u8>, BeginError> {
    let key = |source| BeginError::Key { app: seed.name.clone(), source };
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| BeginError::File { path, source }
    };
    if let Some(text) = &seed.public_key {
        return keys::public_der(text).map_err(key);
    }
    if let Some(path) = &seed.private_key_file
        && !path.exists()
    {
        let made = AppKey::generate().map_err(key)?;
        std::fs::write(path, made.private_pem()).map_err(file(path))?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, private).map_err(file(path))?;
    }
    let path = seed.public_key_file.as_ref().or(seed.private_key_file.as_ref());
    let path = path.ok_or_else(|| BeginError::NoKey(seed.name.clone()))?;
    let text = std::fs::read_to_string(path).map_err(file(path))?;
    keys::public_der(&text).map_err(key)
}
