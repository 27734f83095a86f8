//! Members of a process with all roles: their ports, and the variables laid over the environment.

use std::path::{Path, PathBuf};

use cstore_node::listen::is_loopback;
use cstore_node::{ByteSize, Env};
use cstore_storage::{LARGEST_FS_SIZE, MIN_FS_SIZE};

use crate::exit::Failure;
use crate::files::out::number;
use crate::limits::MAX_DEV_NODES;
use crate::role::Role;

/// Address of the inner ports. Roles of this process call each other without them, and the secret of
/// the cluster guards them.
pub(super) const HOST: &str = "127.0.0.1";

/// Use of a process with all roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// `cstore serve`: requests need a token.
    Serve,
    /// `cstore dev`: requests need none, unless CSTORE_API_TOKENS_FILE is set.
    Dev,
}

impl Purpose {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Dev => "dev",
        }
    }
}

/// Requested numbers of nodes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nodes {
    pub(super) workers: u16,
    /// `None` for as many as hold data, or one.
    pub(super) storages: Option<u16>,
}

/// The members and what they share.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) data_dir: PathBuf,
    /// Address of the gateway and of the admin port.
    pub(super) listen_host: String,
    /// Requests without a token are served.
    pub(super) is_anonymous: bool,
    pub(super) purpose: Purpose,
    workers: u16,
    storages: u16,
    ports: [(Role, u16); 4],
}

/// One role of the process.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) role: Role,
    pub(super) id: String,
    /// Configured port, 0 for a free one; later the bound port.
    pub(super) port: u16,
}

impl Layout {
    /// Reads the ports. The number of storage nodes is that of the directories of the last start,
    /// unless it is given.
    ///
    /// # Errors
    /// When fewer storage nodes are asked for than hold data: the rest of the data would be
    /// missing.
    pub(super) fn new(purpose: Purpose, nodes: Nodes, env: &mut Env<'_>) -> Result<Self, Failure> {
        let data_dir = env.path("CSTORE_DATA_DIR", "./data");
        let found = storages_in(&data_dir);
        let storages = nodes.storages.unwrap_or_else(|| found.max(1));
        if found != 0 && storages != found {
            return Err(Failure::Usage(format!(
                "--storages {storages}: the data in {} is spread over {}",
                data_dir.display(),
                number(u64::from(found), "storage node")
            )));
        }
        let ports = [Role::Gateway, Role::Worker, Role::Master, Role::Storage].map(|role| {
            let (variable, default) = role.port();
            (role, env.port(variable, default))
        });
        let listen_host = env.string("CSTORE_LISTEN_HOST", HOST);
        let layout = Self {
            is_anonymous: is_anonymous(purpose, &listen_host, env),
            listen_host,
            purpose,
            data_dir,
            workers: nodes.workers,
            storages,
            ports,
        };
        for role in [Role::Worker, Role::Storage] {
            let highest = layout.port(role).checked_add(layout.count(role) - 1);
            if layout.port(role) != 0 && highest.is_none() {
                env.refuse(
                    role.port().0,
                    "a port that leaves room above it for one port a node",
                );
            }
        }
        Ok(layout)
    }

    /// Returns the members in the order in which they are stopped: those that need others go first.
    pub(super) fn members(&self) -> Vec<Member> {
        let mut members = Vec::new();
        for (role, base) in self.ports {
            for number in 0..self.count(role) {
                let port = if base == 0 {
                    0
                } else {
                    base.saturating_add(number)
                };
                let id = match role {
                    Role::Gateway | Role::Master => role.name().to_owned(),
                    Role::Worker | Role::Storage => format!("{}-{}", role.name(), number + 1),
                };
                members.push(Member { role, id, port });
            }
        }
        members
    }

    /// Returns the variables in which this member differs from the environment of the process.
    pub(super) fn overrides(
        &self,
        member: &Member,
        port: u16,
        master_port: u16,
    ) -> Vec<(String, String)> {
        let mut pairs = vec![
            ("CSTORE_LISTEN_HOST", self.host_of(member.role).to_owned()),
            ("CSTORE_ADVERTISE_HOST", HOST.to_owned()),
            ("CSTORE_MASTER_ADDR", format!("{HOST}:{master_port}")),
            ("CSTORE_STORAGE_NODES", self.storages.to_string()),
            ("CSTORE_NODE_ID", member.id.clone()),
            (member.role.port().0, port.to_string()),
        ];
        pairs.push(("CSTORE_ANONYMOUS", self.is_anonymous.to_string()));
        pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    }

