//! Writes OCI images without an engine: an image layout in a tar, according to the OCI image specification, from layers
//! that are tars already.
//!
//! The same layers and configuration give the same bytes, so an image's digest shows whether anything changed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::command::{CommandError, run};
use crate::debian;
use crate::tools::MissingTools;

/// The reason why an image cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file cannot be read or written.
    #[error("{} could not be used to make an image", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The user is not permitted to make a system.
    #[error("making an image's Debian takes root, for chroot: run it with sudo, or use the Dockerfile with an engine")]
    NotRoot,
    /// The machine has no package sources of its own release.
    #[error(
        "apt knows no source of this machine's release: run it on Debian after `apt-get update`, or use the Dockerfile"
    )]
    NoSource,
    /// The machine lacks tools.
    #[error(transparent)]
    Tools(#[from] MissingTools),
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// The input of an image.
pub(crate) struct Image<'a> {
    /// Its reference with registry and tag, as the node's store names it.
    pub(crate) name: &'a str,
    /// The tars of its layers, the lowest first.
    pub(crate) layers: &'a [PathBuf],
    /// The configuration of its containers: the specification's `config`.
    pub(crate) config: Value,
}

struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": format!("application/vnd.oci.image.{media_type}"), "digest": self.digest, "size": self.size})
    }
}

/// Writes an image as a tar.
pub(crate) fn write(image: &Image<'_>, output: &Path) -> Result<(), ImageError> {
    let parent = output.parent().unwrap_or(Path::new("."));
    let layout = tempfile::tempdir_in(parent).map_err(in_file(parent))?;
    let blobs = layout.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(in_file(&blobs))?;

    let layers = image.layers.iter().map(|layer| add_file(&blobs, layer)).collect::<Result<Vec<_>, _>>()?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": image.config,
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| &layer.digest).collect::<Vec<_>>()},
    });
    let config = add(&blobs, &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("config.v1+json"),
        "layers": layers.iter().map(|layer| layer.descriptor("layer.v1.tar")).collect::<Vec<_>>(),
    });
    let mut manifest = add(&blobs, &manifest)?.descriptor("manifest.v1+json");
    manifest["annotations"] = json!({"io.containerd.image.name": image.name});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    for (name, content) in [("index.json", index), ("oci-layout", json!({"imageLayoutVersion": "1.0.0"}))] {
        let path = layout.path().join(name);
        fs::write(&path, content.to_string()).map_err(in_file(&path))?;
    }
    let part = output.with_extension("part");
    pack(layout.path(), &part, &["blobs", "index.json", "oci-layout"], &[])?;
    fs::rename(&part, output).map_err(in_file(output))
}

/// Packs entries of a folder as a layer.
pub(crate) fn pack(folder: &Path, output: &Path, entries: &[&str], options: &[&str]) -> Result<(), ImageError> {
    Ok(run(&mut packing(folder, output, entries, options))?)
}

/// The command that packs entries of a folder as a layer: sorted, without times, with numeric owners.
pub(crate) fn packing(folder: &Path, output: &Path, entries: &[&str], options: &[&str]) -> Command {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--mtime=@0", "--numeric-owner", "--format=gnu", "--file"]).arg(output);
    tar.args(options).arg("--directory").arg(folder).args(entries);
    tar
}

/// The image of a pod's first container, which only waits.
pub(crate) fn write_pause(name: &str, folder: &Path, output: &Path) -> Result<(), ImageError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/pause/pause.c");
    run(Command::new("cc").args(["-static", "-Os", "-s", "-o"]).arg(folder.join("pause")).arg(source))?;
    let layer = folder.join("pause-layer.tar");
    pack(folder, &layer, &["pause"], &["--owner=0", "--group=0"])?;
    let config = json!({"Entrypoint": ["/pause"], "User": "65535:65535"});
    write(&Image { name, layers: &[layer], config }, output)
}

