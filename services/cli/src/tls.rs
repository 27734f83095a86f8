//! Certificates of the inner ports, read once for all roles of a process.

use cstore_mesh::Tls;
use cstore_node::Env;
use cstore_types::error_chain;

pub(crate) const DIR: &str = "CSTORE_TLS_DIR";

/// `CSTORE_TLS_DIR` and `CSTORE_TLS_CLIENT_AUTH`; mistakes stay in `env`.
pub(crate) fn read(env: &mut Env<'_>) -> Option<Tls> {
    let dir = env.optional_path(DIR);
    let client_auth = env.boolean("CSTORE_TLS_CLIENT_AUTH", true);
    match Tls::load(dir?, client_auth) {
        Ok(tls) => Some(tls),
        Err(error) => {
            let why = error_chain(&error);
            env.refuse(
                DIR,
                &format!("a folder with ca.pem, cert.pem and key.pem that can be used ({why})"),
            );
            None
        }
    }
}
