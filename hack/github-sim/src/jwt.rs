//! The JWT that authenticates an App, verified as on GitHub, with GitHub's messages.
//!
//! Sources: for the messages, github.com's answers; for the rules, "Generating a JSON Web Token (JWT) for a GitHub
//! App".

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use crate::model::App;
use crate::refusal::Refusal;

pub(crate) const UNDECODABLE: &str = "A JSON web token could not be decoded";
pub(crate) const ISSUED_AT: &str =
    "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued";
pub(crate) const EXPIRATION: &str = "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires";
pub(crate) const TOO_FAR: &str = "'Expiration time' claim ('exp') is too far in the future";

/// The most seconds that `exp` may be in the future.
const LONGEST: i64 = 600;

/// Whether a credential has the form of a JWT (three parts) and not that of a token (`gh?_…`).
pub(crate) fn is_jwt(text: &str) -> bool {
    text.matches('.').count() == 2 && !text.starts_with("gh")
}

/// The App that signed `text`.
pub(crate) fn verify<'a>(
    text: &str,
    apps: impl IntoIterator<Item = &'a App>,
    now: Timestamp,
) -> Result<&'a App, Refusal> {
    let undecodable = || Refusal::new(StatusCode::UNAUTHORIZED, UNDECODABLE);
    let (signed, signature) = text.rsplit_once('.').ok_or_else(undecodable)?;
    let (header, claims) = signed.split_once('.').ok_or_else(undecodable)?;
    let header = json(header).ok_or_else(undecodable)?;
    let claims = json(claims).ok_or_else(undecodable)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| undecodable())?;
    if header["alg"] != "RS256" {
        return Err(undecodable());
    }
    let issuer = match &claims["iss"] {
        Value::String(issuer) => issuer.clone(),
        Value::Number(issuer) => issuer.to_string(),
        _ => return Err(Refusal::new(StatusCode::UNAUTHORIZED, "Missing 'issuer' claim ('iss') in assertion")),
    };
    let app = apps
        .into_iter()
        .find(|app| app.client_id == issuer || app.id.to_string() == issuer)
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "Integration not found"))?;
    let signed_by = |key: &Vec<u8>| {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(signed.as_bytes(), &signature).is_ok()
    };
    if !app.keys.iter().any(signed_by) {
        return Err(undecodable());
    }
    let unauthorized = |message: &str| Err(Refusal::new(StatusCode::UNAUTHORIZED, message));
    let now = now.as_second();
    let Some(expires) = seconds(&claims["exp"]).filter(|expires| *expires > now) else {
        return unauthorized(EXPIRATION);
    };
    if expires - now > LONGEST {
        return unauthorized(TOO_FAR);
    }
    if claims["iat"].as_i64().is_none_or(|issued| issued > now) {
        return unauthorized(ISSUED_AT);
    }
    Ok(app)
}

fn json(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// A `NumericDate` in whole seconds; fractions are cut.
#[allow(clippy::cast_possible_truncation, reason = "a date beyond 2^63 saturates, and is then too far in the future")]
fn seconds(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
}
