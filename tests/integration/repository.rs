//! `ProjectRepository`: found, pinned by id, and its head followed.

use crate::scene::{connected, says, value};
use github_sim::{Entry, RepositorySeed, Selection};
use jiff::SignedDuration;
use landfall::api::ProjectRepository;
use landfall_world::operator::Operator;
use landfall_world::{World, objects, ready};
use serde_json::{Value, json};

/// Longer than a poll's interval, jitter included.
pub const A_POLL: SignedDuration = SignedDuration::from_mins(13);
/// Longer than a problem that only a person can repair is left alone.
const A_RECHECK: SignedDuration = SignedDuration::from_mins(37);

/// Applies a ProjectRepository of team-a and waits for this reason.
pub async fn follow(world: &World, name: &str, spec: &Value, reason: &str) -> String {
    world.apply::<ProjectRepository>(&objects::repository(name, spec)).await;
    comes_to(world, name, reason).await
}

/// Waits until the ProjectRepository has this reason.
pub async fn comes_to(world: &World, name: &str, reason: &str) -> String {
    world.until_reason::<ProjectRepository>("team-a", name, reason).await
}

pub async fn status(world: &World, name: &str) -> Value {
    value::<ProjectRepository>(world, "team-a", name).await["status"].clone()
}

/// Requests a look by annotation and waits for it.
pub async fn ask(world: &World, name: &str) {
    let wish = format!("{:016x}", rand::random::<u64>());
    let change = json!({"metadata": {"annotations": {"landfall.dev/reconcile": wish}}});
    world.merge::<ProjectRepository>("team-a", name, &change).await.expect("annotated");
    let is_handled = async || (status(world, name).await["lastHandledReconcile"] == wish).then_some(());
    world.until("the look that was asked for", is_handled).await;
}

/// A request of git, not of REST.
pub fn is_git(request: &Entry) -> bool {
    request.path.contains(".git/")
}

/// The number of requests for heads.
pub fn looks(world: &World) -> usize {
    world.sim.requests().iter().filter(|request| is_git(request)).count()
}

/// The requests that change something on GitHub, except for minting and revoking tokens.
pub fn changes(world: &World) -> Vec<Entry> {
    let is_token = |path: &str| path.ends_with("/access_tokens") || path.ends_with("/installation/token");
    let changes = |request: &Entry| request.method != "GET" && !is_git(request) && !is_token(&request.path);
    world.sim.requests().into_iter().filter(changes).collect()
}

fn new_repository(world: &World, name: &str, empty: bool) -> u64 {
    let seed = RepositorySeed { owner: "acme".into(), name: name.into(), private: true, empty, ..Default::default() };
    world.sim.create_repository(&seed).expect("a repository")
}

