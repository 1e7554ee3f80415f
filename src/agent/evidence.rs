//! The result of a save, as the termination message of its container.
//!
//! The invariant: it is complete, valid JSON for a result of any size, and it describes the remote in a form that the controller
//! can compare with the remote itself. The controller lists the remote and compares before it trusts the message; without that,
//! a program that writes its container's termination message could have the volume deleted with the work on it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::remote::{RemoteRefs, Trouble};
use super::report::{bounded, commit, tolerant};
use super::save::{Outcome, SaveReport};
use crate::git::Sha;

/// The most bytes of an [`Evidence`].
///
/// A termination message may have 4096 bytes, but all of a pod's together 12 KiB, and the kubelet cuts each to an equal
/// share (`normalizeStatus` in `pkg/kubelet/status/status_manager.go`): this fits into a pod of six containers.
pub const MOST_MESSAGE: usize = 2048;
/// The most bytes of a name in it.
const MOST_NAME: usize = 255;
/// The most bytes of git's message about a remnant.
const MOST_WORDS: usize = 300;

/// The result of a save, as far as it fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    pub outcome: Outcome,
    /// It was an autosave: the work at the remote is not on a branch or tag.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_autosaved: bool,
    /// The branch that is checked out; none if HEAD is detached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit that is checked out.
    #[serde(default, deserialize_with = "commit", skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// How many files differed from the index.
    #[serde(default)]
    pub changed: u64,
    /// How many files were not in the index.
    #[serde(default)]
    pub untracked: u64,
    /// Work at the remote, as much as fits.
    #[serde(default)]
    pub saved: Vec<SavedRef>,
    /// Work that is not at the remote, as much as fits.
    #[serde(default)]
    pub left: Vec<Remnant>,
    /// How many entries did not fit.
    #[serde(default)]
    pub more: u64,
    /// The workspace's refs, as the remote listed them at the end.
    #[serde(default)]
    pub remote: Listed,
}

/// Work to which a ref of the remote points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedRef {
    /// The person's name for it.
    pub what: String,
    pub commit: Sha,
    /// The ref's full name.
    #[serde(rename = "ref")]
    pub name: String,
}

/// Work that is not at the remote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remnant {
    /// A path, or the person's name for a commit.
    pub what: String,
    #[serde(default, deserialize_with = "tolerant")]
    pub reason: Trouble,
    /// The reason in words, cut.
    #[serde(default)]
    pub message: String,
}

/// A workspace's refs, as its remote listed them; empty if the remote was not asked or did not answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listed {
    /// The commit of the workspace's branch.
    #[serde(deserialize_with = "commit", skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The [`wip_digest`] of the refs below [`wip_prefix`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wip: Option<String>,
    /// The newest autosave, at [`autosave_ref`].
    #[serde(deserialize_with = "commit", skip_serializing_if = "Option::is_none")]
    pub autosave: Option<String>,
}

impl Listed {
    /// Picks the workspace's refs from all refs of the remote.
    #[must_use]
    pub fn of(refs: &RemoteRefs, branch: &str, name: &str, uid: &str) -> Self {
        let named = |name: &str| refs.get(name).map(|sha| sha.as_str().to_owned());
        let prefix = wip_prefix(name, uid);
        let wip = refs.iter().filter(|(name, _)| name.starts_with(&prefix));
        Self {
            branch: named(&format!("refs/heads/{branch}")),
            wip: wip_digest(wip.map(|(name, sha)| (name.as_str(), sha.as_str()))),
            autosave: named(&autosave_ref(uid)),
        }
    }
}

/// The prefix of refs for work that does not go to the workspace's branch; ends with a slash.
#[must_use]
pub fn wip_prefix(name: &str, uid: &str) -> String {
    format!("refs/heads/{}/", wip_name(name, uid))
}

/// The same without `refs/heads/` and without the slash at its end.
pub(super) fn wip_name(name: &str, uid: &str) -> String {
    let uid: String = uid.chars().filter(char::is_ascii_alphanumeric).take(5).collect();
    format!("landfall-wip/{name}-{uid}")
}

/// The ref of a workspace's autosaves.
#[must_use]
pub fn autosave_ref(uid: &str) -> String {
    format!("refs/landfall/wip/{uid}")
}

/// A digest of refs (name, object): the SHA-256 of the sorted lines `OBJECT NAME\n`, in hexadecimal. None if there are no refs.
#[must_use]
pub fn wip_digest<'a>(refs: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let mut lines: Vec<_> = refs.map(|(name, sha)| format!("{sha} {name}\n")).collect();
    lines.sort_unstable();
    let digest = || aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, lines.concat().as_bytes());
    (!lines.is_empty()).then(|| hex::encode(digest()))
}

impl Evidence {
    /// As much of a report as fits.
    #[must_use]
    pub fn of(report: &SaveReport) -> Self {
        let place = |saved: &super::save::Saved| SavedRef {
            what: bounded(&saved.what, MOST_NAME),
            commit: saved.commit.clone(),
            name: saved.name.clone(),
        };
        let remnant = |left: &super::snapshot::Unsaved| Remnant {
            what: bounded(&left.what, MOST_NAME),
            reason: left.reason,
            message: bounded(&left.message, MOST_WORDS),
        };
        let mut evidence = Self {
            outcome: report.outcome,
            only_autosaved: report.only_autosaved,
            branch: report.branch.as_deref().map(|branch| bounded(branch, MOST_NAME)),
            head: report.head.clone().map(String::from),
            changed: report.changed as u64,
            untracked: report.untracked as u64,
            saved: Vec::new(),
            left: Vec::new(),
            // The longest number, so that the message still fits with the real one.
            more: u64::MAX,
            remote: report.remote.clone(),
        };
        // Alternating, so that neither list crowds out the other.
        for number in 0..report.saved.len().max(report.left.len()) {
            if let Some(left) = report.left.get(number) {
                evidence.left.push(remnant(left));
                if !evidence.fits() {
                    evidence.left.pop();
                }
            }
            if let Some(saved) = report.saved.get(number) {
                evidence.saved.push(place(saved));
                if !evidence.fits() {
                    evidence.saved.pop();
                }
            }
        }
        let told = evidence.saved.len() + evidence.left.len();
        evidence.more = (report.saved.len() + report.left.len() - told) as u64;
        evidence
    }

