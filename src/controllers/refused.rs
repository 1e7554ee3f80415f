//! The namespaces whose Secrets Kubernetes does not let the operator list, because a RoleBinding is missing.
//!
//! Invariant: such a namespace stops nobody else. Its Secrets count as absent, its tokens say so in status, and so does
//! the readiness check of the caches, which passes.

use crate::runtime::readiness::Check;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most namespaces that a message names.
const MOST_NAMES: usize = 5;

#[derive(Default)]
pub struct RefusedNamespaces(Mutex<State>);

#[derive(Default)]
struct State {
    namespaces: BTreeSet<String>,
    /// Set once the caches are filled.
    check: Option<Check>,
}

impl RefusedNamespaces {
    /// Has a check pass from now on, with a note while there are such namespaces.
    pub fn report_to(&self, check: Check) {
        let mut state = self.lock();
        state.check = Some(check);
        state.report();
    }

    /// Kubernetes refused to list the Secrets of a namespace.
    pub fn refused(&self, namespace: &str) {
        let mut state = self.lock();
        if state.namespaces.insert(namespace.to_owned()) {
            state.report();
        }
    }

    /// Kubernetes listed them.
    pub fn allowed(&self, namespace: &str) {
        let mut state = self.lock();
        if state.namespaces.remove(namespace) {
            state.report();
        }
    }

    // A panic while the lock was held leaves a consistent value, because every change is one insertion or removal.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn report(&self) {
        let Some(check) = &self.check else { return };
        if self.namespaces.is_empty() {
            return check.ready();
        }
        let names: Vec<_> = self.namespaces.iter().take(MOST_NAMES).map(String::as_str).collect();
        let more = match self.namespaces.len().checked_sub(MOST_NAMES) {
            Some(more @ 1..) => format!(" and {more} more"),
            _ => String::new(),
        };
        check.ready_but(format!(
            "Kubernetes does not let the operator list Secrets in {}{more}: no token is published there. The chart's value \
             secretNamespaces lists these namespaces, and `helm upgrade` makes a RoleBinding again that was deleted",
            names.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::readiness::Readiness;

    #[test]
    fn a_refused_namespace_is_named_and_stops_nothing() {
        let readiness = Readiness::new();
        let refused = RefusedNamespaces::default();
        let check = readiness.check("caches");
        (0..7).for_each(|number| refused.refused(&format!("team-{number}")));
        assert!(!readiness.report().passed, "the caches are not filled yet");
        refused.report_to(check);
        let report = readiness.report();
        assert!(
            report.passed && report.text.contains("in team-0, team-1, team-2, team-3, team-4 and 2 more: no token")
        );
        (0..7).for_each(|number| refused.allowed(&format!("team-{number}")));
        assert_eq!(readiness.report().text, "[+]caches ok\nreadyz check passed\n");
    }
}
