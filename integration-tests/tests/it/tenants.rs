//! Tenants see nothing of each other, and secrets are nowhere to be seen.

use std::os::unix::fs::PermissionsExt;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::{Answer, Client};
use cstore_testkit::{random, until_blocking};

use crate::PROGRAM;

/// Replaces the token file, as `cstore admin token` does.
pub(crate) fn replace(cluster: &Cluster, lines: &str) {
    let (path, draft) = (
        cluster.dir().join("api-tokens"),
        cluster.dir().join("api-tokens.draft"),
    );
    std::fs::write(&draft, lines).unwrap();
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(draft, path).unwrap();
}

/// Waits until a request with `token` is answered `status`.
pub(crate) fn until_status(cluster: &Cluster, token: &str, status: u16) {
    until_blocking(&format!("{status} for a token"), || {
        let answer = Client::connect(&cluster.gateway)
            .ok()?
            .call("GET", "/api/stats", &bearer(token), b"")
            .ok()?;
        (answer.status == status).then_some(())
    });
}

/// Shuts the door of a running cluster to all but holders of the tokens in `lines`, of which
/// `token` is one.
pub(crate) fn closed(mut cluster: Cluster, lines: &str, token: &str) -> Cluster {
    if !lines.is_empty() {
        replace(&cluster, lines);
    }
    cluster.set_env("CSTORE_ANONYMOUS", "FALSE");
    cluster.restart("gateway");
    until_status(&cluster, token, 200);
    cluster
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

fn create(cluster: &Cluster, tenant: &str) -> String {
    cluster
        .admin_command(&["token", "create", "--tenant", tenant])
        .trim()
        .to_owned()
}

fn ask(cluster: &Cluster, token: &str, method: &str, path: &str, body: &[u8]) -> Answer {
    Client::connect(&cluster.gateway)
        .unwrap()
        .call(method, path, &bearer(token), body)
        .unwrap()
}

fn names(cluster: &Cluster, token: &str) -> Vec<String> {
    let list = ask(cluster, token, "GET", "/api/files", b"").json();
    let files = list["files"].as_array().unwrap().iter();
    files
        .map(|file| file["name"].as_str().unwrap().to_owned())
        .collect()
}

fn usage(cluster: &Cluster, token: &str) -> (u64, u64) {
    let stats = ask(cluster, token, "GET", "/api/stats", b"").json();
    (
        stats["files"].as_u64().unwrap(),
        stats["logical_bytes"].as_u64().unwrap(),
    )
}

#[test]
fn i13_tenants_have_names_of_their_own_and_see_no_others() {
    let cluster = Cluster::builder(PROGRAM).start();
    let [acme, other, default] =
        ["acme", "acme-2", "default"].map(|tenant| create(&cluster, tenant));
    let cluster = closed(cluster, "", &acme);
    // Small files go by tickets in stock, large ones by tickets of their own.
    let (small, large) = (b"of acme".as_slice(), random(300_000, 1));
    for (path, body) in [
        ("/api/files/small", small),
        ("/api/files/dir/large", &large),
    ] {
        let put = ask(&cluster, &acme, "PUT", path, body);
        assert_eq!(put.status, 201, "{}", put.text());
        let told = put.json();
        assert!(
            told["new_blocks"].is_null() && told["new_bytes"].is_null(),
            "{told}"
        );
        for stranger in [&other, &default] {
            assert_eq!(ask(&cluster, stranger, "GET", path, b"").status, 404);
            assert_eq!(ask(&cluster, stranger, "HEAD", path, b"").status, 404);
            assert_eq!(ask(&cluster, stranger, "DELETE", path, b"").status, 404);
            for verb in [":copy", ":rename"] {
                let moved = ask(
                    &cluster,
                    stranger,
                    "POST",
                    &format!("{path}{verb}"),
                    br#"{"to":"mine"}"#,
                );
                assert_eq!(moved.status, 404, "{verb}");
            }
        }
    }
    // The same name is free for others, with content of their own; the same bytes are stored once.
    let before = ask(&cluster, &default, "GET", "/api/stats", b"").json();
    for (token, body) in [
        (&other, large.as_slice()),
        (&default, b"of the default tenant"),
    ] {
        assert_eq!(
            ask(&cluster, token, "PUT", "/api/files/small", body).status,
            201
        );
        assert_eq!(
            ask(&cluster, token, "PUT", "/api/files/small", body).status,
            409
        );
    }
    assert_eq!(
        ask(&cluster, &acme, "GET", "/api/files/small", b"").body,
        small
    );
    assert_eq!(
        ask(&cluster, &other, "GET", "/api/files/small", b"").body,
        large
    );
    let again = ask(&cluster, &default, "PUT", "/api/files/again", &large).json();
    assert_eq!(
        again["new_blocks"], 0,
        "the default tenant is told: {again}"
    );
    assert!(
        before["unique_bytes"].is_u64() && before["dedup_ratio"].is_number(),
        "{before}"
    );

    assert_eq!(names(&cluster, &acme), ["dir/large", "small"]);
    assert_eq!(names(&cluster, &other), ["small"]);
    assert_eq!(names(&cluster, &default), ["again", "small"]);
    let page = ask(&cluster, &acme, "GET", "/api/files?limit=1", b"").json();
    let next = format!(
        "/api/files?limit=1&page_token={}",
        page["next_page_token"].as_str().unwrap()
    );
    assert_eq!(ask(&cluster, &acme, "GET", &next, b"").status, 200);
    assert_eq!(
        ask(&cluster, &other, "GET", &next, b"").status,
        400,
        "a page token of another tenant"
    );

    let expected = [
        (&acme, (2, 300_007)),
        (&other, (1, 300_000)),
        (&default, (2, 300_021)),
    ];
    for (token, numbers) in expected {
        assert_eq!(usage(&cluster, token), numbers);
    }
    let stats = ask(&cluster, &acme, "GET", "/api/stats", b"").json();
    assert_eq!(
        stats.as_object().unwrap().len(),
        2,
        "nothing of what others store: {stats}"
    );
    // Nor whether a removal would free anything, which says whether somebody else has the same
    // bytes.
    for path in ["/api/usage", "/api/files/none?explain=freed"] {
        assert_eq!(ask(&cluster, &acme, "GET", path, b"").status, 403, "{path}");
    }
    assert_eq!(
        ask(&cluster, &acme, "DELETE", "/api/files/small", b"").status,
        204
    );
    assert_eq!(
        ask(&cluster, &other, "GET", "/api/files/small", b"").body,
        large
    );
    // Counted anew from the names.
    cluster.restart("master");
    until_blocking("the master's return", || {
        let answer = ask(&cluster, &acme, "GET", "/api/stats", b"");
        (answer.status == 200).then_some(())
    });
    assert_eq!(usage(&cluster, &acme), (1, 300_000));
    assert_eq!(usage(&cluster, &default), (2, 300_021));
    cluster.audit(&[]);
}

#[test]
fn i13_secrets_are_in_no_log_and_on_no_command_line() {
    let cluster = Cluster::builder(PROGRAM)
        .env("LOG_LEVEL", "trace,h2=trace,hyper=trace,tower=trace")
        .start();
    let token = create(&cluster, "acme");
    let operator = cluster.bearer();
    let cluster = closed(cluster, "", &token);
    assert_eq!(
        ask(&cluster, &token, "PUT", "/api/files/a", b"x").status,
        201
    );
    assert_eq!(
        ask(&cluster, &format!("{token}x"), "GET", "/api/files/a", b"").status,
        401
    );
    let list = async {
        let path = "/cstore.v1.Namespace/ListFiles";
        cstore_integration_tests::grpc::call(
            &cluster.master,
            path,
            Some(&operator),
            bytes::Bytes::new(),
        )
        .await
    };
    tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(list)
        .unwrap();
    let text = cluster.secret().expose().to_owned();
    let secrets = [&token[17..], &text, operator.rsplit('.').next().unwrap()];
    for secret in secrets {
        assert!(secret.len() > 40);
        for role in cluster.roles() {
            assert!(
                !cluster.log(&role).contains(secret),
                "a secret is in the log of {role}"
            );
        }
    }
    assert!(
        cluster.log("gateway").contains(" TRACE "),
        "the logs tell everything"
    );
    // Command lines are everybody's to read; the environment holds paths only.
    for pid in cluster.pids() {
        for place in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{place}")).unwrap();
            let found = String::from_utf8_lossy(&bytes).into_owned();
            assert!(
                !secrets.iter().any(|secret| found.contains(secret)),
                "{place} of {pid}"
            );
        }
    }
}
