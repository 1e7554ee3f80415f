//! What both ends of a webhook agree on: its address, and the secret that its deliveries are signed with.
//!
//! Secrets are derived and not stored: HMAC-SHA256 of one root key over what the hook is for. Invariant: two hooks that
//! differ in GitHub, App, kind or repository have secrets that say nothing of each other, so that who learns one can sign
//! for that hook alone. The root key has a successor: while it is exchanged, deliveries signed with the one before are
//! accepted. Without the ids of the keys nobody could tell which one GitHub signs with, for it reads back asterisks.

pub mod root_keys;

use crate::github::WebhookSecret;
use aws_lc_rs::hmac;
use std::fmt;
use std::io;
use std::path::Path;
use zeroize::Zeroizing;

/// The Secret in the operator's namespace that holds the root keys.
pub const ROOT_KEYS_SECRET: &str = "landfall-webhook-keys";
/// Its key for the root key that secrets are derived from.
pub const CURRENT: &str = "current";
/// Its key for the id of that root key.
pub const CURRENT_ID: &str = "current-id";
/// Its key for the root key of before.
pub const PREVIOUS: &str = "previous";
/// Its key for the id of the root key of before.
pub const PREVIOUS_ID: &str = "previous-id";
/// How long a root key is, in bytes: as long as SHA-256's output (RFC 2104, section 3).
pub const KEY_LENGTH: usize = 32;
/// The events that a repository's own webhook is made for.
pub const REPOSITORY_EVENTS: [&str; 2] = ["push", "repository"];

/// What a webhook is for, and by that its address and its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// The App's.
    App,
    /// The own one of the repository with this id.
    Repository(u64),
}

impl Hook {
    /// The path below `spec.webhook.url` of the `GitHubApp` of this name.
    #[must_use]
    pub fn path(self, app: &str) -> String {
        match self {
            Self::App => format!("/webhooks/app/{app}"),
            Self::Repository(id) => format!("/webhooks/repo/{app}/{id}"),
        }
    }

    /// The hook and the name of the `GitHubApp` that a path stands for.
    #[must_use]
    pub fn of_path(path: &str) -> Option<(Self, &str)> {
        let mut segments = path.strip_prefix("/webhooks/")?.split('/');
        let found = match (segments.next()?, segments.next()?, segments.next()) {
            ("app", app, None) => (Self::App, app),
            ("repo", app, Some(id)) => {
                // One spelling only: `+7` and `007` are other paths.
                let parsed = id.parse().ok().filter(|number: &u64| number.to_string() == id)?;
                (Self::Repository(parsed), app)
            }
            _ => return None,
        };
        (segments.next().is_none() && !found.1.is_empty()).then_some(found)
    }

    /// The whole address below `base`, which is `spec.webhook.url`.
    #[must_use]
    pub fn url(self, base: &str, app: &str) -> String {
        format!("{}{}", base.trim_end_matches('/'), self.path(app))
    }

    fn kind(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Repository(_) => "repository",
        }
    }
}

/// The GitHub App whose hooks are meant: an id means nothing without the GitHub it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppIdentity {
    /// [`crate::github::Endpoint::host`].
    pub host: String,
    /// The App's numeric id.
    pub app_id: u64,
}

