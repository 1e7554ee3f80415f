//! The agent, a sidecar of the workspace's pod: it reports the state of the clone, autosaves, and saves when the pod ends.
//!
//! The invariant: a save never waits for the controller. When the pod ends, the agent asks the controller once more: it saves to
//! branches and tags if the controller replies so, and otherwise autosaves. Only the deadline ends that early.
//!
//! The agent is idle most of the time, in a pod whose memory and processor belong to the person. So it asks the file system for
//! changes, and runs git only if there are some; both less often the longer they take.

use crate::guards;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{WaitOptions, getpid, set_child_subreaper};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::WorkspaceError;
use super::clone::may_choose;
use super::collect::WorkspaceClone;
use super::directory::Directory;
use super::dot_git::has_content;
use super::remote::RemoteAccess;
use super::report::{Autosave, MOST_TEXT, OnStop, Report, bounded, tolerant};
use super::reporter::Reporter;
use super::save::{self, Outcome, autosave, not_saved, save};
use super::status::status;
use crate::git::{BranchName, Sealed};
use crate::runtime::clock::Clock;

/// How often the agent checks the few files that every git command changes.
const GLANCE: Duration = Duration::from_secs(1);
const BETWEEN_REPORTS: Duration = Duration::from_secs(3);
const LONGEST_BETWEEN_REPORTS: Duration = Duration::from_mins(1);
/// After this time a report is sent again although nothing changed, so that the controller notices a silent agent.
const BEAT: Duration = Duration::from_mins(15);
/// The timeout of a report.
const REPORT: Duration = Duration::from_secs(10);
/// The timeout of the last report; the rest of the time is for the save.
const LAST_REPORT: Duration = Duration::from_secs(15);
const BETWEEN_LAST_REPORTS: Duration = Duration::from_millis(500);
/// The timeout for git to compute the state.
const LOOK: Duration = Duration::from_mins(5);
/// How often the agent tries to save when the pod ends.
const ATTEMPTS: u32 = 3;
/// The most bytes of the clone's result file.
const MOST_RECORD: u64 = 64 << 10;

/// The wait before an activity is repeated: a multiple of its duration, within limits.
#[derive(Clone, Copy, Debug)]
struct Pace {
    times: u32,
    least: Duration,
    most: Duration,
}

/// Walking through all files takes at most 0.2 % of the time.
const WALK: Pace = Pace { times: 500, least: Duration::from_secs(5), most: Duration::from_mins(5) };
/// Computing the state with git takes at most 2 % of the time.
const LOOK_AGAIN: Pace = Pace { times: 50, least: Duration::from_secs(3), most: Duration::from_mins(5) };

impl Pace {
    fn after(self, took: Duration) -> Duration {
        took.saturating_mul(self.times).clamp(self.least, self.most)
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    pub workspace: WorkspaceClone,
    pub access: RemoteAccess,
    /// A directory for Landfall's own files, outside the volume.
    pub scratch: PathBuf,
    /// The clone's result file. Its branch takes precedence over the workspace's.
    pub record: Option<PathBuf>,
    /// The interval of autosaves; none for one at the end only.
    pub interval: Option<Duration>,
    /// None: the agent sends no reports.
    pub reporter: Option<Reporter>,
    /// The timeout of a save.
    pub timeout: Duration,
}

/// Hashes that change with the clone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signs {
    /// Of the files that every git command changes: HEAD, the index, refs.
    git: u64,
    /// Of all files.
    tree: u64,
}

struct Agent<'a> {
    request: &'a Request,
    clock: &'a dyn Clock,
    signs: Signs,
    /// The signs at the last look.
    looked: Option<Signs>,
    /// The signs at the last complete save.
    saved: Option<Signs>,
    report: Report,
    /// The errors of the last look and of the last save.
    troubles: [Option<String>; 2],
    sent: Option<Report>,
    sent_at: Instant,
    /// How many reports failed in a row.
    failures: u32,
}

/// Runs until `stop`, then saves. Returns the result of that save.
pub async fn run(request: &Request, clock: &dyn Clock, stop: &CancellationToken) -> save::SaveReport {
    let mut agent = Agent {
        request,
        clock,
        signs: Signs::default(),
        looked: None,
        saved: None,
        report: Report::default(),
        troubles: [None, None],
        sent: None,
        sent_at: Instant::now(),
        failures: 0,
    };
    // So that the agent can reap orphans of git. Process 1 of a container can do that anyway, but in a pod with a shared process
    // namespace the agent is not process 1.
    let _ = set_child_subreaper(Some(getpid()));
    // A git command that runs at that moment is killed; at the remote its push is complete or has no effect.
    let _: Option<Infallible> = Box::pin(stop.run_until_cancelled(agent.watch())).await;
    agent.end().await
}