#[tokio::test]
async fn it_is_bound_to_the_repository_and_not_to_its_name() {
    let (world, operator) = connected().await;
    let mark = world.audit.mark().unwrap();
    let message = follow(&world, "shop", &json!({}), "Observed").await;
    says(&message, &["acme/shop", "main"]);
    operator.settled().await;
    let first = status(&world, "shop").await;
    assert_eq!((&first["repositoryID"], &first["fullName"]), (&json!(9001), &json!("acme/shop")));
    assert_eq!(first["head"]["sha"], json!(world.sim.head("acme/shop", "main").unwrap()));
    // One write, and perhaps the same one again by a look that begins before the cache has the first.
    let writes = world.writes_since(mark).iter().filter(|write| write.resource == "projectrepositories").count();
    assert!((1..=2).contains(&writes), "{writes}");
    follow(&world, "by-id", &json!({"source": {"existing": {"id": 9002}}}), "Observed").await;
    assert_eq!(status(&world, "by-id").await["fullName"], "acme/lib-core");

    // A repository that was not granted shows no name to a tenant that guessed the id, and a missing one is reported as
    // gone.
    let message =
        follow(&world, "guessed", &json!({"source": {"existing": {"id": 9003}}}), "RepositoryNotGranted").await;
    says(&message, &["id 9003", "spec.tenants[].repositories"]);
    let guessed = value::<ProjectRepository>(&world, "team-a", "guessed").await;
    assert!(!guessed.to_string().contains("vault"), "{guessed}");
    follow(&world, "vault", &json!({}), "RepositoryNotGranted").await;
    assert!(!world.sim.requests().iter().any(|request| request.path.contains("/vault")));
    let message = follow(&world, "lib-none", &json!({}), "RepositoryNotFound").await;
    says(&message, &["acme/lib-none", "settings/installations"]);

    // Polling finds the head, with a REST call when it has changed. Names are followed.
    world.sim.reset_requests();
    let pushed = world.push("acme/shop", "main");
    world.sim.rename_repository("acme/lib-core", "lib-base").unwrap();
    world.live_through(&operator, A_POLL).await;
    let now = status(&world, "shop").await;
    assert_eq!(now["head"]["sha"], json!(pushed));
    assert_ne!(now["head"]["observationTime"], first["head"]["observationTime"]);
    assert_eq!(
        world.calls("GET", "/repositories/{repository_id}"),
        2,
        "for the one that was renamed, and whose the head is"
    );
    let renamed = status(&world, "by-id").await;
    assert_eq!((&renamed["fullName"], &renamed["repositoryID"]), (&json!("acme/lib-base"), &json!(9002)));

    // A rename takes it out of the grant, and the new name is not shown. Another rename brings it back in.
    world.sim.rename_repository("acme/lib-base", "secret-plans").unwrap();
    world.live_through(&operator, A_POLL).await;
    says(&comes_to(&world, "by-id", "RepositoryNotGranted").await, &["id 9002", "by a new name"]);
    // Another token's answer shows the new name to the operator, and not to the tenant.
    follow(&world, "again", &json!({"source": {"existing": {"name": "shop"}}}), "Observed").await;
    world.live_through(&operator, SignedDuration::from_mins(61)).await;
    let hidden = value::<ProjectRepository>(&world, "team-a", "by-id").await;
    assert!(!hidden.to_string().contains("secret-plans"), "{hidden}");
    assert_eq!(ready(&hidden)["status"], "False");
    world.sim.rename_repository("acme/secret-plans", "lib-core").unwrap();
    world.live_through(&operator, A_RECHECK).await;
    comes_to(&world, "by-id", "Observed").await;

    archived_and_deleted(world, operator).await;
}

async fn archived_and_deleted(world: World, operator: Operator) {
    world.sim.reset_requests();
    world.sim.set_archived("acme/shop", true).unwrap();
    ask(&world, "shop").await;
    says(&comes_to(&world, "shop", "RepositoryArchived").await, &["acme/shop", "unarchive"]);
    world.sim.set_archived("acme/shop", false).unwrap();
    ask(&world, "shop").await;
    comes_to(&world, "shop", "Observed").await;

    // The repository is deleted and created again under its name. The new one has another id and is not taken for the
    // old one.
    world.sim.delete_repository("acme/shop").unwrap();
    let new = new_repository(&world, "shop", false);
    world.live_through(&operator, A_POLL).await;
    let message = comes_to(&world, "shop", "RepositoryNotFound").await;
    says(&message, &["id 9001", "make another ProjectRepository"]);
    world.live_through(&operator, SignedDuration::from_mins(61)).await;
    let stale = status(&world, "shop").await;
    assert_eq!(stale["repositoryID"], 9001);
    assert_ne!(stale["head"]["sha"], json!(world.sim.head("acme/shop", "main").unwrap()));
    assert!(world.sim.live_tokens().iter().all(|token| !token.repository_ids.iter().flatten().any(|id| *id == new)));
    assert!(changes(&world).is_empty(), "{:?}", changes(&world));
    follow(&world, "anew", &json!({"source": {"existing": {"name": "shop"}}}), "Observed").await;
    assert_eq!(status(&world, "anew").await["repositoryID"], json!(new));
    operator.stop().await;
}

