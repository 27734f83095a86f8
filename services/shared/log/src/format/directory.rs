//! Directory of the active file. The footer repeats it.

use super::{Entry, EntryRef};

/// Records of a file in the order of the log. A record takes 24 bytes and its key.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    rows: Vec<Row>,
    /// Concatenated keys of all rows.
    keys: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    seq: u64,
    len: u32,
    offset: u32,
    kind: u8,
    key_len: u8,
}

impl Directory {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn key_bytes(&self) -> usize {
        self.keys.len()
    }

    /// Adds a record. Its key has at most [`super::MAX_KEY`] bytes.
    pub(crate) fn push(&mut self, entry: &Entry) {
        self.rows.push(Row {
            seq: entry.seq,
            len: entry.len,
            offset: entry.offset,
            kind: entry.kind,
            key_len: entry.key.len() as u8,
        });
        self.keys.extend_from_slice(&entry.key);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        let mut keys = &self.keys[..];
        self.rows.iter().map(move |row| {
            let (key, rest) = keys.split_at(usize::from(row.key_len));
            keys = rest;
            EntryRef {
                kind: row.kind,
                key,
                len: row.len,
                offset: row.offset,
                seq: row.seq,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn records_come_back_in_their_order_with_their_keys() {
        let entries: Vec<Entry> = (0..100u32)
            .map(|n| Entry {
                kind: n as u8 % 7,
                key: Bytes::from(vec![n as u8; n as usize % 65]),
                len: n * 3,
                offset: n * 4_096,
                seq: u64::from(n) << 33,
            })
            .collect();
        let mut directory = Directory::default();
        entries.iter().for_each(|entry| directory.push(entry));
        let found: Vec<Entry> = directory.iter().map(EntryRef::to_entry).collect();
        assert_eq!(found, entries);
        assert_eq!(directory.len(), entries.len());
        let bytes = entries.iter().map(|entry| entry.key.len()).sum::<usize>();
        assert_eq!(directory.key_bytes(), bytes);
    }
}
