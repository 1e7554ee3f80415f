//! A push, from the moment in which its delivery is sent until the Deployment's template names the commit.
//!
//! One push at a time, to repositories in turn, where many other repositories are followed. Controller and receiver run as
//! processes of their own; nothing is left out between them.

mod report;
pub(crate) mod scene;

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use http::StatusCode;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::mpsc;

use crate::BenchmarkError;
use crate::cost::Processes;
use crate::figures::Figures;
use crate::http_load::{Connection, requests};
use crate::load::{Measured, Until, drive};
use crate::process::{peak_resident, resident};
use crate::program::Program;
use scene::{DEBOUNCE, Scene};

/// How many repositories are pushed to. The others are followed only.
const PUSHED: u64 = 20;
/// How long a push may take.
const LONGEST: Duration = Duration::from_secs(30);
/// How long a repository may take until it is followed: the time of a mint for each, as GitHub limits an App.
const LONGEST_EACH: Duration = Duration::from_millis(500);
/// How long all may take beyond that.
const LONGEST_START: Duration = Duration::from_mins(2);
/// How often the objects are listed until all are Ready.
const LISTED_EVERY: Duration = Duration::from_secs(1);

/// Everything that was measured.
struct Results {
    repositories: u64,
    /// From the start of the controller until all repositories are Ready.
    first_sight: Duration,
    /// The requests that GitHub got meanwhile, without those of git.
    first_sight_rest: u64,
    first_sight_mints: u64,
    /// From the delivery to the patched template, without the debounce.
    pushes: Measured,
    /// The controller's processor time during the pushes, in each second.
    cpu_ms_per_s: f64,
    resident: u64,
    peak: u64,
}

/// Runs it with so many repositories, and pushes for so long.
pub async fn run(repositories: u64, each: Duration) -> Result<Figures, BenchmarkError> {
    let scene = Scene::new(repositories, PUSHED.min(repositories)).await?;
    scene.sim.reset_requests();
    let began = Instant::now();
    let mut controller = Program::controller(&scene.server.kubeconfig())?;
    all_ready(&scene, &mut controller).await?;
    let first_sight = began.elapsed();
    let (first_sight_mints, first_sight_rest) = scene.rest_calls();

    let (receiver, address) = Program::receiver(&scene.server.kubeconfig(), scene.keys.path()).await?;
    let mut connections = Connection::open_many(address, 1).await?;
    let mut patched = patched(&scene);
    let processes = Processes::of(&scene.server)?.with(controller.pid());
    // The first push to each repository rolls a template for the first time.
    push_in_turn(&scene, &mut connections, &mut patched, Until::Calls(scene.pushed)).await?;
    let before = processes.cost()?;
    let pushes = push_in_turn(&scene, &mut connections, &mut patched, Until::Elapsed(each)).await?;
    let own = processes.cost()?.since(before).own;
    let results = Results {
        repositories,
        first_sight,
        first_sight_rest,
        first_sight_mints,
        cpu_ms_per_s: own.as_secs_f64() * 1e3 / pushes.elapsed().as_secs_f64(),
        pushes: pushes.without(DEBOUNCE),
        resident: resident(controller.pid())?,
        peak: peak_resident(controller.pid())?,
    };
    receiver.stop().await;
    controller.stop().await;
    scene.server.stop().await;
    report::figures(&results)
}

async fn all_ready(scene: &Scene, controller: &mut Program) -> Result<(), BenchmarkError> {
    let began = Instant::now();
    let each = u32::try_from(scene.repositories).unwrap_or(u32::MAX);
    let longest = LONGEST_START.saturating_add(LONGEST_EACH.saturating_mul(each));
    loop {
        controller.runs()?;
        let (ready, other) = scene.ready().await?;
        if ready == scene.repositories {
            return Ok(());
        }
        if began.elapsed() > longest {
            let other = other.unwrap_or_default();
            return Err(BenchmarkError::Late {
                what: format!("{} repositories: {ready} are Ready; {other}", scene.repositories),
            });
        }
        tokio::time::sleep(LISTED_EVERY).await;
    }
}

/// The commits that templates of Deployments name, as the API server's watch brings them.
fn patched(scene: &Scene) -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let deployments = Api::<Deployment>::all(scene.client.clone());
    tokio::spawn(async move {
        let events = watcher::watcher(deployments, watcher::Config::default()).default_backoff().applied_objects();
        let mut events = std::pin::pin!(events.into_stream());
        while let Some(Ok(deployment)) = events.next().await {
            let template = deployment.spec.and_then(|spec| spec.template.metadata).unwrap_or_default();
            let commit = template.annotations.unwrap_or_default().remove("landfall.dev/sha");
            if commit.is_some_and(|commit| sender.send(commit).is_err()) {
                return;
            }
        }
    });
    receiver
}

async fn push_in_turn(
    scene: &Scene,
    connections: &mut [Connection],
    patched: &mut mpsc::UnboundedReceiver<String>,
    until: Until,
) -> Result<Measured, BenchmarkError> {
    let mut callers = [(connections, patched)];
    drive(&mut callers, until, async |(connections, patched), number| {
        let (commit, delivery) = scene.push(number % scene.pushed)?;
        requests(connections, Until::Calls(1), StatusCode::ACCEPTED, |_| delivery.clone()).await?;
        let is_patched = async { while patched.recv().await.is_some_and(|named| named != commit) {} };
        let late =
            |_| BenchmarkError::Late { what: "a push, until the template of its Deployment named it".to_owned() };
        tokio::time::timeout(LONGEST, is_patched).await.map_err(late)
    })
    .await
}
