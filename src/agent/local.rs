//! What a clone's `.git` says of its work, read as files and without git.
//!
//! The invariant: every commit that the person could name (branches and other refs, HEAD, the stash, what an unfinished merge
//! or rebase stands on) is in [`Local`], or its file is among [`Local::unread`]; and the objects that git will be pointed to
//! lie on the volume. Nothing here starts a program, for the person decides what this `.git` says.

use crate::guards;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::beneath::{Directory, Entry, path, plain};
use crate::git::Sha;

/// The most bytes of a file in `.git` that is read whole.
const MOST_FILE: u64 = 64 << 20;
/// The deepest that refs and alternates may be nested.
const DEEPEST: usize = 64;

/// What is checked out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The branch, without `refs/heads/`; none if a commit is checked out.
    pub branch: Option<Vec<u8>>,
    /// The commit; none if the branch has none yet.
    pub commit: Option<Sha>,
}

/// What a clone holds by name.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// All refs but those in `refs/remotes/`, by their full names.
    pub refs: BTreeMap<Vec<u8>, Sha>,
    /// What the clone last saw of its remotes, by the full names of its refs. It is the person's word.
    pub tracking: BTreeMap<Vec<u8>, Sha>,
    /// Stashed work, the newest first.
    pub stash: Vec<Sha>,
    /// Files that are not what git writes.
    pub unread: Vec<PathBuf>,
}

/// A clone that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// There is no `.git`, or it is no directory.
    #[error("{0} is not the clone that was made there: its .git is not a directory")]
    NotAClone(PathBuf),
    /// Its objects are elsewhere.
    #[error("{0} leads out of the volume, and is not followed")]
    Outside(PathBuf),
    /// It is not kept as files.
    #[error("the refs of {0} are kept in a way that is not understood (reftable)")]
    Format(PathBuf),
    /// It cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a file system has of its own.
const OF_THE_FILE_SYSTEM: [&str; 2] = ["lost+found", ".snapshot"];

