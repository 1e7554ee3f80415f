//! Runs the git program on untrusted repositories, without running any code of theirs.
//!
//! The invariant: git reads no configuration but the one in this module, and no content of a repository makes it start a program or
//! connect to an address. A list of dangerous settings in a repository's `.git/config` would never be complete, so git does not
//! read that file at all: the caller names a git directory that Landfall made, with the repository's objects as an alternate, or
//! none. The environment, which overrides every file, sets the rest: no hooks, no filters, no fsmonitor, no credential helper but
//! Landfall's, one protocol, no redirects, no submodules; and no program for the refs of alternates, because git would otherwise
//! start itself in the untrusted repository.
//!
//! Each command is a process group of its own. A command that passes its deadline, prints too much, or is cancelled is killed with
//! all its children.

use crate::guards;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::github::redact::redact;

/// The most bytes of a command's standard output: the names of a million files.
const MOST_OUTPUT: u64 = 256 << 20;
/// The most bytes of its standard error that are kept: the end of it.
const MOST_WORDS: usize = 8 << 10;

/// Settings that override every repository.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.splitIndex", "false"),
    ("index.sparse", "false"),
    // Otherwise git runs for-each-ref in the alternate's repository, with its configuration.
    ("core.alternateRefsCommand", ":"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.sshCommand", "false"),
    ("core.askPass", ""),
    ("core.pager", "cat"),
    ("core.autocrlf", "false"),
    ("core.safecrlf", "false"),
    ("core.fileMode", "true"),
    ("core.symlinks", "true"),
    ("core.quotePath", "false"),
    // git streams larger files instead of loading them into memory.
    ("core.bigFileThreshold", "8m"),
    ("pack.windowMemory", "32m"),
    ("pack.threads", "1"),
    ("credential.helper", ""),
    ("diff.ignoreSubmodules", "all"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("push.recurseSubmodules", "no"),
    ("push.gpgSign", "false"),
    ("protocol.allow", "never"),
    ("protocol.https.allow", "always"),
    // Another repository may have taken a former address.
    ("http.followRedirects", "false"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.writeCommitGraph", "false"),
    ("advice.detachedHead", "false"),
];

/// Variables that git inherits: the path of programs, and the proxies.
const INHERITED: &[&str] = &["PATH", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"];

/// git in a directory, with a git directory that the caller chose.
#[derive(Clone, Debug)]
pub struct Sealed {
    directory: PathBuf,
    settings: Vec<(String, String)>,
    environment: Vec<(OsString, OsString)>,
    deadline: Instant,
}

/// The output of a successful command.
#[derive(Debug)]
pub struct Output<T> {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, as text.
    pub stderr: String,
    /// The result of writing its standard input.
    pub written: T,
}

/// The reason why a git command failed.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// It cannot be started.
    #[error("git cannot be started: the image must have it in its PATH")]
    Start(#[source] io::Error),
    /// It ended with an error.
    #[error("git {command}: {words}")]
    Failed {
        command: String,
        /// None if a signal ended it.
        status: Option<i32>,
        /// Its standard error, redacted.
        words: String,
    },
    /// It passed its deadline, and was killed.
    #[error("git {command} passed its deadline and was killed{}{words}", if words.is_empty() { "" } else { "; its last words: " })]
    Late {
        command: String,
        /// Its standard error up to then, redacted.
        words: String,
    },
    /// It printed too much.
    #[error("git {command} printed more than {MOST_OUTPUT} bytes and was killed")]
    Talkative { command: String },
    /// A pipe to it failed.
    #[error("git {command}: a pipe for its input or output failed")]
    Pipe {
        command: String,
        #[source]
        source: io::Error,
    },
}

impl SealedError {
    /// git's own message, or the error's if git printed none.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Failed { words, .. } if !words.is_empty() => words.clone(),
            error => error.to_string(),
        }
    }
}

impl Sealed {
    /// git in `directory`, with the home directory `home`, until `deadline`. It has no repository yet, and https alone for a protocol.
    #[must_use]
    pub fn new(directory: &Path, home: &Path, deadline: Instant) -> Self {
        let settings = guards::git_settings(SETTINGS).iter();
        let settings = settings.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let set = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let mut environment: Vec<_> = INHERITED
            .iter()
            .filter_map(|name| std::env::var_os(name).map(|value| (OsString::from(name), value)))
            .collect();
        environment.extend([
            set("LC_ALL", "C"),
            set("GIT_CONFIG_NOSYSTEM", "1"),
            set("GIT_CONFIG_GLOBAL", "/dev/null"),
            set("GIT_ATTR_NOSYSTEM", "1"),
            set("GIT_TERMINAL_PROMPT", "0"),
            set("GIT_ASKPASS", "false"),
            set("GIT_EDITOR", "false"),
            set("GIT_PAGER", "cat"),
            set("GIT_ALLOW_PROTOCOL", "https"),
            set("GIT_NO_REPLACE_OBJECTS", "1"),
            set("GIT_OPTIONAL_LOCKS", "0"),
            (OsString::from("HOME"), home.into()),
        ]);
        Self { directory: directory.to_owned(), settings, environment, deadline }
    }

    /// The same, with remotes on this machine's disk. For tests alone, because a path may lead anywhere.
    #[must_use]
    pub fn with_local_remotes(self) -> Self {
        self.setting("protocol.file.allow", "always").variable("GIT_ALLOW_PROTOCOL", "https:file")
    }

    /// The same, with a further setting.
    #[must_use]
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The same, with a further environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// The same, in another directory.
    #[must_use]
    pub fn in_directory(self, directory: &Path) -> Self {
        Self { directory: directory.to_owned(), ..self }
    }

    /// Runs a command and returns its standard output. An error if its status is not 0.
    pub async fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<Vec<u8>, SealedError> {
        Ok(self.fed(arguments, |_| Ok(())).await?.stdout)
    }

    /// The same, as text without white space at its end.
    pub async fn text<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<String, SealedError> {
        let said = self.run(arguments).await?;
        Ok(String::from_utf8_lossy(&said).trim_end().to_owned())
    }

    /// Runs a command; `tell` writes its standard input on a thread of its own. If both fail, the error is git's, unless `tell`
    /// failed for another reason than a broken pipe.
    pub async fn fed<A: AsRef<OsStr>, T: Send + 'static>(
        &self,
        arguments: &[A],
        tell: impl FnOnce(&mut dyn Write) -> io::Result<T> + Send + 'static,
    ) -> Result<Output<T>, SealedError> {
        let command = arguments.first().map(|name| name.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
        let pipe = |source| SealedError::Pipe { command: command.clone(), source };
        let mut running = self.spawn(arguments)?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (running.child.stdin.take(), running.child.stdout.take(), running.child.stderr.take())
        else {
            return Err(pipe(io::Error::other("no pipes")));
        };
        let stdin = File::from(stdin.into_owned_fd().map_err(pipe)?);
        let telling = tokio::task::spawn_blocking(move || {
            let mut stdin = BufWriter::new(stdin);
            let told = tell(&mut stdin)?;
            stdin.flush().map(|()| told)
        });
        let mut words = Vec::new();
        let ended = async {
            let (said, heard) = tokio::join!(whole(stdout), last_words(stderr, &mut words));
            heard?;
            let said = said?;
            Ok((said, telling.await.map_err(io::Error::other)?))
        };
        let ended = tokio::time::timeout_at(self.deadline, ended).await;
        // On a return `running` kills the group. The child is not reaped yet, so the group's id is still valid.
        let late = || SealedError::Late { command: command.clone(), words: readable(&words) };
        let (said, told) = ended.map_err(|_| late())?.map_err(pipe)?;
        let Some(said) = said else { return Err(SealedError::Talkative { command }) };
        let status = tokio::time::timeout_at(self.deadline, running.child.wait()).await.map_err(|_| late())?;
        running.group = None;
        let status = status.map_err(pipe)?;
        match told {
            Err(error) if status.success() || error.kind() != io::ErrorKind::BrokenPipe => Err(pipe(error)),
            Ok(told) if status.success() => Ok(Output { stdout: said, stderr: readable(&words), written: told }),
            _ => Err(SealedError::Failed { command, status: status.code(), words: readable(&words) }),
        }
    }

    fn spawn<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<Running, SealedError> {
        let mut command = Command::new("git");
        command
            .args(arguments)
            .current_dir(&self.directory)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("GIT_CONFIG_COUNT", self.settings.len().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        for (number, (key, value)) in self.settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key).env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        let child = command.spawn().map_err(SealedError::Start)?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Running { child, group })
    }
}

