//! Heartbeats of long-running loops, which `/livez` checks.
//!
//! A loop that ends also ends the process ([`super::shutdown`]); a heartbeat is for a loop that hangs. It is measured on the
//! monotonic clock: a test that moves the operator's clock by a month must not make every loop look dead.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::readiness::Report;

/// How often a loop with nothing to do still beats.
pub const BEAT_EVERY: Duration = Duration::from_secs(2);

/// The heartbeat of one loop. Clones share it.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    born: Instant,
    /// Milliseconds from `born` to the last beat.
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    /// Beats now for the first time.
    #[must_use]
    pub fn new() -> Self {
        Self { born: Instant::now(), last: Arc::default() }
    }

    pub fn beat(&self) {
        let since_birth = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since_birth, Ordering::Relaxed);
    }

    /// The time since the last beat.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}

/// The heartbeats that `/livez` checks. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    heartbeats: Arc<Mutex<Vec<Watched>>>,
}

#[derive(Debug)]
struct Watched {
    name: &'static str,
    heartbeat: Heartbeat,
    longest_silence: Duration,
}

impl Liveness {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a heartbeat: `/livez` fails when it has been silent for longer than `longest_silence`.
    pub fn watch(&self, name: &'static str, heartbeat: Heartbeat, longest_silence: Duration) {
        self.lock().push(Watched { name, heartbeat, longest_silence });
    }

    /// The state of all heartbeats. Without any, a process that can answer is alive.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut checks = vec![("process", true, None)];
        let watched = self.lock();
        checks.extend(watched.iter().map(|watched| {
            let silence = watched.heartbeat.silent_for();
            let words =
                (silence > watched.longest_silence).then(|| format!("no heartbeat for {} s", silence.as_secs()));
            (watched.name, words.is_none(), words)
        }));
        Report::of("livez", checks.iter().map(|(name, passes, words)| (*name, *passes, words.as_deref())))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_that_is_silent_for_too_long_is_named() {
        let liveness = Liveness::new();
        assert!(liveness.report().passed);
        let (quick, slow) = (Heartbeat::new(), Heartbeat::new());
        liveness.watch("due queue", slow.clone(), Duration::from_hours(1));
        liveness.watch("watch", quick.clone(), Duration::ZERO);
        let started = Instant::now();
        while quick.silent_for() < Duration::from_millis(2) {
            assert!(started.elapsed() < Duration::from_mins(1));
            std::thread::yield_now();
        }
        let text = liveness.report().text;
        let seconds = text.strip_prefix("[+]process ok\n[+]due queue ok\n[-]watch failed: no heartbeat for ");
        assert!(seconds.is_some_and(|rest| rest.ends_with(" s\nlivez check failed\n")), "{text}");
        quick.beat();
        assert!(quick.silent_for() < slow.silent_for());
    }
}
