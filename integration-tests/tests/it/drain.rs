//! A stop in good order: what runs ends well, what is new goes elsewhere (I1, I12).

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::{random, until_blocking};

use crate::PROGRAM;

const SIZE: usize = 3 << 20;

/// An upload of which the larger part has been sent.
fn begin_upload(cluster: &Cluster, name: &str, body: &[u8]) -> Client {
    let mut client = Client::connect(&cluster.gateway).unwrap();
    client
        .head(
            "PUT",
            &format!("/api/files/{name}"),
            &format!("content-length: {}\r\n", body.len()),
        )
        .unwrap();
    client.send(&body[..body.len() - 1_000]).unwrap();
    client
}

fn await_log(cluster: &Cluster, name: &str, text: &str) {
    until_blocking(&format!("{name} to log {text:?}"), || {
        cluster.log(name).contains(text).then_some(())
    });
}

fn ready(addr: &str) -> (u16, String) {
    let answer = Client::connect(addr)
        .unwrap()
        .call("GET", "/ready", "", b"")
        .unwrap();
    (answer.status, answer.text())
}

#[test]
fn i1_a_worker_finishes_the_upload_that_runs_while_it_stops() {
    let cluster = Cluster::builder(PROGRAM)
        .env("CSTORE_DRAIN_TIMEOUT_MS", "60s")
        .start();
    let body = random(SIZE, 1);
    let mut client = begin_upload(&cluster, "slow", &body);
    cluster.wait_uploads_in_flight(1);
    // Whichever of them has the upload: both stop, and it still ends well.
    for worker in ["worker-1", "worker-2"] {
        cluster.tell_to_stop(worker);
        await_log(&cluster, worker, "shutting down");
    }
    until_blocking("both to be known as stopping", || {
        let nodes = cluster.fetch("/api/cluster").json()["nodes"]
            .as_array()?
            .clone();
        let gone = |node: &&serde_json::Value| node["role"] == "worker" && node["state"] != "ready";
        (nodes.iter().filter(gone).count() == 2).then_some(())
    });
    client.send(&body[body.len() - 1_000..]).unwrap();
    let answer = client.answer(false).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    for worker in ["worker-1", "worker-2"] {
        assert!(cluster.await_end(worker).success());
        cluster.launch(worker);
    }
    cluster.wait_ready();
    assert!(cluster.fetch("/api/files/slow").body == body);
    cluster.audit(&[]);
}

#[test]
fn a_worker_that_leaves_in_good_order_is_not_lost_but_gone() {
    let cluster = Cluster::builder(PROGRAM).start();
    assert!(cluster.stop("worker-1").success());
    let workers = || -> Option<Vec<(String, String)>> {
        let nodes = cluster.fetch("/api/cluster").json()["nodes"]
            .as_array()?
            .clone();
        let text =
            |node: &serde_json::Value, key: &str| node[key].as_str().unwrap_or_default().to_owned();
        let workers = nodes.iter().filter(|node| node["role"] == "worker");
        Some(
            workers
                .map(|node| (text(node, "node_id"), text(node, "state")))
                .collect(),
        )
    };
    // At once: the answer to its last heartbeat came before it ended.
    assert_eq!(
        workers(),
        Some(vec![("worker-2".to_owned(), "ready".to_owned())])
    );
    assert_eq!(cluster.ask("PUT", "/api/files/after", b"after").status, 201);
    cluster.launch("worker-1");
    until_blocking("it to come back", || workers().filter(|all| all.len() == 2));
    cluster.audit(&[]);
}

#[test]
fn i1_a_gateway_that_leaves_says_so_serves_on_and_finishes_what_runs() {
    let cluster = Cluster::builder(PROGRAM)
        .env("CSTORE_DRAIN_TIMEOUT_MS", "60s")
        // Two requests are made in this time, beside whatever else the machine does.
        .env_of("gateway", "CSTORE_DRAIN_DELAY_MS", "10s")
        .start();
    let admin = cluster.admin_addr("gateway");
    let body = random(SIZE, 2);
    let mut slow = begin_upload(&cluster, "slow", &body);
    cluster.wait_uploads_in_flight(1);
    let mut kept = Client::connect(&cluster.gateway).unwrap();
    let before = kept.call("GET", "/api/stats", "", b"").unwrap();
    assert_eq!((before.status, before.header("connection")), (200, None));
    assert_eq!(ready(&admin).0, 200);

    cluster.tell_to_stop("gateway");
    let (status, reasons) = until_blocking("the gateway to say that it leaves", || {
        Some(ready(&admin)).filter(|(status, _)| *status == 503)
    });
    assert!(
        status == 503 && reasons.contains(r#"{"part":"process","reason":"stopping"}"#),
        "{reasons}"
    );
    // A kept connection is answered, and told to go elsewhere; new ones are taken too.
    let answer = kept.call("GET", "/api/stats", "", b"").unwrap();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(cluster.ask("PUT", "/api/files/late", b"late").status, 201);

    until_blocking("the door to close", || {
        Client::connect(&cluster.gateway).err()
    });
    slow.send(&body[body.len() - 1_000..]).unwrap();
    let answer = slow.answer(false).unwrap();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (201, Some("close")),
        "{}",
        answer.text()
    );
    assert!(cluster.await_end("gateway").success());
    cluster.launch("gateway");
    cluster.wait_ready();
    assert!(cluster.fetch("/api/files/slow").body == body);
    assert!(cluster.fetch("/api/files/late").body == b"late");
    cluster.audit(&[]);
}

#[test]
fn i10_what_does_not_end_in_time_is_cut_off_and_leaves_nothing() {
    let cluster = Cluster::one_of_each(PROGRAM)
        .env("CSTORE_DRAIN_TIMEOUT_MS", "200")
        .start();
    let body = random(SIZE, 3);
    let mut slow = begin_upload(&cluster, "never", &body);
    cluster.wait_uploads_in_flight(1);
    assert!(cluster.stop("gateway").success());
    // The gateway may cut off the upload's calls before the connection, and answer with an error.
    let answer = slow.answer(false);
    assert!(
        answer.as_ref().map_or(true, |answer| answer.status >= 500),
        "{answer:?}"
    );
    cluster.launch("gateway");
    cluster.wait_ready();
    assert_eq!(cluster.fetch("/api/files/never").status, 404);
    cluster.audit(&[]);
}
