//! The failures of repositories that are followed by their address alone.
//!
//! Invariant: a refusal by an address means a wrong password. A refusal through the App may mean a token that is too
//! fresh, which passes; with that message for an address, nobody would correct the Secret.

use super::apply::git_failure;
use crate::api::{ProjectRepository, Reason};
use crate::controllers::reconcile::Failure;
use crate::controllers::standing::{Again, Standing};
use crate::git;

/// The failure of a read. Secrets of tenants are not watched, so a corrected one is found by trying again.
pub fn failure(error: &git::Error, object: &ProjectRepository) -> Failure {
    match (error, &object.spec.source.credentials_secret_ref) {
        (git::Error::CredentialsRefused { .. }, Some(reference)) => {
            let message = format!(
                "{error}: correct username and password in Secret {}. It is tried again by itself, with growing pauses",
                reference.name
            );
            Failure::Remote(Standing::stalled(Reason::CredentialsInvalid, message), Again::Backoff)
        }
        _ => git_failure(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::standing::State;
    use serde_json::json;

    #[test]
    fn a_wrong_password_is_a_persons_to_correct_and_tried_again() {
        let of = |source: serde_json::Value| {
            let object = json!({
                "apiVersion": "landfall.dev/v1alpha1", "kind": "ProjectRepository", "metadata": {"name": "lib"},
                "spec": {"source": source},
            });
            let object = serde_json::from_value(object).unwrap();
            let refused =
                git::Error::CredentialsRefused { remote: "https://git.example.com/lib".into(), message: "no".into() };
            let Failure::Remote(standing, again) = failure(&refused, &object) else { panic!("the remote's") };
            (standing.reason, standing.state, again, standing.message)
        };
        let url = "https://git.example.com/lib";
        let (reason, state, again, message) = of(json!({"url": url, "credentialsSecretRef": {"name": "lib-git"}}));
        assert_eq!((reason, state, again), (Reason::CredentialsInvalid, State::Stalled, Again::Backoff));
        assert!(message.contains("Secret lib-git"), "{message}");
        assert_eq!(of(json!({"url": url})).0, Reason::TokenRefused);
    }
}
