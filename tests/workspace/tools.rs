//! The scripts in a person's container, under each shell that such a container may have.

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use github_sim::{Fault, FaultKind};

use crate::scene::{BRANCH, Scene, executable, output};

/// The shells of Debian, Red Hat and Alpine.
const SHELLS: &[&[&str]] = &[&["dash"], &["bash", "--posix"], &["busybox", "sh"]];

/// A shell that runs a script with an empty environment.
fn shell(shell: &[&str], script: &Path) -> Command {
    // The shell itself is found through this process's PATH, not through its own.
    let path = std::env::var_os("PATH").unwrap();
    let program = std::env::split_paths(&path).map(|directory| directory.join(shell[0])).find(|path| path.is_file());
    let mut command = Command::new(program.unwrap_or_else(|| panic!("{} is missing: install it", shell[0])));
    command.args(&shell[1..]).arg(script).env_clear().env("PATH", "/usr/bin:/bin");
    command
}

/// Runs a command with this input.
fn told(mut command: Command, text: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the shell is there");
    // It may have ended without reading.
    let _ = child.stdin.take().unwrap().write_all(text);
    child.wait_with_output().unwrap()
}

/// The tools for a repository that does not exist. That works because no request is made for an existing clone.
async fn tools_for(url: &str, token_file: &Path, further: &[&str]) -> (Scene, PathBuf) {
    let scene = Scene::new().await;
    let git = std::process::Command::new("git").args(["init", "--quiet"]).arg(scene.shop()).status().unwrap();
    assert!(git.success());
    let token_file = token_file.to_str().unwrap();
    let mut arguments = scene.clone_arguments("shop", &["--person-token-file", token_file]);
    let at = arguments.iter().position(|argument| argument == "--url").unwrap();
    url.clone_into(&mut arguments[at + 1]);
    arguments.extend(further.iter().map(|&word| word.to_owned()));
    let done = scene.landfall(None, arguments).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let tools = scene.at("tools");
    (scene, tools)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_helper_answers_about_the_repository_alone_under_every_shell() {
    let place = tempfile::tempdir().unwrap();
    // A name with a meaning to a shell that evaluates it.
    let token_file = place.path().join("a 'token' $(echo x) `y` \"z\"\\n");
    let (_scene, tools) = tools_for("https://Git.example.com/acme/shop.git", &token_file, &[]).await;
    let script = tools.join("git-credential-landfall");
    let given = "username=x-access-token\npassword=ghs_1.2-3\n";
    for name in SHELLS {
        std::fs::write(&token_file, "ghs_1.2-3").unwrap();
        let ask = |operation: &str, question: &str| {
            let mut command = shell(name, &script);
            command.arg(operation);
            let output = told(command, question.as_bytes());
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap(), output.status.code())
        };
        for question in [
            "protocol=https\nhost=git.example.com\npath=acme/shop.git\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop",
            "protocol=https\nhost=git.example.com\npath=acme/shop\n\nhost=evil.example\n",
            "protocol=https\nhost=GIT.Example.com:443\npath=acme/shop.git/\n",
            "protocol=https\nhost=git.example.com\npath=//acme/shop.git//\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop.git/info/lfs\nusername=x-access-token\n",
            "capability[]=authtype\nprotocol=https\nhost=git.example.com\npath=acme/shop.git\nwwwauth[]=Basic realm=\"\\n*\"\n",
        ] {
            assert_eq!(ask("get", question), (given.into(), String::new(), Some(0)), "{name:?} {question}");
        }
        for question in [
            "",
            "\n",
            "protocol=https\nhost=git.example.com\n",
            "protocol=https\nhost=*\npath=*\n",
            "protocol=https\nhost=git.example.com\npath=*\n",
            "protocol=https\nhost=gitxexample.com\npath=acme/shop.git\n",
            "protocol=http\nhost=git.example.com\npath=acme/shop.git\n",
            "protocol=https\nhost=git.example.com.evil.example\npath=acme/shop.git\n",
            "protocol=https\nhost=git.example.com\r\npath=acme/shop.git\n",
            "protocol=https\nhost=git.example.com/acme\npath=shop.git\n",
            "protocol=https\nhost=evil.example\npath=acme/shop.git\n",
            "protocol=https\nhost=evil.example\npath=git.example.com/acme/shop.git\n",
            "protocol=https\nhost=git.example.com:444\npath=acme/shop.git\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop2.git\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop.git/x\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop.git.git\n",
            "protocol=https\nhost=git.example.com\npath=Acme/shop.git\n",
            "protocol=https\nhost=git.example.com\npath=acme/../acme/shop.git\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop.git\nusername=somebody\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop.git\nusername=x-access-token,\n",
            "\nprotocol=https\nhost=git.example.com\npath=acme/shop.git\n",
            "protocol=https\nhost=-n\npath=-e\n",
            "protocol=https\nhost=$(echo git.example.com)\npath=`echo acme/shop`\n",
            "protocol=https\nhost=!\npath=(\n",
        ] {
            assert_eq!(ask("get", question), (String::new(), String::new(), Some(0)), "{name:?} {question}");
        }
        let question = "protocol=https\nhost=git.example.com\npath=acme/shop.git\n";
        for operation in ["store", "erase", "", "what"] {
            assert_eq!(ask(operation, question), (String::new(), String::new(), Some(0)), "{name:?} {operation}");
        }
        // A token that is renewed between two requests is in the second answer. An invalid token is not given.
        for text in ["ghs_4.5-6\n", " ghs_4.5-6 \n\n"] {
            std::fs::write(&token_file, text).unwrap();
            assert_eq!(ask("get", question).0, given.replace("1.2-3", "4.5-6"), "{name:?}");
        }
        for text in ["", "\n", "a\nquit=1", "a\\nquit=1", "a\u{1b}[0m", "a b", "\nghs_4.5-6"] {
            std::fs::write(&token_file, text).unwrap();
            let (said, words, status) = ask("get", question);
            assert_eq!((&*said, status), ("", Some(1)), "{name:?} {text:?}");
            assert!(words.starts_with("landfall: there is no token in ") && words.lines().count() == 1, "{words}");
        }
        std::fs::remove_file(&token_file).unwrap();
        let (said, words, status) = ask("get", question);
        assert_eq!((&*said, status), ("", Some(1)), "{name:?}");
        assert!(words.starts_with("landfall: there is no token in ") && words.lines().count() == 1, "{words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_a_shell_would_take_for_a_pattern_is_itself() {
    let place = tempfile::tempdir().unwrap();
    let token_file = place.path().join("token");
    std::fs::write(&token_file, "ghs_1").unwrap();
    for (host, others) in [
        ("*.example.com", ["a.example.com", ".example.com"]),
        ("x'$(echo)&;(y)", ["x", "x'&;(y)"]),
        ("[::1]:8443", [":::8443", "1:8443"]),
    ] {
        let (_scene, tools) = tools_for(&format!("https://{host}/acme/shop"), &token_file, &[]).await;
        for name in SHELLS {
            let ask = |host: &str| {
                let mut command = shell(name, &tools.join("git-credential-landfall"));
                command.arg("get");
                told(command, format!("protocol=https\nhost={host}\npath=acme/shop\n").as_bytes()).stdout
            };
            assert!(!ask(host).is_empty(), "{name:?} {host}");
            for other in others {
                assert_eq!(ask(other), b"", "{name:?} {other}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_that_shows_what_it_does_does_not_show_the_token() {
    let place = tempfile::tempdir().unwrap();
    let token_file = place.path().join("token");
    std::fs::write(&token_file, "ghs_1.2-3").unwrap();
    let (_scene, tools) = tools_for("https://git.example.com:8443/acme/shop", &token_file, &[]).await;
    let gh = place.path().join("bin/gh");
    executable(&gh, "#!/bin/sh\necho ran\n");
    for name in SHELLS {
        let traced = [*name, &["-x"]].concat();
        let mut command = shell(&traced, &tools.join("git-credential-landfall"));
        command.arg("get");
        let output = told(command, b"protocol=https\nhost=git.example.com:8443\npath=acme/shop\n");
        assert!(String::from_utf8_lossy(&output.stdout).contains("ghs_1.2-3"), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("ghs_"), "{output:?}");
        let mut command = shell(&traced, &tools.join("gh"));
        command.env("PATH", gh.parent().unwrap());
        let output = told(command, b"");
        assert_eq!((&*output.stdout, output.status.code()), (&b"ran\n"[..], Some(0)), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("ghs_"), "{output:?}");
    }
}

/// A gh that prints how it was called: one argument a line, and then its environment.
const FAKE: &str = "#!/bin/sh\nfor word; do printf '<%s>\\n' \"$word\"; done\n/usr/bin/env | /usr/bin/sort\n";

/// The arguments of the wrapper's gh, and the values of these variables.
fn called(command: Command) -> (Vec<String>, Vec<String>) {
    let output = told(command, b"");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let (words, environment): (Vec<_>, Vec<_>) =
        said.lines().map(str::to_owned).partition(|line| line.starts_with('<'));
    let ours = |line: &String| {
        line.starts_with("GH_") || line.starts_with("GITHUB_") || line.contains("ghs_") || line.starts_with("SSL_")
    };
    (words, environment.into_iter().filter(ours).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gh_has_the_token_of_the_moment_for_its_host_alone() {
    let place = tempfile::tempdir().unwrap();
    let token_file = place.path().join("token");
    executable(&place.path().join("bin/gh"), FAKE);
    for (url, host, variable) in [
        ("https://github.com/acme/shop", "github.com", "GH_TOKEN"),
        ("https://acme.ghe.com/acme/shop", "acme.ghe.com", "GH_TOKEN"),
        ("https://git.example.com/acme/shop", "git.example.com", "GH_ENTERPRISE_TOKEN"),
        ("https://git.example.com:8443/acme/shop", "git.example.com:8443", "GH_ENTERPRISE_TOKEN"),
        ("https://notghe.com/acme/shop", "notghe.com", "GH_ENTERPRISE_TOKEN"),
    ] {
        let (_scene, tools) = tools_for(url, &token_file, &["--person-ca-file", "/a ca.pem"]).await;
        for name in SHELLS {
            let run = |environment: &[(&str, &str)]| {
                let mut command = shell(name, &tools.join("gh"));
                command.args(["pr", "create", "--title", "a  'b' $c *\n", ""]);
                command.env(
                    "PATH",
                    [tools.as_path(), &place.path().join("bin")].map(|path| path.to_str().unwrap()).join(":"),
                );
                called({
                    command.envs(environment.iter().copied());
                    command
                })
            };
            for token in ["ghs_first", "ghs_renewed"] {
                std::fs::write(&token_file, token).unwrap();
                // This holds even if such a variable of the shell was exported before.
                let (words, environment) = run(&[("token", "x"), ("more", "x"), ("gh", "x")]);
                assert_eq!(words, ["<pr>", "<create>", "<--title>", "<a  'b' $c *", "<>"], "{name:?}");
                let mut expected = vec![
                    format!("GH_HOST={host}"),
                    format!("{variable}={token}"),
                    "SSL_CERT_FILE=/a ca.pem".to_owned(),
                ];
                expected.sort();
                assert_eq!(environment, expected, "{name:?} {url}");
            }
            // The wrapper does not change a token or another host that is set already.
            let other = if variable == "GH_TOKEN" { "GITHUB_TOKEN" } else { "GITHUB_ENTERPRISE_TOKEN" };
            for own in [variable, other] {
                assert_eq!(run(&[(own, "mine")]).1, [format!("{own}=mine")], "{name:?} {url}");
            }
            assert_eq!(run(&[("GH_HOST", "evil.example")]).1, ["GH_HOST=evil.example"], "{name:?} {url}");
            assert_eq!(run(&[("GH_HOST", host), ("SSL_CERT_FILE", "/mine")]).1.len(), 3, "{name:?} {url}");
            // Without a token it says so, and calls gh.
            std::fs::remove_file(&token_file).unwrap();
            assert_eq!(run(&[]).1, Vec::<String>::new(), "{name:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gh_is_found_past_the_wrapper_and_all_its_names() {
    let place = tempfile::tempdir().unwrap();
    let token_file = place.path().join("token");
    std::fs::write(&token_file, "ghs_1").unwrap();
    let (_scene, tools) = tools_for("https://github.com/acme/shop", &token_file, &[]).await;
    let at = |name: &str| place.path().join(name);
    for name in ["linked", "copied", "plain", "a directory", "repository"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    symlink(tools.join("gh"), at("linked/gh")).unwrap();
    std::fs::copy(tools.join("gh"), at("copied/gh")).unwrap();
    std::fs::write(at("plain/gh"), "no program").unwrap();
    std::fs::create_dir(at("a directory/gh")).unwrap();
    executable(&at("repository/gh"), "#!/bin/sh\necho hijacked\n");
    let names =
        ["linked", "copied", "plain", "a directory", "nowhere"].map(|name| at(name).to_str().unwrap().to_owned());
    // A relative directory may belong to a repository.
    let path = format!("{}:.::../repository:{}:", tools.display(), names.join(":"));
    for name in SHELLS {
        for script in [tools.join("gh"), at("linked/gh"), at("copied/gh")] {
            let run = |path: &str| {
                let mut command = shell(name, &script);
                command.arg("status").env("PATH", path).current_dir(at("repository"));
                told(command, b"")
            };
            let none = run(&path);
            let words = String::from_utf8_lossy(&none.stderr);
            assert_eq!((&*none.stdout, none.status.code()), (&b""[..], Some(127)), "{name:?} {none:?}");
            assert!(words.contains("this image has no GitHub CLI") && words.lines().count() == 1, "{words}");
            executable(&at("real/gh"), FAKE);
            let found = run(&format!("{path}:{}", at("real").display()));
            assert!(found.status.success() && found.stdout.starts_with(b"<status>\n"), "{name:?} {found:?}");
            std::fs::remove_dir_all(at("real")).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_works_with_nothing_but_the_configuration() {
    let scene = Scene::cloned().await;
    for name in ["gitconfig", "gh", "git-credential-landfall"] {
        let about = scene.at("tools").join(name).metadata().unwrap();
        let mode = if name == "gitconfig" { 0o444 } else { 0o555 };
        assert_eq!(about.permissions().mode() & 0o777, mode, "{name}");
    }
    assert_eq!(scene.at("tools").read_dir().unwrap().count(), 3);
    let run = async |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(scene.at("volume")).args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        // The person's shell may have any of these debug settings.
        git.env("SHELLOPTS", "xtrace").env("GIT_TRACE", "1");
        git.env("GIT_CONFIG_SYSTEM", scene.at("tools/gitconfig")).env("no_proxy", "*").env("GIT_TERMINAL_PROMPT", "0");
        let output = output(git).await;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!words.contains(&scene.token()), "{words}");
        (output.status.success(), words)
    };
    let done = run(&["clone", &scene.url("shop"), "second"]).await;
    assert!(done.0, "{done:?}");
    for arguments in [
        &["-C", "second", "commit", "--allow-empty", "--message", "x"][..],
        &["-C", "second", "push", "origin", &format!("HEAD:{BRANCH}")],
        &["-C", "shop", "fetch"],
        // The name of a repository is the same without .git, and hosts are not case-sensitive.
        &["ls-remote", scene.url("shop").trim_end_matches(".git")],
    ] {
        // For each command, the old token has expired, and the renewed one works.
        scene.sim.advance(std::time::Duration::from_secs(3700));
        scene.renew("write").await;
        let done = run(arguments).await;
        assert!(done.0, "{arguments:?} {done:?}");
    }
    assert!(scene.sim.head("acme/shop", BRANCH).is_some());
    for url in [scene.url("other"), scene.url("shop").replace("127.0.0.1", "localhost")] {
        let (success, words) = run(&["ls-remote", &url]).await;
        assert!(!success && !words.contains("git-credential-landfall"), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_submodule_nor_a_redirect_leads_the_token_elsewhere() {
    let scene = Scene::cloned().await;
    let token = scene.token();
    // A server of somebody else that records requests.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = listener.local_addr().unwrap();
    let heard = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut all = String::new();
        let mut asked = 0;
        while asked < 2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
            // It asks for a password, like an attacker.
            let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"GitHub\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
            all += &String::from_utf8_lossy(&request);
            asked += 1;
        }
        all
    });
    // A submodule on another host, and one in another repository on the same host.
    let theirs = format!("http://{elsewhere}/acme/shop.git");
    for (path, url) in [("elsewhere", &*theirs), ("beside", "../other.git")] {
        let modules = format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n");
        scene.write(".gitmodules", modules);
        let head = scene.git(&["rev-parse", "HEAD"]).await;
        scene.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},{path}")]).await;
        let output = scene.person(&scene.shop(), &["submodule", "update", "--init", path]).await;
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && !words.contains(&token), "{words}");
        assert!(words.contains("could not read Username"), "{words}");
    }
    // A redirect from the repository's own address.
    let headers = [("location".to_owned(), format!("{theirs}/info/refs?service=git-upload-pack"))].into();
    let answer = FaultKind::Status { status: 302, body: None, headers };
    scene.sim.inject(Fault::new("GET", "/acme/shop.git/info/refs", answer));
    let output = scene.person(&scene.shop(), &["fetch"]).await;
    assert!(!output.status.success());
    let heard = tokio::time::timeout(std::time::Duration::from_mins(3), heard).await.expect("both came").unwrap();
    assert_eq!(heard.matches("GET /acme/shop.git/info/refs").count(), 2, "{heard}");
    assert!(!heard.to_ascii_lowercase().contains("authorization"), "{heard}");
}
