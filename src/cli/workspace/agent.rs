//! `landfall workspace agent`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::save::{Work, WorkArgs, clean_is_success, print_report};
use crate::agent::reporter::{ReportUrl, Reporter};
use crate::agent::sidecar::{self, Request};
use crate::runtime::clock::SystemClock;
use crate::runtime::shutdown::on_first_signal;

pub const HELP: &str = "\
It runs until SIGTERM. When the clone changes, it reports its state to --report-url (HEAD, its branch, uncommitted and \
unpushed changes). Every --interval it pushes changes to refs/landfall/wip/UID, as `landfall workspace save --autosave` does. \
It leaves HEAD, index, refs and hooks of the clone unchanged, and does not read its configuration.

At SIGTERM it reports once more and follows the answer: Save does the same as `landfall workspace save`; Autosave, or no \
answer, only autosaves. It ignores further signals and ends within --timeout; give the pod a grace period as long as that. \
It prints the result as `save` does.

Exit status:
  0   all work is on the remote
  20  some work is not, and a person has to act
  75  some work is not, and a retry may help
  1, 2  the command itself is wrong";

#[derive(Args)]
pub struct AgentArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// Seconds between two autosaves; 0 for none but the last.
    #[arg(long, env = "LANDFALL_INTERVAL", default_value_t = 300)]
    interval: u32,
    /// The URL for reports: `http://HOST:PORT/v1/report`. Default: no reports.
    #[arg(long, env = "LANDFALL_REPORT_URL", requires = "identity_file")]
    report_url: Option<ReportUrl>,
    /// The file with the token of the pod's `ServiceAccount` for audience landfall. It is read for each report.
    #[arg(long, env = "LANDFALL_IDENTITY_FILE")]
    identity_file: Option<PathBuf>,
    /// The file that `clone` wrote with its --record. If it exists, its branch takes precedence over --branch. Nobody else may write to
    /// it.
    #[arg(long, env = "LANDFALL_RECORD")]
    record: Option<PathBuf>,
}

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
    print_report(&report, termination_log.as_deref())?;
    Ok(clean_is_success(report.outcome))
}
