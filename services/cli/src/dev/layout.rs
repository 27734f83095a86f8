//! Members of `cstore dev`: their roles, their ports, and the variables laid over the environment.

use std::path::{Path, PathBuf};

use cstore_node::{Env, Source};

use crate::args;
use crate::exit::Failure;
use crate::limits::MAX_DEV_NODES;
use crate::role::Role;

/// Loopback only: nobody else may reach a system that lets everybody do everything.
pub(super) const HOST: &str = "127.0.0.1";

/// The members and what they share.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) data_dir: PathBuf,
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
    pub(super) fn new(options: &args::Dev, env: &mut Env<'_>) -> Result<Self, Failure> {
        let data_dir = env.path("CSTORE_DATA_DIR", "./data");
        let found = storages_in(&data_dir);
        let storages = options.storages.unwrap_or_else(|| found.max(1));
        if found != 0 && storages != found {
            return Err(Failure::Usage(format!(
                "--storages {storages}: the data in {} is spread over {found} storage nodes",
                data_dir.display()
            )));
        }
        let ports = [Role::Gateway, Role::Worker, Role::Master, Role::Storage].map(|role| {
            let (variable, default) = role.port();
            (role, env.port(variable, default))
        });
        let layout = Self {
            data_dir,
            workers: options.workers,
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
        source: &dyn Source,
        port: u16,
        master_port: u16,
    ) -> Vec<(String, String)> {
        let mut pairs = vec![
            ("CSTORE_LISTEN_HOST", HOST.to_owned()),
            ("CSTORE_ADVERTISE_HOST", HOST.to_owned()),
            ("CSTORE_MASTER_ADDR", format!("{HOST}:{master_port}")),
            ("CSTORE_STORAGE_NODES", self.storages.to_string()),
            ("CSTORE_NODE_ID", member.id.clone()),
            (member.role.port().0, port.to_string()),
        ];
        // A user who names a token file wants a gateway that demands tokens.
        let unset = |key| source.get(key).is_none_or(|value| value.trim().is_empty());
        if unset("CSTORE_ANONYMOUS") && unset("CSTORE_API_TOKENS_FILE") {
            pairs.push(("CSTORE_ANONYMOUS", "true".to_owned()));
        }
        pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
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

    fn layout(options: args::Dev, pairs: &[(&str, &str)]) -> (Result<Layout, Failure>, bool) {
        let source: std::collections::BTreeMap<String, String> = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let mut env = Env::new(&source);
        let layout = Layout::new(&options, &mut env);
        (layout, env.finish().is_ok())
    }

    fn options(workers: u16, storages: Option<u16>) -> args::Dev {
        args::Dev { workers, storages }
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
