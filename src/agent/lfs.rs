//! Large files as Git LFS keeps them: a pointer in git, and an object elsewhere.
//! <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>
//!
//! The invariant: a file below a path with `filter=lfs` goes into git as a pointer, never as its bytes; and a save names each
//! pointer that it pushes whose object it cannot show to be anywhere but on the volume. A save uploads no objects. Without this, a
//! save would push the pointer, and the volume with the object would be deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

use super::WorkspaceError;
use super::directory::{Directory, Entry, path};
use super::store::Store;
use crate::git::{Sealed, SealedError, Sha};

/// The attribute's value, and the name of the filter, as `git lfs install` sets them.
const FILTER: &[u8] = b"lfs";
/// A pointer has fewer bytes.
const MOST_POINTER: u64 = 1024;
/// A pointer has more bytes: its version and its digest.
const LEAST_POINTER: u64 = 100;
const VERSION: &str = "version https://git-lfs.github.com/spec/v1";
/// The most bytes of a repository's configuration.
const MOST_CONFIG: u64 = 1 << 20;

/// The content of a pointer file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pointer {
    /// The SHA-256 of the object, in hexadecimal digits.
    pub oid: String,
    /// The size of the object in bytes.
    pub size: u64,
}

impl Pointer {
    /// Reads a pointer file. None if it is not one.
    #[must_use]
    pub fn parse(content: &[u8]) -> Option<Self> {
        if content.len() as u64 >= MOST_POINTER {
            return None;
        }
        let mut lines = str::from_utf8(content).ok()?.lines();
        if lines.next()? != VERSION {
            return None;
        }
        let fields: BTreeMap<_, _> = lines.filter_map(|line| line.split_once(' ')).collect();
        let oid = fields.get("oid")?.strip_prefix("sha256:")?;
        let is_digest = oid.len() == 64 && oid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        Some(Self { oid: oid.to_owned(), size: fields.get("size")?.parse().ok()? }).filter(|_| is_digest)
    }

    /// The pointer to a content.
    pub fn to(content: &mut impl Read) -> io::Result<Self> {
        let (mut context, mut size) = (Context::new(&SHA256), 0);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = content.read(&mut buffer)?;
            if read == 0 {
                return Ok(Self { oid: hex::encode(context.finish()), size });
            }
            context.update(&buffer[..read]);
            size += read as u64;
        }
    }

    /// The pointer file.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{VERSION}\noid sha256:{}\nsize {}\n", self.oid, self.size)
    }

    /// The path of the object in a git directory.
    fn place(&self) -> PathBuf {
        Path::new("lfs/objects").join(&self.oid[..2]).join(&self.oid[2..4]).join(&self.oid)
    }
}

/// The paths among these that have `filter=lfs`. git reads the attributes and runs no filter.
pub async fn filtered(git: &Sealed, names: Vec<Vec<u8>>) -> Result<BTreeSet<Vec<u8>>, SealedError> {
    if names.is_empty() {
        return Ok(BTreeSet::new());
    }
    let list = [&names.join(&0)[..], b"\0"].concat();
    let said = git.fed(&["check-attr", "-z", "--stdin", "filter"], move |to| to.write_all(&list)).await?.stdout;
    let fields: Vec<_> = said.split(|byte| *byte == 0).collect();
    // PATH, the attribute's name, its value.
    let is_set = |field: &&[&[u8]]| field.get(2) == Some(&FILTER);
    Ok(fields.chunks(3).filter(is_set).filter_map(|field| Some(field.first()?.to_vec())).collect())
}

/// The pointers to the files of these names. A file that is a pointer already, or is empty, has none, as in `git lfs clean`.
pub async fn pointers(
    directory: &Directory,
    names: BTreeSet<Vec<u8>>,
) -> Result<BTreeMap<Vec<u8>, Pointer>, WorkspaceError> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let here = Path::new(".");
    let directory = directory.descend(Path::new("")).map_err(WorkspaceError::volume(here))?;
    let Some(directory) = directory else { return Ok(BTreeMap::new()) };
    // Large files take long to read.
    let read = tokio::task::spawn_blocking(move || {
        let mut found = BTreeMap::new();
        for name in names {
            // A file that cannot be read is reported when its content is to be stored.
            if let Ok(Some(Entry::File(mut opened))) = directory.entry(path(&name)) {
                if opened.length == 0 {
                    continue;
                }
                if opened.length < MOST_POINTER {
                    let content = directory.read(path(&name), MOST_POINTER)?.unwrap_or_default();
                    if Pointer::parse(&content).is_some() {
                        continue;
                    }
                }
                found.insert(name, Pointer::to(&mut opened.file)?);
            }
        }
        Ok(found)
    });
    read.await.map_err(io::Error::other).and_then(|read| read).map_err(WorkspaceError::volume(here))
}

