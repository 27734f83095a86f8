//! Every REST route × {none, wrong, expired, revoked, missing right}.

use std::time::{Duration, SystemTime};

use cstore_gateway::tokens::{Entry, Right, Rights, Token};
use cstore_gateway::{ROUTES, Route};
use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::{Answer, Client};
use cstore_types::Tenant;

use super::Tally;
use crate::tenants::{closed, replace};

/// The methods of a route, with a path that fits it.
fn requests(route: &Route) -> Vec<(&'static str, String)> {
    let path = route.path.replace("{*name}", "matrix.txt") + route.verb;
    let methods: &[&str] = if route.method == "GET" {
        &["GET", "HEAD"]
    } else {
        &[route.method]
    };
    methods
        .iter()
        .map(|method| (*method, path.clone()))
        .collect()
}

fn ask(cluster: &Cluster, (method, path): &(&str, String), header: Option<&str>) -> Answer {
    let header = header
        .map(|value| format!("authorization: {value}\r\n"))
        .unwrap_or_default();
    let body: &[u8] = if path.contains(":copy") || path.contains(":rename") {
        br#"{"to":"other.txt"}"#
    } else {
        b""
    };
    Client::connect(&cluster.gateway)
        .unwrap()
        .call(method, path, &header, body)
        .unwrap()
}

/// The tokens of the test, and the file with them.
#[derive(Default)]
struct Purse {
    lines: String,
}

impl Purse {
    /// A token that the file knows.
    fn token(&mut self, tenant: &str, rights: Rights, expires: Option<SystemTime>) -> String {
        let token = Token::generate().unwrap();
        let entry = Entry::new(&token, Tenant::new(tenant).unwrap(), rights, expires).unwrap();
        self.lines.push_str(&format!("{entry}\n"));
        token.expose()
    }
}

fn all_but(missing: Right) -> Rights {
    let left: Vec<Right> = Right::ALL
        .into_iter()
        .filter(|right| *right != missing)
        .collect();
    Rights::of(&left)
}

#[test]
fn i13_every_route_is_refused_without_a_good_token_with_the_right() {
    let mut purse = Purse::default();
    let hour = Duration::from_secs(3_600);
    let good = purse.token("default", Rights::ALL, Some(SystemTime::now() + hour));
    let expired = purse.token("default", Rights::ALL, Some(SystemTime::now() - hour));
    let named = purse.token("acme", Rights::ALL, None);
    let lacking = Right::ALL.map(|right| (right, purse.token("default", all_but(right), None)));
    // The rights that a route demands. No token is without rights, so a route that demands nothing is
    // tried with the right to delete alone.
    let only = ROUTES.iter().map(|route| {
        let rights = match route.rights {
            [] => Rights::of(&[Right::Delete]),
            rights => Rights::of(rights),
        };
        purse.token("default", rights, None)
    });
    let only: Vec<String> = only.collect();
    let kept = purse.lines.clone();
    let revoked = purse.token("default", Rights::ALL, None);
    let cluster = closed(
        Cluster::builder(crate::PROGRAM).start(),
        &purse.lines,
        &revoked,
    );
    replace(&cluster, &kept);
    crate::tenants::until_status(&cluster, &revoked, 401);

    let stranger = Token::generate().unwrap().expose();
    let crossed = format!("{}{}", &good[..17], &stranger[17..]);
    let mut tally = Tally::default();
    for (route, only) in ROUTES.iter().zip(&only) {
        for request in requests(route) {
            let mut refused = |case: &str, header: Option<&str>, status: u16, text: &str| {
                let answer = ask(&cluster, &request, header);
                assert_eq!(
                    answer.status,
                    status,
                    "{request:?}, {case}: {}",
                    answer.text()
                );
                assert_eq!(
                    answer.header("www-authenticate").is_some(),
                    status == 401,
                    "{request:?}, {case}"
                );
                assert!(
                    request.0 == "HEAD" || answer.text().contains(text),
                    "{case}: {}",
                    answer.text()
                );
                let secret = header
                    .and_then(|value| value.get(24..))
                    .filter(|secret| secret.len() > 20);
                assert!(
                    secret.is_none_or(|secret| !answer.text().contains(secret)),
                    "{request:?}, {case}"
                );
                tally.count(case);
            };
            refused("none", None, 401, "a token is needed");
            refused(
                "wrong",
                Some(&format!("Bearer {stranger}")),
                401,
                "not known here",
            );
            refused(
                "wrong",
                Some(&format!("Bearer {crossed}")),
                401,
                "not known here",
            );
            refused("wrong", Some("Bearer cst_"), 401, "holds no token");
            refused("wrong", Some("Basic YTpi"), 401, "holds no token");
            refused(
                "expired",
                Some(&format!("Bearer {expired}")),
                401,
                "expired at 2",
            );
            refused(
                "revoked",
                Some(&format!("Bearer {revoked}")),
                401,
                "not known here",
            );
            for (right, token) in &lacking {
                if route.rights.contains(right) {
                    let text = format!("does not have the right to {}", right.as_str());
                    refused(
                        "missing right",
                        Some(&format!("Bearer {token}")),
                        403,
                        &text,
                    );
                }
            }
            if route.whole_cluster {
                refused(
                    "other tenant",
                    Some(&format!("Bearer {named}")),
                    403,
                    "default tenant only",
                );
            }
            for token in [only, &good] {
                let answer = ask(&cluster, &request, Some(&format!("Bearer {token}")));
                let shut = [401, 403, 500, 503];
                assert!(
                    !shut.contains(&answer.status),
                    "{request:?}: {} {}",
                    answer.status,
                    answer.text()
                );
                tally.count("let in");
            }
        }
    }
    let kinds = [
        "none",
        "wrong",
        "expired",
        "revoked",
        "missing right",
        "let in",
    ];
    tally.end("REST routes", ROUTES.len(), &kinds);
    // A path that is no route needs a token too, and then says so.
    for (method, path) in [
        ("GET", "/api/nothing"),
        ("PATCH", "/api/files/a"),
        ("POST", "/api/files/a"),
    ] {
        let request = (method, path.to_owned());
        assert_eq!(ask(&cluster, &request, None).status, 401, "{method} {path}");
        let told = ask(&cluster, &request, Some(&format!("Bearer {good}"))).status;
        assert!([404, 405].contains(&told), "{method} {path}: {told}");
    }
    assert_eq!(ask(&cluster, &("GET", "/".to_owned()), None).status, 200);
    cluster.audit(&[]);
}

#[test]
fn i13_a_gateway_that_takes_anonymous_requests_still_refuses_bad_tokens() {
    let cluster = Cluster::builder(crate::PROGRAM).start();
    let stranger = Token::generate().unwrap().expose();
    let request = ("GET", "/api/files".to_owned());
    assert_eq!(ask(&cluster, &request, None).status, 200);
    assert_eq!(
        ask(&cluster, &request, Some(&format!("Bearer {stranger}"))).status,
        401
    );
}
