//! Reader and writer of little-endian fields: the one codec under frames, log files, disks and
//! metadata.
//!
//! Both ends only know how fields follow each other. Which fields there are, their versions and
//! their checksums belong to the file that owns a layout (`frame.rs`, `format.rs`, `keys.rs`).
//!
//! ```text
//! u8, u16, u32, u64, i64    little-endian
//! array, raw                the bytes themselves; the layout knows how many there are
//! bytes, text               length u32 · that many bytes; text is UTF-8
//! ```

/// Bytes that do not hold the fields that a reader expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A field needs more bytes than are left.
    #[error("ends inside of a field: {needed} bytes expected, {left} bytes left")]
    TooShort {
        /// Bytes of the field.
        needed: usize,
        /// Bytes that were left.
        left: usize,
    },
    /// Bytes are left after the last field.
    #[error("goes on for {0} bytes after its last field")]
    Trailing(usize),
    /// A text field is not UTF-8.
    #[error("holds a text that is not UTF-8")]
    Text(#[from] std::str::Utf8Error),
}

/// Reader that takes fields off the front of a slice. Input that is too short is an error, never a
/// panic.
///
/// After an error the reader stands where it stood before the failed field.
#[derive(Debug, Clone)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Starts at the first byte of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes that no field has taken yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Takes `len` bytes.
    ///
    /// # Errors
    /// [`CodecError::TooShort`] if fewer are left.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let short = CodecError::TooShort {
            needed: len,
            left: self.0.len(),
        };
        let (field, rest) = self.0.split_at_checked(len).ok_or(short)?;
        self.0 = rest;
        Ok(field)
    }

    /// Takes `N` bytes.
    ///
    /// # Errors
    /// [`CodecError::TooShort`] if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let short = CodecError::TooShort {
            needed: N,
            left: self.0.len(),
        };
        let (field, rest) = self.0.split_first_chunk().ok_or(short)?;
        self.0 = rest;
        Ok(*field)
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// [`CodecError::TooShort`] if none is left.
    pub fn u8(&mut self) -> Result<u8, CodecError> {
        self.array().map(u8::from_le_bytes)
    }

    /// Takes two bytes.
    ///
    /// # Errors
    /// [`CodecError::TooShort`] if fewer are left.
    pub fn u16(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Takes four bytes.
    ///
    /// # Errors
    /// [`CodecError::TooShort`] if fewer are left.
    pub fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes eight bytes.
    ///
    /// # Errors
    /// [`CodecError::TooShort`] if fewer are left.
    pub fn u64(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Takes eight bytes as a signed number.
    ///
    /// # Errors
    /// [`CodecError::TooShort`] if fewer are left.
    pub fn i64(&mut self) -> Result<i64, CodecError> {
        self.array().map(i64::from_le_bytes)
    }

    /// Takes a length of four bytes and as many bytes as it says.
    ///
    /// # Errors
    /// [`CodecError::TooShort`] if the length or the bytes are cut.
    pub fn bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let start = self.0;
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        self.take(len).inspect_err(|_| self.0 = start)
    }

    /// Takes a length of four bytes and as many bytes of UTF-8 as it says.
    ///
    /// # Errors
    /// [`CodecError::TooShort`] if the length or the text is cut, [`CodecError::Text`] if it is not
    /// UTF-8.
    pub fn text(&mut self) -> Result<&'a str, CodecError> {
        let start = self.0;
        let text = std::str::from_utf8(self.bytes()?).inspect_err(|_| self.0 = start)?;
        Ok(text)
    }

    /// Checks that every byte was taken. Call it after the last field: otherwise junk after a value
    /// goes unnoticed.
    ///
    /// # Errors
    /// [`CodecError::Trailing`] if bytes are left.
    pub const fn end(&self) -> Result<(), CodecError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(CodecError::Trailing(left)),
        }
    }
}

/// Writer of fields that [`Fields`] reads. Each method appends one field and returns the writer for
/// the next.
#[derive(Debug, Clone, Default)]
pub struct FieldWriter(Vec<u8>);

impl FieldWriter {
    /// Starts with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Appends bytes without a length.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends one byte.
    #[must_use]
    pub fn u8(self, number: u8) -> Self {
        self.raw(&[number])
    }

    /// Appends two bytes.
    #[must_use]
    pub fn u16(self, number: u16) -> Self {
        self.raw(&number.to_le_bytes())
    }