/// The pointers among these objects.
pub async fn read(git: &Sealed, objects: Vec<Sha>) -> Result<BTreeMap<Sha, Pointer>, WorkspaceError> {
    let lines = |objects: &[Sha]| objects.iter().map(|object| format!("{object}\n")).collect::<Vec<_>>().concat();
    let asked = lines(&objects);
    let arguments = ["cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)"];
    let said = git.fed(&arguments, move |to| to.write_all(asked.as_bytes())).await?.stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let small = said.lines().filter_map(|line| -> Option<Sha> {
        let [object, "blob", size] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
        let size: u64 = size.parse().ok()?;
        (LEAST_POINTER..MOST_POINTER).contains(&size).then(|| object.parse().ok())?
    });
    let asked = lines(&small.collect::<Vec<_>>());
    let said = git.fed(&["cat-file", "--batch"], move |to| to.write_all(asked.as_bytes())).await?.stdout;
    let (mut rest, mut found) = (&said[..], BTreeMap::new());
    // OBJECT blob SIZE, a line break, the content, a line break.
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let head = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest = &rest[end + 1..];
        let [object, _, size] = head.split(' ').collect::<Vec<_>>()[..] else { continue };
        let (Ok(object), Ok(size)) = (object.parse(), size.parse::<usize>()) else {
            return Err(WorkspaceError::Answer(head));
        };
        let content = rest.get(..size).ok_or_else(|| WorkspaceError::Answer(head.clone()))?;
        found.extend(Pointer::parse(content).map(|pointer| (object, pointer)));
        rest = rest.get(size + 1..).unwrap_or_default();
    }
    Ok(found)
}

/// The pointers in the commits that are reachable from `of` and not from `without`, each with a path.
pub async fn in_commits(
    store: &Store,
    of: &[Sha],
    without: &[Sha],
) -> Result<BTreeMap<Pointer, String>, WorkspaceError> {
    if of.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut asked = of.iter().map(|object| format!("{object}\n")).collect::<Vec<_>>().concat();
    asked.extend(without.iter().map(|commit| format!("^{commit}\n")));
    let filter = format!("--filter=blob:limit={MOST_POINTER}");
    // A partial clone lacks objects. Those are at the remote.
    let arguments = ["rev-list", "--objects", "--missing=allow-any", &filter, "--stdin"];
    let said = store.git().fed(&arguments, move |to| to.write_all(asked.as_bytes())).await?.stdout;
    let paths: BTreeMap<Sha, String> = String::from_utf8_lossy(&said)
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, path)| !path.is_empty())
        .filter_map(|(object, path)| Some((object.parse().ok()?, path.to_owned())))
        .collect();
    let found = read(store.git(), paths.keys().cloned().collect()).await?;
    Ok(found.into_iter().filter_map(|(object, pointer)| Some((pointer, paths.get(&object)?.clone()))).collect())
}

/// A git directory with objects of Git LFS.
#[derive(Debug)]
pub struct Storage {
    git: Directory,
    /// `lfs.storage` in its configuration may name any place for the objects.
    is_elsewhere: bool,
}

impl Storage {
    /// None if the git directory has no such objects.
    pub fn of(git: Directory) -> io::Result<Option<Self>> {
        let config = git.read(Path::new("config"), MOST_CONFIG)?.unwrap_or_default();
        let config = String::from_utf8_lossy(&config).to_ascii_lowercase();
        let is_elsewhere = config.contains("[lfs") && config.contains("storage");
        let is_here = git.descend(Path::new("lfs/objects"))?.is_some();
        Ok((is_here || is_elsewhere).then_some(Self { git, is_elsewhere }))
    }

    /// Whether it may have the object of a pointer.
    pub fn may_hold(&self, pointer: &Pointer) -> io::Result<bool> {
        Ok(self.is_elsewhere || matches!(self.git.entry(&pointer.place())?, Some(Entry::File(_))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_read_as_it_is_written() {
        // printf 'hello' | sha256sum
        let oid = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let pointer = Pointer::to(&mut &b"hello"[..]).unwrap();
        assert_eq!(pointer, Pointer { oid: oid.into(), size: 5 });
        let text = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 5\n");
        assert_eq!(pointer.text(), text);
        assert_eq!(Pointer::parse(text.as_bytes()), Some(pointer.clone()));
        let extended = text.replace("oid ", "ext-0-foo sha256:00\noid ");
        assert_eq!(Pointer::parse(extended.as_bytes()), Some(pointer));
        for odd in ["", "version 1\n", &text.replace("sha256", "md5"), &text.replace("size 5", ""), &text[..90]] {
            assert_eq!(Pointer::parse(odd.as_bytes()), None, "{odd}");
        }
        assert_eq!(Pointer::parse(format!("{text}{}", " ".repeat(1024)).as_bytes()), None);
    }
}
