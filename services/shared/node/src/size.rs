//! A number of bytes as people write it: `65536`, `64KiB`, `10GiB`. Only binary units, so that a
//! size has one meaning.

use std::{fmt, str::FromStr};

/// A number of bytes. It prints itself in the largest unit that divides it, so printing and parsing
/// are inverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

/// The text is not a size, or does not fit in 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a size is a whole number of bytes, or one with KiB, MiB, GiB or TiB")]
pub struct InvalidSize;

const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl ByteSize {
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    pub const fn from_kib(kib: u32) -> Self {
        Self((kib as u64) << 10)
    }

    pub const fn from_mib(mib: u32) -> Self {
        Self((mib as u64) << 20)
    }

    pub const fn from_gib(gib: u32) -> Self {
        Self((gib as u64) << 30)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let text = text.trim();
        let digits_end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_end);
        let count: u64 = digits.parse().map_err(|_| InvalidSize)?;
        let unit = unit.trim_start();
        let factor = match UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        {
            Some((_, shift)) => 1_u64 << shift,
            None if unit.is_empty() || unit == "B" => 1,
            None => return Err(InvalidSize),
        };
        count.checked_mul(factor).map(Self).ok_or(InvalidSize)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            let factor = 1_u64 << shift;
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_plain_bytes_or_carry_a_binary_unit() {
        for (text, bytes) in [
            ("64", 64),
            ("0", 0),
            ("64KiB", 65_536),
            ("3 MiB", 3 << 20),
            ("10gib", 10 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::new(bytes)), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_size_or_too_large_is_refused() {
        for text in [
            "",
            "KiB",
            "-1",
            "1.5GiB",
            "10GB",
            "99999999999TiB",
            "18446744073709551616",
            "1KiB1",
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(InvalidSize), "{text}");
        }
    }

    #[test]
    fn printing_and_parsing_are_inverse() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (65_536, "64KiB"),
            (1536 << 20, "1536MiB"),
            (1 << 40, "1TiB"),
        ] {
            assert_eq!(ByteSize::new(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(ByteSize::new(bytes)));
        }
    }
}
