//! Webhooks in GitHub's answers.
//!
//! The invariant: a model keeps whether there is a secret, and never the secret. GitHub sends asterisks in its place; anything
//! else is dropped during deserialization.
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::ids::HookId;

/// A repository's webhook: <https://docs.github.com/en/rest/repos/webhooks#list-repository-webhooks>
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Hook {
    pub id: HookId,
    /// `web`. Old servers have other kinds, which are not webhooks.
    pub name: String,
    pub active: bool,
    /// Names of events, or `*` for all.
    #[serde(default)]
    pub events: Vec<String>,
    #[serde(default)]
    pub config: HookConfig,
}

/// `GET /app/hook/config`, and [`Hook::config`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HookConfig {
    /// None for an App without an address for its hook.
    #[serde(default)]
    pub url: Option<String>,
    /// `json` or `form`.
    #[serde(default)]
    pub content_type: Option<String>,
    /// Whether GitHub skips the verification of the host's certificate. GitHub sends a string or a number.
    #[serde(default, deserialize_with = "is_set")]
    pub insecure_ssl: bool,
    /// Whether deliveries are signed.
    #[serde(default, rename = "secret", deserialize_with = "is_set")]
    pub has_secret: bool,
}

/// True for anything but null, `""`, `"0"`, `0` and `false`.
fn is_set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => false,
        Value::Bool(set) => set,
        Value::Number(number) => number.as_u64() != Some(0),
        Value::String(text) => !matches!(text.as_str(), "" | "0"),
        Value::Array(_) | Value::Object(_) => true,
    })
}
