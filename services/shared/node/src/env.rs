//! Configuration from the environment: parsed once, by one value, with every mistake reported at
//! once.
//!
//! A flag given on the command line overrides the variable of the same meaning, an empty value
//! counts as unset, and surrounding blanks are dropped. A reader that meets a mistake notes it and
//! goes on with the default; the values are only good once [`Env::finish`] has returned `Ok`. A
//! secret is never printed, neither in a mistake nor in [`Env::shown`].

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use cstore_types::NodeId;

use crate::size::ByteSize;

/// The exit status of a process that was started wrongly (`EX_USAGE` of sysexits).
pub const EXIT_USAGE: i32 = 64;

/// Reads typed values out of a [`Source`], and remembers every value for printing and every mistake
/// for reporting.
pub struct Env<'a> {
    source: &'a dyn Source,
    overrides: BTreeMap<String, String>,
    shown: Vec<(String, String, bool)>,
    mistakes: Vec<Mistake>,
}

/// Where variables come from: the process, or a map in a test.
pub trait Source {
    fn get(&self, key: &str) -> Option<String>;

    /// Returns the names of all variables.
    fn names(&self) -> Vec<String>;
}

impl<'a> Env<'a> {
    pub fn new(source: &'a dyn Source) -> Self {
        Self {
            source,
            overrides: BTreeMap::new(),
            shown: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    /// Values that win over the source, by the name of the variable they stand for: the command
    /// line's flags.
    #[must_use]
    pub fn with_overrides(mut self, overrides: impl IntoIterator<Item = (String, String)>) -> Self {
        self.overrides.extend(overrides);
        self
    }

    /// # Errors
    /// All mistakes that any reader has met, in the order of reading.
    pub fn finish(&self) -> Result<(), ConfigErrors> {
        if self.mistakes.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors(self.mistakes.clone()))
        }
    }

    /// Every variable that was read: its name, its value as understood, and whether that is the
    /// default.
    pub fn shown(&self) -> &[(String, String, bool)] {
        &self.shown
    }

    /// Returns true if a variable was read and has its default value because it is not set.
    pub fn is_default(&self, key: &str) -> bool {
        let mut shown = self.shown.iter();
        shown.any(|(name, _, is_default)| name == key && *is_default)
    }

    pub fn string(&mut self, key: &str, default: &str) -> String {
        self.value(key, default.to_owned(), "any text")
    }

    pub fn optional_string(&mut self, key: &str) -> Option<String> {
        self.optional(key, "any text")
    }

    pub fn path(&mut self, key: &str, default: &str) -> PathBuf {
        PathBuf::from(self.value(key, default.to_owned(), "a path"))
    }

    pub fn optional_path(&mut self, key: &str) -> Option<PathBuf> {
        self.optional::<String>(key, "a path").map(PathBuf::from)
    }

    /// A port; 0 asks for a free one.
    pub fn port(&mut self, key: &str, default: u16) -> u16 {
        self.value(
            key,
            default,
            "a port from 0 to 65535, where 0 means a free one",
        )
    }

    pub fn number(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.read(
            key,
            default,
            &allowed,
            |text| text.parse().ok().filter(|n| range.contains(n)),
            u64::to_string,
        )
    }

    pub fn bytes(
        &mut self,
        key: &str,
        default: ByteSize,
        range: RangeInclusive<ByteSize>,
    ) -> ByteSize {
        let allowed = format!(
            "bytes, or a number with KiB, MiB, GiB or TiB, from {} to {}",
            range.start(),
            range.end()
        );
        let parse = |text: &str| text.parse().ok().filter(|size| range.contains(size));
        self.read(key, default, &allowed, parse, ByteSize::to_string)
    }

    /// Milliseconds, or a number with `ms` or `s`.
    pub fn duration_ms(
        &mut self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let (low, high) = (range.start().as_millis(), range.end().as_millis());
        let allowed = format!("milliseconds, or a number with ms or s, from {low}ms to {high}ms");
        let parse = |text: &str| parse_duration(text).filter(|duration| range.contains(duration));
        self.read(key, default, &allowed, parse, |duration| {
            format!("{}ms", duration.as_millis())
        })
    }

