//! The whole simulated GitHub in memory, behind one lock.
//!
//! Every request is answered under that lock, so each answer shows one moment. Ids come from one sequence: no two
//! objects of any kind share a number, so a client that confuses them is noticed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc::UnboundedSender;

use crate::access::{Level, Permissions, level_of, narrowed};
use crate::bare::{Bare, GitError, Person};
use crate::clock::Clock;
use crate::fault::Faults;
use crate::journal::Journal;
use crate::model::{
    Account, App, Delivery, Hook, HookConfig, HookOwner, Installation, Pull, Repository, Token, TokenInfo,
};
use crate::rate::Rates;
use crate::secondary::Secondary;
use crate::seed::AccountType;
use crate::token;
use crate::webhook::Attempt;

/// The digest by which a token is stored.
pub(crate) type TokenDigest = [u8; 32];

pub(crate) struct State {
    pub(crate) clock: Clock,
    pub(crate) web: String,
    pub(crate) folder: PathBuf,
    pub(crate) accounts: BTreeMap<u64, Account>,
    pub(crate) apps: BTreeMap<u64, App>,
    pub(crate) repositories: BTreeMap<u64, Repository>,
    /// Former full names in lower case, until they are taken again.
    pub(crate) moved: HashMap<String, u64>,
    pub(crate) installations: BTreeMap<u64, Installation>,
    pub(crate) tokens: HashMap<TokenDigest, Token>,
    pub(crate) hooks: BTreeMap<u64, Hook>,
    pub(crate) deliveries: BTreeMap<u64, Delivery>,
    pub(crate) pulls: BTreeMap<(u64, u64), Pull>,
    pub(crate) person: u64,
    pub(crate) token_life: Duration,
    /// How long a new fork has no objects.
    pub(crate) fork_delay: Duration,
    /// The addresses that deliveries connect to instead of the `host:port` of a hook's URL.
    pub(crate) webhook_resolve: BTreeMap<String, SocketAddr>,
    pub(crate) rates: Rates,
    pub(crate) secondary: Secondary,
    pub(crate) faults: Faults,
    pub(crate) journal: Journal,
    pub(crate) outbox: UnboundedSender<Attempt>,
    /// The number of deliveries that were sent and are not logged yet.
    pub(crate) under_way: usize,
    pub(crate) next_id: u64,
}

impl State {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A given id, after which the sequence continues, or the next one.
    pub(crate) fn id_or_new(&mut self, given: Option<u64>) -> u64 {
        match given {
            Some(id) => {
                self.next_id = self.next_id.max(id);
                id
            }
            None => self.new_id(),
        }
    }

    pub(crate) fn account(&self, login: &str) -> Option<&Account> {
        self.accounts.values().find(|account| account.login.eq_ignore_ascii_case(login))
    }

    pub(crate) fn app_by_slug(&self, slug: &str) -> Option<&App> {
        self.apps.values().find(|app| app.slug.eq_ignore_ascii_case(slug))
    }

    pub(crate) fn repository(&self, owner: &str, name: &str) -> Option<&Repository> {
        let owner = self.account(owner)?.id;
        let name = name.strip_suffix(".git").unwrap_or(name);
        self.repositories.values().find(|repo| repo.owner == owner && repo.name.eq_ignore_ascii_case(name))
    }

    /// The repository that had this name before.
    pub(crate) fn moved(&self, owner: &str, name: &str) -> Option<&Repository> {
        self.repositories.get(self.moved.get(&format!("{owner}/{name}").to_lowercase())?)
    }

    pub(crate) fn full_name(&self, repository: &Repository) -> String {
        format!("{}/{}", self.login(repository.owner), repository.name)
    }

    pub(crate) fn login(&self, account: u64) -> &str {
        self.accounts.get(&account).map_or("ghost", |account| account.login.as_str())
    }

    /// The repositories of an installation, by id.
    pub(crate) fn reached_by(&self, installation: &Installation) -> Vec<&Repository> {
        self.repositories.values().filter(|repository| installation.reaches(repository)).collect()
    }

    /// Whether a token reaches a repository: by its own selection, within the installation's current one.
    pub(crate) fn token_reaches(&self, token: &Token, repository: &Repository) -> bool {
        token.repositories.as_ref().is_none_or(|ids| ids.contains(&repository.id))
            && self.installations.get(&token.installation).is_some_and(|found| found.reaches(repository))
    }

