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
    /// The command has the flag `--listen`.
    pub(super) has_listen_flag: bool,
}

/// Prints the message once uploads succeed. Until then it logs the missing parts every
/// [`READY_PATIENCE`].
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
            has_listen_flag,
        } = self;
        // Clients cannot dial a wildcard address.
        let (dialled, reach) = match listen_host.as_str() {
            "0.0.0.0" | "::" => (HOST, ", and at all other addresses of this machine"),
            host if *has_listen_flag && is_loopback(host) => (
                host,
                ", from this machine only (--listen 0.0.0.0:8000 for others)",
            ),
            host => (host, ""),
        };
        let url = format!("http://{}", HostPort::new(dialled, *gateway_port));
        let token = if *is_anonymous {
            ""
        } else {
            "-H \"authorization: Bearer $CSTORE_TOKEN\" "
        };
        let data = quoted(&data_dir.display().to_string());
        format!(
            "C-Store is ready at {url}{reach}; data in {data}\n  \
             echo hello | curl {token}-T - {url}/api/files/hello.txt\n  \
             grpcurl -plaintext -H \"authorization: Bearer $(CSTORE_DATA_DIR={data} {program} admin bearer)\" \
             {HOST}:{master_port} cstore.v1.Namespace/ListFiles\n"
        )
    }
}

/// Returns the path of this program as a shell takes it.
fn program() -> String {
    let path = std::env::current_exe().ok();
    let path = path.as_deref().and_then(std::path::Path::to_str);
    quoted(path.unwrap_or("cstore"))
}

/// Returns `text` as one word of a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell_are_quoted_where_needed() {
        assert_eq!(quoted("./data"), "./data");
        assert_eq!(quoted("/my data/it's"), "'/my data/it'\\''s'");
    }

    #[test]
    fn other_machines_are_named_where_they_can_come_in() {
        let text = |listen_host: &str| {
            let greeting = Greeting {
                listen_host: listen_host.to_owned(),
                gateway_port: 1,
                master_port: 2,
                data_dir: PathBuf::from("/data"),
                is_anonymous: false,
                has_listen_flag: true,
            };
            greeting.text("cstore")
        };
        assert!(text("127.0.0.1").contains("from this machine only"));
        let all = text("0.0.0.0");
        assert!(
            all.contains("http://127.0.0.1:1, and at all other addresses"),
            "{all}"
        );
        let one = text("10.0.0.5");
        assert!(
            one.starts_with("C-Store is ready at http://10.0.0.5:1; data in /data"),
            "{one}"
        );
    }

    #[test]
    fn the_first_line_has_the_url_and_the_others_can_be_pasted() {
        let greeting = Greeting {
            listen_host: HOST.to_owned(),
            gateway_port: 8_000,
            master_port: 4_100,
            data_dir: PathBuf::from("./data"),
            is_anonymous: true,
            has_listen_flag: false,
        };
        let text = greeting.text("cstore");
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        assert_eq!(
            lines[0],
            "C-Store is ready at http://127.0.0.1:8000; data in ./data"
        );
        assert!(
            lines[1].contains("| curl -T - ") && lines[2].starts_with("grpcurl "),
            "{text}"
        );
        assert!(
            !text.contains("Bearer 0"),
            "the token itself is not printed"
        );
    }
}
