//! Stores the work in a directory as a git tree, without changing the directory.
//!
//! The invariant: a file that git takes for unchanged is taken as it was committed; every other one that is not ignored is
//! taken with the bytes, mode and link target on the volume, which Landfall reads itself, so no filter and no attribute changes
//! them. A file of Git LFS is taken as its pointer. Only where the clone's git found that the volume keeps no modes or no links ([`FileSystem`]), they are the index's.
//! Whatever cannot be taken is in [`Snapshot::left`]. git does three things: it finds files that changed since the person's
//! index was written, finds files that are neither in the index nor ignored, and stores the bytes. It works on a copy of the
//! index.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::WorkspaceError;
use super::collect::EMPTY_TREE;
use super::directory::{Directory, Entry, path};
use super::file_system::{FileSystem, Modes};
use super::ignored;
use super::lfs::{self, Pointer};
use super::remote::Trouble;
use super::repositories;
use super::store::{Store, sha};
use crate::git::{Sealed, SealedError, Sha};
use crate::guards;

/// A working tree.
pub struct SnapshotSource<'a> {
    /// The path of `directory`.
    pub at: &'a Path,
    pub directory: &'a Directory,
    /// The git directory, with the index.
    pub git: &'a Directory,
    /// The common git directory, with `config` and `info/exclude`. Only a further worktree has another one.
    pub common: &'a Directory,
    pub head: Option<&'a Sha>,
}

/// The content of a working tree.
#[derive(Debug)]
pub struct Snapshot {
    /// Of all files that are not ignored.
    pub tree: Sha,
    /// Of the index.
    pub index: Sha,
    /// The time of the newest change, in seconds since 1970; none if that is not known.
    pub modified: Option<i64>,
    /// Files that could not be stored.
    pub left: Vec<Unsaved>,
    /// Repositories in it, and whether the index records them as submodules.
    pub nested: Vec<(PathBuf, bool)>,
    pub changed: usize,
    pub untracked: usize,
}

/// Work that could not be saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unsaved {
    /// A path, or the person's name for a commit.
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<Sha>,
    pub reason: Trouble,
    /// The reason in words; git's own if git refused.
    pub message: String,
}

impl Unsaved {
    fn path(path: &Path, reason: Trouble, message: impl Into<String>) -> Self {
        Self { what: path.to_string_lossy().into_owned(), commit: None, reason, message: message.into() }
    }
}

/// The copied index.
#[derive(Debug, Default)]
struct Index {
    /// Executable files.
    executables: BTreeSet<Vec<u8>>,
    /// Symbolic links.
    symlinks: BTreeSet<Vec<u8>>,
    /// Paths with the bit assume-unchanged.
    unlooked: Vec<Vec<u8>>,
    /// Paths with the bit skip-worktree.
    sparse: Vec<Vec<u8>>,
    /// Unmerged paths, each with the mode and object of the stage that the tree takes.
    unmerged: BTreeMap<Vec<u8>, (u8, String)>,
    /// Submodules.
    links: BTreeMap<Vec<u8>, String>,
    /// The directories of all entries.
    directories: BTreeSet<Vec<u8>>,
}

/// The differences between an index and a working tree.
#[derive(Debug)]
struct Differences {
    /// Tracked files.
    changed: BTreeSet<Vec<u8>>,
    /// Untracked files that are not ignored.
    others: BTreeSet<Vec<u8>>,
    /// Submodules at another commit than the index records, and that commit.
    links: Vec<(Vec<u8>, Sha)>,
    /// Untracked repositories.
    nested: Vec<PathBuf>,
    /// The pointers of files that belong into Git LFS, and are not there as pointers.
    pointers: BTreeMap<Vec<u8>, Pointer>,
    /// Files that cannot be read.
    left: Vec<Unsaved>,
    listed: Index,
    file_system: FileSystem,
}

