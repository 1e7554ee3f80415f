//! What a workspace's agent tells the controller, and what it is told in return.
//!
//! The invariant: a report is shown and never believed. It is written in a container beside one in which a stranger may work, from
//! a clone that is theirs; nothing is deleted, and nothing counts as saved, because a report says so. So every field may be
//! missing or be nonsense when it is read, and texts are short by then: no report is refused for what is in it.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::git::Sha;

/// The most bytes of a text in a report; a branch of GitHub's has at most 255.
pub const MOST_TEXT: usize = 512;

/// The state of a workspace's clone, as its agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The branch that is checked out; none if none is, or there is no clone.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit that is checked out; none if there is none.
    #[serde(deserialize_with = "commit", skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// The newest commit of the workspace's branch at the remote, as the clone last saw it; none if it never did.
    #[serde(deserialize_with = "commit", skip_serializing_if = "Option::is_none")]
    pub remote_head: Option<String>,
    /// How many commits HEAD has that the workspace's branch at the remote has not; none if one of them is none.
    #[serde(deserialize_with = "tolerant", skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u64>,
    /// The other way around.
    #[serde(deserialize_with = "tolerant", skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
    /// How many files differ from the index.
    #[serde(deserialize_with = "tolerant")]
    pub changed: u64,
    /// How many files are not in the index, and not ignored.
    #[serde(deserialize_with = "tolerant")]
    pub untracked: u64,
    /// How many commits HEAD and the branches have that no remote branch reaches, as the clone last saw those.
    #[serde(deserialize_with = "tolerant")]
    pub unpushed: u64,
    /// The newest autosave since the agent started; none if there was nothing to save.
    #[serde(deserialize_with = "tolerant", skip_serializing_if = "Option::is_none")]
    pub autosave: Option<Autosave>,
    /// What the agent could not do, for people; none if there is nothing.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Work that is at the remote for the case that the volume is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Autosave {
    /// The commit.
    pub commit: Sha,
    /// When it was pushed, or was found to be all there is.
    pub at: Timestamp,
}

/// What the controller answers to a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    /// What to do if the pod ends now.
    #[serde(deserialize_with = "tolerant")]
    pub on_stop: OnStop,
}

/// What an agent does when its pod ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum OnStop {
    /// Push all work to where people find it: the workspace goes, and its volume with it.
    Save,
    /// Only autosave: the volume stays. Also what is done without an answer.
    #[default]
    Autosave,
}

/// A value, or the default of one that is not understood.
pub(super) fn tolerant<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(from: D) -> Result<T, D::Error> {
    Value::deserialize(from).map(|value| serde_json::from_value(value).unwrap_or_default())
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    tolerant::<D, Option<String>>(from).map(|text| text.map(|text| bounded(&text, MOST_TEXT)))
}

pub(super) fn commit<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    tolerant::<D, Option<Sha>>(from).map(|sha| sha.map(String::from))
}

/// A text in one line and of at most `most` bytes.
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
