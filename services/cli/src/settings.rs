//! Settings of the roles: each is a variable of the environment and a flag, which wins.
//!
//! The table defines the flags and their help, and detects misspelt names: otherwise a misspelt
//! variable would have no effect and no message.

mod table;

use std::marker::PhantomData;

use clap::{Arg, ArgMatches, Command};
use cstore_node::{Env, Source};

use crate::exit::Failure;
use crate::role::Role;
use table::{EVERY_ROLE, OF_CLIENTS, OTHERS, Readers, SETTINGS};

/// A setting of at least one role.
#[derive(Debug)]
struct Setting {
    variable: &'static str,
    /// Flag without its two dashes.
    flag: &'static str,
    /// Value if neither is set. Empty if it stays unset.
    default: &'static str,
    readers: Readers,
    meaning: &'static str,
}

/// Commands with a set of settings.
pub(crate) trait Reader {
    const READERS: Readers;
}

macro_rules! readers {
    ($($name:ident = $readers:expr;)*) => {$(
        /// Settings of a command.
        #[derive(Debug)]
        pub(crate) enum $name {}
        impl Reader for $name {
            const READERS: Readers = $readers;
        }
    )*};
}

readers! {
    OfGateway = Role::Gateway.reader();
    OfMaster = Role::Master.reader();
    OfWorker = Role::Worker.reader();
    OfStorage = Role::Storage.reader();
    OfAllRoles = EVERY_ROLE;
}

/// Flags of the settings of a command, by their variables.
#[derive(Debug)]
pub(crate) struct Settings<R> {
    given: Vec<(&'static str, String)>,
    command: PhantomData<R>,
}

impl<R> Settings<R> {
    /// Returns the environment `source` with the flags laid over it.
    pub(crate) fn over<'a>(&'a self, source: &'a dyn Source) -> WithFlags<'a> {
        WithFlags {
            given: &self.given,
            source,
        }
    }
}

fn settings_of(readers: Readers) -> impl Iterator<Item = &'static Setting> {
    SETTINGS
        .iter()
        .filter(move |setting| setting.readers & readers != 0)
}

fn arg(setting: &'static Setting) -> Arg {
    let default = match setting.default {
        "" => String::new(),
        default => format!("default: {default}; "),
    };
    let help = format!(
        "{} [{default}variable: {}]",
        setting.meaning, setting.variable
    );
    let arg = Arg::new(setting.variable)
        .long(setting.flag)
        .value_name("VALUE")
        .help(help)
        .help_heading("Settings");
    if setting.variable == "CSTORE_DATA_DIR" {
        arg.visible_alias("data")
    } else {
        arg
    }
}

impl<R: Reader> clap::Args for Settings<R> {
    fn augment_args(command: Command) -> Command {
        command.args(settings_of(R::READERS).map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<R: Reader> clap::FromArgMatches for Settings<R> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = settings_of(R::READERS).filter_map(|setting| {
            let value: &String = matches.get_one(setting.variable)?;
            Some((setting.variable, value.clone()))
        });
        Ok(Self {
            given: given.collect(),
            command: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Returns `source` with some variables laid over it.
pub(crate) fn lay<'a>(
    given: &'a [(&'static str, String)],
    source: &'a dyn Source,
) -> WithFlags<'a> {
    WithFlags { given, source }
}

/// An environment with flags laid over it.
pub(crate) struct WithFlags<'a> {
    given: &'a [(&'static str, String)],
    source: &'a dyn Source,
}

impl Source for WithFlags<'_> {
    fn get(&self, key: &str) -> Option<String> {
        let flag = self.given.iter().find(|(variable, _)| *variable == key);
        flag.map_or_else(|| self.source.get(key), |(_, value)| Some(value.clone()))
    }

    fn names(&self) -> Vec<String> {
        self.source.names()
    }
}

/// Reports each variable that resembles a setting but is unknown.
pub(crate) fn refuse_unknown(env: &mut Env<'_>, source: &dyn Source) {
    for name in source.names() {
        if is_known(&name) || is_service_link(&name, source) {
            continue;
        }
        let nearest = nearest(&name);
        if name.starts_with("CSTORE_") || nearest.is_some_and(|near| is_typo(&name, near)) {
            env.refuse_unknown(&name, nearest);
        }
    }
}

/// Refuses variables that begin with `CSTORE_` and are unknown, for commands that run no role.
///
/// # Errors
/// If there is such a variable: a misspelt `CSTORE_URL` would lead a command to another gateway.
pub(crate) fn check_names(source: &dyn Source) -> Result<(), Failure> {
    let mut env = Env::new(source);
    for name in source.names() {
        let is_ours = name.starts_with("CSTORE_");
        if is_ours && !is_known(&name) && !is_service_link(&name, source) {
            env.refuse_unknown(&name, nearest(&name));
        }
    }
    env.finish().map_err(Failure::usage)
}

fn is_known(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.variable == name)
        || OF_CLIENTS.contains(&name)
        || OTHERS.contains(&name)
}

/// Returns true for a variable that Kubernetes or Docker sets for a service whose name begins like
/// a setting, such as `CSTORE_GATEWAY_PORT=tcp://10.0.0.1:8000`.
fn is_service_link(name: &str, source: &dyn Source) -> bool {
    let is_address = |value: String| value.starts_with("tcp://") || value.starts_with("udp://");
    ["_SERVICE_HOST", "_SERVICE_PORT", "_TCP_", "_UDP_"]
        .iter()
        .any(|part| name.contains(part))
        || source.get(name).is_some_and(is_address)
}

