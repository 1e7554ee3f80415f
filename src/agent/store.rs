//! A git directory of Landfall's own, that borrows the objects of a clone and nothing else.
//!
//! The invariant: new objects are written here and never into the clone; the clone's configuration, hooks, attributes and refs are
//! unknown here. It lies outside of the volume, where nobody but this process writes, and goes with it.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::WorkspaceError;
use super::beneath::{Directory, Entry};
use crate::git::{Sealed, SealedError, Sha};

/// The most bytes of an index or of a list of a clone's.
pub const MOST_LIST: u64 = 1 << 30;

/// The directory, and git in it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    pub(crate) git: Sealed,
}

/// Who a commit is by.
#[derive(Clone, Debug)]
pub struct Author {
    /// The name.
    pub name: String,
    /// The address.
    pub email: String,
}

/// What a commit is made of.
#[derive(Clone, Debug)]
pub struct Commit<'a> {
    /// Its tree.
    pub tree: &'a Sha,
    /// What it comes after, in order and each once.
    pub parents: Vec<Sha>,
    /// When, in seconds since 1970.
    pub date: i64,
    /// Its message.
    pub message: &'a str,
}

impl Store {
    /// Makes it in `scratch`, an empty directory, for `git` in general.
    ///
    /// # Errors
    /// It cannot be made.
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

    /// git in this directory, with the tree at `work` and an index of its own called `name`.
    #[must_use]
    pub fn git_with(&self, work: &Path, name: &str) -> Sealed {
        let git = self.git.clone().in_directory(work).setting("core.bare", "false");
        git.variable("GIT_WORK_TREE", work).variable("GIT_INDEX_FILE", self.path.join(name))
    }

    /// Borrows what the repository of a git directory has, whose objects are in `objects`; where its history is cut off, too.
    ///
    /// # Errors
    /// That cannot be read, or not be written down.
    pub fn borrow(&self, git: &Directory, objects: &Path) -> Result<(), WorkspaceError> {
        let shallow = Path::new("shallow");
        let cut = git.read(shallow, MOST_LIST).map_err(WorkspaceError::volume(shallow))?.unwrap_or_default();
        // A line of another kind, and git would do nothing at all.
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

    /// Takes over a file of a clone's git directory; an older one that was taken over is gone if the clone has none.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn copy(&self, from: &Directory, name: &Path, to: &str) -> Result<(), WorkspaceError> {
        match from.entry(name).map_err(WorkspaceError::volume(name))? {
            Some(Entry::File(mut opened)) => {
                let modified = opened.file.metadata().and_then(|about| about.modified());
                let modified = modified.map_err(WorkspaceError::volume(name))?;
                let to = self.path.join(to);
                // git tells by an index's time which files may have changed after it was written, and within its second.
                let copied = File::create(&to).and_then(|mut copy| {
                    io::copy(&mut opened.file, &mut copy)?;
                    copy.set_modified(modified)
                });
                copied.map_err(WorkspaceError::scratch(&to))
            }
            _ => self.discard(to),
        }
    }

