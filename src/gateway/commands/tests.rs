use super::*;
use crate::gateway::fuzzed::sample;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command as Process, Stdio};

const A: &str = "1111111111111111111111111111111111111111";
const B: &str = "2222222222222222222222222222222222222222";
const ZERO: &str = "0000000000000000000000000000000000000000";

fn packet(payload: &[u8]) -> Vec<u8> {
    [format!("{:04x}", payload.len() + 4).as_bytes(), payload].concat()
}

/// Packets and a flush.
fn packets(lines: &[&str]) -> Vec<u8> {
    let mut bytes: Vec<u8> = lines.iter().flat_map(|line| packet(line.as_bytes())).collect();
    bytes.extend_from_slice(b"0000");
    bytes
}

fn read(bytes: &[u8]) -> Result<(Push, Bytes), PushError> {
    let mut reader = PushReader::default();
    reader.push(bytes)?;
    reader.finish()
}

fn read_lines(lines: &[&str]) -> Result<Push, PushError> {
    read(&packets(lines)).map(|(push, _)| push)
}

#[test]
fn a_push_is_read_as_git_writes_it() {
    let caps = " report-status-v2 side-band-64k quiet atomic object-format=sha1 agent=git/2.39.5";
    let first = format!("{ZERO} {A} refs/heads/landfall/try-0a1b2\0{caps}");
    let second = format!("{A} {B} refs/heads/main");
    let third = format!("{A} {ZERO} refs/tags/v1");
    let mut bytes = packets(&[&format!("shallow {B}"), &first, &second, &third]);
    bytes.extend_from_slice(b"PACK\0\0\0\x02");
    let (push, rest) = read(&bytes).unwrap();
    assert_eq!(&rest[..], b"PACK\0\0\0\x02");
    assert_eq!(push.shallow, vec![B.parse().unwrap()]);
    let commands: Vec<_> = push.commands.iter().map(|command| (command.kind(), command.name.as_str())).collect();
    let expected = [
        (Kind::Create, "refs/heads/landfall/try-0a1b2"),
        (Kind::Update, "refs/heads/main"),
        (Kind::Delete, "refs/tags/v1"),
    ];
    assert_eq!(commands, expected);
    let capabilities = &push.capabilities;
    assert_eq!((capabilities.report, capabilities.side_band()), (Report::StatusV2, true));
    assert_eq!(capabilities.agent.as_deref(), Some("git/2.39.5"));
    assert!(push.has_pack());
    assert_eq!(push.encode(), &bytes[..bytes.len() - 8], "git's form is ours");
}

#[test]
fn capabilities_that_are_not_known_and_push_options_are_not_passed_on() {
    let caps = "report-status push-options session-id=x side-band push-cert=1 agent=g\u{7f}it x-internal";
    let push = read(&[packets(&[&format!("{ZERO} {A} refs/heads/x\0{caps}")]), packets(&["ci.skip", "a=b"])].concat());
    let (push, rest) = push.unwrap();
    assert_eq!((push.options.clone(), rest.len()), (vec!["ci.skip".to_owned(), "a=b".to_owned()], 0));
    assert_eq!(push.encode(), packets(&[&format!("{ZERO} {A} refs/heads/x\0 report-status")]));
    let probe = read_lines(&[]).unwrap();
    assert!(probe.commands.is_empty() && !probe.has_pack());
    let deletion = read_lines(&[&format!("{A} {ZERO} refs/heads/x")]).unwrap();
    assert!(!deletion.has_pack());
}

