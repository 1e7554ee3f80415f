//! Readiness: one source for `/readyz`, the gauge and the log.
//!
//! Invariant: a check starts as not ready, and a process without checks is not ready. A standby is ready, since it could
//! lead at any moment, but its check says that it is a standby ([`Check::ready_but`]).

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The process's checks. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    checks: Arc<Mutex<Vec<(&'static str, State)>>>,
}

/// One named check; its holder sets its state. Clones share it.
#[derive(Clone, Debug)]
pub struct Check {
    name: &'static str,
    readiness: Readiness,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Ready,
    ReadyBut(String),
    NotReady(String),
}

/// The state of a set of checks, and its text with a line for each, like `/readyz?verbose` of the Kubernetes API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// There are checks, and all passed.
    pub passed: bool,
    pub text: String,
}

impl Readiness {
    /// No check yet, so not ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The check of this name. A new one is not ready until its holder sets it. The name is a metric's label: a constant,
    /// never made from data.
    #[must_use]
    pub fn check(&self, name: &'static str) -> Check {
        let mut checks = self.lock();
        if !checks.iter().any(|(known, _)| *known == name) {
            checks.push((name, State::NotReady("has not reported yet".to_owned())));
        }
        Check { name, readiness: self.clone() }
    }

    /// The checks by name, with whether each passes.
    #[must_use]
    pub fn checks(&self) -> Vec<(&'static str, bool)> {
        self.lock().iter().map(|(name, state)| (*name, state.passes())).collect()
    }

    pub fn report(&self) -> Report {
        let checks = self.lock();
        Report::of("readyz", checks.iter().map(|(name, state)| (*name, state.passes(), state.words())))
    }

    fn set(&self, name: &'static str, state: State) {
        let mut checks = self.lock();
        let Some((_, current)) = checks.iter_mut().find(|(known, _)| *known == name) else { return };
        if *current == state {
            return;
        }
        let words = state.words().unwrap_or_default();
        if state.passes() {
            tracing::info!(check = name, note = words, "ready");
        } else {
            tracing::warn!(check = name, reason = words, "not ready");
        }
        *current = state;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(&'static str, State)>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Check {
    pub fn ready(&self) {
        self.readiness.set(self.name, State::Ready);
    }

    /// The check passes with a note, such as that this process is a standby.
    pub fn ready_but(&self, note: impl Into<String>) {
        self.readiness.set(self.name, State::ReadyBut(note.into()));
    }

    /// The check fails. Each new reason is logged, so a reason contains no counters.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.readiness.set(self.name, State::NotReady(reason.into()));
    }
}

impl State {
    fn passes(&self) -> bool {
        !matches!(self, Self::NotReady(_))
    }

    fn words(&self) -> Option<&str> {
        match self {
            Self::Ready => None,
            Self::ReadyBut(words) | Self::NotReady(words) => Some(words),
        }
    }
}

impl Report {
    /// A report on checks: the name, whether it passes, and a note.
    pub(super) fn of<'a>(endpoint: &str, checks: impl Iterator<Item = (&'a str, bool, Option<&'a str>)>) -> Self {
        let mut text = String::new();
        let (mut any, mut passed) = (false, true);
        for (name, passes, words) in checks {
            let (sign, result) = if passes { ("[+]", "ok") } else { ("[-]", "failed") };
            let words = words.map(|words| format!(": {words}")).unwrap_or_default();
            let _ = writeln!(text, "{sign}{name} {result}{words}");
            any = true;
            passed &= passes;
        }
        passed &= any;
        let _ = writeln!(text, "{endpoint} check {}", if passed { "passed" } else { "failed" });
        Self { passed, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::telemetry::tests::Captured;

    #[test]
    fn a_check_is_not_ready_until_its_holder_sets_it() {
        let readiness = Readiness::new();
        assert!(!readiness.report().passed);
        let caches = readiness.check("kubernetes caches");
        let leadership = readiness.check("leadership");
        leadership.ready_but("standby, landfall-b leads");
        assert_eq!(
            readiness.report(),
            Report {
                passed: false,
                text: "[-]kubernetes caches failed: has not reported yet\n\
                       [+]leadership ok: standby, landfall-b leads\n\
                       readyz check failed\n"
                    .to_owned()
            }
        );
        caches.ready();
        leadership.ready();
        assert_eq!(
            readiness.report(),
            Report {
                passed: true,
                text: "[+]kubernetes caches ok\n[+]leadership ok\nreadyz check passed\n".to_owned()
            }
        );
        caches.not_ready("the watch of Secrets is broken");
        assert!(!readiness.report().passed);
        assert_eq!(readiness.checks(), [("kubernetes caches", false), ("leadership", true)]);
    }

    #[test]
    fn a_name_belongs_to_one_check() {
        let readiness = Readiness::new();
        readiness.check("caches").ready();
        assert!(readiness.check("caches").readiness.report().passed, "asking for it again does not reset it");
    }

    #[test]
    fn each_transition_is_logged_once() {
        let log = Captured::default();
        log.during(|| {
            let check = Readiness::new().check("caches");
            check.ready();
            check.ready();
            check.not_ready("gone");
            check.not_ready("gone");
        });
        assert_eq!(log.messages(), ["ready", "not ready"]);
    }
}
