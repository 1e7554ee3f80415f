//! What a process costs: its processor time and its memory, as the kernel counts them (proc(5)).

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A process could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A file of it could not be read.
    #[error("{} cannot be read: has the process ended?", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of it has not what it should have.
    #[error("{} is not as proc(5) describes it: {text}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What it has.
        text: String,
    },
}

/// The processor time that a process and its threads have used, in their own code and in the kernel's for them. Counted
/// in steps of 10 ms on most machines.
pub fn cpu_time(pid: u32) -> Result<Duration, ProcessError> {
    let (path, text) = read(pid, "stat")?;
    let ticks = ticks(&text).ok_or(ProcessError::Content { path, text })?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_nanos(ticks * (1_000_000_000 / per_second)))
}

/// `utime` and `stime`, fields 14 and 15 of `stat`.
fn ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may hold any character, so count from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// The memory of a process that is in RAM, in bytes. Walked through and not estimated: `VmRSS` may be off by megabytes.
pub fn resident(pid: u32) -> Result<u64, ProcessError> {
    let (path, text) = read(pid, "smaps_rollup")?;
    let kibibytes = kibibytes(&text, "Rss:").ok_or(ProcessError::Content { path, text })?;
    Ok(kibibytes * 1024)
}

/// The most memory of a process that was in RAM at once since its start, in bytes: the kernel's own estimate, `VmHWM`.
pub fn peak_resident(pid: u32) -> Result<u64, ProcessError> {
    let (path, text) = read(pid, "status")?;
    let kibibytes = kibibytes(&text, "VmHWM:").ok_or(ProcessError::Content { path, text })?;
    Ok(kibibytes * 1024)
}

/// Allows this process, and those that it starts, as many open files as it may allow itself: a connection is one, and
/// the usual limit is 1,024.
pub fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    // Without it, a load for which there are too few ends with an error that says so.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}

/// The name of a process's program, of which the kernel keeps 15 bytes.
pub fn name(pid: u32) -> Result<String, ProcessError> {
    read(pid, "comm").map(|(_, text)| text.trim_end().to_owned())
}

fn kibibytes(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse().ok())
}

fn read(pid: u32, file: &str) -> Result<(PathBuf, String), ProcessError> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    match fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(ProcessError::Read { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_name() {
        assert_eq!(ticks("42 (a) R 7 (b)) S 1 42 42 0 -1 4194560 1 2 3 4 700 30 5 6 20 0 1 0 99"), Some(730));
        assert_eq!(ticks("42 (a"), None);
        assert_eq!(
            kibibytes("5581-7ffd ---p 00:00 0 [rollup]\nRss:    1308 kB\nPss:     131 kB\n", "Rss:"),
            Some(1308)
        );
    }

    #[test]
    fn work_and_memory_are_seen() {
        let pid = std::process::id();
        let (before, small) = (cpu_time(pid).unwrap(), resident(pid).unwrap());
        let memory: Vec<u8> = (0..32_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        while cpu_time(pid).unwrap() < before + Duration::from_millis(20) {
            std::hint::black_box(&memory);
        }
        assert!(resident(pid).unwrap() > small + 16_000_000);
        drop(memory);
        assert!(peak_resident(pid).unwrap() > small + 16_000_000);
        assert!(!name(pid).unwrap().is_empty());
        assert!(matches!(cpu_time(u32::MAX), Err(ProcessError::Read { .. })));
    }
}
