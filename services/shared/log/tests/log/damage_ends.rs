//! Damage at the ends of files, and payloads that look like frames: neither cuts off what is
//! durable, nor adds a record that proves anything.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;

use bytes::Bytes;
use cstore_log::{Disk, FaultyDisk, Log, Options, Record, Standing, Urgency, Verb};

use crate::fixture::{append, memory, open, options};

const BLOCK: usize = 4_096;
const FILE: &str = "00000001.bin";
/// Offset of the payload in a frame with one record, whose key has one byte.
const PAYLOAD_AT: usize = 64 + 6 + 1;

fn write(disk: &Arc<dyn Disk>, at: usize, bytes: &[u8]) {
    let file = disk.open(FILE).unwrap();
    file.write_all_vectored_at(&[Bytes::copy_from_slice(bytes)], at as u64)
        .unwrap();
    file.sync_data().unwrap();
}

fn contents(disk: &Arc<dyn Disk>) -> Vec<u8> {
    let file = disk.open(FILE).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Returns the first 40 bytes of a header of [`FILE`] with one record.
fn header(seq: u64, directory_len: u32, payload_len: u32) -> Vec<u8> {
    let mut header = b"CLF2".to_vec();
    header.extend_from_slice(&1u32.to_le_bytes());
    header.extend_from_slice(&seq.to_le_bytes());
    header.extend_from_slice(&(seq - 1).to_le_bytes());
    header.extend_from_slice(&1u32.to_le_bytes());
    header.extend_from_slice(&0u32.to_le_bytes());
    header.extend_from_slice(&directory_len.to_le_bytes());
    header.extend_from_slice(&payload_len.to_le_bytes());
    header
}

/// Returns a valid frame of [`FILE`] with one record: its key is `evil`, its payload is empty.
fn forged_frame(seq: u64) -> Vec<u8> {
    let mut directory = vec![4u8, 4];
    directory.extend_from_slice(&0u32.to_le_bytes());
    directory.extend_from_slice(b"evil");
    let mut frame = header(seq, 10, 0);
    let of_owner = crc32c::crc32c(&options().owner);
    let of_file = crc32c::crc32c_append(of_owner, &1u32.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(of_file, &frame), &directory);
    frame.extend_from_slice(&crc.to_le_bytes());
    frame.resize(64, 0);
    frame.extend_from_slice(&directory);
    frame
}

/// A footer ends where its file ends, as the last frame of a file does that an open has cut.
#[test]
fn i8_the_last_frame_of_a_cut_file_is_not_taken_for_a_footer() {
    let (faulty, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    for key in ["a", "b", "c"] {
        append(&log, key, vec![1; 2_000], Urgency::Normal).unwrap();
    }
    drop(log);

    // Two starts: the unproven frame is copied to another file, and all frames are durable.
    let mut faulty = faulty.kill();
    for _ in 0..2 {
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        let (log, report, seen) = open(&disk).unwrap();
        assert!(!report.is_damaged());
        assert_eq!(seen.len(), 3);
        log.close().unwrap();
        faulty = faulty.kill();
    }

    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    let before = contents(&disk).len();
    faulty.rot(FILE, (before - BLOCK + 500) as u64, 1).unwrap();
    let (_log, report, _) = open(&disk).unwrap();
    assert!(report.is_damaged());
    assert_eq!(contents(&disk).len(), before);
}

/// Returns the read calls of an open of a file whose only frame is torn. Its payload holds a header
/// in each block, and each of these frames goes on to the end of the payload.
fn reads_of_open(payload_len: usize) -> u64 {
    let options = Options {
        file_bytes: 8 << 20,
        max_bytes: 32 << 20,
        reserve_bytes: 8 << 20,
        max_frame_bytes: 16 << 20,
        max_queue_bytes: 32 << 20,
        ..options()
    };
    let (faulty, disk) = memory();
    let (log, _) = Log::open(disk, options.clone(), &mut |_| {}).unwrap();
    let mut payload = vec![0; payload_len];
    let end = payload_len.next_multiple_of(BLOCK);
    for start in (BLOCK..payload_len).step_by(BLOCK) {
        let at = start - PAYLOAD_AT;
        let rest = u32::try_from(end - start - BLOCK).unwrap();
        let header = header(50, 7, rest);
        payload[at..at + header.len()].copy_from_slice(&header);
    }
    let record = Record {
        kind: 1,
        key: Bytes::from_static(b"k"),
        payload: payload.into(),
    };
    let (sender, landed) = std::sync::mpsc::sync_channel(1);
    log.append(
        vec![record],
        Urgency::Normal,
        Box::new(move |result| sender.send(result.map(drop)).unwrap()),
    );
    landed.recv().unwrap().unwrap();
    drop(log);

    let faulty = faulty.kill();
    let checksum = BLOCK as u64 + 41;
    faulty.rot(FILE, checksum, 1).unwrap();
    let before = faulty.calls(Verb::Read);
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    drop(Log::open(disk, options, &mut |_| {}).unwrap());
    faulty.calls(Verb::Read) - before
}

/// Each of the headers tells of a frame as long as the rest of the file: reading them all is
/// quadratic.
#[test]
fn i8_headers_in_a_payload_do_not_multiply_the_reads_of_an_open() {
    for mib in [1, 4] {
        let headers = (mib << 20) / BLOCK as u64;
        let reads = reads_of_open(mib as usize * (1 << 20));
        assert!(reads < headers / 2, "{reads} reads for {headers} headers");
    }
}

/// Owner and file id are no secrets, so an upload may hold a frame that validates. The search finds
/// it once the header of the real frame around it is lost.
#[test]
fn i8_a_frame_in_a_payload_proves_nothing_and_hides_nothing() {
    for forged_seq in [2, 3, 5, 1_000] {
        let (faulty, disk) = memory();
        let (log, ..) = open(&disk).unwrap();
        append(&log, "a", vec![1; 2_000], Urgency::Normal).unwrap();
        let frame = forged_frame(forged_seq);
        let mut payload = vec![0; 2 * BLOCK];
        let at = BLOCK - PAYLOAD_AT;
        payload[at..at + frame.len()].copy_from_slice(&frame);
        append(&log, "x", payload, Urgency::Normal).unwrap();
        for _ in 0..3 {
            append(&log, "y", vec![5; 2_000], Urgency::Normal).unwrap();
        }
        drop(log);

        let disk: Arc<dyn Disk> = Arc::new(faulty.kill());
        let header_of_x = 2 * BLOCK;
        write(&disk, header_of_x, &[0; 512]);
        let mut seen = Vec::new();
        let (_log, report) = Log::open(disk, options(), &mut |record| {
            seen.push((record.key.to_vec(), record.standing));
        })
        .unwrap();
        assert!(report.is_damaged(), "{forged_seq}");
        let real = seen.iter().filter(|(key, _)| key == b"y");
        assert_eq!(real.count(), 3, "{forged_seq}: {seen:?}");
        let forged = seen.iter().filter(|(key, _)| key == b"evil");
        for (_, standing) in forged {
            assert_eq!(*standing, Standing::Searched, "{forged_seq}");
            assert!(forged_seq < 1_000, "no file has room for so many frames");
        }
    }
}

#[test]
fn i8_frames_at_the_end_that_cannot_be_read_for_a_while_come_back() {
    let (faulty, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    let mut last = Vec::new();
    for key in ["a", "b", "c", "d"] {
        last.push(append(&log, key, vec![1; 6_000], Urgency::Normal).unwrap());
    }
    drop(log);

    let faulty: FaultyDisk = faulty.kill();
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    let whole = contents(&disk);
    let from = last[2].offset as usize / BLOCK * BLOCK;
    faulty.spoil(FILE, from as u64..whole.len() as u64).unwrap();
    let (log, report, seen) = open(&disk).unwrap();
    assert!(report.is_damaged());
    assert_eq!(seen.len(), 2);
    log.close().unwrap();

    let disk: Arc<dyn Disk> = Arc::new(faulty.kill());
    write(&disk, from, &whole[from..]);
    let (_log, report, seen) = open(&disk).unwrap();
    assert!(!report.is_damaged(), "{report:?}");
    assert_eq!(seen.len(), 4);
}

/// A log whose second frame holds a frame of `seq` in its payload, as its process left it.
fn with_forged_frame(seq: u64, options: &Options) -> FaultyDisk {
    let (faulty, disk) = memory();
    let (log, _) = Log::open(disk, options.clone(), &mut |_| {}).unwrap();
    append(&log, "a", vec![1; 2_000], Urgency::Normal).unwrap();
    let frame = forged_frame(seq);
    let mut payload = vec![9; 2 * BLOCK];
    let at = BLOCK - PAYLOAD_AT;
    payload[at..at + frame.len()].copy_from_slice(&frame);
    append(&log, "x", payload, Urgency::Normal).unwrap();
    for _ in 0..3 {
        append(&log, "y", vec![5; 2_000], Urgency::Normal).unwrap();
    }
    drop(log);
    faulty.kill()
}

#[test]
fn i1_a_forged_frame_is_not_written_over_the_one_that_holds_it() {
    let faulty = with_forged_frame(3, &options());
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    let whole = contents(&disk);
    let header = 2 * BLOCK..3 * BLOCK;
    faulty
        .spoil(FILE, header.start as u64..header.end as u64)
        .unwrap();
    drop(open(&disk).unwrap());

    let disk: Arc<dyn Disk> = Arc::new(faulty.kill());
    write(&disk, header.start, &whole[header]);
    let (_log, report, seen) = open(&disk).unwrap();
    assert!(!report.is_damaged(), "{report:?}");
    assert_eq!(seen.len(), 5);
}

#[test]
fn i12_a_forged_sequence_ends_no_log() {
    let epoch = Some(cstore_log::NextEpoch { least: 1, nonce: 5 });
    for (epoch, seq) in [
        (epoch, u64::MAX - 1),
        (None, u64::MAX - 1),
        (None, u64::MAX),
    ] {
        let options = Options { epoch, ..options() };
        let mut faulty = with_forged_frame(seq, &options);
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        // The frames in front of the forged one lose their headers.
        for block in [1, 2] {
            write(&disk, block * BLOCK, &[0; 512]);
        }
        for _ in 0..2 {
            let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
            let (log, report) = Log::open(disk, options.clone(), &mut |_| {}).unwrap();
            assert!(report.last_seq < 1 << 63, "{report:?}");
            append(&log, "z", vec![1; 10], Urgency::Normal).unwrap();
            drop(log);
            faulty = faulty.kill();
        }
    }
}
