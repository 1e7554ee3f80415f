//! The API server's audit log: the user, request and answer. Every test that counts requests relies on it.
//!
//! Everything is recorded at level Metadata, so a Secret's content never is; one entry per request, when it is complete.
//! A watch is complete when it ends, so it appears only then.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::growing::{end_of_lines, lines_from};

/// The audit policy of the API server.
pub(crate) fn policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            // Clients that wait for the server send these, as often as they like.
            {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*"]},
            {"level": "Metadata"},
        ],
    })
}

/// The audit log of one API server.
#[derive(Debug, Clone)]
pub struct AuditLog {
    path: PathBuf,
}

/// A position in an audit log: the beginning of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// The reason why the audit log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the audit log {} could not be read: is its API server still up?", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A line is not an audit event.
    #[error("the audit log {} holds a line that is no event: {line}", path.display())]
    Line {
        path: PathBuf,
        line: String,
        #[source]
        source: serde_json::Error,
    },
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The id that the server assigned, also in the answer's header `Audit-Id`.
    pub id: String,
    /// When it was received.
    pub received: Timestamp,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the HTTP method in small letters.
    pub verb: String,
    pub user: String,
    /// The impersonated user, if there is one.
    pub impersonated: Option<String>,
    /// The API group of the resource; empty for the core group.
    pub group: String,
    /// The resource in the plural, such as `secrets`; empty for a request without one, such as `/version`.
    pub resource: String,
    /// Such as `status`; else empty.
    pub subresource: String,
    /// Empty for requests without a namespace.
    pub namespace: String,
    /// Empty for lists, and for objects whose name the server generates.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
    /// The client's name for itself.
    pub user_agent: String,
    /// Path and query.
    pub uri: String,
}

impl Entry {
    /// Whether it requests a change, successful or not. Reviews (who am I, may I) are created but change nothing.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
            && !matches!(self.group.as_str(), "authentication.k8s.io" | "authorization.k8s.io")
            && !self.resource.is_empty()
    }

    /// Whether it succeeded.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

impl AuditLog {
    /// The log in the file that an API server writes it to.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The position after the last complete line. A line that is being written comes after it. A request is recorded
    /// when its handler returns: before its answer is sent if that fits the server's buffer (4 KiB), otherwise just
    /// after it, so poll for expected entries.
    pub fn mark(&self) -> Result<Mark, AuditError> {
        end_of_lines(&self.path).map(Mark).map_err(|source| self.unreadable(source))
    }

    /// The requests that were recorded after the mark, in the order of their completion.
    pub fn since(&self, mark: Mark) -> Result<Vec<Entry>, AuditError> {
        let text = lines_from(&self.path, mark.0).map_err(|source| self.unreadable(source))?;
        let mut entries = Vec::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let event: Event = serde_json::from_slice(line).map_err(|source| AuditError::Line {
                path: self.path.clone(),
                line: String::from_utf8_lossy(line).into_owned(),
                source,
            })?;
            if event.stage == "ResponseComplete" {
                entries.push(event.into());
            }
        }
        Ok(entries)
    }

    fn unreadable(&self, source: io::Error) -> AuditError {
        AuditError::Read { path: self.path.clone(), source }
    }
}

/// An event as the API server writes it (`audit.k8s.io/v1`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(rename = "auditID")]
    id: String,
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    uri: String,
    user: User,
    impersonated_user: Option<User>,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: ResponseStatus,
    request_received_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponseStatus {
    code: u16,
}

impl From<Event> for Entry {
    fn from(event: Event) -> Self {
        Self {
            id: event.id,
            received: event.request_received_timestamp,
            verb: event.verb,
            user: event.user.username,
            impersonated: event.impersonated_user.map(|user| user.username),
            group: event.object_ref.api_group,
            resource: event.object_ref.resource,
            subresource: event.object_ref.subresource,
            namespace: event.object_ref.namespace,
            name: event.object_ref.name,
            code: event.response_status.code,
            user_agent: event.user_agent,
            uri: event.uri,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const PATCH: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a1","stage":"ResponseComplete","requestURI":"/apis/apps/v1/namespaces/shop/deployments/web/status?fieldManager=x","verb":"patch","user":{"username":"system:serviceaccount:landfall:landfall","groups":["system:authenticated"]},"sourceIPs":["127.0.0.1"],"userAgent":"landfall/0.1","objectRef":{"resource":"deployments","namespace":"shop","name":"web","apiGroup":"apps","apiVersion":"v1","subresource":"status"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-01-02T03:04:05.000006Z","stageTimestamp":"2026-01-02T03:04:05.000016Z"}"#;

    #[test]
    fn entries_behind_a_mark_and_no_half_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let log = AuditLog::at(file.path());
        writeln!(file, "{}", PATCH.replace("a1", "before")).unwrap();
        let mark = log.mark().unwrap();
        assert!(log.since(mark).unwrap().is_empty());
        writeln!(file, "{PATCH}").unwrap();
        writeln!(file, "{}", PATCH.replace("ResponseComplete", "Panic")).unwrap();
        write!(file, "{}", &PATCH[..40]).unwrap();
        let entries = log.since(mark).unwrap();
        assert_eq!(entries.len(), 1);
        let entry = &entries[0];
        assert_eq!(entry.id, "a1");
        assert_eq!(entry.user, "system:serviceaccount:landfall:landfall");
        assert_eq!(
            (entry.group.as_str(), entry.resource.as_str(), entry.subresource.as_str()),
            ("apps", "deployments", "status")
        );
        assert_eq!((entry.namespace.as_str(), entry.name.as_str(), entry.code), ("shop", "web", 200));
        assert_eq!(entry.received, "2026-01-02T03:04:05.000006Z".parse().unwrap());
        assert!(entry.is_write() && entry.succeeded());
    }

    #[test]
    fn a_mark_within_a_line_that_is_being_written_is_where_it_begins() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let log = AuditLog::at(file.path());
        writeln!(file, "{}", PATCH.replace("a1", "before")).unwrap();
        write!(file, "{}", &PATCH[..40]).unwrap();
        let mark = log.mark().unwrap();
        assert!(log.since(mark).unwrap().is_empty());
        writeln!(file, "{}", &PATCH[40..]).unwrap();
        let entries = log.since(mark).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), ["a1"]);
    }

    #[test]
    fn a_mark_in_a_log_that_was_rotated_is_an_error() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{PATCH}").unwrap();
        let log = AuditLog::at(file.path());
        let mark = log.mark().unwrap();
        file.as_file().set_len(0).unwrap();
        assert!(matches!(log.since(mark), Err(AuditError::Read { .. })));
    }

    #[test]
    fn a_review_is_no_write() {
        let review = PATCH.replace(r#""verb":"patch""#, r#""verb":"create""#);
        let review = review.replace(r#""apiGroup":"apps""#, r#""apiGroup":"authorization.k8s.io""#);
        let event: Event = serde_json::from_str(&review).unwrap();
        assert!(!Entry::from(event).is_write());
    }

    #[test]
    fn a_line_that_is_no_event_is_an_error() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{{}}").unwrap();
        assert!(matches!(AuditLog::at(file.path()).since(Mark(0)), Err(AuditError::Line { .. })));
    }
}
