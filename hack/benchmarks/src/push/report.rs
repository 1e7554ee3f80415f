//! The figures of pushes, and their goals.

use super::Results;
use crate::BenchmarkError;
use crate::figures::{Figures, Goal};

pub(super) fn figures(results: &Results) -> Result<Figures, BenchmarkError> {
    let mut figures = Figures::default();
    figures.add("repositories", number_of(results.repositories), "ProjectRepositories that are followed")?;
    let meaning = "from the start of the controller until all are Ready, in seconds";
    figures.add("first_sight_s", results.first_sight.as_secs_f64(), meaning)?;
    figures.add("first_sight_mints", number_of(results.first_sight_mints), "tokens that were asked for meanwhile")?;
    figures.add("first_sight_rest", number_of(results.first_sight_rest), "other REST calls meanwhile")?;
    figures.add("pushes", number_of(results.pushes.calls() as u64), "pushes, one at a time")?;
    let meaning = "from sending a delivery until the template is patched, beyond the debounce: the median";
    figures.hold("push_p50_ms", results.pushes.p50_ms(), Goal::AtMost(100.0), meaning)?;
    let meaning = "the same, exceeded by one of a hundred";
    figures.hold("push_p99_ms", results.pushes.p99_ms(), Goal::AtMost(500.0), meaning)?;
    let meaning = "the controller's processor time in a second of these pushes, in ms";
    figures.add("cpu_ms_per_s", results.cpu_ms_per_s, meaning)?;
    figures.add("rss_mb", number_of(results.resident) / 1e6, "the controller's memory after them")?;
    figures.add("peak_rss_mb", number_of(results.peak) / 1e6, "the controller's most memory")?;
    Ok(figures)
}

#[allow(clippy::cast_precision_loss, reason = "nothing is counted up to 2^52")]
fn number_of(count: u64) -> f64 {
    count as f64
}
