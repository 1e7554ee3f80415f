//! What goes on beside a person's work, for as long as the pod does: it is looked at, told of, and saved.
//!
//! The invariant: whatever happens to the controller, work does not wait for it. When the pod ends, the agent saves: all of it to where
//! people find it if the controller says so at that moment, and otherwise as an autosave. Nothing but the deadline cuts that short.
//!
//! It is idle most of its life, in a pod whose memory and processor are the person's. So it asks the file system whether anything
//! changed, and git only if something did; both the less often, the longer they take.

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
use super::beneath::Directory;
use super::clone::may_choose;
use super::gather::Workspace;
use super::local::is_made;
use super::look::look;
use super::remote::Access;
use super::report::{Autosave, MOST_TEXT, OnStop, Report, bounded, tolerant};
use super::reporter::Reporter;
use super::save::{self, Outcome, autosave, save};
use crate::git::{BranchName, Sealed};
use crate::runtime::clock::Clock;

/// How often the few files are asked about that git writes whenever it is used.
const GLANCE: Duration = Duration::from_secs(1);
/// Between two reports.
const BETWEEN_REPORTS: Duration = Duration::from_secs(3);
/// The longest between two attempts to report.
const LONGEST_BETWEEN_REPORTS: Duration = Duration::from_mins(1);
/// How long a report may take.
const REPORT: Duration = Duration::from_secs(10);
/// How long the last one may take: the time is needed for the save.
const LAST_REPORT: Duration = Duration::from_secs(15);
/// Between two attempts at that.
const BETWEEN_LAST_REPORTS: Duration = Duration::from_millis(500);
/// How long git may take to look.
const LOOK: Duration = Duration::from_mins(5);
/// How often a save is tried when the pod ends, while there is time.
const ATTEMPTS: u32 = 3;
/// The most bytes of what a clone wrote of itself.
const MOST_RECORD: u64 = 64 << 10;

/// After how much time something is done again: so many times what it took, within limits.
#[derive(Clone, Copy, Debug)]
struct Pace {
    times: u32,
    least: Duration,
    most: Duration,
}

/// Asking the file system about each file: a fifth of a percent of the time.
const WALK: Pace = Pace { times: 500, least: Duration::from_secs(5), most: Duration::from_mins(5) };
/// Having git look, where something changed: two percent.
const LOOK_AGAIN: Pace = Pace { times: 50, least: Duration::from_secs(3), most: Duration::from_mins(5) };

impl Pace {
    fn after(self, took: Duration) -> Duration {
        took.saturating_mul(self.times).clamp(self.least, self.most)
    }
}

/// What an agent is for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose work, and where it is.
    pub workspace: Workspace,
    /// Where it goes.
    pub access: Access,
    /// A directory for what is gathered, outside of the volume.
    pub scratch: PathBuf,
    /// What the clone wrote of itself, if it did: its branch goes before the workspace's.
    pub record: Option<PathBuf>,
    /// How often work is autosaved; none for only at the end.
    pub interval: Option<Duration>,
    /// Where it reports; none for nowhere.
    pub reporter: Option<Reporter>,
    /// How long a save may take.
    pub timeout: Duration,
}

/// What tells whether anything changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signs {
    /// What git writes whenever it is used: HEAD, the index, refs.
    git: u64,
    /// All files.
    tree: u64,
}

/// An agent at work.
struct Agent<'a> {
    request: &'a Request,
    clock: &'a dyn Clock,
    signs: Signs,
    /// At which signs git looked.
    looked: Option<Signs>,
    /// At which signs all was saved.
    saved: Option<Signs>,
    report: Report,
    /// What went wrong when it was looked at, and when it was saved.
    troubles: [Option<String>; 2],
    sent: Option<Report>,
    /// How often in a row a report did not arrive.
    failures: u32,
}

