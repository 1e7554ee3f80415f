//! GitHub's format of refusals: `message`, `documentation_url`, `status`, and `errors` for an invalid request.

use http::{HeaderName, StatusCode};
use serde_json::{Value, json};

/// The page for routes without a page of their own.
pub(crate) const DOCUMENTATION: &str = "https://docs.github.com/rest";

#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The entries of a validation error. `Some` makes it one.
    pub(crate) errors: Option<Vec<Value>>,
    /// The target of a redirect.
    pub(crate) url: Option<String>,
    pub(crate) headers: Vec<(HeaderName, String)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), errors: None, url: None, headers: Vec::new() }
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not Found")
    }

    pub(crate) fn bad_credentials() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Bad credentials")
    }

    pub(crate) fn not_accessible() -> Self {
        Self::new(StatusCode::FORBIDDEN, "Resource not accessible by integration")
    }

    pub(crate) fn archived() -> Self {
        Self::new(StatusCode::FORBIDDEN, "Repository was archived so is read-only.")
    }

    pub(crate) fn suspended() -> Self {
        Self::new(StatusCode::FORBIDDEN, "This installation has been suspended")
    }

    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// A 422 about a body that does not fit its description. `error` is serde's message about it.
    pub(crate) fn invalid_request(error: &str) -> Self {
        let missing = error.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        let reason = missing.map_or_else(|| format!("{error}."), |field| format!("{field:?} wasn't supplied."));
        Self::unprocessable(format!("Invalid request.\n\n{reason}"))
    }

    pub(crate) fn problems_parsing() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Problems parsing JSON")
    }

    /// A 422 with errors, field by field.
    pub(crate) fn invalid(errors: Vec<Value>) -> Self {
        Self { errors: Some(errors), ..Self::unprocessable("Validation Failed") }
    }

    /// A 422 about one field of a resource: `missing_field`, `invalid`, `already_exists`.
    pub(crate) fn field(resource: &str, field: &str, code: &str) -> Self {
        Self::invalid(vec![json!({"resource": resource, "field": field, "code": code})])
    }

    /// A 422 in GitHub's own words.
    pub(crate) fn custom(resource: &str, message: impl Into<String>) -> Self {
        Self::invalid(vec![json!({"resource": resource, "code": "custom", "message": message.into()})])
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn body(&self, documentation: &str) -> Value {
        let mut body = json!({"message": self.message});
        if let Some(errors) = &self.errors {
            body["errors"] = json!(errors);
        }
        if let Some(url) = &self.url {
            body["url"] = json!(url);
        }
        body["documentation_url"] = json!(documentation);
        if self.url.is_none() {
            body["status"] = json!(self.status.as_str());
        }
        body
    }
}

/// git failed in a command of the simulator. That is the simulator's fault, reported like GitHub's own.
impl From<crate::bare::GitError> for Refusal {
    fn from(error: crate::bare::GitError) -> Self {
        tracing::error!(%error, "git failed");
        Self::internal("Server Error")
    }
}
