//! `landfall workspace`: the program inside a workspace's pod.
//!
//! Options can be set in the environment as well, so that a pod sets them once for all of its containers. None is a secret: the
//! token is in a file.

mod agent;
mod save;

use std::io::Write as _;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tokio::time::Instant;

use crate::agent::clone::{self, FirstCommit, OnExists};
use crate::agent::credential::{self, RepositoryUrl};
use crate::agent::exit;
use crate::agent::remote::RemoteAccess;
use crate::agent::store::Author;
use crate::agent::tools::{self, Tools};
use crate::git::{BranchName, Sealed};
use crate::runtime::clock::{Clock as _, SystemClock};
use crate::runtime::shutdown::on_signal;

#[derive(Subcommand)]
pub enum Command {
    /// Clone the repository into the workspace at its branch, and write the tools for the person who works there.
    #[command(after_long_help = CLONE_HELP)]
    Clone(Box<CloneArgs>),
    /// Answer git's request for credentials: the value of git's credential.helper.
    #[command(after_long_help = CREDENTIAL_HELP)]
    Credential(CredentialArgs),
    /// Push all work that is not on the remote yet: commits, branches, the stash, and uncommitted changes.
    #[command(after_long_help = save::HELP)]
    Save(Box<save::SaveArgs>),
    /// Look after the workspace while its pod runs: report its state, autosave, and save when the pod ends.
    #[command(after_long_help = agent::HELP)]
    Agent(Box<agent::AgentArgs>),
}

const CLONE_HELP: &str = "\
The clone is made beside the directory and renamed when it is complete. An existing clone stays unchanged; the tools are \
written again. Nothing from the repository is executed: no hooks, no filters, no submodules.

Prints the result as JSON: branch, head, cloned (true if the clone is new), begun (true if the branch is new), lacks (Submodules, \
LargeFiles: what the repository has and a new clone does not).

The tools are for the person's container, which may have any image with a POSIX shell:
  gitconfig                for the variable GIT_CONFIG_SYSTEM: the credential helper for this one repository, the author, and
                           push.default; the person's own settings take precedence
  git-credential-landfall  the credential helper
  gh                       runs the GitHub CLI of the image with the token; its directory comes first in PATH. With --gateway there
                           is none, because that token opens nothing at GitHub's API
None of them contains a secret: the token is read from its file whenever git or gh needs it.

Exit status:
  0   there is a clone
  20  the clone failed, and a person has to act: git's own message is printed
  21  the branch is on the remote already, and --on-exists is fail
  22  the branch --from does not exist
  23  another branch is in the way of the branch: one would be a directory of the other
  75  the clone failed (network, token), and a retry may help
  1, 2  the command itself is wrong";

const CREDENTIAL_HELP: &str = "\
git runs it with the operation as its last argument, and writes lines of key=value to it (git-credential(1)). For the \
repositories of --url, over https, it answers `get` with the token that is in the file at that moment. Other requests get no \
answer. `store` and `erase` do nothing: another process writes the file.

  git config credential.https://github.com/acme/shop.git.useHttpPath true
  git config credential.https://github.com/acme/shop.git.helper '!landfall workspace credential --url https://github.com/acme/shop.git --token-file /token'";

#[derive(Args)]
pub struct AccessArgs {
    /// The repository's https URL: `https://HOST/OWNER/NAME.git`.
    #[arg(long, env = "LANDFALL_REPOSITORY_URL")]
    url: RepositoryUrl,
    /// The repository's address at the gateway: `https://GATEWAY/HOST/ID.git`. git then goes there in place of --url, and the token and
    /// the certificates are those for the gateway.
    #[arg(long, env = "LANDFALL_GATEWAY_REPOSITORY_URL")]
    gateway: Option<RepositoryUrl>,
    /// The file with the token. It is read whenever git needs it.
    #[arg(long, env = "LANDFALL_TOKEN_FILE")]
    token_file: PathBuf,
    /// A PEM file with the trusted certificates, instead of the system's.
    #[arg(long, env = "LANDFALL_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// A directory for temporary files outside the workspace's volume. Default: the system's.
    #[arg(long, env = "LANDFALL_SCRATCH")]
    scratch: Option<PathBuf>,
    /// Timeout in seconds.
    #[arg(long, env = "LANDFALL_TIMEOUT", default_value_t = 300)]
    timeout: u32,
}