fn distance(a: &str, b: &str) -> usize {
    strsim::damerau_levenshtein(a, b)
}

/// Returns the known name that is nearest to `name`, if it is near.
fn nearest(name: &str) -> Option<&'static str> {
    let of_clients = OF_CLIENTS.iter().copied();
    let known = SETTINGS.iter().map(|setting| setting.variable);
    let known = known.chain(of_clients);
    let (near, found) = known
        .map(|known| (distance(name, known), known))
        .min_by_key(|(distance, _)| *distance)?;
    (near <= found.len() / 3).then_some(found)
}

/// Returns true if a name without the prefix `CSTORE_` is `known` with one letter wrong, or two
/// exchanged. Names of other programs may be as near as two letters, such as `GATEWAY_HOST`.
fn is_typo(name: &str, known: &str) -> bool {
    let first = |name: &str| name.split('_').next().map(str::to_owned);
    !known.starts_with("OTEL_") && first(name) == first(known) && distance(name, known) <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(pairs: &[(&str, &str)]) -> String {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let source: std::collections::BTreeMap<String, String> = pairs.collect();
        let mut env = Env::new(&source);
        refuse_unknown(&mut env, &source);
        env.finish()
            .err()
            .map(|found| found.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn a_misspelt_name_is_refused_with_the_nearest() {
        let told = mistakes(&[("CSTORE_DATADIR", "x")]);
        assert_eq!(
            told,
            "CSTORE_DATADIR: there is no such setting; the nearest is CSTORE_DATA_DIR"
        );
        assert!(mistakes(&[("GATEWAY_PROT", "1")]).ends_with("the nearest is GATEWAY_PORT"));
        assert_eq!(
            mistakes(&[("CSTORE_QUITE_ANOTHER_THING", "1")]),
            "CSTORE_QUITE_ANOTHER_THING: there is no such setting"
        );
    }

    #[test]
    fn names_of_others_are_left_alone() {
        let told = mistakes(&[
            ("PATH", "/bin"),
            ("LOG_LEVEL", "INFO"),
            ("LOGLEVEL", "INFO"),
            ("BLOCKSIZE", "1"),
            ("GATEWAY_HOST", "example.com"),
            ("STORAGE_ROOT", "/srv"),
            ("WORKER_POOL", "4"),
            ("MASTER_POD", "0"),
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("CSTORE_IMAGE", "x"),
            ("CSTORE_GATEWAY_PORT", "tcp://10.0.0.1:8000"),
            ("CSTORE_MASTER_SERVICE_HOST", "10.0.0.1"),
            ("CSTORE_MASTER_PORT_4100_TCP_ADDR", "10.0.0.1"),
        ]);
        assert_eq!(told, "");
    }

    #[test]
    fn a_client_refuses_misspelt_names_of_ours_and_no_others() {
        let told = |name: &str| {
            let source = std::collections::BTreeMap::from([(name.to_owned(), "x".to_owned())]);
            check_names(&source).map_err(|failure| failure.to_string())
        };
        assert_eq!(
            told("CSTORE_TOKN").unwrap_err(),
            "CSTORE_TOKN: there is no such setting; the nearest is CSTORE_TOKEN"
        );
        for fine in OF_CLIENTS.iter().chain(OTHERS) {
            told(fine).unwrap();
        }
        for fine in [
            "CSTORE_NODE_ID",
            "GATEWAY_PROT",
            "CSTORE_MASTER_SERVICE_HOST",
            "PATH",
        ] {
            told(fine).unwrap();
        }
    }

    #[test]
    fn every_variable_of_our_own_scripts_is_known() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut names = std::collections::BTreeSet::new();
        let scripts = [
            "Makefile",
            ".env",
            "deploy/compose.sh",
            "deploy/compose.yaml",
            "deploy/Dockerfile",
        ];
        for script in scripts {
            let text = std::fs::read_to_string(root.join(script)).unwrap();
            let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '_');
            names.extend(
                words
                    .filter(|word| word.starts_with("CSTORE_"))
                    .map(str::to_owned),
            );
        }
        assert!(names.len() > 20, "{names:?}");
        names.retain(|name| !is_known(name));
        assert!(names.is_empty(), "clients refuse them: {names:?}");
    }

    #[test]
    fn flags_follow_the_names_of_their_variables() {
        for setting in SETTINGS {
            let name = setting.variable.trim_start_matches("CSTORE_");
            assert_eq!(setting.flag, name.to_lowercase().replace('_', "-"));
        }
    }

    #[test]
    fn a_flag_wins_over_its_variable() {
        use clap::{Args as _, FromArgMatches as _};
        let command = Settings::<OfGateway>::augment_args(Command::new("gateway"));
        let given = ["gateway", "--data", "/a", "--gateway-port", "1"];
        let matches = command.try_get_matches_from(given).unwrap();
        let settings = Settings::<OfGateway>::from_arg_matches(&matches).unwrap();
        let source = [("GATEWAY_PORT", "2"), ("CSTORE_MIN_RATE", "3")];
        let source = settings.over(&source);
        let value = |name| source.get(name);
        assert_eq!(value("CSTORE_DATA_DIR").as_deref(), Some("/a"));
        assert_eq!(value("GATEWAY_PORT").as_deref(), Some("1"));
        assert_eq!(value("CSTORE_MIN_RATE").as_deref(), Some("3"));
    }
}
