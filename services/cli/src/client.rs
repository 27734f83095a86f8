//! A client of the REST API, as its users are: one pool of kept connections, no repeats of its own.

use std::time::Duration;

use bytes::Bytes;
use cstore_node::{Env, Source};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode, Url};
use tokio::time::Instant;

use crate::exit::Failure;

/// Where the gateway is.
pub(crate) const URL: &str = "CSTORE_URL";
/// What it is shown, where it wants a token.
pub(crate) const TOKEN: &str = "CSTORE_TOKEN";
/// What may stand unencoded in a name in a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Kept connections that nobody used for so long are not trusted with a request.
const IDLE: Duration = Duration::from_secs(5);

/// A gateway, and who asks.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) trace_id: String,
    pub(crate) content_range: Option<String>,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What a refusal says, for people.
    pub(crate) fn told(&self) -> String {
        let detail = self.json()["error"]["message"].as_str().map(str::to_owned);
        detail.unwrap_or_else(|| String::from_utf8_lossy(&self.body).chars().take(200).collect())
    }
}

/// Why there is no answer. A request that met this may have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Lost {
    #[error("connection refused")]
    Refused,
    #[error("not connected")]
    Connect,
    #[error("no answer in time")]
    Timeout,
    #[error("answer cut short")]
    CutShort,
    #[error("connection lost")]
    Connection,
}

impl Gateway {
    /// The gateway of `--url`, else of `CSTORE_URL`, with the token of `CSTORE_TOKEN`.
    pub(crate) fn from_env(
        url: Option<&str>,
        timeout: Duration,
        source: &dyn Source,
    ) -> Result<Self, Failure> {
        let mut env = Env::new(source);
        let found = env.string(URL, "http://127.0.0.1:8000");
        let token = env.string(TOKEN, "");
        env.finish().map_err(Failure::usage)?;
        let token = Some(token).filter(|token| !token.is_empty());
        Self::new(url.unwrap_or(&found), token, timeout)
    }

    fn new(url: &str, token: Option<String>, timeout: Duration) -> Result<Self, Failure> {
        let wrong =
            || Failure::Usage(format!("{url:?} is not the URL of a gateway; one is http://127.0.0.1:8000"));
        // Without its last slash the last part of a path would be replaced and not added to.
        let base = Url::parse(&format!("{}/", url.trim_end_matches('/'))).map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(wrong());
        }
        // Whoever came first has installed the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            // An upload that is sent elsewhere would arrive as something else.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("cstore/", env!("CARGO_PKG_VERSION")));
        if base.scheme() == "http" {
            // A machine without certificates of the world can do without them here; and a token in the open is for the
            // gateway, not for a proxy in between.
            http = http.tls_certs_only([]).no_proxy();
        }
        let http = http.build().map_err(Failure::failed)?;
        Ok(Self { http, base, token })
    }

    /// The same gateway, asked with another token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    pub(crate) fn url(&self) -> &str {
        self.base.as_str()
    }

    pub(crate) async fn put(&self, name: &str, body: Bytes) -> Result<Answer, Lost> {
        self.call(Method::PUT, &file(name), |request| request.body(body)).await
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Answer, Lost> {
        self.call(Method::GET, &file(name), |request| request).await
    }

    /// Bytes from `first` to `last`, both included.
    pub(crate) async fn get_range(&self, name: &str, first: u64, last: u64) -> Result<Answer, Lost> {
        let range = format!("bytes={first}-{last}");
        self.call(Method::GET, &file(name), |request| request.header("range", range)).await
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<Answer, Lost> {
        self.call(Method::DELETE, &file(name), |request| request).await
    }

    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<Answer, Lost> {
        let body = serde_json::json!({"to": to}).to_string();
        self.call(Method::POST, &format!("{}:copy", file(from)), |request| request.body(body)).await
    }

    /// One page of names with a prefix; `page` is the token of the page before, or empty.
    pub(crate) async fn list(&self, prefix: &str, page: &str) -> Result<Answer, Lost> {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let path = format!("api/files?prefix={}&page_token={}", encode(prefix), encode(page));
        self.call(Method::GET, &path, |request| request).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        with: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Answer, Lost> {
        let begun = Instant::now();
        // A name is encoded, so that the path is always one.
        let url = self.base.join(path).map_err(|_| Lost::Connect)?;
        let mut request = with(self.http.request(method, url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(|error| lost(&error))?;
        let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let (status, trace_id) = (response.status(), header("x-cstore-trace-id").unwrap_or_default());
        let content_range = header("content-range");
        let body = response.bytes().await.map_err(|error| match lost(&error) {
            Lost::Timeout => Lost::Timeout,
            _ => Lost::CutShort,
        })?;
        Ok(Answer { status, trace_id, content_range, body, took: begun.elapsed() })
    }
}

fn file(name: &str) -> String {
    format!("api/files/{}", utf8_percent_encode(name, PATH))
}

fn lost(error: &reqwest::Error) -> Lost {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut refused = false;
    while let Some(found) = cause {
        let io = found.downcast_ref::<std::io::Error>();
        refused |= io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused);
        cause = found.source();
    }
    if error.is_timeout() {
        Lost::Timeout
    } else if refused {
        Lost::Refused
    } else if error.is_connect() {
        Lost::Connect
    } else if error.is_body() || error.is_decode() {
        Lost::CutShort
    } else {
        Lost::Connection
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_of_a_gateway_is_told_so() {
        for bad in ["", "127.0.0.1:8000", "ftp://x", "mailto:a@b"] {
            let failure = Gateway::new(bad, None, CONNECT_TIMEOUT).unwrap_err();
            assert!(failure.to_string().contains("http://127.0.0.1:8000"), "{bad:?}: {failure}");
        }
        Gateway::new("http://gateway:8000", None, CONNECT_TIMEOUT).unwrap();
    }

    #[test]
    fn names_stay_names_in_a_path() {
        assert_eq!(file("a b/ü?#%.txt"), "api/files/a%20b/%C3%BC%3F%23%25.txt");
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_from_others() {
        // Bound and dropped: nobody listens there.
        let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let gateway = Gateway::new(&format!("http://{addr}"), None, CONNECT_TIMEOUT).unwrap();
        assert_eq!(gateway.get("x").await.unwrap_err(), Lost::Refused);
    }
}