impl Agent<'_> {
    async fn watch(&mut self) -> Infallible {
        let now = Instant::now();
        let (mut walk_at, mut look_at, mut report_at) = (now, now, now);
        let mut save_at = self.request.interval.map(|interval| now + interval);
        loop {
            let began = Instant::now();
            let saves = save_at.is_some_and(|at| at <= began);
            if saves || walk_at <= began {
                self.signs.tree = self.walk().await;
                walk_at = Instant::now() + WALK.after(began.elapsed());
            }
            self.signs.git = glance(&self.request.workspace.directory).unwrap_or_default();
            if saves {
                self.autosave().await;
                save_at = self.request.interval.map(|interval| Instant::now() + interval);
            }
            let began = Instant::now();
            if look_at <= began && self.looked != Some(self.signs) {
                self.look().await;
                look_at = Instant::now() + LOOK_AGAIN.after(began.elapsed());
            }
            let is_news = self.sent.as_ref() != Some(&self.report) || self.sent_at.elapsed() >= BEAT;
            if report_at <= Instant::now() && is_news {
                self.tell().await;
                let wait = BETWEEN_REPORTS.saturating_mul(2_u32.saturating_pow(self.failures));
                report_at = Instant::now() + wait.min(LONGEST_BETWEEN_REPORTS);
            }
            reap();
            sleep(GLANCE).await;
        }
    }

    /// Walks through all files on a thread of its own, so that a slow volume does not delay a signal.
    async fn walk(&self) -> u64 {
        let directory = self.request.workspace.directory.clone();
        let walked = tokio::task::spawn_blocking(move || {
            let name = directory.file_name().unwrap_or_default();
            let clone = Directory::open(&directory).and_then(|clone| clone.marks(OsStr::new(".git")));
            let beside = Directory::open(directory.parent().unwrap_or(&directory)).and_then(|it| it.marks(name));
            let marks = [clone, beside, elsewhere(&directory)].map(io::Result::unwrap_or_default);
            marks.into_iter().fold(0_u64, |sum, mark| sum.wrapping_mul(31).wrapping_add(mark))
        });
        walked.await.unwrap_or_default()
    }

    async fn look(&mut self) {
        let looked = self.looked_at().await;
        self.looked = Some(self.signs);
        self.troubles[0] = match looked {
            Ok(report) => {
                let (autosave, trouble) = (self.report.autosave.take(), report.trouble.clone());
                self.report = Report { autosave, ..report };
                trouble
            }
            Err(error) => Some(with_cause(&error)),
        };
        self.settle();
    }

    async fn looked_at(&self) -> Result<Report, WorkspaceError> {
        let WorkspaceClone { directory, .. } = &self.request.workspace;
        if !has_content(directory)? {
            let had_clone = self.request.record.as_deref().is_some_and(|record| recorded(record).is_some());
            let trouble = had_clone.then(|| "the volume holds nothing: the clone was removed or moved".to_owned());
            return Ok(Report { trouble, ..Report::default() });
        }
        let scratch = tempfile::Builder::new().prefix("landfall-look-").tempdir_in(&self.request.scratch);
        let scratch = scratch.map_err(WorkspaceError::scratch(&self.request.scratch))?;
        let git = Sealed::new(scratch.path(), scratch.path(), Instant::now() + LOOK);
        let workspace = WorkspaceClone { branch: self.branch(), ..self.request.workspace.clone() };
        status(&workspace, scratch.path(), &git, self.clock.now().as_second()).await
    }

    async fn autosave(&mut self) {
        if self.saved == Some(self.signs) {
            return;
        }
        let report = autosave(&self.save_request(Instant::now() + self.request.timeout)).await;
        if report.outcome != Outcome::TryAgain {
            self.saved = Some(self.signs);
        }
        if let Some(saved) = report.saved.first()
            && self.report.autosave.as_ref().is_none_or(|autosave| autosave.commit != saved.commit)
        {
            // Kubernetes writes times in seconds.
            let at = Timestamp::from_second(self.clock.now().as_second()).unwrap_or_default();
            self.report.autosave = Some(Autosave { commit: saved.commit.clone(), at });
        }
        self.troubles[1] = not_saved(&report.left);
        self.settle();
    }

    fn settle(&mut self) {
        let trouble = self.troubles.iter().flatten().next();
        self.report.trouble = trouble.map(|trouble| bounded(trouble, MOST_TEXT));
    }

    async fn tell(&mut self) {
        let Some(reporter) = &self.request.reporter else {
            (self.sent, self.sent_at) = (Some(self.report.clone()), Instant::now());
            return;
        };
        let error = match timeout(REPORT, reporter.send(&self.report)).await {
            Ok(Ok(_)) => {
                (self.sent, self.sent_at) = (Some(self.report.clone()), Instant::now());
                self.failures = 0;
                return;
            }
            Ok(Err(error)) => with_cause(&error),
            Err(_) => "no answer in time".to_owned(),
        };
        if self.failures == 0 {
            eprintln!("landfall: a report failed, and is retried until it succeeds: {error}");
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// Sends the last report, then saves as the reply says.
    async fn end(&mut self) -> save::SaveReport {
        let deadline = Instant::now() + self.request.timeout;
        if self.looked.is_none() && timeout(LAST_REPORT, self.look()).await.is_err() {
            eprintln!("landfall: stopped before the state of the clone was known");
        }
        let on_stop = self.last_word().await;
        eprintln!("landfall: stopping, with {}", if on_stop == OnStop::Save { "a save" } else { "an autosave" });
        let request = self.save_request(deadline);
        save::repeated(ATTEMPTS, deadline, async || self.save(&request, on_stop).await).await
    }

    /// Asks the controller for the action. Only the leading replica replies, so the request is repeated until it reaches that one.
    async fn last_word(&self) -> OnStop {
        let Some(reporter) = &self.request.reporter else { return OnStop::default() };
        let deadline = Instant::now() + LAST_REPORT;
        loop {
            let error = match timeout_at(deadline, reporter.send(&self.report)).await {
                Ok(Ok(answer)) => return answer.on_stop,
                Ok(Err(error)) if error.passes() && Instant::now() + BETWEEN_LAST_REPORTS < deadline => {
                    sleep(BETWEEN_LAST_REPORTS).await;
                    continue;
                }
                Ok(Err(error)) => with_cause(&error),
                Err(_) => "no answer in time".to_owned(),
            };
            eprintln!("landfall: the last report failed: {error}");
            return OnStop::default();
        }
    }

    async fn save(&self, request: &save::Request, on_stop: OnStop) -> save::SaveReport {
        match on_stop {
            OnStop::Save => save(request).await,
            OnStop::Autosave => autosave(request).await,
        }
    }

    fn save_request(&self, deadline: Instant) -> save::Request {
        save::Request {
            workspace: WorkspaceClone { branch: self.branch(), ..self.request.workspace.clone() },
            access: self.request.access.clone(),
            scratch: self.request.scratch.clone(),
            deadline,
            now: self.clock.now().as_second(),
        }
    }

    /// The workspace's branch: the one in the clone's result file, which may have a suffix. For a clone that existed, that file
    /// names the branch that was checked out, which may belong to somebody else, so only names that a clone can choose are taken.
    fn branch(&self) -> BranchName {
        let wanted = &self.request.workspace.branch;
        let recorded = self.request.record.as_deref().and_then(recorded);
        let may_be = |recorded: &BranchName| guards::recorded_branch(may_choose(wanted.as_str(), recorded.as_str()));
        let recorded = recorded.filter(may_be);
        recorded.unwrap_or_else(|| wanted.clone())
    }
}

/// The branch in a clone's result file; none if there is no file, or it is malformed.
fn recorded(file: &Path) -> Option<BranchName> {
    #[derive(Deserialize)]
    struct Record {
        #[serde(default, deserialize_with = "tolerant")]
        branch: Option<String>,
    }
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(std::fs::File::open(file).ok()?, MOST_RECORD), &mut text).ok()?;
    serde_json::from_slice::<Record>(&text).ok()?.branch?.parse().ok()
}

