//! git's credentials, through its credential protocol.

use std::time::Duration;

use crate::scene::{BRANCH, Scene, output};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_expires_again_and_again_is_not_noticed() {
    let scene = Scene::cloned().await;
    let mut before = scene.token();
    for number in 0..30 {
        scene.sim.advance(Duration::from_secs(3601));
        scene.renew("write").await;
        assert_ne!(scene.token(), before);
        before = scene.token();
        scene.git(&["commit", "--quiet", "--allow-empty", "--message", &number.to_string()]).await;
        scene.git(&["push", "--quiet"]).await;
        scene.git(&["fetch", "--quiet"]).await;
    }
    assert_eq!(scene.sim.head("acme/shop", BRANCH).unwrap(), scene.git(&["rev-parse", "HEAD"]).await);
    // Without renewal, the access ends.
    scene.sim.advance(Duration::from_secs(3601));
    let refused = scene.person(&scene.shop(), &["fetch"]).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Authentication failed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_goes_to_the_repository_and_nowhere_else() {
    let scene = Scene::cloned().await;
    let ask = async |url: &str| {
        let mut git = std::process::Command::new("sh");
        git.args(["-c", &format!("printf 'url=%s\\n\\n' '{url}' | git credential fill")])
            .current_dir(scene.shop())
            .env("HOME", scene.at("home"))
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_SYSTEM", scene.at("tools/gitconfig"));
        String::from_utf8(output(git).await.stdout).unwrap()
    };
    let (shop, other, base) = (scene.url("shop"), scene.url("other"), scene.sim.base_url());
    let port = scene.sim.address().port();
    for url in [&shop, shop.trim_end_matches(".git"), &format!("{shop}/info/lfs")] {
        assert!(ask(url).await.contains(&format!("password={}", scene.token())), "{url}");
    }
    for url in [
        &other,
        base,
        &format!("{base}/acme"),
        &format!("{base}/acme/shop.git.git"),
        &format!("{base}/acme/shop2"),
        &shop.replace("https:", "http:"),
        &shop.replace("127.0.0.1", "localhost"),
        &shop.replace(&format!(":{port}"), ""),
        &shop.replace("https://", "https://somebody@"),
        &format!("https://evil.example/{shop}"),
    ] {
        assert!(!ask(url).await.contains("password"), "{url}");
    }
    // git reports success and failure to helpers, which must not change the file.
    for operation in ["store", "erase", "what"] {
        let token = scene.at("token");
        let arguments = ["credential", "--url", &shop, "--token-file", token.to_str().unwrap(), operation];
        let done = scene.landfall(None, arguments.map(str::to_owned).to_vec()).await;
        assert_eq!((done.code, done.said.as_str()), (Some(0), Some("")), "{done:?}");
    }
    assert!(scene.at("token").exists());
}
