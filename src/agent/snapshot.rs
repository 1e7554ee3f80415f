//! The work in a directory as a tree of git's, without a change to the directory.
//!
//! The invariant: what git holds for unchanged is taken as it was committed; all else that is not ignored is taken as the bytes,
//! modes and links that are on the volume, which Landfall reads itself, so no filter, attribute or setting has a say in it. What
//! cannot be taken is in [`Snapshot::left`]. git is asked for three things: what has changed since the person's index was
//! written, what is not in the index and not ignored, and to keep the bytes. It works on a copy of the index.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::WorkspaceError;
use super::beneath::{Directory, Entry, path};
use super::gather::EMPTY_TREE;
use super::nested;
use super::remote::Trouble;
use super::store::{Store, sha};
use crate::git::{Sealed, SealedError, Sha};

/// A directory with work in it.
pub struct Work<'a> {
    /// Where it is.
    pub at: &'a Path,
    /// It.
    pub directory: &'a Directory,
    /// The git directory with its index.
    pub git: &'a Directory,
    /// The git directory with its `info/exclude`: the same, but for a further worktree.
    pub common: &'a Directory,
    /// The commit that is checked out.
    pub head: Option<&'a Sha>,
}

/// What is in it.
#[derive(Debug)]
pub struct Snapshot {
    /// All that is not ignored.
    pub tree: Sha,
    /// What is staged.
    pub index: Sha,
    /// When the newest of what was changed was changed, in seconds since 1970; none if that is not known.
    pub modified: Option<i64>,
    /// What is not in the tree.
    pub left: Vec<Left>,
    /// Repositories in it, and whether its index records them (as submodules).
    pub nested: Vec<(PathBuf, bool)>,
    /// How many files differ from the index.
    pub changed: usize,
    /// How many files are not in the index.
    pub untracked: usize,
}

/// Something that could not be saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Left {
    /// What: a path, or what a commit is to the person.
    pub what: String,
    /// The commit, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<Sha>,
    /// Why, for programs.
    pub reason: Trouble,
    /// Why, for people; git's own words where it is git that refuses.
    pub message: String,
}

impl Left {
    fn path(path: &Path, reason: Trouble, message: impl Into<String>) -> Self {
        Self { what: path.to_string_lossy().into_owned(), commit: None, reason, message: message.into() }
    }
}

/// What the copied index lists.
#[derive(Debug, Default)]
struct Index {
    /// Paths at which the person told git not to look.
    unlooked: Vec<Vec<u8>>,
    /// Paths that are not checked out, by the person's wish.
    sparse: Vec<Vec<u8>>,
    /// Paths in conflict: mode and object of the side that is taken for what is staged.
    unmerged: BTreeMap<Vec<u8>, (u8, String)>,
    /// Submodules.
    links: BTreeMap<Vec<u8>, String>,
    /// The directories with something that it lists.
    directories: BTreeSet<Vec<u8>>,
}

/// What differs from an index.
#[derive(Debug)]
struct Differences {
    /// Files that it lists.
    changed: BTreeSet<Vec<u8>>,
    /// Files that it does not, and that are not ignored.
    others: BTreeSet<Vec<u8>>,
    /// Submodules at another commit than the one it lists, and that commit.
    links: Vec<(Vec<u8>, Sha)>,
    /// Repositories that it does not list.
    nested: BTreeSet<Vec<u8>>,
    /// What cannot be looked at.
    left: Vec<Left>,
    listed: Index,
}

