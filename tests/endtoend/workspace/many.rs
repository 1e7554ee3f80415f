//! Many workspaces at once.

use futures::future::join_all;
use serde_json::json;

use super::super::world::run;

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn ten_at_once_lose_nothing() {
    run("ten", async |world| {
        let names: Vec<String> = (0..10).map(|number| format!("w{number}")).collect();
        let spec = json!({});
        let works = join_all(names.iter().map(|name| world.work(name, &spec))).await;
        join_all(works.iter().map(super::Work::scribble)).await;
        join_all(works.iter().map(super::Work::delete_and_wait)).await;
        for work in &works {
            work.assert_saved_at(&work.branch());
            work.assert_let_go().await;
        }
    });
}
