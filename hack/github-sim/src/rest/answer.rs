//! Turns a handler's result into GitHub's answer: version, `ETag`, rate limit, and the headers of every answer.

use aws_lc_rs::digest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use serde_json::Value;

use super::{Access, Asked, Route, documentation};
use crate::credential::Credential;
use crate::journal::Caller;
use crate::rate::Standing;
use crate::refusal::Refusal;
use crate::state::State;

/// The version of an answer if the caller does not choose one.
pub(crate) const DEFAULT: &str = "2022-11-28";
/// The newest version.
pub(crate) const NEWEST: &str = "2026-03-10";

/// In answers to an installation: the permission that the route needs.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-github-permissions");

/// The result of a handler.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Option<Content>,
    pub(crate) headers: Vec<(HeaderName, String)>,
}

/// The content of a body.
#[derive(Debug)]
pub(crate) enum Content {
    Json(Value),
    /// Any other content. Its type is in the headers.
    Other(Vec<u8>),
}

#[expect(clippy::unnecessary_wraps, reason = "handlers end with them")]
impl Reply {
    pub(crate) fn new(status: StatusCode, body: Value) -> Self {
        Self { status, body: Some(Content::Json(body)), headers: Vec::new() }
    }

    /// A body that is not JSON, in one of GitHub's own media types.
    pub(crate) fn text(kind: &str, body: impl Into<Vec<u8>>) -> Result<Self, Refusal> {
        let headers = vec![(header::CONTENT_TYPE, format!("application/vnd.github.{kind}; charset=utf-8"))];
        Ok(Self { status: StatusCode::OK, body: Some(Content::Other(body.into())), headers })
    }

    pub(crate) fn ok(body: Value) -> Result<Self, Refusal> {
        Ok(Self::new(StatusCode::OK, body))
    }

    pub(crate) fn created(body: Value) -> Result<Self, Refusal> {
        let location = body["url"].as_str().map(|url| (header::LOCATION, url.to_owned()));
        let headers = location.into_iter().collect();
        Ok(Self { headers, ..Self::new(StatusCode::CREATED, body) })
    }

    pub(crate) fn nothing() -> Result<Self, Refusal> {
        Ok(Self { status: StatusCode::NO_CONTENT, body: None, headers: Vec::new() })
    }

    /// One page of a list, with `Link` to the others. `shape` makes its items and `whole` the body. Items of other
    /// pages are not made, because lists can be long.
    pub(crate) fn page<T>(
        asked: &Asked,
        all: Vec<T>,
        shape: impl FnMut(T) -> Value,
        whole: impl FnOnce(Vec<Value>) -> Value,
    ) -> Result<Self, Refusal> {
        let number = |name| asked.query(name).and_then(|value| value.parse::<usize>().ok());
        let size = number("per_page").unwrap_or(30).clamp(1, 100);
        let page = number("page").unwrap_or(1).max(1);
        let last = all.len().div_ceil(size).max(1);
        let items = all.into_iter().skip((page - 1) * size).take(size).map(shape).collect();
        let mut reply = Self::new(StatusCode::OK, whole(items));
        let link = |rel: &str, page: usize| {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            let kept = url::form_urlencoded::parse(asked.query.as_bytes()).filter(|(key, _)| key != "page");
            query.extend_pairs(kept).append_pair("page", &page.to_string());
            format!("<{}{}?{}>; rel=\"{rel}\"", asked.api, asked.path, query.finish())
        };
        let mut links = Vec::new();
        if page > 1 {
            links.push(link("prev", (page - 1).min(last)));
        }
        if page < last {
            links.extend([link("next", page + 1), link("last", last)]);
        }
        if page > 1 {
            links.push(link("first", 1));
        }
        if !links.is_empty() {
            reply.headers.push((header::LINK, links.join(", ")));
        }
        Ok(reply)
    }
}

/// The complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) caller: Caller,
    pub(crate) route: Option<String>,
    pub(crate) unknown: bool,
}

