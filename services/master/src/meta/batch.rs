//! A change of the metadata and what must hold for it, as a value and as bytes.

use super::{MetaError, Position};

/// What must hold of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Require {
    /// Nothing is there.
    Absent(Vec<u8>),
    /// What was written at this position is still there.
    Equals(Vec<u8>, Position),
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Batch {
    pub(crate) require: Vec<Require>,
    /// `None` deletes.
    pub(crate) changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    pub(crate) fn require_absent(&mut self, key: Vec<u8>) {
        self.require.push(Require::Absent(key));
    }

    pub(crate) fn require_version(&mut self, key: Vec<u8>, version: Position) {
        self.require.push(Require::Equals(key, version));
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push((key, Some(value)));
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.changes.push((key, None));
    }

    /// `count u32`, then per change `key length u32 · value length u32 (or all ones) · key · value`, little-endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = (self.changes.len() as u32).to_le_bytes().to_vec();
        for (key, value) in &self.changes {
            out.extend((key.len() as u32).to_le_bytes());
            out.extend(value.as_ref().map_or(u32::MAX, |value| value.len() as u32).to_le_bytes());
            out.extend(key);
            out.extend(value.as_deref().unwrap_or_default());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let mut fields = super::keys::Fields(bytes);
        let count = fields.u32()?;
        let mut changes = Vec::new();
        for _ in 0..count {
            let (key_len, value_len) = (fields.u32()?, fields.u32()?);
            let key = fields.take(key_len as usize)?.to_vec();
            let value = match value_len {
                u32::MAX => None,
                len => Some(fields.take(len as usize)?.to_vec()),
            };
            changes.push((key, value));
        }
        fields.end()?;
        Ok(Self { require: Vec::new(), changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_survives_its_bytes_and_garbage_is_refused() {
        let mut batch = Batch::default();
        batch.put(b"a".to_vec(), b"1".to_vec());
        batch.put(b"b".to_vec(), Vec::new());
        batch.delete(b"c".to_vec());
        let bytes = batch.encode();
        assert_eq!(Batch::decode(&bytes), Ok(batch));
        for cut in 0..bytes.len() {
            assert!(Batch::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
