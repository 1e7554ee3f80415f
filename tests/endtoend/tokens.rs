//! A token in a Secret that a pod mounts.

use serde_json::json;

use super::world::{Kind, condition, run};

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn a_pod_clones_and_pushes_with_a_token() {
    run("token", async |world| {
        world
            .apply(&json!({
                "apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken",
                "metadata": {"name": "shop", "namespace": world.name},
                "spec": {
                    "installationRef": {"name": world.name}, "repositories": [{"name": "shop"}],
                    "permissions": {"contents": "write"}, "secret": {"name": "shop-git"},
                },
            }))
            .await;
        world
            .until("the token is ready", async || {
                let token = world.get(Kind::INSTALLATION_TOKEN, "shop").await?;
                (condition(&token, "Ready")?["status"] == "True").then_some(())
            })
            .await;
        world.pod("git", super::node::WORKSPACE, &[("token", json!({"secret": {"secretName": "shop-git"}}))]).await;
        let helper = "!echo username=x-access-token; echo password=$(cat /mnt/token/password); :";
        let git = |commands: &str| format!("export GIT_SSL_CAINFO=/mnt/token/ca.crt && cd && {commands}");
        let url = world.url();
        world.exec("git", &git(&format!("git clone -q -c 'credential.{url}.helper={helper}' {url} shop"))).await;
        let commit = |file: &str| {
            git(&format!(
                "cd shop && git pull -q && echo {file} >{file} && git add {file} && git -c user.name=a -c user.email=a@b commit -qm {file} && git push"
            ))
        };
        world.exec("git", &commit("new")).await;
        let head = async || world.exec("git", "git -C ~/shop rev-parse HEAD").await;
        assert_eq!(world.sim.head(&world.shop(), "main"), Some(head().await));

        let theirs = world.push("main", "theirs", "theirs");
        world.refuse("echo 'error: GH006: Protected branch update failed' >&2; exit 1");
        let output = world.try_exec("git", &commit("refused")).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("remote: error: GH006"), "{said}");
        assert_eq!(world.refs()["refs/heads/main"], theirs);

        world.sim.uninstall(world.installation).unwrap();
        let output = world.try_exec("git", &git("cd shop && git fetch")).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("Authentication failed"), "{said}");
    });
}