/// A key that the secrets of all webhooks are derived from, and its id.
#[derive(Clone)]
pub struct RootKey {
    id: String,
    key: hmac::Key,
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why root keys cannot be used. Nothing of a key is in the message.
#[derive(Debug, thiserror::Error)]
pub enum RootKeyError {
    /// A key or its id is not there.
    #[error("{0} is missing; `landfall webhook rotate` makes the Secret {ROOT_KEYS_SECRET} whole")]
    Missing(&'static str),
    /// A key has another length.
    #[error("{0} has {1} bytes and not {KEY_LENGTH}; `landfall webhook rotate` makes a new one")]
    Length(&'static str, usize),
    /// An id that is no short word.
    #[error("{0} is not a word of at most 32 letters, digits and dashes")]
    Id(&'static str),
    /// A file cannot be read.
    #[error("{0} cannot be read")]
    Unreadable(&'static str, #[source] io::Error),
}

impl RootKey {
    fn new(id: &[u8], key: &[u8], names: (&'static str, &'static str)) -> Result<Self, RootKeyError> {
        let id = std::str::from_utf8(id).map_err(|_| RootKeyError::Id(names.1))?.trim();
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if id.is_empty() || id.len() > 32 || !id.bytes().all(is_word) {
            return Err(RootKeyError::Id(names.1));
        }
        if key.len() != KEY_LENGTH {
            return Err(RootKeyError::Length(names.0, key.len()));
        }
        Ok(Self { id: id.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, key) })
    }

    /// Tells it from others.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret of a hook of an App: 64 hexadecimal digits.
    #[must_use]
    pub fn secret(&self, app: &AppIdentity, hook: Hook) -> WebhookSecret {
        let repository = match hook {
            Hook::App => String::new(),
            Hook::Repository(id) => id.to_string(),
        };
        let mut context = hmac::Context::with_key(&self.key);
        // With its length before each part, no two lists of parts give the same bytes.
        for part in ["landfall webhook secret v1", &app.host, &app.app_id.to_string(), hook.kind(), &repository] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        WebhookSecret::new(hex::encode(context.sign()))
    }
}

/// The root keys that count now.
#[derive(Clone, Debug)]
pub struct RootKeys {
    /// From which secrets are derived.
    pub current: RootKey,
    /// From which they were before: deliveries signed with those are still accepted.
    pub previous: Option<RootKey>,
}

impl RootKeys {
    /// Takes them out of a Secret's data, by `get`. A previous key that is not whole counts as none.
    ///
    /// # Errors
    /// The current key cannot be used.
    pub fn read<'a>(get: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, RootKeyError> {
        let current = RootKey::new(
            get(CURRENT_ID).ok_or(RootKeyError::Missing(CURRENT_ID))?,
            get(CURRENT).ok_or(RootKeyError::Missing(CURRENT))?,
            (CURRENT, CURRENT_ID),
        )?;
        let previous = match (get(PREVIOUS_ID), get(PREVIOUS)) {
            (Some(id), Some(key)) => RootKey::new(id, key, (PREVIOUS, PREVIOUS_ID)).ok(),
            _ => None,
        };
        Ok(Self { current, previous })
    }

    /// Takes them out of the files of a mounted Secret, all out of one version of it: kubelet exchanges the files at once,
    /// by a link, and a key with the id of another would let nobody tell which one GitHub signs with.
    ///
    /// # Errors
    /// The current key is not there or cannot be used.
    pub fn read_directory(directory: &Path) -> Result<Self, RootKeyError> {
        // A directory that nobody mounted has no such link.
        let version = || directory.join("..data").canonicalize().unwrap_or_else(|_| directory.to_owned());
        let mut read = version();
        loop {
            let keys = Self::read_files(&read);
            // Exchanged meanwhile, it may have been removed under our hands.
            let now = version();
            if now == read {
                return keys;
            }
            read = now;
        }
    }

    fn read_files(directory: &Path) -> Result<Self, RootKeyError> {
        let mut files = Vec::new();
        for name in [CURRENT, CURRENT_ID, PREVIOUS, PREVIOUS_ID] {
            match std::fs::read(directory.join(name)) {
                Ok(content) => files.push((name, Zeroizing::new(content))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(RootKeyError::Unreadable(name, error)),
            }
        }
        Self::read(|wanted| files.iter().find(|(name, _)| *name == wanted).map(|(_, content)| content.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn key(byte: u8) -> RootKey {
        RootKey::new(b"k1", &[byte; KEY_LENGTH], (CURRENT, CURRENT_ID)).unwrap()
    }

    fn identity(host: &str, app_id: u64) -> AppIdentity {
        AppIdentity { host: host.into(), app_id }
    }

    #[test]
    fn every_hook_has_a_secret_of_its_own() {
        let mut secrets = HashSet::new();
        for root in [1, 2] {
            for (host, app) in [("api.github.com", 1), ("api.github.com", 11), ("api.github.com1", 1), ("ghe", 1)] {
                for hook in [Hook::App, Hook::Repository(1), Hook::Repository(11)] {
                    let secret = key(root).secret(&identity(host, app), hook);
                    assert_eq!(secret.expose().len(), 64);
                    assert!(secrets.insert(secret.expose().to_owned()), "{host} {app} {hook:?}");
                }
            }
        }
    }

    #[test]
    fn a_secret_is_the_same_each_time_and_prints_as_redacted() {
        let secret = || key(7).secret(&identity("api.github.com", 1), Hook::App);
        assert_eq!(secret(), secret());
        assert!(!format!("{:?} {:?}", secret(), key(7)).contains(secret().expose()));
    }

    #[test]
    fn a_path_has_one_spelling() {
        for hook in [Hook::App, Hook::Repository(9001)] {
            assert_eq!(Hook::of_path(&hook.path("landfall")), Some((hook, "landfall")));
        }
        for odd in [
            "/webhooks/app/",
            "/webhooks/app/x/",
            "/webhooks/app/x/y",
            "/webhooks/repo/x",
            "/webhooks/repo/x/007",
            "/webhooks/repo/x/+7",
            "/webhooks/repo/x/7/8",
            "/webhooks/repo//7",
            "/hooks/app/x",
            "/",
        ] {
            assert_eq!(Hook::of_path(odd), None, "{odd}");
        }
        assert_eq!(Hook::App.url("https://h/base/", "x"), "https://h/base/webhooks/app/x");
    }

    #[test]
    fn keys_and_their_ids_are_of_one_version() {
        let mounted = std::env::temp_dir().join(format!("landfall-mounted-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&mounted);
        for (version, id) in [("..v1", "k1"), ("..v2", "k2")] {
            std::fs::create_dir_all(mounted.join(version)).unwrap();
            std::fs::write(mounted.join(version).join(CURRENT), [7; KEY_LENGTH]).unwrap();
            std::fs::write(mounted.join(version).join(CURRENT_ID), id).unwrap();
        }
        let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, mounted.join(from)).unwrap();
        link("..v2", "..data");
        // As it looks between two files to who was slow.
        link("..v1/current", CURRENT);
        link("..v1/current-id", CURRENT_ID);
        assert_eq!(RootKeys::read_directory(&mounted).unwrap().current.id(), "k2");
        std::fs::remove_dir_all(&mounted).unwrap();
    }

    #[test]
    fn what_is_wrong_with_keys_is_said_without_them() {
        let read = |pairs: &[(&str, &[u8])]| {
            RootKeys::read(|wanted| pairs.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value))
        };
        let whole: (&str, &[u8]) = (CURRENT, &[1; KEY_LENGTH]);
        assert!(read(&[whole]).unwrap_err().to_string().contains(CURRENT_ID));
        let short = read(&[(CURRENT, b"canary"), (CURRENT_ID, b"k1")]).unwrap_err().to_string();
        assert!(short.contains("6 bytes") && !short.contains("canary"), "{short}");
        let keys = read(&[whole, (CURRENT_ID, b"k1\n"), (PREVIOUS, b"short"), (PREVIOUS_ID, b"k0")]).unwrap();
        assert_eq!((keys.current.id(), keys.previous.is_none()), ("k1", true));
    }
}
