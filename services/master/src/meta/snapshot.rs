//! A snapshot of all metadata: truncates the log, rebuilds the index, is the backup.
//!
//! ```text
//! magic "CSTORMS2" · position u64 · count u64 · count × (key length u32 · value length u32 · key · value) · CRC-32C u32
//! ```
//! Sorted by key; values as they stand in the index, with their version in front. Written beside the old one, synced,
//! renamed, and the folder synced: there is always one that is whole.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use super::{MetaError, Position};

const MAGIC: &[u8; 8] = b"CSTORMS2";
const NAME: &str = "snapshot.bin";
const MAX_ITEM: u32 = 1 << 20;

fn unavailable(error: std::io::Error) -> MetaError {
    MetaError::Unavailable(format!("snapshot: {error}"))
}

struct Checked<T> {
    inner: T,
    crc: u32,
}

impl<W: Write> Checked<W> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.inner.write_all(bytes)
    }
}

impl<R: Read> Checked<R> {
    fn get(&mut self, len: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.inner.read_exact(&mut bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes)
    }

    fn number<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.get(N)?);
        Ok(bytes)
    }
}

/// Writes all items as the snapshot of `position`.
pub(super) fn write(
    dir: &Path,
    position: Position,
    count: u64,
    items: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), MetaError>>,
) -> Result<(), MetaError> {
    let unfinished = dir.join("snapshot.new");
    let file = File::create(&unfinished).map_err(unavailable)?;
    let mut out = Checked { inner: BufWriter::new(file), crc: 0 };
    let mut head = MAGIC.to_vec();
    head.extend(position.to_le_bytes());
    head.extend(count.to_le_bytes());
    out.put(&head).map_err(unavailable)?;
    for item in items {
        let (key, value) = item?;
        let mut lengths = (key.len() as u32).to_le_bytes().to_vec();
        lengths.extend((value.len() as u32).to_le_bytes());
        for part in [&lengths, &key, &value] {
            out.put(part).map_err(unavailable)?;
        }
    }
    let crc = out.crc.to_le_bytes();
    out.inner.write_all(&crc).map_err(unavailable)?;
    let file = out.inner.into_inner().map_err(|error| unavailable(error.into_error()))?;
    file.sync_all().map_err(unavailable)?;
    std::fs::rename(&unfinished, dir.join(NAME)).map_err(unavailable)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(unavailable)
}

/// Position of the snapshot that is there, with its items handed to `take`; 0 when there is none.
pub(super) fn read(
    dir: &Path,
    take: &mut dyn FnMut(Vec<u8>, Vec<u8>) -> Result<(), MetaError>,
) -> Result<Position, MetaError> {
    let file = match File::open(dir.join(NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(unavailable(error)),
    };
    let damaged = |error: std::io::Error| MetaError::Damaged(format!("snapshot: {error}"));
    let mut input = Checked { inner: BufReader::new(file), crc: 0 };
    if input.number::<8>().map_err(damaged)? != *MAGIC {
        return Err(MetaError::Damaged("snapshot has another magic number".to_owned()));
    }
    let position = u64::from_le_bytes(input.number().map_err(damaged)?);
    let count = u64::from_le_bytes(input.number().map_err(damaged)?);
    for _ in 0..count {
        let key_len = u32::from_le_bytes(input.number().map_err(damaged)?);
        let value_len = u32::from_le_bytes(input.number().map_err(damaged)?);
        if key_len > MAX_ITEM || value_len > MAX_ITEM {
            return Err(MetaError::Damaged("snapshot has an item beyond 1 MiB".to_owned()));
        }
        let key = input.get(key_len as usize).map_err(damaged)?;
        take(key, input.get(value_len as usize).map_err(damaged)?)?;
    }
    let crc = input.crc;
    if u32::from_le_bytes(input.number().map_err(damaged)?) != crc {
        return Err(MetaError::Damaged("snapshot has a wrong checksum".to_owned()));
    }
    Ok(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_round_trips_and_any_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), &mut |_, _| Ok(())), Ok(0));
        let items = vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), vec![])];
        write(dir.path(), 7, 2, items.clone().into_iter().map(Ok)).unwrap();
        let mut found = Vec::new();
        let take = &mut |key, value| {
            found.push((key, value));
            Ok(())
        };
        assert_eq!(read(dir.path(), take), Ok(7));
        assert_eq!(found, items);
        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut copy = whole.clone();
            copy[at] ^= 1;
            std::fs::write(&path, &copy).unwrap();
            assert!(read(dir.path(), &mut |_, _| Ok(())).is_err(), "byte {at}");
        }
    }
}
