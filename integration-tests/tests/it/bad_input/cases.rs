//! The inputs of the table that go to the gateway over HTTP.

use cstore_testkit::random;

/// One input over HTTP: what it is, its head without line end, its body, and the status and words
/// of its answer.
pub(super) type Case = (&'static str, String, Vec<u8>, u16, &'static str);

fn case(what: &'static str, head: &str, body: &[u8], status: u16, words: &'static str) -> Case {
    (what, head.to_owned(), body.to_vec(), status, words)
}

fn form(parts: &str) -> (String, Vec<u8>) {
    let head = "POST /api/upload\ncontent-type: multipart/form-data; boundary=B".to_owned();
    (head, parts.replace('\n', "\r\n").into_bytes())
}

pub(super) fn names() -> Vec<Case> {
    let long = format!("PUT /api/files/{}", "x".repeat(1_025));
    vec![
        case("a name of 1,025 bytes", &long, b"x", 400, "1 to 1024 bytes"),
        case("no name", "PUT /api/files/", b"x", 404, "no such path"),
        case(
            "an empty segment",
            "PUT /api/files/a//b",
            b"x",
            400,
            "empty segment",
        ),
        case(
            "a slash at the end",
            "PUT /api/files/a/",
            b"x",
            400,
            "empty segment",
        ),
        case(
            "a dot segment",
            "PUT /api/files/a/%2E%2E/b",
            b"x",
            400,
            "'.' or '..'",
        ),
        case(
            "a control character",
            "PUT /api/files/a%0Ab",
            b"x",
            400,
            "control characters",
        ),
        case("no UTF-8", "PUT /api/files/%FF", b"x", 400, "UTF-8"),
        case(
            "half an escape",
            "PUT /api/files/a%2",
            b"x",
            400,
            "two hexadecimal digits",
        ),
        case(
            "a taken name",
            "PUT /api/files/taken",
            b"x",
            409,
            "already a file",
        ),
        case(
            "a name that is not there",
            "GET /api/files/none",
            b"",
            404,
            "no file",
        ),
        case(
            "a removal of nothing",
            "DELETE /api/files/none",
            b"",
            404,
            "no file",
        ),
        case(
            "a copy of nothing",
            "POST /api/files/none:copy",
            br#"{"to":"b"}"#,
            404,
            "no file",
        ),
        case(
            "a copy onto a taken name",
            "POST /api/files/other:copy",
            br#"{"to":"taken"}"#,
            409,
            "already a file",
        ),
        case(
            "a rename to a bad name",
            "POST /api/files/other:rename",
            br#"{"to":"../b"}"#,
            400,
            "'.' or '..'",
        ),
        case(
            "a copy by an array",
            "POST /api/files/other:copy",
            br#"["b", true]"#,
            400,
            "the body must be",
        ),
        case(
            "a copy without JSON",
            "POST /api/files/other:copy",
            b"to=b",
            400,
            "the body must be",
        ),
        case(
            "a copy with more than is known",
            "POST /api/files/other:copy",
            br#"{"to":"b","force":1}"#,
            400,
            "unknown field",
        ),
        case(
            "a verb that there is not",
            "POST /api/files/other:move",
            b"{}",
            405,
            ":copy or :rename",
        ),
        case(
            "a method that there is not",
            "PATCH /api/files/other",
            b"x",
            405,
            "does not take this method",
        ),
        case(
            "a path that there is not",
            "GET /api/nothing",
            b"",
            404,
            "no such path",
        ),
    ]
}