/// Runs until `stop` and the save after it; what came of that.
pub async fn run(request: &Request, clock: &dyn Clock, stop: &CancellationToken) -> save::Report {
    let mut agent = Agent {
        request,
        clock,
        signs: Signs::default(),
        looked: None,
        saved: None,
        report: Report::default(),
        troubles: [None, None],
        sent: None,
        failures: 0,
    };
    // As the first process of a container it is that anyway; in a pod whose containers share their processes it is not.
    let _ = set_child_subreaper(Some(getpid()));
    // What is under way then is given up: git ends with it, and what it does at a remote is done or not done.
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
            if report_at <= Instant::now() && self.sent.as_ref() != Some(&self.report) {
                self.tell().await;
                let wait = BETWEEN_REPORTS.saturating_mul(2_u32.saturating_pow(self.failures));
                report_at = Instant::now() + wait.min(LONGEST_BETWEEN_REPORTS);
            }
            reap();
            sleep(GLANCE).await;
        }
    }

    /// Asks about all files, on a thread of its own: a slow volume does not keep a signal waiting.
    async fn walk(&self) -> u64 {
        let directory = self.request.workspace.directory.clone();
        let walked = tokio::task::spawn_blocking(move || {
            Directory::open(&directory).and_then(|directory| directory.marks(OsStr::new(".git")))
        });
        walked.await.map_or(0, io::Result::unwrap_or_default)
    }

    async fn look(&mut self) {
        let looked = self.looked_at().await;
        self.looked = Some(self.signs);
        self.troubles[0] = match looked {
            Ok(report) => {
                let autosave = self.report.autosave.take();
                self.report = Report { autosave, ..report };
                None
            }
            Err(error) => Some(with_cause(&error)),
        };
        self.settle();
    }

    async fn looked_at(&self) -> Result<Report, WorkspaceError> {
        let Workspace { directory, .. } = &self.request.workspace;
        if !is_made(directory)? {
            return Ok(Report::default());
        }
        let scratch = tempfile::Builder::new().prefix("landfall-look-").tempdir_in(&self.request.scratch);
        let scratch = scratch.map_err(WorkspaceError::scratch(&self.request.scratch))?;
        let git = Sealed::new(scratch.path(), scratch.path(), Instant::now() + LOOK);
        look(directory, &self.branch(), scratch.path(), &git).await
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
            // In seconds, as Kubernetes writes times.
            let at = Timestamp::from_second(self.clock.now().as_second()).unwrap_or_default();
            self.report.autosave = Some(Autosave { commit: saved.commit.clone(), at });
        }
        self.troubles[1] = report.left.first().map(|left| match report.left.len() {
            1 => format!("{} is not saved: {}", left.what, left.message),
            more => format!("{} and {} more are not saved: {}", left.what, more - 1, left.message),
        });
        self.settle();
    }

    fn settle(&mut self) {
        let trouble = self.troubles.iter().flatten().next();
        self.report.trouble = trouble.map(|trouble| bounded(trouble, MOST_TEXT));
    }

    async fn tell(&mut self) {
        let Some(reporter) = &self.request.reporter else {
            self.sent = Some(self.report.clone());
            return;
        };
        let error = match timeout(REPORT, reporter.send(&self.report)).await {
            Ok(Ok(_)) => {
                self.sent = Some(self.report.clone());
                self.failures = 0;
                return;
            }
            Ok(Err(error)) => with_cause(&error),
            Err(_) => "no answer in time".to_owned(),
        };
        if self.failures == 0 {
            eprintln!("landfall: a report did not arrive, and is sent again until it does: {error}");
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// The last report, and the save that it is answered with.
    async fn end(&mut self) -> save::Report {
        let deadline = Instant::now() + self.request.timeout;
        if self.looked.is_none() && timeout(LAST_REPORT, self.look()).await.is_err() {
            eprintln!("landfall: stopped before the clone was looked at");
        }
        let on_stop = self.last_word().await;
        eprintln!("landfall: stopping, with {}", if on_stop == OnStop::Save { "a save" } else { "an autosave" });
        let request = self.save_request(deadline);
        let mut wait = Duration::from_secs(1);
        for _ in 1..ATTEMPTS {
            let report = self.save(&request, on_stop).await;
            if report.outcome != Outcome::TryAgain || Instant::now() + wait >= deadline {
                return report;
            }
            sleep(wait).await;
            wait *= 2;
        }
        self.save(&request, on_stop).await
    }

    /// What the controller says is to be done. Of several replicas one leads and answers: who does not is asked again.
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
            eprintln!("landfall: the last report did not arrive: {error}");
            return OnStop::default();
        }
    }

    async fn save(&self, request: &save::Request, on_stop: OnStop) -> save::Report {
        match on_stop {
            OnStop::Save => save(request).await,
            OnStop::Autosave => autosave(request).await,
        }
    }

    fn save_request(&self, deadline: Instant) -> save::Request {
        save::Request {
            workspace: Workspace { branch: self.branch(), ..self.request.workspace.clone() },
            access: self.request.access.clone(),
            scratch: self.request.scratch.clone(),
            deadline,
            now: self.clock.now().as_second(),
        }
    }

    /// The workspace's branch: the one that the clone was made with, which may have stepped aside from another's. Of a clone
    /// that was there, what is recorded is the branch that the person was at, which may be anybody's.
    fn branch(&self) -> BranchName {
        let wanted = &self.request.workspace.branch;
        let recorded = self.request.record.as_deref().and_then(recorded);
        let may_be = |recorded: &BranchName| guards::recorded_branch(may_choose(wanted.as_str(), recorded.as_str()));
        let recorded = recorded.filter(may_be);
        recorded.unwrap_or_else(|| wanted.clone())
    }
}

/// The branch of which a clone wrote; none if it did not, or in another way.
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

/// Lets go of what git left: when it is ended for its time, what it had started is ours. Nothing that is waited for runs now.
fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}

/// What changes whenever git is used in a clone.
fn glance(directory: &Path) -> io::Result<u64> {
    let Some(git) = Directory::open(directory)?.descend(Path::new(".git"))? else { return Ok(0) };
    let mut sum = 0_u64;
    for name in ["HEAD", "index", "packed-refs"] {
        sum = sum.wrapping_add(git.mark(OsStr::new(name))?.unwrap_or_default());
    }
    let refs = git.descend(Path::new("refs"))?.map(|refs| refs.marks(OsStr::new(""))).transpose()?;
    Ok(sum.wrapping_add(refs.unwrap_or_default()))
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
