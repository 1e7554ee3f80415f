//! What is learnt of remotes, against git itself and against a GitHub that behaves: the same as `git ls-remote` says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use github_sim::{
    AccountSeed, AccountType, AppKey, AppSeed, Install, Level, Options, Push, RepositorySeed, Seed, Selection, Sim,
};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use landfall::git::{AllowedHosts, BasicAuth, BranchName, Error, Head, Reach, Refs, Remote, Sha, listed, refs};
use landfall::github::{
    AppCredentials, Connect as _, Endpoint, GitHub, HttpsConnect, Ignore, PlainHttp, Repositories, Scope, Token,
    Transport,
};
use landfall::runtime::clock::{Clock, ManualClock, SystemClock};
use octocrab::OctoBody;
use tower::service_fn;

/// git as the machine's own settings do not change it.
fn git(directory: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs(
            ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"]
                .map(|name| (name, "t")),
        );
    git
}

fn run(directory: &Path, arguments: &[&str]) -> String {
    said(git(directory), arguments)
}

fn said(mut git: Command, arguments: &[&str]) -> String {
    let output = git.args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `git ls-remote` says of a remote: the default branch, and the head of `branch` or of the default branch.
fn ls_remote(git: Command, remote: &str, branch: Option<&str>) -> (Option<String>, Option<String>) {
    let said = said(git, &["ls-remote", "--symref", "--", remote]);
    let default =
        said.lines().find_map(|line| line.strip_prefix("ref: refs/heads/")?.strip_suffix("\tHEAD")).map(str::to_owned);
    let name = branch.map_or_else(|| "HEAD".to_owned(), |branch| format!("refs/heads/{branch}"));
    let head =
        said.lines().filter(|line| !line.starts_with("ref: ")).find_map(|line| line.strip_suffix(&format!("\t{name}")));
    (default, head.map(str::to_owned))
}

/// What `git ls-remote` says is there under patterns of its own.
fn ls_remote_all(git: Command, remote: &str, patterns: &[&str]) -> BTreeMap<String, Sha> {
    let said = said(git, &[&["ls-remote", "--refs", "--", remote], patterns].concat());
    let pair = |line: &str| line.split_once('\t').map(|(sha, name)| (name.to_owned(), sha.parse().unwrap()));
    said.lines().filter_map(pair).collect()
}

fn as_ls_remote(refs: &Refs) -> (Option<String>, Option<String>) {
    (refs.default_branch.as_ref().map(ToString::to_string), refs.head.sha().map(ToString::to_string))
}

fn missing(branch: &str) -> Head {
    Head::Missing { branch: branch.parse().unwrap() }
}

/// `git http-backend` over a directory of repositories, without a network between.
struct Backend {
    directory: tempfile::TempDir,
    /// Methods of the requests so far.
    methods: Arc<Mutex<Vec<Method>>>,
    /// Bytes of the answers so far.
    answered: Arc<AtomicUsize>,
    transport: Transport,
}

impl Backend {
    /// One that honours this version of the protocol at most.
    fn new(version: u8) -> Self {
        Self::with(version, None)
    }

    /// One that serves addresses with `.git` alone: without it, a POST gets this status and a GET a redirect, as at GitLab.
    fn redirecting_to_suffix(status: u16) -> Self {
        Self::with(2, Some(status))
    }

    fn with(version: u8, without_suffix: Option<u16>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (root, methods, answered) = (directory.path().to_owned(), Arc::default(), Arc::new(AtomicUsize::new(0)));
        let (log, count) = (Arc::<Mutex<Vec<Method>>>::clone(&methods), Arc::clone(&answered));
        let transport = Transport::new(service_fn(move |request: Request<OctoBody>| {
            let (root, log, count) = (root.clone(), Arc::clone(&log), Arc::clone(&count));
            async move {
                log.lock().unwrap().push(request.method().clone());
                let path = request.uri().path();
                let response = match (without_suffix.filter(|_| !path.contains(".git/")), request.method()) {
                    (Some(status), &Method::POST) => Response::builder().status(status).body(Bytes::new()).unwrap(),
                    (Some(_), _) => {
                        let query = request.uri().query().unwrap_or_default();
                        let to = format!("{}?{query}", path.replace("/info/refs", ".git/info/refs"));
                        Response::builder().status(301).header("location", to).body(Bytes::new()).unwrap()
                    }
                    (None, _) => serve(&root, version, request).await,
                };
                count.fetch_add(response.body().len(), Ordering::SeqCst);
                Ok::<_, std::io::Error>(response.map(Full::new))
            }
        }));
        Self { directory, methods, answered, transport }
    }

    /// A bare repository.
    fn repository(&self, name: &str, format: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        let arguments = ["init", "-q", "--bare", "-b", "main", "--object-format", format, path.to_str().unwrap()];
        run(self.directory.path(), &arguments);
        path
    }

    async fn refs(&self, repository: &str, branch: Option<&str>) -> Result<Refs, Error> {
        refs(&self.transport, &Self::remote(repository), None, branch, &SystemClock).await
    }

    async fn listed(&self, repository: &str, prefixes: &[&str]) -> Result<BTreeMap<String, Sha>, Error> {
        listed(&self.transport, &Self::remote(repository), None, prefixes, &SystemClock).await
    }

    fn remote(repository: &str) -> Remote {
        let hosts = AllowedHosts::parse(&["git.example.com"], Reach::Public).unwrap();
        Remote::manual(&hosts.check(&format!("https://git.example.com/{repository}")).unwrap())
    }
}

async fn serve(root: &Path, version: u8, request: Request<OctoBody>) -> Response<Bytes> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let header =
        |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let mut command = git(root);
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", parts.uri.path())
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("GIT_PROTOCOL", if version == 2 { header("git-protocol") } else { format!("version={version}") })
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        // One that has read enough closes its end; what it says tells what came of it.
        let _ = child.stdin.take().unwrap().write_all(&body);
        child.wait_with_output().unwrap().stdout
    });
    let output = output.await.unwrap();
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").expect("the end of the headers");
    let mut response = Response::builder();
    for line in str::from_utf8(&output[..end]).unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap()),
            name => response.header(name, value),
        };
    }
    response.body(Bytes::copy_from_slice(&output[end + 4..])).unwrap()
}