    pub fn boolean(&mut self, key: &str, default: bool) -> bool {
        let parse = |text: &str| match text {
            "TRUE" | "true" | "1" => Some(true),
            "FALSE" | "false" | "0" => Some(false),
            _ => None,
        };
        self.read(
            key,
            default,
            "TRUE or FALSE, true or false, 1 or 0",
            parse,
            |flag| if *flag { "TRUE" } else { "FALSE" }.to_owned(),
        )
    }

    /// One of a closed set of words; upper and lower case are the same.
    pub fn choice<T: Copy + PartialEq>(
        &mut self,
        key: &str,
        default: T,
        choices: &[(&str, T)],
    ) -> T {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let allowed = format!("one of {}", names.join(", "));
        let parse = |text: &str| {
            choices
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(text))
                .map(|(_, value)| *value)
        };
        let show = |value: &T| {
            choices
                .iter()
                .find(|(_, other)| other == value)
                .map(|(name, _)| (*name).to_owned())
                .unwrap_or_default()
        };
        self.read(key, default, &allowed, parse, show)
    }

    /// Values between commas; unset is an empty list, and so are two commas with nothing between
    /// them.
    pub fn list<T: FromStr + fmt::Display>(&mut self, key: &str, allowed: &str) -> Vec<T> {
        let parse = |text: &str| {
            let parts = text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty());
            parts
                .map(|part| part.parse().ok())
                .collect::<Option<Vec<T>>>()
        };
        let show = |values: &Vec<T>| {
            values
                .iter()
                .map(T::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        self.read(
            key,
            Vec::new(),
            &format!("{allowed}; several between commas"),
            parse,
            show,
        )
    }

    pub fn host_port(&mut self, key: &str, default: HostPort) -> HostPort {
        self.value(key, default, HostPort::ALLOWED)
    }

    pub fn optional_host_port(&mut self, key: &str) -> Option<HostPort> {
        self.optional(key, HostPort::ALLOWED)
    }

    /// A value that must not be seen; only whether it is set is shown.
    pub fn secret(&mut self, key: &str) -> Option<Secret> {
        let found = self.raw(key);
        let shown = if found.is_some() {
            "(set, hidden)"
        } else {
            "(unset)"
        };
        self.shown
            .push((key.to_owned(), shown.to_owned(), found.is_none()));
        found.map(Secret)
    }

    /// Any type that reads and prints itself; `allowed` says in the mistake what would have been
    /// right.
    pub fn value<T: FromStr + fmt::Display>(&mut self, key: &str, default: T, allowed: &str) -> T {
        self.read(
            key,
            default,
            allowed,
            |text| text.parse().ok(),
            T::to_string,
        )
    }

    /// Like [`Env::value`], where unset is `None`.
    pub fn optional<T: FromStr + fmt::Display>(&mut self, key: &str, allowed: &str) -> Option<T> {
        let show = |value: &Option<T>| {
            value
                .as_ref()
                .map_or_else(|| "(unset)".to_owned(), T::to_string)
        };
        self.read(key, None, allowed, |text| text.parse().ok().map(Some), show)
    }

    /// The name of a node, if it is set.
    pub fn node_id(&mut self) -> Option<NodeId> {
        self.optional(
            "CSTORE_NODE_ID",
            "1 to 64 characters of a-z, 0-9, '.', '-', '_'",
        )
    }

    /// Makes up the name of a node that has none. Without random numbers it is a mistake.
    pub fn random_node_id(&mut self, role: &str) -> NodeId {
        NodeId::random(role).unwrap_or_else(|_| {
            self.refuse("CSTORE_NODE_ID", "set, because there are no random numbers");
            NodeId::new("none").expect("it follows the rule of node ids")
        })
    }

    /// Like [`Env::value`], where unset is a mistake too; the `None` then never outlives
    /// [`Env::finish`].
    pub fn required<T: FromStr + fmt::Display>(&mut self, key: &str, allowed: &str) -> Option<T> {
        let value = self.optional(key, allowed);
        if value.is_none() && self.raw(key).is_none() {
            self.mistake(key, None, allowed);
        }
        value
    }

    /// For a rule that one variable alone does not show: notes a mistake about what was found.
    pub fn refuse(&mut self, key: &str, allowed: &str) {
        let found = self.raw(key);
        self.mistake(key, found, allowed);
    }

    fn read<T>(
        &mut self,
        key: &str,
        default: T,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        show: impl FnOnce(&T) -> String,
    ) -> T {
        let found = self.raw(key);
        let parsed = found.as_deref().and_then(parse);
        if found.is_some() && parsed.is_none() {
            self.mistake(key, found, allowed);
        }
        let is_default = parsed.is_none();
        let value = parsed.unwrap_or(default);
        self.shown.push((key.to_owned(), show(&value), is_default));
        value
    }

    fn raw(&self, key: &str) -> Option<String> {
        let clean = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let flag = self.overrides.get(key).cloned().and_then(clean);
        flag.or_else(|| self.source.get(key).and_then(clean))
    }

    /// Reports a variable that is set but never read.
    pub fn refuse_unknown(&mut self, key: &str, nearest: Option<&str>) {
        self.mistakes.push(Mistake::Unknown {
            variable: key.to_owned(),
            nearest: nearest.map(str::to_owned),
        });
    }

    fn mistake(&mut self, key: &str, found: Option<String>, allowed: &str) {
        self.mistakes.push(Mistake::Value {
            variable: key.to_owned(),
            found,
            allowed: allowed.to_owned(),
        });
    }
}

