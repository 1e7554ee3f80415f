//! The Debian system of the images, from this machine's own package sources: installed, trimmed, packed as a layer and
//! cached, so that only the first image takes a minute.
//!
//! This module and the sources determine a layer. A layer is built again when this module changes, but not when a
//! package does: remove it from the cache for that.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::command::run;
use crate::image::{ImageError, in_file, pack, packing};
use crate::tools;

/// The file system of an image, without our programs.
pub(crate) struct Root {
    /// Names the layer in the cache.
    pub(crate) name: &'static str,
    packages: &'static [&'static str],
    /// The only user: name, number and home.
    user: &'static str,
    number: u32,
    home: &'static str,
}

/// The operator's packages: git, and the certificate authorities of servers.
pub(crate) const OPERATOR: Root =
    Root { name: "operator", packages: &["ca-certificates", "git"], user: "landfall", number: 65532, home: "/tmp" };

/// The packages that a person needs to work on a branch in a terminal.
pub(crate) const WORKSPACE: Root = Root {
    name: "workspace",
    packages: &["ca-certificates", "curl", "gh", "git", "less", "nano", "openssh-client", "vim-tiny"],
    user: "dev",
    number: 1000,
    home: "/home/dev",
};

/// Installs the base. Certificates come first, for sources that are read over TLS.
const BOOTSTRAP: &str = r#"
set -eu
mount -t tmpfs -o mode=755 root "$ROOT"
debootstrap --variant=minbase --include=ca-certificates "$CODENAME" "$ROOT" "$MIRROR" >&2
printf %s "$SOURCES" > "$ROOT/etc/apt/sources.list"
exec "$@"
"#;

/// Makes the system of an image from the base.
const EXTEND: &str = r#"
set -eu
mount -t tmpfs -o mode=755 root "$ROOT"
tar --extract --numeric-owner --preserve-permissions --file "$BASE" --directory "$ROOT"
cp /etc/resolv.conf "$ROOT/etc/resolv.conf"
chroot "$ROOT" /bin/sh -c "$INSTALL" sh $PACKAGES >&2
chroot "$ROOT" /bin/sh -c "$FINISH" sh "$NAME" "$NUMBER" "$PLACE" >&2
exec "$@"
"#;

/// Updates the system and installs packages. Runs in the new system.
const INSTALL: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq -y --no-install-recommends upgrade
apt-get -qq -y --no-install-recommends install "$@"
"#;