/// A commit in `repository`, at which `branches` point from now on.
fn commit(repository: &Path, message: &str, branches: &[&str]) -> String {
    let tree = run(repository, &["mktree"]);
    let sha = run(repository, &["commit-tree", "-m", message, tree.trim()]).trim().to_owned();
    for branch in branches {
        run(repository, &["update-ref", &format!("refs/heads/{branch}"), &sha]);
    }
    sha
}

#[tokio::test]
async fn git_itself_answers_one_request_with_the_head_and_the_default_branch() {
    let backend = Backend::new(2);
    for (format, requests) in [("sha1", 1), ("sha256", 3)] {
        let repository = backend.repository(format, format);
        let first = commit(&repository, "first", &["main", "main-2", "feature/a/b", "-x", "ä"]);
        commit(&repository, "second", &["feature/a/c"]);
        run(&repository, &["tag", "-m", "a tag", "main-3", &first]);
        for branch in [
            None,
            Some("main"),
            Some("feature/a/b"),
            Some("feature/a/c"),
            Some("-x"),
            Some("ä"),
            Some("--upload-pack=x"),
            Some("feature"),
            Some("main-3"),
            Some("HEAD"),
        ] {
            backend.methods.lock().unwrap().clear();
            let refs = backend.refs(format, branch).await.unwrap();
            assert_eq!(as_ls_remote(&refs), ls_remote(git(&repository), ".", branch), "{format} {branch:?}");
            assert_eq!(backend.methods.lock().unwrap().len(), requests, "{format} {branch:?}");
            match (branch, refs.head) {
                (None, Head::At { branch, .. }) => assert_eq!(branch.as_str(), "main"),
                (Some(asked), Head::At { branch, .. }) => assert_eq!(branch.as_str(), asked),
                (Some(asked), head) => assert_eq!(head, missing(asked)),
                (None, head) => panic!("{head:?}"),
            }
        }

        run(&repository, &["symbolic-ref", "HEAD", "refs/heads/feature/a/c"]);
        let refs = backend.refs(format, None).await.unwrap();
        assert_eq!(refs.default_branch, Some("feature/a/c".parse::<BranchName>().unwrap()));
        assert_eq!(as_ls_remote(&refs), ls_remote(git(&repository), ".", None));
        run(&repository, &["update-ref", "--no-deref", "HEAD", &first]);
        let refs = backend.refs(format, None).await.unwrap();
        assert_eq!((refs.default_branch, refs.head), (None, Head::NoDefaultBranch));

        let empty = format!("empty-{format}");
        let repository = backend.repository(&empty, format);
        for branch in [None, Some("main"), Some("x")] {
            let refs = backend.refs(&empty, branch).await.unwrap();
            assert_eq!(
                (refs.default_branch.as_ref().map(BranchName::as_str), &refs.head),
                (Some("main"), &Head::Empty)
            );
        }
        run(&repository, &["config", "lsrefs.unborn", "ignore"]);
        let refs = backend.refs(&empty, None).await.unwrap();
        assert_eq!((refs.default_branch, refs.head), (None, Head::Empty));
    }
    assert!(matches!(backend.refs("nowhere", None).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn git_itself_lists_what_is_below_a_prefix() {
    let backend = Backend::new(2);
    for format in ["sha1", "sha256"] {
        let repository = backend.repository(format, format);
        assert_eq!(backend.listed(format, &["refs/heads"]).await.unwrap(), BTreeMap::new());
        let first = commit(&repository, "first", &["main", "a", "a-b", "ab", "c/d", "c/e/f", "-x", "ä/b"]);
        let second = commit(&repository, "second", &[]);
        run(&repository, &["update-ref", "refs/landfall/wip/1", &second]);
        run(&repository, &["tag", "-m", "a tag", "a", &first]);
        // What a prefix covers here, and the patterns by which git says the same.
        for (prefixes, patterns) in [
            (&["refs/heads"][..], &["refs/heads/*"][..]),
            (&["refs/heads/a"], &["refs/heads/a"]),
            (&["refs/heads/c/"], &["refs/heads/c/*"]),
            (&["refs/heads/c", "refs/landfall/wip"], &["refs/heads/c/*", "refs/landfall/wip/*"]),
            (&["refs/heads/-x", "refs/heads/ä"], &["refs/heads/-x", "refs/heads/ä/*"]),
            (&["refs/tags/a"], &["refs/tags/a"]),
            (&["refs/heads/nowhere"], &["refs/heads/nowhere"]),
        ] {
            let found = backend.listed(format, prefixes).await.unwrap();
            assert_eq!(found, ls_remote_all(git(&repository), ".", patterns), "{format} {prefixes:?}");
            assert_eq!(found.is_empty(), prefixes == ["refs/heads/nowhere"], "{prefixes:?}");
        }
    }
    assert!(matches!(backend.listed("nowhere", &["refs/heads"]).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn ten_thousand_branches_make_no_larger_answer() {
    let backend = Backend::new(2);
    let repository = backend.repository("many", "sha1");
    let sha = commit(&repository, "first", &["main"]);
    let mut packed = vec!["# pack-refs with: peeled fully-peeled sorted ".to_owned()];
    packed.extend((0..10_000).map(|number| format!("{sha} refs/heads/topic/{number:05}")));
    std::fs::write(repository.join("packed-refs"), packed.join("\n") + "\n").unwrap();
    for branch in [None, Some("main"), Some("topic/09999"), Some("x")] {
        backend.answered.store(0, Ordering::SeqCst);
        let refs = backend.refs("many", branch).await.unwrap();
        assert_eq!(as_ls_remote(&refs), ls_remote(git(&repository), ".", branch), "{branch:?}");
        let answered = backend.answered.load(Ordering::SeqCst);
        assert!(answered < 200, "{answered} bytes about {branch:?}");
    }
    // A name with which all the others begin is no harm either.
    assert_eq!(backend.refs("many", Some("t")).await.unwrap().head, missing("t"));
}

#[tokio::test]
async fn servers_of_earlier_protocols_are_read_by_their_advertisement() {
    for (version, format) in [(0, "sha1"), (1, "sha1"), (0, "sha256"), (1, "sha256")] {
        let backend = Backend::new(version);
        let repository = backend.repository("old", format);
        assert_eq!(backend.refs("old", None).await.unwrap().head, Head::Empty);
        let first = commit(&repository, "first", &["main", "main-2", "a/b"]);
        commit(&repository, "second", &["a/c"]);
        run(&repository, &["tag", "-m", "a tag", "main-3", &first]);
        for branch in [None, Some("main"), Some("a/b"), Some("a/c"), Some("main-3"), Some("x")] {
            let refs = backend.refs("old", branch).await.unwrap();
            assert_eq!(as_ls_remote(&refs), ls_remote(git(&repository), ".", branch), "{version} {branch:?}");
        }
        let found = backend.listed("old", &["refs/heads/a/", "refs/tags/main-3"]).await.unwrap();
        let patterns = ["refs/heads/a/*", "refs/tags/main-3"];
        assert_eq!(found, ls_remote_all(git(&repository), ".", &patterns), "{version}");
        assert_eq!(found.len(), 3);
        assert_eq!(backend.methods.lock().unwrap()[..2], [Method::POST, Method::GET]);
    }
}

#[tokio::test]
async fn an_address_without_its_suffix_is_followed_as_git_follows_it() {
    for status in [422, 404] {
        let backend = Backend::redirecting_to_suffix(status);
        let repository = backend.repository("lib.git", "sha1");
        commit(&repository, "first", &["main"]);
        let refs = backend.refs("lib", None).await.unwrap();
        assert_eq!(as_ls_remote(&refs), ls_remote(git(&repository), ".", None));
        assert_eq!(*backend.methods.lock().unwrap(), [Method::POST, Method::GET, Method::POST]);
        let found = backend.listed("lib", &["refs/heads"]).await.unwrap();
        assert_eq!(found, ls_remote_all(git(&repository), ".", &["refs/heads/*"]));
    }
}

struct World {
    sim: Sim,
    directory: tempfile::TempDir,
    clock: Arc<ManualClock>,
    transport: Transport,
    token: Token,
}

impl World {
    /// A GitHub with an App on `acme`, where it may read contents.
    async fn new() -> Self {
        let key = AppKey::generate().unwrap();
        let permissions = [("contents".into(), Level::Read), ("metadata".into(), Level::Read)];
        let app = AppSeed {
            name: "Landfall".into(),
            owner: "acme".into(),
            id: Some(4711),
            public_key: Some(key.public_pem().into()),
            permissions: permissions.into(),
            ..AppSeed::default()
        };
        let repository = |name: &str, private: bool, empty: bool| RepositorySeed {
            owner: "acme".into(),
            name: name.into(),
            private,
            empty,
            ..RepositorySeed::default()
        };
        let seed = Seed {
            accounts: vec![AccountSeed {
                login: "acme".into(),
                kind: AccountType::Organization,
                ..AccountSeed::default()
            }],
            apps: vec![app],
            repositories: vec![
                repository("shop", true, false),
                repository("open", false, false),
                repository("blank", true, true),
                repository("other", true, false),
            ],
            ..Seed::default()
        };
        let sim = Sim::start(Options { listen: "127.0.0.1:0".parse().unwrap(), tls: true, seed }).await.unwrap();
        let selection = Selection::Selected(vec!["shop".into(), "blank".into()]);
        let install = Install { app: "landfall".into(), account: "acme".into(), selection, permissions: None };
        let installation = sim.install(&install).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), sim.ca_pem()).unwrap();
        let clock = Arc::new(ManualClock::new(sim.now()));
        let transport = HttpsConnect::new().connect(Some(sim.ca_pem().as_bytes())).unwrap();
        let github = GitHub::new(
            endpoint(&sim),
            transport.clone(),
            AppCredentials::parse("4711", key.private_pem().as_bytes(), None).unwrap(),
            Arc::<ManualClock>::clone(&clock) as Arc<dyn Clock>,
            Arc::new(Ignore),
        );
        let scope = Scope { repositories: Repositories::All, permissions: [("contents".into(), "read".into())].into() };
        let token = github.mint(installation.try_into().unwrap(), &scope).await.unwrap().token;
        Self { sim, directory, clock, transport, token }
    }

    async fn refs(&self, name: &str, branch: Option<&str>) -> Result<Refs, Error> {
        self.refs_as(Some(&BasicAuth::installation(self.token.clone())), name, branch).await
    }

    async fn refs_as(&self, as_whom: Option<&BasicAuth>, name: &str, branch: Option<&str>) -> Result<Refs, Error> {
        let remote = Remote::github(&endpoint(&self.sim), name).unwrap();
        refs(&self.transport, &remote, as_whom, branch, &*self.clock).await
    }

    async fn listed(&self, name: &str, prefixes: &[&str]) -> Result<BTreeMap<String, Sha>, Error> {
        let remote = Remote::github(&endpoint(&self.sim), name).unwrap();
        let token = BasicAuth::installation(self.token.clone());
        listed(&self.transport, &remote, Some(&token), prefixes, &*self.clock).await
    }

    /// What git itself says of it.
    async fn ls_remote(&self, name: &str, branch: Option<&str>) -> (Option<String>, Option<String>) {
        let (remote, branch) = (format!("{}/{name}.git", self.sim.base_url()), branch.map(str::to_owned));
        let basic = STANDARD.encode(format!("x-access-token:{}", self.token.expose()));
        let mut git = git(self.directory.path());
        git.env("GIT_SSL_CAINFO", self.directory.path().join("ca.pem"))
            .env("no_proxy", "*")
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "http.extraHeader")
            .env("GIT_CONFIG_VALUE_0", format!("Authorization: Basic {basic}"));
        tokio::task::spawn_blocking(move || ls_remote(git, &remote, branch.as_deref())).await.unwrap()
    }

    fn git_requests(&self) -> usize {
        self.sim.requests().iter().filter(|entry| entry.path.contains(".git/")).count()
    }
}

fn endpoint(sim: &Sim) -> Endpoint {
    Endpoint::parse(&sim.api_url(), None, None, PlainHttp::OnLoopback).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_github_tells_what_git_is_told() {
    let world = World::new().await;
    let push = |branch: &str| Push {
        repository: "acme/shop".into(),
        branch: Some(branch.into()),
        path: "a".into(),
        content: branch.into(),
        message: None,
    };
    for branch in ["feature/x", "main"] {
        world.sim.push(&push(branch)).unwrap();
    }
    world.sim.reset_requests();
    let branches = [None, Some("main"), Some("feature/x"), Some("feature"), Some("nowhere")];
    for branch in branches {
        let refs = world.refs("acme/shop", branch).await.unwrap();
        let sha = world.sim.head("acme/shop", branch.unwrap_or("main"));
        assert_eq!(as_ls_remote(&refs), (Some("main".to_owned()), sha), "{branch:?}");
    }
    assert_eq!(world.git_requests(), branches.len());
    for branch in branches {
        let refs = world.refs("acme/shop", branch).await.unwrap();
        assert_eq!(as_ls_remote(&refs), world.ls_remote("acme/shop", branch).await, "{branch:?}");
    }
    assert_eq!(world.refs("acme/shop", Some("nowhere")).await.unwrap().head, missing("nowhere"));

    let listed = world.listed("acme/shop", &["refs/heads/feature", "refs/heads/main"]).await.unwrap();
    let expected = ["feature/x", "main"]
        .map(|name| (format!("refs/heads/{name}"), world.sim.head("acme/shop", name).unwrap().parse().unwrap()));
    assert_eq!(listed, expected.into());
    assert_eq!(world.listed("acme/blank", &["refs/heads"]).await.unwrap(), BTreeMap::new());
    assert!(matches!(world.listed("acme/other", &["refs/heads"]).await, Err(Error::NotFound { .. })));

    let before = world.refs("acme/shop", None).await.unwrap();
    let sha = world.sim.push(&push("main")).map(|sha| sha.parse().unwrap()).unwrap();
    let after = world.refs("acme/shop", None).await.unwrap();
    assert_ne!(before, after);
    assert_eq!(after.head.sha(), Some(&sha));

    for branch in [None, Some("main"), Some("x")] {
        let refs = world.refs("acme/blank", branch).await.unwrap();
        assert_eq!((refs.default_branch.as_ref().map(BranchName::as_str), refs.head), (Some("main"), Head::Empty));
    }
}

#[tokio::test]
async fn a_github_shows_only_what_whoever_asks_may_see() {
    let world = World::new().await;
    assert!(world.refs_as(None, "acme/open", None).await.unwrap().head.sha().is_some());
    for (as_whom, name) in [(None, "acme/shop"), (None, "acme/nothing")] {
        assert!(matches!(world.refs_as(as_whom, name, None).await, Err(Error::NotFound { .. })), "{name}");
    }
    for name in ["acme/other", "acme/nothing"] {
        let error = world.refs(name, None).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{name}: {error}");
    }
    let wrong = BasicAuth::installation(Token::new("ghs_wrong".into()));
    let error = world.refs_as(Some(&wrong), "acme/shop", None).await.unwrap_err();
    assert!(matches!(error, Error::CredentialsRefused { .. }), "{error}");

    world.sim.rename_repository("acme/shop", "store").unwrap();
    world.sim.reset_requests();
    let Err(Error::Moved { to, .. }) = world.refs("acme/shop", None).await else { panic!("not moved") };
    assert_eq!(to, Some(format!("{}/acme/store.git", world.sim.base_url())));
    assert_eq!(world.git_requests(), 1);
    assert!(world.refs("acme/store", None).await.unwrap().head.sha().is_some());
}