impl fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env")
            .field("shown", &self.shown)
            .field("mistakes", &self.mistakes)
            .finish_non_exhaustive()
    }
}

/// All mistakes of one configuration; printed one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Mistake>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mistake {
    /// A value that is not allowed, or is missing.
    Value {
        variable: String,
        found: Option<String>,
        allowed: String,
    },
    /// A variable that nothing reads.
    Unknown {
        variable: String,
        nearest: Option<String>,
    },
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value {
                variable,
                found: Some(found),
                allowed,
            } => write!(f, "{variable}: found {found:?}, allowed is {allowed}"),
            Self::Value {
                variable,
                found: None,
                allowed,
            } => write!(f, "{variable}: is not set, allowed is {allowed}"),
            Self::Unknown {
                variable,
                nearest: Some(nearest),
            } => write!(
                f,
                "{variable}: there is no such setting; the nearest is {nearest}"
            ),
            Self::Unknown {
                variable,
                nearest: None,
            } => write!(f, "{variable}: there is no such setting"),
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.0.iter().enumerate() {
            let line_end = if at == 0 { "" } else { "\n" };
            write!(f, "{line_end}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The variables of this process, as they were when the snapshot was taken in `main`.
pub struct ProcessEnv(BTreeMap<String, String>);

impl ProcessEnv {
    /// Bytes that are not UTF-8 become replacement characters: the readers then refuse the value,
    /// not the process.
    pub fn snapshot() -> Self {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        Self(
            std::env::vars_os()
                .map(|(key, value)| (text(key), text(value)))
                .collect(),
        )
    }
}

/// The names only: a process's environment holds secrets that are not ours.
impl fmt::Debug for ProcessEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProcessEnv").field(&self.0.len()).finish()
    }
}