    /// The current level of one permission of a token.
    pub(crate) fn token_level(&self, token: &Token, permission: &str) -> Option<Level> {
        let installation = self.installations.get(&token.installation)?;
        level_of(&narrowed(&token.permissions, &installation.permissions), permission)
    }

    /// Mints a token. Its text is only in the answer, and is not stored.
    pub(crate) fn mint(
        &mut self,
        installation: &Installation,
        permissions: Permissions,
        repositories: Option<BTreeSet<u64>>,
        refusal: Option<(u32, u16)>,
    ) -> (String, Token) {
        let minted = self.now();
        let life = SignedDuration::try_from(self.token_life).unwrap_or(SignedDuration::from_hours(1));
        let expires = minted.saturating_add(life).unwrap_or(Timestamp::MAX);
        let text = token::text(installation.app, minted, expires);
        let (refusals, refusal_status) = refusal.unwrap_or((0, 401));
        let token = Token {
            installation: installation.id,
            permissions,
            repositories,
            minted,
            expires,
            refusals,
            refusal_status,
            uses: 0,
        };
        self.tokens.insert(token_digest(&text), token.clone());
        (text, token)
    }

    /// The token with this text, if it is live.
    pub(crate) fn live_token(&self, text: &str) -> Option<(TokenDigest, &Token)> {
        let digest = token_digest(text);
        let token = self.tokens.get(&digest)?;
        (token.expires > self.now()).then_some((digest, token))
    }

    pub(crate) fn live_tokens(&self) -> Vec<TokenInfo> {
        let now = self.now();
        let mut living: Vec<TokenInfo> = self
            .tokens
            .iter()
            .filter(|(_, token)| token.expires > now)
            .filter_map(|(digest, token)| {
                Some(TokenInfo {
                    sha256: hex::encode(digest),
                    installation_id: token.installation,
                    app_id: self.installations.get(&token.installation)?.app,
                    permissions: token.permissions.clone(),
                    repository_ids: token.repositories.as_ref().map(|ids| ids.iter().copied().collect()),
                    minted_at: token.minted,
                    expires_at: token.expires,
                    uses: token.uses,
                })
            })
            .collect();
        living.sort_by(|one, other| (one.minted_at, &one.sha256).cmp(&(other.minted_at, &other.sha256)));
        living
    }

    /// Creates an account.
    pub(crate) fn add_account(&mut self, id: Option<u64>, login: &str, kind: AccountType, plan: &str) -> u64 {
        let id = self.id_or_new(id);
        let created = self.now();
        self.accounts.insert(id, Account { id, login: login.into(), kind, plan: plan.into(), created });
        id
    }

    /// Creates a hook.
    pub(crate) fn add_hook(&mut self, owner: HookOwner, config: HookConfig, events: Vec<String>, active: bool) -> u64 {
        let id = self.new_id();
        let now = self.now();
        let last_response = (None, "unused".to_owned(), None);
        let hook = Hook { id, owner, config, events, active, created: now, updated: now, last_response };
        self.hooks.insert(id, hook);
        id
    }

    /// Sends a delivery, if the sender runs.
    pub(crate) fn send(&mut self, attempt: Attempt) {
        if self.outbox.send(attempt).is_ok() {
            self.under_way += 1;
        }
    }

    /// Creates a repository's git directory, with a first commit of `files` if there are any.
    pub(crate) fn new_bare(&self, id: u64, branch: &str, files: &[(&str, &[u8])]) -> Result<Bare, GitError> {
        let path = self.folder.join("repositories").join(format!("{id}.git"));
        let bare = Bare::create(&path, branch, &self.folder.join("hooks"))?;
        if !files.is_empty() {
            bare.write(branch, files, "Initial commit", &self.committer(self.person))?;
        }
        Ok(bare)
    }

    /// The identity of an account in commits: GitHub's no-reply address.
    pub(crate) fn committer(&self, account: u64) -> Person {
        let login = self.login(account).to_owned();
        let email = format!("{account}+{login}@users.noreply.github.com");
        Person { name: login, email, at: self.now() }
    }
}

pub(crate) fn token_digest(text: &str) -> TokenDigest {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}