/// Compares the working tree with a copy of the index called `name`, in which assume-unchanged and skip-worktree are cleared.
async fn differences(store: &Store, work: &SnapshotSource<'_>, name: &str) -> Result<Differences, WorkspaceError> {
    let file_system = FileSystem::of(work.common, store.git()).await?;
    let git = file_system.settings(store.git_with(work.at, name));
    let mut left = Vec::new();
    copy_index(store, work, name)?;
    let listed = match Index::list(&git).await? {
        Ok(listed) => listed,
        Err(words) => {
            // A damaged index counts as none: the tree is compared with HEAD.
            left.push(Unsaved { what: "index".into(), commit: None, reason: Trouble::Unreadable, message: words });
            store.discard(name)?;
            if let Some(head) = work.head {
                git.run(&["read-tree", head.as_str()]).await?;
            }
            Index::list(&git).await?.map_err(WorkspaceError::Answer)?
        }
    };
    listed.look_everywhere(&git, work.directory).await?;
    // It exits with 1 if anything differs, which diff-files tells below.
    match git.run(&["update-index", "-q", "--unmerged", "--ignore-submodules", "--refresh"]).await {
        Ok(_) | Err(SealedError::Failed { status: Some(1), .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut changed =
        changes(&git.run(&["diff-files", "-z", "--raw", "--no-abbrev", "--ignore-submodules=all"]).await?);
    changed.retain(|path, _| !listed.links.contains_key(path));
    let found = git.fed(&["ls-files", "-z", "--others", "--exclude-standard"], |_| Ok(())).await?;
    // git warns of a directory that it cannot read, and goes on.
    let unseen = found.stderr.lines().filter(|line| line.contains("could not open directory"));
    left.extend(unseen.map(|line| Unsaved::path(Path::new("."), Trouble::Unreadable, line)));
    let (nested, others): (BTreeSet<_>, BTreeSet<_>) =
        paths(&found.stdout).into_iter().partition(|path| path.ends_with(b"/"));
    let nested = nested.iter().filter_map(|found| found.strip_suffix(b"/")).map(|found| path(found).to_owned());
    let mut nested: Vec<_> = nested.collect();
    nested.extend(ignored::repositories(&git, work.directory, &mut left).await?);
    let pointers = pointers(store, work.directory, &git, &mut changed, &others).await?;
    let only_here: Vec<_> =
        pointers.keys().map(|name| Unsaved::path(path(name), Trouble::LargeFile, ONLY_HERE)).collect();
    left.extend(guards::large_files(only_here));
    let changed = changed.into_keys().collect();
    let mut links = Vec::new();
    for (link, recorded) in &listed.links {
        let head = repositories::head(work.directory, work.at, path(link));
        if let Some(head) = head.filter(|head| head.as_str() != recorded) {
            links.push((link.clone(), head));
        }
    }
    Ok(Differences { changed, others, links, nested, pointers, left, listed, file_system })
}

/// Why a file that belongs into Git LFS is left.
const ONLY_HERE: &str = "it belongs into Git LFS (filter=lfs in .gitattributes), and a save uploads nothing there: its pointer is \
                         saved, and its content is on the volume alone; add and push it with git-lfs";

/// The pointers of changed and untracked files that belong into Git LFS. A file is not changed if the index has its pointer.
async fn pointers(
    store: &Store,
    directory: &Directory,
    git: &Sealed,
    changed: &mut BTreeMap<Vec<u8>, Change>,
    others: &BTreeSet<Vec<u8>>,
) -> Result<BTreeMap<Vec<u8>, Pointer>, WorkspaceError> {
    let names = lfs::filtered(git, changed.keys().chain(others).cloned().collect()).await?;
    let mut pointers = lfs::pointers(directory, names).await?;
    let objects = changed.iter().filter(|(name, _)| pointers.contains_key(*name));
    let recorded = lfs::read(store.git(), objects.filter_map(|(_, change)| change.object.clone()).collect()).await?;
    let is_same = |name: &[u8], change: &Change| {
        let pointer = change.object.as_ref().and_then(|object| recorded.get(object));
        pointer.is_some() && pointer == pointers.get(name)
    };
    let same: BTreeSet<_> =
        changed.iter().filter(|(name, change)| is_same(name, change)).map(|(name, _)| name.clone()).collect();
    changed.retain(|name, change| change.is_of_mode || !same.contains(name));
    // The object of a pointer that is in the index was added with git-lfs, so its content is not in the file alone.
    pointers.retain(|name, _| !same.contains(name) || changed.contains_key(name));
    Ok(pointers)
}

/// Stores the working tree in `store`. `name` is that of the copied index; `now` is in seconds since 1970.
pub async fn take(store: &Store, work: &SnapshotSource<'_>, name: &str, now: i64) -> Result<Snapshot, WorkspaceError> {
    let mut differences = differences(store, work, name).await?;
    let nested = differences.nested(work.directory);
    let Differences { changed, others, links, pointers, left, mut listed, file_system, .. } = differences;
    let git = store.git_with(work.at, name);
    listed.settle(&git).await?;
    let index = sha(&git.run(&["write-tree", "--missing-ok"]).await?)?;
    let (executables, symlinks) = (std::mem::take(&mut listed.executables), std::mem::take(&mut listed.symlinks));
    let modes = Modes { file_system, executables, symlinks };
    let edits = Edits { tracked: changed, others, links, pointers, modes, now };
    let (changed, untracked) = (edits.tracked.len() + edits.links.len(), edits.others.len());
    let mut snapshot = Snapshot { tree: index.clone(), index, modified: None, left, nested, changed, untracked };
    if changed + untracked > 0 {
        edits.write(store, work.directory, &mut snapshot).await?;
    }
    Ok(snapshot)
}

/// The tree of the index, if there is one, for a worktree whose files are gone.
pub async fn staged(store: &Store, work: &SnapshotSource<'_>, name: &str) -> Result<Option<Sha>, WorkspaceError> {
    if work.git.entry(Path::new("index")).map_err(WorkspaceError::volume(work.at))?.is_none() {
        return Ok(None);
    }
    copy_index(store, work, name)?;
    let git = store.git_with(work.at, name);
    let listed = Index::list(&git).await?.map_err(WorkspaceError::Answer)?;
    listed.settle(&git).await?;
    Ok(Some(sha(&git.run(&["write-tree", "--missing-ok"]).await?)?))
}

/// The same without storing anything: the tree and the index are those of HEAD, and `changed` counts the staged files, too.
pub async fn look(
    store: &Store,
    work: &SnapshotSource<'_>,
    name: &str,
    head_tree: &Sha,
) -> Result<Snapshot, WorkspaceError> {
    let mut differences = differences(store, work, name).await?;
    let nested = differences.nested(work.directory);
    let Differences { mut changed, others, links, left, .. } = differences;
    changed.extend(links.into_iter().map(|(link, _)| link));
    let head = work.head.map_or(EMPTY_TREE, Sha::as_str);
    let staged = ["diff-index", "-z", "--name-only", "--cached", "--ignore-submodules=all", head, "--"];
    changed.extend(paths(&store.git_with(work.at, name).run(&staged).await?));
    let (tree, index) = (head_tree.clone(), head_tree.clone());
    let (changed, untracked) = (changed.len(), others.len());
    Ok(Snapshot { tree, index, modified: None, left, nested, changed, untracked })
}

impl Differences {
    /// The repositories in the working tree, and whether the index records them as submodules.
    fn nested(&mut self, directory: &Directory) -> Vec<(PathBuf, bool)> {
        let linked = self.listed.links.keys().map(|link| (path(link).to_owned(), true));
        let found = self.nested.drain(..).map(|found| (found, false));
        // git treats a repository that a person created around tracked files as a plain directory.
        let is_made = |inner: &&Vec<u8>| {
            matches!(directory.entry(&path(inner).join(".git")), Ok(Some(Entry::Directory | Entry::File(_))))
        };
        let made = self.listed.directories.iter().filter(is_made).map(|made| (path(made).to_owned(), false));
        made.chain(linked).chain(found).collect()
    }
}

/// A difference between the index and a file.
#[derive(Debug)]
struct Change {
    /// The object in the index.
    object: Option<Sha>,
    /// The mode differs.
    is_of_mode: bool,
}

/// Reads the output of git-diff-files(1) with `--raw -z`.
fn changes(said: &[u8]) -> BTreeMap<Vec<u8>, Change> {
    let fields: Vec<_> = said.split(|byte| *byte == 0).collect();
    let change = |field: &[&[u8]]| {
        // :100644 100644 78981922613b2afb6025042ff6bd878ac1994e85 0000000000000000000000000000000000000000 M
        let about = String::from_utf8_lossy(field.first()?).into_owned();
        let name = field.get(1).filter(|name| !name.is_empty())?;
        let words: Vec<_> = about.trim_start_matches(':').split(' ').collect();
        let object = words.get(2).and_then(|object| object.parse().ok());
        Some((name.to_vec(), Change { object, is_of_mode: words.first() != words.get(1) }))
    };
    fields.chunks(2).filter_map(change).collect()
}

/// Copies the person's index. git replaces an index by a rename, so the copy is complete.
fn copy_index(store: &Store, work: &SnapshotSource<'_>, name: &str) -> Result<(), WorkspaceError> {
    store.copy(work.common, Path::new("info/exclude"), "info/exclude")?;
    store.copy(work.common, Path::new("info/attributes"), "info/attributes")?;
    store.copy(work.git, Path::new("index"), name)?;
    for shared in work.git.names().map_err(WorkspaceError::volume(work.at))? {
        // A split index has two files (git-update-index(1)).
        if let Some(shared) = shared.to_str().filter(|name| name.starts_with("sharedindex.")) {
            store.copy(work.git, Path::new(shared), shared)?;
        }
    }
    Ok(())
}

/// Whether git refuses such a path in an index (`verify_path` in its `read-cache.c`): checked out, it would lead elsewhere.
fn is_forbidden(name: &[u8]) -> bool {
    name.split(|byte| *byte == b'/')
        .any(|part| matches!(part, b"" | b"." | b"..") || part.eq_ignore_ascii_case(b".git"))
}

fn paths(said: &[u8]) -> BTreeSet<Vec<u8>> {
    said.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect()
}

impl Index {
    /// Lists the index. The inner error is git's message about a damaged one.
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
            if is_forbidden(&path) {
                return Ok(Err(format!(
                    "the index has the path {:?}, which git does not allow",
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
                ("0", "100755") => drop(index.executables.insert(path)),
                ("0", "120000") => drop(index.symlinks.insert(path)),
                ("0", _) => {}
                (stage, mode) => {
                    // Stage 2 (ours) before stage 3 (theirs) before stage 1 (the merge base).
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

    /// Clears assume-unchanged, and skip-worktree for files that exist, in the copy.
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

    /// Resolves each conflict in the copy to one stage: git writes no tree from an unmerged index.
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

/// The changes from the tree of the index to the tree of the working tree.
struct Edits {
    tracked: BTreeSet<Vec<u8>>,
    others: BTreeSet<Vec<u8>>,
    links: Vec<(Vec<u8>, Sha)>,
    pointers: BTreeMap<Vec<u8>, Pointer>,
    modes: Modes,
    now: i64,
}

impl Edits {
    async fn write(self, store: &Store, directory: &Directory, snapshot: &mut Snapshot) -> Result<(), WorkspaceError> {
        let directory = directory.descend(Path::new("")).map_err(WorkspaceError::volume(Path::new(".")))?;
        let directory = directory.ok_or_else(|| WorkspaceError::Answer("the directory is gone".to_owned()))?;
        let tree = snapshot.index.clone();
        let arguments = ["fast-import", "--quiet", "--force", "--date-format=raw"];
        let answer = store.git().fed(&arguments, move |to| self.stream(to, &tree, &directory)).await?;
        let commit = sha(&answer.stdout)?;
        let (left, modified) = answer.written;
        snapshot.left.extend(left);
        snapshot.modified = modified;
        snapshot.tree = store.commit(&commit).await?.0;
        Ok(())
    }

    /// Writes a stream for git-fast-import(1): a temporary commit, for its tree.
    fn stream(self, to: &mut dyn Write, tree: &Sha, directory: &Directory) -> io::Result<(Vec<Unsaved>, Option<i64>)> {
        writeln!(to, "feature done\ncommit refs/landfall/tree\nmark :1\ncommitter Landfall <> 0 +0000\ndata 0")?;
        writeln!(to, "M 040000 {tree} \"\"")?;
        let mut left = Vec::new();
        let mut newest = None;
        let mut taken = Vec::new();
        // Deletions go first, because a new file may replace a directory, or a directory a file.
        for (name, tracked) in
            self.tracked.iter().map(|name| (name, true)).chain(self.others.iter().map(|name| (name, false)))
        {
            let at = path(name);
            match directory.entry(at) {
                Err(error) => left.push(Unsaved::path(at, Trouble::Unreadable, error.to_string())),
                Ok(found) => {
                    if tracked {
                        writeln!(to, "D {}", quoted(name))?;
                    }
                    match found {
                        Some(Entry::Special) => {
                            left.push(Unsaved::path(
                                at,
                                Trouble::NotForGit,
                                "git cannot store a device, a socket or a named pipe",
                            ));
                        }
                        Some(Entry::File(_) | Entry::Link { .. }) => taken.push(name),
                        Some(Entry::Directory) | None => {}
                    }
                }
            }
        }
        for name in taken {
            let modified = match directory.entry(path(name))? {
                Some(Entry::File(opened)) if self.pointers.contains_key(name) => {
                    let text = self.pointers.get(name).map(Pointer::text).unwrap_or_default();
                    let mode = self.modes.of_file(name, &opened);
                    write!(to, "M {mode} inline {}\ndata {}\n{text}", quoted(name), text.len())?;
                    opened.modified
                }
                Some(Entry::File(opened)) => {
                    let mode = self.modes.of_file(name, &opened);
                    writeln!(to, "M {mode} inline {}\ndata {}", quoted(name), opened.length)?;
                    let copied = io::copy(&mut opened.file.take(opened.length), to)?;
                    if copied < opened.length {
                        let text = format!("{} became shorter while Landfall read it", path(name).display());
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
            // A time outside these bounds comes from a wrong clock.
            newest = newest.max(Some(modified).filter(|modified| (0..=self.now).contains(modified)));
        }
        for (name, head) in &self.links {
            writeln!(to, "M 160000 {head} {}", quoted(name))?;
        }
        writeln!(to, "get-mark :1\ndone")?;
        Ok((left, newest))
    }
}

/// A path, quoted for git-fast-import(1).
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