/// Finds out what differs. `name` is that of the copied index, in which what the person told git not to look at is taken back.
async fn differences(store: &Store, work: &Work<'_>, name: &str) -> Result<Differences, WorkspaceError> {
    let git = store.git_with(work.at, name);
    let mut left = Vec::new();
    copy_index(store, work, name)?;
    let listed = match Index::list(&git).await? {
        Ok(listed) => listed,
        Err(words) => {
            // One that git did not write is as good as none: everything is looked at then.
            left.push(Left { what: "index".into(), commit: None, reason: Trouble::Unreadable, message: words });
            store.discard(name)?;
            if let Some(head) = work.head {
                git.run(&["read-tree", head.as_str()]).await?;
            }
            Index::list(&git).await?.map_err(WorkspaceError::Answer)?
        }
    };
    listed.look_everywhere(&git, work.directory).await?;
    // Says with its status whether anything differs; that is asked for below.
    match git.run(&["update-index", "-q", "--unmerged", "--ignore-submodules", "--refresh"]).await {
        Ok(_) | Err(SealedError::Failed { status: Some(1), .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut changed = paths(&git.run(&["diff-files", "-z", "--name-only", "--ignore-submodules=all"]).await?);
    changed.retain(|path| !listed.links.contains_key(path));
    let found = git.fed(&["ls-files", "-z", "--others", "--exclude-standard"], |_| Ok(())).await?;
    // A directory that git cannot look into it warns of, and goes on.
    let unseen = found.warned.lines().filter(|line| line.contains("could not open directory"));
    left.extend(unseen.map(|line| Left::path(Path::new("."), Trouble::Unreadable, line)));
    let (nested, others) = paths(&found.said).into_iter().partition(|path| path.ends_with(b"/"));
    let mut links = Vec::new();
    for (link, recorded) in &listed.links {
        let head = nested::head(work.directory, work.at, path(link));
        if let Some(head) = head.filter(|head| head.as_str() != recorded) {
            links.push((link.clone(), head));
        }
    }
    Ok(Differences { changed, others, links, nested, left, listed })
}

/// Takes it, into `store`. `name` is that of the copied index, `now` in seconds since 1970.
///
/// # Errors
/// git's own words, or what cannot be read.
pub async fn take(store: &Store, work: &Work<'_>, name: &str, now: i64) -> Result<Snapshot, WorkspaceError> {
    let Differences { changed, others, links, nested, left, listed } = differences(store, work, name).await?;
    let git = store.git_with(work.at, name);
    listed.settle(&git).await?;
    let index = sha(&git.run(&["write-tree", "--missing-ok"]).await?)?;
    let edits = Edits { tracked: changed, others, links, now };
    let (changed, untracked) = (edits.tracked.len() + edits.links.len(), edits.others.len());
    let linked = listed.links.into_keys().map(|link| (path(&link).to_owned(), true));
    let found = nested.iter().filter_map(|found| found.strip_suffix(b"/")).map(|found| (path(found).to_owned(), false));
    // git takes a repository that somebody made amidst files of this one for a directory like any other.
    let is_made = |inner: &&Vec<u8>| {
        matches!(work.directory.entry(&path(inner).join(".git")), Ok(Some(Entry::Directory | Entry::File(_))))
    };
    let made = listed.directories.iter().filter(is_made).map(|made| (path(made).to_owned(), false));
    let nested = made.collect::<Vec<_>>().into_iter().chain(linked).chain(found).collect();
    let mut snapshot = Snapshot { tree: index.clone(), index, modified: None, left, nested, changed, untracked };
    if changed + untracked > 0 {
        edits.write(store, work.directory, &mut snapshot).await?;
    }
    Ok(snapshot)
}

/// What is staged, if there is an index, of a directory that is gone.
///
/// # Errors
/// git's own words, or what cannot be read.
pub async fn staged(store: &Store, work: &Work<'_>, name: &str) -> Result<Option<Sha>, WorkspaceError> {
    if work.git.entry(Path::new("index")).map_err(WorkspaceError::volume(work.at))?.is_none() {
        return Ok(None);
    }
    copy_index(store, work, name)?;
    let git = store.git_with(work.at, name);
    let listed = Index::list(&git).await?.map_err(WorkspaceError::Answer)?;
    listed.settle(&git).await?;
    Ok(Some(sha(&git.run(&["write-tree", "--missing-ok"]).await?)?))
}

/// How many files differ from the commit that is checked out, staged or not, and how many git does not know.
///
/// # Errors
/// git's own words, or what cannot be read.
pub async fn count(store: &Store, work: &Work<'_>, name: &str) -> Result<(usize, usize), WorkspaceError> {
    let Differences { mut changed, others, links, .. } = differences(store, work, name).await?;
    changed.extend(links.into_iter().map(|(link, _)| link));
    let head = work.head.map_or(EMPTY_TREE, Sha::as_str);
    let staged = ["diff-index", "-z", "--name-only", "--cached", "--ignore-submodules=all", head, "--"];
    changed.extend(paths(&store.git_with(work.at, name).run(&staged).await?));
    Ok((changed.len(), others.len()))
}

/// A copy of the person's index; one that git writes meanwhile is renamed into its place, so there is no half of one.
fn copy_index(store: &Store, work: &Work<'_>, name: &str) -> Result<(), WorkspaceError> {
    store.copy(work.common, Path::new("info/exclude"), "info/exclude")?;
    store.copy(work.git, Path::new("index"), name)?;
    for shared in work.git.names().map_err(WorkspaceError::volume(work.at))? {
        // An index may be in two parts (git-update-index(1), --split-index).
        if let Some(shared) = shared.to_str().filter(|name| name.starts_with("sharedindex.")) {
            store.copy(work.git, Path::new(shared), shared)?;
        }
    }
    Ok(())
}

/// Whether git itself puts such a path into no index: it would lead elsewhere when it is checked out.
fn is_barred(name: &[u8]) -> bool {
    name.split(|byte| *byte == b'/')
        .any(|part| matches!(part, b"" | b"." | b"..") || part.eq_ignore_ascii_case(b".git"))
}

fn paths(said: &[u8]) -> BTreeSet<Vec<u8>> {
    said.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect()
}

impl Index {
    /// Lists it; or what is wrong with it.
    async fn list(git: &Sealed) -> Result<Result<Self, String>, SealedError> {
        let said = match git.run(&["ls-files", "-z", "--stage", "-v"]).await {
            Ok(said) => said,
            Err(SealedError::Failed { words, .. }) => return Ok(Err(words)),
            Err(error) => return Err(error),
        };
        let mut index = Self::default();
        for entry in said.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            // H 100644 78981922613b2afb6025042ff6bd878ac1994e85 0<tab>path
            let Some(tab) = entry.iter().position(|byte| *byte == b'\t') else { continue };
            let (about, path) = (String::from_utf8_lossy(&entry[..tab]).into_owned(), entry[tab + 1..].to_vec());
            let [tag, mode, object, stage] = about.split(' ').collect::<Vec<_>>()[..] else { continue };
            if is_barred(&path) {
                return Ok(Err(format!(
                    "the index names {:?}, which git keeps nowhere",
                    String::from_utf8_lossy(&path)
                )));
            }
            if tag.chars().all(char::is_lowercase) {
                index.unlooked.push(path.clone());
            }
            if tag.eq_ignore_ascii_case("S") {
                index.sparse.push(path.clone());
            }
            let mut above = &path[..];
            while let Some(slash) = above.iter().rposition(|byte| *byte == b'/') {
                above = &above[..slash];
                if !index.directories.insert(above.to_vec()) {
                    break;
                }
            }
            match (stage, mode) {
                ("0", "160000") => drop(index.links.insert(path, object.to_owned())),
                ("0", _) => {}
                (stage, mode) => {
                    // What was on the branch goes before what came, and both before what they came from.
                    let rank = match stage {
                        "2" => 2,
                        "3" => 1,
                        _ => 0,
                    };
                    let entry = (rank, format!("{mode} {object}"));
                    let best = index.unmerged.entry(path).or_insert_with(|| entry.clone());
                    *best = entry.max(best.clone());
                }
            }
        }
        Ok(Ok(index))
    }

    /// Takes back, in the copy, that git is not to look at what is there.
    async fn look_everywhere(&self, git: &Sealed, directory: &Directory) -> Result<(), WorkspaceError> {
        let mut there = Vec::new();
        for sparse in &self.sparse {
            if directory.entry(path(sparse)).map_err(WorkspaceError::volume(path(sparse)))?.is_some() {
                there.push(sparse.clone());
            }
        }
        let unlooked = self.unlooked.clone();
        for (option, paths) in [("--no-skip-worktree", there), ("--no-assume-unchanged", unlooked)] {
            if !paths.is_empty() {
                let list = paths.join(&0);
                git.fed(&["update-index", option, "-z", "--stdin"], move |to| {
                    to.write_all(&[&list[..], b"\0"].concat())
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Takes one side of each conflict, in the copy: git makes no tree of an index with conflicts.
    async fn settle(&self, git: &Sealed) -> Result<(), SealedError> {
        if self.unmerged.is_empty() {
            return Ok(());
        }
        let nothing = format!("0 {}\t", "0".repeat(40)).into_bytes();
        let mut lines = Vec::new();
        for (path, (_, entry)) in &self.unmerged {
            lines.extend_from_slice(&nothing);
            lines.extend_from_slice(path);
            lines.extend_from_slice(format!("\0{entry} 0\t").as_bytes());
            lines.extend_from_slice(path);
            lines.push(0);
        }
        git.fed(&["update-index", "-z", "--index-info"], move |to| to.write_all(&lines)).await.map(drop)
    }
}

/// What makes the tree of an index into that of the directory.
struct Edits {
    tracked: BTreeSet<Vec<u8>>,
    others: BTreeSet<Vec<u8>>,
    links: Vec<(Vec<u8>, Sha)>,
    now: i64,
}

impl Edits {
    async fn write(self, store: &Store, directory: &Directory, snapshot: &mut Snapshot) -> Result<(), WorkspaceError> {
        let directory = directory.descend(Path::new("")).map_err(WorkspaceError::volume(Path::new(".")))?;
        let directory = directory.ok_or_else(|| WorkspaceError::Answer("the directory is gone".to_owned()))?;
        let tree = snapshot.index.clone();
        let arguments = ["fast-import", "--quiet", "--force", "--date-format=raw"];
        let answer = store.git().fed(&arguments, move |to| self.stream(to, &tree, &directory)).await?;
        let commit = sha(&answer.said)?;
        let (left, modified) = answer.told;
        snapshot.left.extend(left);
        snapshot.modified = modified;
        snapshot.tree = store.commit(&commit).await?.0;
        Ok(())
    }

    /// The stream of git-fast-import(1): a commit that nobody sees, for its tree.
    fn stream(self, to: &mut dyn Write, tree: &Sha, directory: &Directory) -> io::Result<(Vec<Left>, Option<i64>)> {
        writeln!(to, "feature done\ncommit refs/landfall/tree\nmark :1\ncommitter Landfall <> 0 +0000\ndata 0")?;
        writeln!(to, "M 040000 {tree} \"\"")?;
        let mut left = Vec::new();
        let mut newest = None;
        let mut taken = Vec::new();
        // What is gone goes first, for what came may be where it was: a file where there was a directory.
        for (name, tracked) in
            self.tracked.iter().map(|name| (name, true)).chain(self.others.iter().map(|name| (name, false)))
        {
            let at = path(name);
            match directory.entry(at) {
                Err(error) => left.push(Left::path(at, Trouble::Unreadable, error.to_string())),
                Ok(found) => {
                    if tracked {
                        writeln!(to, "D {}", quoted(name))?;
                    }
                    match found {
                        Some(Entry::Special) => {
                            left.push(Left::path(at, Trouble::NotForGit, "it is a device, a socket or a named pipe"));
                        }
                        Some(Entry::File(_) | Entry::Link { .. }) => taken.push(name),
                        Some(Entry::Directory) | None => {}
                    }
                }
            }
        }
        for name in taken {
            let modified = match directory.entry(path(name))? {
                Some(Entry::File(opened)) => {
                    let mode = if opened.executable { "100755" } else { "100644" };
                    writeln!(to, "M {mode} inline {}\ndata {}", quoted(name), opened.length)?;
                    let copied = io::copy(&mut opened.file.take(opened.length), to)?;
                    if copied < opened.length {
                        let text = format!("{} became shorter while it was read", path(name).display());
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                    }
                    opened.modified
                }
                Some(Entry::Link { target, modified }) => {
                    writeln!(to, "M 120000 inline {}\ndata {}", quoted(name), target.len())?;
                    to.write_all(&target)?;
                    modified
                }
                _ => continue,
            };
            writeln!(to)?;
            // A clock that was wrong when a file was written does not decide about the commit's date.
            newest = newest.max(Some(modified).filter(|modified| (0..=self.now).contains(modified)));
        }
        for (name, head) in &self.links {
            writeln!(to, "M 160000 {head} {}", quoted(name))?;
        }
        writeln!(to, "get-mark :1\ndone")?;
        Ok((left, newest))
    }
}

/// A path as git-fast-import(1) takes all of them.
fn quoted(name: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in name {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            byte => {
                text.push('\\');
                text.extend([6, 3, 0].map(|shift| char::from(b'0' + (byte >> shift & 7))));
            }
        }
    }
    text + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_can_be_in_a_path() {
        assert_eq!(quoted(b"a b/\"\\\n\xff"), r#""a b/\"\\\012\377""#);
    }
}
