//! The figures of tokens, and their goals.

use std::time::Duration;

use super::{Restart, Turns};
use crate::BenchmarkError;
use crate::figures::{Figures, Goal};

/// How many times as fast as the plain tokens.
const FASTER: f64 = 1.5;
/// An event is for people, and one can speak of many objects.
const EVENTS: f64 = 0.05;

pub(super) fn figures(count: u64, ours: &Turns, plain: &Turns, restart: &Restart) -> Result<Figures, BenchmarkError> {
    let each =
        |turns: &Turns, number: u64| number_of(number) / (number_of(count) * number_of(turns.elapsed.len() as u64));
    let each_ms = |turns: &Turns, time: Duration| {
        time.as_secs_f64() * 1e3 / (number_of(count) * number_of(turns.elapsed.len() as u64))
    };
    let seconds =
        |turns: &Turns| turns.elapsed.iter().sum::<Duration>().as_secs_f64() / number_of(turns.elapsed.len() as u64);
    let mut figures = Figures::default();
    figures.add("tokens", number_of(count), "InstallationTokens, and objects of the plain tokens")?;
    figures.add("ours_s", seconds(ours), "from the start of the controller until all are Ready, mean of two turns")?;
    figures.add("plain_s", seconds(plain), "the plain tokens'")?;
    let ratio = seconds(plain) / seconds(ours);
    figures.hold("speed_ratio", ratio, Goal::AtLeast(FASTER), "the plain tokens' time divided by ours")?;

    let meaning = "writes of InstallationTokens and Secrets for each token";
    figures.hold("ours_writes_each", each(ours, ours.api.writes), Goal::AtMost(3.0), meaning)?;
    figures.add("plain_writes_each", each(plain, plain.api.writes), "the plain tokens'")?;
    let meaning = "writes of events for each token";
    figures.hold("ours_events_each", each(ours, ours.api.events), Goal::AtMost(EVENTS), meaning)?;
    figures.add("ours_other_writes", number_of(ours.api.other_writes) / 2.0, "all other writes of a turn")?;
    let meaning = "reads of an InstallationToken or a Secret for each token";
    figures.hold("ours_reads_each", each(ours, ours.api.reads), Goal::AtMost(1.0), meaning)?;
    figures.add("plain_reads_each", each(plain, plain.api.reads), "the plain tokens' reads for each")?;
    figures.add("ours_other_reads", number_of(ours.api.other_reads) / 2.0, "all other reads of a turn, with lists")?;
    let meaning = "GitHub's REST calls for each token: mints, and calls with a token";
    let calls = each(ours, ours.github.mints + ours.github.with_tokens);
    figures.hold("ours_rest_each", calls, Goal::AtMost(2.0), meaning)?;
    figures.add("plain_rest_each", each(plain, plain.github.all()), "the plain tokens'")?;
    figures.add("ours_other_rest", number_of(ours.github.others) / 2.0, "all other REST calls of a turn")?;

    figures.add("ours_cpu_ms_each", each_ms(ours, ours.cost.own), "the controller's processor time for each token")?;
    figures.add("plain_cpu_ms_each", each_ms(plain, plain.cost.own), "the plain tokens'")?;
    figures.add("ours_api_cpu_ms_each", each_ms(ours, ours.cost.api_server), "the API server's with the controller")?;
    figures.add("plain_api_cpu_ms_each", each_ms(plain, plain.cost.api_server), "with the plain tokens")?;
    figures.add("ours_etcd_cpu_ms_each", each_ms(ours, ours.cost.etcd), "etcd's with the controller")?;
    figures.add("plain_etcd_cpu_ms_each", each_ms(plain, plain.cost.etcd), "with the plain tokens")?;
    figures.add("ours_peak_rss_mb", number_of(ours.peak) / 1e6, "the controller's most memory until all are Ready")?;
    figures.add("plain_peak_rss_mb", number_of(plain.peak) / 1e6, "the plain tokens'")?;

    let Restart { api, github, settled } = restart;
    figures.hold("restart_writes", number_of(api.all_writes()), Goal::AtMost(0.0), "writes after a restart")?;
    figures.hold("restart_mints", number_of(github.mints), Goal::AtMost(0.0), "mints after a restart")?;
    figures.add("restart_rest", number_of(github.all()), "REST calls after a restart, with mints")?;
    figures.add("restart_reads", number_of(api.all_reads()), "reads and lists after a restart")?;
    let all = api.all_writes() + api.all_reads() + github.all();
    figures.hold("restart_requests", number_of(all), Goal::AtMost(20.0), "all of these after a restart")?;
    figures.add("restart_settled_s", settled.as_secs_f64(), "from the restart to the last of them")?;
    Ok(figures)
}

#[allow(clippy::cast_precision_loss, reason = "nothing is counted up to 2^52")]
fn number_of(count: u64) -> f64 {
    count as f64
}
