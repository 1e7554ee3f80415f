//! The address of a webhook and the secret that signs its deliveries, as the controller and the receiver know them.
//!
//! Secrets are derived and not stored: HMAC-SHA256 with a root key over the identity of the hook. Invariant: two hooks that
//! differ in host, App, kind or repository have independent secrets, so somebody who learns one can sign for that hook
//! alone. During a rotation, deliveries signed with the previous root key are still accepted. Keys have ids, because GitHub
//! shows a webhook's secret as asterisks and the id tells which key it was derived from.

pub mod root_keys;

use crate::github::WebhookSecret;
use crate::ids::{AppId, RepositoryId};
use aws_lc_rs::hmac;
use std::fmt;
use std::io;
use std::path::Path;
use zeroize::Zeroizing;

/// The Secret in the operator's namespace that holds the root keys.
pub const ROOT_KEYS_SECRET: &str = "landfall-webhook-keys";
/// The Secret's entry for the root key that secrets are derived from.
pub const CURRENT: &str = "current";
/// The Secret's entry for the id of that root key.
pub const CURRENT_ID: &str = "current-id";
/// The Secret's entry for the previous root key.
pub const PREVIOUS: &str = "previous";
/// The Secret's entry for the id of the previous root key.
pub const PREVIOUS_ID: &str = "previous-id";
/// Bytes of a root key: the length of SHA-256's output (RFC 2104, section 3).
pub const KEY_LENGTH: usize = 32;
/// The events that a repository's own webhook sends.
pub const REPOSITORY_EVENTS: [&str; 2] = ["push", "repository"];

/// A webhook. It determines the address and the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// The webhook of the App.
    App,
    /// The webhook of the repository with this id.
    Repository(RepositoryId),
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

    /// The hook and the name of the `GitHubApp` in a path.
    #[must_use]
    pub fn of_path(path: &str) -> Option<(Self, &str)> {
        let mut segments = path.strip_prefix("/webhooks/")?.split('/');
        let found = match (segments.next()?, segments.next()?, segments.next()) {
            ("app", app, None) => (Self::App, app),
            ("repo", app, Some(id)) => {
                // One spelling only: `+7` and `007` are other paths.
                let parsed = id.parse().ok().filter(|number: &RepositoryId| number.to_string() == id)?;
                (Self::Repository(parsed), app)
            }
            _ => return None,
        };
        (segments.next().is_none() && !found.1.is_empty()).then_some(found)
    }

    /// The address below `base`, which is `spec.webhook.url`.
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

/// A GitHub App. Its id is unique only on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppIdentity {
    /// [`crate::github::Endpoint::host`].
    pub host: String,
    pub app_id: AppId,
}

/// A key from which the secrets of all webhooks are derived, and its id.
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

/// The reason why root keys cannot be used. The messages contain no part of a key.
#[derive(Debug, thiserror::Error)]
pub enum RootKeyError {
    #[error("{0} is missing; `landfall webhook rotate` completes the Secret {ROOT_KEYS_SECRET}")]
    Missing(&'static str),
    #[error("{0} has {1} bytes instead of {KEY_LENGTH}; `landfall webhook rotate` makes a new one")]
    Length(&'static str, usize),
    #[error("{0} is not a word of at most 32 letters, digits and dashes; `landfall webhook rotate` makes a new one")]
    Id(&'static str),
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
        // The length before each part ensures that different lists of parts give different bytes.
        for part in ["landfall webhook secret v1", &app.host, &app.app_id.to_string(), hook.kind(), &repository] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        WebhookSecret::new(hex::encode(context.sign()))
    }
}

/// The accepted root keys.
#[derive(Clone, Debug)]
pub struct RootKeys {
    /// New secrets are derived from this key.
    pub current: RootKey,
    /// Deliveries signed with secrets from this key are still accepted.
    pub previous: Option<RootKey>,
}

impl RootKeys {
    /// Reads the keys from a Secret's data with `get`. An incomplete previous key counts as none.
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

    /// Reads the keys from a mounted Secret, all from the same version of it: kubelet replaces all files at once, by a link,
    /// and a key must not get the id of another.
    pub fn read_directory(directory: &Path) -> Result<Self, RootKeyError> {
        // A directory that is not a mount has no such link.
        let version = || directory.join("..data").canonicalize().unwrap_or_else(|_| directory.to_owned());
        let mut read = version();
        loop {
            let keys = Self::read_files(&read);
            // If the version changed meanwhile, some files may have been missing.
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
    use crate::ids::id;
    use std::collections::HashSet;

    fn key(byte: u8) -> RootKey {
        RootKey::new(b"k1", &[byte; KEY_LENGTH], (CURRENT, CURRENT_ID)).unwrap()
    }

    fn identity(host: &str, app_id: i64) -> AppIdentity {
        AppIdentity { host: host.into(), app_id: id(app_id) }
    }

    #[test]
    fn every_hook_has_a_secret_of_its_own() {
        let mut secrets = HashSet::new();
        for root in [1, 2] {
            for (host, app) in [("api.github.com", 1), ("api.github.com", 11), ("api.github.com1", 1), ("ghe", 1)] {
                for hook in [Hook::App, Hook::Repository(id(1)), Hook::Repository(id(11))] {
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
        for hook in [Hook::App, Hook::Repository(id(9001))] {
            assert_eq!(Hook::of_path(&hook.path("landfall")), Some((hook, "landfall")));
        }
        for odd in [
            "/webhooks/app/",
            "/webhooks/app/x/",
            "/webhooks/app/x/y",
            "/webhooks/repo/x",
            "/webhooks/repo/x/0",
            "/webhooks/repo/x/9223372036854775808",
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
    fn keys_and_their_ids_come_from_one_version() {
        let mounted = std::env::temp_dir().join(format!("landfall-mounted-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&mounted);
        for (version, id) in [("..v1", "k1"), ("..v2", "k2")] {
            std::fs::create_dir_all(mounted.join(version)).unwrap();
            std::fs::write(mounted.join(version).join(CURRENT), [7; KEY_LENGTH]).unwrap();
            std::fs::write(mounted.join(version).join(CURRENT_ID), id).unwrap();
        }
        let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, mounted.join(from)).unwrap();
        link("..v2", "..data");
        // A slow reader sees these links between two files.
        link("..v1/current", CURRENT);
        link("..v1/current-id", CURRENT_ID);
        assert_eq!(RootKeys::read_directory(&mounted).unwrap().current.id(), "k2");
        std::fs::remove_dir_all(&mounted).unwrap();
    }

    #[test]
    fn errors_of_keys_contain_no_part_of_a_key() {
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