    /// Appends four bytes.
    #[must_use]
    pub fn u32(self, number: u32) -> Self {
        self.raw(&number.to_le_bytes())
    }

    /// Appends eight bytes.
    #[must_use]
    pub fn u64(self, number: u64) -> Self {
        self.raw(&number.to_le_bytes())
    }

    /// Appends eight bytes of a signed number.
    #[must_use]
    pub fn i64(self, number: i64) -> Self {
        self.raw(&number.to_le_bytes())
    }

    /// Appends the number of entries of a list as four bytes. The entries follow as fields of their
    /// own.
    ///
    /// Lists and texts are bounded far below 4 Gi by `limits`; a longer one would be written with a
    /// count that no reader accepts.
    #[must_use]
    pub fn count(self, entries: usize) -> Self {
        self.u32(u32::try_from(entries).unwrap_or(u32::MAX))
    }

    /// Appends the length of `bytes` as four bytes, then the bytes.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        self.count(bytes.len()).raw(bytes)
    }

    /// Appends the length of `text` as four bytes, then the text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Returns what was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written() -> Vec<u8> {
        FieldWriter::with_capacity(64)
            .raw(b"CS")
            .u8(1)
            .u16(2)
            .u32(3)
            .u64(4)
            .i64(-5)
            .bytes(&[9, 9])
            .text("ü")
            .finish()
    }

    fn read(bytes: &[u8]) -> Result<(), CodecError> {
        let mut fields = Fields::new(bytes);
        assert_eq!(&fields.array::<2>()?, b"CS");
        assert_eq!(fields.u8()?, 1);
        assert_eq!(fields.u16()?, 2);
        assert_eq!(fields.u32()?, 3);
        assert_eq!(fields.u64()?, 4);
        assert_eq!(fields.i64()?, -5);
        assert_eq!(fields.bytes()?, [9, 9]);
        assert_eq!(fields.text()?, "ü");
        fields.end()
    }

    #[test]
    fn fields_survive_their_bytes_and_the_bytes_are_pinned() {
        let bytes = written();
        assert_eq!(read(&bytes), Ok(()));
        let expected = concat!(
            "4353",
            "01",
            "0200",
            "03000000",
            "0400000000000000",
            "fbffffffffffffff",
            "020000000909"
        );
        assert_eq!(hex::encode(&bytes), expected.to_owned() + "02000000c3bc");
    }

    #[test]
    fn every_cut_is_too_short_and_every_extra_byte_is_trailing() {
        let mut bytes = written();
        for cut in 0..bytes.len() {
            assert!(
                matches!(read(&bytes[..cut]), Err(CodecError::TooShort { .. })),
                "cut at {cut}"
            );
        }
        bytes.push(0);
        assert_eq!(read(&bytes), Err(CodecError::Trailing(1)));
    }

    #[test]
    fn a_failed_field_takes_nothing() {
        let mut fields = Fields::new(&[3, 0, 0, 0, b'a', 0xff]);
        let short = CodecError::TooShort { needed: 3, left: 2 };
        assert_eq!(fields.bytes(), Err(short));
        assert_eq!(fields.text(), Err(short));
        assert_eq!(fields.rest().len(), 6);
        let mut fields = Fields::new(&[1, 0, 0, 0, 0xff]);
        assert!(matches!(fields.text(), Err(CodecError::Text(_))));
        assert_eq!(fields.bytes(), Ok(&[0xff][..]));
    }

    proptest! {
        #[test]
        fn any_input_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), take in any::<usize>()) {
            let mut fields = Fields::new(&bytes);
            let _ = fields.take(take);
            let _ = (fields.u8(), fields.bytes(), fields.text(), fields.u16(), fields.array::<5>());
            let _ = (fields.i64(), fields.u32(), fields.bytes(), fields.u64());
            prop_assert_eq!(fields.end().is_ok(), fields.rest().is_empty());
        }

        #[test]
        fn announced_lengths_are_checked_before_anything_is_reserved(len in any::<u32>(), rest in proptest::collection::vec(any::<u8>(), 0..16)) {
            let bytes = [&len.to_le_bytes()[..], &rest].concat();
            let found = Fields::new(&bytes).bytes().map(<[u8]>::to_vec);
            match usize::try_from(len).ok().and_then(|len| rest.get(..len)) {
                Some(expected) => prop_assert_eq!(found, Ok(expected.to_vec())),
                None => prop_assert!(found.is_err()),
            }
        }
    }
}
