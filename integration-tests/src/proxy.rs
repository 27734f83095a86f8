//! A TCP proxy that can be told to be a bad network: between any two parts of a cluster.
//!
//! It listens on another address of loopback (`127.0.0.2`) and the port of what stands behind it,
//! so that a part is put behind it by its host name alone.
//!
//! ```text
//! dialer ──── Way::There ───▶ proxy ───▶ target
//!        ◀─── Way::Back ─────
//! ```

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// The host under which parts are reached through a proxy.
pub const HOST: &str = "127.0.0.2";

const PIECE: usize = 16 << 10;
/// Bytes that are kept to be searched.
const CAPTURE: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A direction, seen from the part that dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Requests.
    There,
    /// The answers of the target.
    Back,
}

/// Effect of the network on bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Weather {
    /// Nothing.
    #[default]
    Fair,
    /// Connections stay, and nothing moves.
    Stalled,
    /// Bytes in this direction are lost, while the connection looks well.
    Swallowed(Way),
    /// One bit flips in each piece of at least this many bytes that goes this way.
    Flipped(Way, usize),
    /// All connections break and new ones are closed at once.
    Cut,
}

#[derive(Debug, Default)]
struct State {
    weather: Weather,
    streams: Vec<TcpStream>,
    /// Pieces that the weather held back, swallowed or changed since it was set.
    hit: u64,
    /// Connections that were let through since the start.
    connections: u64,
    /// The first bytes of each connection, each way.
    first: Vec<(Way, Vec<u8>)>,
    /// Bytes that went through, up to a bound.
    captured: Vec<u8>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A running proxy; ends with its drop.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    /// host:port to dial.
    pub addr: String,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Stands before `target`, an address on `127.0.0.1`.
    ///
    /// # Errors
    /// When the same port of [`HOST`] cannot be had.
    ///
    /// # Panics
    /// When `target` is not an address.
    pub fn before(target: &str) -> io::Result<Self> {
        Self::before_on(HOST, target)
    }

    /// Like [`Self::before`], on another address of loopback: several proxies may stand before one
    /// target.
    ///
    /// # Errors
    /// When the same port of `host` cannot be had.
    ///
    /// # Panics
    /// When `target` is not an address.
    pub fn before_on(host: &str, target: &str) -> io::Result<Self> {
        let target: SocketAddr = target.parse().expect("the target is an address");
        let addr = format!("{host}:{}", target.port());
        let listener = TcpListener::bind(&addr)?;
        let shared = Arc::new(Shared::default());
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, target, &shared)
        });
        Ok(Self {
            shared,
            addr,
            acceptor: Some(acceptor),
        })
    }

    /// Changes the weather. [`Weather::Cut`] breaks what is open; so does the end of swallowing,
    /// because the bytes that are lost would be missing in mid-stream, which TCP never shows.
    pub fn set(&self, weather: Weather) {
        let mut state = self.shared.state.lock();
        if weather == Weather::Cut || matches!(state.weather, Weather::Swallowed(_)) {
            state.hang_up();
        }
        (state.weather, state.hit) = (weather, 0);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Returns how often the present weather has struck.
    pub fn hits(&self) -> u64 {
        self.shared.state.lock().hit
    }

    /// Returns the first bytes of each connection in this direction.
    pub fn first_bytes(&self, way: Way) -> Vec<Vec<u8>> {
        let state = self.shared.state.lock();
        state
            .first
            .iter()
            .filter(|(seen, _)| *seen == way)
            .map(|(_, bytes)| bytes.clone())
            .collect()
    }

    /// Returns true if these bytes went through unencrypted.
    pub fn saw(&self, needle: &[u8]) -> bool {
        let state = self.shared.state.lock();
        state
            .captured
            .windows(needle.len())
            .any(|window| window == needle)
    }

    /// Returns the number of connections that were let through.
    pub fn connections(&self) -> u64 {
        self.shared.state.lock().connections
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            state.closed = true;
            state.hang_up();
        }
        self.shared.changed.notify_all();
        // The acceptor waits for a connection: this one is to wake it.
        drop(TcpStream::connect(&self.addr));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl State {
    fn hang_up(&mut self) {
        for stream in self.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    for dialer in listener.incoming().flatten() {
        let mut state = shared.state.lock();
        if state.closed {
            return;
        }
        if state.weather == Weather::Cut {
            state.hit += 1;
            continue;
        }
        let Ok(server) = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) else {
            continue;
        };
        let _ = (dialer.set_nodelay(true), server.set_nodelay(true));
        let copies = (
            dialer.try_clone(),
            server.try_clone(),
            dialer.try_clone(),
            server.try_clone(),
        );
        let (Ok(dialer_out), Ok(server_out), Ok(dialer_kept), Ok(server_kept)) = copies else {
            continue;
        };
        state.streams.extend([dialer_kept, server_kept]);
        state.connections += 1;
        drop(state);
        for (way, from, to) in [
            (Way::There, dialer, server_out),
            (Way::Back, server, dialer_out),
        ] {
            let shared = shared.clone();
            drop(std::thread::spawn(move || forward(way, from, to, &shared)));
        }
    }
}

/// Copies one direction until an end goes away, then hangs up both.
fn forward(way: Way, mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut piece = vec![0; PIECE];
    let mut begun = false;
    loop {
        let length = match from.read(&mut piece) {
            Ok(length) if length > 0 => length,
            _ => break,
        };
        let bytes = &mut piece[..length];
        shared.capture(way, bytes, !std::mem::replace(&mut begun, true));
        if shared.weather_for(way, bytes) && to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

impl Shared {
    fn capture(&self, way: Way, bytes: &[u8], is_first: bool) {
        let mut state = self.state.lock();
        if is_first {
            state
                .first
                .push((way, bytes[..bytes.len().min(16)].to_vec()));
        }
        if state.captured.len() + bytes.len() <= CAPTURE {
            state.captured.extend_from_slice(bytes);
        }
    }

    /// Applies the weather to a piece. Returns true if the piece goes on.
    fn weather_for(&self, way: Way, bytes: &mut [u8]) -> bool {
        let mut state = self.state.lock();
        if state.weather == Weather::Stalled {
            state.hit += 1;
        }
        while state.weather == Weather::Stalled && !state.closed {
            self.changed.wait(&mut state);
        }
        match state.weather {
            Weather::Swallowed(lost) if lost == way => {
                state.hit += 1;
                false
            }
            Weather::Flipped(changed, at_least) if changed == way && bytes.len() >= at_least => {
                state.hit += 1;
                // Somewhere else each time, so that heads, lengths and payloads are all struck.
                let at = usize::try_from(state.hit.wrapping_mul(7_919)).unwrap_or(0) % bytes.len();
                bytes[at] ^= 1 << (state.hit % 8);
                true
            }
            _ => true,
        }
    }
}