impl AccessArgs {
    fn scratch(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.timeout.into())
    }

    fn access(self) -> std::io::Result<RemoteAccess> {
        let Self { url, gateway, token_file, ca_file, .. } = self;
        let absolute = |path: PathBuf| std::path::absolute(path);
        let ca_file = ca_file.map(absolute).transpose()?;
        let (token_file, program) = (absolute(token_file)?, std::env::current_exe()?);
        Ok(RemoteAccess { url, gateway, token_file, ca_file, program })
    }
}

#[derive(Args)]
pub struct CloneArgs {
    #[command(flatten)]
    access: AccessArgs,
    /// The directory of the clone. The directory above it is the volume.
    #[arg(long, env = "LANDFALL_DIRECTORY")]
    directory: PathBuf,
    /// The branch to work on.
    #[arg(long, env = "LANDFALL_BRANCH", allow_hyphen_values = true)]
    branch: BranchName,
    /// The branch to create it from. Default: the repository's default branch.
    #[arg(long, env = "LANDFALL_BRANCH_FROM", allow_hyphen_values = true)]
    from: Option<BranchName>,
    /// What to do if the branch is on the remote already.
    #[arg(long, value_enum, default_value_t = OnExists::Resume)]
    on_exists: OnExists,
    /// The objects to leave out; git fetches them when it needs them.
    #[arg(long, value_enum, default_value_t = Filter::None)]
    filter: Filter,
    /// Fetch this many commits of each branch. Default: all.
    #[arg(long)]
    depth: Option<NonZeroU32>,
    /// The number of attempts.
    #[arg(long, default_value = "5")]
    attempts: NonZeroU32,
    /// Milliseconds between the first two attempts; doubled after each further one.
    #[arg(long, default_value_t = 1000)]
    wait: u32,
    /// If the branch is not on the remote yet, start it with an empty commit with this message, and push it. A message that is
    /// unique to the workspace identifies the branch after a failed attempt.
    #[arg(long, env = "LANDFALL_FIRST_COMMIT", requires = "author_name", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    first_commit: Option<String>,
    /// Write the tools for the person's container into this directory.
    #[arg(long, env = "LANDFALL_TOOLS")]
    tools: Option<PathBuf>,
    /// The path of the tools in the person's container. Default: the path here.
    #[arg(long)]
    person_tools: Option<PathBuf>,
    /// The path of the token's file in the person's container. Default: the path here.
    #[arg(long)]
    person_token_file: Option<PathBuf>,
    /// The path of the certificates in the person's container. Default: the path here.
    #[arg(long)]
    person_ca_file: Option<PathBuf>,
    /// Also write the output to this file, atomically.
    #[arg(long)]
    record: Option<PathBuf>,
    /// Also write the output to this file, as the container's termination message.
    #[arg(long)]
    termination_log: Option<PathBuf>,
    /// The name of the author of the person's commits.
    #[arg(long, env = "LANDFALL_AUTHOR_NAME", requires = "author_email")]
    author_name: Option<String>,
    /// The email address of the author.
    #[arg(long, env = "LANDFALL_AUTHOR_EMAIL", requires = "author_name")]
    author_email: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Filter {
    /// Nothing.
    None,
    /// The files of commits that are not checked out.
    Blobs,
}

#[derive(Args)]
pub struct CredentialArgs {
    /// A repository that the token is for. Repeat it for several.
    #[arg(long, required = true)]
    url: Vec<RepositoryUrl>,
    /// The file with the token.
    #[arg(long)]
    token_file: PathBuf,
    /// The operation: get, store or erase.
    operation: String,
}

pub fn run(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match command {
        Command::Clone(args) => on_one_thread(unless_stopped(clone(*args))),
        Command::Credential(args) => credential(&args),
        Command::Save(args) => on_one_thread(unless_stopped(save::run(*args))),
        Command::Agent(args) => on_one_thread(agent::run(*args)),
    }
}

type Ended = Result<ExitCode, Box<dyn std::error::Error>>;

fn on_one_thread(command: impl Future<Output = Ended>) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(command);
    // Do not wait for a name that is being resolved, or for a slow volume.
    runtime.shutdown_background();
    ended
}

