//! The points at which a fault can happen, and the faults.
//!
//! A point is a write to Kubernetes or a call to GitHub. Its name has the operation, the object and a number: "PATCH
//! installationtokens/status team-a/a #3". The number counts points of the same kind, because controllers run
//! concurrently, and their points have no fixed order across kinds.

use http::{Method, Uri};
use hyper::body::Bytes;
use serde_json::Value;
use std::fmt;

/// The receiver of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The API server.
    Kubernetes,
    GitHub,
}

/// A request that has an effect on Kubernetes, or goes to GitHub.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// The receiver.
    pub side: Side,
    /// Verb, resource, subresource and name, or method and route.
    pub kind: String,
    /// Its number within its kind, from 1.
    pub ordinal: usize,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.kind, self.ordinal)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The operator dies before the request goes out.
    KilledBefore,
    /// The operator dies after the request took effect, before it has the answer.
    KilledAfter,
    /// The request takes effect, and the connection breaks before the answer.
    Lost,
    /// The connection breaks before the request takes effect.
    Cut,
    /// Kubernetes answers 409. GitHub does not, for any call in these scenarios.
    Conflict,
    /// 429, with a Retry-After.
    TooMany,
    /// 503.
    Unavailable,
}

impl Fault {
    pub const ALL: [Self; 7] = [
        Self::KilledBefore,
        Self::KilledAfter,
        Self::Lost,
        Self::Cut,
        Self::Conflict,
        Self::TooMany,
        Self::Unavailable,
    ];

    /// Whether it can happen on this side.
    pub fn happens_at(self, side: Side) -> bool {
        self != Self::Conflict || side == Side::Kubernetes
    }

    /// Whether the request takes effect.
    pub fn has_effect(self) -> bool {
        matches!(self, Self::KilledAfter | Self::Lost)
    }

    /// Whether it kills the operator, which then loses its memory.
    pub fn kills(self) -> bool {
        matches!(self, Self::KilledBefore | Self::KilledAfter)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KilledBefore => "killed before",
            Self::KilledAfter => "killed after",
            Self::Lost => "answer lost",
            Self::Cut => "cut",
            Self::Conflict => "409",
            Self::TooMany => "429",
            Self::Unavailable => "503",
        })
    }
}

/// The kind of a request to Kubernetes, if it is a write. The name comes from the path, or from the body if the path
/// has none. An event is named after its object, because its own name is random.
pub fn kubernetes(method: &Method, uri: &Uri, body: &Bytes) -> Option<String> {
    if method == Method::GET {
        return None;
    }
    let mut segments = uri.path().split('/').filter(|segment| !segment.is_empty());
    let group_segments = if segments.next()? == "api" { 1 } else { 2 };
    let rest: Vec<_> = segments.skip(group_segments).collect();
    let (namespace, rest) = match rest.as_slice() {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let resource = rest.first()?;
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = match (*resource, rest.get(1)) {
        ("events", _) => {
            let about = &said["regarding"];
            format!("{} {} {}", word(&about["kind"]), word(&about["name"]), word(&said["reason"]))
        }
        // Named by its reason. How often the same reason is written again, with other fields, depends on the speed of
        // the caches.
        ("workspaces", Some(name)) if rest.get(2) == Some(&"status") => {
            let conditions = said["status"]["conditions"].as_array();
            let ready = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"));
            format!("{name} {}", word(&ready.unwrap_or(&Value::Null)["reason"]))
        }
        // Named after the uid of its claim.
        ("persistentvolumes", Some(_)) => "of a claim".to_owned(),
        (_, Some(name)) => match said["metadata"]["finalizers"].as_array() {
            Some(finalizers) => format!("{name} {}", held(finalizers)),
            None => (*name).to_owned(),
        },
        (_, None) => word(&said["metadata"]["name"]),
    };
    let subresource = rest.get(2).map(|sub| format!("/{sub}")).unwrap_or_default();
    let namespace = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
    Some(format!("{method} {resource}{subresource} {namespace}{name}"))
}

/// The finalizers of the operator. The time when Kubernetes removes its own finalizers has no fixed order.
fn held(finalizers: &[Value]) -> String {
    let ours = finalizers.iter().filter_map(Value::as_str).filter(|name| name.starts_with("landfall.dev/"));
    let ours = ours.collect::<Vec<_>>().join(" ");
    if ours.is_empty() { "let go".to_owned() } else { format!("held by {ours}") }
}

/// The kind of a call to GitHub: method and path, with names for the varying parts.
pub fn github(method: &Method, uri: &Uri) -> String {
    let path = uri.path().strip_prefix("/api/v3").unwrap_or(uri.path());
    let mut before = "";
    let segments: Vec<_> = path
        .split('/')
        .map(|segment| {
            let is_id = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
            let shown = if before == "users" {
                "{username}"
            } else if is_id {
                "{id}"
            } else {
                segment
            };
            before = segment;
            shown
        })
        .collect();
    format!("{method} {}", segments.join("/"))
}
