//! A running simulator and all actions of tests on it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::access::Permissions;
use crate::begin::{self, BeginError};
use crate::clock::Clock;
use crate::fault::{Fault, Injected};
use crate::forking::Fork;
use crate::hooking::{HookChange, HookInfo, NewHook};
use crate::journal::{Count, Entry};
use crate::model::TokenInfo;
use crate::person::{ControlError, Install, Push};
use crate::pulling::PullInfo;
use crate::rate::Budget;
use crate::seed::{AccountSeed, RepositorySeed, Seed, Selection};
use crate::server::{self, Hub};
use crate::state::State;
use crate::tls::{self, Authority, TlsError};
use crate::webhook::Sender;
use crate::{control, lock, rest, shapes};

/// The initial state, and where to serve it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether to serve TLS, with a certificate of [`Sim::ca_pem`].
    pub tls: bool,
    /// The first state.
    pub seed: Seed,
}

/// Further options for a simulator that is used by more than a test on this machine.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Names and addresses in the certificate in addition to localhost and the listening address.
    pub tls_names: Vec<String>,
    /// The base of URLs in answers. The default is `http(s)://ADDRESS:PORT`.
    pub base_url: Option<String>,
    /// The folder for the git directories. The default is a temporary directory. Nothing is read back from it.
    pub state_dir: Option<PathBuf>,
    /// Authorities (PEM) for the certificates of webhook receivers, in addition to the simulator's own.
    pub webhook_ca: Option<String>,
    /// The addresses that deliveries connect to instead of a `host:port` in hooks' URLs.
    pub webhook_resolve: BTreeMap<String, SocketAddr>,
}