    /// Returns the capacity of a storage node if FS_SIZE is not set. `None` for the default.
    pub(super) fn default_capacity(&self, member: &Member) -> Option<ByteSize> {
        let is_storage = member.role == Role::Storage && self.purpose == Purpose::Serve;
        is_storage.then(|| capacity(&self.data_dir.join(&member.id), self.storages))?
    }

    /// Returns the address that a role listens on.
    pub(super) fn host_of(&self, role: Role) -> &str {
        match role {
            Role::Gateway => &self.listen_host,
            Role::Master | Role::Worker | Role::Storage => HOST,
        }
    }

    fn port(&self, role: Role) -> u16 {
        self.ports
            .iter()
            .find(|(found, _)| *found == role)
            .map_or(0, |(_, port)| *port)
    }

    fn count(&self, role: Role) -> u16 {
        match role {
            Role::Gateway | Role::Master => 1,
            Role::Worker => self.workers,
            Role::Storage => self.storages,
        }
    }
}

/// Returns true if requests without a token are served. Notes a mistake if others than this machine
/// could send them.
fn is_anonymous(purpose: Purpose, listen_host: &str, env: &mut Env<'_>) -> bool {
    // A user who names a token file wants a gateway that demands tokens.
    let has_token_file = env.optional_path("CSTORE_API_TOKENS_FILE").is_some();
    let default = purpose == Purpose::Dev && !has_token_file;
    let is_anonymous = env.boolean("CSTORE_ANONYMOUS", default);
    if is_anonymous && !is_loopback(listen_host) {
        match purpose {
            // Only somebody who has set it runs `serve` without tokens.
            Purpose::Serve => env.refuse(
                "CSTORE_ANONYMOUS",
                &format!(
                    "FALSE, the default, while other machines reach the address to listen on, {listen_host} \
                     (--listen, --listen-host or CSTORE_LISTEN_HOST)"
                ),
            ),
            Purpose::Dev => env.refuse(
                "CSTORE_LISTEN_HOST",
                "an address of this machine only, such as 127.0.0.1, while requests need no token; \
                 `cstore serve` demands tokens, and so does CSTORE_ANONYMOUS=FALSE",
            ),
        }
    }
    is_anonymous
}

/// Returns the size of the file system under `disk`, divided by the number of storage nodes. `None`
/// if the file system does not state a size.
fn capacity(disk: &Path, storages: u16) -> Option<ByteSize> {
    let folder = disk.ancestors().find(|folder| folder.is_dir());
    // A relative path without a folder lies in the current one.
    let found = rustix::fs::statvfs(folder.unwrap_or_else(|| Path::new("."))).ok()?;
    let bytes = found.f_blocks.saturating_mul(found.f_frsize) / u64::from(storages.max(1));
    (bytes != 0).then(|| ByteSize::new(bytes).clamp(MIN_FS_SIZE, LARGEST_FS_SIZE))
}

