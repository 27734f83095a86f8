//! Limits that are listed: constants of operations policy, each with its value and its meaning, for
//! `cstore admin limits` and `docs/limits.md`.

use std::fmt;
use std::time::Duration;

/// A bound that an operator or a user can meet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Name of the constant in the module `limits` of its crate.
    pub name: &'static str,
    /// Value of the constant.
    pub value: LimitValue,
    /// Doc comment of the constant: what is bounded, and what happens beyond it.
    pub meaning: &'static str,
}

/// A value with its unit. Displayed as in `250 ms`, `1 MiB`, `4,096` and `20 %`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LimitValue {
    /// A time.
    Time(Duration),
    /// A size in bytes.
    Bytes(u64),
    /// A number of things.
    Count(u64),
    /// A share of a whole, 1.0 is all of it.
    Share(f64),
}

/// Units of time, the largest first, in milliseconds.
const TIMES: [(&str, u128); 4] = [
    ("days", 86_400_000),
    ("h", 3_600_000),
    ("min", 60_000),
    ("s", 1_000),
];
/// Units of sizes, the largest first.
const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl fmt::Display for LimitValue {
    /// Writes the value in the largest unit that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Time(time) => {
                let ms = time.as_millis();
                let divides = |(_, unit): &&(&str, u128)| ms >= *unit && ms.is_multiple_of(*unit);
                let (unit, size) = TIMES.iter().find(divides).unwrap_or(&("ms", 1));
                write!(f, "{} {unit}", grouped(ms / size))
            }
            Self::Bytes(bytes) => {
                let divides =
                    |(_, unit): &&(&str, u64)| bytes >= *unit && bytes.is_multiple_of(*unit);
                let (unit, size) = SIZES.iter().find(divides).unwrap_or(&("bytes", 1));
                write!(f, "{} {unit}", grouped(u128::from(bytes / size)))
            }
            Self::Count(count) => f.write_str(&grouped(u128::from(count))),
            // One decimal place, left out if it is zero.
            Self::Share(share) => write!(f, "{} %", (share * 1_000.0).round() / 10.0),
        }
    }
}

/// Returns decimal digits in groups of three.
fn grouped(number: u128) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Declares constants and lists them in `LIMITS`, so that none is declared without being listed.
///
/// Each line is a constant with a unit in place of the word `const`: `time`, `bytes`, `count`,
/// `share` (of 1) or `percent`. The doc comment becomes the meaning, so it is plain text.
///
/// ```
/// # use std::time::Duration;
/// cstore_types::limits! {
///     /// Longest wait for an answer. Beyond it the request fails.
///     pub time ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
///     /// Largest answer. A larger one is refused.
///     pub(crate) bytes MAX_ANSWER: usize = 1 << 20;
/// }
/// # fn main() {
/// assert_eq!(LIMITS[1].name, "MAX_ANSWER");
/// assert_eq!(LIMITS[1].value.to_string(), "1 MiB");
/// assert_eq!(LIMITS[1].meaning, "Largest answer. A larger one is refused.");
/// # }
/// ```
#[macro_export]
macro_rules! limits {
    (@value time $name:ident) => { $crate::LimitValue::Time($name) };
    (@value bytes $name:ident) => { $crate::LimitValue::Bytes($name as u64) };
    (@value count $name:ident) => { $crate::LimitValue::Count($name as u64) };
    (@value share $name:ident) => { $crate::LimitValue::Share($name as f64) };
    (@value percent $name:ident) => { $crate::LimitValue::Share($name as f64 / 100.0) };
    ($(
        $(#[doc = $meaning:literal])+
        $visibility:vis $unit:ident $name:ident: $type:ty = $value:expr;
    )+) => {
        $(
            $(#[doc = $meaning])+
            $visibility const $name: $type = $value;
        )+

        /// All limits of this module, in the order of their declaration.
        pub const LIMITS: &[$crate::Limit] = &[$(
            $crate::Limit {
                name: stringify!($name),
                value: $crate::limits!(@value $unit $name),
                // Lines of a doc comment begin with a space.
                meaning: concat!($($meaning),+).trim_ascii(),
            },
        )+];
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_displayed_in_the_largest_unit_without_a_fraction() {
        let time = |ms| LimitValue::Time(Duration::from_millis(ms));
        let days = 36_525 * 86_400_000;
        for (value, text) in [
            (time(0), "0 ms"),
            (time(250), "250 ms"),
            (time(1_500), "1,500 ms"),
            (time(90_000), "90 s"),
            (time(300_000), "5 min"),
            (time(3_600_000), "1 h"),
            (time(days), "36,525 days"),
            (LimitValue::Bytes(255), "255 bytes"),
            (LimitValue::Bytes(1_536), "1,536 bytes"),
            (LimitValue::Bytes(64 << 10), "64 KiB"),
            (LimitValue::Bytes(1 << 20), "1 MiB"),
            (LimitValue::Bytes((1 << 31) - 1), "2,147,483,647 bytes"),
            (LimitValue::Bytes(64 << 30), "64 GiB"),
            (LimitValue::Count(8), "8"),
            (LimitValue::Count(4_096), "4,096"),
            (LimitValue::Share(0.2), "20 %"),
            (LimitValue::Share(0.125), "12.5 %"),
            (LimitValue::Share(f64::from(0.2_f32)), "20 %"),
        ] {
            assert_eq!(value.to_string(), text);
        }
    }

    #[allow(
        unreachable_pub,
        reason = "the macro is meant for modules of a whole crate"
    )]
    mod declared {
        crate::limits! {
            /// Share of the
            /// whole.
            pub(super) percent FULL: u32 = 80;
            /// A number.
            pub(super) count N: u16 = 7;
        }
    }

    #[test]
    fn what_is_declared_is_listed_with_its_comment() {
        assert_eq!((declared::FULL, declared::N), (80, 7));
        let [full, n] = declared::LIMITS else {
            panic!("{:?}", declared::LIMITS);
        };
        assert_eq!((full.name, full.meaning), ("FULL", "Share of the whole."));
        assert_eq!(
            (full.value, n.value),
            (LimitValue::Share(0.8), LimitValue::Count(7))
        );
    }
}
