//! Seeds as people write them, and what is said about wrong ones.

use github_sim::{Options, Seed, Sim};

#[tokio::test]
async fn the_example_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("seed.yaml");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/seed.example.yaml"), &file).unwrap();
    let start = |seed| Sim::start(Options { listen: "127.0.0.1:0".parse().unwrap(), tls: false, seed });
    let sim = start(Seed::from_file(&file).unwrap()).await.unwrap();
    assert!(sim.base_url().starts_with("http://127.0.0.1:") && sim.ca_pem().is_empty());
    assert_eq!(sim.repository_id("acme/shop"), Some(1_296_269));
    let key = std::fs::read_to_string(folder.path().join("landfall.private-key.pem")).unwrap();
    assert!(key.starts_with("-----BEGIN RSA PRIVATE KEY-----"), "the key is made when it is not there");
    // A second start finds the key that the first one made.
    start(Seed::from_file(&file).unwrap()).await.unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("landfall.private-key.pem")).unwrap(), key);
}

#[tokio::test]
async fn a_wrong_seed_is_told_what_is_wrong() {
    for (text, said) in [
        ("accounts: [{login: a}, {login: A}]", "\"A\" already exists"),
        ("repositories: [{owner: nobody, name: x}]", "no account \"nobody\""),
        ("accounts: [{login: a}]\napps: [{name: X, owner: a}]", "has no key"),
        ("accounts: [{login: a}]\napps: [{name: X, owner: a, public_key: hello}]", "not PEM"),
        ("installations: [{app: x, account: a}]", "no App \"x\""),
    ] {
        let seed = Seed::from_yaml(text).unwrap();
        let options = Options { listen: "127.0.0.1:0".parse().unwrap(), tls: false, seed };
        let error = Sim::start(options).await.err().expect("it started");
        let mut all = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            all = format!("{all}: {error}");
            source = error.source();
        }
        assert!(all.contains(said), "{all}");
    }
    assert!(Seed::from_yaml("accuonts: []").unwrap_err().to_string().contains("accuonts"));
}
