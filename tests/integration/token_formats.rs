//! The formats of a token's Secret, each read by the program that it is for.

use crate::scene::{connected, is_alive, look, only_token, publish, published, says, token_in, value};
use k8s_openapi::api::core::v1::Secret;
use landfall::api::InstallationToken;
use landfall_world::operator::Operator;
use landfall_world::{World, objects, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

const ARGO_CD: &str = "argocd.argoproj.io/secret-type";

fn format(format: &str) -> Value {
    match format {
        "Template" => template("{\"user\": {{ username|tojson }}, \"token\": {{ token|tojson }}}"),
        format => json!({"secret": {"name": "shop-git", "format": format}}),
    }
}

fn template(text: &str) -> Value {
    json!({"secret": {"name": "shop-git", "format": "Template", "template": {"config.json": text}}})
}

/// The keys, the type and the label for Argo CD that each format has.
fn shape(format: &str) -> (Vec<&'static str>, &'static str, Option<&'static str>) {
    let argo_cd = vec!["ca.crt", "password", "token", "type", "url", "username"];
    match format {
        "BasicAuth" => (vec!["ca.crt", "password", "token", "username"], "kubernetes.io/basic-auth", None),
        "Opaque" => (vec!["ca.crt", "token"], "Opaque", None),
        "GitCredentials" => (vec![".git-credentials", "ca.crt", "token"], "Opaque", None),
        "Netrc" => (vec![".netrc", "ca.crt", "token"], "Opaque", None),
        "ArgoCDRepository" => (argo_cd, "Opaque", Some("repository")),
        "ArgoCDRepoCreds" => (argo_cd, "Opaque", Some("repo-creds")),
        "Template" => (vec!["ca.crt", "config.json", "token"], "Opaque", None),
        other => panic!("{other} is no format"),
    }
}

/// Waits until the Secret has all of a format, and nothing of another one.
async fn until_shaped(world: &World, format: &str) -> Secret {
    let (keys, kind, label) = shape(format);
    world
        .until(&format!("the Secret has the format {format}"), async || {
            let secret = world.get::<Secret>("team-a", "shop-git").await?;
            let found: BTreeSet<&str> = secret.data.as_ref()?.keys().map(String::as_str).collect();
            let labels = secret.metadata.labels.clone().unwrap_or_default();
            (found == keys.iter().copied().collect()
                && secret.type_.as_deref() == Some(kind)
                && labels.get(ARGO_CD).map(String::as_str) == label)
                .then_some(secret)
        })
        .await
}

#[tokio::test]
async fn a_change_between_any_two_formats_mints_nothing() {
    let (world, operator) = published(&json!({})).await;
    let token = only_token(&world, "shop-git").await;
    let mut operator = operator;
    let formats = ["BasicAuth", "Opaque", "GitCredentials", "Netrc", "ArgoCDRepository", "ArgoCDRepoCreds", "Template"];
    // A walk that takes every step from one format to another once.
    let steps =
        formats.iter().enumerate().flat_map(|(at, from)| formats[at + 1..].iter().flat_map(move |to| [to, from]));
    for (number, format) in steps.enumerate() {
        let object = objects::token("shop", &self::format(format));
        // Some steps are made by an operator that finds the Secret alone.
        if number % 5 == 3 {
            operator.kill();
            world.apply::<InstallationToken>(&object).await;
            operator = world.operator().await;
            operator.ready().await;
            look(&world).await;
        } else {
            world.apply::<InstallationToken>(&object).await;
        }
        let secret = until_shaped(&world, format).await;
        assert_eq!(text(&secret, "token").as_deref(), Some(token.as_str()), "{format}");
        operator.settled().await;
    }
    assert_eq!(only_token(&world, "shop-git").await, token);
    assert_eq!(world.mints(), 1, "the simulator's log has no other mint");
    operator.stop().await;
}

/// A file with the value of a key, and one with the authority of the simulated GitHub.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    async fn new(world: &World, key: &str) -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(files.authority(), world.sim.ca_pem()).unwrap();
        files.write(world, key).await;
        files
    }

    async fn write(&self, world: &World, key: &str) {
        let secret = world.get::<Secret>("team-a", "shop-git").await.unwrap();
        std::fs::write(self.credentials(), text(&secret, key).unwrap()).unwrap();
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn authority(&self) -> PathBuf {
        self.path().join("ca.crt")
    }

    fn credentials(&self) -> PathBuf {
        self.path().join("credentials")
    }

    /// A program that finds nothing of this machine's settings.
    async fn run(&self, program: &str, arguments: &[String]) -> (bool, String) {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(self.path())
            .envs([("HOME", self.path().as_os_str()), ("GIT_CONFIG_NOSYSTEM", "1".as_ref())])
            // It goes before http.sslCAInfo, and this machine may have one.
            .env("GIT_SSL_CAINFO", self.authority())
            .envs([("GIT_TERMINAL_PROMPT", "0"), ("GIT_ASKPASS", "true"), ("NO_PROXY", "*"), ("no_proxy", "*")])
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    async fn git(&self, world: &World, repository: &str) -> (bool, String) {
        let helper = format!("credential.helper=store --file {}", self.credentials().display());
        let address = format!("{}/{repository}.git", world.sim.base_url());
        let arguments = ["-c", &helper, "ls-remote", &address].map(ToOwned::to_owned);
        self.run("git", &arguments).await
    }

    async fn curl(&self, world: &World, options: &[&str]) -> String {
        let address = format!("{}/acme/shop.git/info/refs?service=git-upload-pack", world.sim.base_url());
        let authority = self.authority().display().to_string();
        let report = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--cacert", &authority];
        let arguments = report.iter().chain(options).copied().chain([address.as_str()]).map(ToOwned::to_owned);
        let (succeeded, text) = self.run("curl", &arguments.collect::<Vec<_>>()).await;
        assert!(succeeded, "{text}");
        text
    }
}

/// Renews the token by a deletion of its Secret.
async fn renewed(world: &World, operator: &Operator) -> String {
    let before = token_in(world, "shop-git").await;
    world.delete::<Secret>("team-a", "shop-git").await;
    let token = world
        .until("there is another token", async || {
            token_in(world, "shop-git").await.filter(|it| Some(it) != before.as_ref())
        })
        .await;
    operator.settled().await;
    token
}

#[tokio::test]
async fn git_reads_git_credentials() {
    let (world, operator) = published(&format("GitCredentials")).await;
    let files = Files::new(&world, ".git-credentials").await;
    let (succeeded, text) = files.git(&world, "acme/shop").await;
    assert!(succeeded && text.contains("refs/heads/"), "{text}");
    let (succeeded, text) = files.git(&world, "acme/vault").await;
    assert!(!succeeded, "the token reaches shop alone: {text}");
    // git erases a line that was refused, and takes the next one.
    let token = renewed(&world, &operator).await;
    assert!(is_alive(&world, &token));
    files.write(&world, ".git-credentials").await;
    let (succeeded, text) = files.git(&world, "acme/shop").await;
    assert!(succeeded, "{text}");
    std::fs::write(files.credentials(), "").unwrap();
    let (succeeded, _) = files.git(&world, "acme/shop").await;
    assert!(!succeeded, "without the line, git has no credentials");
    operator.stop().await;
}

#[tokio::test]
async fn curl_and_git_read_netrc() {
    let (world, operator) = published(&format("Netrc")).await;
    let files = Files::new(&world, ".netrc").await;
    let file = files.credentials().display().to_string();
    assert_eq!(files.curl(&world, &["--netrc-file", &file]).await, "200");
    assert_eq!(files.curl(&world, &[]).await, "401", "without the file, curl has no credentials");
    // git finds it in the home folder.
    std::fs::copy(files.credentials(), files.path().join(".netrc")).unwrap();
    std::fs::write(files.credentials(), "").unwrap();
    let (succeeded, text) = files.git(&world, "acme/shop").await;
    assert!(succeeded && text.contains("refs/heads/"), "{text}");
    operator.stop().await;
}

#[tokio::test]
async fn argo_cd_finds_its_keys_and_its_label() {
    let (world, operator) = published(&format("ArgoCDRepository")).await;
    let base = world.sim.base_url().to_owned();
    let secret = until_shaped(&world, "ArgoCDRepository").await;
    let token = only_token(&world, "shop-git").await;
    for (key, value) in [
        ("type", "git"),
        ("url", format!("{base}/acme/shop").as_str()),
        ("username", "x-access-token"),
        ("password", token.as_str()),
    ] {
        assert_eq!(text(&secret, key).as_deref(), Some(value), "{key}");
    }
    world.apply::<InstallationToken>(&objects::token("shop", &format("ArgoCDRepoCreds"))).await;
    let secret = until_shaped(&world, "ArgoCDRepoCreds").await;
    assert_eq!(text(&secret, "url"), Some(format!("{base}/acme/")));

    // A label of somebody else's with the same key is replaced, and goes with the format.
    let theirs = json!({"metadata": {"labels": {ARGO_CD: "cluster", "team": "a"}}});
    world.merge::<Secret>("team-a", "shop-git", &theirs).await.unwrap();
    until_shaped(&world, "ArgoCDRepoCreds").await;
    world.apply::<InstallationToken>(&objects::token("shop", &format("Opaque"))).await;
    let secret = until_shaped(&world, "Opaque").await;
    assert_eq!(secret.metadata.labels.unwrap()["team"], "a", "the labels of others stay");
    operator.settled().await;
    assert_eq!((only_token(&world, "shop-git").await, world.mints()), (token, 1));
    operator.stop().await;
}

#[tokio::test]
async fn several_repositories_for_argo_cd_are_refused_with_the_remedy() {
    let (world, operator) = connected().await;
    let several = json!([{"name": "lib-core"}, {"name": "shop"}]);
    let mut spec = format("ArgoCDRepository");
    spec["repositories"] = several.clone();
    let refusal = world.try_apply::<InstallationToken>(&objects::token("shop", &spec)).await.unwrap_err().to_string();
    says(&refusal, &["spec.secret.format ArgoCDRepository", "exactly one repository", "ArgoCDRepoCreds"]);
    let mut spec = format("ArgoCDRepoCreds");
    spec["repositories"] = several;
    publish(&world, "shop", &spec).await;
    until_shaped(&world, "ArgoCDRepoCreds").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_template_makes_its_keys() {
    let text = "{{ username }}:{{ token }}@{{ host }} {{ account }} {{ installationID }} {{ apiURL }} {{ expiresAt }} {{ repositories|tojson }}";
    let (world, operator) = published(&template(text)).await;
    let token = only_token(&world, "shop-git").await;
    let secret = world.get::<Secret>("team-a", "shop-git").await.unwrap();
    let object = value::<InstallationToken>(&world, "team-a", "shop").await;
    let expires_at = object["status"]["expirationTime"].as_str().unwrap();
    let (host, api) = (world.sim.address(), world.sim.api_url());
    let expected = format!(r#"x-access-token:{token}@{host} acme 501 {api} {expires_at} ["acme/shop"]"#);
    assert_eq!(text_of(&secret), expected);
    operator.stop().await;
}

fn text_of(secret: &Secret) -> String {
    text(secret, "config.json").expect("a rendered key")
}

#[tokio::test]
async fn a_wrong_template_costs_no_token() {
    let (world, operator) = connected().await;
    world.apply::<InstallationToken>(&objects::token("shop", &template("a\n{{ tokn }}"))).await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "InvalidTemplate").await;
    says(&message, &["spec.secret.template[config.json], line 2", "there is no variable tokn", "token, username"]);
    operator.settled().await;
    assert_eq!((world.mints(), world.get::<Secret>("team-a", "shop-git").await), (0, None));
    publish(&world, "shop", &template("{{ token }}")).await;
    operator.settled().await;
    let token = only_token(&world, "shop-git").await;

    // A mistake leaves the Secret as it is, with a token that is good until it expires.
    let before = world.get::<Secret>("team-a", "shop-git").await;
    world.apply::<InstallationToken>(&objects::token("shop", &template("{{ token|upper }}"))).await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "InvalidTemplate").await;
    says(&message, &["there is no filter upper", "b64encode"]);
    operator.settled().await;
    assert_eq!(world.get::<Secret>("team-a", "shop-git").await, before);
    publish(&world, "shop", &template("corrected {{ token }}")).await;
    operator.settled().await;
    assert_eq!((only_token(&world, "shop-git").await, world.mints()), (token.clone(), 1));
    let secret = world.get::<Secret>("team-a", "shop-git").await.unwrap();
    assert_eq!(text_of(&secret), format!("corrected {token}"));
    operator.stop().await;
}

#[tokio::test]
async fn a_template_that_fails_for_the_real_token_alone_tells_nothing_of_it() {
    let (world, operator) = connected().await;
    // The dummy with which it is tried has no such part.
    let text = "{{ repositories[9] if 'ghs_4242' in token else token }}";
    world.apply::<InstallationToken>(&objects::token("shop", &template(text))).await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "InvalidTemplate").await;
    says(&message, &["spec.secret.template[config.json], line 1: it cannot be rendered: undefined value"]);
    operator.settled().await;
    assert_eq!((world.mints(), world.get::<Secret>("team-a", "shop-git").await), (1, None));
    // The minted token waits for a Secret, and is used once the template is right.
    publish(&world, "shop", &template("{{ token }}")).await;
    operator.settled().await;
    only_token(&world, "shop-git").await;
    assert_eq!(world.mints(), 1);
    operator.stop().await;
}