pub(super) fn headers() -> Vec<Case> {
    let put = |header: &str| format!("PUT /api/files/new\n{header}");
    let sha = format!("x-cstore-sha256: {}", "0".repeat(64));
    let many: Vec<String> = (0..33).map(|n| format!("x-cstore-meta-k{n}: v")).collect();
    vec![
        case(
            "a wrong MD5",
            &put("content-md5: AAAAAAAAAAAAAAAAAAAAAA=="),
            b"x",
            400,
            "MD5",
        ),
        case(
            "an MD5 that is none",
            &put("content-md5: 123"),
            b"x",
            400,
            "base64 of 16 bytes",
        ),
        case(
            "a wrong SHA-256",
            &put(&sha),
            &random(500_000, 1),
            400,
            "SHA-256",
        ),
        case(
            "a SHA-256 that is none",
            &put("x-cstore-sha256: 12"),
            b"x",
            400,
            "64 hexadecimal digits",
        ),
        case(
            "metadata with a bad key",
            &put("x-cstore-meta-a!: v"),
            b"x",
            400,
            "a-z, 0-9",
        ),
        case(
            "33 metadata entries",
            &put(&many.join("\n")),
            b"x",
            400,
            "at most 32",
        ),
        case(
            "a part of a file",
            &put("content-range: bytes 0-0/9"),
            b"x",
            400,
            "in part",
        ),
        case(
            "a coded body",
            &put("content-encoding: gzip"),
            b"x",
            400,
            "content-encoding",
        ),
        case(
            "a condition by date",
            &put("if-unmodified-since: Sun, 06 Nov 1994 08:49:37 GMT"),
            b"x",
            400,
            "If-Match",
        ),
        case(
            "a removal with a condition for reads",
            "DELETE /api/files/taken\nif-none-match: *",
            b"",
            400,
            "send If-Match",
        ),
        case(
            "a change by a page of another site",
            "DELETE /api/files/taken\norigin: http://evil.example",
            b"",
            403,
            "another origin",
        ),
        case(
            "two codings",
            &put("content-encoding: identity\ncontent-encoding: gzip"),
            b"x",
            400,
            "content-encoding",
        ),
        case(
            "a parameter twice",
            "PUT /api/files/new?overwrite=true&overwrite=false",
            b"x",
            400,
            "given twice",
        ),
        case(
            "two conditions",
            &put("if-match: *\nif-none-match: *"),
            b"x",
            400,
            "not both",
        ),
        case(
            "a weak ETag to write by",
            &put("if-match: W/\"a-1\""),
            b"x",
            400,
            "strong ETag",
        ),
        case(
            "a replacement of what is not there",
            &put("if-match: *"),
            b"x",
            412,
            "no file",
        ),
        case(
            "a replacement of another state",
            "PUT /api/files/taken\nif-match: \"other-1\"",
            b"x",
            412,
            "has etag",
        ),
        case(
            "a name that must be free",
            "PUT /api/files/taken\nif-none-match: *",
            b"x",
            412,
            "already a file",
        ),
        case(
            "a removal of another state",
            "DELETE /api/files/taken\nif-match: \"other-1\"",
            b"",
            412,
            "has etag",
        ),
        case(
            "a read of another state",
            "GET /api/files/taken\nif-match: \"other-1\"",
            b"",
            412,
            "If-Match",
        ),
        case(
            "a range outside",
            "GET /api/files/taken\nrange: bytes=99-",
            b"",
            416,
            "has 5 bytes",
        ),
        case(
            "a content type that is none",
            &put("content-type: a\u{e9}"),
            b"x",
            400,
            "printable ASCII",
        ),
        case(
            "a misspelt parameter",
            "PUT /api/files/taken?overwirte=true",
            b"x",
            400,
            "overwrite",
        ),
        case(
            "a flag that is none",
            "PUT /api/files/taken?overwrite=yes",
            b"x",
            400,
            "true or false",
        ),
        case(
            "a limit of 0",
            "GET /api/files?limit=0",
            b"",
            400,
            "1 to 1000",
        ),
        case(
            "a delimiter of 1,025 bytes",
            &format!("GET /api/files?delimiter={}", "x".repeat(1_025)),
            b"",
            400,
            "at most 1024 bytes",
        ),
        case(
            "a page token of another list",
            "GET /api/files?page_token=1-00000000-00",
            b"",
            400,
            "page token",
        ),
        case(
            "an explanation that there is not",
            "GET /api/files/taken?explain=all",
            b"",
            400,
            "freed",
        ),
        case(
            "a bad token",
            "GET /api/files\nauthorization: Bearer nonsense",
            b"",
            401,
            "holds no token",
        ),
        case(
            "two hosts",
            "GET /api/files\nhost: y",
            b"",
            400,
            "one header host",
        ),
        case(
            "a coding beside chunked",
            &put("transfer-encoding: gzip, chunked"),
            b"0\r\n\r\n",
            400,
            "chunked and nothing else",
        ),
    ]
}

pub(super) fn forms() -> Vec<Case> {
    let file = "--B\ncontent-disposition: form-data; name=\"file\"; filename=\"new\"\n\nx\n";
    let cases = [
        (
            "a form without its end",
            file.to_owned(),
            400,
            "closing delimiter",
        ),
        (
            "a form without a file",
            "--B\ncontent-disposition: form-data; name=a\n\nx\n--B--".to_owned(),
            400,
            "no part named file",
        ),
        (
            "a form with two files",
            format!("{file}{file}--B--"),
            400,
            "two parts",
        ),
        (
            "a file without a name",
            "--B\ncontent-disposition: form-data; name=file\n\nx\n--B--".to_owned(),
            400,
            "no name",
        ),
        (
            "a file with a path as its name",
            file.replace("\"new\"", "\"../new\"") + "--B--",
            400,
            "'.' or '..'",
        ),
        (
            "a part with long headers",
            format!("--B\nx: {}", "y".repeat(100_000)),
            413,
            "headers of a part",
        ),
        (
            "a form of 40 parts",
            "--B\ncontent-disposition: form-data; name=a\n\n\n".repeat(40) + "--B--",
            413,
            "32 parts",
        ),
    ];
    cases
        .into_iter()
        .map(|(what, text, status, words)| {
            let (head, body) = form(&text);
            (what, head, body, status, words)
        })
        .chain([
            case(
                "a form that is none",
                "POST /api/upload\ncontent-type: text/plain",
                b"x",
                400,
                "multipart/form-data",
            ),
            case(
                "a form without a boundary",
                "POST /api/upload\ncontent-type: multipart/form-data",
                b"x",
                400,
                "boundary",
            ),
        ])
        .collect()
}
