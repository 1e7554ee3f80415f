//! `landfall workspace agent`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::save::{Work, WorkArgs, clean_is_success, tell};
use crate::agent::reporter::{ReportUrl, Reporter};
use crate::agent::sidecar::{self, Request};
use crate::runtime::clock::SystemClock;
use crate::runtime::shutdown::on_first_signal;

/// What is said in the long help.
pub const HELP: &str = "\
It waits for SIGTERM, and meanwhile does two things. If something changed, it reports to --report-url what the clone is like \
(HEAD, its branch, what is not committed, what is not pushed). And each --interval it pushes what changed to \
refs/landfall/wip/UID, as `landfall workspace save --autosave` does. HEAD, index, refs and hooks of the clone are left alone, and \
its configuration is not read.

At SIGTERM it reports once more and does as it is answered: Save, what `landfall workspace save` does; Autosave, or without an \
answer, only an autosave. A further signal is passed over, so that it is done or fails within --timeout; give the pod as long. \
What came of it is printed as `save` prints it.

Exit status:
  0   all work is at the remote
  20  some work is not, and it takes a person to change that
  75  some work is not: try again
  1, 2  the command itself is wrong";

/// What to watch over.
#[derive(Args)]
pub struct AgentArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// Seconds between two autosaves; 0 for none but the last.
    #[arg(long, env = "LANDFALL_INTERVAL", default_value_t = 300)]
    interval: u32,
    /// Where to report: `http://HOST:PORT/v1/report`. Default: nowhere.
    #[arg(long, env = "LANDFALL_REPORT_URL", requires = "identity_file")]
    report_url: Option<ReportUrl>,
    /// The file with the token of the pod's `ServiceAccount` for audience landfall. It is read for each report.
    #[arg(long, env = "LANDFALL_IDENTITY_FILE")]
    identity_file: Option<PathBuf>,
    /// What `clone` wrote with its --record. If it is there, its branch goes before --branch. Nobody else may write to it.
    #[arg(long, env = "LANDFALL_RECORD")]
    record: Option<PathBuf>,
}

/// Does it, until SIGTERM.
pub async fn run(args: AgentArgs) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let stop = on_first_signal()?;
    let Work { workspace, access, scratch, timeout, termination_log } = args.work.read()?;
    let reporter = args.report_url.zip(args.identity_file);
    let request = Request {
        workspace,
        access,
        scratch,
        record: args.record,
        interval: Some(Duration::from_secs(args.interval.into())).filter(|interval| !interval.is_zero()),
        reporter: reporter.map(|(url, identity_file)| Reporter { url, identity_file }),
        timeout,
    };
    let report = sidecar::run(&request, &SystemClock, &stop).await;
    tell(&report, termination_log.as_deref())?;
    Ok(clean_is_success(report.outcome))
}
