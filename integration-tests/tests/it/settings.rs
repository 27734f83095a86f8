//! Settings are the same in the program, `.env`, the documents, Compose and the chart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use cstore_types::ClusterSecret;

use crate::PROGRAM;

const ROLES: [(&str, &str); 4] = [
    ("gateway", "GATEWAY_PORT"),
    ("master", "MASTER_PORT"),
    ("worker", "WORKER_PORT"),
    ("storage", "STORAGE_PORT"),
];

/// Variables that Compose or the chart sets itself, or has no use for, and why.
const FIXED: &[(&str, &str)] = &[
    ("WORKER_PORT", "inside of the network"),
    ("STORAGE_PORT", "inside of the network"),
    ("CSTORE_NODE_ID", "each service its own"),
    ("CSTORE_ADVERTISE_HOST", "each service its own"),
    (
        "CSTORE_TLS_DIR",
        "Compose's network is internal; the chart has tls.enabled",
    ),
    ("CSTORE_TLS_CLIENT_AUTH", "always, where there is TLS"),
    (
        "CSTORE_API_TOKENS_FILE",
        "in the gateway's volume; the chart mounts it",
    ),
    ("CSTORE_STORAGE_NODES", "as many as there are"),
    ("CSTORE_REFLECTION", "for tests only"),
    ("OTEL_SERVICE_NAME", "the role's name"),
    ("CSTORE_URL", "of clients"),
    ("CSTORE_TOKEN", "of clients"),
];
/// Variables that only the chart lacks, and why.
const NOT_IN_CHART: &[(&str, &str)] = &[
    (
        "CSTORE_FAILURE_DOMAIN",
        "by storage.extraEnv; nothing uses it before there are replicas",
    ),
    ("CSTORE_RETRY_STEP", "by extraEnv"),
    ("CSTORE_MIN_RATE", "by gateway.extraEnv"),
    ("FRESH_START", "no upgrade may format a disk"),
    ("CSTORE_FRESH_START_ERASE", "no upgrade may format a disk"),
    ("OTEL_TRACES_SAMPLER_ARG", "tracing.samplerArg"),
    ("OTEL_TRACES_SAMPLER", "tracing.sampler"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "tracing.endpoint"),
];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Variables of `.env` with their defaults.
fn listed() -> BTreeMap<String, String> {
    let text = read(".env");
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("# ")?.split_once('='));
    let is_name = |name: &str| {
        name.chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    lines
        .filter(|(name, _)| is_name(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Returns the settings that each role would run with if nothing is set. The role ends because its
/// port is taken.
fn defaults() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (role, _) in ROLES {
        for (name, values) in defaults_of(role) {
            found.entry(name).or_default().extend(values);
        }
    }
    found
}

/// Returns the settings that one role would run with if nothing is set.
fn defaults_of(role: &str) -> BTreeMap<String, BTreeSet<String>> {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, ClusterSecret::generate().unwrap().expose()).unwrap();
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (role, port) in ROLES.into_iter().filter(|(name, _)| *name == role) {
        let mut command = Command::new(PROGRAM);
        command
            .arg(role)
            .env_clear()
            .current_dir(dir.path())
            .env("CSTORE_CLUSTER_SECRET_FILE", &secret);
        command
            .env("LOG_LEVEL", "DEBUG")
            .env(port, taken.local_addr().unwrap().port().to_string());
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("is taken"), "{role}: {told}");
        for line in told
            .lines()
            .filter(|line| line.contains("configuration, by default"))
        {
            let (_, rest) = line.split_once("variable=\"").unwrap();
            let (name, rest) = rest.split_once('"').unwrap();
            let (_, value) = rest.split_once("value=\"").unwrap();
            found
                .entry(name.to_owned())
                .or_default()
                .insert(value.trim_end_matches('"').to_owned());
        }
    }
    found
}

/// Milliseconds are written without a unit in `.env`, as the names of the variables say.
fn plain(value: &str) -> String {
    let number = value
        .strip_suffix("ms")
        .filter(|number| number.parse::<u64>().is_ok());
    match value {
        "(unset)" => String::new(),
        _ => number.unwrap_or(value).to_owned(),
    }
}

#[test]
fn env_lists_every_variable_of_the_program_with_its_default() {
    let (listed, defaults) = (listed(), defaults());
    assert!(
        defaults.len() > 30,
        "only {} variables were seen",
        defaults.len()
    );
    for (name, values) in &defaults {
        let Some(told) = listed.get(name) else {
            assert_eq!(name, "CSTORE_REFLECTION", ".env lacks {name}");
            continue;
        };
        // Written out, because an empty one would say nothing: the folder is told by
        // CSTORE_DATA_DIR.
        let by_folder =
            ["CSTORE_API_TOKENS_FILE", "CSTORE_CLUSTER_SECRET_FILE"].contains(&name.as_str());
        let sampler = name == "OTEL_TRACES_SAMPLER_ARG";
        let same = values.iter().any(|value| plain(value) == *told);
        assert!(
            same || by_folder || sampler,
            ".env says {name}={told}, the program {values:?}"
        );
    }
    let set: BTreeSet<&str> = [
        "LOG_LEVEL",
        "CSTORE_CLUSTER_SECRET_FILE",
        "CSTORE_URL",
        "CSTORE_TOKEN",
    ]
    .into_iter()
    .chain(ROLES.map(|(_, port)| port))
    .collect();
    for name in listed.keys() {
        assert!(
            defaults.contains_key(name) || set.contains(name.as_str()),
            "nothing reads {name} of .env"
        );
    }
}

