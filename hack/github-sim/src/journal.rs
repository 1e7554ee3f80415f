//! The log of every request: what tests count, and what a person reads.
//!
//! It never holds a credential: no Authorization header, no body, and query values only as they came to GitHub's own
//! parameters, none of which is a secret.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde::Serialize;

/// Entries kept; the oldest go first.
const MOST: usize = 200_000;

/// Who a request came from.
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
    /// 1, 2, … in the order in which requests ended.
    pub sequence: u64,
    /// When it came, by the simulator's clock.
    pub time: Timestamp,
    /// The method.
    pub method: String,
    /// The path as it was sent, without the query.
    pub path: String,
    /// The query as it was sent.
    pub query: String,
    /// The status that was sent; `None` if the connection was cut before one.
    pub status: Option<u16>,
    /// Who sent it.
    pub caller: Caller,
    /// Its `User-Agent`.
    pub user_agent: String,
    /// The route it matched, such as `/repos/{owner}/{repo}`.
    pub route: Option<String>,
    /// No route matched: GitHub may know it, the simulator does not.
    pub unknown: bool,
    /// The fault that struck it.
    pub fault: Option<String>,
}

/// How often a route answered with a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// The method.
    pub method: String,
    /// The route, or the path if none matched.
    pub route: String,
    /// The status; `None` for cut connections.
    pub status: Option<u16>,
    /// How often.
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

    /// Forgets the entries; the sequence goes on.
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
