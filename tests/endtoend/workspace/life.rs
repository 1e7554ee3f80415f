//! The normal life of a workspace: a pod, a pull request, git that works without configuration, suspension, and
//! deletion.

use serde_json::json;

use super::super::world::{Kind, run};

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn a_workspace_has_a_pull_request_and_git_that_just_works() {
    run("life", async |world| {
        let pull_request = json!({"mode": "Draft", "openOn": "Create", "onDelete": "MarkReady", "labels": ["bot"]});
        let work = world.work("w", &json!({"pullRequest": pull_request})).await;
        work.until_condition("PullRequestReady", "PullRequestOpen").await;
        let object = work.object().await;
        assert_eq!(
            (&object["status"]["pullRequest"]["number"], &object["status"]["pullRequest"]["draft"]),
            (&json!(1), &json!(true))
        );
        assert_eq!(object["status"]["git"]["branch"], work.branch().replace("refs/heads/", ""));
        for at in ["scheduleTime", "cloneTime", "readyTime"] {
            assert!(object["status"]["timings"][at].is_string(), "{object:#}");
        }

        // Without any configuration, as the App's bot, and without the token in any place where it could be read or
        // committed.
        work.sh("echo pushed >pushed && git add pushed && git commit -qm pushed && git push").await;
        assert_eq!(world.refs()[&work.branch()], work.sh("git rev-parse HEAD").await);
        let author = work.sh("git log -1 --format='%an <%ae>'").await;
        assert!(
            author.starts_with("landfall[bot] <") && author.ends_with("+landfall[bot]@users.noreply.10.99.0.1>"),
            "{author}"
        );
        let token = work.sh("cat /run/landfall/token/password").await;
        let seen =
            work.sh("cat .git/config; git remote -v; env; cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '").await;
        assert!(token.len() > 100 && !seen.contains(&token), "the token is in what can be read");
        let pulls = work.sh("gh pr list --json number --jq '.[].number' 2>&1 || true").await;
        println!("gh: {pulls}");

        // Status shows the agent's report.
        work.sh("echo more >>pushed && echo new >new").await;
        world
            .until("status tells what is not pushed", async || {
                let git = work.object().await["status"]["git"].clone();
                (git["changedFiles"] == 1 && git["untrackedFiles"] == 1 && git["unpushedCommits"] == 0).then_some(())
            })
            .await;
        work.until_condition("WorkSafe", "Unsaved").await;
        let ours = async || {
            let mut ids: Vec<_> = world.sim.live_tokens().iter().map(|token| token.sha256.clone()).collect();
            ids.retain(|id| *id == sha256(&token));
            ids.len()
        };
        assert_eq!(ours().await, 1);

        work.delete_and_wait().await;
        work.assert_saved_at(&work.branch());
        assert_eq!(ours().await, 0, "its token is revoked");
        for (kind, what) in [(Kind::POD, "pod"), (Kind::INSTALLATION_TOKEN, "token"), (Kind::SECRET, "Secret")] {
            world.until(what, async || world.get(kind, "ws-w").await.is_none().then_some(())).await;
        }
        let pulls = world.sim.pull_requests(&world.shop()).unwrap();
        let [pull] = &pulls[..] else { panic!("{pulls:?}") };
        assert_eq!(
            (pull.open, pull.draft, &pull.labels[..]),
            (true, false, &["bot".to_owned()][..]),
            "ready for review"
        );
        assert_eq!(format!("refs/heads/{}", pull.head), work.branch());
        work.assert_let_go().await;
    });
}

fn sha256(text: &str) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()))
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn suspended_it_keeps_its_volume_and_goes_on_where_it_was() {
    run("suspend", async |world| {
        let work = world.work("w", &json!({})).await;
        work.scribble().await;
        let state = "git rev-parse HEAD && git status --porcelain && git stash list";
        let before = work.sh(state).await;
        work.mode("Suspended").await;
        work.until_condition("Suspended", "WorkspaceSuspended").await;
        work.pod_is_gone().await;
        // In a place where nobody looks, because the work is unfinished.
        work.assert_saved_at(&format!("refs/landfall/wip/{}", work.uid));
        assert!(!world.refs().contains_key(&work.branch()));
        assert!(world.get(Kind::CLAIM, "ws-w").await.is_some());
        work.mode("Running").await;
        world.running("w").await;
        assert_eq!(work.sh(state).await, before);
        assert_eq!(world.volume("ws-w").await, work.volume);

        // A suspended workspace can be deleted, too: a Job does the work of the missing pod.
        work.mode("Suspended").await;
        work.pod_is_gone().await;
        work.delete_and_wait().await;
        work.assert_saved_at(&work.branch());
        work.assert_let_go().await;
    });
}