#[test]
fn every_setting_is_a_flag_whose_help_has_its_variable_and_default() {
    for (role, _) in ROLES.into_iter().chain([("dev", ""), ("serve", "")]) {
        let output = Command::new(PROGRAM)
            .args([role, "--help"])
            .output()
            .unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        // Long lines are wrapped.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        // `dev` and `serve` have the settings of all roles.
        let settings = match role {
            "dev" | "serve" => defaults(),
            role => defaults_of(role),
        };
        assert!(settings.len() > 10, "{role}");
        for (name, values) in settings {
            let flag = name.trim_start_matches("CSTORE_").to_lowercase();
            let flag = format!("--{} <VALUE>", flag.replace('_', "-"));
            assert!(help.contains(&flag), "{role} has no {flag}");
            let (_, rest) = help.split_once(&flag).unwrap();
            let told = rest.split(']').next().unwrap();
            assert!(
                told.contains(&format!("variable: {name}")),
                "{role}: {told}"
            );
            let described = DESCRIBED.iter().any(|(described, _)| *described == name);
            // The default of OTEL_TRACES_SAMPLER_ARG depends on the sampler.
            let is_argument = name == "OTEL_TRACES_SAMPLER_ARG";
            if described || is_argument || name == "CSTORE_NODE_ID" {
                continue;
            }
            let default = told.split_once("default: ").map(|(_, rest)| rest);
            let default = default
                .and_then(|rest| rest.split(';').next())
                .unwrap_or_default();
            let words: Vec<&str> = default.split([' ', ',']).collect();
            for value in values {
                assert!(
                    words.contains(&plain(&value).as_str()),
                    "{role}: {told} lacks {value:?}"
                );
            }
        }
    }
}

/// Variables whose default depends on other settings, with the words of the document for it.
const DESCRIBED: &[(&str, &str)] = &[
    (
        "CSTORE_API_TOKENS_FILE",
        "`api-tokens` in `CSTORE_DATA_DIR`",
    ),
    (
        "CSTORE_CLUSTER_SECRET_FILE",
        "`cluster-secret` in `CSTORE_DATA_DIR`",
    ),
    ("CSTORE_FAILURE_DOMAIN", "the node itself"),
    ("OTEL_SERVICE_NAME", "`cstore-<role>`"),
];

#[test]
fn the_document_of_settings_has_the_default_of_every_variable() {
    let document = read("docs/configuration.md");
    let rows: BTreeMap<&str, &str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(name, rest)| Some((name, rest.split_once(" | ")?.0)))
        .collect();
    for (name, values) in defaults() {
        // The row of OTEL_TRACES_SAMPLER documents this variable, too.
        if name == "OTEL_TRACES_SAMPLER_ARG" {
            continue;
        }
        let told = *rows
            .get(name.as_str())
            .unwrap_or_else(|| panic!("docs/configuration.md has no row for {name}"));
        if let Some((_, described)) = DESCRIBED.iter().find(|(described, _)| *described == name) {
            assert_eq!(told, *described, "{name}");
            continue;
        }
        // Roles may have different defaults. The document must name all of them.
        let words: Vec<&str> = told.split([' ', ',', ';', '`']).collect();
        for value in &values {
            let value = plain(value);
            let is_told = if value.is_empty() {
                told == "unset"
            } else {
                words.contains(&value.as_str())
            };
            assert!(
                is_told,
                "docs/configuration.md says that {name} is {told:?}, the program {values:?}"
            );
        }
    }
}

#[test]
fn compose_and_the_chart_pass_every_variable_or_say_why_not() {
    let compose = read("deploy/compose.yaml");
    let chart: String = [
        "_pod.tpl",
        "gateway.yaml",
        "master.yaml",
        "worker.yaml",
        "storage.yaml",
    ]
    .map(|file| read(&format!("helm/cstore/templates/{file}")))
    .concat()
    .replace("{{ upper .role }}_PORT", "GATEWAY_PORT MASTER_PORT");
    for name in listed().keys() {
        if FIXED.iter().any(|(fixed, _)| fixed == name) {
            continue;
        }
        assert!(
            compose.contains(&format!("{name}:")) || compose.contains(&format!("${{{name}:-")),
            "deploy/compose.yaml lacks {name}"
        );
        let excused = NOT_IN_CHART.iter().any(|(left, _)| left == name);
        assert!(
            chart.contains(name.as_str()) || excused,
            "the chart lacks {name}"
        );
    }
    // And nothing that the program does not know, but what is Compose's own.
    let own = [
        "CSTORE_IMAGE",
        "CSTORE_PULL_POLICY",
        "CSTORE_SECRETS_GID",
        "CSTORE_SECRETS_DIR",
        "CSTORE_MEM_LIMIT",
    ];
    let settings = read("docs/configuration.md");
    for text in [&compose, &chart] {
        for word in
            text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        {
            if word.starts_with("CSTORE_") && !own.contains(&word) {
                assert!(
                    settings.contains(&format!("`{word}`")),
                    "{word} is nothing that the program reads"
                );
            }
        }
    }
}

#[test]
fn wrong_entries_are_told_all_at_once_with_what_is_allowed() {
    let mut command = Command::new(PROGRAM);
    command
        .arg("storage")
        .env_clear()
        .env("CSTORE_CLUSTER_SECRET_FILE", "/nowhere/secret");
    command
        .env("FS_SIZE", "much")
        .env("BLOCK_SIZE", "63")
        .env("CSTORE_DRAIN_TIMEOUT_MS", "1h");
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64));
    for words in [
        "FS_SIZE: found \"much\"",
        "BLOCK_SIZE: found \"63\"",
        "CSTORE_DRAIN_TIMEOUT_MS: found \"1h\"",
        "cluster secret",
    ] {
        assert!(told.contains(words), "{told}");
    }
}
