//! Webhooks as GitHub answers them.
//!
//! The invariant: of a secret only whether there is one is kept. GitHub answers asterisks in its place; whatever else a
//! server may send is dropped while it is read.
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A repository's webhook: <https://docs.github.com/en/rest/repos/webhooks#list-repository-webhooks>
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Hook {
    /// The id.
    pub id: u64,
    /// `web`; old servers have others, which are no webhooks.
    pub name: String,
    /// Whether it sends anything.
    pub active: bool,
    /// What it sends: names of events, or `*` for all.
    #[serde(default)]
    pub events: Vec<String>,
    /// Where to, and how.
    #[serde(default)]
    pub config: HookConfig,
}

/// Where a hook sends to, and how: `GET /app/hook/config` and [`Hook::config`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HookConfig {
    /// Where to. None at the hook of an App that was given none.
    #[serde(default)]
    pub url: Option<String>,
    /// `json` or `form`.
    #[serde(default)]
    pub content_type: Option<String>,
    /// Whether it sends to a host whose certificate it does not trust. GitHub answers a string or a number.
    #[serde(default, deserialize_with = "is_set")]
    pub insecure_ssl: bool,
    /// Whether deliveries are signed. With what is not told.
    #[serde(default, rename = "secret", deserialize_with = "is_set")]
    pub has_secret: bool,
}

/// Anything but nothing, `""`, `"0"`, `0` and `false`.
fn is_set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => false,
        Value::Bool(set) => set,
        Value::Number(number) => number.as_u64() != Some(0),
        Value::String(text) => !matches!(text.as_str(), "" | "0"),
        Value::Array(_) | Value::Object(_) => true,
    })
}