    /// Forgets a file that was taken over.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn discard(&self, name: &str) -> Result<(), WorkspaceError> {
        let path = self.path.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(WorkspaceError::scratch(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Says which commits are here, so that what follows them can be fetched without them.
    ///
    /// # Errors
    /// That cannot be written down.
    pub fn know(&self, commits: &[Sha]) -> Result<(), WorkspaceError> {
        let file = self.path.join("packed-refs");
        let lines = commits.iter().enumerate().map(|(number, commit)| format!("{commit} refs/landfall/{number}\n"));
        std::fs::write(&file, lines.collect::<Vec<_>>().concat()).map_err(WorkspaceError::scratch(&file))
    }

    /// What kinds of object these are (`commit`, `tag`…), in their order; none for one that is not here.
    ///
    /// # Errors
    /// git's own words.
    pub async fn kinds(&self, objects: &[Sha]) -> Result<Vec<Option<String>>, SealedError> {
        let asked = objects.iter().map(|object| format!("{object}\n")).collect::<Vec<_>>().concat();
        let answer = self
            .git
            .fed(&["cat-file", "--batch-check=%(objecttype)"], move |to| to.write_all(asked.as_bytes()))
            .await?;
        let said = String::from_utf8_lossy(&answer.said).into_owned();
        Ok(said.lines().map(|line| Some(line.to_owned()).filter(|line| !line.ends_with("missing"))).collect())
    }

    /// What these names, such as `COMMIT:PATH`, stand for, without those that stand for nothing here. There is no line's end in one.
    ///
    /// # Errors
    /// git's own words.
    pub async fn named(&self, names: impl Iterator<Item = String>) -> Result<Vec<Sha>, SealedError> {
        let asked = names.map(|name| name + "\n").collect::<Vec<_>>().concat();
        let arguments = ["cat-file", "--batch-check=%(objectname)"];
        let answer = self.git.fed(&arguments, move |to| to.write_all(asked.as_bytes())).await?;
        Ok(String::from_utf8_lossy(&answer.said).lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Those of these objects that are commits, and are here.
    ///
    /// # Errors
    /// git's own words.
    pub async fn commits(&self, objects: Vec<Sha>) -> Result<Vec<Sha>, SealedError> {
        let kinds = self.kinds(&objects).await?;
        let commit = |kind: &Option<String>| kind.as_deref() == Some("commit");
        Ok(objects.into_iter().zip(kinds).filter(|(_, kind)| commit(kind)).map(|(object, _)| object).collect())
    }

    /// Whether a commit is one of `tips`, all of which are here, or comes before one.
    ///
    /// # Errors
    /// git's own words, also if the commit or what it comes after is not here.
    pub async fn is_within(&self, commit: &Sha, tips: &[Sha]) -> Result<bool, SealedError> {
        let mut asked = format!("{commit}\n");
        asked.extend(tips.iter().map(|tip| format!("^{tip}\n")));
        let arguments = ["rev-list", "--max-count=1", "--stdin"];
        Ok(self.git.fed(&arguments, move |to| to.write_all(asked.as_bytes())).await?.said.is_empty())
    }

    /// How many commits `of` are, or come before, that `without` are not and do not come before; all of them are here.
    ///
    /// # Errors
    /// git's own words, also if what one of them comes after is not here.
    pub async fn count(&self, of: &[Sha], without: &[Sha]) -> Result<u64, WorkspaceError> {
        let mut asked = String::new();
        asked.extend(of.iter().map(|commit| format!("{commit}\n")));
        asked.extend(without.iter().map(|commit| format!("^{commit}\n")));
        let arguments = ["rev-list", "--count", "--stdin"];
        let said = self.git.fed(&arguments, move |to| to.write_all(asked.as_bytes())).await?.said;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        said.parse().map_err(|_| WorkspaceError::Answer(said))
    }

    /// The tree of a commit, its date, and what it comes after.
    ///
    /// # Errors
    /// git's own words.
    pub async fn commit(&self, commit: &Sha) -> Result<(Sha, i64, Vec<Sha>), WorkspaceError> {
        let said =
            self.git.text(&["log", "-1", "--no-show-signature", "--format=%T %ct %P", commit.as_str(), "--"]).await?;
        let mut words = said.split_whitespace();
        let odd = || WorkspaceError::Answer(said.clone());
        let tree = words.next().and_then(|tree| tree.parse().ok()).ok_or_else(odd)?;
        let date = words.next().and_then(|date| date.parse().ok()).ok_or_else(odd)?;
        Ok((tree, date, words.filter_map(|parent| parent.parse().ok()).collect()))
    }

    /// Makes a commit. The same one twice is one commit.
    ///
    /// # Errors
    /// git's own words.
    pub async fn make(&self, commit: &Commit<'_>, author: &Author) -> Result<Sha, WorkspaceError> {
        commit_tree(&self.git, commit, author).await
    }
}

/// Makes a commit where `git` is. The same one twice is one commit.
///
/// # Errors
/// git's own words.
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
    let said = git.fed(&arguments, move |to| to.write_all(message.as_bytes())).await?.said;
    sha(&said)
}

/// The object that git names.
pub fn sha(said: &[u8]) -> Result<Sha, WorkspaceError> {
    let text = String::from_utf8_lossy(said);
    text.trim().parse().map_err(|_| WorkspaceError::Answer(text.into_owned()))
}
