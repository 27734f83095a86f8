//! Search for a short byte string by Horspool's method: on bytes that are not the string it moves by its length.

/// A byte string to look for, with its table of moves.
#[derive(Debug)]
pub(crate) struct Needle {
    bytes: Vec<u8>,
    /// How far the window may move when it ends in this byte.
    moves: Box<[usize; 256]>,
}

impl Needle {
    /// `bytes` must not be empty.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut moves = Box::new([bytes.len(); 256]);
        let body = bytes.split_last().map_or(&[][..], |(_, body)| body);
        for (at, &byte) in body.iter().enumerate() {
            moves[usize::from(byte)] = bytes.len() - 1 - at;
        }
        Self { bytes: bytes.to_vec(), moves }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Where it stands first in `hay`.
    pub(crate) fn find(&self, hay: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(window) = hay.get(at..at + self.bytes.len()) {
            if window == self.bytes {
                return Some(at);
            }
            at += window.last().map_or(1, |&last| self.moves[usize::from(last)]);
        }
        None
    }

    /// How many bytes at the end of `hay` could be its beginning.
    pub(crate) fn begun_in(&self, hay: &[u8]) -> usize {
        let longest = hay.len().min(self.bytes.len().saturating_sub(1));
        (1..=longest).rev().find(|&len| hay.ends_with(&self.bytes[..len])).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_what_a_plain_search_finds_in_all_short_strings() {
        for needle in [&b"a"[..], b"ab", b"aa", b"aab", b"aba", b"abab"] {
            let search = Needle::new(needle);
            for len in 0..9_u32 {
                for bits in 0..1_u32 << len {
                    let hay: Vec<u8> =
                        (0..len).map(|at| if bits >> at & 1 == 1 { b'a' } else { b'b' }).collect();
                    let plain = hay.windows(needle.len()).position(|window| window == needle);
                    assert_eq!(search.find(&hay), plain, "{needle:?} in {hay:?}");
                    let begun = (0..needle.len()).rev().find(|&n| hay.ends_with(&needle[..n])).unwrap_or(0);
                    assert_eq!(search.begun_in(&hay), begun, "{needle:?} at the end of {hay:?}");
                }
            }
        }
    }
}
