//! `Range` of RFC 9110 §14: one byte range is served, several at once are answered with the whole
//! file, which the standard allows; what is not a byte range is ignored, as the standard demands.

/// Which bytes a request wants of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Whole,
    /// Both ends included, both inside of the file.
    Part {
        first: u64,
        last: u64,
    },
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `size` bytes.
pub(crate) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    header
        .and_then(|text| single(text, size))
        .unwrap_or(Wanted::Whole)
}

fn single(text: &str, size: u64) -> Option<Wanted> {
    let (unit, spec) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    if first.is_empty() {
        let count = number(last)?;
        return Some(match size.checked_sub(1) {
            _ if count == 0 => Wanted::Unsatisfiable,
            // A suffix that is longer than the file stands for the whole file (RFC 9110 §14.1.2), and
            // no Content-Range can state a range of no bytes.
            None => Wanted::Whole,
            Some(last) => Wanted::Part {
                first: size.saturating_sub(count),
                last,
            },
        });
    }
    let first = number(first)?;
    let last = if last.is_empty() {
        u64::MAX
    } else {
        number(last)?
    };
    if first > last {
        return None;
    }
    Some(if first < size {
        Wanted::Part {
            first,
            last: last.min(size - 1),
        }
    } else {
        Wanted::Unsatisfiable
    })
}

/// Digits only; what does not fit is as good as the largest number.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cases_of_the_standard() {
        let part = |first, last| Wanted::Part { first, last };
        let cases = [
            ("bytes=0-0", part(0, 0)),
            ("bytes=0-9", part(0, 9)),
            ("bytes=2-4", part(2, 4)),
            ("bytes=2-", part(2, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-99", part(0, 9)),
            ("bytes=9-99", part(9, 9)),
            ("Bytes = 1-1", part(1, 1)),
            ("bytes=0-99999999999999999999999", part(0, 9)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=4-2", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=--1", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("", Wanted::Whole),
        ];
        for (text, expected) in cases {
            assert_eq!(wanted(Some(text), 10), expected, "{text}");
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
        assert_eq!(wanted(Some("bytes=-1"), 0), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=-0"), 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn every_small_range_selects_what_a_filter_over_positions_selects() {
        for size in 0..7_u64 {
            for first in 0..9_u64 {
                for last in first..9 {
                    let model: Vec<u64> =
                        (0..size).filter(|at| (first..=last).contains(at)).collect();
                    check(&format!("bytes={first}-{last}"), size, &model);
                }
                check(
                    &format!("bytes={first}-"),
                    size,
                    &(first..size).collect::<Vec<_>>(),
                );
                check(
                    &format!("bytes=-{first}"),
                    size,
                    &(size.saturating_sub(first)..size).collect::<Vec<_>>(),
                );
            }
        }
    }

    fn check(text: &str, size: u64, model: &[u64]) {
        let found: Vec<u64> = match wanted(Some(text), size) {
            Wanted::Part { first, last } => (first..=last).collect(),
            Wanted::Unsatisfiable => Vec::new(),
            Wanted::Whole if size == 0 => Vec::new(),
            Wanted::Whole => panic!("{text} of {size} is a range"),
        };
        assert_eq!(found, model, "{text} of {size}");
    }
}
