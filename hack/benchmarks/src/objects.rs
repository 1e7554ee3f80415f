//! The simulated GitHub of a benchmark, and the standing of its objects.

use github_sim::{AppKey, AppSeed, Options, Seed, Sim};
use serde_json::{Value, json};

use crate::BenchmarkError;

/// A GitHub with an App that is installed on the account `acme`, and these repositories, as YAML. It refuses nothing for coming too
/// often. It speaks http, because both sides of a comparison would otherwise measure its TLS.
pub(crate) async fn simulator(
    key: &AppKey,
    (app, installation): (u64, u64),
    repositories: &str,
) -> Result<Sim, BenchmarkError> {
    let app = AppSeed {
        name: "Landfall".into(),
        owner: "acme".into(),
        id: Some(app),
        public_key: Some(key.public_pem().into()),
        permissions: serde_json::from_value(json!({"contents": "read", "metadata": "read"}))
            .map_err(|error| BenchmarkError::GitHub(Box::new(error)))?,
        ..AppSeed::default()
    };
    let yaml = format!(
        "accounts: [{{login: acme, id: 7001, type: Organization}}]
repositories: {repositories}
installations: [{{app: landfall, account: acme, id: {installation}}}]
rate_limit: 1000000000
"
    );
    let seed = Seed::from_yaml(&yaml).map_err(|error| BenchmarkError::GitHub(Box::new(error)))?;
    let seed = Seed { apps: vec![app], ..seed };
    let options = Options { listen: ([127, 0, 0, 1], 0).into(), tls: false, seed };
    Sim::start(options).await.map_err(|error| BenchmarkError::GitHub(Box::new(error)))
}

/// How many of these objects are Ready, and the message of one that is not.
pub(crate) fn ready<'a>(objects: impl IntoIterator<Item = &'a Value>) -> (u64, Option<String>) {
    let (mut ready, mut other) = (0, None);
    for object in objects {
        let conditions = object["status"]["conditions"].as_array();
        let condition = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"));
        if condition.is_some_and(|condition| condition["status"] == "True") {
            ready += 1;
        } else {
            let message = condition.and_then(|condition| condition["message"].as_str());
            other = Some(format!("{}: {}", object["metadata"]["name"], message.unwrap_or("no status yet")));
        }
    }
    (ready, other)
}