    /// Whether it says that all work is on branches and tags of the remote.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.outcome, Outcome::Saved | Outcome::NothingToDo) && !self.only_autosaved && self.left.is_empty()
    }

    /// Whether there was no clone, so that nothing was compared with the remote.
    #[must_use]
    pub fn is_of_nothing(&self) -> bool {
        self.outcome == Outcome::NothingToDo && self.head.is_none() && self.branch.is_none() && self.saved.is_empty()
    }

    fn fits(&self) -> bool {
        serde_json::to_vec(self).is_ok_and(|text| text.len() <= MOST_MESSAGE)
    }

    /// Writes it to the container's termination message path.
    pub fn write(&self, file: &Path) -> std::io::Result<()> {
        std::fs::write(file, serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::save::Saved;
    use super::super::snapshot::Unsaved;
    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    fn report(number: usize, text: &str) -> SaveReport {
        let sha: Sha = SHA.parse().unwrap();
        let saved = |n: usize| Saved {
            what: format!("{text}{n}"),
            commit: sha.clone(),
            name: format!("refs/heads/landfall-wip/try-0a1b2/branch/{n}"),
            pushed: true,
            not_on_branch: Some(text.to_owned()),
        };
        let left = |n: usize| Unsaved {
            what: format!("{text}{n}"),
            commit: None,
            reason: Trouble::TooLarge,
            message: text.to_owned(),
        };
        SaveReport {
            only_autosaved: false,
            outcome: Outcome::Refused,
            branch: Some(text.to_owned()),
            head: Some(sha.clone()),
            changed: usize::MAX,
            untracked: 7,
            saved: (0..number).map(saved).collect(),
            left: (0..number).map(left).collect(),
            remote: Listed {
                branch: Some("a".repeat(64)),
                wip: wip_digest([("refs/heads/x", SHA)].into_iter()),
                autosave: Some("b".repeat(64)),
            },
        }
    }

    #[test]
    fn a_last_message_is_whole_however_much_there_is_to_say() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("message");
        for number in [0, 1, 3, 1000] {
            for text in ["a", "", &"long ".repeat(10_000), &"é\n\"\\\u{1}".repeat(1000), &"\u{1f600}".repeat(1000)] {
                let report = report(number, text);
                let evidence = Evidence::of(&report);
                evidence.write(&file).unwrap();
                let written = std::fs::read(&file).unwrap();
                assert!(written.len() <= MOST_MESSAGE, "{number} of {} bytes: {}", text.len(), written.len());
                assert_eq!(serde_json::from_slice::<Evidence>(&written).unwrap(), evidence);
                let told = evidence.saved.len() + evidence.left.len();
                assert_eq!(told as u64 + evidence.more, 2 * number as u64);
                assert!(number == 0 || (!evidence.saved.is_empty() && !evidence.left.is_empty()), "{evidence:?}");
                assert_eq!(evidence.remote, report.remote);
            }
        }
        assert!(Evidence::of(&report(3, "a")).more == 0);
    }

    #[test]
    fn refs_are_told_apart_by_name_and_object_and_not_by_order() {
        let other = SHA.replace('0', "f");
        let two = [("refs/heads/a", SHA), ("refs/heads/b", &other)];
        let digest = |refs: &[(&str, &str)]| wip_digest(refs.iter().copied()).unwrap();
        assert_eq!(digest(&two), digest(&[two[1], two[0]]));
        // printf '%s %s\n' SHA refs/heads/a OTHER refs/heads/b | sort | sha256sum
        assert_eq!(digest(&two), "aeada7839d79885320841711ae7223d880573f4f3339187d4f13c6a79165d8bc");
        for changed in
            [&two[..1], &[("refs/heads/a", &*other), ("refs/heads/b", SHA)], &[two[0], ("refs/heads/c", &other)]]
        {
            assert_ne!(digest(&two), digest(changed));
        }
        assert_eq!(wip_digest(std::iter::empty()), None);
    }

    #[test]
    fn only_the_workspaces_own_refs_are_told() {
        let sha: Sha = SHA.parse().unwrap();
        let uid = "0a1b2c3d-4e5f-6789-abcd-ef0123456789";
        let refs = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), sha.clone())).collect::<RemoteRefs>();
        let others = refs(&["refs/heads/main", "refs/heads/landfall-wip/try-0a1b2x/head", "refs/landfall/wip/0a1b2"]);
        assert_eq!(Listed::of(&others, "work", "try", uid), Listed::default());
        let own = ["refs/heads/work", "refs/heads/landfall-wip/try-0a1b2/head", &*autosave_ref(uid)];
        let listed = Listed::of(&refs(&own), "work", "try", uid);
        let wip = wip_digest([(&*format!("{}head", wip_prefix("try", uid)), SHA)].into_iter());
        assert_eq!(listed, Listed { branch: Some(SHA.into()), wip, autosave: Some(SHA.into()) });
    }
}
