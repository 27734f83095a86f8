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
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::client::Meter;
use crate::exit::Failure;

const PIECE: usize = 256 << 10;

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

/// What is told of a file that cannot be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot read {}: {error}", path.display()))
}

/// One reading of a source.
pub(super) struct Upload {
    /// Of stdin nobody knows.
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

/// Why a body broke off, when it did so on this side.
pub(super) type Fault = Arc<Mutex<Option<String>>>;

impl Upload {
    pub(super) async fn open(source: &Source) -> Result<Self, Failure> {
        let Source::File(path) = source else {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(Failure::failed)?;
            return Ok(Self { size: None, input: Input::Stdin(File::from_std(stdin.into())) });
        };
        let opened = async {
            let file = File::open(path).await?;
            let before = state(&file).await?;
            Ok((file, before))
        };
        let (file, before) = opened.await.map_err(|error| unreadable(path, &error))?;
        let input = FileInput { file, path: path.clone(), left: before.0, before };
        Ok(Self { size: Some(before.0), input: Input::File(Box::new(input)) })
    }

    /// The body. Each piece is counted when it is given away.
    pub(super) fn body(self, meter: Meter, moved: impl Fn(u64) + Send + Sync + 'static) -> (Body, Fault) {
        let fault = Fault::default();
        if self.size == Some(0) {
            return (Body::from(Bytes::new()), fault);
        }
        let told = fault.clone();
        let pieces = stream::try_unfold((self.input, moved), move |(mut input, moved)| {
            let (told, meter) = (told.clone(), meter.clone());
            async move {
                match input.next().await {
                    Ok(piece) if piece.is_empty() => Ok(None),
                    Ok(piece) => {
                        meter.add(piece.len());
                        moved(piece.len() as u64);
                        Ok(Some((piece, (input, moved))))
                    }
                    Err(error) => {
                        *told.lock() = Some(error.to_string());
                        Err(error)
                    }
                }
            }
        });
        (Body::wrap_stream(pieces), fault)
    }
}

impl Input {
    /// Empty at the end.
    async fn next(&mut self) -> io::Result<Bytes> {
        match self {
            Self::Stdin(stdin) => read(stdin, PIECE).await,
            Self::File(input) => input.next().await,
        }
    }
}

impl FileInput {
    async fn next(&mut self) -> io::Result<Bytes> {
        if self.left == 0 {
            return Ok(Bytes::new());
        }
        let most = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        let piece = read(&mut self.file, most).await?;
        self.left = self.left.saturating_sub(piece.len() as u64);
        // The last bytes stay here until the file was looked at again: without them nothing is published.
        if piece.is_empty() || (self.left == 0 && state(&self.file).await? != self.before) {
            let message = format!("{} changed while it was read; nothing was stored", self.path.display());
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
        Upload::open(&Source::File(path.to_path_buf())).await.unwrap().input
    }

    #[tokio::test]
    async fn a_file_that_changes_while_it_is_read_never_ends_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let bytes = vec![7; PIECE + 5];
        for change in ["none", "grow", "shrink", "touch"] {
            std::fs::write(&path, &bytes).unwrap();
            let mut input = input(&path).await;
            assert_eq!(input.next().await.unwrap().len(), PIECE);
            let file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
            match change {
                "grow" => std::io::Write::write_all(&mut &file, b"more").unwrap(),
                "shrink" => file.set_len(PIECE as u64 + 1).unwrap(),
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
            assert!(error.to_string().contains("changed while it was read"), "{change}: {error}");
        }
    }

    #[tokio::test]
    async fn a_folder_is_no_body() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Upload::open(&Source::File(dir.path().to_path_buf())).await.is_err());
    }
}
