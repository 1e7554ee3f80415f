//! Attacks by somebody who works in a workspace, or has a few permissions in its namespace: each fails, and succeeds
//! without its guard.

use super::{BRANCH, OBJECTS, Team, needs, nothing_to_do, workspace};
use crate::scene::token_in;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{CustomResourceExt as _, ResourceExt};
use landfall::api::Workspace;
use landfall::github::{AppCredentials, Connect as _, Endpoint, GitHub, HttpsConnect, Ignore, PlainHttp};
use landfall::github::{PullRequest, Repositories, Scope};
use landfall::guards::Sabotage;
use landfall_world::{World, id};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// Whether a token pushes to a repository.
async fn pushes(world: &World, token: &str, repository: &str) -> bool {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ca.pem"), world.sim.ca_pem()).unwrap();
    let address = world.sim.base_url().replace("https://", &format!("https://x-access-token:{token}@"));
    let url = format!("{address}/acme/{repository}.git");
    let git = async |at: &Path, arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(at).args(arguments).env("GIT_SSL_CAINFO", directory.path().join("ca.pem"));
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
        git.env("no_proxy", "*").output().await.unwrap().status.success()
    };
    let at = directory.path();
    assert!(git(at, &["init", "--quiet", "."]).await);
    let person = ["-c", "user.name=Mona", "-c", "user.email=mona@example.com"];
    assert!(git(at, &[&person[..], &["commit", "--quiet", "--allow-empty", "--message", "x"]].concat()).await);
    git(at, &["push", "--quiet", &url, "HEAD:refs/heads/attack"]).await
}

/// The token of a workspace is used for another repository of the same account.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_workspace_elsewhere() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        team.make("try", &json!({})).await;
        let token = team.world.until("there is a token", async || token_in(&team.world, OBJECTS).await).await;
        assert!(pushes(&team.world, &token, "shop").await, "it is for this one");
        let elsewhere = [pushes(&team.world, &token, "vault").await, pushes(&team.world, &token, "lib-core").await];
        assert_eq!(elsewhere[0], elsewhere[1]);
        team.end().await;
        elsewhere[0]
    };
    needs(Sabotage { any_repository: true, ..Sabotage::default() }, attack).await;
}

/// A pod with the labels of a workspace's pod sends reports for that workspace.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_as_the_pod_of_another() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        let uid = team.make("try", &json!({})).await.uid().unwrap();
        let spy = team.pretender("team-a", "spy", "try", &uid).await;
        team.bind("team-a", OBJECTS).await;
        team.run("try", BRANCH).await;
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": ["landfall"], "expirationSeconds": 600,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "spy", "uid": spy.uid()}},
        });
        let request = http::Request::post("/api/v1/namespaces/team-a/serviceaccounts/default/token")
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes());
        let answer: Value = team.world.admin.request(request.unwrap()).await.unwrap();
        let (token, report) = (answer["status"]["token"].as_str().unwrap(), r#"{"changed":77}"#);
        let mut stream = tokio::net::TcpStream::connect(team.operator.reports()).await.unwrap();
        let length = report.len();
        let head = format!("host: landfall\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(format!("POST /v1/report HTTP/1.1\r\n{head}{report}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let is_taken = answer.starts_with("HTTP/1.1 200 ");
        assert!(is_taken || answer.starts_with("HTTP/1.1 403 "), "{answer}");
        let shown = async || {
            let object = team.world.get::<Workspace>("team-a", "try").await?;
            (object.status?.git?.changed_files == Some(77)).then_some(())
        };
        if is_taken {
            team.world.until("what it said is shown", shown).await;
        }
        team.operator.settled().await;
        assert_eq!(shown().await.is_some(), is_taken);
        team.end().await;
        is_taken
    };
    needs(Sabotage { any_reporter: true, ..Sabotage::default() }, attack).await;
}

impl Team {
    /// A pod that claims to be a workspace's pod.
    pub async fn pretender(&self, namespace: &str, name: &str, workspace: &str, uid: &str) -> Pod {
        let owner = json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace", "name": workspace, "uid": uid, "controller": true,
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": namespace, "finalizers": ["test.landfall.dev/stays"],
                "labels": {"landfall.dev/workspace": workspace, "landfall.dev/role": "work"},
                "annotations": {"landfall.dev/workspace-uid": uid},
                "ownerReferences": if namespace == "team-b" { json!([owner]) } else { json!([]) },
            },
            "spec": {
                "initContainers": [{"name": "agent", "image": "none.invalid/none"}],
                "containers": [{"name": "main", "image": "none.invalid/none"}],
            },
        });
        self.world.apply(&pod).await
    }
}