async fn unless_stopped(command: impl Future<Output = Ended>) -> Ended {
    // git has a process group of its own; it ends when the future that waits for it is dropped.
    Box::pin(on_signal()?.run_until_cancelled(command)).await.unwrap_or_else(|| {
        eprintln!("landfall: stopped by a signal before it was done; run it again");
        Ok(ExitCode::from(exit::AGAIN))
    })
}

fn credential(args: &CredentialArgs) -> Ended {
    if args.operation == "get" {
        credential::get(&args.url, &args.token_file, std::io::stdin().lock(), &mut std::io::stdout().lock())?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn clone(args: CloneArgs) -> Ended {
    let (scratch, deadline) = (args.access.scratch(), args.access.deadline());
    let access = args.access.access()?;
    let directory = std::path::absolute(&args.directory)?;
    let author = args.author_name.zip(args.author_email).map(|(name, email)| Author { name, email });
    let now = SystemClock.now().as_second();
    let first_commit = args.first_commit.zip(author.clone());
    let request = clone::Request {
        access: access.clone(),
        directory: directory.clone(),
        branch: args.branch,
        from: args.from,
        on_exists: args.on_exists,
        first_commit: first_commit.map(|(message, author)| FirstCommit { message, author, date: now }),
        without_blobs: args.filter == Filter::Blobs,
        depth: args.depth,
        scratch: scratch.clone(),
        attempts: args.attempts,
        wait: Duration::from_millis(args.wait.into()),
        deadline,
    };
    let cloned = match clone::clone(&request).await {
        Ok(cloned) => cloned,
        Err(error) => {
            eprintln!("{}", shortened(&super::with_causes(&error)));
            return Ok(ExitCode::from(error.exit()));
        }
    };
    if let Some(to) = args.tools {
        let to = std::path::absolute(to)?;
        let tools = Tools {
            url: access.url,
            gateway: access.gateway,
            directory: args.person_tools.unwrap_or_else(|| to.clone()),
            token_file: args.person_token_file.unwrap_or(access.token_file),
            ca_file: args.person_ca_file.or(access.ca_file),
            clone: directory,
            author,
        };
        tools.write(&to, &scratch, &Sealed::new(&scratch, &scratch, deadline)).await?;
    }
    let text = print(&cloned)?;
    if let Some(file) = args.record {
        tools::replace(&std::path::absolute(&file)?, text.as_bytes(), 0o644)
            .map_err(|error| format!("--record {}: {error}", file.display()))?;
    }
    if let Some(file) = args.termination_log {
        // Kubernetes mounts the file, so it cannot be replaced.
        std::fs::write(&file, &text).map_err(|error| format!("--termination-log {}: {error}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Shortens an error to the part of a failed container's log that Kubernetes keeps as its message.
fn shortened(text: &str) -> String {
    // Kubernetes keeps 2048 bytes and 80 lines.
    const MOST: usize = 1900;
    const MOST_LINES: usize = 70;
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let first = &first[..first.floor_char_boundary(MOST)];
    let rest = &rest[rest.ceil_char_boundary(rest.len().saturating_sub(MOST - first.len()))..];
    let lines: Vec<_> = rest.lines().collect();
    let lines = &lines[lines.len().saturating_sub(MOST_LINES)..];
    [&format!("landfall: {first}")[..]].iter().chain(lines).copied().collect::<Vec<_>>().join("\n")
}

fn print(value: &impl Serialize) -> Result<String, Box<dyn std::error::Error>> {
    let text = serde_json::to_string(value)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(text)
}
