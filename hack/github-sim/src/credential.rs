//! The sender of a request, by its `Authorization` header.
//!
//! An invalid credential is refused even if none is needed, as on GitHub.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode, header};

use crate::journal::Caller;
use crate::jwt;
use crate::model::Token;
use crate::rate::Budget;
use crate::refusal::Refusal;
use crate::state::{State, TokenDigest};

/// The sender.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    Nobody,
    /// An App by its JWT.
    App(u64),
    /// An installation by a live token.
    Installation(TokenDigest, Box<Token>),
}

impl Credential {
    pub(crate) fn caller(&self) -> Caller {
        match self {
            Self::Nobody => Caller::None,
            Self::App(id) => Caller::App(*id),
            Self::Installation(_, token) => Caller::Installation(token.installation),
        }
    }

    pub(crate) fn budget(&self) -> Budget {
        match self {
            Self::Nobody => Budget::Anonymous,
            Self::App(id) => Budget::App(*id),
            Self::Installation(_, token) => Budget::Installation(token.installation),
        }
    }

    /// The value that distinguishes an `ETag` in addition to the body: another token gets another `ETag`.
    pub(crate) fn entity_salt(&self) -> &[u8] {
        match self {
            Self::Installation(digest, _) => digest,
            Self::App(_) => b"app",
            Self::Nobody => b"",
        }
    }
}

/// The secret in an `Authorization` header: the text after `Bearer` or `token`, or the password of `Basic`, or its user
/// name if the password is empty or `x-oauth-basic`.
pub(crate) fn presented(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" | "token" => Some(rest.to_owned()),
        "basic" => {
            let text = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
            let (user, password) = text.split_once(':')?;
            Some(if password.is_empty() || password == "x-oauth-basic" { user } else { password }.to_owned())
        }
        _ => None,
    }
}

/// The sender according to the headers. `for_app`: the route needs an App's JWT, so any other credential is an
/// undecodable one.
pub(crate) fn of(state: &mut State, headers: &HeaderMap, for_app: bool) -> Result<Credential, Refusal> {
    let undecodable = || Refusal::new(StatusCode::UNAUTHORIZED, jwt::UNDECODABLE);
    if !headers.contains_key(header::AUTHORIZATION) {
        return if for_app { Err(undecodable()) } else { Ok(Credential::Nobody) };
    }
    let secret = presented(headers).ok_or_else(Refusal::bad_credentials)?;
    if jwt::is_jwt(&secret) {
        return jwt::verify(&secret, state.apps.values(), state.now()).map(|app| Credential::App(app.id));
    }
    if for_app {
        return Err(undecodable());
    }
    installation(state, &secret)
}

/// The installation of a live token. Counts one use of the token.
pub(crate) fn installation(state: &mut State, secret: &str) -> Result<Credential, Refusal> {
    let (digest, _) = state.live_token(secret).ok_or_else(Refusal::bad_credentials)?;
    let token = state.tokens.get_mut(&digest).ok_or_else(Refusal::bad_credentials)?;
    token.uses += 1;
    if token.refusals > 0 {
        token.refusals -= 1;
        return Err(if token.refusal_status == 404 { Refusal::not_found() } else { Refusal::bad_credentials() });
    }
    let token = token.clone();
    let installation = state.installations.get(&token.installation).ok_or_else(Refusal::bad_credentials)?;
    if installation.suspended.is_some() {
        return Err(Refusal::suspended());
    }
    Ok(Credential::Installation(digest, Box::new(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn tokens_come_in_four_ways() {
        let basic = |text: &str| presented(&header(&format!("Basic {}", STANDARD.encode(text))));
        assert_eq!(presented(&header("Bearer ghs_1")).unwrap(), "ghs_1");
        assert_eq!(presented(&header("token ghs_1")).unwrap(), "ghs_1");
        assert_eq!(basic("x-access-token:ghs_1").unwrap(), "ghs_1");
        assert_eq!(basic("ghs_1:x-oauth-basic").unwrap(), "ghs_1");
        assert!(presented(&header("Digest x")).is_none());
    }
}