#[test]
fn what_git_does_not_send_is_refused() {
    let command = |name: &str| format!("{ZERO} {A} {name}");
    let plain = command("refs/heads/x");
    let upper = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let malformed: Vec<Vec<String>> = vec![
        vec![String::new()],
        vec!["x".into()],
        vec![format!("{ZERO}{A} refs/heads/x")],
        vec![format!("{ZERO} {A}")],
        vec![format!("{ZERO}  {A} refs/heads/x")],
        vec![format!("{ZERO} {upper} refs/heads/x")],
        vec![format!("{ZERO} {A}1 refs/heads/x")],
        vec![format!("{ZERO} {}{} refs/heads/x", A, &A[..24])],
        vec![plain.clone(), format!("{ZERO} {A} refs/heads/y\0report-status")],
        vec![plain.clone(), format!("shallow {A}")],
        vec![format!("shallow {A}\0x"), plain.clone()],
        vec![format!("shallow {upper}"), plain.clone()],
        vec![format!("shallow {A} "), plain.clone()],
        vec![format!("{plain}\0object-format=md5")],
        vec![format!("{plain}\0{}", "x".repeat(5000))],
    ];
    for lines in malformed {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert!(matches!(read_lines(&lines), Err(PushError::Malformed(_))), "{lines:?}");
    }
    for name in [
        "main",
        "HEAD",
        "refs/heads/",
        "refs/x",
        "refs//x",
        "/refs/heads/x",
        "refs/heads/x ",
        " refs/heads/x",
        "refs/heads/a b",
        "refs/heads/../main",
        "refs/heads/x.lock",
        "refs/heads/x.lock/y",
        "refs/heads/.x",
        "refs/heads/x.",
        "refs/heads/x\n\n",
        "refs/heads/x\nrefs/heads/main",
        "refs/heads/x\r",
        "refs/heads/x\ty",
        "refs/heads/a..b",
        "refs/heads/a@{b",
        "refs/heads/a~1",
        "refs/heads/a^",
        "refs/heads/a:refs/heads/b",
        "refs/heads/*",
        "refs/heads/a?",
        "refs/heads/[a]",
        "refs/heads/a\\b",
        "refs/heads/a\u{7f}",
        "REFS/heads/x",
        "refs/heads//x",
        "refs/heads/x/",
    ] {
        assert!(matches!(read_lines(&[&command(name)]), Err(PushError::Name(_))), "{name:?}");
    }
    // A line feed at the end of a packet belongs to the framing. A hyphen is part of a name: nothing here starts a program.
    assert_eq!(read_lines(&[&command("refs/heads/x\n")]).unwrap().commands[0].name.as_str(), "refs/heads/x");
    assert!(read_lines(&[&command("refs/heads/--upload-pack=x")]).is_ok());
    assert_eq!(read_lines(&[&plain, &plain]), Err(PushError::Twice("refs/heads/x".parse().unwrap())));
    for cert in ["push-cert", "push-cert\0report-status"] {
        assert_eq!(read_lines(&[cert, "certificate version 0.1"]), Err(PushError::Signed));
    }
    for (bytes, error) in [
        (&b"0001"[..], PushError::Malformed("a packet between its commands")),
        (b"0002", PushError::Malformed("a packet between its commands")),
        (b"0003", PushError::NotPackets),
        (b"PACK", PushError::NotPackets),
        (b"<html>", PushError::NotPackets),
        (b"fff1", PushError::NotPackets),
        (b"", PushError::Cut),
        (b"00", PushError::Cut),
        (b"0036", PushError::Cut),
    ] {
        assert_eq!(read(bytes), Err(error), "{}", bytes.escape_ascii());
    }
    assert!(matches!(read(&packet(b"\xff")), Err(PushError::Malformed(_))));
    let not_utf8 = [format!("{ZERO} {A} refs/heads/").as_bytes(), b"\xff"].concat();
    assert_eq!(read(&packet(&not_utf8)), Err(PushError::Name(RefNameError::NotUtf8)));
    // Between the flush of the commands and the pack there are options only if the client asked for them.
    assert_eq!(&read(&[&packets(&[&plain])[..], b"PACK"].concat()).unwrap().1[..], b"PACK");
    let asked = packets(&[&format!("{plain}\0push-options")]);
    assert_eq!(read(&[&asked[..], b"PACK"].concat()), Err(PushError::NotPackets));
    assert_eq!(read(&asked), Err(PushError::Cut));
}

#[test]
fn what_comes_before_the_pack_is_bounded() {
    let numbered = |number: usize| format!("{ZERO} {A} refs/heads/b{number}");
    let lines: Vec<String> = (0..=MOST_COMMANDS).map(numbered).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(read_lines(&lines[1..]).unwrap().commands.len(), MOST_COMMANDS);
    assert_eq!(read_lines(&lines), Err(PushError::ManyCommands));
    let shallow: Vec<String> = (0..=MOST_SHALLOW).map(|number| format!("shallow {number:040x}")).collect();
    assert_eq!(read_lines(&shallow.iter().map(String::as_str).collect::<Vec<_>>()), Err(PushError::ManyShallow));
    let repeated = Err(PushError::Malformed("a shallow line that repeats another"));
    assert_eq!(read_lines(&[&*shallow[1], &*shallow[2], &*shallow[1]]), repeated);
    let long = |number: usize| format!("{ZERO} {A} refs/heads/{number}{}", "a".repeat(900));
    let lines: Vec<String> = (0..MOST_BYTES / 900).map(long).collect();
    assert_eq!(read_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>()), Err(PushError::Long));
    // Options are not kept without end either.
    let option = "x".repeat(4000);
    let many = [packets(&[&format!("{}\0push-options", numbered(1))]), packets(&vec![&*option; 100])].concat();
    assert_eq!(read(&many).unwrap().0.options.len(), MOST_OPTIONS);
    let endless = [packets(&[&format!("{}\0push-options", numbered(1))]), packets(&vec![&*option; 1100])].concat();
    assert_eq!(read(&endless), Err(PushError::Long));
}

