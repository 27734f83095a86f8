//! A decorator for disks of tests: a hook sees every call before the disk does, and may hold it,
//! note it or fail it.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::{Disk, DiskFile, FsRoom, LockGuard, Verb};

/// Bound of every wait on a [`Gate`]. Only a test that hangs meets it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A function that is called before each call to the disk. The call fails with its error.
pub type Hook = Arc<dyn Fn(Verb) -> io::Result<()> + Send + Sync>;

/// A disk, or a file of it, whose calls pass a hook.
#[derive(Clone)]
pub struct HookedDisk<T = Arc<dyn Disk>> {
    inner: T,
    hook: Hook,
}

impl<T: Debug> Debug for HookedDisk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HookedDisk").field(&self.inner).finish()
    }
}

impl HookedDisk {
    /// Decorates a disk.
    pub fn with_hook(
        inner: impl Disk + 'static,
        hook: impl Fn(Verb) -> io::Result<()> + Send + Sync + 'static,
    ) -> Arc<dyn Disk> {
        Arc::new(Self {
            inner: Arc::new(inner) as Arc<dyn Disk>,
            hook: Arc::new(hook),
        })
    }

    /// Decorates a disk whose calls pass a gate.
    pub fn gated(inner: impl Disk + 'static, gate: &Arc<Gate>) -> Arc<dyn Disk> {
        let gate = gate.clone();
        Self::with_hook(inner, move |verb| gate.pass(verb))
    }

    fn file(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(HookedDisk {
            inner,
            hook: self.hook.clone(),
        })
    }
}

impl Disk for HookedDisk {
    fn room(&self) -> io::Result<Option<FsRoom>> {
        self.inner.room()
    }

    fn file_system(&self) -> Option<u64> {
        self.inner.file_system()
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        (self.hook)(Verb::Create)?;
        Ok(self.file(self.inner.create(name, len)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.inner.open(name)?))
    }

    fn for_reads(&self) -> Option<Arc<dyn Disk>> {
        Some(Arc::new(Self {
            inner: self.inner.for_reads()?,
            hook: self.hook.clone(),
        }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        (self.hook)(Verb::Name)?;
        self.inner.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (self.hook)(Verb::Name)?;
        self.inner.rename(from, to)
    }

    fn sync_dir(&self) -> io::Result<()> {
        (self.hook)(Verb::SyncDir)?;
        self.inner.sync_dir()
    }

    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(Self {
            inner: self.inner.subdir(name)?,
            hook: self.hook.clone(),
        }))
    }

    fn lock(&self, name: &str) -> io::Result<LockGuard> {
        self.inner.lock(name)
    }

    fn has_one_thread(&self) -> bool {
        self.inner.has_one_thread()
    }

    fn holds_commits(&self) -> bool {
        self.inner.holds_commits()
    }
}

impl DiskFile for HookedDisk<Arc<dyn DiskFile>> {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (self.hook)(Verb::Read)?;
        self.inner.read_exact_at(buf, offset)
    }

    fn write_all_vectored_at(&self, bufs: &[Bytes], offset: u64) -> io::Result<()> {
        (self.hook)(Verb::Write)?;
        self.inner.write_all_vectored_at(bufs, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        (self.hook)(Verb::Write)?;
        self.inner.set_len(len)
    }

    fn is_overwritten_in_place(&self) -> io::Result<bool> {
        self.inner.is_overwritten_in_place()
    }

    fn sync_data(&self) -> io::Result<()> {
        (self.hook)(Verb::Sync)?;
        self.inner.sync_data()
    }
}

/// Holds calls of the verbs for which it is closed.
#[derive(Debug, Default)]
pub struct Gate {
    verbs: Mutex<HashMap<Verb, VerbState>>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, Default)]
struct VerbState {
    is_closed: bool,
    /// Calls that are held now.
    held: usize,
    /// Calls that may pass although it is closed.
    passes: usize,
}

impl Gate {
    /// Holds calls of `verb` from now on.
    pub fn close(&self, verb: Verb) {
        self.verbs.lock().entry(verb).or_default().is_closed = true;
    }

    /// Lets calls of `verb` pass, also those that are held.
    pub fn open(&self, verb: Verb) {
        self.verbs.lock().entry(verb).or_default().is_closed = false;
        self.changed.notify_all();
    }

    /// Lets one call of `verb` pass and stays closed.
    pub fn pass_one(&self, verb: Verb) {
        self.verbs.lock().entry(verb).or_default().passes += 1;
        self.changed.notify_all();
    }

    /// Returns true if a call of `verb` is held now.
    pub fn holds(&self, verb: Verb) -> bool {
        self.verbs
            .lock()
            .get(&verb)
            .is_some_and(|state| state.held > 0)
    }

    /// Blocks the thread until a call of `verb` is held.
    ///
    /// # Panics
    /// If none comes within two minutes.
    pub fn await_held(&self, verb: Verb) {
        let mut verbs = self.verbs.lock();
        let is_free =
            |verbs: &mut HashMap<Verb, VerbState>| verbs.entry(verb).or_default().held == 0;
        let waited = self.changed.wait_while_for(&mut verbs, is_free, PATIENCE);
        assert!(!waited.timed_out(), "no {verb:?} came within {PATIENCE:?}");
    }

    fn pass(&self, verb: Verb) -> io::Result<()> {
        let mut verbs = self.verbs.lock();
        if !verbs.entry(verb).or_default().is_closed {
            return Ok(());
        }
        verbs.entry(verb).or_default().held += 1;
        self.changed.notify_all();
        let is_held = |verbs: &mut HashMap<Verb, VerbState>| {
            let state = verbs.entry(verb).or_default();
            state.is_closed && state.passes == 0
        };
        let waited = self.changed.wait_while_for(&mut verbs, is_held, PATIENCE);
        let state = verbs.entry(verb).or_default();
        state.held -= 1;
        state.passes = state.passes.saturating_sub(1);
        if waited.timed_out() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(())
        }
    }
}
