//! pkt-line, the framing of git's protocol (gitprotocol-common(5)).
//!
//! The invariant: for any bytes, decoding gives a packet, asks for more bytes, or fails; a packet has at most [`LONGEST`] bytes, so
//! a reader needs no larger buffer. Without the bound, a server that announces a large packet and sends it slowly would fill the
//! operator's memory.

/// The longest packet, its four digits included.
pub const LONGEST: usize = 65_520;
/// [`Packet::Flush`] on the wire.
pub const FLUSH: &str = "0000";
/// [`Packet::Delimiter`] on the wire.
pub const DELIMITER: &str = "0001";
const DIGITS: usize = 4;

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0000`: the end of a message.
    Flush,
    /// `0001`: between the sections of a message.
    Delimiter,
    /// `0002`: the end of an answer on a connection without state.
    ResponseEnd,
    /// The payload, without the line feed at its end.
    Line(&'a [u8]),
}

/// The bytes are not a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it does not consist of git's packets")]
pub struct NotPackets;

/// The packet at the beginning of `bytes` and its length; none if it is incomplete.
pub fn decode(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, NotPackets> {
    let mut length = 0;
    for digit in bytes.iter().take(DIGITS) {
        let digit = char::from(*digit).to_digit(16).ok_or(NotPackets)?;
        length = length * 16 + digit as usize;
    }
    if bytes.len() < DIGITS {
        return Ok(None);
    }
    Ok(match length {
        0 => Some((Packet::Flush, DIGITS)),
        1 => Some((Packet::Delimiter, DIGITS)),
        2 => Some((Packet::ResponseEnd, DIGITS)),
        DIGITS..=LONGEST => bytes.get(DIGITS..length).map(|line| (Packet::Line(without_line_feed(line)), length)),
        _ => return Err(NotPackets),
    })
}

fn without_line_feed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// `line` and a line feed, as a packet. Landfall's own lines are far shorter than [`LONGEST`].
#[must_use]
pub fn encode(line: &str) -> String {
    debug_assert!(line.len() + DIGITS < LONGEST && !line.contains('\n'), "{line:?}");
    format!("{:04x}{line}\n", line.len() + DIGITS + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_decoded_and_bounded() {
        let table = [
            (b"".as_slice(), Ok(None)),
            (b"0", Ok(None)),
            (b"000", Ok(None)),
            (b"0000", Ok(Some((Packet::Flush, 4)))),
            (b"0001rest", Ok(Some((Packet::Delimiter, 4)))),
            (b"0002", Ok(Some((Packet::ResponseEnd, 4)))),
            (b"0003", Err(NotPackets)),
            (b"0004", Ok(Some((Packet::Line(b""), 4)))),
            (b"0005\n", Ok(Some((Packet::Line(b""), 5)))),
            (b"0006a\n0000", Ok(Some((Packet::Line(b"a"), 6)))),
            (b"0006\n\n", Ok(Some((Packet::Line(b"\n"), 6)))),
            (b"000aabc", Ok(None)),
            (b"000Aabcdef", Ok(Some((Packet::Line(b"abcdef"), 10)))),
            (b"+001", Err(NotPackets)),
            (b"<htm", Err(NotPackets)),
            (b"fff1", Err(NotPackets)),
            (b"fff0", Ok(None)),
        ];
        for (bytes, expected) in table {
            assert_eq!(decode(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_and_no_prefix_of_it_is() {
        let packet = encode("ref-prefix refs/heads/ä");
        let bytes = packet.as_bytes();
        assert_eq!(decode(bytes), Ok(Some((Packet::Line("ref-prefix refs/heads/ä".as_bytes()), bytes.len()))));
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Ok(None));
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let alphabet = b"0124f+\n \x00\xff";
        for number in 0..alphabet.len().pow(5) {
            let bytes: Vec<u8> =
                (0..5).map(|place| alphabet[number / alphabet.len().pow(place) % alphabet.len()]).collect();
            if let Ok(Some((_, length))) = decode(&bytes) {
                assert!((4..=bytes.len()).contains(&length), "{}", bytes.escape_ascii());
            }
        }
    }
}