/// Reaps orphans: processes that git had started when it was killed. No process that the agent waits for runs at this point.
fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}

/// A hash of the files that every git command changes.
fn glance(directory: &Path) -> io::Result<u64> {
    let Some(git) = Directory::open(directory)?.descend(Path::new(".git"))? else { return Ok(0) };
    let mut sum = 0_u64;
    for name in ["HEAD", "index", "packed-refs"] {
        sum = sum.wrapping_add(git.mark(OsStr::new(name))?.unwrap_or_default());
    }
    let refs = git.descend(Path::new("refs"))?.map(|refs| refs.marks(OsStr::new(""))).transpose()?;
    Ok(sum.wrapping_add(refs.unwrap_or_default()))
}

/// A hash of the git directories of submodules and further worktrees.
fn elsewhere(directory: &Path) -> io::Result<u64> {
    let Some(git) = Directory::open(directory)?.descend(Path::new(".git"))? else { return Ok(0) };
    let mut sum = 0_u64;
    for name in ["modules", "worktrees"] {
        let marks = git.descend(Path::new(name))?.map(|found| found.marks(OsStr::new(""))).transpose()?;
        sum = sum.wrapping_mul(31).wrapping_add(marks.unwrap_or_default());
    }
    Ok(sum)
}

fn with_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_done_seldom() {
        let millis = Duration::from_millis;
        for (took, after) in
            [(0, 5_000), (10, 5_000), (20, 10_000), (200, 100_000), (1_000, 300_000), (u64::MAX, 300_000)]
        {
            assert_eq!(WALK.after(millis(took)), millis(after), "{took}");
        }
        assert_eq!(LOOK_AGAIN.after(millis(200)), millis(10_000));
    }

    #[test]
    fn a_record_that_is_not_understood_names_no_branch() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("record");
        assert_eq!(recorded(&file), None);
        for (text, branch) in [
            (r#"{"branch":"landfall/try-2","head":null,"cloned":true}"#, Some("landfall/try-2")),
            (r#"{"branch":null}"#, None),
            (r#"{"branch":7}"#, None),
            (r#"{"branch":"a..b"}"#, None),
            ("{", None),
            ("", None),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(recorded(&file).as_ref().map(BranchName::as_str), branch, "{text}");
        }
    }
}
