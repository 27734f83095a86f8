//! Search for a short byte string in pieces of a stream.

use memchr::memmem::Finder;

/// A byte string to look for. It must not be empty.
#[derive(Debug)]
pub(crate) struct Needle {
    finder: Finder<'static>,
}

impl Needle {
    /// Prepares the search.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self {
            finder: Finder::new(bytes).into_owned(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.finder.needle().len()
    }

    /// Returns the position of its first occurrence in `hay`.
    pub(crate) fn find(&self, hay: &[u8]) -> Option<usize> {
        self.finder.find(hay)
    }

    /// Returns how many bytes at the end of `hay` could be its beginning: the rest may stand in the
    /// next piece.
    pub(crate) fn begun_in(&self, hay: &[u8]) -> usize {
        let needle = self.finder.needle();
        let longest = hay.len().min(needle.len().saturating_sub(1));
        (1..=longest)
            .rev()
            .find(|&len| hay.ends_with(&needle[..len]))
            .unwrap_or(0)
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
                    let hay: Vec<u8> = (0..len)
                        .map(|at| if bits >> at & 1 == 1 { b'a' } else { b'b' })
                        .collect();
                    let plain = hay
                        .windows(needle.len())
                        .position(|window| window == needle);
                    assert_eq!(search.find(&hay), plain, "{needle:?} in {hay:?}");
                    let begun = (0..needle.len())
                        .rev()
                        .find(|&n| hay.ends_with(&needle[..n]))
                        .unwrap_or(0);
                    assert_eq!(
                        search.begun_in(&hay),
                        begun,
                        "{needle:?} at the end of {hay:?}"
                    );
                }
            }
        }
    }
}
