//! One tenant attacks, and the other one notices nothing: its token is renewed, its push is rolled out, its workspace ends
//! with its work saved, and no process of Landfall ends or fails its probes.
//!
//! The controller and the receiver are processes of the binary that ships, as the kubelet starts them. So time is real, and
//! the tests count turns instead of seconds: a busy machine makes both tenants slower, and changes nothing about the order
//! in which they are served. All attacks happen together; `hack/test --full` tries each of them alone as well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

mod attack;
mod honest;
mod process;

use attack::Attacks;
use honest::Scene;

/// Plays the same story beside these attacks.
async fn nothing_happens_to_others_beside(attacks: Attacks) {
    let mut scene = Scene::new().await;
    scene.has_a_workspace_with_work().await;
    scene.has_a_token_that_is_soon_renewed().await;
    attack::fill(&scene.world, attacks).await;
    // All objects are there when the controller starts, as after an update: it has the most to do then.
    scene.restart_controller().await;
    let siege = attack::besiege(&scene.processes, attacks).await;
    scene.pushes_and_is_rolled_out().await;
    scene.has_its_token_renewed().await;
    scene.deletes_its_workspace_and_finds_its_work().await;
    attack::has_happened(&scene.world, attacks).await;
    siege.was_endured().await;
    scene.no_process_ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "hack/test --full tries each attack alone"]
async fn a_tenant_that_spends_the_rate_limit_of_the_installation() {
    nothing_happens_to_others_beside(Attacks { spent_limit: true, ..Attacks::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "hack/test --full tries each attack alone"]
async fn a_tenant_with_two_thousand_objects_that_poll_as_often_as_they_may() {
    nothing_happens_to_others_beside(Attacks { polls: true, ..Attacks::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "hack/test --full tries each attack alone"]
async fn a_tenant_with_five_hundred_silent_connections_to_each_port() {
    nothing_happens_to_others_beside(Attacks { connections: true, ..Attacks::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "hack/test --full tries each attack alone"]
async fn a_tenant_that_fills_its_objects_with_annotations() {
    nothing_happens_to_others_beside(Attacks { annotations: true, ..Attacks::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_does_all_of_that_at_once() {
    let all = Attacks { spent_limit: true, polls: true, connections: true, annotations: true };
    nothing_happens_to_others_beside(all).await;
}