/// The reason why a simulator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken or does not belong to this machine.
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// There is no folder for the git repositories.
    #[error("no directory for the repositories")]
    Folder(#[source] std::io::Error),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The seed cannot be set up.
    #[error(transparent)]
    Begin(#[from] BeginError),
}

/// A running simulator. It ends when this is dropped.
pub struct Sim {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    web: String,
    ca_pem: Option<String>,
    _stop: DropGuard,
    _folder: Option<TempDir>,
}

impl Sim {
    /// Starts a simulator for clients on this machine.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        Self::start_at(options, Site::default()).await
    }

    /// Starts a simulator for clients anywhere.
    pub async fn start_at(options: Options, site: Site) -> Result<Self, StartError> {
        let listen = |source| StartError::Listen { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let scheme = if options.tls { "https" } else { "http" };
        let web = site.base_url.unwrap_or_else(|| format!("{scheme}://{address}")).trim_end_matches('/').to_owned();
        let authority =
            if options.tls { Some(Authority::new(&tls::names(address.ip(), &site.tls_names))?) } else { None };
        let ca_pem = authority.as_ref().map(|authority| authority.ca_pem.clone());

        let (folder, temporary) = if let Some(folder) = site.state_dir {
            std::fs::create_dir_all(&folder).map_err(StartError::Folder)?;
            (std::path::absolute(folder).map_err(StartError::Folder)?, None)
        } else {
            let folder = TempDir::with_prefix("github-sim-").map_err(StartError::Folder)?;
            (folder.path().to_owned(), Some(folder))
        };
        let (outbox, attempts) = mpsc::unbounded_channel();
        let (seed, at, base) = (options.seed, folder.clone(), web.clone());
        let begun = tokio::task::spawn_blocking(move || begin::state(&seed, base, &at, Clock::default(), outbox)).await;
        let mut state = begun.map_err(|error| StartError::Folder(std::io::Error::other(error)))??;
        state.resolve_webhooks(site.webhook_resolve);
        let state = Arc::new(Mutex::new(state));

        let trusted = [ca_pem.clone(), site.webhook_ca].into_iter().flatten().collect::<Vec<_>>().join("\n");
        let sender = Sender::new(Arc::clone(&state), &trusted)?;
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(sender.run(attempts)));
        let hub = Arc::new(Hub { state: Arc::clone(&state), web: web.clone(), ca_pem: ca_pem.clone(), folder });
        let router = Router::new()
            .nest_service("/_sim", control::router(Arc::clone(&hub)))
            .fallback(server::github)
            .with_state(hub);
        let acceptor = authority.map(|authority| TlsAcceptor::from(authority.server));
        tokio::spawn(server::accept(listener, acceptor, router, stop.clone()));
        Ok(Self { state, address, web, ca_pem, _stop: stop.drop_guard(), _folder: temporary })
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The web's base: `https://127.0.0.1:PORT`. The REST API is also here, as on api.github.com.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.web
    }

    /// The REST API's base as on GitHub Enterprise Server: `{base_url}/api/v3`.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("{}/api/v3", self.web)
    }

    /// The authority to trust, as PEM; empty without TLS.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.ca_pem.as_deref().unwrap_or_default()
    }

    /// Installs an App; returns the installation's id.
    pub fn install(&self, install: &Install) -> Result<u64, ControlError> {
        lock(&self.state).install(install, None)
    }

    /// Uninstalls: tokens are revoked, and the installation is deleted.
    pub fn uninstall(&self, installation: u64) -> Result<(), ControlError> {
        lock(&self.state).uninstall(installation)
    }

    /// Suspends: the installation is still listed, but its tokens cannot be minted or used.
    pub fn suspend(&self, installation: u64) -> Result<(), ControlError> {
        lock(&self.state).suspend(installation)
    }

    /// Ends a suspension.
    pub fn unsuspend(&self, installation: u64) -> Result<(), ControlError> {
        lock(&self.state).unsuspend(installation)
    }

    pub fn select_repositories(&self, installation: u64, selection: &Selection) -> Result<(), ControlError> {
        lock(&self.state).select_repositories(installation, selection)
    }

    /// Grants an installation other permissions.
    pub fn grant(&self, installation: u64, permissions: Permissions) -> Result<(), ControlError> {
        lock(&self.state).grant(installation, permissions)
    }

    /// Replaces the public keys (PEM) of an App: adds and deletes keys.
    pub fn set_app_keys(&self, slug: &str, public_keys: &[String]) -> Result<(), ControlError> {
        lock(&self.state).set_app_keys(slug, public_keys)
    }

    /// Creates an account, which may have a name that another one had before. Returns its id.
    pub fn create_account(&self, seed: &AccountSeed) -> Result<u64, ControlError> {
        lock(&self.state).create_account(seed)
    }

    /// Renames an account; the names of its repositories redirect.
    pub fn rename_account(&self, login: &str, new: &str) -> Result<(), ControlError> {
        lock(&self.state).rename_account(login, new)
    }

    /// Creates a repository; returns its id.
    pub fn create_repository(&self, seed: &RepositorySeed) -> Result<u64, ControlError> {
        lock(&self.state).create_repository(seed)
    }

    /// Renames `owner/name`; the old name redirects.
    pub fn rename_repository(&self, full_name: &str, name: &str) -> Result<(), ControlError> {
        lock(&self.state).rename_repository(full_name, name)
    }

    /// Archives `owner/name`, or unarchives it.
    pub fn set_archived(&self, full_name: &str, archived: bool) -> Result<(), ControlError> {
        lock(&self.state).set_archived(full_name, archived)
    }

    /// Makes another branch of `owner/name` the default branch.
    pub fn set_default_branch(&self, full_name: &str, branch: &str) -> Result<(), ControlError> {
        lock(&self.state).set_default_branch(full_name, branch)
    }

    /// Transfers `owner/name` to another account. The old name redirects, and only the new owner's Apps get events.
    pub fn transfer_repository(&self, full_name: &str, owner: &str) -> Result<(), ControlError> {
        lock(&self.state).transfer_repository(full_name, owner)
    }

    /// Forks like a person. Returns the id of the fork, which may be an existing one.
    pub fn fork(&self, fork: &Fork) -> Result<u64, ControlError> {
        lock(&self.state).fork_by_hand(fork)
    }

    /// The full names of the forks of `owner/name`, the oldest first.
    pub fn forks(&self, full_name: &str) -> Result<Vec<String>, ControlError> {
        lock(&self.state).forks_of(full_name)
    }

    /// The pull requests of `owner/name`, the oldest first.
    pub fn pull_requests(&self, full_name: &str) -> Result<Vec<PullInfo>, ControlError> {
        lock(&self.state).pulls_of(full_name)
    }

    /// Sets how long new forks have no objects, by the simulator's clock. The default is zero.
    pub fn set_fork_delay(&self, delay: Duration) {
        lock(&self.state).fork_delay = delay;
    }

    /// Fills all incomplete forks.
    pub fn finish_forks(&self) {
        lock(&self.state).finish_forks();
    }

    /// The hooks of `owner/name`, the oldest first.
    pub fn hooks(&self, full_name: &str) -> Result<Vec<HookInfo>, ControlError> {
        lock(&self.state).hooks_of(full_name)
    }

    pub fn app_hook(&self, slug: &str) -> Result<HookInfo, ControlError> {
        lock(&self.state).hook_of_app(slug)
    }

    /// Creates a hook of `owner/name` by hand. Returns its id.
    pub fn create_hook(&self, full_name: &str, hook: &NewHook) -> Result<u64, ControlError> {
        lock(&self.state).create_hook(full_name, hook)
    }

    /// Changes a hook, also an App's, by hand.
    pub fn change_hook(&self, id: u64, change: HookChange) -> Result<(), ControlError> {
        lock(&self.state).change_hook(id, change)
    }

    /// Removes a repository's hook by hand.
    pub fn delete_hook(&self, id: u64) -> Result<(), ControlError> {
        lock(&self.state).delete_hook(id)
    }

    /// Redelivers a delivery with its guid, to the current address of its hook.
    pub fn redeliver(&self, delivery: u64) -> Result<(), ControlError> {
        lock(&self.state).redeliver(delivery)
    }

    /// Sets the addresses that deliveries connect to instead of a `host:port` in hooks' URLs. Replaces the earlier
    /// ones.
    pub fn resolve_webhooks(&self, resolve: BTreeMap<String, SocketAddr>) {
        lock(&self.state).resolve_webhooks(resolve);
    }

    /// Deletes `owner/name`.
    pub fn delete_repository(&self, full_name: &str) -> Result<(), ControlError> {
        lock(&self.state).delete_repository(full_name)
    }

    /// Commits a file; returns the commit.
    pub fn push(&self, push: &Push) -> Result<String, ControlError> {
        lock(&self.state).push(push)
    }

    /// The id of `owner/name`.
    #[must_use]
    pub fn repository_id(&self, full_name: &str) -> Option<u64> {
        lock(&self.state).by_full_name(full_name).ok().map(|found| found.id)
    }

    /// The commit a branch of `owner/name` points to.
    #[must_use]
    pub fn head(&self, full_name: &str, branch: &str) -> Option<String> {
        let mut state = lock(&self.state);
        state.settle_forks();
        state.by_full_name(full_name).ok().and_then(|found| found.branch(branch).cloned())
    }

    /// The current time of the simulator.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        lock(&self.state).now()
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        lock(&self.state).clock.advance(by);
    }

    /// The simulator's clock, for code that needs the same time.
    #[must_use]
    pub fn clock(&self) -> Clock {
        lock(&self.state).clock.clone()
    }

    /// Sets the life of tokens that are minted from now on.
    pub fn set_token_life(&self, life: Duration) {
        lock(&self.state).token_life = life;
    }

    /// Sets the requests per hour and installation.
    pub fn set_rate_limit(&self, limit: u64) {
        lock(&self.state).rates.limit = limit;
    }

    /// Uses all that is left of an installation's requests of this hour, as a busy client with one of its tokens does.
    pub fn spend_rate_limit(&self, installation: u64) {
        let mut state = lock(&self.state);
        let now = state.clock.now();
        state.rates.spend(Budget::Installation(installation), now);
    }

    /// Injects a fault; returns its id.
    #[expect(clippy::must_use_candidate, reason = "the id is for those who remove it by hand")]
    pub fn inject(&self, fault: Fault) -> u64 {
        lock(&self.state).faults.inject(fault)
    }

    /// The faults with their counts.
    #[must_use]
    pub fn faults(&self) -> Vec<Injected> {
        lock(&self.state).faults.all().to_vec()
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        lock(&self.state).faults.clear();
    }

    /// The log of requests, the oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Entry> {
        lock(&self.state).journal.entries()
    }

    /// The routes of the REST API (and GraphQL): method and template as in [`Entry::method`] and [`Entry::route`].
    pub fn routes() -> impl Iterator<Item = (&'static str, &'static str)> {
        rest::served().map(|(method, template)| (method.as_str(), template))
    }

    /// The number of each route's answers with each status.
    #[must_use]
    pub fn request_counts(&self) -> Vec<Count> {
        lock(&self.state).journal.counts()
    }

    /// Empties the log.
    pub fn reset_requests(&self) {
        lock(&self.state).journal.clear();
    }

    /// The tokens that have neither expired nor been revoked.
    #[must_use]
    pub fn live_tokens(&self) -> Vec<TokenInfo> {
        lock(&self.state).live_tokens()
    }

    /// The number of webhook deliveries that were sent and are not in [`Sim::deliveries`] yet.
    #[must_use]
    pub fn deliveries_under_way(&self) -> usize {
        lock(&self.state).under_way
    }

    /// Webhook deliveries as GitHub's `hook-delivery`, the oldest first.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Value> {
        lock(&self.state).deliveries.values().map(shapes::delivery).collect()
    }
}
