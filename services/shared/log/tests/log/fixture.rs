//! A small log on a folder or in memory, and groups written to it one after the other.

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a test may fail loudly"
)]

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use cstore_log::{
    Disk, FaultyDisk, Location, Log, LogError, Options, Record, RecoveryReport, Urgency, file_name,
};

pub(crate) fn options() -> Options {
    Options {
        owner: [7; 16],
        file_bytes: 64 << 10,
        max_bytes: 512 << 10,
        reserve_bytes: 64 << 10,
        compaction_bytes: 0,
        floor_bytes: 0,
        ready_files: 0,
        open_files: 2,
        max_frame_bytes: 128 << 10,
        max_queue_bytes: 8 << 20,
        least_seq: 0,
        proven_seq: 0,
        epoch: None,
        inventory: None,
        absent_seqs: Vec::new(),
        callers_write: false,
        is_held: false,
    }
}

pub(crate) fn open(
    disk: &Arc<dyn Disk>,
) -> Result<(Log, RecoveryReport, Vec<(Vec<u8>, Location)>), LogError> {
    let mut seen = Vec::new();
    let (log, report) = Log::open(disk.clone(), options(), &mut |record| {
        seen.push((record.key.to_vec(), record.location))
    })?;
    Ok((log, report, seen))
}

pub(crate) fn append(
    log: &Log,
    key: &'static str,
    payload: Vec<u8>,
    urgency: Urgency,
) -> Result<Location, LogError> {
    let (sender, receiver) = sync_channel(1);
    let record = Record {
        kind: 1,
        key: Bytes::from_static(key.as_bytes()),
        payload: payload.into(),
    };
    log.append(
        vec![record],
        urgency,
        Box::new(move |result| {
            sender
                .send(result.map(|committed| committed.locations[0]))
                .unwrap()
        }),
    );
    receiver.recv().unwrap()
}

/// Appends `count` records with long keys and no payload as one group.
pub(crate) fn append_keys(log: &Log, count: usize) -> Result<(), LogError> {
    let (sender, receiver) = sync_channel(1);
    let record = Record {
        kind: 1,
        key: Bytes::from_static(&LONG_KEY),
        payload: Bytes::new(),
    };
    log.append(
        vec![record; count],
        Urgency::Normal,
        Box::new(move |result| sender.send(result.map(drop)).unwrap()),
    );
    receiver.recv().unwrap()
}

pub(crate) fn memory() -> (FaultyDisk, Arc<dyn Disk>) {
    let disk = FaultyDisk::new();
    (disk.clone(), Arc::new(disk))
}

pub(crate) const EIGHTH: usize = 8_000;
const LONG_KEY: [u8; cstore_log::MAX_KEY] = [b'k'; cstore_log::MAX_KEY];

/// Three files that are full to the end, so that they keep their size and are recycled: where a
/// record of the first and one of the second lie.
pub(crate) fn full_files(log: &Log) -> [Location; 2] {
    let kept: Vec<Location> = (0..21)
        .map(|_| append(log, "k", vec![1; EIGHTH], Urgency::Normal).unwrap())
        .collect();
    [kept[0], kept[7]]
}

/// Flips a byte of a file, does `act`, and returns true if the byte is zero then.
pub(crate) fn is_zeroed(faulty: &FaultyDisk, file: u32, offset: u64, act: impl FnOnce()) -> bool {
    let name = file_name(file);
    faulty.rot(&name, offset, 0xFF).unwrap();
    act();
    let mut byte = [1];
    let handle = Disk::open(faulty, &name).unwrap();
    handle.read_exact_at(&mut byte, offset).unwrap();
    byte == [0]
}
