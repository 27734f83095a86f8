//! Reservation of TCP ports on loopback, so that tests that run at the same time on one machine
//! never share a port.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::TcpSocket;

/// First port that tests use, and how many follow it. The range ends below the ports that the
/// system assigns to outgoing connections: otherwise a client could occupy a server's port while
/// the server restarts.
const FIRST: u16 = 16_000;
const COUNT: u16 = 16_000;

/// A port that is reserved until the value is dropped, whether a server listens on it or not.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// The locked file of the reservation. The system releases the lock with the process, so a
    /// killed test leaves no reservation.
    _lock: File,
}

impl Port {
    /// Reserves a port on which nobody listens.
    ///
    /// # Panics
    /// When all are taken, or the files of the reservations cannot be written.
    pub fn reserve() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes begin in different places, so that they seldom meet.
        let start = std::process::id().wrapping_mul(97);
        let locks = folder();
        std::fs::create_dir_all(&locks).expect("a temporary folder can be made");

        for _ in 0..COUNT {
            let n = start.wrapping_add(u32::from(NEXT.fetch_add(1, Ordering::Relaxed)))
                % u32::from(COUNT);
            let number = FIRST + u16::try_from(n).expect("below the count");
            let lock =
                File::create(locks.join(number.to_string())).expect("a reservation can be written");
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self {
                    number,
                    _lock: lock,
                };
            }
        }
        panic!("no port of {COUNT} is free");
    }

    /// Returns the number of the port.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Returns an address at which nobody listens, and the socket that keeps it so.
///
/// Connections to the address are refused as long as the socket lives. A port that was given back
/// could be the next one of another test.
pub fn nobody() -> (String, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap().to_string(), socket)
}

/// Returns the folder of the reservations. Each user has one: another user's could not be written.
fn folder() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    std::env::temp_dir().join(format!("cstore-test-ports-{user}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_until_it_is_given_back() {
        let ports: Vec<Port> = (0..50).map(|_| Port::reserve()).collect();
        let lock_of = |port: &Port| File::create(folder().join(port.number.to_string())).unwrap();
        for (at, port) in ports.iter().enumerate() {
            assert!(ports[..at].iter().all(|other| other.number != port.number));
            assert!(
                lock_of(port).try_lock().is_err(),
                "another process could take {}",
                port.number
            );
        }
    }
}
