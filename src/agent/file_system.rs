//! Which modes a clone's files have, on a volume that may keep none.
//!
//! The invariant: a file gets the mode that the person's git would record. On a volume of SMB every file is 0777; taken from
//! there, a save would make each file of the repository executable.

use std::collections::BTreeSet;
use std::path::Path;

use super::WorkspaceError;
use super::directory::{Directory, OpenFile};
use crate::git::{Sealed, SealedError};

/// The most bytes of a repository's configuration.
const MOST_CONFIG: u64 = 1 << 20;
/// The settings, as git prints them.
const KEYS: &str = r"^core\.(filemode|symlinks)$";

/// What the volume keeps of a file besides its bytes: found by git when it made the clone, and noted in its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSystem {
    /// `core.fileMode`: whether a file is executable.
    pub keeps_modes: bool,
    /// `core.symlinks`: symbolic links. Without it git checks one out as a file with the target for its text.
    pub keeps_links: bool,
}

impl FileSystem {
    /// Reads it from the configuration of a git directory. git only parses the text, and opens no file that it names.
    pub async fn of(git_directory: &Directory, git: &Sealed) -> Result<Self, WorkspaceError> {
        let file = Path::new("config");
        let text = git_directory.read(file, MOST_CONFIG).map_err(WorkspaceError::volume(file))?.unwrap_or_default();
        let arguments = ["config", "--file", "-", "--no-includes", "--type=bool", "--get-regexp", KEYS];
        let said = match git.fed(&arguments, move |to| to.write_all(&text)).await {
            Ok(answer) => answer.stdout,
            // Neither is set, or the text is no configuration, with which the person's git fails as well.
            Err(SealedError::Failed { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let mut file_system = Self { keeps_modes: true, keeps_links: true };
        // The last line of a key counts.
        for line in String::from_utf8_lossy(&said).lines() {
            match line.split_once(' ') {
                Some(("core.filemode", value)) => file_system.keeps_modes = value == "true",
                Some(("core.symlinks", value)) => file_system.keeps_links = value == "true",
                _ => {}
            }
        }
        Ok(file_system)
    }

    /// git that compares files as the person's git does.
    pub fn settings(self, git: Sealed) -> Sealed {
        let word = |is_set: bool| if is_set { "true" } else { "false" };
        git.setting("core.fileMode", word(self.keeps_modes)).setting("core.symlinks", word(self.keeps_links))
    }
}

/// The modes that git writes for files: the volume's, or else the index's.
pub(super) struct Modes {
    pub file_system: FileSystem,
    pub executables: BTreeSet<Vec<u8>>,
    pub symlinks: BTreeSet<Vec<u8>>,
}

impl Modes {
    /// For a regular file of this name on the volume, as git decides it (`ce_mode_from_stat` in its `read-cache.h`).
    pub fn of_file(&self, name: &[u8], file: &OpenFile) -> &'static str {
        let is_executable =
            if self.file_system.keeps_modes { file.executable } else { self.executables.contains(name) };
        if !self.file_system.keeps_links && self.symlinks.contains(name) {
            "120000"
        } else if is_executable {
            "100755"
        } else {
            "100644"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn the_clones_settings_are_read_and_nothing_that_they_name() {
        let directory = tempfile::tempdir().unwrap();
        let other = directory.path().join("other");
        std::fs::write(&other, "[core]\n\tfileMode = false\n").unwrap();
        let git = Sealed::new(directory.path(), directory.path(), Instant::now() + Duration::from_mins(5));
        let include = format!("[include]\n\tpath = {}\n", other.display());
        for (config, modes, links) in [
            (None, true, true),
            (Some(""), true, true),
            (Some("[core]\n\tbare = false\n"), true, true),
            (Some("[core]\n\tFILEMODE = off\n"), false, true),
            (Some("[core]\n\tfileMode = 0\n\tsymlinks = no\n"), false, false),
            (Some("[core]\n\tfileMode = false\n[core]\n\tfileMode\n"), true, true),
            (Some("[core]\n\tfileMode = perhaps\n"), true, true),
            (Some("]"), true, true),
            (Some(&include), true, true),
        ] {
            let file = directory.path().join("config");
            match config {
                Some(text) => std::fs::write(&file, text).unwrap(),
                None => assert!(!file.exists()),
            }
            let found = FileSystem::of(&Directory::open(directory.path()).unwrap(), &git).await.unwrap();
            assert_eq!(found, FileSystem { keeps_modes: modes, keeps_links: links }, "{config:?}");
        }
    }
}
