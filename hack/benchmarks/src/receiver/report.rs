//! The figures of the receiver, and their goals.

use std::time::Duration;

use super::{Memory, Results};
use crate::BenchmarkError;
use crate::cost::Turn;
use crate::figures::{Figures, FiguresError, Goal};
use crate::load::Measured;

/// How many times the plain receiver's deliveries per second, by the number in flight.
const FASTER: [(usize, f64); 4] = [(1, 1.2), (8, 3.0), (64, 5.0), (512, 15.0)];
/// The API server's processor time for a delivery, compared with the plain receiver's, at 64 in flight. The logs of
/// deliveries that each ProjectRepository once had cost 1.4 times the plain receiver's; the goal is a quarter of that.
const API_SERVER_RATIO_64: f64 = 0.35;

pub(super) fn figures(results: &Results) -> Result<Figures, BenchmarkError> {
    let mut figures = Figures::default();
    for (in_flight, ours, plain) in &results.levels {
        level(&mut figures, *in_flight, ours, plain)?;
    }
    let (calm, beside, flood) = &results.beside_flood;
    figures.add("flood_per_s", flood.per_second(), "wrong signatures per second during a flood")?;
    figures.add(
        "calm_p50_ms_8",
        calm.measured.p50_ms(),
        "median latency of a delivery without a flood, 8 in flight",
    )?;
    figures.add("flood_p50_ms_8", beside.measured.p50_ms(), "the same during the flood")?;
    let ratio = beside.measured.p50_ms() / calm.measured.p50_ms();
    figures.hold("flood_p50_ratio", ratio, Goal::AtMost(1.5), "the latter divided by the former")?;
    let (refused, spent) = &results.refused;
    let meaning = "wrong signatures refused per second of processor time";
    figures.hold("refused_per_cpu_s", per_second(refused, *spent), Goal::AtLeast(15_000.0), meaning)?;
    memory(&mut figures, &results.memory)?;
    results.floor.add_to(&mut figures)?;
    Ok(figures)
}

fn level(figures: &mut Figures, in_flight: usize, ours: &Turn, plain: &Turn) -> Result<(), FiguresError> {
    let n = in_flight;
    figures.add(
        format!("ours_per_s_{n}"),
        ours.measured.per_second(),
        format!("deliveries stored per second, {n} in flight"),
    )?;
    figures.add(format!("plain_per_s_{n}"), plain.measured.per_second(), "the plain receiver's")?;
    let ratio = ours.measured.per_second() / plain.measured.per_second();
    let goal = FASTER.iter().find(|(level, _)| *level == n).map(|(_, goal)| Goal::AtLeast(*goal));
    bounded(figures, format!("ratio_{n}"), ratio, goal, "ours divided by the plain receiver's")?;
    figures.add(format!("ours_p50_ms_{n}"), ours.measured.p50_ms(), "median latency")?;
    figures.add(format!("plain_p50_ms_{n}"), plain.measured.p50_ms(), "the plain receiver's")?;
    if n == 1 {
        let ratio = ours.measured.p50_ms() / plain.measured.p50_ms();
        figures.hold("p50_ratio_1", ratio, Goal::AtMost(1.0), "ours divided by the plain receiver's")?;
    }
    figures.add(format!("ours_p99_ms_{n}"), ours.measured.p99_ms(), "latency that one of a hundred exceeded")?;
    figures.add(format!("plain_p99_ms_{n}"), plain.measured.p99_ms(), "the plain receiver's")?;
    figures.add(format!("ours_cpu_ms_{n}"), ours.own_ms(), "the receiver's processor time for a delivery")?;
    figures.add(format!("plain_cpu_ms_{n}"), plain.own_ms(), "the plain receiver's")?;
    figures.add(
        format!("ours_api_cpu_ms_{n}"),
        ours.api_server_ms(),
        "the API server's processor time for a delivery",
    )?;
    figures.add(format!("plain_api_cpu_ms_{n}"), plain.api_server_ms(), "with the plain receiver")?;
    let ratio = ours.api_server_ms() / plain.api_server_ms();
    let goal = (n == 64).then_some(Goal::AtMost(API_SERVER_RATIO_64));
    bounded(figures, format!("api_cpu_ratio_{n}"), ratio, goal, "with ours divided by with the plain receiver")?;
    figures.add(format!("ours_etcd_cpu_ms_{n}"), ours.etcd_ms(), "etcd's processor time for a delivery")?;
    figures.add(format!("plain_etcd_cpu_ms_{n}"), plain.etcd_ms(), "with the plain receiver")
}

fn bounded(
    figures: &mut Figures,
    name: String,
    value: f64,
    goal: Option<Goal>,
    meaning: &str,
) -> Result<(), FiguresError> {
    match goal {
        Some(goal) => figures.hold(name, value, goal, meaning),
        None => figures.add(name, value, meaning),
    }
}

fn memory(figures: &mut Figures, memory: &Memory) -> Result<(), FiguresError> {
    let (idle_50, idle_10000) = (megabytes(memory.idle_50), megabytes(memory.idle_10000));
    figures.hold("rss_idle_50_mb", idle_50, Goal::AtMost(16.0), "memory of an idle receiver, 50 repositories")?;
    let meaning = "memory of an idle receiver, 10,000 repositories";
    figures.hold("rss_idle_10000_mb", idle_10000, Goal::AtMost(64.0), meaning)?;
    let meaning = "memory after the deliveries, 512 connections open";
    figures.add("rss_loaded_mb", megabytes(memory.loaded), meaning)?;
    figures.add("plain_rss_loaded_mb", megabytes(memory.plain_loaded), "the plain receiver's")
}

#[allow(clippy::cast_precision_loss, reason = "nobody makes 2^52 calls")]
fn per_second(measured: &Measured, time: Duration) -> f64 {
    measured.calls() as f64 / time.as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "no process has 2^52 bytes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
