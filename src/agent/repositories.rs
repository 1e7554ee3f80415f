//! Further repositories on a workspace's volume: submodules, and repositories that a person cloned or created.
//!
//! The invariant: a repository with a remote of its own is never pushed to the workspace's remote, because the readers of one may
//! not read the other. If it holds work, the save reports that, and the volume is kept. A repository without a remote is part of the
//! workspace's work. A submodule that is not checked out any more is found in the clone's `.git/modules`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::WorkspaceError;
use super::collect::{Collector, Worktree};
use super::directory::{Directory, Entry, path, plain};
use super::dot_git::{DotGitError, LocalRefs, objects, unfinished};
use super::remote::Trouble;
use super::store::Store;
use crate::git::Sha;

/// How deep repositories may be nested.
const DEEPEST: usize = 8;
/// The most components in the name of a submodule.
const MOST_PARTS: usize = 32;
/// The depth of the search for repositories outside the clone: `src/HOST/OWNER/REPOSITORY`.
const MOST_BESIDE: usize = 4;
/// The most bytes of a `.git` file.
const MOST_POINTER: u64 = 64 << 10;
/// The most bytes of a repository's configuration, and of the reflog of HEAD.
const MOST_CONFIG: u64 = 1 << 20;

/// The git directory of the repository at `path` beneath `directory`, and its path. None if it has none beneath that directory.
pub fn git_directory(directory: &Directory, at: &Path, path: &Path) -> io::Result<Option<(Directory, PathBuf)>> {
    let dot_git = path.join(".git");
    let place = match directory.entry(&dot_git)? {
        Some(Entry::Directory) => dot_git,
        Some(Entry::File(_)) => {
            let text = directory.read(&dot_git, MOST_POINTER)?.unwrap_or_default();
            let Some(place) = text.strip_prefix(b"gitdir: ") else { return Ok(None) };
            let place = plain(&at.join(path).join(super::directory::path(place.trim_ascii_end())));
            match place.strip_prefix(at) {
                Ok(place) => place.to_owned(),
                Err(_) => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    Ok(directory.descend(&place)?.map(|directory| (directory, at.join(place))))
}

/// HEAD of the repository at `path`. None if there is no repository, no commit, or it cannot be read, which is reported when the
/// repository itself is collected.
#[must_use]
pub fn head(clone: &Directory, at: &Path, path: &Path) -> Option<Sha> {
    let (git, place) = git_directory(clone, at, path).ok()??;
    LocalRefs::read(&git, &place).and_then(|local| local.head(&git, &place)).ok()?.commit
}

/// Whether a repository has a remote.
fn has_remote(git: &Directory, local: &LocalRefs) -> io::Result<bool> {
    let config = git.read(Path::new("config"), MOST_CONFIG)?.unwrap_or_default();
    let config = String::from_utf8_lossy(&config).to_ascii_lowercase();
    // An included file may name one, and Landfall does not read it.
    Ok(!local.tracking.is_empty() || ["[remote", "[include"].iter().any(|section| config.contains(section)))
}

/// The commits of the initial clone and of the last fetch. For a clone of a tag, or of a commit on no branch, nothing else tells
/// that the remote has them.
fn fetched(git: &Directory) -> io::Result<Vec<Sha>> {
    let read = |name: &str| git.read(Path::new(name), MOST_CONFIG).map(Option::unwrap_or_default);
    let (log, last) = (read("logs/HEAD")?, read("FETCH_HEAD")?);
    let lines = |text: &[u8]| String::from_utf8_lossy(text).lines().map(str::to_owned).collect::<Vec<_>>();
    // 0000… 78981922613b2afb6025042ff6bd878ac1994e85 Mona <mona@example.com> 1700000000 +0000<tab>clone: from https://…
    let cloned = lines(&log).into_iter().filter_map(|line| {
        let (about, _) = line.split_once("\tclone: from ")?;
        about.split(' ').nth(1)?.parse().ok()
    });
    // 78981922613b2afb6025042ff6bd878ac1994e85<tab>not-for-merge<tab>tag 'v1' of https://…
    let fetched = lines(&last).into_iter().filter_map(|line| line.split('\t').next()?.parse().ok());
    Ok(cloned.chain(fetched).collect())
}

/// Whether `path` is a git directory itself.
fn is_git_directory(volume: &Directory, path: &Path) -> bool {
    matches!(volume.entry(&path.join("HEAD")), Ok(Some(_)))
        && matches!(volume.descend(&path.join("objects")), Ok(Some(_)))
}

/// The subdirectories of `folder`; none if it does not exist.
fn directories(volume: &Directory, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(directory) = volume.descend(folder)? else { return Ok(Vec::new()) };
    Ok(directory.directories()?.into_iter().map(|name| folder.join(name)).collect())
}

/// A repository without its working tree.
struct Repository<'a> {
    git: &'a Directory,
    at: &'a Path,
    local: &'a LocalRefs,
    /// Commits that its remote has, besides its remote-tracking refs.
    known: Vec<Sha>,
}

impl Repository<'_> {
    /// Whether it holds commits that its remote does not have, or an unfinished operation.
    async fn has_own(&self, store: &Store) -> Result<bool, WorkspaceError> {
        let Self { git, at, local, .. } = self;
        if !unfinished(git, at)?.is_empty() || !local.stash.is_empty() || !local.unread.is_empty() {
            return Ok(true);
        }
        let head = local.head(git, at)?.commit;
        let heads = local.refs.iter().filter(|(name, _)| name.starts_with(b"refs/heads/")).map(|(_, sha)| sha);
        let known = store.commits(local.tracking.values().chain(&self.known).cloned().collect()).await?;
        for commit in heads.chain(&head) {
            if !store.is_within(commit, &known).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The repository in which others were found.
pub(super) struct Within<'a> {
    /// The path of `directory`.
    pub at: &'a Path,
    pub directory: &'a Directory,
    /// The path of the outer repository beneath `directory`.
    pub prefix: &'a Path,
    /// Commits that the outer repository's remote has. The submodule commits in their trees were pushed.
    pub tips: Vec<Sha>,
}

struct FoundRepository {
    path: PathBuf,
    /// For a submodule: its path in the outer repository, and the commits of that one's remote.
    recorded: Option<(PathBuf, Arc<[Sha]>)>,
    depth: usize,
}

fn found(
    prefix: &Path,
    paths: Vec<(PathBuf, bool)>,
    tips: Vec<Sha>,
    depth: usize,
) -> impl Iterator<Item = FoundRepository> {
    let tips: Arc<[Sha]> = tips.into();
    paths.into_iter().map(move |(path, is_recorded)| FoundRepository {
        path: prefix.join(&path),
        recorded: is_recorded.then(|| (path, Arc::clone(&tips))),
        depth,
    })
}

impl Collector<'_> {
    /// Collects the repositories at `paths`, and those in them.
    pub(super) async fn nested_repositories(
        &mut self,
        within: Within<'_>,
        paths: Vec<(PathBuf, bool)>,
    ) -> Result<(), WorkspaceError> {
        let Within { at, directory, prefix, tips } = within;
        let mut rest: Vec<_> = found(prefix, paths, tips, 1).collect();
        while let Some(FoundRepository { path, recorded, depth }) = rest.pop() {
            if self.worktrees.contains(&at.join(&path)) {
                continue;
            }
            let name = path.to_string_lossy().into_owned();
            let tree = directory.descend(&path).map_err(WorkspaceError::volume(&path))?;
            let (git, tree) = match (git_directory(directory, at, &path), &tree) {
                (Ok(Some(git)), Some(tree)) => (git, tree),
                (Err(error), _) => {
                    self.leave(name, Trouble::Unreadable, format!("its .git cannot be read: {error}"));
                    continue;
                }
                (Ok(_), _) => {
                    let files = tree.map(|tree| tree.names()).transpose().map_err(WorkspaceError::volume(&path))?;
                    if files.is_some_and(|files| !files.is_empty()) {
                        let message = "there are files at the path of a submodule, but no repository";
                        self.leave(name, Trouble::Nested, message);
                    }
                    continue;
                }
            };
            if depth > DEEPEST {
                self.leave(name, Trouble::Nested, "it is nested too deep in other repositories");
                continue;
            }
            let (git, git_at) = git;
            self.git_directories.insert(git_at.clone());
            match self.nested_repository((&at.join(&path), tree), (&git, &git_at), &name, recorded).await {
                Ok((inner, tips)) => rest.extend(found(&path, inner, tips, depth + 1)),
                Err(error) => {
                    self.leave(name, Trouble::Nested, format!("a repository that cannot be read: {error}"));
                }
            }
        }
        Ok(())
    }

    /// Collects one repository. Returns the repositories in it, and the commits that its remote has.
    async fn nested_repository(
        &mut self,
        (at, directory): (&Path, &Directory),
        (git, git_at): (&Directory, &Path),
        name: &str,
        recorded: Option<(PathBuf, Arc<[Sha]>)>,
    ) -> Result<(Vec<(PathBuf, bool)>, Vec<Sha>), WorkspaceError> {
        let shared = self.shared(git, git_at)?;
        let (common, common_at) = shared.as_ref().map_or((git, git_at), |(common, at)| (common, at.as_path()));
        let local = LocalRefs::read(common, common_at)?;
        let head = local.head(git, git_at)?;
        self.store.borrow(common, &objects(common_at, self.volume)?)?;
        let place = Worktree { at, directory, git, git_at, common };
        let tips: Vec<_> = local.tracking.values().cloned().collect();
        let is_ours = common_at == self.workspace.directory.join(".git");
        let has_remote = has_remote(common, &local).map_err(WorkspaceError::volume(common_at))?;
        if is_ours || (recorded.is_none() && !has_remote) {
            // A repository with the clone's git directory is a worktree that a person moved.
            let label = format!("{}/{name}", if is_ours { "worktree" } else { "nested" });
            let (snapshot, _) = self.tree(&place, &local, &head, Some(&label)).await?;
            if !is_ours {
                self.refs(&local, &head, Some(&label)).await?;
            }
            return Ok((snapshot.nested, tips));
        }
        let mut known = fetched(common).map_err(WorkspaceError::volume(common_at))?;
        if let Some((path, tips)) = recorded.as_ref().and_then(|(path, tips)| Some((path.to_str()?, tips))) {
            let names = tips.iter().map(|tip| format!("{tip}:{path}"));
            known.extend(self.store.named(names.filter(|name| !name.contains('\n'))).await?);
        }
        let snapshot = self.take(&place, head.commit.as_ref()).await?;
        let committed = match &head.commit {
            Some(commit) => Some(self.store.commit(commit).await?.0),
            None => None,
        };
        let is_committed = committed.as_ref() == Some(&snapshot.tree) && snapshot.index == snapshot.tree;
        let clean = is_committed && snapshot.changed + snapshot.untracked == 0 && snapshot.left.is_empty();
        if !clean || (Repository { git, at: git_at, local: &local, known }).has_own(&self.store).await? {
            let message = "a repository of another remote, with work that is not there: a save does not push it; push it from within";
            self.leave(name, Trouble::Nested, message);
        }
        Ok((snapshot.nested, tips))
    }

    /// The common git directory of a further worktree's git directory (`commondir` of gitrepository-layout(5)).
    fn shared(&self, git: &Directory, git_at: &Path) -> Result<Option<(Directory, PathBuf)>, WorkspaceError> {
        let pointer = git.read(Path::new("commondir"), MOST_POINTER).map_err(WorkspaceError::volume(git_at))?;
        let Some(pointer) = pointer else { return Ok(None) };
        let at = plain(&git_at.join(path(pointer.trim_ascii_end())));
        let Ok(inside) = at.strip_prefix(self.volume) else { return Err(DotGitError::Outside(at).into()) };
        let volume = Directory::open(self.volume).map_err(WorkspaceError::volume(self.volume))?;
        let common = volume.descend(inside).map_err(WorkspaceError::volume(&at))?;
        let common = common.ok_or_else(|| DotGitError::NotAClone(at.clone()))?;
        Ok(Some((common, at)))
    }

    /// Collects repositories outside the clone, and git directories without a working tree, those of former submodules among them.
    pub(super) async fn sibling_repositories(&mut self) -> Result<(), WorkspaceError> {
        let (at, clone) = (self.volume, &self.workspace.directory);
        let volume = Directory::open(at).map_err(WorkspaceError::volume(at))?;
        let ours = [clone.file_name().unwrap_or_default().to_owned(), super::clone::unfinished(clone)];
        let (mut repositories, mut bare) = (Vec::new(), Vec::new());
        let mut folders = vec![(PathBuf::new(), MOST_BESIDE)];
        while let Some((folder, parts)) = folders.pop() {
            // A directory that cannot be read here is the file system's own, not the person's.
            for path in directories(&volume, &folder).unwrap_or_default() {
                if ours.iter().any(|name| path.as_os_str() == name) {
                    continue;
                }
                if matches!(volume.entry(&path.join(".git")), Ok(Some(Entry::Directory | Entry::File(_)))) {
                    repositories.push((path, false));
                } else if is_git_directory(&volume, &path) {
                    bare.push(path);
                } else if parts > 1 {
                    folders.push((path, parts - 1));
                }
            }
        }
        let within = Within { at, directory: &volume, prefix: Path::new(""), tips: Vec::new() };
        self.nested_repositories(within, repositories).await?;
        for path in bare {
            self.bare_repository(&volume, &path).await;
        }

        let known = self.git_directories.iter().filter_map(|git| git.strip_prefix(at).ok());
        let mut folders: Vec<_> = known.map(|git| (git.join("modules"), MOST_PARTS)).collect();
        while let Some((folder, parts)) = folders.pop() {
            let inner = match directories(&volume, &folder) {
                Ok(inner) if inner.is_empty() || parts > 0 => inner,
                Ok(_) => {
                    self.leave(self.shown(&folder), Trouble::Nested, "it is nested too deep in other directories");
                    continue;
                }
                Err(error) => {
                    self.leave(self.shown(&folder), Trouble::Unreadable, error.to_string());
                    continue;
                }
            };
            for path in inner {
                if is_git_directory(&volume, &path) {
                    folders.push((path.join("modules"), MOST_PARTS));
                    self.bare_repository(&volume, &path).await;
                } else {
                    folders.push((path, parts - 1));
                }
            }
        }
        Ok(())
    }

    /// The path of something on the volume for messages: relative to the clone, if it is in there.
    fn shown(&self, path: &Path) -> String {
        let at = self.volume.join(path);
        at.strip_prefix(&self.workspace.directory).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// A git directory of which nothing is checked out.
    async fn bare_repository(&mut self, volume: &Directory, path: &Path) {
        let at = self.volume.join(path);
        if !self.git_directories.insert(at.clone()) {
            return;
        }
        let has_own = async {
            let Some(git) = volume.descend(path).map_err(WorkspaceError::volume(path))? else { return Ok(false) };
            let local = LocalRefs::read(&git, &at)?;
            self.store.borrow(&git, &objects(&at, self.volume)?)?;
            let known = fetched(&git).map_err(WorkspaceError::volume(path))?;
            Repository { git: &git, at: &at, local: &local, known }.has_own(&self.store).await
        };
        let message = match has_own.await {
            Ok(false) => return,
            Ok(true) => "a repository of which nothing is checked out, with commits that its remote is not known to have: check it out, and push it from within".to_owned(),
            Err(error) => format!("a repository that cannot be read: {error}"),
        };
        self.leave(self.shown(path), Trouble::Nested, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_directory_outside_of_the_clone_is_none() {
        let volume = tempfile::tempdir().unwrap();
        let at = volume.path().join("w");
        for name in ["w/sub", "w/.git/modules/sub", "other", "w/own/.git"] {
            std::fs::create_dir_all(volume.path().join(name)).unwrap();
        }
        let clone = Directory::open(&at).unwrap();
        let absolute = format!("gitdir: {}/.git/modules/sub\n", at.display());
        for (text, found) in [
            ("gitdir: ../.git/modules/sub\n", true),
            (&absolute, true),
            ("gitdir: ../../other\n", false),
            ("gitdir: /etc\n", false),
            ("gitdir: ../.git/modules/nothing\n", false),
            ("what?", false),
        ] {
            std::fs::write(at.join("sub/.git"), text).unwrap();
            assert_eq!(git_directory(&clone, &at, Path::new("sub")).unwrap().is_some(), found, "{text}");
        }
        assert_eq!(git_directory(&clone, &at, Path::new("own")).unwrap().unwrap().1, at.join("own/.git"));
        assert!(git_directory(&clone, &at, Path::new("none")).unwrap().is_none());
    }
}
