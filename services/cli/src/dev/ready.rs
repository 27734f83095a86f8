//! The message that the system takes uploads.

use std::io::Write;
use std::path::PathBuf;

use cstore_node::admin::Readiness;

use super::layout::HOST;
use crate::limits::READY_PATIENCE;

/// Contents of the message.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) gateway_port: u16,
    pub(super) master_port: u16,
    pub(super) data_dir: PathBuf,
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
        .write_all(greeting.text().as_bytes());
}

impl Greeting {
    fn text(&self) -> String {
        let Self {
            gateway_port,
            master_port,
            data_dir,
        } = self;
        let url = format!("http://{HOST}:{gateway_port}");
        let data = data_dir.display();
        format!(
            "C-Store is ready at {url}\n  \
             curl -T Cargo.toml {url}/api/files/Cargo.toml\n  \
             grpcurl -plaintext -H \"authorization: Bearer $(CSTORE_DATA_DIR={data} cstore admin bearer)\" \
             {HOST}:{master_port} cstore.v1.Namespace/ListFiles\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_has_the_url_and_the_others_can_be_pasted() {
        let greeting = Greeting {
            gateway_port: 8_000,
            master_port: 4_100,
            data_dir: PathBuf::from("./data"),
        };
        let text = greeting.text();
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        assert_eq!(lines[0], "C-Store is ready at http://127.0.0.1:8000");
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
