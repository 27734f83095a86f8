//! The web page as it is served: types, caching, and what a browser is told to refuse.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use cstore_gateway::tokens::{Entry, Right, Rights, Token};
use cstore_types::Tenant;

use crate::http::{Answer, send};
use crate::rest::get;
use crate::setup::{start, start_with};

const BROWSER: &str = "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\n";

/// Checks the security headers, which the page and all of its parts must have.
fn is_guarded(answer: &Answer, path: &str) {
    let policy = answer.header("content-security-policy").unwrap_or_default();
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(rule), "{path}: {policy}");
    }
    for word in ["unsafe", "http", "*", "data:", "blob:"] {
        assert!(!policy.contains(word), "{path}: {policy}");
    }
    assert_eq!(
        answer.header("x-content-type-options"),
        Some("nosniff"),
        "{path}"
    );
    assert_eq!(
        answer.header("referrer-policy"),
        Some("no-referrer"),
        "{path}"
    );
    assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
}

#[tokio::test]
async fn a_browser_gets_the_page_and_curl_a_text() {
    let setup = start().await;
    let page = get(&setup, "/", BROWSER).await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    assert!(page.body.starts_with(b"<!doctype html>"));
    is_guarded(&page, "/");
    for accept in ["", "Accept: */*\r\n", "Accept: text/plain\r\n"] {
        let text = get(&setup, "/", accept).await;
        assert_eq!(
            text.header("content-type"),
            Some("text/plain; charset=utf-8"),
            "{accept}"
        );
        assert!(text.body.starts_with(b"C-Store\n"));
        assert_eq!(text.header("vary"), Some("accept"));
    }
    assert_eq!(page.header("vary"), Some("accept"));
}

#[tokio::test]
async fn every_part_that_the_page_names_is_served_with_its_type_and_only_once() {
    let setup = start().await;
    let page = String::from_utf8(get(&setup, "/", BROWSER).await.body).unwrap();
    let mut wanted: Vec<String> = page
        .split("\"/assets/")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    let mut seen: Vec<String> = Vec::new();
    while let Some(name) = wanted.pop() {
        if seen.contains(&name) {
            continue;
        }
        let path = format!("/assets/{name}");
        let part = get(&setup, &path, "").await;
        let kind = match name.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!(
            (part.status, part.header("content-type")),
            (200, Some(kind)),
            "{path}"
        );
        is_guarded(&part, &path);

        let tag = part.header("etag").unwrap().to_owned();
        let again = get(&setup, &path, &format!("If-None-Match: \"old\", {tag}\r\n")).await;
        assert_eq!(
            (again.status, again.body.len(), again.header("etag")),
            (304, 0, Some(&*tag)),
            "{path}"
        );
        assert_eq!(
            get(&setup, &path, "If-None-Match: \"old\"\r\n")
                .await
                .status,
            200,
            "{path}"
        );
        let head = send(
            setup.addr,
            format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n"),
        )
        .await;
        assert_eq!(
            head.header("content-length"),
            Some(&*part.body.len().to_string()),
            "{path}"
        );

        let text = String::from_utf8(part.body).unwrap();
        wanted.extend(
            text.split("from \"./")
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap().to_owned()),
        );
        seen.push(name);
    }
    assert!(seen.len() > 20, "{seen:?}");
}

#[tokio::test]
async fn what_is_no_part_of_the_page_is_not_found() {
    let setup = start().await;
    for path in [
        "/assets/",
        "/assets/nothing.js",
        "/assets/..%2FCargo.toml",
        "/assets/a/b",
        "/index.html",
    ] {
        let answer = get(&setup, path, BROWSER).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "not_found"),
            "{path}"
        );
    }
    let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(send(setup.addr, post).await.status, 405);
}

#[tokio::test]
async fn i13_the_page_is_open_and_what_it_is_told_is_not() {
    let setup = start_with(|config| {
        config.anonymous = false;
        config.jaeger_ui = Some("http://127.0.0.1:16686/".parse().unwrap());
    })
    .await;
    assert_eq!(get(&setup, "/", BROWSER).await.status, 200);
    assert_eq!(get(&setup, "/assets/app.js", "").await.status, 200);
    assert_eq!(get(&setup, "/api/page", "").await.status, 401);
}

#[tokio::test]
async fn the_page_learns_who_its_user_is_and_what_he_may() {
    let open = start().await;
    let told = get(&open, "/api/page", "").await.json();
    assert_eq!(told["tenant"], "default");
    assert_eq!(
        told["rights"],
        serde_json::json!(["read", "write", "delete"])
    );
    // Requests need no token, and the gateway has no tokens.
    assert_eq!(told["sign_in"], false);
}

#[tokio::test]
async fn i13_every_valid_token_learns_its_rights_and_no_other_token_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api-tokens");
    let entries: Vec<(Token, Right)> = Right::ALL
        .into_iter()
        .map(|right| (Token::generate().unwrap(), right))
        .collect();
    let lines: String = entries
        .iter()
        .map(|(token, right)| {
            let acme = Tenant::new("acme").unwrap();
            let entry = Entry::new(token, acme, Rights::of(&[*right]), None).unwrap();
            format!("{entry}\n")
        })
        .collect();
    std::fs::write(&path, lines).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let setup = start_with(|config| {
        config.anonymous = false;
        config.tokens_file = path;
    })
    .await;
    let bearer = |token: &Token| format!("Authorization: Bearer {}\r\n", token.expose());

    // Tokens are judged before the gateway is ready.
    let first = bearer(&entries[0].0);
    while get(&setup, "/api/page", &first).await.status == 503 {
        tokio::task::yield_now().await;
    }

    for (token, right) in &entries {
        let answer = get(&setup, "/api/page", &bearer(token)).await;
        assert_eq!(answer.status, 200, "{right:?}");
        let told = answer.json();
        assert_eq!(told["tenant"], "acme");
        assert_eq!(told["rights"], serde_json::json!([right.as_str()]));
        assert_eq!(told["sign_in"], true);
        // Every other route still demands its right.
        let list = get(&setup, "/api/files", &bearer(token)).await;
        assert_eq!(list.status == 403, *right != Right::Read, "{right:?}");
    }
    let stranger = bearer(&Token::generate().unwrap());
    assert_eq!(get(&setup, "/api/page", &stranger).await.status, 401);
}

#[tokio::test]
async fn the_page_learns_where_traces_are_looked_at() {
    let setup = start().await;
    assert!(get(&setup, "/api/page", "").await.json()["jaeger_url"].is_null());
    assert_eq!(get(&setup, "/api/page?x=1", "").await.status, 400);
    let setup =
        start_with(|config| config.jaeger_ui = Some("http://127.0.0.1:16686/".parse().unwrap()))
            .await;
    let told = get(&setup, "/api/page", "").await.json();
    assert_eq!(told["jaeger_url"].as_str(), Some("http://127.0.0.1:16686"));
}
