//! Bodies of uploads: read while they are sent, a piece at a time.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use parking_lot::Mutex;
use reqwest::Body;
use rustix::fs::OFlags;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::client::Meter;
use crate::exit::Failure;
use crate::files::flags;
use crate::limits::PUT_PIECE;

/// Where bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    File(PathBuf),
    Stdin,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdin => f.write_str("-"),
        }
    }
}

/// Returns the failure for a file that cannot be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::local(error, format!("cannot read {}: {error}", path.display()))
}

/// One reading of a source.
pub(super) struct Upload {
    /// Size in bytes. `None` for stdin.
    pub(super) size: Option<u64>,
    input: Input,
}

enum Input {
    File(Box<FileInput>),
    Stdin(File),
}

struct FileInput {
    file: File,
    path: PathBuf,
    left: u64,
    before: (u64, Option<SystemTime>),
}

/// How a body came to its end on this side. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Ended(Arc<Mutex<(bool, Option<String>)>>);

impl Ended {
    /// Returns true if the whole body was handed out.
    pub(super) fn is_whole(&self) -> bool {
        self.0.lock().0
    }

    /// Returns the reason why the body broke off.
    pub(super) fn fault(&self) -> Option<String> {
        self.0.lock().1.take()
    }
}

impl Upload {
    pub(super) async fn open(source: &Source) -> Result<Self, Failure> {
        let Source::File(path) = source else {
            let stdin = std::io::stdin()
                .as_fd()
                .try_clone_to_owned()
                .map_err(Failure::failed)?;
            return Ok(Self {
                size: None,
                input: Input::Stdin(File::from_std(stdin.into())),
            });
        };
        let opened = async {
            // A pipe would be waited for, perhaps for ever; ordinary files do not know the flag.
            let mut options = tokio::fs::OpenOptions::new();
            let file = options
                .read(true)
                .custom_flags(flags(OFlags::NONBLOCK))
                .open(path)
                .await?;
            let before = state(&file).await?;
            if before.0 == 0 {
                refuse_sizeless(&file).await?;
            }
            Ok((file, before))
        };
        let (file, before) = opened.await.map_err(|error| unreadable(path, &error))?;
        let input = FileInput {
            file,
            path: path.clone(),
            left: before.0,
            before,
        };
        Ok(Self {
            size: Some(before.0),
            input: Input::File(Box::new(input)),
        })
    }

    /// Returns the body. Each piece is counted when it is handed out.
    pub(super) fn body(
        self,
        meter: Meter,
        moved: impl Fn(u64) + Send + Sync + 'static,
    ) -> (Body, Ended) {
        let (ended, size) = (Ended::default(), self.size);
        if size == Some(0) {
            ended.0.lock().0 = true;
            return (Body::from(Bytes::new()), ended);
        }
        let told = ended.clone();
        let pieces = stream::try_unfold((self.input, moved), move |(mut input, moved)| {
            let (told, meter) = (told.clone(), meter.clone());
            async move {
                match input.next().await {
                    Ok(piece) if piece.is_empty() => {
                        told.0.lock().0 = true;
                        Ok(None)
                    }
                    Ok(piece) => {
                        meter.add(piece.len());
                        if size == Some(meter.total()) {
                            // Nobody asks for more than the length that was said.
                            told.0.lock().0 = true;
                        }
                        moved(piece.len() as u64);
                        Ok(Some((piece, (input, moved))))
                    }
                    Err(error) => {
                        told.0.lock().1 = Some(error.to_string());
                        Err(error)
                    }
                }
            }
        });
        (Body::wrap_stream(pieces), ended)
    }
}

impl Input {
    /// Returns the next piece; empty at the end.
    async fn next(&mut self) -> io::Result<Bytes> {
        match self {
            Self::Stdin(stdin) => read(stdin, PUT_PIECE).await,
            Self::File(input) => input.next().await,
        }
    }
}

impl FileInput {
    async fn next(&mut self) -> io::Result<Bytes> {
        if self.left == 0 {
            return Ok(Bytes::new());
        }
        let most = usize::try_from(self.left)
            .unwrap_or(PUT_PIECE)
            .min(PUT_PIECE);
        let piece = read(&mut self.file, most).await?;
        self.left = self.left.saturating_sub(piece.len() as u64);
        // The last bytes stay here until the file was looked at again: without them nothing is
        // published.
        if piece.is_empty() || (self.left == 0 && state(&self.file).await? != self.before) {
            let message = format!(
                "{} changed while it was read; nothing was stored",
                self.path.display()
            );
            return Err(io::Error::other(message));
        }
        Ok(piece)
    }
}

async fn read(input: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Bytes> {
    let mut piece = BytesMut::with_capacity(most);
    input.take(most as u64).read_buf(&mut piece).await?;
    Ok(piece.freeze())
}

/// Files of `/proc` and `/sys` say that they are empty, and are made while they are read.
async fn refuse_sizeless(file: &File) -> io::Result<()> {
    let mut file = file.try_clone().await?;
    if file.read(&mut [0]).await? > 0 {
        let message =
            "it says that it is empty, and is not; `put - NAME` takes what comes out of it";
        return Err(io::Error::other(message));
    }
    Ok(())
}

async fn state(file: &File) -> io::Result<(u64, Option<SystemTime>)> {
    let metadata = file.metadata().await?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no ordinary file"));
    }
    Ok((metadata.len(), metadata.modified().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn input(path: &Path) -> Input {
        Upload::open(&Source::File(path.to_path_buf()))
            .await
            .unwrap()
            .input
    }

    #[tokio::test]
    async fn a_file_that_changes_while_it_is_read_never_ends_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let bytes = vec![7; PUT_PIECE + 5];
        for change in ["none", "grow", "shrink", "touch"] {
            std::fs::write(&path, &bytes).unwrap();
            let mut input = input(&path).await;
            assert_eq!(input.next().await.unwrap().len(), PUT_PIECE);
            let file = std::fs::OpenOptions::new()
                .append(true)
                .open(&path)
                .unwrap();
            match change {
                "grow" => std::io::Write::write_all(&mut &file, b"more").unwrap(),
                "shrink" => file.set_len(PUT_PIECE as u64 + 1).unwrap(),
                "touch" => file.set_modified(SystemTime::UNIX_EPOCH).unwrap(),
                _ => {
                    assert_eq!(input.next().await.unwrap().len(), 5);
                    assert!(input.next().await.unwrap().is_empty());
                    continue;
                }
            }
            let error = loop {
                match input.next().await {
                    Ok(piece) => assert!(!piece.is_empty(), "{change}: it ended well"),
                    Err(error) => break error,
                }
            };
            assert!(
                error.to_string().contains("changed while it was read"),
                "{change}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_ordinary_file_is_no_body_and_is_not_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        for path in [dir.path(), &pipe, Path::new("/dev/zero")] {
            let error = Upload::open(&Source::File(path.to_path_buf()))
                .await
                .err()
                .unwrap();
            assert!(error.to_string().contains("no ordinary file"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_that_only_says_it_is_empty_is_not_stored_as_nothing() {
        let path = Path::new("/proc/self/status");
        let error = Upload::open(&Source::File(path.to_path_buf()))
            .await
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("says that it is empty"),
            "{error}"
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        std::fs::write(&path, "").unwrap();
        assert_eq!(
            Upload::open(&Source::File(path)).await.unwrap().size,
            Some(0)
        );
    }
}
