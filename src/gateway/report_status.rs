//! git's answer to a push that is refused as a whole (report-status of gitprotocol-pack(5), in bands if the client asks for them).
//!
//! The invariant: every command has one line, the reason of a ref is one line of bounded length, and a ref that would have been
//! allowed alone says that another one was refused. So unmodified git prints each ref with its reason, and no ref as pushed.

use super::commands::{Capabilities, Command, Push, Report};
use super::refs::{RefName, Verdicts};
use crate::git::pkt_line::{self, FLUSH, Packet};
use bytes::{BufMut as _, Bytes, BytesMut};

/// The most bytes in a packet of a band: 65520 with the length and the band.
const MOST_IN_BAND: usize = 65_515;
/// The most bytes of a reason.
const LONGEST_REASON: usize = 1000;
/// The bands of the report, of words to the person, and of an error that ends the exchange.
const REPORT_BAND: u8 = 1;
const PROGRESS_BAND: u8 = 2;
const ERROR_BAND: u8 = 3;
const WITH_OTHERS: &str = "not pushed, because another ref of this push was refused";

/// The answer to a push of which at least one ref is refused.
#[must_use]
pub fn refusal(push: &Push, verdicts: &Verdicts) -> Bytes {
    let reasons = verdicts.iter().map(|verdict| verdict.as_ref().err().map(|refused| line(&refused.to_string())));
    if push.capabilities.report == Report::None {
        let first = reasons.flatten().next().unwrap_or_default();
        return error(&push.capabilities, &first);
    }
    let refused = |(command, reason): (&Command, Option<String>)| {
        (command.name.clone(), Err(reason.unwrap_or_else(|| WITH_OTHERS.to_owned())))
    };
    let results: Vec<_> = push.commands.iter().zip(reasons).map(refused).collect();
    report(&push.capabilities, "ok", &results, &[])
}

/// The report about each ref, behind what GitHub says meanwhile.
#[must_use]
pub fn report(
    capabilities: &Capabilities,
    unpacked: &str,
    results: &[(RefName, Result<(), String>)],
    progress: &[Bytes],
) -> Bytes {
    let mut report = BytesMut::new();
    packet(&mut report, format!("unpack {}\n", line(unpacked)).as_bytes());
    for (name, result) in results {
        let result = match result {
            Ok(()) => format!("ok {name}\n"),
            Err(reason) => format!("ng {name} {}\n", line(reason)),
        };
        packet(&mut report, result.as_bytes());
    }
    report.put_slice(FLUSH.as_bytes());
    if !capabilities.side_band() {
        return report.freeze();
    }
    let mut bands = BytesMut::new();
    for part in progress {
        band(&mut bands, PROGRESS_BAND, part);
    }
    for part in report.chunks(MOST_IN_BAND) {
        band(&mut bands, REPORT_BAND, part);
    }
    bands.put_slice(FLUSH.as_bytes());
    bands.freeze()
}

/// GitHub's answer to a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// `ok`, or why the pack was not taken.
    pub unpacked: String,
    /// By the names of the refs.
    pub results: Vec<(String, Result<(), String>)>,
    /// What GitHub says to the person.
    pub progress: Vec<Bytes>,
}

/// Reads the whole answer to a push. None if it is not one.
#[must_use]
pub fn read(answer: &[u8], is_in_bands: bool) -> Option<Reported> {
    let mut progress = Vec::new();
    let mut report = BytesMut::new();
    if is_in_bands {
        each_packet(answer, |payload| {
            match payload.split_first()? {
                (&REPORT_BAND, payload) => report.put_slice(payload),
                (&PROGRESS_BAND, payload) => progress.push(Bytes::copy_from_slice(payload)),
                _ => return None,
            }
            Some(())
        })?;
    } else {
        report.put_slice(answer);
    }
    let (mut unpacked, mut results) = (None, Vec::new());
    each_packet(&report, |payload| {
        let text = String::from_utf8_lossy(payload.strip_suffix(b"\n").unwrap_or(payload)).into_owned();
        let (word, rest) = text.split_once(' ')?;
        match (word, rest.split_once(' ')) {
            ("unpack", _) if unpacked.is_none() => unpacked = Some(rest.to_owned()),
            ("ok", _) => results.push((rest.to_owned(), Ok(()))),
            ("ng", Some((name, reason))) => results.push((name.to_owned(), Err(reason.to_owned()))),
            // An option of report-status-v2 is about the ref before it.
            ("option", _) => {}
            _ => return None,
        }
        Some(())
    })?;
    Some(Reported { unpacked: unpacked?, results, progress })
}

/// Gives each packet up to the flush. None if the bytes are not packets, or the packet is not taken. The payload keeps its line
/// feed, which within a band is part of the report.
fn each_packet(mut bytes: &[u8], mut take: impl FnMut(&[u8]) -> Option<()>) -> Option<()> {
    loop {
        match pkt_line::decode(bytes).ok()?? {
            (Packet::Flush, _) => return Some(()),
            (Packet::Line(_), length) => {
                take(&bytes[4..length])?;
                bytes = &bytes[length..];
            }
            _ => return None,
        }
    }
}

/// An error that ends the exchange, in git's words: `fatal: remote error: …`.
fn error(capabilities: &Capabilities, reason: &str) -> Bytes {
    let mut answer = BytesMut::new();
    if capabilities.side_band() {
        band(&mut answer, ERROR_BAND, reason.as_bytes());
        answer.put_slice(FLUSH.as_bytes());
    } else {
        packet(&mut answer, format!("ERR {reason}").as_bytes());
    }
    answer.freeze()
}

/// A text as one line of bounded length.
fn line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while line.len() > LONGEST_REASON {
        line.pop();
    }
    line
}

fn packet(to: &mut BytesMut, payload: &[u8]) {
    to.put_slice(format!("{:04x}", payload.len() + 4).as_bytes());
    to.put_slice(payload);
}

fn band(to: &mut BytesMut, band: u8, payload: &[u8]) {
    to.put_slice(format!("{:04x}", payload.len() + 5).as_bytes());
    to.put_u8(band);
    to.put_slice(payload);
}

#[cfg(test)]
mod tests;
