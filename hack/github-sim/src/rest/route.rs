//! Routes, requests, and admitted requests.

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::access::Level;
use crate::credential::Credential;
use crate::model::Repository;
use crate::refusal::Refusal;
use crate::rest::Reply;
use crate::shapes::Links;
use crate::state::State;

/// The requirements of a route for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Anyone,
    /// An App's JWT.
    App,
    /// An App's JWT, and the repository in the path.
    AppOfRepository,
    /// An installation token.
    Installation,
    /// The repository in the path, with a permission on it.
    Repository(&'static str, Level),
    /// The repository in the path as the source of a fork into the account of an installation token.
    Source,
}

/// The values of a path's parameters, by name.
pub(crate) type Parameters = Vec<(&'static str, String)>;

pub(crate) type Handler = fn(&mut Call<'_>) -> Result<Reply, Refusal>;

/// One line of the table.
pub(crate) struct Route {
    pub(crate) method: Method,
    /// The path as in GitHub's description. A last `{*name}` matches the rest.
    pub(crate) template: &'static str,
    /// The page under docs.github.com/rest.
    pub(crate) page: &'static str,
    pub(crate) access: Access,
    pub(crate) handler: Handler,
}

impl Route {
    pub(crate) const fn on(
        method: Method,
        template: &'static str,
        page: &'static str,
        access: Access,
        handler: Handler,
    ) -> Self {
        Self { method, template, page, access, handler }
    }

    /// The path's parameters if method and path are this route's.
    pub(crate) fn matches(&self, method: &Method, segments: &[String]) -> Option<Parameters> {
        let same = self.method == *method || (*method == Method::HEAD && self.method == Method::GET);
        // No name on GitHub has a NUL in it.
        if !same || segments.iter().any(|segment| segment.contains('\0')) {
            return None;
        }
        let mut parameters = Vec::new();
        let mut given = segments.iter();
        for wanted in self.template.split('/').filter(|wanted| !wanted.is_empty()) {
            match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) if name.starts_with('*') => {
                    let rest: Vec<&str> = given.by_ref().map(String::as_str).collect();
                    if rest.is_empty() {
                        return None;
                    }
                    parameters.push((&name[1..], rest.join("/")));
                }
                Some(name) => parameters.push((name, given.next()?.clone())),
                None if given.next()? == wanted => {}
                None => return None,
            }
        }
        given.next().is_none().then_some(parameters)
    }
}

/// A request without the prefix of the API.
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// Without `/api/v3`, still percent-encoded.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The API's base as the caller used it: with or without `/api/v3`.
    pub(crate) api: String,
    /// The first refusals of the token from this mint: their number and status.
    pub(crate) fresh_token: Option<(u32, u16)>,
}

impl Asked {
    /// The decoded segments of the path.
    pub(crate) fn segments(&self) -> Vec<String> {
        self.path.split('/').filter(|part| !part.is_empty()).map(decoded).collect()
    }

    /// A value of the query.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
            .filter(|value| !value.is_empty())
    }

    /// The first of these media types of GitHub's own that the caller accepts, in the caller's spelling: `diff` for
    /// `application/vnd.github.diff`, and `v3.diff` for `application/vnd.github.v3.diff`.
    pub(crate) fn accepted(&self, types: &[&str]) -> Option<String> {
        let accepted = self.headers.get(http::header::ACCEPT)?.to_str().ok()?;
        let own = accepted.split(',').filter_map(|range| range.trim().strip_prefix("application/vnd.github."));
        let own = own.map(|range| range.split(';').next().unwrap_or_default().trim());
        let plain = |own: &str| own.trim_start_matches("v3.").trim_end_matches("+json").to_owned();
        own.map(str::to_owned).find(|own| types.contains(&plain(own).as_str()))
    }

    /// Whether the caller chose the version of 2026-03-10.
    pub(crate) fn newest(&self) -> bool {
        self.headers.get("x-github-api-version").is_some_and(|version| version == super::answer::NEWEST)
    }
}

/// Percent-decoding of one segment; `+` is itself in a path.
fn decoded(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = segment.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A request that was admitted to a route.
pub(crate) struct Call<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) asked: &'a Asked,
    pub(crate) parameters: Parameters,
    pub(crate) who: Credential,
    /// The repository in the path, for routes that have one.
    pub(crate) repository: u64,
}

impl Call<'_> {
    /// A parameter of the path; empty if the route has none of this name.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value.as_str())
    }

    /// A numeric parameter of the path. Anything else gets a 404.
    pub(crate) fn number(&self, name: &str) -> Result<u64, Refusal> {
        self.parameter(name).parse().map_err(|_| Refusal::not_found())
    }

    /// The repository in the path.
    pub(crate) fn repository(&self) -> Result<&Repository, Refusal> {
        self.state.repositories.get(&self.repository).ok_or_else(Refusal::not_found)
    }

    /// The calling App.
    pub(crate) fn app(&self) -> Result<u64, Refusal> {
        match self.who {
            Credential::App(app) => Ok(app),
            _ => Err(Refusal::bad_credentials()),
        }
    }

    /// The acting account. An installation acts as its App's bot.
    pub(crate) fn actor(&self) -> u64 {
        let app = match &self.who {
            Credential::App(app) => Some(*app),
            Credential::Installation(_, token) => {
                self.state.installations.get(&token.installation).map(|installation| installation.app)
            }
            Credential::Nobody => None,
        };
        app.and_then(|app| self.state.apps.get(&app)).map_or(self.state.person, |app| app.bot)
    }

    /// The body as JSON; an empty one is an empty object.
    pub(crate) fn body<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let value = self.json()?;
        serde_json::from_value(value).map_err(|error| Refusal::invalid_request(&error.to_string()))
    }

    /// The body as any JSON. An empty body is an empty object, and so is `null`, which some clients send instead.
    pub(crate) fn any_json(&self) -> Result<Value, Refusal> {
        let empty = || Value::Object(serde_json::Map::new());
        if self.asked.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(empty());
        }
        let value: Value = serde_json::from_slice(&self.asked.body).map_err(|_| Refusal::problems_parsing())?;
        Ok(if value.is_null() { empty() } else { value })
    }

    /// The body as a JSON object.
    pub(crate) fn json(&self) -> Result<Value, Refusal> {
        let value = self.any_json()?;
        if value.is_object() {
            Ok(value)
        } else {
            Err(Refusal::new(http::StatusCode::BAD_REQUEST, "Body should be a JSON object"))
        }
    }

    /// The bases of URLs in the answer.
    pub(crate) fn links(&self) -> Links {
        Links { web: self.state.web.clone(), api: self.asked.api.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded_one_by_one() {
        assert_eq!(decoded("feature%2Fx"), "feature/x");
        assert_eq!(decoded("landfall%5Bbot%5D"), "landfall[bot]");
        assert_eq!(decoded("a+b%"), "a+b%");
    }
}