#[tokio::test]
async fn branches_and_selections_are_followed() {
    let (world, operator) = connected().await;
    new_repository(&world, "lib-empty", true);
    world
        .sim
        .create_repository(&RepositorySeed { owner: "acme".into(), name: "lib-going".into(), ..Default::default() })
        .unwrap();
    follow(&world, "shop", &json!({}), "Observed").await;
    let message = follow(&world, "lib-core", &json!({"branch": "next"}), "BranchNotFound").await;
    says(&message, &["acme/lib-core", "no branch next", "spec.branch"]);
    says(&follow(&world, "lib-empty", &json!({}), "RepositoryEmpty").await, &["no commit yet"]);
    follow(&world, "lib-going", &json!({}), "Observed").await;
    let next = world.push("acme/lib-core", "next");
    let first = world.push("acme/lib-empty", "main");
    let other = world.push("acme/shop", "release");
    world.sim.set_default_branch("acme/shop", "release").unwrap();
    world.sim.transfer_repository("acme/lib-going", "globex").unwrap();
    world.live_through(&operator, A_POLL).await;
    for (name, branch, sha) in [("shop", "release", other), ("lib-core", "next", next), ("lib-empty", "main", first)] {
        comes_to(&world, name, "Observed").await;
        let status = status(&world, name).await;
        assert_eq!((&status["head"]["branch"], &status["head"]["sha"]), (&json!(branch), &json!(sha)), "{name}");
    }
    assert_eq!(status(&world, "shop").await["defaultBranch"], "release");
    says(&comes_to(&world, "lib-going", "RepositoryNotFound").await, &["transferred"]);

    // A change of the branch in the spec causes a look at once.
    follow(&world, "shop", &json!({"branch": "main"}), "Observed").await;
    let is_main = async || (status(&world, "shop").await["head"]["branch"] == "main").then_some(());
    world.until("the branch of the spec is followed", is_main).await;

    // It leaves the installation's selection, and comes back. The others are followed meanwhile.
    world.sim.select_repositories(501, &Selection::Selected(vec!["lib-core".into(), "lib-empty".into()])).unwrap();
    let pushed = world.push("acme/lib-core", "next");
    world.live_through(&operator, SignedDuration::from_mins(61)).await;
    comes_to(&world, "shop", "RepositoryNotFound").await;
    assert_eq!(status(&world, "lib-core").await["head"]["sha"], json!(pushed));
    comes_to(&world, "lib-core", "Observed").await;
    world.sim.select_repositories(501, &Selection::All).unwrap();
    world.live_through(&operator, A_RECHECK).await;
    comes_to(&world, "shop", "Observed").await;
    operator.stop().await;
}

#[tokio::test]
async fn twenty_idle_repositories_cost_next_to_nothing() {
    const MANY: usize = 20;
    let (world, operator) = connected().await;
    for number in 0..MANY {
        let name = format!("lib-{number}");
        new_repository(&world, &name, false);
        world.apply::<ProjectRepository>(&objects::repository(&name, &json!({}))).await;
    }
    // A missing repository costs the others nothing.
    new_repository(&world, "lib-gone", false);
    follow(&world, "lib-gone", &json!({}), "Observed").await;
    for number in 0..MANY {
        comes_to(&world, &format!("lib-{number}"), "Observed").await;
    }
    world.sim.delete_repository("acme/lib-gone").unwrap();
    world.live_through(&operator, SignedDuration::from_mins(70)).await;
    comes_to(&world, "lib-gone", "RepositoryNotFound").await;

    let mark = world.audit.mark().unwrap();
    world.sim.reset_requests();
    world.live_through(&operator, SignedDuration::from_mins(60)).await;
    let writes = world.writes_since(mark);
    assert!(writes.is_empty(), "{writes:?}");
    let (git, rest): (Vec<_>, Vec<_>) = world.sim.requests().into_iter().partition(is_git);
    assert!((5 * MANY..=6 * MANY).contains(&git.len()), "{} looks", git.len());
    let mints = world.mints();
    // One token for all, and two tries for the missing one.
    assert!(mints <= 4, "{mints} tokens minted");
    // Six calls for the App, one for the installation, and one a day for each repository.
    assert!(rest.len() - mints <= 6 + 1 + MANY.div_ceil(24), "{rest:?}");

    // After a restart, each repository is looked at, and nothing is written.
    operator.kill();
    let mark = world.audit.mark().unwrap();
    world.sim.reset_requests();
    let operator = world.operator().await;
    operator.ready().await;
    world.until("each was looked at", async || (looks(&world) >= MANY).then_some(())).await;
    operator.settled().await;
    let writes = world.writes_since(mark);
    assert!(writes.is_empty(), "{writes:?}");
    assert!(changes(&world).is_empty(), "{:?}", changes(&world));
    assert!(looks(&world) <= 2 * MANY, "{} looks", looks(&world));
    operator.stop().await;
}
