//! Small file systems for tests of disks that are full or take no writes.

use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Largest write of [`SmallFs::fill_from_outside`] and the smallest one, with which it ends.
const FILL_UNITS: [usize; 2] = [1 << 20, 4 << 10];

/// Kind of a small file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    /// In memory.
    Tmpfs,
    /// ext4 in a file, mounted by a loop device.
    Ext4,
}

impl Display for FsKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
        })
    }
}

/// A small file system, mounted on a temporary folder until it is dropped.
#[derive(Debug)]
pub struct SmallFs {
    mount: tempfile::TempDir,
    /// Folder of the image of ext4.
    _image: Option<tempfile::TempDir>,
}

impl SmallFs {
    /// Makes and mounts a file system of `mib` MiB.
    ///
    /// # Errors
    /// The message of the command that failed, as where mounts are not allowed.
    pub fn mount(kind: FsKind, mib: u64) -> Result<Self, String> {
        let mount = tempfile::tempdir().unwrap();
        let image = match kind {
            FsKind::Tmpfs => {
                let size = format!("size={mib}m");
                run(Command::new("mount")
                    .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
                    .arg(mount.path()))?;
                None
            }
            FsKind::Ext4 => {
                let folder = tempfile::tempdir().unwrap();
                let image = folder.path().join("ext4");
                File::create(&image).unwrap().set_len(mib << 20).unwrap();
                run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
                run(Command::new("mount")
                    .args(["-o", "loop"])
                    .arg(&image)
                    .arg(mount.path()))?;
                Some(folder)
            }
        };
        Ok(Self {
            mount,
            _image: image,
        })
    }

    /// Returns the folder on which it is mounted.
    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Returns the bytes that are free for all.
    ///
    /// # Panics
    /// If the file system cannot be measured.
    pub fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(self.path()).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// Writes a file, as another program would, until `left` bytes are free. Blocks that ext4
    /// reserves for the superuser are not touched: few programs may.
    ///
    /// # Panics
    /// If the file cannot be made.
    pub fn fill_from_outside(&self, left: u64) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.others())
            .unwrap();
        for unit in FILL_UNITS {
            let zeros = vec![0; unit];
            while self.free() >= left + unit as u64 {
                // Room that is counted may be reserved until the sync.
                if file.write_all(&zeros).is_err() || file.sync_data().is_err() {
                    break;
                }
            }
        }
    }

    /// Removes the file of [`Self::fill_from_outside`].
    pub fn empty_from_outside(&self) {
        drop(std::fs::remove_file(self.others()));
    }

    /// Remounts the file system, read-only if `is_read_only`.
    ///
    /// # Errors
    /// The message of `mount`. The system refuses a read-only mount while a process has a file open for
    /// writing.
    pub fn remount(&self, is_read_only: bool) -> Result<(), String> {
        let option = match is_read_only {
            true => "remount,ro",
            false => "remount,rw",
        };
        run(Command::new("mount").args(["-o", option]).arg(self.path()))
    }

    fn others(&self) -> PathBuf {
        self.path().join("others")
    }
}

impl Drop for SmallFs {
    fn drop(&mut self) {
        drop(run(Command::new("umount").arg("-l").arg(self.mount.path())));
    }
}

/// Runs a command that must succeed.
fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{}: {error}", command.get_program().display())),
    }
}
