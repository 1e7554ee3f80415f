//! The bare git directory of one repository, and the few plumbing commands that the simulator needs for it.
//!
//! git itself stores objects and refs, and nothing here interprets a pack. Commands run with a configuration of their
//! own, so that the machine's git settings and identity do not change an answer.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jiff::Timestamp;

/// The object id that stands for "no object" in pushes and their events.
pub(crate) const ZERO: &str = "0000000000000000000000000000000000000000";

/// The refs of pull requests. GitHub writes them, and anybody who can read the repository can fetch them.
pub(crate) const PULLS: &str = "refs/pull/";

/// The reason why a git command failed.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// git cannot be started.
    #[error("git cannot be started; install git")]
    Start(#[source] std::io::Error),
    /// A repository's directory cannot be created.
    #[error("{directory}")]
    Directory {
        directory: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// git ended with an error.
    #[error("git {command} in {directory}: {message}")]
    Failed {
        /// The subcommand.
        command: String,
        /// The bare directory.
        directory: PathBuf,
        /// Its error output.
        message: String,
    },
}

/// The author and committer of a commit, with the time.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) at: Timestamp,
}

#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) sha: String,
    pub(crate) tree: String,
    pub(crate) parents: Vec<String>,
    pub(crate) author: Person,
    pub(crate) committer: Person,
    pub(crate) message: String,
}

/// One changed path.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) status: char,
    pub(crate) path: String,
    pub(crate) blob: String,
    pub(crate) additions: u64,
    pub(crate) deletions: u64,
}

/// A bare repository.
#[derive(Clone, Debug)]
pub(crate) struct Bare {
    path: PathBuf,
}