/// The operator's image: its program on Debian with git, with a user that is not root.
pub fn write_operator(cache: &Cache, name: &str, program: &Path, output: &Path) -> Result<(), ImageError> {
    let root = debian::OPERATOR.layer(cache)?;
    let layer = cache.images().join("operator-program.tar");
    debian::program_layer(program, &layer)?;
    let config = json!({
        "User": "65532:65532",
        "Entrypoint": ["/usr/local/bin/landfall"],
        "Env": [PATH, "HOME=/tmp"],
        "WorkingDir": "/",
    });
    write(&Image { name, layers: &[root, layer], config }, output)
}

/// The workspaces' image: git, gh, ssh, editors. Its `gh` is a link to the one that a workspace's pod may mount, which
/// reads the workspace's token.
pub fn write_workspace(cache: &Cache, name: &str, output: &Path) -> Result<(), ImageError> {
    let root = debian::WORKSPACE.layer(cache)?;
    let layer = cache.images().join("workspace-tools.tar");
    debian::link_layer("usr/local/bin/gh", "/run/landfall/tools/gh", &layer)?;
    let config = json!({
        "User": "1000:1000",
        "Cmd": ["/bin/bash"],
        "Env": [PATH, "HOME=/home/dev", "LANG=C.UTF-8"],
        "WorkingDir": "/home/dev",
    });
    write(&Image { name, layers: &[root, layer], config }, output)
}

/// An image without any knowledge of Landfall: a shell and its commands, no git, and root as its user.
pub fn write_plain(cache: &Cache, name: &str, output: &Path) -> Result<(), ImageError> {
    let layer = debian::busybox_layer(cache)?;
    let config = json!({"User": "0:0", "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]});
    write(&Image { name, layers: &[layer], config }, output)
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn add(blobs: &Path, content: &Value) -> Result<Blob, ImageError> {
    let text = content.to_string();
    let hash = hex::encode(digest::digest(&digest::SHA256, text.as_bytes()));
    let path = blobs.join(&hash);
    fs::write(&path, &text).map_err(in_file(&path))?;
    Ok(Blob { digest: format!("sha256:{hash}"), size: text.len() as u64 })
}

fn add_file(blobs: &Path, file: &Path) -> Result<Blob, ImageError> {
    let (hash, size) = hash(file).map_err(in_file(file))?;
    let path = blobs.join(&hash);
    // A hard link if the file system permits it, else a copy.
    fs::hard_link(file, &path).or_else(|_| fs::copy(file, &path).map(drop)).map_err(in_file(&path))?;
    Ok(Blob { digest: format!("sha256:{hash}"), size })
}

fn hash(file: &Path) -> io::Result<(String, u64)> {
    let (mut file, mut context) = (File::open(file)?, digest::Context::new(&digest::SHA256));
    let (mut buffer, mut size) = (vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hex::encode(context.finish()), size)),
            read => {
                context.update(&buffer[..read]);
                size += read as u64;
            }
        }
    }
}

/// The machine's architecture in Go's terms, which OCI uses.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) fn in_file(path: &Path) -> impl FnOnce(io::Error) -> ImageError + use<> {
    let path = path.to_owned();
    move |source| ImageError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(folder: &Path, output: &str) -> Vec<u8> {
        let layer = folder.join("layer.tar");
        fs::write(folder.join("file"), "content").unwrap();
        pack(folder, &layer, &["file"], &[]).unwrap();
        let output = folder.join(output);
        let image = Image { name: "localhost/a:b", layers: &[layer], config: json!({"Cmd": ["/file"]}) };
        write(&image, &output).unwrap();
        fs::read(output).unwrap()
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(image(folder.path(), "one.tar"), image(folder.path(), "two.tar"));
    }

    #[test]
    fn every_descriptor_leads_to_what_it_describes() {
        let folder = tempfile::tempdir().unwrap();
        image(folder.path(), "image.tar");
        let layout = folder.path().join("layout");
        fs::create_dir(&layout).unwrap();
        run(Command::new("tar").arg("-xf").arg(folder.path().join("image.tar")).arg("-C").arg(&layout)).unwrap();
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let path = layout.join("blobs/sha256").join(digest);
            assert_eq!(hash(&path).unwrap(), (digest.to_owned(), descriptor["size"].as_u64().unwrap()));
            fs::read(path).unwrap()
        };
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "localhost/a:b");
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(blob(&manifest["layers"][0]), fs::read(folder.path().join("layer.tar")).unwrap());
    }
}