/// The pod reports a complete save, and pushed nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_lies_about_what_it_saved() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        team.works(&json!({})).await;
        let commit = "2".repeat(40);
        let saved = json!([{"what": "working tree", "commit": commit, "ref": format!("refs/heads/{BRANCH}")}]);
        let lie = json!({
            "outcome": "Saved", "branch": BRANCH, "head": commit, "saved": saved, "remote": {"branch": commit},
        });
        team.say("team-a", OBJECTS, &lie).await;
        let is_lost = team.loses_the_volume().await;
        team.end().await;
        is_lost
    };
    needs(Sabotage { believe_agent: true, ..Sabotage::default() }, attack).await;
}

/// A tenant that may write status writes there that the work is safe.
#[tokio::test(flavor = "multi_thread")]
async fn work_that_status_calls_safe() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        team.works(&json!({})).await;
        // A running operator corrects status, so the attack happens before it starts.
        let forge = async |world: &World| {
            let safe = json!({
                "type": "WorkSafe", "status": "True", "reason": "Saved", "message": "trust me",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            let save = json!({"sha": "2".repeat(40), "ref": "refs/heads/main", "time": "2026-01-01T00:00:00Z"});
            let status = json!({"conditions": [safe], "save": save});
            world.merge_status::<Workspace>("team-a", "try", &status).await.expect("a tenant may");
            world.delete::<Workspace>("team-a", "try").await;
        };
        let team = team.restarted(forge).await;
        let is_lost = team.is_volume_lost().await;
        team.end().await;
        is_lost
    };
    needs(Sabotage { believe_status: true, ..Sabotage::default() }, attack).await;
}

/// The pull requests of a branch, read as the App.
async fn pulls(world: &World, branch: &str) -> Vec<PullRequest> {
    let github = GitHub::new(
        Endpoint::parse(&world.sim.api_url(), None, None, PlainHttp::OnLoopback).unwrap(),
        HttpsConnect::new().connect(Some(world.sim.ca_pem().as_bytes())).unwrap(),
        AppCredentials::parse("4242", landfall_world::KEY.private_pem().as_bytes(), None).unwrap(),
        Arc::<landfall::runtime::clock::ManualClock>::clone(&world.clock) as Arc<dyn landfall::runtime::clock::Clock>,
        Arc::new(Ignore),
    );
    let repositories = Repositories::Names(vec!["shop".into()]);
    let scope = Scope { repositories, permissions: [("pull_requests".into(), "read".into())].into() };
    let token = github.mint(id(501), &scope).await.unwrap().token;
    github.pull_requests(&token, "acme", "shop", &format!("acme:{branch}")).await.unwrap()
}

/// A tenant that may write status writes the pull request and branch of another there, so that the workspace would
/// close it.
#[tokio::test(flavor = "multi_thread")]
async fn the_pull_request_of_another_in_status() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        for branch in ["landfall/other", BRANCH] {
            team.world.push("acme/shop", branch);
        }
        let opened = async |name: &str| {
            let number = async || team.world.get::<Workspace>("team-a", name).await?.status?.pull_request;
            team.world.until("its pull request is open", number).await.number
        };
        team.make("other", &json!({})).await;
        team.bind("team-a", "ws-other").await;
        team.run("other", "landfall/other").await;
        let theirs = opened("other").await;
        team.works(&json!({"pullRequest": {"onDelete": "Close"}})).await;
        let own = opened("try").await;
        let mut said = nothing_to_do();
        // The save of the branch at which the operator believes the clone to be.
        let branch = if sabotage.believe_status { "landfall/other" } else { BRANCH };
        said["remote"] = json!({"branch": team.world.sim.head("acme/shop", branch)});
        team.say("team-a", OBJECTS, &said).await;
        let forge = async |world: &World| {
            let pull = json!({"number": theirs, "htmlURL": "https://example.com", "state": "Open", "draft": false});
            let status = json!({"pullRequest": pull, "git": {"branch": "landfall/other"}});
            world.merge_status::<Workspace>("team-a", "try", &status).await.expect("a tenant may");
            world.delete::<Workspace>("team-a", "try").await;
        };
        let team = team.restarted(forge).await;
        let gone = async || {
            team.operator.settled().await;
            team.world.advance(SignedDuration::from_secs(10));
            team.world.get::<Workspace>("team-a", "try").await.is_none().then_some(())
        };
        team.world.until("the workspace is gone", gone).await;
        let closed = |number: i64| {
            let path = format!("/pulls/{number}");
            team.world.sim.requests().iter().any(|asked| asked.method == "PATCH" && asked.path.ends_with(&path))
        };
        let is_theirs = closed(theirs);
        assert_ne!(is_theirs, closed(own));
        team.end().await;
        is_theirs
    };
    needs(Sabotage { believe_status: true, ..Sabotage::default() }, attack).await;
}

