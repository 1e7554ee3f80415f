//! The cost of installation tokens: from cold until all are published, and at a restart of the controller.
//!
//! The plain tokens take turns with the controller (`reference/tokens.rs`): ours, plain, plain, ours, each with the same
//! number of objects in the same namespaces, from the start of the process on.

mod report;
mod scene;
mod witness;

use std::time::{Duration, Instant};

use crate::BenchmarkError;
use crate::cost::{Cost, Processes};
use crate::figures::Figures;
use crate::process::peak_resident;
use crate::program::Program;
use crate::reference::tokens::DONE;
use scene::{CONTROLLER, PLAIN, Scene};
use witness::{ApiRequests, GitHubRequests, Witnesses};

/// How many objects a namespace has, unless told: fewer than the controller's ration of mints for a namespace.
const IN_A_NAMESPACE: u64 = 100;
/// How often progress is looked at.
const LOOKED_EVERY: Duration = Duration::from_millis(50);
/// How often all objects are listed, once as many Secrets were written as there are objects.
const LISTED_EVERY: Duration = Duration::from_millis(500);
/// A program that has asked nothing for so long has nothing to do. Longer than what it waits for a ration.
const QUIET: Duration = Duration::from_secs(5);
/// How long a turn may take for each object. In one namespace a token is rationed to one in three seconds.
const LONGEST_EACH: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_mins(5);

/// The turns of one side.
#[derive(Default)]
struct Turns {
    elapsed: Vec<Duration>,
    cost: Cost,
    peak: u64,
    api: ApiRequests,
    github: GitHubRequests,
}

/// The requests of a controller that comes back.
struct Restart {
    api: ApiRequests,
    github: GitHubRequests,
    settled: Duration,
}

/// Runs it with so many objects, in so many namespaces.
pub async fn run(count: u64, namespaces: Option<u64>) -> Result<Figures, BenchmarkError> {
    let namespaces = namespaces.unwrap_or_else(|| count.div_ceil(IN_A_NAMESPACE));
    let scene = Scene::new(count, namespaces).await?;
    let processes = Processes::of(&scene.server)?;
    let (mut ours, mut plain) = (Turns::default(), Turns::default());
    take_turn(&scene, processes, &mut ours).await?.stop().await;
    scene.clear().await?;
    for _ in 0..2 {
        take_plain_turn(&scene, processes, &mut plain).await?;
        scene.clear().await?;
    }
    take_turn(&scene, processes, &mut ours).await?.stop().await;
    let restart = restart(&scene).await?;
    scene.server.stop().await;
    report::figures(count, &ours, &plain, &restart)
}

impl Turns {
    /// Adds a turn. Counts are sums over the turns; a peak is the largest.
    fn add(&mut self, elapsed: Duration, cost: Cost, peak: u64, (api, github): (ApiRequests, GitHubRequests)) {
        self.elapsed.push(elapsed);
        self.cost = self.cost.and(cost);
        self.peak = self.peak.max(peak);
        self.api = self.api.and(api);
        self.github = self.github.and(github);
    }
}

/// From the start of the controller until all tokens are Ready. Returns the controller when it has nothing to do.
async fn take_turn(scene: &Scene, processes: Processes, turns: &mut Turns) -> Result<Program, BenchmarkError> {
    scene.make_ours().await?;
    let mut witnesses = Witnesses::begin(scene.server.audit_log(), &scene.sim, CONTROLLER)?;
    let (began, before) = (Instant::now(), processes.cost()?);
    let mut controller = Program::controller(&scene.kubeconfig)?;
    all_ready(scene, &mut controller, &mut witnesses).await?;
    let (elapsed, after) = (began.elapsed(), processes.with(controller.pid()).cost()?);
    let peak = peak_resident(controller.pid())?;
    settled(scene, &mut controller, &mut witnesses).await?;
    turns.add(elapsed, after.since(before), peak, witnesses.counts(&["installationtokens"])?);
    Ok(controller)
}

/// The API server is not asked about progress before the audit log says that all Secrets were written: what such
/// questions cost would count as the controller's.
async fn all_ready(
    scene: &Scene,
    controller: &mut Program,
    witnesses: &mut Witnesses<'_>,
) -> Result<(), BenchmarkError> {
    let (count, began) = (scene.plain.count, Instant::now());
    let mut listed = None::<Instant>;
    loop {
        controller.runs()?;
        witnesses.look()?;
        let is_late = late(scene, began);
        let is_near = witnesses.secrets() >= count && listed.is_none_or(|last| last.elapsed() >= LISTED_EVERY);
        if is_near || is_late {
            let (ready, other) = scene.ready().await?;
            listed = Some(Instant::now());
            if ready == count {
                return Ok(());
            }
            if is_late {
                let other = other.unwrap_or_default();
                return Err(BenchmarkError::Late { what: format!("{count} tokens: {ready} are Ready; {other}") });
            }
        }
        tokio::time::sleep(LOOKED_EVERY).await;
    }
}

async fn settled(scene: &Scene, controller: &mut Program, witnesses: &mut Witnesses<'_>) -> Result<(), BenchmarkError> {
    let began = Instant::now();
    while witnesses.quiet() < QUIET {
        controller.runs()?;
        if late(scene, began) {
            return Err(BenchmarkError::Late { what: "a controller that has nothing to do".to_owned() });
        }
        tokio::time::sleep(LOOKED_EVERY).await;
        witnesses.look()?;
    }
    Ok(())
}

fn late(scene: &Scene, began: Instant) -> bool {
    let each = u32::try_from(scene.plain.count).unwrap_or(u32::MAX);
    began.elapsed() > LONGEST.saturating_add(LONGEST_EACH.saturating_mul(each))
}

/// From the start of the reference until it has published all tokens.
async fn take_plain_turn(scene: &Scene, processes: Processes, turns: &mut Turns) -> Result<(), BenchmarkError> {
    scene.make_plain().await?;
    let witnesses = Witnesses::begin(scene.server.audit_log(), &scene.sim, PLAIN)?;
    let (began, before) = (Instant::now(), processes.cost()?);
    let mut program = Program::plain_tokens(&scene.plain)?;
    while !program.has_said(DONE)? {
        program.runs()?;
        if late(scene, began) {
            return Err(BenchmarkError::Late { what: "the plain tokens".to_owned() });
        }
        tokio::time::sleep(LOOKED_EVERY).await;
    }
    let (elapsed, after) = (began.elapsed(), processes.with(program.pid()).cost()?);
    let peak = peak_resident(program.pid())?;
    turns.add(elapsed, after.since(before), peak, witnesses.counts(&["plaintokens", "plainapps"])?);
    program.stop().await;
    Ok(())
}

/// Starts a controller where all tokens are Ready.
async fn restart(scene: &Scene) -> Result<Restart, BenchmarkError> {
    let mut witnesses = Witnesses::begin(scene.server.audit_log(), &scene.sim, CONTROLLER)?;
    let mut controller = Program::controller(&scene.kubeconfig)?;
    controller.ready().await?;
    settled(scene, &mut controller, &mut witnesses).await?;
    let (ready, other) = scene.ready().await?;
    if ready != scene.plain.count {
        let what = format!("tokens that stay Ready over a restart: {}", other.unwrap_or_default());
        return Err(BenchmarkError::Late { what });
    }
    let (api, github) = witnesses.counts(&["installationtokens"])?;
    let settled = witnesses.busy();
    controller.stop().await;
    Ok(Restart { api, github, settled })
}
