//! Files of a directory that a stranger writes to, opened without ever leaving it.
//!
//! The invariant: what is read was reached from the directory's own descriptor, part by part, and no part was a link. A path
//! that is checked and then opened could be exchanged in between, by whoever still runs in the workspace: the contents of one of
//! Landfall's own files would then be saved as the person's work.

use crate::guards;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

/// The deepest that directories are looked into for [`Directory::marks`]: each is held open meanwhile.
const DEEPEST: usize = 128;

/// What is opened is not a link.
fn nofollow() -> OFlags {
    guards::opening(OFlags::NOFOLLOW)
}

/// What is looked at may be a link, and not what it points to.
fn as_it_is() -> AtFlags {
    guards::state(AtFlags::SYMLINK_NOFOLLOW)
}

/// A directory, held open.
#[derive(Debug)]
pub struct Directory(OwnedFd);

/// What is found under a name.
#[derive(Debug)]
pub enum Entry {
    /// A file, open, and its state when it was opened.
    File(Opened),
    /// A symbolic link: what it says, which is not followed.
    Link {
        /// Where it points.
        target: Vec<u8>,
        /// When it was made, in seconds since 1970.
        modified: i64,
    },
    /// A directory.
    Directory,
    /// A device, socket or named pipe.
    Special,
}

/// A file that is open for reading.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: File,
    /// Its length in bytes.
    pub length: u64,
    /// Whether its owner may run it.
    pub executable: bool,
    /// When it was last written to, in seconds since 1970.
    pub modified: i64,
}

impl Directory {
    /// The directory at `path`, which may not be a link itself; what is above it is trusted.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(openat(CWD, path, OFlags::DIRECTORY | nofollow() | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// A directory beneath this one; none if there is nothing, or a link on the way, or no directory at its end.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub fn descend(&self, path: &Path) -> io::Result<Option<Self>> {
        let mut at = Self(self.0.try_clone()?);
        for part in path.components() {
            let part = match part {
                Component::Normal(part) => part,
                Component::CurDir => continue,
                _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path that leaves its directory")),
            };
            match openat(&at.0, part, OFlags::DIRECTORY | nofollow() | OFlags::CLOEXEC, Mode::empty()) {
                Ok(next) => at = Self(next),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(at))
    }

    /// What is at `path`; none if there is nothing, or a link on the way.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        let Some(name) = path.file_name() else { return Ok(Some(Entry::Directory)) };
        let Some(parent) = self.descend(path.parent().unwrap_or(Path::new("")))? else { return Ok(None) };
        match parent.child(name) {
            // It went, or changed, between two looks.
            Err(Errno::NOENT | Errno::LOOP) => Ok(None),
            found => Ok(found?),
        }
    }

    fn child(&self, name: &OsStr) -> Result<Option<Entry>, Errno> {
        let stat = match statat(&self.0, name, as_it_is()) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(Some(Entry::Directory)),
            FileType::Symlink => {
                let target = readlinkat(&self.0, name, Vec::new())?.into_bytes();
                Ok(Some(Entry::Link { target, modified: stat.st_mtime }))
            }
            FileType::RegularFile => {
                // What became something else meanwhile is not waited for.
                let flags = OFlags::RDONLY | nofollow() | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let fd = openat(&self.0, name, flags, Mode::empty())?;
                let stat = fstat(&fd)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Ok(Some(Entry::Special));
                }
                Ok(Some(Entry::File(Opened {
                    file: fd.into(),
                    length: u64::try_from(stat.st_size).unwrap_or_default(),
                    executable: stat.st_mode & 0o100 != 0,
                    modified: stat.st_mtime,
                })))
            }
            _ => Ok(Some(Entry::Special)),
        }
    }

    /// The contents of the file at `path`; none if there is no file.
    ///
    /// # Errors
    /// It cannot be read, or has more than `most` bytes.
    pub fn read(&self, path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(Entry::File(opened)) = self.entry(path)? else { return Ok(None) };
        let mut contents = Vec::new();
        opened.file.take(most + 1).read_to_end(&mut contents)?;
        if contents.len() as u64 > most {
            let text = format!("{} has more than {most} bytes", path.display());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        Ok(Some(contents))
    }

    /// What changes with what is at `name` in this directory; none if there is nothing.
    ///
    /// # Errors
    /// The file system does not say.
    pub fn mark(&self, name: &OsStr) -> io::Result<Option<u64>> {
        match statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(stat) => Ok(Some(mark(name, &stat))),
        }
    }

    /// What changes with anything in this directory and those beneath, but what is called `without` in it. It is read from names,
    /// modes, lengths and times alone, so it costs little memory, and time for each name.
    ///
    /// # Errors
    /// The directory cannot be read. One beneath it that cannot is passed over.
    pub fn marks(&self, without: &OsStr) -> io::Result<u64> {
        self.marks_to(without, DEEPEST)
    }

    fn marks_to(&self, without: &OsStr, depth: usize) -> io::Result<u64> {
        let mut sum = 0_u64;
        for entry in Dir::read_from(self.0.as_fd())? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." || name == without {
                continue;
            }
            let Ok(stat) = statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let mut here = mark(name, &stat);
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_directory
                && depth > 0
                && let Ok(Some(directory)) = self.descend(Path::new(name))
            {
                let beneath = directory.marks_to(OsStr::new(""), depth - 1).unwrap_or_default();
                here = here.wrapping_mul(31).wrapping_add(beneath.rotate_left(1));
            }
            // In whatever order the names come.
            sum = sum.wrapping_add(here);
        }
        Ok(sum)
    }

    /// The names of the directories in this one, sorted.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn directories(&self) -> io::Result<Vec<OsString>> {
        let mut names = self.names()?;
        names.retain(|name| {
            let stat = statat(&self.0, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW);
            stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        });
        Ok(names)
    }

    /// The names in this directory, sorted.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.0.as_fd())? {
            let name = entry?.file_name().to_bytes().to_owned();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }
}

