//! The report of a workspace's agent to the controller, and the controller's reply.
//!
//! The invariant: the controller shows a report and never trusts it. The report describes a clone that untrusted code writes to, so
//! the controller deletes nothing and counts nothing as saved because of it. A field that is missing or malformed reads as its
//! default, and texts are cut: no report is refused for its content.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::git::Sha;

/// The most bytes of a text in a report. The name of a branch on GitHub has at most 255.
pub const MOST_TEXT: usize = 512;

/// The state of a workspace's clone, as its agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The branch that is checked out; none if HEAD is detached, or there is no clone.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit that is checked out.
    #[serde(deserialize_with = "commit", skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// The workspace's branch at the remote, by the clone's remote-tracking ref.
    #[serde(deserialize_with = "commit", skip_serializing_if = "Option::is_none")]
    pub remote_head: Option<String>,
    /// How many commits HEAD is ahead of the workspace's branch at the remote.
    #[serde(deserialize_with = "tolerant", skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u64>,
    /// How many commits HEAD is behind it.
    #[serde(deserialize_with = "tolerant", skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
    /// How many files have uncommitted changes.
    #[serde(deserialize_with = "tolerant")]
    pub changed: u64,
    /// How many files are untracked.
    #[serde(deserialize_with = "tolerant")]
    pub untracked: u64,
    /// How many commits of HEAD, the branches and the stash are in no remote-tracking ref.
    #[serde(deserialize_with = "tolerant")]
    pub unpushed: u64,
    /// The newest autosave since the agent started.
    #[serde(deserialize_with = "tolerant", skip_serializing_if = "Option::is_none")]
    pub autosave: Option<Autosave>,
    /// The agent's newest failure, in words.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A copy of the work at the remote, in case the volume is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Autosave {
    pub commit: Sha,
    /// When it was pushed, or found to be up to date.
    pub at: Timestamp,
}

/// The controller's reply to a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    #[serde(deserialize_with = "tolerant")]
    pub on_stop: OnStop,
}

/// The agent's action when its pod ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum OnStop {
    /// Push all work to branches and tags: the workspace is being deleted, and its volume too.
    Save,
    /// Only autosave, because the volume stays. The default without a reply.
    #[default]
    Autosave,
}

/// A value, or the default if it is malformed.
pub(super) fn tolerant<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(from: D) -> Result<T, D::Error> {
    Value::deserialize(from).map(|value| serde_json::from_value(value).unwrap_or_default())
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    tolerant::<D, Option<String>>(from).map(|text| text.map(|text| bounded(&text, MOST_TEXT)))
}

pub(super) fn commit<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    tolerant::<D, Option<Sha>>(from).map(|sha| sha.map(String::from))
}

/// The text on one line, cut to `most` bytes.
#[must_use]
pub fn bounded(text: &str, most: usize) -> String {
    let end = text.floor_char_boundary(most);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_understood_is_as_if_it_were_not_there() {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        let fine = json!({
            "branch": "b", "head": sha, "remoteHead": sha, "ahead": 1, "behind": 0, "changed": 2, "untracked": 3, "unpushed": 4,
            "autosave": {"commit": sha, "at": "2026-01-02T03:04:05Z"}, "trouble": "t",
        });
        let report: Report = serde_json::from_value(fine.clone()).unwrap();
        assert_eq!(serde_json::to_value(&report).unwrap(), fine);
        for nonsense in [json!(-1), json!("\u{0}"), json!([]), json!({"commit": "x"}), json!(1.5), json!(null)] {
            for field in fine.as_object().unwrap().keys() {
                let mut broken = fine.clone();
                broken[field] = nonsense.clone();
                let read: Report = serde_json::from_value(broken).unwrap();
                let read = serde_json::to_value(read).unwrap();
                for (other, value) in fine.as_object().unwrap().iter().filter(|(other, _)| *other != field) {
                    assert_eq!(&read[other], value, "{field} is {nonsense}");
                }
            }
        }
        assert_eq!(serde_json::from_value::<Report>(json!({})).unwrap(), Report::default());
        let long: Report = serde_json::from_value(json!({"trouble": "a\né".repeat(1000)})).unwrap();
        let text = long.trouble.unwrap();
        assert!(text.len() <= MOST_TEXT && text.starts_with("a éa éa"), "{text}");
    }

    #[test]
    fn without_a_word_that_is_understood_only_an_autosave_is_made() {
        for (text, on_stop) in [
            (r#"{"onStop":"Save"}"#, OnStop::Save),
            (r#"{"onStop":"Autosave"}"#, OnStop::Autosave),
            (r#"{"onStop":"save"}"#, OnStop::Autosave),
            (r#"{"onStop":7,"more":1}"#, OnStop::Autosave),
            ("{}", OnStop::Autosave),
        ] {
            assert_eq!(serde_json::from_str::<Answer>(text).unwrap().on_stop, on_stop, "{text}");
        }
        assert_eq!(serde_json::to_string(&Answer { on_stop: OnStop::Save }).unwrap(), r#"{"onStop":"Save"}"#);
    }
}
