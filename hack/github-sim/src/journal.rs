//! The log of every request, which tests count and people read.
//!
//! It never contains a credential: no Authorization header, no body, and only the query as it was sent. None of
//! GitHub's own parameters is a secret.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde::Serialize;

/// The number of stored entries. The oldest are dropped first.
const MOST: usize = 200_000;

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "id")]
pub enum Caller {
    /// No credential, or none that is valid.
    None,
    /// An App by its JWT; the App's id.
    App(u64),
    /// An installation by its token; the installation's id.
    Installation(u64),
}

/// One request.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// 1, 2, … in the order of the requests' ends.
    pub sequence: u64,
    /// The time of its arrival, by the simulator's clock.
    pub time: Timestamp,
    pub method: String,
    /// The path without the query.
    pub path: String,
    pub query: String,
    /// The status of the answer; `None` if the connection was closed before.
    pub status: Option<u16>,
    /// The sender.
    pub caller: Caller,
    pub user_agent: String,
    /// The matching route, such as `/repos/{owner}/{repo}`.
    pub route: Option<String>,
    /// No route matched. GitHub may have it, but the simulator does not.
    pub unknown: bool,
    /// The fault that affected it.
    pub fault: Option<String>,
}

/// The number of a route's answers with a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    pub method: String,
    /// The route, or the path if none matched.
    pub route: String,
    /// The status; `None` for closed connections.
    pub status: Option<u16>,
    pub count: u64,
}

/// The log.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    entries: VecDeque<Entry>,
    sequence: u64,
}

impl Journal {
    pub(crate) fn add(&mut self, mut entry: Entry) -> u64 {
        self.sequence += 1;
        entry.sequence = self.sequence;
        if self.entries.len() == MOST {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.sequence
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.iter().cloned().collect()
    }

    /// Removes the entries. The sequence continues.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    pub(crate) fn counts(&self) -> Vec<Count> {
        let mut counts: BTreeMap<(&str, &str, Option<u16>), u64> = BTreeMap::new();
        for entry in &self.entries {
            let route = entry.route.as_deref().unwrap_or(&entry.path);
            *counts.entry((route, &entry.method, entry.status)).or_default() += 1;
        }
        let count = |((route, method, status), count): ((&str, &str, _), _)| Count {
            method: method.to_owned(),
            route: route.to_owned(),
            status,
            count,
        };
        counts.into_iter().map(count).collect()
    }
}