impl Answer {
    /// The answer when a handler ended early.
    pub(crate) fn server_error() -> Self {
        let refusal = Refusal::internal("Server Error");
        Self {
            status: refusal.status,
            headers: HeaderMap::new(),
            body: refusal.body(crate::refusal::DOCUMENTATION).to_string().into_bytes(),
            caller: Caller::None,
            route: None,
            unknown: false,
        }
    }
}

/// Makes the answer from a handler's result.
pub(crate) fn finish(
    state: &mut State,
    asked: &Asked,
    route: Option<&Route>,
    who: &Credential,
    result: Result<Reply, Refusal>,
) -> Answer {
    let now = state.now();
    let mut standing = state.rates.standing(who.budget(), now);
    let mut headers = HeaderMap::new();
    let (status, body) = match result {
        Ok(reply) => {
            extend(&mut headers, reply.headers);
            let body = reply.body.map(|body| match body {
                Content::Json(body) if asked.newest() => Content::Json(of_newest(body)),
                body => body,
            });
            (reply.status, body)
        }
        Err(refusal) => {
            let body = refusal.body(&documentation(route));
            extend(&mut headers, refusal.headers);
            (refusal.status, Some(Content::Json(body)))
        }
    };
    let updated = match &body {
        Some(Content::Json(body)) => body["updated_at"].as_str().and_then(|text| text.parse::<Timestamp>().ok()),
        _ => None,
    };
    let mut answer = Answer {
        status,
        headers,
        body: body.map(Content::into_bytes).unwrap_or_default(),
        caller: who.caller(),
        route: route.map(|route| route.template.to_owned()),
        unknown: route.is_none(),
    };
    if [Method::GET, Method::HEAD].contains(&asked.method) && status == StatusCode::OK {
        let tag = entity_tag(who, &answer.body);
        let modified = updated.map(http_date);
        let sent = |name| asked.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let is_known = match (sent(header::IF_NONE_MATCH), sent(header::IF_MODIFIED_SINCE)) {
            (Some(known), _) => {
                known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag.trim_start_matches("W/"))
            }
            (None, since) => since.is_some() && since == modified.as_deref(),
        };
        if is_known {
            answer.status = StatusCode::NOT_MODIFIED;
            answer.body.clear();
            if !matches!(who, Credential::Nobody) {
                standing = state.rates.refund(who.budget(), now);
            }
        }
        extend(&mut answer.headers, [(header::ETAG, tag)]);
        extend(&mut answer.headers, modified.map(|modified| (header::LAST_MODIFIED, modified)));
        let cache = if matches!(who, Credential::Nobody) {
            "public, max-age=60, s-maxage=60"
        } else {
            "private, max-age=60, s-maxage=60"
        };
        extend(&mut answer.headers, [(header::CACHE_CONTROL, cache.to_owned())]);
    }
    if let Credential::Installation(..) = who {
        let accepted = match route.map(|route| route.access) {
            Some(Access::Repository(permission, level)) => Some(format!("{permission}={level}")),
            Some(Access::Source) => Some("administration=write,contents=read".to_owned()),
            _ => None,
        };
        extend(&mut answer.headers, accepted.map(|accepted| (ACCEPTED, accepted)));
    }
    usual(&mut answer, asked, &standing, now);
    if asked.method == Method::HEAD {
        answer.body.clear();
    }
    answer
}

impl Content {
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Json(body) => body.to_string().into_bytes(),
            Self::Other(bytes) => bytes,
        }
    }
}

/// A time in the format of HTTP (RFC 9110).
fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The checks before those of the request: the requested version, the accepted types, and the caller's rate limit.
pub(crate) fn before(state: &mut State, asked: &Asked, who: &Credential) -> Result<(), Refusal> {
    version(asked)?;
    acceptable(asked)?;
    let now = state.now();
    within(&state.rates.charge(who.budget(), now), who)
}