/// A child that was not reaped yet, and its process group.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // All of its processes may have ended already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The whole output; none if it is larger than [`MOST_OUTPUT`].
async fn whole(from: impl AsyncRead + Unpin) -> io::Result<Option<Vec<u8>>> {
    let mut said = Vec::new();
    from.take(MOST_OUTPUT + 1).read_to_end(&mut said).await?;
    Ok(Some(said).filter(|said| said.len() as u64 <= MOST_OUTPUT))
}

async fn last_words(mut from: impl AsyncRead + Unpin, words: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        words.extend_from_slice(&buffer[..read]);
        let excess = words.len().saturating_sub(MOST_WORDS);
        words.drain(..excess);
    }
}

/// git's message without control characters, secrets, and hints.
fn readable(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let line = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned();
    let lines: Vec<_> =
        text.split(['\n', '\r']).map(line).filter(|line| !line.is_empty() && !line.starts_with("hint: ")).collect();
    redact(&lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sealed(directory: &Path, deadline: Instant) -> Sealed {
        Sealed::new(directory, directory, deadline)
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_hours(1)
    }

    #[tokio::test]
    async fn what_git_says_is_told_with_its_status_and_without_secrets() {
        let home = tempfile::tempdir().unwrap();
        let git = sealed(home.path(), far());
        assert!(git.text(&["version"]).await.unwrap().starts_with("git version"));
        let error = git.run(&["ls-remote", "--", "ssh://ghs_a.b-c@nowhere.invalid/x"]).await.unwrap_err();
        assert!(matches!(error, SealedError::Failed { status: Some(128), .. }), "{error}");
        assert!(error.to_string().contains("transport 'ssh' not allowed"), "{error}");
        let error = git.run(&["rev-parse", "--verify", "ghs_a.b-c"]).await.unwrap_err();
        assert!(!error.to_string().contains("a.b-c"), "{error}");
    }

    #[tokio::test]
    async fn no_configuration_is_read_but_ours() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".gitconfig"), "[user]\n\tname = theirs\n").unwrap();
        let git = sealed(home.path(), far());
        let listed = git.text(&["config", "--list"]).await.unwrap();
        assert!(listed.contains("core.hookspath=/dev/null") && !listed.contains("theirs"), "{listed}");
    }

    #[tokio::test]
    async fn an_input_that_fails_fails_the_command() {
        let home = tempfile::tempdir().unwrap();
        let tell = |_: &mut dyn Write| Err::<(), _>(io::Error::other("the file shrank"));
        let error = sealed(home.path(), far()).fed(&["hash-object", "--stdin"], tell).await.unwrap_err();
        assert!(matches!(&error, SealedError::Pipe { source, .. } if source.to_string() == "the file shrank"));
    }

    #[tokio::test]
    async fn a_command_past_its_time_ends_with_all_that_it_started() {
        let home = tempfile::tempdir().unwrap();
        let fifo = home.path().join("ended");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        // The grandchild holds the fifo open for as long as it lives, and git for as long as that does.
        let alias = format!("!exec 3>'{}'; echo >&3; sleep 1000 & wait", fifo.display());
        // The fifo is open at both ends meanwhile, so that no opening blocks, however slow git is.
        let held = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        let mut reading = File::open(&fifo).unwrap();
        let reader = std::thread::spawn(move || {
            let mut said = Vec::new();
            io::Read::read_to_end(&mut reading, &mut said).unwrap();
            said
        });
        let git = sealed(home.path(), Instant::now() + Duration::from_millis(300)).setting("alias.wait", &alias);
        let error = git.run(&["wait"]).await.unwrap_err();
        assert!(matches!(error, SealedError::Late { .. }), "{error}");
        drop(held);
        // The read ends only when no process has the fifo open any more.
        let said = reader.join().unwrap();
        assert!(said.len() <= 1, "{said:?}");
    }
}
