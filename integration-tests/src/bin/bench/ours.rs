//! C-Store as a contestant: one process (`dev`) or four.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cstore_testkit::Port;

use crate::processes::{Servers, data_folder};

/// Processes of one contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setup {
    Dev,
    Four,
}

impl Setup {
    /// # Errors
    /// A message if there is no such set-up.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "dev" => Ok(Self::Dev),
            "four" => Ok(Self::Four),
            _ => Err(format!(
                "set-up {text:?} is unknown: allowed are dev and four"
            )),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Four => "four",
        }
    }

    fn roles(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &["dev"],
            Self::Four => &["master", "storage", "worker", "gateway"],
        }
    }

    /// Roles whose metrics count the syncs.
    fn roles_with_logs(self) -> usize {
        match self {
            Self::Dev => 1,
            Self::Four => 2,
        }
    }
}

/// Returns the command of a program, or of the one that is linked into this process.
fn command(program: Option<&Path>) -> Command {
    match program {
        Some(path) => Command::new(path),
        None => {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.arg("cstore");
            command
        }
    }
}

/// Returns the version that a program prints.
///
/// # Errors
/// A message if it is no program of ours.
pub(crate) fn version(program: Option<&Path>) -> Result<String, String> {
    let name = program.map_or_else(String::new, |path| path.display().to_string());
    let output = command(program).arg("--version").output();
    let output = output.map_err(|error| format!("cannot run {name}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().unwrap_or_default();
    if output.status.success() && first.starts_with("cstore") {
        Ok(first.to_owned())
    } else {
        Err(format!(
            "{name} is no cstore program: its --version printed {first:?}"
        ))
    }
}

/// Starts a program, with more variables for all processes, and waits until it takes uploads.
pub(crate) fn start(
    name: &str,
    program: Option<&PathBuf>,
    setup: Setup,
    env: &[(&str, &str)],
) -> Servers {
    let dir = tempfile::tempdir_in(data_folder()).unwrap();
    let secret = dir.path().join("cluster-secret");
    let generated = cstore_types::ClusterSecret::generate().unwrap();
    std::fs::write(&secret, generated.expose()).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let ports: Vec<Port> = (0..8).map(|_| Port::reserve()).collect();
    let numbers: Vec<String> = ports.iter().map(|port| port.number().to_string()).collect();
    let local = |number: &String| format!("127.0.0.1:{number}");
    let (services, admin) = numbers.split_at(4);

    let spawn = |(role, admin): (&&str, &String)| {
        let log = std::fs::File::create(dir.path().join(format!("{role}.log"))).unwrap();
        command(program.map(PathBuf::as_path))
            .arg(role)
            .env("CSTORE_DATA_DIR", dir.path())
            .env("CSTORE_CLUSTER_SECRET_FILE", &secret)
            .env("GATEWAY_PORT", &services[0])
            .env("MASTER_PORT", &services[1])
            .env("STORAGE_PORT", &services[2])
            .env("WORKER_PORT", &services[3])
            .env("CSTORE_MASTER_ADDR", local(&services[1]))
            .env("CSTORE_ADMIN_PORT", admin)
            .env("CSTORE_ANONYMOUS", "TRUE")
            .env("FS_SIZE", "60GiB")
            .env("LOG_LEVEL", "WARN")
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    };
    let children = setup.roles().iter().zip(admin).map(spawn).collect();
    let mut servers = Servers {
        name: name.to_owned(),
        version: version(program.map(PathBuf::as_path)).unwrap(),
        program: program.map_or_else(|| "this tree".to_owned(), |path| path.display().to_string()),
        addr: local(&services[0]),
        folder: "/api/files/".to_owned(),
        put_query: "",
        children,
        admin: admin[..setup.roles_with_logs()].iter().map(local).collect(),
        dir,
        ports,
    };
    servers.wait(|| ());
    servers
}