/// The version header must name a version that GitHub has.
fn version(asked: &Asked) -> Result<(), Refusal> {
    match asked.headers.get("x-github-api-version") {
        Some(version) if version != DEFAULT && version != NEWEST => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("{version:?} is not a supported version. Supported versions: {NEWEST}, {DEFAULT}"),
        )),
        _ => Ok(()),
    }
}

/// The client must accept JSON or one of GitHub's own types.
fn acceptable(asked: &Asked) -> Result<(), Refusal> {
    let accepted = asked.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let known = |range: &str| {
        let range = range.split(';').next().unwrap_or_default().trim();
        ["", "*/*", "application/*", "application/json"].contains(&range) || range.starts_with("application/vnd.github")
    };
    if accepted.split(',').any(known) {
        return Ok(());
    }
    let message = format!("Unsupported 'Accept' header: '{accepted}'. Must accept 'application/json'.");
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

fn within(standing: &Standing, who: &Credential) -> Result<(), Refusal> {
    if !standing.exceeded {
        return Ok(());
    }
    let whose = match who.caller() {
        Caller::Installation(id) => format!("installation ID {id}"),
        Caller::App(id) => format!("app ID {id}"),
        Caller::None => "127.0.0.1".to_owned(),
    };
    Err(Refusal::new(StatusCode::FORBIDDEN, format!("API rate limit exceeded for {whose}.")))
}

/// Removes the properties that 2026-03-10 no longer has, for the shapes used here (`x-github-breaking-changes` in
/// GitHub's description).
fn of_newest(mut body: Value) -> Value {
    match &mut body {
        Value::Object(fields) => {
            for gone in
                ["has_downloads", "use_squash_pr_title_as_default", "master_branch", "merge_commit_sha", "assignee"]
            {
                fields.remove(gone);
            }
            if fields.contains_key("resources") {
                fields.remove("rate");
            }
            if fields.contains_key("emojis_url") {
                fields.remove("authorizations_url");
                fields.remove("hub_url");
            }
            // A logged payload stays unchanged.
            for (_, value) in fields.iter_mut().filter(|(name, _)| *name != "payload") {
                *value = of_newest(value.take());
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = of_newest(item.take());
            }
        }
        _ => {}
    }
    body
}

fn entity_tag(who: &Credential, body: &[u8]) -> String {
    let mut digest = digest::Context::new(&digest::SHA256);
    digest.update(who.entity_salt());
    digest.update(body);
    format!("W/\"{}\"", hex::encode(digest.finish().as_ref()))
}

/// The headers of every answer. `Date` is the simulator's, because clients compare their clocks with it.
fn usual(answer: &mut Answer, asked: &Asked, standing: &Standing, now: Timestamp) {
    let version = if asked.newest() { NEWEST } else { DEFAULT };
    let name = HeaderName::from_static;
    let mut usual = vec![
        (header::SERVER, "github.com".to_owned()),
        (header::DATE, http_date(now)),
        (name("x-github-request-id"), hex::encode_upper(rand::random::<[u8; 10]>())),
        (name("x-github-media-type"), "github.v3; format=json".to_owned()),
        (name("x-github-api-version-selected"), version.to_owned()),
        (name("x-ratelimit-limit"), standing.limit.to_string()),
        (name("x-ratelimit-remaining"), standing.remaining().to_string()),
        (name("x-ratelimit-used"), standing.used.to_string()),
        (name("x-ratelimit-reset"), standing.reset.to_string()),
        (name("x-ratelimit-resource"), "core".to_owned()),
        (header::VARY, "Accept, Authorization, Cookie, X-GitHub-OTP".to_owned()),
    ];
    if !answer.body.is_empty() && !answer.headers.contains_key(header::CONTENT_TYPE) {
        usual.push((header::CONTENT_TYPE, "application/json; charset=utf-8".to_owned()));
    }
    extend(&mut answer.headers, usual);
}

/// Adds headers, except for values that HTTP cannot carry.
fn extend(headers: &mut HeaderMap, more: impl IntoIterator<Item = (HeaderName, String)>) {
    headers.extend(more.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value).ok()?))));
}
