//! Safety of names: a failed upload leaves its name free, none is a path, none injects a record.

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::random;

use super::{number, stats};
use crate::PROGRAM;

#[test]
fn b07_an_upload_that_failed_burns_no_name() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    for size in [100, 1_000_000] {
        let mut client = Client::connect(&cluster.gateway).unwrap();
        client
            .head(
                "PUT",
                "/api/files/mine",
                &format!("content-length: {}\r\n", 2 * size),
            )
            .unwrap();
        client.send(&random(size, 7)).unwrap();
        drop(client);
    }
    assert_eq!(cluster.ask("GET", "/api/files/mine", b"").status, 404);
    assert_eq!(cluster.ask("PUT", "/api/files/mine", b"now").status, 201);
}

#[test]
fn b08_a_name_is_exactly_its_bytes() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    // The prototype read names without their end: a taken one passed, with garbage behind it.
    let names = [
        "x",
        "xy",
        "xyz",
        &"n".repeat(250),
        &"n".repeat(256),
        &"n".repeat(257),
        &"n".repeat(1_024),
    ];
    for name in names {
        assert_eq!(
            cluster
                .ask("PUT", &format!("/api/files/{name}"), name.as_bytes())
                .status,
            201,
            "{name}"
        );
    }
    cluster.restart("master");
    cluster.wait_ready();
    for name in names {
        assert_eq!(
            cluster
                .ask("PUT", &format!("/api/files/{name}"), b"other")
                .status,
            409,
            "{name}"
        );
        assert!(
            cluster.ask("GET", &format!("/api/files/{name}"), b"").body == name.as_bytes(),
            "{name}"
        );
    }
    assert_eq!(number(&stats(&cluster), "files"), names.len() as u64);
    assert_eq!(
        cluster
            .ask("PUT", &format!("/api/files/{}", "n".repeat(1_025)), b"x")
            .status,
        400
    );
}

#[test]
fn b10_a_name_is_never_a_path_on_a_disk() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    let before = tree(&cluster);
    for name in [
        "..%2F..%2F..%2Foutside",
        "%2Fetc%2Foutside",
        "a/../../outside",
        "..%5Coutside",
        "....//outside",
    ] {
        let answer = cluster.ask("PUT", &format!("/api/files/{name}"), b"x");
        // A backslash is a letter like any other.
        assert!(
            [201, 400].contains(&answer.status),
            "{name}: {}",
            answer.status
        );
        let form = format!(
            "--B\r\ncontent-disposition: form-data; name=\"file\"; filename=\"../{name}\"\r\n\r\nx\r\n--B--"
        );
        let mut client = Client::connect(&cluster.gateway).unwrap();
        let kind = "content-type: multipart/form-data; boundary=B\r\n";
        let answer = client
            .call("POST", "/api/upload", kind, form.as_bytes())
            .unwrap();
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
    }
    let after = tree(&cluster);
    assert!(
        after.iter().all(|path| !path.contains("outside")),
        "{after:?}"
    );
    assert!(
        before.iter().all(|path| after.contains(path)),
        "nothing was removed"
    );
}

/// Paths below the folder of the test.
fn tree(cluster: &Cluster) -> Vec<String> {
    let mut left = vec![cluster.dir().to_path_buf()];
    let mut found = Vec::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        found.push(path.to_string_lossy().into_owned());
    }
    found
}

#[test]
fn b12_no_name_injects_another() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    assert_eq!(
        cluster
            .ask("PUT", "/api/files/n1%0Ainjected=PWNED", b"x")
            .status,
        400
    );
    for name in ["a=b", "a,b", "a;b|c", "%22quoted%22", "100%25", "a%20b"] {
        assert_eq!(
            cluster
                .ask("PUT", &format!("/api/files/{name}"), name.as_bytes())
                .status,
            201,
            "{name}"
        );
    }
    cluster.restart("master");
    cluster.wait_ready();
    let listed = cluster.ask("GET", "/api/files", b"").json();
    let names: Vec<&str> = listed["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["\"quoted\"", "100%", "a b", "a,b", "a;b|c", "a=b"]);
}
