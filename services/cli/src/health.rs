//! `cstore health`: asks the admin port of a role whether it is ready. For health checks that have
//! no curl.

use std::io::Write;

use cstore_node::{Env, HostPort, Source};
use serde_json::Value;

use crate::admin_port;
use crate::admin_port::{Answer, WANTED};
use crate::exit::{End, Failure};
use crate::process::ADMIN_PORT;

/// Fails with the reasons that the role gives.
pub(crate) fn run(addr: Option<&str>, source: &dyn Source) -> Result<(), Failure> {
    let mut env = Env::new(source);
    let port = env.port(ADMIN_PORT, 9_100);
    env.finish().map_err(Failure::usage)?;
    let addr = match addr {
        None => HostPort::new("127.0.0.1", port),
        Some(text) => text
            .parse()
            .map_err(|_| Failure::Usage("--addr must be host:port".to_owned()))?,
    };
    let answer = admin_port::get(&addr, "/ready")?;
    judge(&addr, &answer)?;
    writeln!(std::io::stdout().lock(), "ready").map_err(Failure::output)
}

/// Fails unless the answer is that of an admin port whose role is ready. An admin port lists parts
/// of its role in a JSON array; other servers send something else.
fn judge(addr: &HostPort, answer: &Answer) -> Result<(), Failure> {
    let is_list = serde_json::from_str::<Vec<Value>>(&answer.body).is_ok();
    match answer.status {
        Some(200) if is_list => Ok(()),
        Some(503) if is_list => Err(Failure::client(
            End::Unavailable,
            format!("not ready: {}", answer.body),
        )),
        Some(status) => Err(Failure::Failed(format!(
            "{addr} is no admin port, with {status} to /ready: {}; {WANTED}",
            answer.speaker.what()
        ))),
        None => Err(Failure::Failed(format!(
            "{addr} is no admin port: {}; {WANTED}",
            answer.speaker.what()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Speaker;

    #[test]
    fn another_port_is_told_from_a_role_that_is_not_ready() {
        let addr = HostPort::new("h", 1);
        let said = |status, body: &str, speaker| {
            let body = body.to_owned();
            let answer = Answer {
                status,
                body,
                speaker,
            };
            judge(&addr, &answer).map_err(|failure| failure.to_string())
        };
        assert_eq!(said(Some(200), "[]", Speaker::Admin), Ok(()));
        let reasons = r#"[{"part":"master","reason":"not reached"}]"#;
        assert_eq!(
            said(Some(503), reasons, Speaker::Admin),
            Err(format!("not ready: {reasons}"))
        );
        for (status, speaker, found) in [
            (
                Some(404),
                Speaker::Gateway,
                ", with 404 to /ready: this is the REST port of a gateway; ",
            ),
            (
                Some(200),
                Speaker::Http,
                "the HTTP port of another program; ",
            ),
            (
                None,
                Speaker::Grpc,
                "h:1 is no admin port: this port speaks gRPC, not HTTP",
            ),
        ] {
            let said = said(status, "<html>", speaker).unwrap_err();
            assert!(said.contains(found) && said.ends_with(WANTED), "{said}");
        }
    }
}
