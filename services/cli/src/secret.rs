//! The secret of the cluster: a file that only its owner can read.
//!
//! Separate roles refuse to start without the file. `cstore serve` and `cstore dev` create it at
//! their first start, in the data folder.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cstore_node::Env;
use cstore_types::ClusterSecret;

use crate::limits::MAX_SECRET_FILE;

const VARIABLE: &str = "CSTORE_CLUSTER_SECRET_FILE";

/// Returns the path of the secret: `CSTORE_CLUSTER_SECRET_FILE`, or `cluster-secret` in `CSTORE_DATA_DIR`.
pub(crate) fn path(env: &mut Env<'_>) -> PathBuf {
    let data = env.path("CSTORE_DATA_DIR", "./data");
    env.optional_path(VARIABLE)
        .unwrap_or_else(|| data.join("cluster-secret"))
}

/// Reads the secret.
pub(crate) fn read(path: &Path) -> Result<ClusterSecret> {
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!(
            "there is no cluster secret at {}; set CSTORE_DATA_DIR or --data to the folder that has it, or {VARIABLE} to \
             the file that all nodes of the cluster share (`openssl rand -hex 32` makes its content; mode 0600)",
            path.display()
        ),
        _ => {
            anyhow::Error::new(error).context(format!("cannot read the cluster secret at {}", path.display()))
        }
    })?;
    let metadata = file
        .metadata()
        .with_context(|| format!("cannot read {}", path.display()))?;
    if !metadata.is_file() {
        bail!("the cluster secret at {} is not a file", path.display());
    }
    let mode = metadata.permissions().mode() & 0o777;
    // A group may read it, as with secrets that an orchestrator mounts; the world may not.
    if mode & 0o007 != 0 || mode & 0o020 != 0 {
        bail!(
            "the cluster secret at {} has mode {mode:03o}, so that others can use it; run: chmod 600 {}",
            path.display(),
            path.display()
        );
    }
    let mut text = String::new();
    file.take(MAX_SECRET_FILE)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    ClusterSecret::parse(&text)
        .with_context(|| format!("the cluster secret at {} cannot be used", path.display()))
}

/// Reads the secret, or makes it when there is none. It appears whole or not at all, and the first
/// of several processes wins.
pub(crate) fn read_or_generate(path: &Path) -> Result<ClusterSecret> {
    if !path
        .try_exists()
        .with_context(|| format!("cannot look for {}", path.display()))?
    {
        generate(path).map_err(|error| {
            let text = format!("cannot make a cluster secret at {}", path.display());
            match owner_hint(path, &error) {
                Some(hint) => error.context(format!("{text}; {hint}")),
                None => error.context(text),
            }
        })?;
    }
    read(path)
}

/// Returns how to make the folder of `path` writable, if that is what `error` is about.
fn owner_hint(path: &Path, error: &anyhow::Error) -> Option<String> {
    let kind = error.downcast_ref::<std::io::Error>()?.kind();
    if kind != ErrorKind::PermissionDenied {
        return None;
    }
    let user = rustix::process::geteuid();
    let folder = path.ancestors().skip(1).find(|folder| folder.is_dir())?;
    Some(format!(
        "this process runs as user {user}: run chown {user} {folder}, or start it as the owner of the folder",
        user = user.as_raw(),
        folder = folder.display(),
    ))
}

fn generate(path: &Path) -> Result<()> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(dir)?;
    let draft = dir.join(format!(".cluster-secret.{}", std::process::id()));
    let secret =
        ClusterSecret::generate().map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        writeln!(file, "{}", secret.expose())?;
        file.sync_all()?;
        match std::fs::hard_link(&draft, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    })();
    std::fs::remove_file(&draft).or_else(|error| {
        if error.kind() == ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })?;
    written?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_with_mode_0600_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/cluster-secret");
        let first = read_or_generate(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(read_or_generate(&path).unwrap().expose(), first.expose());
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no draft is left"
        );
    }

    #[test]
    fn a_missing_an_open_and_a_weak_secret_are_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster-secret");
        assert!(format!("{:#}", read(&path).unwrap_err()).contains(VARIABLE));
        std::fs::write(&path, "changeme").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("32 to 1024"));
        assert!(read(dir.path()).is_err());
    }
}