/// A title that would change the request if it were inserted without escaping.
#[tokio::test(flavor = "multi_thread")]
async fn a_title_that_names_another_target() {
    let title = r#"x","base":"release","z":"$(id)`id`"#;
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        team.world.push("acme/shop", "release");
        team.world.push("acme/shop", BRANCH);
        team.works(&json!({"pullRequest": {"title": title}})).await;
        let all = async || Some(pulls(&team.world, BRANCH).await).filter(|all| !all.is_empty());
        let pull = team.world.until("the pull request is open", all).await.pop().unwrap();
        assert_eq!(pull.base.branch == "main", pull.title == title, "{pull:?}");
        team.end().await;
        pull.base.branch == "release"
    };
    needs(Sabotage { paste_title: true, ..Sabotage::default() }, attack).await;
}

/// The annotation that gives work up, with the uid of another object.
#[tokio::test(flavor = "multi_thread")]
async fn work_given_up_by_the_uid_of_another() {
    let attack = async |sabotage: Sabotage| {
        let team = Team::new(sabotage).await;
        team.works(&json!({})).await;
        let other = team.make("other", &json!({"operatingMode": "Suspended"})).await.uid();
        for uid in [other.as_deref().unwrap_or_default(), "", "try"] {
            let change = json!({"metadata": {"annotations": {"landfall.dev/force-delete": uid}}});
            team.world.merge::<Workspace>("team-a", "try", &change).await.unwrap();
        }
        let is_lost = team.loses_the_volume().await;
        team.end().await;
        is_lost
    };
    needs(Sabotage { any_force: true, ..Sabotage::default() }, attack).await;
}

/// Values that no field accepts, from anybody.
#[tokio::test(flavor = "multi_thread")]
async fn branches_and_titles_that_are_none() {
    let team = Team::new(Sabotage::default()).await;
    let unguarded = without_rules(&team.world).await;
    for (field, texts) in [
        (
            "/branch/name",
            &["x:y", "owner:branch", "refs/heads/x", "--upload-pack=x", "landfall-wip/other-12345/x", "a..b", "a b"][..],
        ),
        ("/branch/from", &["x:y", "owner:branch", "refs/heads/x", "--upload-pack=x", "a..b", "a\\b"]),
        ("/pullRequest/target", &["x:y", "owner:branch", "refs/heads/x", "--upload-pack=x"]),
        ("/pullRequest/title", &["a\nb", "a\rb", "\u{1}"]),
        ("/author/name", &["a\nb", "a <b>"]),
        ("/author/email", &["a\n@b", "a@b>", "none"]),
    ] {
        for text in texts {
            let mut object = workspace("try", &json!({"pullRequest": {}, "author": {"name": "a", "email": "a@b"}}));
            let spec = object["spec"].as_object_mut().unwrap();
            let (outer, inner) = field[1..].split_once('/').unwrap();
            spec.get_mut(outer).unwrap()[inner] = (*text).into();
            let refused = team.world.try_apply::<Workspace>(&object).await;
            let is_refused = matches!(&refused, Err(kube::Error::Api(status)) if status.code == 422);
            assert!(is_refused, "{field} {text:?}: {refused:?}");
            // The rules of the kind refuse it, and nothing else in the object is invalid.
            object["apiVersion"] = json!(format!("{UNGUARDED}/v1alpha1"));
            unguarded.patch("try", &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
        }
    }
    team.world.delete::<CustomResourceDefinition>("", &format!("workspaces.{UNGUARDED}")).await;
    // Other tests list the kinds of this API server, and all objects of each.
    let is_gone = async || {
        let groups = team.world.admin.list_api_groups().await.unwrap().groups;
        groups.iter().all(|group| group.name != UNGUARDED).then_some(())
    };
    team.world.until("the kind is not served any more", is_gone).await;
    team.end().await;
}

/// The API group of a kind that equals Workspace without its rules.
const UNGUARDED: &str = "unguarded.example.com";

/// The kind without rules, on the API server of a world.
async fn without_rules(world: &World) -> Api<DynamicObject> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|key, _| key != "x-kubernetes-validations" && key != "pattern");
                fields.values_mut().for_each(strip);
            }
            Value::Array(values) => values.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut kind = serde_json::to_value(Workspace::crd()).unwrap();
    strip(&mut kind);
    kind["metadata"]["name"] = json!(format!("workspaces.{UNGUARDED}"));
    kind["spec"]["group"] = json!(UNGUARDED);
    world.apply::<CustomResourceDefinition>(&kind).await;
    let resource = ApiResource {
        group: UNGUARDED.into(),
        version: "v1alpha1".into(),
        api_version: format!("{UNGUARDED}/v1alpha1"),
        kind: "Workspace".into(),
        plural: "workspaces".into(),
    };
    let api = Api::<DynamicObject>::namespaced_with(world.admin.clone(), "team-a", &resource);
    world.until("the kind is served", async || api.list(&ListParams::default()).await.ok().map(drop)).await;
    api
}