/// Whether there is something on the volume: the clone, or what may be one that was moved, or anything else that a person put
/// there. What an unfinished clone left does not count.
///
/// # Errors
/// The volume cannot be read.
pub fn is_made(directory: &Path) -> Result<bool, LocalError> {
    let volume_at = directory.parent().unwrap_or(directory);
    let volume = Directory::open(volume_at).map_err(unread(volume_at))?;
    let name = directory.file_name().unwrap_or_default();
    for other in volume.names().map_err(unread(volume_at))? {
        let is_nobodys =
            OF_THE_FILE_SYSTEM.iter().any(|own| other == *own) || other == super::clone::unfinished(directory);
        if is_nobodys {
            continue;
        }
        if other != name {
            return Ok(true);
        }
        let there = match volume.entry(Path::new(name)).map_err(unread(directory))? {
            Some(Entry::Directory) => volume.descend(Path::new(name)).map_err(unread(directory))?,
            Some(_) => return Ok(true),
            None => None,
        };
        if let Some(there) = there
            && !there.names().map_err(unread(directory))?.is_empty()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a file in `.git` is, and why it cannot be read.
fn unread(at: &Path) -> impl Fn(io::Error) -> LocalError + use<'_> {
    move |source| LocalError::Read { path: at.to_owned(), source }
}

impl Local {
    /// Reads the refs and the stash of `git`, the directory at `at`.
    ///
    /// # Errors
    /// It cannot be read, or keeps its refs in another way.
    pub fn read(git: &Directory, at: &Path) -> Result<Self, LocalError> {
        if git.entry(Path::new("reftable")).map_err(unread(at))?.is_some() {
            return Err(LocalError::Format(at.to_owned()));
        }
        let mut local = Self::default();
        let mut all = BTreeMap::new();
        let packed = git.read(Path::new("packed-refs"), MOST_FILE).map_err(unread(&at.join("packed-refs")))?;
        for line in packed.unwrap_or_default().split(|byte| *byte == b'\n') {
            match line {
                [] | [b'#' | b'^', ..] => {}
                line => {
                    match line.iter().position(|byte| *byte == b' ').map(|at| (sha(&line[..at]), &line[at + 1..])) {
                        Some((Some(sha), name)) => drop(all.insert(name.to_vec(), sha)),
                        _ => local.unread.push(at.join("packed-refs")),
                    }
                }
            }
        }
        local.loose(git, Path::new("refs"), at, &mut all, DEEPEST)?;
        local.stash(git, at)?;
        for (name, sha) in all {
            if name == b"refs/stash" {
                if !local.stash.contains(&sha) {
                    local.stash.insert(0, sha);
                }
            } else if name.starts_with(b"refs/remotes/") || name.starts_with(b"refs/prefetch/") {
                local.tracking.insert(name, sha);
            } else {
                local.refs.insert(name, sha);
            }
        }
        Ok(local)
    }

    fn loose(
        &mut self,
        git: &Directory,
        folder: &Path,
        at: &Path,
        all: &mut BTreeMap<Vec<u8>, Sha>,
        depth: usize,
    ) -> Result<(), LocalError> {
        let failed = |source| LocalError::Read { path: at.join(folder), source };
        let Some(directory) = git.descend(folder).map_err(failed)?.filter(|_| depth > 0) else {
            self.unread.push(at.join(folder));
            return Ok(());
        };
        for name in directory.names().map_err(failed)? {
            let name = folder.join(name);
            match git.entry(&name).map_err(failed)? {
                Some(Entry::Directory) => self.loose(git, &name, at, all, depth - 1)?,
                Some(Entry::File(_)) => {
                    let text = git.read(&name, MOST_FILE).map_err(failed)?.unwrap_or_default();
                    let bytes = name.as_os_str().as_bytes();
                    match sha(text.trim_ascii()) {
                        Some(sha) => drop(all.insert(bytes.to_vec(), sha)),
                        // What another ref stands for is saved as that.
                        None if text.starts_with(b"ref: ") || bytes.ends_with(b".lock") => {}
                        None => self.unread.push(at.join(&name)),
                    }
                }
                None => {}
                Some(_) => self.unread.push(at.join(&name)),
            }
        }
        Ok(())
    }

    /// The stash is the history of one ref.
    fn stash(&mut self, git: &Directory, at: &Path) -> Result<(), LocalError> {
        let name = Path::new("logs/refs/stash");
        let log = git.read(name, MOST_FILE).map_err(unread(&at.join(name)))?.unwrap_or_default();
        for line in log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match line.split(|byte| *byte == b' ').nth(1).and_then(sha) {
                Some(sha) => self.stash.insert(0, sha),
                None => self.unread.push(at.join(name)),
            }
        }
        Ok(())
    }

    /// What is checked out where `git`, the directory at `at`, is the clone's own or that of a further worktree of it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn head(&self, git: &Directory, at: &Path) -> Result<Head, LocalError> {
        let at = at.join("HEAD");
        let text = git.read(Path::new("HEAD"), MOST_FILE).map_err(unread(&at))?;
        let text = text.ok_or_else(|| LocalError::NotAClone(at.clone()))?;
        let text = text.trim_ascii();
        match text.strip_prefix(b"ref: ") {
            Some(name) => Ok(Head {
                branch: name.strip_prefix(b"refs/heads/").map(<[u8]>::to_vec),
                commit: self.refs.get(name).cloned(),
            }),
            None => Ok(Head { branch: None, commit: Some(sha(text).ok_or(LocalError::NotAClone(at))?) }),
        }
    }
}

