//! A git directory of Landfall's own, with the objects of a clone as alternates.
//!
//! The invariant: git writes new objects here and never into the clone, and reads none of the clone's configuration, hooks,
//! attributes and refs. The directory is outside the volume, where only this process writes, and is removed with it.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::WorkspaceError;
use super::directory::{Directory, Entry};
use crate::git::{Sealed, SealedError, Sha};

/// The most bytes of the file `shallow`.
pub const MOST_LIST: u64 = 1 << 30;

#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    pub(crate) git: Sealed,
}

/// The author and committer of a commit.
#[derive(Clone, Debug)]
pub struct Author {
    pub name: String,
    pub email: String,
}

/// The fields of a commit.
#[derive(Clone, Debug)]
pub struct Commit<'a> {
    pub tree: &'a Sha,
    /// In order, without duplicates.
    pub parents: Vec<Sha>,
    /// In seconds since 1970.
    pub date: i64,
    pub message: &'a str,
}

impl Store {
    /// Creates it in the empty directory `scratch`.
    pub async fn new(scratch: &Path, git: &Sealed) -> Result<Self, WorkspaceError> {
        let path = scratch.join("store");
        let git = git.clone().in_directory(scratch);
        git.run(&["init".as_ref(), "--quiet".as_ref(), "--bare".as_ref(), "--template=".as_ref(), path.as_os_str()])
            .await?;
        std::fs::create_dir_all(path.join("info")).map_err(WorkspaceError::scratch(&path))?;
        let git = git.variable("GIT_DIR", &path).in_directory(&path);
        Ok(Self { path, git })
    }

    /// git in this directory.
    #[must_use]
    pub fn git(&self) -> &Sealed {
        &self.git
    }

    /// git in this directory, with the working tree at `work` and an index of its own called `name`.
    #[must_use]
    pub fn git_with(&self, work: &Path, name: &str) -> Sealed {
        let git = self.git.clone().in_directory(work).setting("core.bare", "false");
        git.variable("GIT_WORK_TREE", work).variable("GIT_INDEX_FILE", self.path.join(name))
    }

