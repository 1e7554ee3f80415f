//! `source.url`: repositories by their address alone, on the hosts that the operator's administrator allows.

use crate::repository::{comes_to, follow};
use crate::scene::{connected, says};
use jiff::SignedDuration;
use landfall::api::ProjectRepository;
use landfall::git::{AllowedHosts, Reach};
use landfall_world::objects;
use landfall_world::operator::Start;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

fn by_url(url: &str, secret: Option<&str>) -> Value {
    let mut source = json!({"url": url});
    if let Some(secret) = secret {
        source["credentialsSecretRef"] = json!({"name": secret});
    }
    json!({"installationRef": null, "source": source})
}

/// A server that counts its connections.
async fn listener() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (port, came) = (listener.local_addr().expect("an address").port(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&came);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, came)
}

#[tokio::test]
async fn only_what_is_allowed_is_asked_and_credentials_stay_with_their_host() {
    let (world, operator) = connected().await;
    operator.stop().await;
    let (port, came) = listener().await;
    let here = format!("127.0.0.1:{port}");
    let hosts = [here.as_str(), "git.example.com", "localhost"];
    let public = || Start { git_hosts: AllowedHosts::parse(&hosts, Reach::Public).unwrap(), ..Start::default() };
    let operator = world.start(public()).await;

    for (name, url, reason, words) in [
        ("other", "https://elsewhere.example.com/team/lib.git", "URLNotAllowed", "not among the hosts"),
        ("port", "https://git.example.com:8443/team/lib.git", "URLNotAllowed", "not among the hosts"),
        ("literal", &format!("https://{here}/team/lib.git"), "URLNotAllowed", "private addresses need the permission"),
        ("name", "https://localhost/team/lib.git", "URLNotAllowed", "private addresses need the permission"),
    ] {
        let message = follow(&world, name, &by_url(url, None), reason).await;
        says(&message, &[words]);
    }
    for (url, words) in [
        ("http://git.example.com/team/lib.git", "must begin with https://"),
        ("ssh://git@git.example.com/lib.git", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("https://me:hunter2@git.example.com/team/lib.git", "must not hold credentials"),
        ("https://git.example.com/team/lib.git?x=1", "a query"),
    ] {
        let refused = world.try_apply::<ProjectRepository>(&objects::repository("plain", &by_url(url, None))).await;
        says(&refused.unwrap_err().to_string(), &[words]);
    }
    operator.settled().await;
    assert_eq!(came.load(Ordering::SeqCst), 0, "nothing was asked");
    operator.stop().await;

    // If private addresses are allowed, the server is asked, but not with credentials for another host, or for none.
    world.delete::<ProjectRepository>("team-a", "literal").await;
    world.until_gone::<ProjectRepository>("team-a", "literal").await;
    let private = Start { git_hosts: AllowedHosts::parse(&hosts, Reach::Private).unwrap(), ..Start::default() };
    let operator = world.start(private).await;
    let url = format!("https://{here}/team/lib.git");
    world
        .put_secret("team-a", "other-host", &[("host", "git.example.com"), ("username", "u"), ("password", "p")])
        .await;
    world.put_secret("team-a", "no-host", &[("username", "u"), ("password", "p")]).await;
    world.put_secret("team-a", "no-port", &[("host", "127.0.0.1"), ("username", "u"), ("password", "p")]).await;
    world.put_secret("team-a", "no-password", &[("host", here.as_str()), ("username", "u")]).await;
    let before = came.load(Ordering::SeqCst);
    for (secret, words) in [
        ("other-host", "another host"),
        ("no-port", "another host"),
        ("no-host", "no key host"),
        ("no-password", "username and password"),
    ] {
        let message = follow(&world, secret, &by_url(&url, Some(secret)), "CredentialsInvalid").await;
        says(&message, &[secret, words]);
    }
    let message = follow(&world, "missing", &by_url(&url, Some("missing")), "WaitingForReference").await;
    says(&message, &["no Secret missing"]);
    world.live_through(&operator, SignedDuration::from_mins(40)).await;
    assert_eq!(came.load(Ordering::SeqCst), before, "nothing was asked with them");
    // The listener does not speak TLS. The connection itself shows that it was allowed.
    follow(&world, "allowed", &by_url(&url, None), "APIUnreachable").await;
    assert!(came.load(Ordering::SeqCst) > before);
    assert_eq!(world.sim.requests().iter().filter(|request| request.path.contains("/team/lib")).count(), 0);
    comes_to(&world, "other", "URLNotAllowed").await;
    operator.stop().await;
}