/// Creates the user, and removes files that a container does not read or must not have, except licences. Runs in the
/// new system.
const FINISH: &str = r#"
set -eu
printf '%s:x:%s:\n' "$1" "$2" >> /etc/group
printf '%s:x:%s:%s::%s:/bin/bash\n' "$1" "$2" "$2" "$3" >> /etc/passwd
mkdir -p "$3"
[ "$3" = /tmp ] || chown "$2:$2" "$3"
apt-get clean
find /usr/share/doc -type f ! -name copyright -delete
find /usr/share/doc -depth -type d -empty -delete
rm -rf /usr/share/man/* /usr/share/info/* /usr/share/locale/* /usr/share/lintian /usr/share/gitweb \
  /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/* /var/lib/dpkg/*-old \
  /var/log/* /tmp/* /etc/hostname /etc/resolv.conf /etc/machine-id
"#;

/// A package source of this machine.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    mirror: String,
    suite: String,
    component: String,
}

impl Root {
    /// The layer, from the cache or built now, which takes a minute or two.
    pub(crate) fn layer(&self, cache: &Cache) -> Result<PathBuf, ImageError> {
        let folder = cache.images();
        fs::create_dir_all(&folder).map_err(in_file(&folder))?;
        let (layer, record) =
            (folder.join(format!("{}-root.tar", self.name)), folder.join(format!("{}-root.inputs", self.name)));
        let lock = File::create(folder.join("lock")).map_err(in_file(&folder))?;
        lock.lock().map_err(in_file(&folder))?;
        if layer.exists() && fs::read_to_string(&record).is_ok_and(|kept| kept == self.inputs()) {
            return Ok(layer);
        }
        if !rustix::process::geteuid().is_root() {
            return Err(ImageError::NotRoot);
        }
        tools::require(&tools::IMAGES)?;
        eprintln!("making the {} image's Debian: a minute or two, once", self.name);
        let part = layer.with_extension("part");
        self.make(&folder, &part)?;
        fs::rename(&part, &layer).map_err(in_file(&layer))?;
        fs::write(&record, self.inputs()).map_err(in_file(&record))?;
        Ok(layer)
    }

    /// Everything in this module that determines the layer.
    fn inputs(&self) -> String {
        format!("{:?}\n{} {} {}\n{INSTALL}{FINISH}", self.packages, self.user, self.number, self.home)
    }

    /// Installs the packages on the base, and packs the result.
    fn make(&self, folder: &Path, layer: &Path) -> Result<(), ImageError> {
        let base = base(folder)?;
        // A container gets its own of these directories.
        let without = ["--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./run/*"];
        let root = tempfile::tempdir_in(folder).map_err(in_file(folder))?;
        let pack = packing(root.path(), layer, &["."], &without);
        let mut command = in_memory(root.path(), EXTEND, &pack);
        command
            .env("BASE", base)
            .env("INSTALL", INSTALL)
            .env("FINISH", FINISH)
            .env("PACKAGES", self.packages.join(" "));
        let number = self.number.to_string();
        Ok(run(command.env("NAME", self.user).env("NUMBER", number).env("PLACE", self.home))?)
    }
}

/// The smallest Debian of this machine's release, packed. All images are based on it.
fn base(folder: &Path) -> Result<PathBuf, ImageError> {
    let release = fs::read_to_string("/etc/os-release").map_err(in_file(Path::new("/etc/os-release")))?;
    let codename = codename(&release).ok_or(ImageError::NoSource)?;
    let packed = folder.join(format!("{codename}.tar"));
    if packed.exists() {
        return Ok(packed);
    }
    let mut sources = sources()?;
    sources.retain(|source| source.component == "main" && source.suite.starts_with(codename));
    let main = sources.iter().find(|source| source.suite == codename).ok_or(ImageError::NoSource)?;
    let list = sources.iter().map(|source| format!("deb {} {} {}\n", source.mirror, source.suite, source.component));

    let part = packed.with_extension("part");
    let root = tempfile::tempdir_in(folder).map_err(in_file(folder))?;
    let mut command = in_memory(root.path(), BOOTSTRAP, &packing(root.path(), &part, &["."], &[]));
    command.env("CODENAME", codename).env("MIRROR", &main.mirror).env("SOURCES", list.collect::<String>());
    run(&mut command)?;
    fs::rename(&part, &packed).map_err(in_file(&packed))?;
    Ok(packed)
}

/// A script that makes a system in `root`, followed by the command that packs it. The system is in memory, and mounted
/// only for the script: dpkg syncs every file to the disk, which takes minutes, and no mount is left behind.
fn in_memory(root: &Path, script: &str, pack: &Command) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", script, "sh"]).arg(pack.get_program()).args(pack.get_args());
    // The new system lacks the machine's locale, and the machine's PATH may not contain the new system's programs.
    command.env("LC_ALL", "C.UTF-8").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("ROOT", root);
    command
}

/// The package sources this machine uses.
fn sources() -> Result<Vec<Source>, ImageError> {
    let format = "$(REPO_URI)|$(CODENAME)|$(COMPONENT)";
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", format, "Created-By: Packages"]);
    let output = command.output().map_err(in_file(Path::new("apt-get")))?;
    Ok(parse_sources(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_sources(lines: &str) -> Vec<Source> {
    let parse = |line: &str| {
        let mut parts = line.split('|').map(str::to_owned);
        Some(Source { mirror: parts.next()?, suite: parts.next()?, component: parts.next()? })
    };
    lines.lines().filter_map(parse).collect()
}

fn codename(release: &str) -> Option<&str> {
    release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(|name| name.trim_matches('"'))
}

/// Packs the operator's program, and the one that pods run, as the layer on top of its Debian.
pub(crate) fn program_layer(program: &Path, output: &Path) -> Result<(), ImageError> {
    use std::os::unix::fs::PermissionsExt;
    let parent = output.parent().unwrap_or(Path::new("."));
    let folder = tempfile::tempdir_in(parent).map_err(in_file(parent))?;
    let place = folder.path().join("usr/local/bin");
    fs::create_dir_all(&place).map_err(in_file(&place))?;
    let in_pods = program.with_file_name("landfall-workspace");
    for (from, name) in [(program, "landfall"), (&in_pods, "landfall-workspace")] {
        let copied = place.join(name);
        fs::copy(from, &copied).map_err(in_file(from))?;
        fs::set_permissions(&copied, fs::Permissions::from_mode(0o755)).map_err(in_file(&copied))?;
    }
    pack(
        folder.path(),
        output,
        &["usr/local/bin/landfall", "usr/local/bin/landfall-workspace"],
        &["--owner=0", "--group=0"],
    )
}

/// Packs a symbolic link as a layer of its own.
pub(crate) fn link_layer(link: &str, target: &str, output: &Path) -> Result<(), ImageError> {
    let parent = output.parent().unwrap_or(Path::new("."));
    let folder = tempfile::tempdir_in(parent).map_err(in_file(parent))?;
    let place = folder.path().join(link);
    let above = place.parent().unwrap_or(folder.path());
    fs::create_dir_all(above).map_err(in_file(above))?;
    std::os::unix::fs::symlink(target, &place).map_err(in_file(&place))?;
    pack(folder.path(), output, &[link], &["--owner=0", "--group=0"])
}

/// Makes a system with one program, which contains a shell and all its commands.
const BUSYBOX: &str = r#"
set -eu
cd "$ROOT"
apt-get -qq download busybox-static >&2
dpkg-deb --extract busybox-static_*.deb package
mkdir bin etc root tmp
chmod 1777 tmp
mv package/bin/busybox bin/
for command in $(bin/busybox --list); do
  [ "$command" = busybox ] || ln -s busybox "bin/$command"
done
printf 'root:x:0:0::/root:/bin/sh\n' > etc/passwd
exec "$@"
"#;

/// The layer of a system with only busybox, from the cache or built now.
pub(crate) fn busybox_layer(cache: &Cache) -> Result<PathBuf, ImageError> {
    let folder = cache.images();
    fs::create_dir_all(&folder).map_err(in_file(&folder))?;
    let (layer, record) = (folder.join("busybox-root.tar"), folder.join("busybox-root.inputs"));
    if layer.exists() && fs::read_to_string(&record).is_ok_and(|kept| kept == BUSYBOX) {
        return Ok(layer);
    }
    let root = tempfile::tempdir_in(&folder).map_err(in_file(&folder))?;
    let part = layer.with_extension("part");
    let pack = packing(root.path(), &part, &["bin", "etc", "root", "tmp"], &["--owner=0", "--group=0"]);
    let mut command = Command::new("sh");
    command.args(["-c", BUSYBOX, "sh"]).arg(pack.get_program()).args(pack.get_args());
    run(command.env("LC_ALL", "C.UTF-8").env("ROOT", root.path()))?;
    fs::rename(&part, &layer).map_err(in_file(&layer))?;
    fs::write(&record, BUSYBOX).map_err(in_file(&record))?;
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_release_are_read() {
        let source = |mirror: &str, suite: &str| Source {
            mirror: mirror.to_owned(),
            suite: suite.to_owned(),
            component: "main".to_owned(),
        };
        let lines = "http://a/debian/|bookworm|main\nhttp://b/security/|bookworm-security|main\nnothing\n";
        assert_eq!(
            parse_sources(lines),
            [source("http://a/debian/", "bookworm"), source("http://b/security/", "bookworm-security")]
        );
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("ID=arch\n"), None);
    }
}