    /// Adds the object directory `objects` of the git directory `git` as an alternate, and its shallow boundary.
    pub fn borrow(&self, git: &Directory, objects: &Path) -> Result<(), WorkspaceError> {
        let shallow = Path::new("shallow");
        let cut = git.read(shallow, MOST_LIST).map_err(WorkspaceError::volume(shallow))?.unwrap_or_default();
        // git fails at any other line.
        let cut = cut.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok()?.parse::<Sha>().ok());
        let cut = cut.map(|commit| format!("{commit}\n")).collect::<Vec<_>>().concat();
        if !cut.is_empty() {
            self.append("shallow", cut.as_bytes())?;
        }
        let mut line = objects.as_os_str().as_encoded_bytes().to_vec();
        line.push(b'\n');
        self.append("objects/info/alternates", &line)
    }

    fn append(&self, name: &str, text: &[u8]) -> Result<(), WorkspaceError> {
        let path = self.path.join(name);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(text)).map_err(WorkspaceError::scratch(&path))
    }

    /// Copies a file of a clone's git directory, or removes an earlier copy if the clone has no such file.
    pub fn copy(&self, from: &Directory, name: &Path, to: &str) -> Result<(), WorkspaceError> {
        match from.entry(name).map_err(WorkspaceError::volume(name))? {
            Some(Entry::File(mut opened)) => {
                let modified = opened.file.metadata().and_then(|about| about.modified());
                let modified = modified.map_err(WorkspaceError::volume(name))?;
                let to = self.path.join(to);
                // git compares the index's own time with those of files, to find files that changed within the same second.
                let copied = File::create(&to).and_then(|mut copy| {
                    io::copy(&mut opened.file, &mut copy)?;
                    copy.set_modified(modified)
                });
                copied.map_err(WorkspaceError::scratch(&to))
            }
            _ => self.discard(to),
        }
    }

    /// Removes a copy.
    pub fn discard(&self, name: &str) -> Result<(), WorkspaceError> {
        let path = self.path.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(WorkspaceError::scratch(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Makes refs for these commits, so that a fetch does not transfer them again.
    pub fn know(&self, commits: &[Sha]) -> Result<(), WorkspaceError> {
        let file = self.path.join("packed-refs");
        let lines = commits.iter().enumerate().map(|(number, commit)| format!("{commit} refs/landfall/{number}\n"));
        std::fs::write(&file, lines.collect::<Vec<_>>().concat()).map_err(WorkspaceError::scratch(&file))
    }

    /// The types of these objects (`commit`, `tag`…), in their order; none for a missing one.
    pub async fn kinds(&self, objects: &[Sha]) -> Result<Vec<Option<String>>, SealedError> {
        let asked = objects.iter().map(|object| format!("{object}\n")).collect::<Vec<_>>().concat();
        let answer = self
            .git
            .fed(&["cat-file", "--batch-check=%(objecttype)"], move |to| to.write_all(asked.as_bytes()))
            .await?;
        let said = String::from_utf8_lossy(&answer.stdout).into_owned();
        Ok(said.lines().map(|line| Some(line.to_owned()).filter(|line| !line.ends_with("missing"))).collect())
    }

    /// The objects of these names, such as `COMMIT:PATH`, without the missing ones. No name may have a line break.
    pub async fn named(&self, names: impl Iterator<Item = String>) -> Result<Vec<Sha>, SealedError> {
        let asked = names.map(|name| name + "\n").collect::<Vec<_>>().concat();
        let arguments = ["cat-file", "--batch-check=%(objectname)"];
        let answer = self.git.fed(&arguments, move |to| to.write_all(asked.as_bytes())).await?;
        Ok(String::from_utf8_lossy(&answer.stdout).lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Those of these objects that are commits and not missing.
    pub async fn commits(&self, objects: Vec<Sha>) -> Result<Vec<Sha>, SealedError> {
        let kinds = self.kinds(&objects).await?;
        let commit = |kind: &Option<String>| kind.as_deref() == Some("commit");
        Ok(objects.into_iter().zip(kinds).filter(|(_, kind)| commit(kind)).map(|(object, _)| object).collect())
    }

    /// Whether a commit is one of `tips` or an ancestor of one. No tip may be missing; an error if the commit or an ancestor is.
    pub async fn is_within(&self, commit: &Sha, tips: &[Sha]) -> Result<bool, SealedError> {
        let mut asked = format!("{commit}\n");
        asked.extend(tips.iter().map(|tip| format!("^{tip}\n")));
        let arguments = ["rev-list", "--max-count=1", "--stdin"];
        Ok(self.git.fed(&arguments, move |to| to.write_all(asked.as_bytes())).await?.stdout.is_empty())
    }

    /// The number of commits reachable from `of` and not from `without`; none of them may be missing.
    pub async fn count(&self, of: &[Sha], without: &[Sha]) -> Result<u64, WorkspaceError> {
        let mut asked = String::new();
        asked.extend(of.iter().map(|commit| format!("{commit}\n")));
        asked.extend(without.iter().map(|commit| format!("^{commit}\n")));
        let arguments = ["rev-list", "--count", "--stdin"];
        let said = self.git.fed(&arguments, move |to| to.write_all(asked.as_bytes())).await?.stdout;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        said.parse().map_err(|_| WorkspaceError::Answer(said))
    }

    /// The tree of a commit, its date, and its parents.
    pub async fn commit(&self, commit: &Sha) -> Result<(Sha, i64, Vec<Sha>), WorkspaceError> {
        let said =
            self.git.text(&["log", "-1", "--no-show-signature", "--format=%T %ct %P", commit.as_str(), "--"]).await?;
        let mut words = said.split_whitespace();
        let odd = || WorkspaceError::Answer(said.clone());
        let tree = words.next().and_then(|tree| tree.parse().ok()).ok_or_else(odd)?;
        let date = words.next().and_then(|date| date.parse().ok()).ok_or_else(odd)?;
        Ok((tree, date, words.filter_map(|parent| parent.parse().ok()).collect()))
    }

    /// Creates a commit. The same fields give the same commit.
    pub async fn make(&self, commit: &Commit<'_>, author: &Author) -> Result<Sha, WorkspaceError> {
        commit_tree(&self.git, commit, author).await
    }
}

/// Creates a commit in the repository of `git`. The same fields give the same commit.
pub async fn commit_tree(git: &Sealed, commit: &Commit<'_>, author: &Author) -> Result<Sha, WorkspaceError> {
    let mut arguments = vec!["commit-tree".to_owned()];
    for parent in &commit.parents {
        arguments.extend(["-p".to_owned(), parent.to_string()]);
    }
    arguments.extend(["-F".to_owned(), "-".to_owned(), commit.tree.to_string()]);
    let date = format!("@{} +0000", commit.date);
    let mut git = git.clone();
    for role in ["AUTHOR", "COMMITTER"] {
        git = git.variable(&format!("GIT_{role}_NAME"), &author.name);
        git = git.variable(&format!("GIT_{role}_EMAIL"), &author.email).variable(&format!("GIT_{role}_DATE"), &date);
    }
    let message = commit.message.to_owned();
    let said = git.fed(&arguments, move |to| to.write_all(message.as_bytes())).await?.stdout;
    sha(&said)
}

/// Parses the object name that git printed.
pub fn sha(said: &[u8]) -> Result<Sha, WorkspaceError> {
    let text = String::from_utf8_lossy(said);
    text.trim().parse().map_err(|_| WorkspaceError::Answer(text.into_owned()))
}
