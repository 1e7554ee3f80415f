//! A program in the person's container takes all that it can read, and tries each string at GitHub.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, header};
use landfall::github::{Connect as _, HttpsConnect, Transport};
use octocrab::OctoBody;
use tower::ServiceExt as _;

use super::pod::{Pod, TOKEN, Way};
use super::scene::{Scene, output, words};

/// Writes what a program sees of a push while it runs: the arguments, the environment and the memory of git and of the programs that
/// git started. They have the credential by then, because the remote's refs are known.
const PRE_PUSH: &str = r#"#!/bin/sh
page=4096
walk() {
  tr '\0' '\n' <"/proc/$1/cmdline"
  tr '\0' '\n' <"/proc/$1/environ"
  while read -r range rights _; do
    case $rights in rw*) ;; *) continue ;; esac
    from=$((0x${range%-*} / page)) to=$((0x${range#*-} / page))
    [ $((to - from)) -le 4096 ] || continue
    dd if="/proc/$1/mem" bs=$page skip=$from count=$((to - from)) 2>/dev/null | tr -c '[:alnum:]_.+=-' '\n'
  done <"/proc/$1/maps"
  for child in $(cat "/proc/$1/task/$1/children"); do
    [ "$child" = $$ ] || walk "$child"
  done
}
walk $PPID >"$SEEN" 2>/dev/null
exit 0
"#;

const SHORTEST: usize = 20;
const LONGEST: usize = 4096;

/// The strings of a text that could be a token, and those in base64.
fn strings(bytes: &[u8], found: &mut BTreeSet<String>) {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.+=-".contains(byte);
    for run in bytes.split(|byte| !plain(byte)).filter(|run| (SHORTEST..=LONGEST).contains(&run.len())) {
        let text = String::from_utf8(run.to_vec()).unwrap();
        if let Ok(pair) = STANDARD.decode(&text)
            && let Some((_, password)) = str::from_utf8(&pair).ok().and_then(|pair| pair.split_once(':'))
        {
            found.insert(password.to_owned());
        }
        for text in [&*text, text.rsplit('=').next().unwrap_or_default()] {
            // A name of letters alone, such as that of a variable, is none.
            if text.len() >= SHORTEST && text.bytes().any(|byte| byte.is_ascii_digit()) {
                found.insert(text.to_owned());
            }
        }
    }
}

/// All strings that a program in the pod can get at.
async fn loot(pod: &Pod<'_>) -> BTreeSet<String> {
    let hook = pod.shop().join(".git/hooks/pre-push");
    super::scene::executable(&hook, PRE_PUSH);
    pod.commit("loot.txt").await;
    let mut push = pod.command(&["push", "--quiet"]);
    // git shows what it sends, credentials included.
    push.env("SEEN", pod.at("home/seen")).env("GIT_TRACE_CURL", pod.at("home/trace")).env("GIT_TRACE_REDACT", "0");
    push.env("GIT_TRACE_CURL_NO_DATA", "1");
    let pushed = output(push).await;
    assert!(pushed.status.success(), "{}", words(&pushed));
    let mut found = BTreeSet::new();
    for arguments in [&["config", "--list"][..], &["credential", "fill"]] {
        let mut git = pod.command(arguments);
        git.stdin(std::process::Stdio::null());
        strings(&output(git).await.stdout, &mut found);
    }
    for url in [pod.scene.origin("shop"), pod.scene.url("shop"), pod.scene.origin("other"), pod.scene.url("other")] {
        strings(pod.filled(&url).await.as_bytes(), &mut found);
    }
    for file in pod.files() {
        strings(&std::fs::read(&file).unwrap(), &mut found);
    }
    let seen = std::fs::read(pod.at("home/seen")).unwrap();
    assert!(seen.windows(16).any(|window| window == b"GIT_TRACE_REDACT"), "the processes of the push were seen");
    found
}

/// What a string opens at GitHub.
async fn opened(scene: &Scene, github: &Transport, text: &str) -> Vec<&'static str> {
    let base = scene.sim.base_url();
    let (bearer, api) = (format!("Bearer {text}"), scene.sim.api_url());
    let basic = format!("Basic {}", STANDARD.encode(format!("x-access-token:{text}")));
    let mut opened = Vec::new();
    for (what, url, authorization) in [
        ("the repository by REST", format!("{api}/repos/acme/shop"), &bearer),
        ("the App by REST", format!("{api}/app"), &bearer),
        ("the repository by git", format!("{base}/acme/shop.git/info/refs?service=git-upload-pack"), &basic),
        ("the other repository by git", format!("{base}/acme/other.git/info/refs?service=git-upload-pack"), &basic),
    ] {
        let request =
            Request::get(url).header(header::USER_AGENT, "thief").header(header::AUTHORIZATION, authorization);
        let response =
            github.clone().oneshot(request.body(OctoBody::empty()).unwrap()).await.unwrap_or_else(|_| panic!("{what}"));
        if response.status().is_success() {
            opened.push(what);
        }
    }
    opened
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_the_pod_opens_anything_at_github() {
    let scene = Scene::new().await;
    let github = HttpsConnect::new().connect(Some(scene.sim.ca_pem().as_bytes())).unwrap();
    for way in [Way::Token, Way::Gateway] {
        let pod = Pod::cloned(&scene, way).await;
        let loot = loot(&pod).await;
        assert!(loot.len() < 20_000, "{} strings", loot.len());
        let mut opens = BTreeSet::new();
        for text in &loot {
            opens.extend(opened(&scene, &github, text).await);
        }
        match way {
            // The test finds the credential where there is one.
            Way::Token => assert_eq!(Vec::from_iter(opens), ["the repository by REST", "the repository by git"]),
            Way::Gateway => {
                assert!(loot.contains(TOKEN), "the token of the pod is among {} strings", loot.len());
                assert!(opens.is_empty(), "{opens:?}");
            }
        }
    }
}