impl Source for ProcessEnv {
    fn get(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

impl Source for BTreeMap<String, String> {
    fn get(&self, key: &str) -> Option<String> {
        BTreeMap::get(self, key).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

impl Source for HashMap<String, String> {
    fn get(&self, key: &str) -> Option<String> {
        HashMap::get(self, key).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

impl<const N: usize> Source for [(&str, &str); N] {
    fn get(&self, key: &str) -> Option<String> {
        self.iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| (*value).to_owned())
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|(name, _)| (*name).to_owned()).collect()
    }
}

/// A value that neither `Debug` nor a log line can show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// A peer's address before its name is looked up: `master:4100`, `[::1]:4100`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

/// The text is not `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address is host:port")]
pub struct InvalidHostPort;

impl HostPort {
    const ALLOWED: &str = "host:port, with an IPv6 host in brackets";

    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }
}

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        let (host, port) = text.trim().rsplit_once(':').ok_or(InvalidHostPort)?;
        let port = port.parse().map_err(|_| InvalidHostPort)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .filter(|host| host.contains(':'))
                .ok_or(InvalidHostPort)?,
            None if host.contains(':') => return Err(InvalidHostPort),
            None => host,
        };
        let strange = |c: char| c.is_whitespace() || c.is_control() || "/@[]".contains(c);
        if host.is_empty() || host.contains(strange) {
            return Err(InvalidHostPort);
        }
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let count: u64 = digits.parse().ok()?;
    match unit.trim_start() {
        "" | "ms" => Some(Duration::from_millis(count)),
        "s" => Some(Duration::from_secs(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let source = [
            ("MASTER_PORT", "70000"),
            ("FS_SIZE", "10GB"),
            ("FRESH_START", "maybe"),
            ("COLOUR", "mauve"),
            ("STEP", "9h"),
        ];
        let mut env = Env::new(&source);
        assert_eq!(env.port("MASTER_PORT", 4100), 4100);
        env.bytes(
            "FS_SIZE",
            ByteSize::from_gib(10),
            ByteSize::from_mib(1)..=ByteSize::from_gib(4096),
        );
        env.boolean("FRESH_START", false);
        env.choice("COLOUR", 1, &[("red", 1), ("blue", 2)]);
        env.duration_ms(
            "STEP",
            Duration::from_millis(250),
            Duration::from_millis(1)..=Duration::from_secs(60),
        );
        assert_eq!(env.required::<HostPort>("PEER", HostPort::ALLOWED), None);
        let expected = "\
MASTER_PORT: found \"70000\", allowed is a port from 0 to 65535, where 0 means a free one
FS_SIZE: found \"10GB\", allowed is bytes, or a number with KiB, MiB, GiB or TiB, from 1MiB to 4TiB
FRESH_START: found \"maybe\", allowed is TRUE or FALSE, true or false, 1 or 0
COLOUR: found \"mauve\", allowed is one of red, blue
STEP: found \"9h\", allowed is milliseconds, or a number with ms or s, from 1ms to 60000ms
PEER: is not set, allowed is host:port, with an IPv6 host in brackets";
        assert_eq!(env.finish().unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_good_environment_is_read_and_shown() {
        let source = [
            ("MASTER_PORT", " 0 "),
            ("FS_SIZE", "2048KiB"),
            ("EMPTY", ""),
            ("STEP", "2s"),
            ("PEERS", "a:1, [::1]:2"),
        ];
        let mut env = Env::new(&source);
        assert_eq!(env.port("MASTER_PORT", 4100), 0);
        let size = env.bytes(
            "FS_SIZE",
            ByteSize::from_gib(10),
            ByteSize::new(1)..=ByteSize::from_gib(20),
        );
        assert_eq!(size, ByteSize::from_mib(2));
        assert_eq!(env.string("EMPTY", "fallback"), "fallback");
        let step = env.duration_ms(
            "STEP",
            Duration::ZERO,
            Duration::ZERO..=Duration::from_secs(9),
        );
        assert_eq!(step, Duration::from_secs(2));
        assert_eq!(
            env.list::<HostPort>("PEERS", HostPort::ALLOWED),
            [HostPort::new("a", 1), HostPort::new("::1", 2)]
        );
        assert_eq!(env.finish(), Ok(()));
        let shown: Vec<_> = env
            .shown()
            .iter()
            .map(|(k, v, d)| (k.as_str(), v.as_str(), *d))
            .collect();
        let expected = [
            ("MASTER_PORT", "0", false),
            ("FS_SIZE", "2MiB", false),
            ("EMPTY", "fallback", true),
            ("STEP", "2000ms", false),
            ("PEERS", "a:1,[::1]:2", false),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_flag_wins_over_the_variable() {
        let source = [("A", "1"), ("B", "2")];
        let mut env = Env::new(&source).with_overrides([("A".to_owned(), "7".to_owned())]);
        assert_eq!(
            (env.number("A", 0, 0..=9), env.number("B", 0, 0..=9)),
            (7, 2)
        );
    }

    #[test]
    fn a_secret_is_never_printed() {
        let source = [("TOKEN", "hunter2")];
        let mut env = Env::new(&source);
        let secret = env.secret("TOKEN").unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert!(!format!("{env:?} {secret:?} {:?}", env.shown()).contains("hunter2"));
    }

    #[test]
    fn addresses_without_a_clear_host_or_port_are_refused() {
        for text in [
            "",
            "host",
            ":1",
            "host:",
            "host:99999",
            "::1:80",
            "[::1]",
            "[host]:1",
            "http://h:1",
            "a b:1",
        ] {
            assert_eq!(text.parse::<HostPort>(), Err(InvalidHostPort), "{text}");
        }
    }
}