impl Bare {
    /// Makes an empty repository whose HEAD names `branch`. It replaces the remains of an earlier simulator at `path`.
    pub(crate) fn create(path: &Path, branch: &str, hooks: &Path) -> Result<Self, GitError> {
        let directory = |source| GitError::Directory { directory: path.to_owned(), source };
        if path.exists() {
            std::fs::remove_dir_all(path).map_err(directory)?;
        }
        std::fs::create_dir_all(path).map_err(directory)?;
        let bare = Self { path: path.to_owned() };
        bare.run(&["init", "--quiet", "--bare", "--template=", &format!("--initial-branch={branch}")])?;
        // The file is written at once rather than setting by setting, because tests create many repositories.
        let hooks = hooks.to_string_lossy();
        let settings = format!(
            "[core]\n\thooksPath = {hooks:?}\n[http]\n\treceivepack = true\n[uploadpack]\n\tallowFilter = true\n\t\
             allowAnySHA1InWant = true\n[receive]\n\tshallowUpdate = true\n\thideRefs = refs/pull\n[gc]\n\tauto = 0\n"
        );
        let config = path.join("config");
        let made = std::fs::read_to_string(&config).map_err(directory)?;
        std::fs::write(&config, made + &settings).map_err(directory)?;
        Ok(bare)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All refs with their objects, except for those of pull requests, because nobody pushes those.
    pub(crate) fn refs(&self) -> Result<BTreeMap<String, String>, GitError> {
        let listed = self.run(&["for-each-ref", "--format=%(objectname) %(refname)"])?;
        Ok(listed
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, name)| !name.starts_with(PULLS))
            .map(|(sha, name)| (name.into(), sha.into()))
            .collect())
    }

    /// The type of the object `sha`; `None` if it does not exist.
    pub(crate) fn kind(&self, sha: &str) -> Option<String> {
        let full = sha.len() == 40 && sha.bytes().all(|byte| byte.is_ascii_hexdigit());
        full.then(|| self.run(&["cat-file", "-t", sha]).ok()).flatten().map(|kind| kind.trim().to_owned())
    }

    /// The commit that `revision` (a full ref or an object id) names.
    pub(crate) fn commit(&self, revision: &str) -> Result<Option<Commit>, GitError> {
        Ok(self.log(&["-1", revision, "--"])?.pop())
    }

    /// The commits reachable from `head` and not from `base`, oldest first, at most `most`.
    pub(crate) fn between(&self, base: Option<&str>, head: &str, most: usize) -> Result<Vec<Commit>, GitError> {
        let count = format!("-{most}");
        let mut commits = match base {
            Some(base) => self.log(&[&count, head, &format!("^{base}"), "--"])?,
            None => self.log(&[&count, head, "--"])?,
        };
        commits.reverse();
        Ok(commits)
    }

    fn log(&self, what: &[&str]) -> Result<Vec<Commit>, GitError> {
        let format = "--format=%H%x00%T%x00%P%x00%an%x00%ae%x00%at%x00%cn%x00%ce%x00%ct%x00%B%x00%x00";
        let mut arguments = vec!["log", format];
        arguments.extend(what);
        let text = self.run(&arguments)?;
        Ok(text.split("\0\0\n").filter_map(commit_of).collect())
    }

    /// Whether `ancestor` is reachable from `head`.
    pub(crate) fn is_ancestor(&self, ancestor: &str, head: &str) -> bool {
        self.run(&["merge-base", "--is-ancestor", ancestor, head]).is_ok()
    }

    /// The changes between two commits (`None`: since the beginning).
    pub(crate) fn changes(&self, from: Option<&str>, to: &str) -> Result<Vec<Change>, GitError> {
        let empty = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        let from = from.unwrap_or(empty);
        let told = self.run(&["diff-tree", "-r", "-z", "--no-renames", "--raw", "--numstat", from, to])?;
        let (mut entries, mut lines) = (Vec::new(), BTreeMap::new());
        let mut fields = told.split('\0');
        while let Some(field) = fields.next() {
            match field.strip_prefix(':').zip(fields.clone().next()) {
                Some((meta, path)) => {
                    entries.push((meta, path));
                    fields.next();
                }
                None => lines.extend(line_counts(field)),
            }
        }
        let mut changes = Vec::new();
        for (meta, path) in entries {
            let meta: Vec<&str> = meta.split(' ').collect();
            let [_, _, _, blob, status] = meta[..] else { break };
            let (additions, deletions) = lines.get(path).copied().unwrap_or_default();
            let status = status.chars().next().unwrap_or('M');
            changes.push(Change { status, path: path.into(), blob: blob.into(), additions, deletions });
        }
        Ok(changes)
    }

    /// The changes between two commits (`None`: since the parent), as one `diff` or as a `patch` for each commit.
    pub(crate) fn shown(&self, kind: &str, from: Option<&str>, to: &str) -> Result<Vec<u8>, GitError> {
        let range = from.map_or_else(|| "-1".to_owned(), |from| format!("^{from}"));
        if kind.ends_with("patch") {
            return self.bytes(&["format-patch", "--stdout", "--no-signature", &range, to], &[]);
        }
        match from {
            Some(from) => self.bytes(&["diff-tree", "-p", "--no-renames", from, to], &[]),
            None => self.bytes(&["diff-tree", "-p", "--no-renames", "--root", "--no-commit-id", to], &[]),
        }
    }

    /// The best common ancestor.
    pub(crate) fn merge_base(&self, one: &str, other: &str) -> Option<String> {
        self.run(&["merge-base", one, other]).ok().map(|sha| sha.trim().to_owned())
    }

    /// Commits `files` on top of `branch` (which may not exist yet) and moves the branch. Returns the new commit.
    pub(crate) fn write(
        &self,
        branch: &str,
        files: &[(&str, &[u8])],
        message: &str,
        who: &Person,
    ) -> Result<String, GitError> {
        let name = format!("refs/heads/{branch}");
        let mut stream = opened(&name, message, who);
        if self.tip(&name).is_some() {
            stream.extend(format!("from {name}^0\n").bytes());
        }
        for (path, content) in files {
            let quoted = path.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            stream.extend(format!("M 100644 inline \"{quoted}\"\n").bytes());
            data(&mut stream, content);
        }
        self.import(&name, &stream)
    }

    /// Runs a stream that commits to a ref; returns the commit.
    fn import(&self, name: &str, stream: &[u8]) -> Result<String, GitError> {
        self.bytes(&["fast-import", "--quiet"], stream)?;
        self.tip(name).ok_or_else(|| GitError::Failed {
            command: "fast-import".to_owned(),
            directory: self.path.clone(),
            message: format!("{name} was not written"),
        })
    }

    /// Copies the objects of refspecs (or object ids) from another repository.
    pub(crate) fn fetch(&self, from: &Self, what: &[&str]) -> Result<(), GitError> {
        let from = from.path.to_string_lossy();
        self.run(&[&["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", &*from], what].concat()).map(drop)
    }

    /// The number of commits reachable from `head` and not from `base`.
    pub(crate) fn count(&self, base: &str, head: &str) -> Result<usize, GitError> {
        Ok(self.run(&["rev-list", "--count", head, &format!("^{base}"), "--"])?.trim().parse().unwrap_or(0))
    }

    /// A path in `folder` that is changed by a commit on the way to `head` that no ref has yet.
    pub(crate) fn newly_touched(&self, head: &str, folder: &str) -> Result<Option<String>, GitError> {
        let listed = self.run(&["log", "--format=", "--name-only", head, "--not", "--all", "--", folder])?;
        Ok(listed.lines().find(|line| !line.is_empty()).map(str::to_owned))
    }

    /// The tree of a merge of `theirs` into `ours`; `None` if they conflict.
    pub(crate) fn merged_tree(&self, ours: &str, theirs: &str) -> Result<Option<String>, GitError> {
        match self.run(&["merge-tree", "--write-tree", ours, theirs]) {
            Ok(tree) => Ok(Some(tree.trim().to_owned())),
            // Conflicts go to standard output, errors to standard error.
            Err(GitError::Failed { message, .. }) if message.is_empty() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Commits `tree` to a branch as the merge of `theirs` into it; returns the commit.
    pub(crate) fn merge(
        &self,
        branch: &str,
        (theirs, tree): (&str, &str),
        message: &str,
        who: &Person,
    ) -> Result<String, GitError> {
        let name = format!("refs/heads/{branch}");
        let mut stream = opened(&name, message, who);
        stream.extend(format!("from {name}^0\nmerge {theirs}\nM 040000 {tree} \n").bytes());
        self.import(&name, &stream)
    }

    /// Points HEAD to the branch that a clone checks out.
    pub(crate) fn set_head(&self, branch: &str) -> Result<(), GitError> {
        self.run(&["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")]).map(drop)
    }

    /// The object that a full ref points to.
    pub(crate) fn tip(&self, name: &str) -> Option<String> {
        self.run(&["rev-parse", "--verify", "--quiet", name]).ok().map(|sha| sha.trim().to_owned())
    }

    /// Sets or moves a ref.
    pub(crate) fn set_ref(&self, name: &str, sha: &str) -> Result<(), GitError> {
        self.run(&["update-ref", name, sha]).map(drop)
    }

    /// Removes a ref.
    pub(crate) fn delete_ref(&self, name: &str) -> Result<(), GitError> {
        self.run(&["update-ref", "-d", name]).map(drop)
    }

    /// The bytes of a file at a commit, with its blob's id; `None` if it does not exist.
    pub(crate) fn file(&self, revision: &str, path: &str) -> Result<Option<(String, Vec<u8>)>, GitError> {
        let listed = self.run(&["ls-tree", "-z", revision, "--", path])?;
        let Some((meta, _)) = listed.split('\0').next().and_then(|entry| entry.split_once('\t')) else {
            return Ok(None);
        };
        let mut meta = meta.split(' ').skip(1);
        match (meta.next(), meta.next()) {
            (Some("blob"), Some(sha)) => Ok(Some((sha.to_owned(), self.bytes(&["cat-file", "blob", sha], &[])?))),
            _ => Ok(None),
        }
    }

    /// Whether git accepts this as the name of a ref.
    pub(crate) fn is_ref_name(&self, name: &str) -> bool {
        self.run(&["check-ref-format", name]).is_ok()
    }

    fn run(&self, arguments: &[&str]) -> Result<String, GitError> {
        Ok(String::from_utf8_lossy(&self.bytes(arguments, &[])?).into_owned())
    }

    fn bytes(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, GitError> {
        let mut command = Command::new("git");
        command.arg("--git-dir").arg(&self.path).args(arguments).current_dir(&self.path).envs(environment());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(GitError::Start)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that reads nothing closes its end first. Its status shows whether that was an error.
            let _ = stdin.write_all(input);
        }
        let output = child.wait_with_output().map_err(GitError::Start)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(GitError::Failed {
            command: arguments.first().copied().unwrap_or_default().to_owned(),
            directory: self.path.clone(),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

/// The environment that excludes the machine's own git configuration.
pub(crate) fn environment() -> [(&'static str, &'static str); 3] {
    [("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_TERMINAL_PROMPT", "0")]
}

/// The opening of a commit to a ref, for `git fast-import`.
fn opened(name: &str, message: &str, who: &Person) -> Vec<u8> {
    let at = |role| format!("{role} {} <{}> {} +0000\n", who.name, who.email, who.at.as_second());
    let mut stream = format!("commit {name}\n{}{}", at("author"), at("committer")).into_bytes();
    data(&mut stream, format!("{}\n", message.trim_end()).as_bytes());
    stream
}

/// Adds bytes to a stream of `git fast-import`.
fn data(stream: &mut Vec<u8>, bytes: &[u8]) {
    stream.extend(format!("data {}\n", bytes.len()).bytes());
    stream.extend(bytes);
    stream.push(b'\n');
}

fn line_counts(entry: &str) -> Option<(&str, (u64, u64))> {
    let mut fields = entry.splitn(3, '\t');
    let (added, removed, path) = (fields.next()?, fields.next()?, fields.next()?);
    Some((path, (added.parse().unwrap_or(0), removed.parse().unwrap_or(0))))
}

fn commit_of(text: &str) -> Option<Commit> {
    let fields: Vec<&str> = text.trim_start_matches('\n').split('\0').collect();
    let [sha, tree, parents, author, author_email, author_time, committer, committer_email, time, message] = fields[..]
    else {
        return None;
    };
    let person = |name: &str, email: &str, at: &str| {
        let at = at.parse().ok().and_then(|second| Timestamp::from_second(second).ok())?;
        Some(Person { name: name.into(), email: email.into(), at })
    };
    Some(Commit {
        sha: sha.into(),
        tree: tree.into(),
        parents: parents.split_whitespace().map(str::to_owned).collect(),
        author: person(author, author_email, author_time)?,
        committer: person(committer, committer_email, time)?,
        message: message.trim_end().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person() -> Person {
        Person {
            name: "Mona".into(),
            email: "mona@example.com".into(),
            at: Timestamp::from_second(1_790_000_000).unwrap(),
        }
    }

    #[test]
    fn writes_commits_and_tells_them_apart() {
        let folder = tempfile::tempdir().unwrap();
        let bare = Bare::create(&folder.path().join("a.git"), "main", folder.path()).unwrap();
        assert!(bare.refs().unwrap().is_empty());
        let first = bare.write("main", &[("README.md", b"one\n")], "First\n\nwith a body", &person()).unwrap();
        let second = bare.write("main", &[("src/a \"b\".txt", b"two\nlines\n")], "Second", &person()).unwrap();
        assert_eq!(bare.refs().unwrap()["refs/heads/main"], second);
        assert_eq!(bare.commit(&second).unwrap().unwrap().parents, vec![first.clone()]);
        assert_eq!(bare.commit(&first).unwrap().unwrap().message, "First\n\nwith a body");
        assert!(bare.is_ancestor(&first, &second) && !bare.is_ancestor(&second, &first));
        let between = bare.between(Some(&first), &second, 20).unwrap();
        assert_eq!(between.iter().map(|commit| &commit.sha).collect::<Vec<_>>(), [&second]);
        let changes = bare.changes(Some(&first), &second).unwrap();
        assert_eq!((changes[0].status, changes[0].path.as_str(), changes[0].additions), ('A', "src/a \"b\".txt", 2));
        assert_eq!(bare.changes(None, &second).unwrap().len(), 2);
        assert_eq!(bare.file(&second, "src/a \"b\".txt").unwrap().unwrap().1, b"two\nlines\n");
        assert!(bare.file(&first, "src/a \"b\".txt").unwrap().is_none());
    }
}
