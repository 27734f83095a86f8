//! A client of the REST API, as its users are: one pool of kept connections, no repeats of its own.

mod again;
mod answer;
mod lost;
mod notice;
mod transfer;

use std::time::Duration;

use bytes::Bytes;
use cstore_gateway::tokens::Token;
use cstore_node::{Env, Source};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, Url};
use tokio::time::{Instant, timeout};

pub(crate) use self::again::{Again, Wait};
pub(crate) use self::answer::{Answer, header, stranger};
pub(crate) use self::lost::Lost;
pub(crate) use self::notice::OutageNotice;
pub(crate) use self::transfer::{Download, Meter, Opened};
use crate::exit::Failure;
use crate::limits::{CONNECT_TIMEOUT, CONNECTION_IDLE, SILENCE_NOTICE};
use crate::probe::{self, Speaker};

/// Variable with the URL of the gateway.
pub(crate) const URL: &str = "CSTORE_URL";
/// Variable with the token that is sent to the gateway.
pub(crate) const TOKEN: &str = "CSTORE_TOKEN";
/// Form of a token, for messages about one that is malformed.
pub(crate) const TOKEN_FORM: &str = "allowed is one whole token as `cstore admin token create` prints it: \
     cst_<id>_<secret>, with a secret of 43 characters";
