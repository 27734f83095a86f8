//! Files: all verbs, over two workers and three storage nodes.

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::{random, until_blocking};

use crate::PROGRAM;

const LEFT: &str = "4dc968ff0ee35c209572d4777b721587d36fa7b21bdc56b74a3dc0783e7b9518afbfa200a8284bf36e8e4b55b35f427593d849676da0d1555d8360fb5f07fea2";
const RIGHT: &str = "4dc968ff0ee35c209572d4777b721587d36fa7b21bdc56b74a3dc0783e7b9518afbfa202a8284bf36e8e4b55b35f427593d849676da0d1d55d8360fb5f07fea2";

fn stat(cluster: &Cluster, key: &str) -> u64 {
    cluster.ask("GET", "/api/stats", b"").json()[key]
        .as_u64()
        .unwrap()
}

#[test]
fn i1_i3_files_come_back_are_deduplicated_and_their_space_returns() {
    let cluster = Cluster::builder(PROGRAM).start();
    // 10 MiB and a bit: more entries than a root holds, so the recipe has leaves.
    let body = random((10 << 20) + 12_345, 1);
    let put = cluster.ask("PUT", "/api/files/dir/a.bin", &body);
    assert_eq!(put.status, 201, "{}", put.text());
    assert_eq!(
        (
            put.json()["size"].as_u64(),
            put.json()["new_bytes"].as_u64()
        ),
        (Some(body.len() as u64), Some(body.len() as u64))
    );
    let again = cluster.ask("PUT", "/api/files/dir/b.bin", &body).json();
    assert_eq!(
        (again["new_blocks"].as_u64(), again["etag"].clone()),
        (Some(0), put.json()["etag"].clone())
    );
    for name in ["dir/a.bin", "dir/b.bin"] {
        assert!(
            cluster.ask("GET", &format!("/api/files/{name}"), b"").body == body,
            "{name}"
        );
    }
    until_blocking("stats of both files", || {
        (stat(&cluster, "unique_bytes") > body.len() as u64).then_some(())
    });
    assert_eq!(stat(&cluster, "logical_bytes"), 2 * body.len() as u64);

    let listed = cluster.ask("GET", "/api/files?prefix=dir/", b"").json();
    let names: Vec<&str> = listed["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["dir/a.bin", "dir/b.bin"]);
    let folders = cluster.ask("GET", "/api/files?delimiter=/", b"").json();
    assert_eq!(folders["prefixes"][0], "dir/");

    assert_eq!(
        cluster.ask("DELETE", "/api/files/dir/a.bin", b"").status,
        204
    );
    assert!(
        cluster.ask("GET", "/api/files/dir/b.bin", b"").body == body,
        "the other name keeps the blocks"
    );
    assert_eq!(
        cluster.ask("DELETE", "/api/files/dir/b.bin", b"").status,
        204
    );
    until_blocking("all space back", || {
        (stat(&cluster, "physical_bytes") == 0 && stat(&cluster, "pending_releases") == 0)
            .then_some(())
    });
    assert_eq!(cluster.ask("GET", "/api/files/dir/a.bin", b"").status, 404);
    cluster.audit(&[]);
}

#[test]
fn ranges_conditions_copies_and_renames_do_what_http_says() {
    let cluster = Cluster::builder(PROGRAM)
        .workers(1)
        .storages(2)
        .env("BLOCK_SIZE", "1000")
        .start();
    let body = random(777_777, 2);
    let put = cluster.ask("PUT", "/api/files/x", &body);
    let etag = put.json()["etag"].as_str().unwrap().to_owned();
    let mut client = Client::connect(&cluster.gateway).unwrap();
    for (range, expected) in [
        ("bytes=0-0", &body[..1]),
        ("bytes=999-1000", &body[999..1_001]),
        ("bytes=123456-654321", &body[123_456..654_322]),
        ("bytes=777776-", &body[777_776..]),
        ("bytes=-5", &body[777_772..]),
    ] {
        let answer = client
            .call("GET", "/api/files/x", &format!("range: {range}\r\n"), b"")
            .unwrap();
        assert!(
            answer.status == 206 && answer.body == expected,
            "{range}: {}",
            answer.status
        );
    }
    let beyond = client
        .call("GET", "/api/files/x", "range: bytes=777777-\r\n", b"")
        .unwrap();
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, Some("bytes */777777"))
    );
    let unchanged = client
        .call(
            "GET",
            "/api/files/x",
            &format!("if-none-match: \"{etag}\"\r\n"),
            b"",
        )
        .unwrap();
    assert_eq!(unchanged.status, 304);
    let head = client.call("HEAD", "/api/download/x", "", b"").unwrap();
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("777777"))
    );

    assert_eq!(
        cluster
            .ask("POST", "/api/files/x:copy", br#"{"to":"y"}"#)
            .status,
        200
    );
    assert_eq!(
        cluster
            .ask("POST", "/api/files/x:rename", br#"{"to":"y"}"#)
            .status,
        409
    );
    assert_eq!(
        cluster
            .ask("POST", "/api/files/x:rename", br#"{"to":"z"}"#)
            .status,
        200
    );
    assert_eq!(cluster.ask("GET", "/api/files/x", b"").status, 404);
    for name in ["y", "z"] {
        assert!(cluster.ask("GET", &format!("/api/files/{name}"), b"").body == body);
    }
    assert_eq!(cluster.ask("DELETE", "/api/files/y", b"").status, 204);
    assert!(cluster.ask("GET", "/api/files/z", b"").body == body);
    // A rename over a copy of itself: two names become one, and the space returns with it.
    assert_eq!(
        cluster
            .ask("POST", "/api/files/z:copy", br#"{"to":"w"}"#)
            .status,
        200
    );
    let over = cluster.ask(
        "POST",
        "/api/files/z:rename",
        br#"{"to":"w","overwrite":true}"#,
    );
    assert_eq!(over.status, 200, "{}", over.text());
    assert_eq!(cluster.ask("DELETE", "/api/files/w", b"").status, 204);
    until_blocking("all space back", || {
        (stat(&cluster, "physical_bytes") == 0 && stat(&cluster, "pending_releases") == 0)
            .then_some(())
    });
    cluster.audit(&[]);
}

#[test]
fn i8_what_is_noted_beside_a_file_stays_with_it() {
    let cluster = Cluster::builder(PROGRAM).storages(1).workers(1).start();
    let mut client = Client::connect(&cluster.gateway).unwrap();
    let sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    let noted = format!(
        "content-type: text/x-note; charset=utf-8\r\nx-cstore-meta-owner: Ada\r\nx-cstore-sha256: {sha256}\r\n"
    );
    let check = |name: &str, status| {
        let mut client = Client::connect(&cluster.gateway).unwrap();
        for method in ["GET", "HEAD"] {
            let answer = client
                .call(method, &format!("/api/files/{name}"), "", b"")
                .unwrap();
            let header = |name| answer.header(name);
            assert_eq!(answer.status, status, "{name}");
            assert_eq!(
                header("content-type"),
                Some("text/x-note; charset=utf-8"),
                "{name}"
            );
            assert_eq!(
                (header("x-cstore-meta-owner"), header("x-cstore-sha256")),
                (Some("Ada"), Some(sha256))
            );
        }
    };
    assert_eq!(
        client
            .call("PUT", "/api/files/a", &noted, b"x")
            .unwrap()
            .status,
        201
    );
    check("a", 200);
    let large = random(100_000, 4);
    let wrong = client.call("PUT", "/api/files/b", &noted, &large).unwrap();
    assert!(
        wrong.status == 400 && wrong.text().contains("SHA-256"),
        "{}",
        wrong.text()
    );
    let streamed = "content-type: text/x-note; charset=utf-8\r\nx-cstore-meta-owner: Bea\r\n";
    let mut client = Client::connect(&cluster.gateway).unwrap();
    assert_eq!(
        client
            .call("PUT", "/api/files/b", streamed, &large)
            .unwrap()
            .status,
        201
    );
    let read = client.call("GET", "/api/files/b", "", b"").unwrap();
    assert!(read.header("x-cstore-meta-owner") == Some("Bea") && read.body == large);

    let other = client
        .call(
            "POST",
            "/api/files/a:copy",
            "if-match: \"other-1\"\r\n",
            br#"{"to":"c"}"#,
        )
        .unwrap();
    assert_eq!(other.status, 412);
    let tag = client
        .call("HEAD", "/api/files/a", "", b"")
        .unwrap()
        .header("etag")
        .unwrap()
        .to_owned();
    let copied = client
        .call(
            "POST",
            "/api/files/a:copy",
            &format!("if-match: {tag}\r\n"),
            br#"{"to":"c"}"#,
        )
        .unwrap();
    assert_eq!(
        (copied.status, &copied.json()["metadata"]["owner"]),
        (200, &"Ada".into())
    );
    cluster.kill("master");
    cluster.launch("master");
    cluster.wait_ready();
    check("a", 200);
    check("c", 200);
    let listed = cluster.ask("GET", "/api/files?prefix=a", b"").json();
    assert_eq!(
        listed["files"][0]["metadata"],
        serde_json::Value::Null,
        "lists are short"
    );
    let overwritten = cluster.ask("PUT", "/api/files/a?overwrite=true", b"y");
    assert_eq!(overwritten.status, 200);
    let plain = cluster.ask("GET", "/api/files/a", b"");
    assert_eq!(
        (
            plain.header("x-cstore-meta-owner"),
            plain.header("x-cstore-sha256")
        ),
        (None, None)
    );
    cluster.audit(&[]);
}

#[test]
fn i5_files_of_equal_md5_come_back_as_they_went_in() {
    for (block_size, pad) in [("64", 0), ("64KiB", 65_472)] {
        let cluster = Cluster::builder(PROGRAM)
            .env("BLOCK_SIZE", block_size)
            .start();
        let files = [LEFT, RIGHT].map(|text| [hex::decode(text).unwrap(), vec![0; pad]].concat());
        let etags = [0, 1].map(|n| {
            let put = cluster
                .ask("PUT", &format!("/api/files/{n}"), &files[n])
                .json();
            assert_eq!(put["new_blocks"], 1, "{put}");
            put["etag"].clone()
        });
        assert_eq!(etags[0], etags[1], "the files have one MD5");
        for (n, file) in files.iter().enumerate() {
            assert!(
                cluster.ask("GET", &format!("/api/files/{n}"), b"").body == *file,
                "file {n}"
            );
        }
    }
}

#[test]
fn i2_racing_creates_of_one_name_have_one_winner() {
    let cluster = Cluster::builder(PROGRAM).workers(2).start();
    let bodies: Vec<Vec<u8>> = (0..50).map(|n| random(3_000, 100 + n)).collect();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let racers: Vec<_> = bodies
            .iter()
            .map(|body| scope.spawn(|| cluster.ask("PUT", "/api/files/one", body).status))
            .collect();
        racers
            .into_iter()
            .map(|racer| racer.join().unwrap())
            .collect()
    });
    let won: Vec<usize> = (0..50).filter(|n| statuses[*n] == 201).collect();
    assert_eq!(
        (won.len(), statuses.iter().filter(|s| **s == 409).count()),
        (1, 49),
        "{statuses:?}"
    );
    assert!(cluster.ask("GET", "/api/files/one", b"").body == bodies[won[0]]);
    // The losers' blocks come back: only the winner's one block stays.
    until_blocking("space of the losers", || {
        (stat(&cluster, "blocks") == 1 && stat(&cluster, "pending_releases") == 0).then_some(())
    });
}

#[test]
fn i2_readers_of_a_file_that_is_overwritten_see_old_or_new_never_a_mix() {
    // Longer than any read takes: the blocks of a version go when its release is carried out.
    let cluster = Cluster::builder(PROGRAM)
        .env("CSTORE_RELEASE_DELAY_MS", "600s")
        .start();
    let versions = [random(2 << 20, 7), random(2 << 20, 8)];
    assert_eq!(cluster.ask("PUT", "/api/files/v", &versions[0]).status, 201);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let body = cluster.ask("GET", "/api/files/v", b"").body;
                        assert!(versions.contains(&body), "a mix was served");
                    }
                })
            })
            .collect();
        for n in 0..10 {
            let put = cluster.ask("PUT", "/api/files/v?overwrite=true", &versions[(n + 1) % 2]);
            assert_eq!(put.status, 200);
        }
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    });
}
