//! The witnesses: the API server's audit log and the simulated GitHub's request log say what a program asked of them.
//!
//! Invariant: nothing here is what a program says of itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use github_sim::{Caller, Sim};
use landfall_cluster::{AuditError, AuditLog, Entry, Mark};

use crate::cluster::SYSTEM;

const MINT: &str = "/app/installations/{installation_id}/access_tokens";

/// The requests of one user to the API server. Watches are not counted: they appear when they end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ApiRequests {
    /// Writes of the objects and of Secrets.
    pub(super) writes: u64,
    /// Writes of events.
    pub(super) events: u64,
    /// All other writes.
    pub(super) other_writes: u64,
    /// Reads of one object each: of the objects, of what they refer to, and of Secrets.
    pub(super) reads: u64,
    /// All other reads, and all lists.
    pub(super) other_reads: u64,
}

impl ApiRequests {
    /// Counts those of a user in which an object is one of these resources, or a Secret outside of the operator's
    /// namespace.
    fn count(entries: &[Entry], user: &str, resources: &[&str]) -> Self {
        let mut counts = Self::default();
        for entry in of_user(entries, user) {
            let own = (entry.resource == "secrets" && entry.namespace != SYSTEM)
                || resources.contains(&entry.resource.as_str());
            let count = match (entry.is_write(), own) {
                (true, true) => &mut counts.writes,
                (true, false) if entry.resource == "events" => &mut counts.events,
                (true, false) => &mut counts.other_writes,
                (false, true) if entry.verb == "get" => &mut counts.reads,
                (false, _) => &mut counts.other_reads,
            };
            *count += 1;
        }
        counts
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            writes: self.writes + other.writes,
            events: self.events + other.events,
            other_writes: self.other_writes + other.other_writes,
            reads: self.reads + other.reads,
            other_reads: self.other_reads + other.other_reads,
        }
    }

    pub(super) fn all_writes(&self) -> u64 {
        self.writes + self.events + self.other_writes
    }

    pub(super) fn all_reads(&self) -> u64 {
        self.reads + self.other_reads
    }
}

fn of_user<'a>(entries: &'a [Entry], user: &str) -> impl Iterator<Item = &'a Entry> {
    entries.iter().filter(move |entry| entry.user == user && entry.verb != "watch")
}

/// The requests to GitHub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct GitHubRequests {
    pub(super) mints: u64,
    /// Those that a token authenticated.
    pub(super) with_tokens: u64,
    /// The App's others.
    pub(super) others: u64,
}

impl GitHubRequests {
    fn count(sim: &Sim) -> Self {
        let mut counts = Self::default();
        for entry in sim.requests() {
            let count = match entry.caller {
                _ if entry.route.as_deref() == Some(MINT) => &mut counts.mints,
                Caller::Installation(_) => &mut counts.with_tokens,
                _ => &mut counts.others,
            };
            *count += 1;
        }
        counts
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            mints: self.mints + other.mints,
            with_tokens: self.with_tokens + other.with_tokens,
            others: self.others + other.others,
        }
    }

    pub(super) fn all(&self) -> u64 {
        self.mints + self.with_tokens + self.others
    }
}

/// Reads both logs from now on, for one user of the API server.
pub(super) struct Witnesses<'a> {
    audit: AuditLog,
    sim: &'a Sim,
    user: &'a str,
    began: Mark,
    /// The place up to which the log was read.
    read: Mark,
    requests: u64,
    /// The Secrets that were written with success, by namespace and name; a created one has no name in the log.
    secrets: u64,
    patched: BTreeSet<(String, String)>,
    since: Instant,
    /// When a request was last seen.
    last: Instant,
}

impl<'a> Witnesses<'a> {
    pub(super) fn begin(audit: AuditLog, sim: &'a Sim, user: &'a str) -> Result<Self, AuditError> {
        sim.reset_requests();
        let (began, now) = (audit.mark()?, Instant::now());
        let (secrets, patched) = (0, BTreeSet::new());
        Ok(Self { audit, sim, user, began, read: began, requests: 0, secrets, patched, since: now, last: now })
    }

    /// Reads on. Entries are written while this reads, so some are read twice; only counts of what was asked in all are
    /// taken from a second reading.
    pub(super) fn look(&mut self) -> Result<(), AuditError> {
        let end = self.audit.mark()?;
        let entries = self.audit.since(self.read)?;
        self.read = end;
        let mut asked = false;
        for entry in of_user(&entries, self.user) {
            asked = true;
            if entry.resource == "secrets" && entry.namespace != SYSTEM && entry.is_write() && entry.succeeded() {
                if entry.name.is_empty() {
                    self.secrets += 1;
                } else {
                    self.patched.insert((entry.namespace.clone(), entry.name.clone()));
                }
            }
        }
        let requests = self.sim.request_counts().iter().map(|count| count.count).sum();
        if asked || requests != self.requests {
            (self.requests, self.last) = (requests, Instant::now());
        }
        Ok(())
    }

    /// About how many Secrets were written.
    pub(super) fn secrets(&self) -> u64 {
        self.secrets + self.patched.len() as u64
    }

    /// How long nothing was asked.
    pub(super) fn quiet(&self) -> Duration {
        self.last.elapsed()
    }

    /// From the beginning to the last request that was seen.
    pub(super) fn busy(&self) -> Duration {
        self.last - self.since
    }

    /// Everything that was asked since the beginning.
    pub(super) fn counts(&self, resources: &[&str]) -> Result<(ApiRequests, GitHubRequests), AuditError> {
        let entries = self.audit.since(self.began)?;
        Ok((ApiRequests::count(&entries, self.user, resources), GitHubRequests::count(self.sim)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries as the audit log has them.
    fn entries(requests: &[(&str, &str, &str)]) -> Vec<Entry> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = requests.iter().map(|(user, verb, resource)| {
            let event = serde_json::json!({
                "auditID": "a", "stage": "ResponseComplete", "verb": verb, "requestURI": "/x",
                "user": {"username": user}, "responseStatus": {"code": 200},
                "objectRef": {"resource": resource, "namespace": "a", "name": "b"},
                "requestReceivedTimestamp": "2026-01-02T03:04:05.000006Z",
            });
            format!("{event}\n")
        });
        let log = AuditLog::at(file.path());
        let mark = log.mark().unwrap();
        std::fs::write(file.path(), lines.collect::<String>()).unwrap();
        log.since(mark).unwrap()
    }

    #[test]
    fn requests_are_told_apart() {
        let entries = entries(&[
            ("us", "get", "secrets"),
            ("us", "create", "secrets"),
            ("us", "patch", "installationtokens"),
            ("us", "patch", "githubapps"),
            ("us", "create", "events"),
            ("us", "list", "installationtokens"),
            ("us", "watch", "installationtokens"),
            ("us", "get", "namespaces"),
            ("them", "create", "secrets"),
        ]);
        let counts = ApiRequests::count(&entries, "us", &["installationtokens"]);
        assert_eq!(counts, ApiRequests { writes: 2, events: 1, other_writes: 1, reads: 1, other_reads: 2 });
        assert_eq!((counts.all_writes(), counts.all_reads()), (4, 3));
    }
}
