//! The bytes of the log format, compared with `fixtures/log-format-1.txt` and, for what version 2
//! has changed, with `fixtures/log-format-2.txt`.

use bytes::Bytes;
use cstore_types::epoch::Epoch;

use crate::format::{
    EncodedFrame, Entry, FRAME_HEADER, FileHeader, FrameHeader, FramePlace, KIND_SUPERSEDES,
    MAX_KEY, Seed, decode_directory, decode_trailer, encode_footer, encode_frame, file_name,
    parse_file_name,
};
use crate::golden::GoldenFile;

const OWNER: [u8; 16] = *b"owner of the log";
const FILE: u32 = 0x0102_0304;

type Record = (u8, Bytes, Bytes);

fn record(kind: u8, key: &[u8], payload: &[u8]) -> Record {
    (
        kind,
        Bytes::copy_from_slice(key),
        Bytes::copy_from_slice(payload),
    )
}

fn frame(place: FramePlace, records: &[Record]) -> EncodedFrame {
    encode_frame(
        Seed::new(&OWNER, FILE),
        place,
        records
            .iter()
            .map(|(kind, key, payload)| (*kind, key, payload)),
    )
}

/// Decodes a whole frame and returns its header, its entries and the payload of each entry.
fn decode(place: FramePlace, bytes: &[u8]) -> (FrameHeader, Vec<Entry>, Vec<Bytes>) {
    let header = FrameHeader::decode(bytes, FILE).unwrap();
    let content = &bytes[..header.content_len() as usize];
    assert!(header.verify(Seed::new(&OWNER, FILE), content));
    let directory = &content[FRAME_HEADER..][..header.directory_len as usize];
    let entries = decode_directory(&header, place.offset, directory).unwrap();

    let payload_of = |entry: &Entry| {
        let start = (u64::from(entry.offset) - place.offset) as usize;
        Bytes::copy_from_slice(&bytes[start..start + entry.len as usize])
    };
    let payloads = if header.footer {
        Vec::new()
    } else {
        entries.iter().map(payload_of).collect()
    };
    (header, entries, payloads)
}

/// The frames of one file: one of a single record, one of two groups, and a copied frame with its
/// supersedes record.
fn frames() -> Vec<(&'static str, FramePlace, Vec<Record>)> {
    let place = |offset, seq| FramePlace {
        file: FILE,
        offset,
        seq,
        durable_seq: seq - 1,
    };
    let longest: Vec<u8> = (1..=MAX_KEY as u8).collect();
    // A payload that takes the frame beyond one 4 KiB block.
    let long: Vec<u8> = (0..5_000u32).map(|i| (i % 251) as u8).collect();
    vec![
        (
            "frame of one record",
            place(4_096, 9),
            vec![record(1, b"key", b"payload")],
        ),
        (
            "frame of two groups",
            place(8_192, 10),
            vec![
                // Group 1: a block and a reference to it.
                record(1, &[0xaa; 32], &long),
                record(3, &[0xbb; 20], b"refset"),
                // Group 2: no payload, no key, the longest key.
                record(4, &[0xcc; 16], b""),
                record(2, b"", b"x"),
                record(0xEF, &longest, b"yz"),
            ],
        ),
        (
            "frame that supersedes frame 10",
            place(16_384, 11),
            vec![
                record(1, b"key", b"copied"),
                record(KIND_SUPERSEDES, &10u64.to_le_bytes(), b""),
            ],
        ),
    ]
}

#[test]
fn file_headers_have_the_bytes_of_version_2() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/log-format-2.txt");
    let head = "Log format, version 2: values of src/golden_format.rs. Frames and footers are those of version 1.";
    let mut golden = GoldenFile::open(path, head);

    let header = FileHeader {
        file: FILE,
        owner: OWNER,
        capacity: 0x0011_2233_4455,
        durable_seq: 0x66_7788_99aa,
        epoch: Epoch {
            number: 0x0a_0b0c,
            nonce: 0x0102_0304_0506_0708,
            end_before: 0x0a_0b0b_0000_0011,
        },
        file_before: 0x0102_0303,
        superblock_seq: 0xbbcc,
    };
    let bytes = golden.check("file header", &header.encode());
    assert_eq!(FileHeader::decode(&bytes), Ok(header));
    golden.finish();
}

#[test]
fn file_headers_frames_and_footers_have_the_bytes_of_version_1() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/log-format-1.txt");
    let mut golden = GoldenFile::open(
        path,
        "Log format, version 1: values of src/golden_format.rs.",
    );

    let header = FileHeader {
        file: FILE,
        owner: OWNER,
        capacity: 0x0011_2233_4455,
        durable_seq: 0x66_7788_99aa,
        epoch: Epoch::default(),
        file_before: 0,
        superblock_seq: 0,
    };
    let bytes = golden.check("file header", &header.encode());
    assert_eq!(FileHeader::decode(&bytes), Ok(header));

    let mut all = Vec::new();
    let mut end = None;
    for (name, place, records) in frames() {
        let encoded = frame(place, &records);
        let bytes = golden.check(name, &encoded.buffers.concat());
        assert_eq!(bytes.len() as u64, encoded.disk_len, "{name}");

        let (header, entries, payloads) = decode(place, &bytes);
        assert_eq!(
            (header.seq, header.durable_seq, header.footer),
            (place.seq, place.durable_seq, false)
        );
        let found: Vec<Record> = entries
            .iter()
            .zip(payloads)
            .map(|(entry, payload)| (entry.kind, entry.key.clone(), payload))
            .collect();
        assert_eq!(found, records, "{name}");
        all.extend(entries);
        end = Some(FramePlace {
            offset: place.offset + encoded.disk_len,
            ..place
        });
    }

    let place = end.unwrap();
    let bytes = golden.check(
        "footer",
        &encode_footer(
            Seed::new(&OWNER, FILE),
            place,
            all.iter().map(Entry::as_ref),
        ),
    );
    let len = decode_trailer(Seed::new(&OWNER, FILE), bytes.last_chunk().unwrap());
    assert_eq!(len, Some(bytes.len() as u64));
    let (header, entries, _) = decode(place, &bytes);
    assert_eq!((header.seq, header.footer, entries), (place.seq, true, all));

    let name = golden.check("file name of file 0x01020304", file_name(FILE).as_bytes());
    assert_eq!(
        parse_file_name(std::str::from_utf8(&name).unwrap()),
        Some(FILE)
    );
    golden.finish();
}