/// What an unfinished merge, rebase, cherry-pick or the like stands on: by what git calls it. Empty if nothing is unfinished.
///
/// # Errors
/// It cannot be read.
pub fn unfinished(git: &Directory, at: &Path) -> Result<Vec<(String, Option<Sha>)>, LocalError> {
    let mut found = Vec::new();
    for name in ["MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD", "MERGE_AUTOSTASH"] {
        let text = git.read(Path::new(name), MOST_FILE).map_err(unread(&at.join(name)))?.unwrap_or_default();
        let label = name.to_ascii_lowercase().replace('_', "-");
        found.extend(
            text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| (label.clone(), sha(line))),
        );
    }
    for folder in ["rebase-merge", "rebase-apply"] {
        if git.descend(Path::new(folder)).map_err(unread(&at.join(folder)))?.is_none() {
            continue;
        }
        for name in ["orig-head", "onto", "stopped-sha", "autostash"] {
            let file = Path::new(folder).join(name);
            let text = git.read(&file, MOST_FILE).map_err(unread(&at.join(&file)))?;
            if let Some(text) = text {
                found.push((format!("rebase-{name}"), sha(text.trim_ascii())));
            }
        }
        // The patches of git-am(1) that are not applied yet are in no commit.
        if git.entry(&Path::new(folder).join("applying")).map_err(unread(&at.join(folder)))?.is_some() {
            found.push(("am".to_owned(), None));
        }
        if found.is_empty() {
            found.push(("rebase".to_owned(), None));
        }
    }
    Ok(found)
}

/// The directories of objects of the clone at `at`: its own, if neither it nor what it borrows from leads out of `volume`.
///
/// # Errors
/// It does.
pub fn objects(at: &Path, volume: &Path) -> Result<PathBuf, LocalError> {
    let volume = volume.canonicalize().map_err(unread(volume))?;
    let objects = at.join("objects");
    within(&objects, &volume, DEEPEST, &mut BTreeSet::new())?;
    Ok(objects)
}

/// Each is looked at once, in whatever circles they borrow from each other.
fn within(objects: &Path, volume: &Path, depth: usize, looked: &mut BTreeSet<PathBuf>) -> Result<(), LocalError> {
    let outside = || LocalError::Outside(objects.to_owned());
    let real = objects.canonicalize().map_err(unread(objects))?;
    if !looked.insert(real.clone()) {
        return Ok(());
    }
    let is_within = real.starts_with(volume) && depth > 0 && !real.as_os_str().as_bytes().contains(&b'\n');
    if !guards::on_volume(is_within) {
        return Err(outside());
    }
    let directory = Directory::open(&real).map_err(unread(&real))?;
    for name in ["pack", "info"] {
        if matches!(directory.entry(Path::new(name)).map_err(unread(&real))?, Some(Entry::Link { .. })) {
            return Err(LocalError::Outside(real.join(name)));
        }
    }
    let file = Path::new("info/alternates");
    let alternates = directory.read(file, MOST_FILE).map_err(unread(&real.join(file)))?.unwrap_or_default();
    for line in alternates.split(|byte| *byte == b'\n') {
        match line {
            [] | [b'#', ..] => {}
            // git takes such a line apart by rules of C.
            [b'"', ..] => return Err(LocalError::Outside(real.join(file))),
            line => {
                let alternate = real.join(path(line));
                // git goes on without an alternate that is not there.
                if alternate.symlink_metadata().is_ok() {
                    within(&alternate, volume, depth - 1, looked)?;
                }
            }
        }
    }
    Ok(())
}

/// Further worktrees of the clone: their directories in `.git`, and where they are.
///
/// # Errors
/// They cannot be read.
pub fn worktrees(git: &Directory, at: &Path) -> Result<Vec<(PathBuf, PathBuf)>, LocalError> {
    let folder = Path::new("worktrees");
    let failed = |source| LocalError::Read { path: at.join(folder), source };
    let Some(directory) = git.descend(folder).map_err(failed)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for name in directory.names().map_err(failed)? {
        let gitfile = Path::new(&name).join("gitdir");
        if let Some(mut text) = directory.read(&gitfile, MOST_FILE).map_err(failed)? {
            text.truncate(text.trim_ascii_end().len());
            // From git 2.48 on it may be relative to where it stands.
            let gitfile = plain(&at.join(folder).join(&name).join(path(&text)));
            found.push((folder.join(name), gitfile.parent().unwrap_or(Path::new("/")).to_owned()));
        }
    }
    Ok(found)
}

