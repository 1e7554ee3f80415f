//! The rules by which a person's git goes to the gateway in place of GitHub (`url.*.insteadOf` of git-config(1)).
//!
//! The invariant: each address of the workspace's repository leads to the gateway, and no address of another repository does. git
//! compares prefixes of texts, so a rule for `acme/shop` alone would also lead `acme/shop-api` there, and one for `acme/shop.git` would
//! lead `acme/shop.github.io`. The longest prefix wins, so a rule with one further character that leads to itself excludes those.

use std::fmt::Write as _;

use super::credential::RepositoryUrl;

/// The characters with which the name of another repository can go on, a percent sign for a character that is encoded among them.
const NAME: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~%";
const HEAD: &str = "# The addresses of this workspace's repository lead to Landfall's gateway. Those of other repositories, which begin like them, do \
                    not.\n";

/// The rules, in the form of git's configuration. The characters of a [`RepositoryUrl`] need no quoting there.
pub fn rules(repository: &RepositoryUrl, gateway: &RepositoryUrl) -> String {
    let (host, path) = (repository.host(), repository.path());
    let name = if repository.has_port() { host.rsplit_once(':').map_or(host, |(name, _)| name) } else { host };
    let addresses = [format!("https://{host}/"), format!("ssh://git@{name}/"), format!("git@{name}:")];
    let ends = addresses.iter().flat_map(|before| ["", ".git"].map(|suffix| format!("{before}{path}{suffix}")));
    let ends: Vec<_> = ends.collect();
    let mut text = format!("{HEAD}[url \"{}\"]\n", gateway.address());
    for end in &ends {
        let _ = writeln!(text, "\tinsteadOf = {end}");
    }
    for other in ends.iter().flat_map(|end| NAME.chars().map(move |next| format!("{end}{next}"))) {
        let _ = writeln!(text, "[url \"{other}\"]\n\tinsteadOf = {other}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// The address to which git goes for another one.
    fn led(rules: &str, url: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gitconfig");
        std::fs::write(&file, rules).unwrap();
        let output = Command::new("git")
            .args(["ls-remote", "--get-url", url])
            .current_dir(directory.path())
            .env("GIT_CONFIG_SYSTEM", &file)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    #[test]
    fn the_repository_leads_to_the_gateway_and_no_other_does() {
        let gateway = "https://gateway.landfall-system.svc/github.com:8443/7.git";
        for (host, ssh) in [("github.com", "github.com"), ("github.com:8443", "github.com")] {
            let url = format!("https://{host}/acme/shop.git").parse().unwrap();
            let rules = rules(&url, &gateway.parse().unwrap());
            let before = [format!("https://{host}/"), format!("ssh://git@{ssh}/"), format!("git@{ssh}:")];
            for before in &before {
                for path in ["acme/shop", "acme/shop.git"] {
                    assert_eq!(led(&rules, &format!("{before}{path}")), gateway, "{before}{path}");
                }
                assert_eq!(led(&rules, &format!("{before}acme/shop/")), format!("{gateway}/"));
                assert_eq!(led(&rules, &format!("{before}acme/shop.git/info/lfs")), format!("{gateway}/info/lfs"));
                for path in [
                    "acme/shop-api.git",
                    "acme/shop2",
                    "acme/shop.github.io",
                    "acme/shop.github.io.git",
                    "acme/shop.git.git",
                    "acme/shop.wiki.git",
                    "acme/shop.g",
                    "acme/shop_",
                    "acme/shop%2dapi.git",
                    "acme/shops",
                    "acme/sho",
                    "acme/other.git",
                    "other/acme/shop.git",
                    "Acme/shop.git",
                ] {
                    assert_eq!(led(&rules, &format!("{before}{path}")), format!("{before}{path}"));
                }
            }
            for other in
                ["http://github.com/acme/shop.git", "https://github.com.evil.example/acme/shop.git", "/acme/shop.git"]
            {
                assert_eq!(led(&rules, other), other);
            }
        }
    }
}
