//! Files of the operating system.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::ReadWriteFlags;

use super::{Disk, DiskFile, FolderReader, FsRoom, LockGuard};
use crate::limits::MAX_WRITE_BUFFERS;

/// A folder of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    /// The folder itself, open for as long as the disk is: a sync of it MUST NOT fail for lack of a
    /// descriptor, because a failed sync is final.
    folder: File,
}

impl RealDisk {
    /// Opens a folder, which is made when it is not there: durable, and for its owner only.
    ///
    /// # Errors
    /// The system's.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Arc<dyn Disk>> {
        let root = root.into();
        make_folder(&root)?;
        Ok(Arc::new(Self::new(root)?))
    }

    /// Opens a folder like [`Self::open`], and closes it to others if an earlier program left it open
    /// to them. One that cannot be closed is used as it is, with a warning.
    ///
    /// # Errors
    /// The system's.
    pub fn open_private(root: impl Into<PathBuf>) -> io::Result<Arc<dyn Disk>> {
        let root = root.into();
        make_folder(&root)?;
        let disk = Self::new(root)?;
        let mode = disk.folder.metadata()?.permissions().mode() & 0o777;
        let restricted = || {
            disk.folder
                .set_permissions(Permissions::from_mode(OWNER_ONLY))
        };
        if mode != OWNER_ONLY
            && let Err(error) = restricted()
        {
            tracing::warn!(folder = %disk.root.display(), %error, "others may be able to read the folder");
        }
        Ok(Arc::new(disk))
    }

    fn new(root: PathBuf) -> io::Result<Self> {
        let folder = File::open(&root)?;
        Ok(Self { root, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

/// File systems that overwrite blocks in place: ext2 to ext4, XFS (`f_type` of statfs(2)).
const IN_PLACE: [i64; 2] = [0xEF53, 0x5846_5342];
/// Unit of `st_blocks` in bytes (POSIX `stat`, as Linux counts).
const SECTOR: u64 = 512;
/// Mode of a folder that only its owner may read.
const OWNER_ONLY: u32 = 0o700;

/// Makes a folder and those above it that are missing. When it returns their names are durable.
fn make_folder(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| Path::new("."));
    make_folder(parent)?;
    match DirBuilder::new().mode(OWNER_ONLY).create(path) {
        Ok(()) => File::open(parent)?.sync_all(),
        // Another process was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

impl Disk for RealDisk {
    fn room(&self) -> io::Result<Option<FsRoom>> {
        let found = rustix::fs::fstatvfs(&self.folder)?;
        let unit = found.f_frsize;
        Ok(Some(FsRoom {
            free: found.f_bavail.saturating_mul(unit),
            total: found.f_blocks.saturating_mul(unit),
        }))
    }

    fn file_system(&self) -> Option<u64> {
        Some(self.folder.metadata().ok()?.dev())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        if let Err(error) = reserve(&file, len) {
            // Half a reservation must not stay behind and eat the room that was missing.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Arc::new(RealFile { file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path(name);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            // The contents say what is to be done with a disk that takes no writes.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(&path)?,
            opened => opened?,
        };
        Ok(Arc::new(RealFile { file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.root)?;
        names
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.folder.sync_all()
    }

    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let root = self.path(name);
        match DirBuilder::new().mode(OWNER_ONLY).create(&root) {
            Ok(()) => self.sync_dir()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(Arc::new(Self::new(root)?))
    }

    fn for_reads(&self) -> Option<Arc<dyn Disk>> {
        Some(FolderReader::of(&self.root))
    }

    fn takes_real_time(&self) -> bool {
        true
    }

    fn lock(&self, name: &str) -> io::Result<LockGuard> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path(name))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(LockGuard::new(file))
    }
}

fn reserve(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(len),
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn has_name(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() > 0)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// Asks the page cache only (RWF_NOWAIT of preadv2(2)).
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> bool {
        let len = buf.len();
        let mut bufs = [IoSliceMut::new(buf)];
        let read = rustix::io::preadv2(&self.file, &mut bufs, offset, ReadWriteFlags::NOWAIT);
        // An error is found again by a read that waits.
        read.is_ok_and(|read| read == len)
    }

    fn write_all_vectored_at(&self, bufs: &[Bytes], mut offset: u64) -> io::Result<()> {
        for chunk in bufs.chunks(MAX_WRITE_BUFFERS) {
            let mut slices: Vec<IoSlice<'_>> = chunk.iter().map(|buf| IoSlice::new(buf)).collect();
            let mut rest: &mut [IoSlice<'_>] = &mut slices;
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                match rustix::io::pwritev(&self.file, rest, offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        offset += written as u64;
                        IoSlice::advance_slices(&mut rest, written);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    /// Returns true on a file system of [`IN_PLACE`] if the file has no holes.
    fn is_overwritten_in_place(&self) -> io::Result<bool> {
        let kind = rustix::fs::fstatfs(&self.file)?.f_type;
        let metadata = self.file.metadata()?;
        let is_allocated = metadata.blocks() * SECTOR >= metadata.len();
        Ok(is_allocated
            && IN_PLACE
                .iter()
                .any(|known| i128::from(*known) == i128::from(kind)))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_and_empty_buffers_are_written_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let file = disk.create("a", 10_000).unwrap();
        let bufs: Vec<Bytes> = (0..3_000u32)
            .map(|n| Bytes::from(vec![n as u8; (n % 3) as usize]))
            .collect();
        file.write_all_vectored_at(&bufs, 7).unwrap();
        let expected = bufs.concat();
        let mut found = vec![0; expected.len()];
        file.read_exact_at(&mut found, 7).unwrap();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_is_overwritten_in_place_unless_it_has_holes() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let file = disk.create("a", 1 << 20).unwrap();
        if !file.is_overwritten_in_place().unwrap() {
            println!("SKIP: this file system does not allocate space, or copies on write");
            return;
        }
        file.set_len(2 << 20).unwrap();
        assert!(!file.is_overwritten_in_place().unwrap());
    }

    #[test]
    fn folders_are_made_for_their_owner_only_and_older_ones_are_closed() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let root = dir.path().join("a").join("b");
        let disk = RealDisk::open(&root).unwrap();
        disk.subdir("c").unwrap();
        for path in [dir.path().join("a"), root.clone(), root.join("c")] {
            assert_eq!(mode(&path), OWNER_ONLY, "{}", path.display());
        }
        std::fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
        RealDisk::open(&root).unwrap();
        assert_eq!(mode(&root), 0o755);
        RealDisk::open_private(&root).unwrap();
        assert_eq!(mode(&root), OWNER_ONLY);
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let held = disk.lock("LOCK").unwrap();
        assert_eq!(
            disk.lock("LOCK").unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(held);
        disk.lock("LOCK").unwrap();
    }
}