fn sha(text: &[u8]) -> Option<Sha> {
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn one(digit: char) -> String {
        String::from(digit).repeat(40)
    }

    fn clone(files: &[(&str, String)]) -> tempfile::TempDir {
        let at = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = at.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        at
    }

    #[test]
    fn everything_with_a_name_is_found() {
        let at = clone(&[
            ("HEAD", "ref: refs/heads/a/b\n".into()),
            (
                "packed-refs",
                format!(
                    "# pack-refs\n{} refs/heads/a/b\n{} refs/tags/t\n^{}\n{} refs/heads/old\n",
                    one('1'),
                    one('2'),
                    one('3'),
                    one('4')
                ),
            ),
            ("refs/heads/a/b", one('5') + "\n"),
            ("refs/heads/broken", String::new()),
            ("refs/remotes/origin/HEAD", "ref: refs/remotes/origin/main\n".into()),
            ("refs/remotes/origin/main", one('6') + "\n"),
            ("refs/stash", one('8') + "\n"),
            (
                "logs/refs/stash",
                format!("{} {} a <b> 1 +0000\tx\n{} {} a <b> 2 +0000\ty\n", one('0'), one('7'), one('7'), one('8')),
            ),
            ("MERGE_HEAD", format!("{}\n{}\n", one('9'), one('a'))),
            ("rebase-merge/orig-head", one('b') + "\n"),
        ]);
        let git = Directory::open(at.path()).unwrap();
        let local = Local::read(&git, at.path()).unwrap();
        let refs: Vec<_> = local
            .refs
            .iter()
            .map(|(name, sha)| format!("{} {}", String::from_utf8_lossy(name), &sha.as_str()[..1]))
            .collect();
        assert_eq!(refs, ["refs/heads/a/b 5", "refs/heads/old 4", "refs/tags/t 2"]);
        assert_eq!(local.stash.iter().map(Sha::as_str).collect::<Vec<_>>(), [one('8'), one('7')]);
        assert_eq!(local.tracking.len(), 1);
        assert_eq!(local.unread, [at.path().join("refs/heads/broken")]);
        let head = local.head(&git, at.path()).unwrap();
        assert_eq!((head.branch.unwrap(), head.commit.unwrap().to_string()), (b"a/b".to_vec(), one('5')));
        let unfinished = unfinished(&git, at.path()).unwrap();
        let unfinished: Vec<_> =
            unfinished.iter().map(|(name, sha)| format!("{name} {}", &sha.as_ref().unwrap().as_str()[..1])).collect();
        assert_eq!(unfinished, ["merge-head 9", "merge-head a", "rebase-orig-head b"]);
    }

    #[test]
    fn objects_elsewhere_are_refused() {
        let outside = tempfile::tempdir().unwrap();
        let volume = tempfile::tempdir().unwrap();
        let at = |name: &str| volume.path().join(name);
        for name in ["w/.git/objects/info", "w/.git/objects/pack", "other/objects"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        let look = || objects(&at("w/.git"), volume.path());
        assert_eq!(look().unwrap(), at("w/.git/objects"));
        let alternates = at("w/.git/objects/info/alternates");
        for (text, fine) in [
            ("../../../other/objects\n", true),
            ("/nowhere/objects\n", true),
            (&format!("# x\n{}\n", outside.path().display()), false),
            // In circles, of which there are more than anybody lives to see.
            ("../objects\n./.\n../../.git/objects\n", true),
            ("../../../..\n", false),
            ("\"/nowhere\"\n", false),
        ] {
            std::fs::write(&alternates, text).unwrap();
            assert_eq!(look().is_ok(), fine, "{text}");
        }
        std::fs::write(&alternates, "../../../other/objects\n").unwrap();
        std::fs::create_dir(at("other/objects/info")).unwrap();
        std::fs::write(at("other/objects/info/alternates"), outside.path().as_os_str().as_bytes()).unwrap();
        assert!(matches!(look(), Err(LocalError::Outside(_))));
        std::fs::remove_file(&alternates).unwrap();
        std::fs::remove_dir(at("w/.git/objects/pack")).unwrap();
        symlink(outside.path(), at("w/.git/objects/pack")).unwrap();
        assert!(matches!(look(), Err(LocalError::Outside(_))));
        std::fs::rename(at("w/.git/objects"), outside.path().join("objects")).unwrap();
        symlink(outside.path().join("objects"), at("w/.git/objects")).unwrap();
        assert!(matches!(look(), Err(LocalError::Outside(_))));
    }
}