/// Returns the number of storage nodes that have left a directory.
fn storages_in(data_dir: &Path) -> u16 {
    (1..=MAX_DEV_NODES)
        .take_while(|number| data_dir.join(format!("storage-{number}")).is_dir())
        .last()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(nodes: Nodes, pairs: &[(&str, &str)]) -> (Result<Layout, Failure>, bool) {
        let source: std::collections::BTreeMap<String, String> = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let mut env = Env::new(&source);
        let layout = Layout::new(Purpose::Dev, nodes, &mut env);
        (layout, env.finish().is_ok())
    }

    const fn options(workers: u16, storages: Option<u16>) -> Nodes {
        Nodes { workers, storages }
    }

    #[test]
    fn only_this_machine_may_send_requests_without_a_token() {
        let cases = [
            (Purpose::Dev, vec![], true, true),
            (
                Purpose::Dev,
                vec![("CSTORE_LISTEN_HOST", "0.0.0.0")],
                true,
                false,
            ),
            (
                Purpose::Dev,
                vec![("CSTORE_LISTEN_HOST", "::1")],
                true,
                true,
            ),
            (
                Purpose::Dev,
                vec![
                    ("CSTORE_LISTEN_HOST", "0.0.0.0"),
                    ("CSTORE_ANONYMOUS", "FALSE"),
                ],
                false,
                true,
            ),
            (
                Purpose::Dev,
                vec![("CSTORE_API_TOKENS_FILE", "t")],
                false,
                true,
            ),
            (Purpose::Serve, vec![], false, true),
            (
                Purpose::Serve,
                vec![("CSTORE_LISTEN_HOST", "::")],
                false,
                true,
            ),
            (
                Purpose::Serve,
                vec![("CSTORE_LISTEN_HOST", "::"), ("CSTORE_ANONYMOUS", "TRUE")],
                true,
                false,
            ),
        ];
        for (purpose, mut pairs, is_anonymous, is_valid) in cases {
            pairs.push(("CSTORE_DATA_DIR", "/nonexistent"));
            let source: std::collections::BTreeMap<String, String> = pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            let mut env = Env::new(&source);
            let layout = Layout::new(purpose, options(1, None), &mut env).unwrap();
            assert_eq!(layout.is_anonymous, is_anonymous, "{purpose:?} {pairs:?}");
            assert_eq!(env.finish().is_ok(), is_valid, "{purpose:?} {pairs:?}");
            assert_eq!(layout.host_of(Role::Master), HOST);
        }
    }

    #[test]
    fn the_capacity_of_serve_is_that_of_the_file_system() {
        let found = capacity(Path::new("/nonexistent/data"), 1).unwrap();
        let half = capacity(Path::new("/nonexistent/data"), 2).unwrap();
        assert!(found >= half && half >= MIN_FS_SIZE, "{found} {half}");
        assert!(capacity(Path::new("data"), 1).is_some());
    }

    #[test]
    fn every_member_has_a_name_and_a_port_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().to_str().unwrap();
        let (found, valid) = layout(
            options(2, Some(2)),
            &[("CSTORE_DATA_DIR", data), ("STORAGE_PORT", "7000")],
        );
        let members: Vec<_> = found
            .unwrap()
            .members()
            .into_iter()
            .map(|m| (m.id, m.port))
            .collect();
        let expected = [
            ("gateway", 8000),
            ("worker-1", 5000),
            ("worker-2", 5001),
            ("master", 4100),
            ("storage-1", 7000),
            ("storage-2", 7001),
        ];
        assert!(valid);
        assert_eq!(members, expected.map(|(id, port)| (id.to_owned(), port)));
        let (free, _) = layout(
            options(2, None),
            &[("CSTORE_DATA_DIR", data), ("WORKER_PORT", "0")],
        );
        let workers: Vec<_> = free
            .unwrap()
            .members()
            .into_iter()
            .filter(|m| m.role == Role::Worker)
            .collect();
        assert!(
            workers.iter().all(|worker| worker.port == 0),
            "0 asks for a free port each time"
        );
    }

    #[test]
    fn ports_that_do_not_fit_are_a_mistake() {
        let (_, valid) = layout(
            options(1, Some(16)),
            &[
                ("CSTORE_DATA_DIR", "/nonexistent"),
                ("STORAGE_PORT", "65530"),
            ],
        );
        assert!(!valid);
    }

    #[test]
    fn the_number_of_storage_nodes_stays_what_the_data_was_spread_over() {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..=3 {
            std::fs::create_dir(dir.path().join(format!("storage-{number}"))).unwrap();
        }
        let pairs = [("CSTORE_DATA_DIR", dir.path().to_str().unwrap())];
        assert_eq!(
            layout(options(1, None), &pairs)
                .0
                .unwrap()
                .count(Role::Storage),
            3
        );
        assert!(layout(options(1, Some(2)), &pairs).0.is_err());
        assert!(layout(options(1, Some(3)), &pairs).0.is_ok());
    }
}
