//! Unix milliseconds and the date format of HTTP (RFC 9110 §5.6.7).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cstore_node::clock::{Clock, SystemClock};

/// The last moment that the format can write, the end of the year 9999, in seconds.
const LAST: u64 = 253_402_300_799;

/// For instance `Sun, 06 Nov 1994 08:49:37 GMT`. Moments outside of 1970 to 9999 become the nearest
/// inside.
pub(crate) fn http_date(unix_ms: i64) -> String {
    httpdate::fmt_http_date(moment(unix_ms))
}

/// Returns a `Last-Modified`, which is never later than now (RFC 9110 §8.8.2.1): the clock may have
/// been set back since the file was written.
pub(crate) fn last_modified(unix_ms: i64) -> String {
    httpdate::fmt_http_date(shown_moment(unix_ms))
}

/// Returns the moment that `Last-Modified` shows now. Conditions compare with it, so that a client can
/// send back what it was shown.
pub(crate) fn shown_moment(unix_ms: i64) -> SystemTime {
    moment(unix_ms.min(SystemClock.now_ms()))
}

/// A date in one of the three forms that HTTP knows.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

/// The moment as `Last-Modified` shows it: in whole seconds.
pub(crate) fn moment(unix_ms: i64) -> SystemTime {
    let seconds = u64::try_from(unix_ms.div_euclid(1_000))
        .unwrap_or(0)
        .min(LAST);
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_in_whole_seconds_and_read_back() {
        for (unix_ms, text) in [
            (784_111_777_999, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (-5, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_400_000, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (i64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(http_date(unix_ms), text);
            assert_eq!(parse(text), Some(moment(unix_ms)));
        }
        assert_eq!(parse("yesterday"), None);
    }

    #[test]
    fn last_modified_is_never_later_than_now() {
        let now = SystemClock.now_ms();
        let shown = |unix_ms| parse(&last_modified(unix_ms)).unwrap();
        let in_a_year = shown(now + 365 * 24 * 3_600_000);
        assert!(in_a_year >= moment(now) && in_a_year <= moment(SystemClock.now_ms()));
        assert_eq!(shown(784_111_777_000), moment(784_111_777_000));
    }
}