fn mark(name: &OsStr, stat: &Stat) -> u64 {
    let mut hasher = DefaultHasher::new();
    let times = (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
    (name, stat.st_ino, stat.st_mode, stat.st_size, times).hash(&mut hasher);
    hasher.finish()
}

/// A path as git writes it: bytes, with slashes.
#[must_use]
pub fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// A path without `.` and `..`, by its text alone.
#[must_use]
pub fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn nothing_is_reached_through_a_link() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let within = tempfile::tempdir().unwrap();
        let at = |name: &str| within.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/c"), "text").unwrap();
        std::fs::set_permissions(at("a/b/c"), std::fs::Permissions::from_mode(0o755)).unwrap();
        symlink(outside.path(), at("out")).unwrap();
        symlink("../../secret", at("a/link")).unwrap();
        let directory = Directory::open(within.path()).unwrap();

        assert_eq!(directory.read(Path::new("a/b/c"), 4).unwrap().unwrap(), b"text");
        assert!(directory.read(Path::new("a/b/c"), 3).is_err());
        assert_eq!(directory.read(Path::new("out/secret"), 9).unwrap(), None);
        assert_eq!(directory.read(Path::new("a/link"), 9).unwrap(), None);
        assert!(directory.descend(Path::new("out")).unwrap().is_none());
        assert!(directory.entry(Path::new("../x")).is_err() && directory.entry(Path::new("/etc/passwd")).is_err());
        assert!(Directory::open(&at("out")).is_err());
        let Some(Entry::Link { target, .. }) = directory.entry(Path::new("a/link")).unwrap() else { panic!() };
        assert_eq!(target, b"../../secret");
        let Some(Entry::File(opened)) = directory.entry(Path::new("a/b/c")).unwrap() else { panic!() };
        assert!(opened.executable && opened.length == 4);
        assert!(matches!(directory.entry(Path::new("a/b")).unwrap(), Some(Entry::Directory)));
        assert!(directory.entry(Path::new("a/b/c/d")).unwrap().is_none());
        assert_eq!(directory.descend(Path::new("a")).unwrap().unwrap().names().unwrap(), ["b", "link"]);
    }

    #[test]
    fn every_change_changes_the_marks_and_a_look_does_not() {
        let within = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let at = |name: &str| within.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::create_dir_all(at(".git")).unwrap();
        std::fs::write(at("a/b/c"), "text").unwrap();
        symlink(outside.path(), at("out")).unwrap();
        let directory = Directory::open(within.path()).unwrap();
        let marks = || directory.marks(OsStr::new(".git")).unwrap();
        let mut seen = vec![marks()];
        assert_eq!(marks(), seen[0]);
        std::fs::read(at("a/b/c")).unwrap();
        std::fs::write(at(".git/index"), "x").unwrap();
        std::fs::write(outside.path().join("x"), "x").unwrap();
        assert_eq!(marks(), seen[0]);
        let time = std::fs::metadata(at("a/b/c")).unwrap().modified().unwrap();
        let change: &[&dyn Fn()] = &[
            // The time of a change cannot be set back by whoever makes it.
            &|| {
                std::fs::write(at("a/b/c"), "TEXT").unwrap();
                File::options().write(true).open(at("a/b/c")).unwrap().set_modified(time).unwrap();
            },
            &|| std::fs::write(at("a/b/c"), "longer").unwrap(),
            &|| std::fs::write(at("a/new"), "").unwrap(),
            &|| std::fs::rename(at("a/new"), at("a/b/new")).unwrap(),
            &|| std::fs::set_permissions(at("a/b/c"), std::fs::Permissions::from_mode(0o755)).unwrap(),
            &|| std::fs::create_dir(at("a/.git")).unwrap(),
            &|| std::fs::remove_file(at("out")).unwrap(),
            &|| std::fs::remove_file(at("a/b/c")).unwrap(),
        ];
        for (number, change) in change.iter().enumerate() {
            change();
            // A file system's clock may stand still for some milliseconds.
            let mut again = (0..100_000).take_while(|_| number == 0 && seen.contains(&marks()));
            again.by_ref().for_each(|_| change());
            assert!(!seen.contains(&marks()), "change {number} is not seen");
            seen.push(marks());
        }
        assert_eq!(directory.mark(OsStr::new("nothing")).unwrap(), None);
        assert!(directory.mark(OsStr::new("a")).unwrap().is_some());
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let within = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo").arg(within.path().join("pipe")).status().unwrap();
        assert!(made.success());
        let directory = Directory::open(within.path()).unwrap();
        assert!(matches!(directory.entry(Path::new("pipe")).unwrap(), Some(Entry::Special)));
        assert_eq!(directory.read(Path::new("pipe"), 9).unwrap(), None);
    }
}
