//! A client that holds each answer against the description before it hands it on.

use std::collections::BTreeSet;

use http::{HeaderMap, Method};
use serde_json::Value;

use crate::description::{Description, Undescribed, endpoint};
use crate::finding::{AllowList, Finding};
use crate::world::{Answer, World};

/// What came of a scenario.
pub struct Report {
    /// Answers that were held against the description.
    pub answers: usize,
    /// Payloads that were.
    pub payloads: usize,
    /// The routes of these answers.
    pub answered: BTreeSet<String>,
    /// Those with a success among them.
    pub succeeded: BTreeSet<String>,
    /// The events of these payloads.
    pub delivered: BTreeSet<String>,
    /// What differs and is not allowed, by version and endpoint.
    pub findings: BTreeSet<(String, Finding)>,
    pub allowed: AllowList,
}

impl Report {
    pub fn new(allowed: AllowList) -> Self {
        Self {
            answers: 0,
            payloads: 0,
            answered: BTreeSet::new(),
            succeeded: BTreeSet::new(),
            delivered: BTreeSet::new(),
            findings: BTreeSet::new(),
            allowed,
        }
    }

    fn note(&mut self, version: &str, endpoint: &str, finding: Finding) {
        if !self.allowed.allows(endpoint, &finding) {
            self.findings.insert((format!("{version} {endpoint}"), finding));
        }
    }

    /// Holds an answer against the description.
    pub fn answer(&mut self, version: &str, endpoint: &str, answer: &Answer) {
        self.answers += 1;
        self.answered.insert(endpoint.to_owned());
        let status = answer.status.as_u16();
        let at = if answer.status.is_success() {
            self.succeeded.insert(endpoint.to_owned());
            endpoint.to_owned()
        } else {
            format!("{endpoint} {status}")
        };
        let description = Description::rest(version);
        let mut found = match description.answer(endpoint, status, &answer.body) {
            Ok(found) => found,
            Err(Undescribed::Route) => vec![Finding::new("path", "undeclared")],
            Err(Undescribed::Status) => {
                let mut found = vec![Finding::new("status", "undeclared")];
                found.extend(description.refusal(status, &answer.body));
                found
            }
        };
        if !found.is_empty()
            && let Some(component) = self.allowed.instead(endpoint)
        {
            let items = answer.body.as_array().into_iter().flatten();
            found = items.flat_map(|item| description.component(&component, item)).collect();
        }
        let json = answer.header("content-type").starts_with("application/json");
        if json == answer.body.is_null() {
            found.push(Finding::new("header content-type", "is not the body's"));
        }
        for finding in found {
            self.note(version, &at, finding);
        }
    }

    /// Holds a webhook's request against the description; `name` is the event with its action.
    pub fn payload(&mut self, name: &str, headers: &HeaderMap, payload: &Value) {
        self.payloads += 1;
        let found = Description::webhooks().delivery(name, headers, payload);
        for finding in found.unwrap_or_else(|| vec![Finding::new("path", "undeclared")]) {
            self.note("webhooks", &format!("webhook {name}"), finding);
        }
        self.delivered.insert(name.to_owned());
    }
}

/// A world whose answers are held against the description.
pub struct Recorder<'a> {
    pub world: &'a World,
    pub version: &'static str,
    pub report: &'a mut Report,
}

impl Recorder<'_> {
    /// A request in the scenario's version.
    pub async fn ask(&mut self, method: Method, path: &str, secret: &str, body: Value) -> Answer {
        self.ask_with(method, path, secret, &[], body).await
    }

    /// The same with headers. The simulator's log says which route it was.
    pub async fn ask_with(
        &mut self,
        method: Method,
        path: &str,
        secret: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> Answer {
        let headers: Vec<(&str, &str)> =
            headers.iter().copied().chain([("X-GitHub-Api-Version", self.version)]).collect();
        let answer = self.world.ask(method, path, secret, &headers, body).await;
        let entry = self.world.sim.requests().pop().unwrap();
        let route = entry.route.unwrap_or_else(|| panic!("{} {path} is no route", entry.method));
        self.report.answer(self.version, &endpoint(&entry.method, &route), &answer);
        answer
    }

    /// A request that succeeds; returns the body.
    pub async fn done(&mut self, method: Method, path: &str, secret: &str, body: Value) -> Value {
        let answer = self.ask(method.clone(), path, secret, body).await;
        assert!(answer.status.is_success(), "{method} {path}: {} {}", answer.status, answer.body);
        answer.body
    }

    pub async fn get(&mut self, path: &str, secret: &str) -> Value {
        self.done(Method::GET, path, secret, Value::Null).await
    }

    pub async fn post(&mut self, path: &str, secret: &str, body: Value) -> Value {
        self.done(Method::POST, path, secret, body).await
    }

    /// A request that is answered with this status and no success.
    pub async fn refused(&mut self, status: u16, method: Method, path: &str, secret: &str, body: Value) {
        let answer = self.ask(method.clone(), path, secret, body).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {}", answer.body);
    }
}
