//! Servers of this process, which its other roles call without sockets.
//!
//! ```text
//! role that serves ── publish(address, server) ──▶ LocalServers ◀── find(address) ── role that calls
//!                     withdrawn when it stops
//! ```
//! `cstore dev` runs all roles in one process. Their addresses are given at the start; a call to one
//! of them never takes a socket, not even while the role is away: it fails as unavailable then, as a
//! refused connection would.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

type Published = Arc<dyn Any + Send + Sync>;

/// The addresses of the roles of this process, each with what is served there. Clones share them.
#[derive(Clone, Default)]
pub struct LocalServers(Arc<RwLock<HashMap<String, Option<Published>>>>);

impl LocalServers {
    /// Adds the address (host:port) of a role of this process. MUST be called BEFORE another role
    /// makes a channel to it, which takes a connection otherwise.
    pub fn add(&self, addr: impl Into<String>) {
        self.0.write().entry(addr.into()).or_default();
    }

    /// Returns true if a role of this process has the address.
    pub fn has(&self, addr: &str) -> bool {
        self.0.read().contains_key(addr)
    }

    /// Lets callers find `server` at `addr` until the publication is dropped. A later publication
    /// replaces an earlier one. Without effect if no role of this process has the address.
    pub fn publish<S: Send + Sync + 'static>(&self, addr: &str, server: Arc<S>) -> Publication {
        let server: Published = server;
        if let Some(slot) = self.0.write().get_mut(addr) {
            *slot = Some(server.clone());
        }
        Publication {
            servers: self.clone(),
            addr: addr.to_owned(),
            server,
        }
    }

    /// Returns the server at `addr`; `None` while no server of this type is published there.
    pub fn find<S: Send + Sync + 'static>(&self, addr: &str) -> Option<Arc<S>> {
        let found = self.0.read().get(addr).cloned().flatten();
        found.and_then(|server| server.downcast().ok())
    }
}

impl std::fmt::Debug for LocalServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.read().keys()).finish()
    }
}

/// A published server. Dropping the publication withdraws the server.
#[must_use = "dropping it withdraws the server"]
pub struct Publication {
    servers: LocalServers,
    addr: String,
    server: Published,
}

impl Drop for Publication {
    fn drop(&mut self) {
        let mut servers = self.servers.0.write();
        let slot = servers.get_mut(&self.addr);
        // The next life of a role may have published already.
        if let Some(slot) = slot
            && slot
                .as_ref()
                .is_some_and(|server| Arc::ptr_eq(server, &self.server))
        {
            *slot = None;
        }
    }
}

impl std::fmt::Debug for Publication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Publication({})", self.addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_at_its_address_until_it_is_withdrawn_or_replaced() {
        let servers = LocalServers::default();
        servers.add("a:1");
        assert!(servers.has("a:1") && !servers.has("b:1"));
        assert_eq!(servers.find::<u8>("a:1"), None);

        let first = servers.publish("a:1", Arc::new(1_u8));
        assert_eq!(servers.find::<u8>("a:1").as_deref(), Some(&1));
        assert_eq!(servers.find::<u16>("a:1"), None, "of another type");

        let second = servers.publish("a:1", Arc::new(2_u8));
        drop(first);
        assert_eq!(servers.find::<u8>("a:1").as_deref(), Some(&2));
        drop(second);
        assert_eq!(servers.find::<u8>("a:1"), None);

        drop(servers.publish("b:1", Arc::new(3_u8)));
        let _elsewhere = servers.publish("b:1", Arc::new(3_u8));
        assert_eq!(servers.find::<u8>("b:1"), None);
    }
}