#[test]
fn the_pieces_in_which_a_push_arrives_change_nothing() {
    let bytes = sample();
    let whole = read(&bytes).unwrap();
    assert!(!whole.1.is_empty() && whole.0.commands.len() > 1);
    for piece in 1..40 {
        let (mut reader, mut pieces) = (PushReader::default(), bytes.chunks(piece));
        while reader.push(pieces.next().unwrap()).unwrap() == Progress::More {}
        let (push, mut rest) = reader.finish().map(|(push, rest)| (push, rest.to_vec())).unwrap();
        rest.extend(pieces.flatten());
        assert_eq!((push, Bytes::from(rest)), whole, "{piece}");
    }
    for end in 0..bytes.len() - whole.1.len() {
        assert_eq!(read(&bytes[..end]), Err(PushError::Cut), "{end}");
    }
}

/// The commands that git's own receive-pack gives to its hook: `OLD NEW REF` lines.
fn of_git(repository: &Path, request: &[u8]) -> String {
    let seen = repository.join("seen");
    let _ = std::fs::remove_file(&seen);
    let mut git = Process::new("git");
    git.args(["-c", "core.hooksPath=hooks", "receive-pack", "--stateless-rpc", "."]).current_dir(repository);
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    let mut git = git.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _ = git.stdin.take().unwrap().write_all(request);
    git.wait().unwrap();
    std::fs::read_to_string(seen).unwrap_or_default()
}

/// git takes the bytes that were read, and those that are sent on, for the commands that were judged.
#[test]
fn git_reads_the_same_commands() {
    let directory = tempfile::tempdir().unwrap();
    let repository = directory.path();
    let git = |arguments: &[&str]| {
        let output = Process::new("git").args(arguments).current_dir(repository).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q", "--bare", "."]);
    let tree = git(&["hash-object", "-t", "tree", "-w", "/dev/null"]);
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"];
    let commit = git(&[&identity[..], &["commit-tree", "-m", "x", &tree]].concat());
    git(&["update-ref", "refs/heads/there", &commit]);
    let hook = repository.join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    // Written by another process: see tests/workspace/scene.rs.
    let script = "printf '#!/bin/sh\\ncat >seen\\nexit 1\\n' >hooks/pre-receive && chmod +x hooks/pre-receive";
    assert!(Process::new("sh").args(["-c", script]).current_dir(repository).status().unwrap().success());
    // A pack of no objects.
    let pack =
        [&b"PACK\0\0\0\x02\0\0\0\0"[..], &hex::decode("029d08823bd8a8eab510ad6ac75c823cfd3ed31e").unwrap()].concat();
    let caps = " report-status side-band-64k object-format=sha1 agent=git/2.39.5";
    let create = |name: &str| format!("{ZERO} {commit} {name}");
    let cases: Vec<Vec<String>> = vec![
        vec![format!("{}\0{caps}", create("refs/heads/x"))],
        vec![format!("{}\0{caps}\n", create("refs/heads/x"))],
        vec![create("refs/heads/x")],
        vec![format!("{}\0{caps}", create("refs/heads/x")), create("refs/heads/y"), create("refs/tags/z")],
        vec![format!("{commit} {ZERO} refs/heads/there\0{caps}")],
        vec![format!("{commit} {ZERO} refs/heads/there\0{caps} delete-refs"), create("refs/heads/--upload-pack=x")],
        vec![format!("{}\0report-status\0atomic", create("refs/heads/x"))],
        vec![format!("{}\0{caps} quiet atomic ofs-delta push-cert=x unknown", create("refs/heads/日本/ä"))],
        vec![format!("{}\0  {caps}  ", create("refs/landfall/wip/0a1b2c3d"))],
    ];
    for lines in cases {
        let bytes = packets(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let (push, _) = read(&bytes).unwrap();
        let line = |command: &Command| format!("{} {} {}\n", command.old, command.new, command.name);
        let ours: String = push.commands.iter().map(line).collect();
        let pack = if push.has_pack() { &pack[..] } else { &[] };
        assert_eq!(of_git(repository, &[&bytes, pack].concat()), ours, "{lines:?}");
        assert_eq!(of_git(repository, &[&push.encode(), pack].concat()), ours, "{lines:?} as it is sent on");
    }
}
