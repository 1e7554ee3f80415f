use super::*;
use crate::gateway::commands::PushReader;
use crate::gateway::refs::{Move, Refused};
use crate::git::pkt_line::{self, Packet};

const A: &str = "1111111111111111111111111111111111111111";
const ZERO: &str = "0000000000000000000000000000000000000000";

fn push(capabilities: &str, names: &[&str]) -> Push {
    let mut reader = PushReader::default();
    for (number, name) in names.iter().enumerate() {
        let capabilities = if number == 0 { format!("\0{capabilities}") } else { String::new() };
        let line = format!("{ZERO} {A} {name}{capabilities}");
        reader.push(format!("{:04x}{line}", line.len() + 4).as_bytes()).unwrap();
    }
    reader.push(b"0000").unwrap();
    reader.finish().unwrap().0
}

/// The lines of an answer, and whether all of its bytes were packets up to a flush.
fn lines(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    loop {
        let (packet, length) = pkt_line::decode(bytes).unwrap().unwrap();
        bytes = &bytes[length..];
        match packet {
            Packet::Line(line) => lines.push(line.to_vec()),
            Packet::Flush => return (bytes.is_empty()).then_some(lines).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

fn texts(bytes: &[u8]) -> Vec<String> {
    lines(bytes).into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
}

fn no(reason: &str) -> Result<Move, Refused> {
    Err(Refused::new(reason))
}

#[test]
fn each_ref_is_refused_with_its_reason() {
    let verdicts = vec![no("this workspace pushes to x only"), Ok(Move::Any)];
    let expected = [
        "unpack ok".to_owned(),
        "ng refs/heads/main this workspace pushes to x only".to_owned(),
        format!("ng refs/heads/x {WITH_OTHERS}"),
    ];
    for capabilities in ["report-status", "report-status-v2", "report-status report-status-v2"] {
        assert_eq!(texts(&refusal(&push(capabilities, &["refs/heads/main", "refs/heads/x"]), &verdicts)), expected);
    }
    let bands = refusal(&push("report-status side-band-64k", &["refs/heads/main", "refs/heads/x"]), &verdicts);
    let bands = lines(&bands);
    assert!(bands.iter().all(|band| band[0] == REPORT_BAND));
    // The line feed before a packet's end is within the band.
    assert_eq!(texts(&[&bands[0][1..], b""].concat()), expected);
}

#[test]
fn a_report_larger_than_a_band_goes_into_several() {
    let names: Vec<String> = (0..4000).map(|number| format!("refs/heads/b{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let push = push("report-status-v2 side-band-64k", &names);
    let answer = refusal(&push, &names.iter().map(|_| no("a reason")).collect());
    let mut report = Vec::new();
    let mut rest = &answer[..];
    let mut count = 0;
    // Read without the decoder, which drops a line feed at the end of a packet.
    while &rest[..4] != b"0000" {
        let length = usize::from_str_radix(str::from_utf8(&rest[..4]).unwrap(), 16).unwrap();
        assert!(length <= pkt_line::LONGEST);
        report.extend_from_slice(&rest[5..length]);
        rest = &rest[length..];
        count += 1;
    }
    assert!(count > 1 && rest.len() == 4, "{count}");
    assert_eq!(texts(&report).len(), 4001);
}

#[test]
fn a_client_that_asks_for_no_report_is_told_by_an_error() {
    let verdicts = vec![no("first\nsecond")];
    let answer = refusal(&push("", &["refs/heads/main"]), &verdicts);
    assert_eq!(&answer[..], b"0014ERR first second");
    let answer = refusal(&push("side-band-64k", &["refs/heads/main"]), &verdicts);
    assert_eq!(lines(&answer), [b"\x03first second".to_vec()]);
}

#[test]
fn a_reason_is_one_line_of_bounded_length() {
    let long = format!("a\r\nng refs/heads/x {}", "ä".repeat(2000));
    let answer = texts(&refusal(&push("report-status", &["refs/heads/main"]), &vec![no(&long)]));
    assert!(answer.len() == 2 && answer[1].starts_with("ng refs/heads/main a  ng ") && answer[1].len() < 1100);
}