/// Characters that are percent-encoded in the path of a name: all but letters, digits and `/-._~`.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A gateway, and the token that is sent to it.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
    /// Longest wait for an answer that is read whole.
    timeout: Duration,
    /// Longest wait for the beginning of an answer.
    first_byte: Duration,
    /// Prints a line when the gateway does not answer. `None` for commands without such lines.
    notice: Option<OutageNotice>,
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
        if token.as_deref().is_some_and(|token| !is_token(token)) {
            // Not even a part of it is shown.
            return Err(Failure::Usage(format!("{TOKEN}: {TOKEN_FORM}")));
        }
        match url {
            Some(url) => Self::new("--url", url, token, timeout),
            None => Self::new(URL, &found, token, timeout),
        }
    }

    fn new(
        from: &str,
        url: &str,
        token: Option<String>,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let base = base(from, url)?;
        // Fails if a provider is installed already, which is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(CONNECTION_IDLE)
            .tcp_nodelay(true)
            // An upload that is sent elsewhere would arrive as something else.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("cstore/", env!("CARGO_PKG_VERSION")));
        if base.scheme() == "http" {
            // A machine without certificates of the world can do without them here; and a token in
            // the open is for the gateway, not for a proxy in between.
            http = http.tls_certs_only([]).no_proxy();
        }
        let http = http.build().map_err(Failure::failed)?;
        Ok(Self {
            http,
            base,
            token,
            timeout,
            first_byte: timeout,
            notice: None,
        })
    }

    /// Returns the same gateway with another bound on the wait for the beginning of an answer.
    pub(crate) fn answering_within(self, first_byte: Duration) -> Self {
        Self { first_byte, ..self }
    }

    /// Returns the same gateway, which prints its outages with `notice`.
    pub(crate) fn telling(self, notice: Option<OutageNotice>) -> Self {
        Self { notice, ..self }
    }

    /// Tells that a request to the gateway is tried again, and why. One line per outage.
    pub(crate) fn tell_retry(&self, why: &impl std::fmt::Display) {
        if let Some(notice) = &self.notice {
            notice.tell(&format!("{why} (trying again)"));
        }
    }

    /// Returns the same gateway with another token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    pub(crate) fn url(&self) -> &str {
        self.base.as_str()
    }

    pub(crate) async fn put(&self, name: &str, body: Bytes) -> Result<Answer, Lost> {
        self.call(Method::PUT, &file(name), |request| request.body(body))
            .await
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Answer, Lost> {
        self.call(Method::GET, &file(name), |request| request).await
    }

    /// Downloads bytes from `first` to `last`, both included.
    pub(crate) async fn get_range(
        &self,
        name: &str,
        first: u64,
        last: u64,
    ) -> Result<Answer, Lost> {
        let range = format!("bytes={first}-{last}");
        self.call(Method::GET, &file(name), |request| {
            request.header("range", range)
        })
        .await
    }

    /// Asks for the metadata of a file, which the headers carry.
    pub(crate) async fn head(&self, name: &str) -> Result<Answer, Lost> {
        self.call(Method::HEAD, &file(name), |request| request)
            .await
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<Answer, Lost> {
        self.delete_if(name, None).await
    }

    /// Removes the file; if `etag` is given, only while the file has this ETag.
    pub(crate) async fn delete_if(&self, name: &str, etag: Option<&str>) -> Result<Answer, Lost> {
        self.call(Method::DELETE, &file(name), |request| {
            if_match(request, etag)
        })
        .await
    }

    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<Answer, Lost> {
        self.second_name("copy", from, to, false, None).await
    }

    /// Copies or renames a file: `verb` is `copy` or `rename`.
    pub(crate) async fn second_name(
        &self,
        verb: &str,
        from: &str,
        to: &str,
        overwrite: bool,
        etag: Option<&str>,
    ) -> Result<Answer, Lost> {
        let body = serde_json::json!({"to": to, "overwrite": overwrite}).to_string();
        let path = format!("{}:{verb}", file(from));
        self.call(Method::POST, &path, |request| {
            if_match(request.body(body), etag)
        })
        .await
    }

    /// Asks for one page of names with a prefix; `page` is the token of the page before, or empty.
    pub(crate) async fn list(&self, prefix: &str, page: &str) -> Result<Answer, Lost> {
        self.list_some(prefix, "", None, page).await
    }

    /// Like [`Self::list`], for at most `limit` names. Names that contain the delimiter behind the
    /// prefix are cut off after it.
    pub(crate) async fn list_some(
        &self,
        prefix: &str,
        delimiter: &str,
        limit: Option<u64>,
        page: &str,
    ) -> Result<Answer, Lost> {
        let mut path = format!(
            "api/files?prefix={}&page_token={}",
            encode(prefix),
            encode(page)
        );
        if !delimiter.is_empty() {
            path.push_str(&format!("&delimiter={}", encode(delimiter)));
        }
        if let Some(limit) = limit {
            path.push_str(&format!("&limit={limit}"));
        }
        self.call(Method::GET, &path, |request| request).await
    }

    /// Asks for the space that the files with a prefix use.
    pub(crate) async fn usage(&self, prefix: &str) -> Result<Answer, Lost> {
        self.call(
            Method::GET,
            &format!("api/usage?prefix={}", encode(prefix)),
            |request| request,
        )
        .await
    }

    /// Asks for the counters of the store.
    pub(crate) async fn stats(&self) -> Result<Answer, Lost> {
        self.call(Method::GET, "api/stats", |request| request).await
    }

    /// Asks for the space that a removal would free.
    pub(crate) async fn explain(&self, name: &str) -> Result<Answer, Lost> {
        self.call(
            Method::GET,
            &format!("{}?explain=freed", file(name)),
            |request| request,
        )
        .await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, Lost> {
        let begun = Instant::now();
        let request = with(self.request(method, path)?).timeout(self.timeout);
        let sent = timeout(self.first_byte, request.send());
        let response = self
            .watched(sent, || true)
            .await
            .map_err(|_| Lost::Timeout)?;
        self.read(response, begun).await
    }

    /// Reads an answer whole. If another server than a gateway has sent it, looks at the port to say
    /// what it is.
    async fn read(
        &self,
        response: Result<reqwest::Response, reqwest::Error>,
        begun: Instant,
    ) -> Result<Answer, Lost> {
        let response = match response {
            Ok(response) => response,
            Err(error) => return Err(self.looked_at(Lost::from(&error)).await),
        };
        let mut answer = Answer::read(response, begun).await?;
        if !answer.is_gateways() {
            answer.speaker = self.look().await;
        }
        Ok(answer)
    }

    /// Replaces the finding that a port does not speak HTTP by what it speaks.
    async fn looked_at(&self, lost: Lost) -> Lost {
        match lost {
            Lost::NoHttp => match self.look().await {
                None | Some(Speaker::Gateway | Speaker::Http) => lost,
                Some(speaker) => Lost::Speaks(speaker),
            },
            _ => lost,
        }
    }

    /// Looks at the port of the gateway. `None` over TLS, behind which the program does not look.
    async fn look(&self) -> Option<Speaker> {
        let (host, port) = (self.base.host_str()?, self.base.port_or_known_default()?);
        let host = host.trim_matches(['[', ']']);
        match self.base.scheme() {
            "http" => probe::look(host, port).await,
            _ => None,
        }
    }

    /// Awaits `answer`, and tells the user if it takes longer than [`SILENCE_NOTICE`] and nothing
    /// moves.
    async fn watched<T, E>(
        &self,
        answer: impl Future<Output = Result<Result<T, reqwest::Error>, E>>,
        is_still: impl Fn() -> bool,
    ) -> Result<Result<T, reqwest::Error>, E> {
        let Some(notice) = &self.notice else {
            return answer.await;
        };
        tokio::pin!(answer);
        let ended = match timeout(SILENCE_NOTICE, &mut answer).await {
            Ok(ended) => ended,
            Err(_) => {
                if is_still() {
                    let url = self.url().trim_end_matches('/');
                    notice.tell(&format!(
                        "{url} has not answered for {:.1} s (still waiting); CSTORE_URL or --url says where the gateway is",
                        SILENCE_NOTICE.as_secs_f64()
                    ));
                }
                answer.await
            }
        };
        if matches!(ended, Ok(Ok(_))) {
            notice.answered();
        }
        ended
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, Lost> {
        // A name is encoded, so that the path is always one.
        let url = self.base.join(path).map_err(|_| Lost::Connect)?;
        let request = self.http.request(method, url);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }
}

/// Returns the URL of a gateway, to which paths can be added.
fn base(from: &str, url: &str) -> Result<Url, Failure> {
    // A URL with an @ may hold a password, so it is not repeated.
    let found = if url.contains('@') {
        "a URL with an @".to_owned()
    } else {
        format!("{url:?}")
    };
    let wrong = |why: &str| {
        Failure::Usage(format!(
            "{from}: {found} {why}; allowed is the http or https URL of a gateway, such as http://127.0.0.1:8000"
        ))
    };
    // Without its last slash the last part of a path would be replaced and not added to.
    let base =
        Url::parse(&format!("{}/", url.trim_end_matches('/'))).map_err(|_| wrong("is no URL"))?;
    if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
        return Err(wrong("is of another kind"));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(wrong(&format!(
            "has a user or a password, and {TOKEN} is for secrets"
        )));
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err(wrong("has a query or a fragment"));
    }
    Ok(base)
}

/// Returns true if a text has the form of an API token.
pub(crate) fn is_token(text: &str) -> bool {
    Token::parse(text).is_some()
}

fn encode(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

fn file(name: &str) -> String {
    format!("api/files/{}", utf8_percent_encode(name, PATH))
}

fn if_match(request: RequestBuilder, etag: Option<&str>) -> RequestBuilder {
    match etag {
        Some(etag) => request.header("if-match", quoted(etag)),
        None => request,
    }
}

/// Returns an ETag as it stands in a header, from one that users type with quotes or without.
pub(crate) fn quoted(etag: &str) -> String {
    if etag == "*" {
        etag.to_owned()
    } else {
        format!("\"{}\"", etag.trim_matches('"'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_of_a_gateway_is_told_so() {
        let new = |url: &str| Gateway::new(URL, url, None, CONNECT_TIMEOUT);
        for bad in [
            "",
            "127.0.0.1:8000",
            "ftp://x",
            "mailto:a@b",
            "http://g/?a",
            "http://g/#a",
        ] {
            let told = new(bad).unwrap_err().to_string();
            assert!(
                told.contains("http://127.0.0.1:8000") && told.starts_with("CSTORE_URL: "),
                "{bad:?}: {told}"
            );
        }
        new("http://gateway:8000").unwrap();
    }

    #[test]
    fn i13_a_url_with_a_password_is_refused_and_not_repeated() {
        for bad in [
            "http://ada:s3cret@g:8000",
            "https://:s3cret@g",
            "htp://ada:s3cret@g",
            "http://s3cret@g",
        ] {
            let told = Gateway::new("--url", bad, None, CONNECT_TIMEOUT)
                .unwrap_err()
                .to_string();
            assert!(
                told.starts_with("--url: ") && !told.contains("s3cret"),
                "{told}"
            );
        }
    }

    #[test]
    fn names_stay_names_in_a_path() {
        assert_eq!(file("a b/ü?#%.txt"), "api/files/a%20b/%C3%BC%3F%23%25.txt");
        assert_eq!(file("a:copy"), "api/files/a%3Acopy");
    }

    #[test]
    fn etags_are_typed_with_and_without_quotes() {
        assert_eq!(
            ["a-1", "\"a-1\"", "*"].map(quoted),
            ["\"a-1\"", "\"a-1\"", "*"]
        );
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_from_others() {
        // Bound, and nobody listens there. The socket keeps the port from other tests.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = held.local_addr().unwrap();
        let gateway = Gateway::new(URL, &format!("http://{addr}"), None, CONNECT_TIMEOUT).unwrap();
        assert_eq!(gateway.get("x").await.unwrap_err(), Lost::Refused);
        // A label of more than 63 bytes is no name, so that no server is asked for it.
        let gateway = Gateway::new(
            URL,
            &format!("http://{}", "g".repeat(64)),
            None,
            CONNECT_TIMEOUT,
        )
        .unwrap();
        assert_eq!(gateway.get("x").await.unwrap_err(), Lost::Lookup);
    }

    #[tokio::test]
    async fn what_cannot_be_put_together_is_no_lost_connection() {
        let gateway = Gateway::new(URL, "http://127.0.0.1:1", None, CONNECT_TIMEOUT).unwrap();
        let lost = gateway
            .delete_if("a", Some("line\nbreak"))
            .await
            .unwrap_err();
        assert_eq!(
            (lost, lost.failure("g").end()),
            (Lost::Impossible, crate::exit::End::Failed)
        );
    }

    #[tokio::test]
    async fn a_gateway_that_says_nothing_is_given_up() {
        // It takes connections, and nobody reads them.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let gateway = Gateway::new(URL, &url, None, Duration::from_secs(600)).unwrap();
        let lost = gateway
            .answering_within(Duration::from_millis(20))
            .head("x")
            .await
            .unwrap_err();
        assert_eq!(lost, Lost::Timeout);
    }
}
