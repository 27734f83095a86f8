//! The message that the system takes uploads.

use std::io::Write;
use std::path::PathBuf;

use cstore_node::admin::Readiness;

use cstore_node::HostPort;
use cstore_node::listen::is_loopback;

use super::layout::HOST;
use crate::limits::READY_PATIENCE;

/// Contents of the message.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) listen_host: String,
    pub(super) gateway_port: u16,
    pub(super) master_port: u16,
    pub(super) data_dir: PathBuf,
    /// Requests need no token.
    pub(super) is_anonymous: bool,
}

/// Prints the message once an upload would succeed; until then the log says from time to time what
/// is missing.
pub(super) async fn greet(gateway: Readiness, greeting: Greeting) {
    while tokio::time::timeout(READY_PATIENCE, gateway.wait_ready())
        .await
        .is_err()
    {
        let reasons: Vec<String> = gateway
            .reasons()
            .into_iter()
            .map(|(part, reason)| format!("{part}: {reason}"))
            .collect();
        tracing::warn!(reasons = reasons.join("; "), "not ready yet");
    }
    // Nobody may be listening to stdout, which is no reason to stop.
    let _ = std::io::stdout()
        .lock()
        .write_all(greeting.text(&program()).as_bytes());
}

impl Greeting {
    fn text(&self, program: &str) -> String {
        let Self {
            listen_host,
            gateway_port,
            master_port,
            data_dir,
            is_anonymous,
        } = self;
        // An address for all networks is none that a client can dial.
        let (dialled, reach) = match listen_host.as_str() {
            "0.0.0.0" | "::" => (HOST, ", and at all other addresses of this machine"),
            host if *is_anonymous || !is_loopback(host) => (host, ""),
            host => (
                host,
                ", from this machine only (--listen 0.0.0.0:8000 for others)",
            ),
        };
        let url = format!("http://{}", HostPort::new(dialled, *gateway_port));
        let token = if *is_anonymous {
            ""
        } else {
            "-H \"authorization: Bearer $CSTORE_TOKEN\" "
        };
        let data = data_dir.display();
        format!(
            "C-Store is ready at {url}{reach}; data in {data}\n  \
             curl {token}-T Cargo.toml {url}/api/files/Cargo.toml\n  \
             grpcurl -plaintext -H \"authorization: Bearer $(CSTORE_DATA_DIR={data} {program} admin bearer)\" \
             {HOST}:{master_port} cstore.v1.Namespace/ListFiles\n"
        )
    }
}

/// Returns the path of this program as a shell takes it.
fn program() -> String {
    let path = std::env::current_exe().ok();
    let path = path.as_deref().and_then(std::path::Path::to_str);
    // A path that a shell would split is not worth the quotes.
    path.filter(|path| !path.contains(|c: char| c.is_whitespace() || "'\"$`\\".contains(c)))
        .unwrap_or("cstore")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_has_the_url_and_the_others_can_be_pasted() {
        let greeting = Greeting {
            listen_host: HOST.to_owned(),
            gateway_port: 8_000,
            master_port: 4_100,
            data_dir: PathBuf::from("./data"),
            is_anonymous: true,
        };
        let text = greeting.text("cstore");
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        assert_eq!(
            lines[0],
            "C-Store is ready at http://127.0.0.1:8000; data in ./data"
        );
        assert!(
            lines[1].starts_with("curl ") && lines[2].starts_with("grpcurl "),
            "{text}"
        );
        assert!(
            !text.contains("Bearer 0"),
            "the token itself is not printed"
        );
    }
}
