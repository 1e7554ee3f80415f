//! Files that another process is still writing: only their complete lines are read.
//!
//! A write of several KiB becomes visible in pieces, so a reader can find half a line, or half a character, at the end.
//! Files that are written once and then read are written under another name first and renamed.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How much is read at a time, backwards from the end.
const CHUNK: u64 = 8 * 1024;

/// The complete lines of a file.
pub fn whole_lines(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&lines_from(path, 0)?).into_owned())
}

/// The complete lines of a file from an offset on. The offset has to be the beginning of a line.
pub(crate) fn lines_from(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() < offset {
        return Err(io::Error::other(format!("it is shorter than {offset} bytes: it was replaced or cut off")));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1));
    Ok(text)
}

/// The offset after the last complete line of a file.
pub(crate) fn end_of_lines(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(CHUNK);
        file.seek(SeekFrom::Start(start))?;
        let mut chunk = Vec::new();
        (&mut file).take(end - start).read_to_end(&mut chunk)?;
        if let Some(last) = chunk.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Writes a file so that readers see all of it or nothing.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    fs::write(&part, content)?;
    fs::rename(part, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn half_a_line_is_not_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!((whole_lines(file.path()).unwrap(), end_of_lines(file.path()).unwrap()), (String::new(), 0));
        file.write_all(&"½".as_bytes()[..1]).unwrap();
        assert_eq!((whole_lines(file.path()).unwrap(), end_of_lines(file.path()).unwrap()), (String::new(), 0));
        file.write_all(&"½\nmore".as_bytes()[1..]).unwrap();
        assert_eq!((whole_lines(file.path()).unwrap(), end_of_lines(file.path()).unwrap()), ("½\n".to_owned(), 3));
        file.write_all("long".repeat(5000).as_bytes()).unwrap();
        assert_eq!((whole_lines(file.path()).unwrap(), end_of_lines(file.path()).unwrap()), ("½\n".to_owned(), 3));
    }

    #[test]
    fn a_file_that_was_replaced_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(lines_from(file.path(), 1).unwrap_err().to_string().contains("shorter than 1"));
    }
}
