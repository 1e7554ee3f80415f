//! The token is only in its file and in git's memory, whatever the commands print or write, even when they fail.

use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use github_sim::{Fault, FaultKind};
use serde_json::json;

use crate::scene::{Done, Scene, holding};

fn spellings(token: &str) -> [String; 3] {
    [token.to_owned(), STANDARD.encode(format!("x-access-token:{token}")), STANDARD.encode(token)]
}

/// The output so far, and the tokens that were used.
struct Said {
    texts: Vec<String>,
    tokens: Vec<String>,
}

impl Said {
    /// Checks the status of a command, and stores its output.
    fn heard(&mut self, scene: &Scene, done: Done, code: u8) {
        assert_eq!(done.code, Some(code.into()), "{done:?}");
        self.tokens.push(scene.token());
        self.texts.extend([done.words, done.said.to_string()]);
    }

    fn has(&self, words: &str) -> bool {
        self.texts.iter().any(|text| text.contains(words))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_is_nowhere_but_in_its_file() {
    let scene = Scene::new().await;
    let path = |name: &str| scene.at(name).to_str().unwrap().to_owned();
    let (record, log) = (path("record"), path("termination-log"));
    let told = ["--first-commit", "Begin try", "--record", &record, "--termination-log", &log, "--attempts", "1"];
    let mut said = Said { texts: Vec::new(), tokens: Vec::new() };

    // Failures print the most.
    let refused =
        |message: &str| FaultKind::Status { status: 403, body: Some(json!({"message": message})), headers: [].into() };
    scene.sim.inject(Fault::new("GET", "/acme/shop.git/info/refs", refused("Forbidden")));
    said.heard(&scene, scene.clone(&told).await, 20);
    said.heard(&scene, scene.landfall(None, scene.clone_arguments("other", &told)).await, 20);
    // A host that repeats the token.
    scene.refuse(&format!("cat '{}' >&2; exit 1", scene.at("token").display()));
    said.heard(&scene, scene.clone(&told).await, 20);
    assert!(said.has("[redacted]"), "{:?}", said.texts);
    std::fs::remove_file(scene.at("github/hooks/pre-receive")).unwrap();
    said.heard(&scene, scene.clone(&told).await, 0);
    said.heard(&scene, scene.clone(&told).await, 0);

    scene.renew("write").await;
    scene.write("new", "new");
    said.heard(&scene, scene.save(&["--autosave"]).await, 0);
    scene.refuse(&format!("cat '{}' >&2; exit 1", scene.at("token").display()));
    said.heard(&scene, scene.save(&["--termination-log", &log]).await, 20);
    assert_eq!(held(&scene, &said.tokens), [scene.at("token")]);
    std::fs::remove_file(scene.at("github/hooks/pre-receive")).unwrap();
    said.heard(&scene, scene.save(&["--termination-log", &log]).await, 0);
    scene.git(&["fetch", "--quiet"]).await;

    // A token that GitHub no longer knows.
    scene.sim.advance(std::time::Duration::from_secs(3700));
    said.heard(&scene, scene.save(&[]).await, 75);
    scene.person(&scene.shop(), &["fetch"]).await;
    std::fs::remove_dir_all(scene.shop()).unwrap();
    said.heard(&scene, scene.clone(&told).await, 75);
    assert!(said.has("Authentication failed"));

    // The helper's answer is for git; its other output is for people.
    let question = format!("protocol=https\nhost=127.0.0.1:{}\npath=acme/shop.git\n", scene.sim.address().port());
    let asked = |file: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
        command.args(["workspace", "credential", "--url", &scene.url("shop"), "--token-file"]).arg(file).arg("get");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("our binary");
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), question.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let answer = asked(&scene.at("token"));
    assert_eq!(
        String::from_utf8(answer.stdout).unwrap(),
        format!("username=x-access-token\npassword={}\n", scene.token())
    );
    assert!(answer.stderr.is_empty());
    std::fs::write(scene.at("broken"), format!("{}\nquit=1", scene.token())).unwrap();
    let answer = asked(&scene.at("broken"));
    assert!(!answer.status.success() && answer.stdout.is_empty(), "{answer:?}");
    said.texts.push(String::from_utf8(answer.stderr).unwrap());
    std::fs::remove_file(scene.at("broken")).unwrap();

    assert_eq!(held(&scene, &said.tokens), [scene.at("token")]);
    for text in &said.texts {
        for token in &said.tokens {
            assert!(!spellings(token).iter().any(|spelling| text.contains(spelling)), "{text}");
        }
    }
}

/// The files outside of the simulated GitHub that contain one of the tokens.
fn held(scene: &Scene, tokens: &[String]) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> =
        tokens.iter().flat_map(|token| spellings(token)).flat_map(|text| holding(&scene.at(""), &text)).collect();
    found.retain(|path| !path.starts_with(scene.at("github")));
    found.sort();
    found.dedup();
    found
}
