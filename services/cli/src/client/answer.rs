//! Gateway answers that are read whole.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::again::Wait;
use super::lost::{Lost, WANTED};
use crate::exit::{End, Failure, Trouble};
use crate::limits::{MAX_ANSWER_BYTES, MAX_RETRY_AFTER};
use crate::probe::Speaker;

/// An answer with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) trace_id: String,
    pub(crate) content_range: Option<String>,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
    /// Kind of server that sent the response, if it is no gateway and was probed.
    pub(super) speaker: Option<Speaker>,
}

/// Returns the value of a header that is text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl Answer {
    pub(super) async fn read(mut response: Response, begun: Instant) -> Result<Self, Lost> {
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = BytesMut::new();
        loop {
            match response.chunk().await.map_err(|error| Lost::from(&error)) {
                Ok(None) => break,
                Ok(Some(chunk)) if body.len().saturating_add(chunk.len()) > MAX_ANSWER_BYTES => {
                    return Err(Lost::TooLong);
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Err(Lost::Timeout) => return Err(Lost::Timeout),
                Err(_) => return Err(Lost::CutShort),
            }
        }
        let text = |name| header(&headers, name).map(str::to_owned);
        let (trace_id, content_range) = (
            text("x-cstore-trace-id").unwrap_or_default(),
            text("content-range"),
        );
        Ok(Self {
            status,
            trace_id,
            content_range,
            body: body.freeze(),
            took: begun.elapsed(),
            headers,
            speaker: None,
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Parses the body of a successful answer.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::Failed(format!(
                "the gateway's answer is not understood: {error} (trace {})",
                self.trace_id
            ))
        })
    }

    /// Returns the reason of a refusal, for people.
    pub(crate) fn told(&self) -> String {
        let body = self.json();
        let said = body["detail"]
            .as_str()
            .or_else(|| body["error"]["message"].as_str());
        if let Some(said) = said {
            return said.to_owned();
        }
        if self.body.is_empty() {
            return self.status.to_string();
        }
        String::from_utf8_lossy(&self.body)
            .chars()
            .take(200)
            .collect()
    }

    /// Returns the gateway's code of the failure, or one for the status: answers to HEAD have no
    /// body, and proxies send bodies of their own.
    fn code(&self) -> String {
        let body = self.json();
        let said = body["code"]
            .as_str()
            .or_else(|| body["error"]["code"].as_str());
        said.map_or_else(|| end(self.status).code().to_owned(), str::to_owned)
    }

    /// Returns true if the same request may succeed a little later, because nothing was done.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.status.as_u16(), 429 | 502 | 503)
    }

    fn retry_after(&self) -> Option<Duration> {
        let seconds = header(&self.headers, "retry-after")?.parse().ok()?;
        Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
    }

    /// Returns the refusal as the failure of the command.
    pub(crate) fn failure(&self) -> Failure {
        // A path that no gateway knows is not a file that is not there.
        let strange = self.status.as_u16() == 404 && !self.is_not_found();
        let end = if strange {
            End::Failed
        } else {
            end(self.status)
        };
        if !self.is_gateways() && !matches!(end, End::Denied | End::Unavailable | End::Full) {
            return match self.speaker {
                Some(Speaker::Admin) => {
                    Failure::Failed(format!("{}, not a gateway{WANTED}", Speaker::Admin.what()))
                }
                _ => stranger(&self.status.to_string()),
            };
        }
        let trace_id = Some(self.trace_id.clone()).filter(|id| !id.is_empty());
        let concerns_all = matches!(end, End::Unavailable | End::Denied | End::Full);
        let (code, mut message) = (self.code(), self.told());
        if self.status == StatusCode::UNAUTHORIZED {
            message.push_str("; CSTORE_TOKEN or --token-file takes the token");
        }
        Failure::Client(Box::new(Trouble {
            end,
            concerns_all,
            code,
            message,
            name: None,
            trace_id,
        }))
    }

    /// A gateway names the trace in every answer. What any other server says of a name means
    /// nothing; that it is busy or wants to know who asks can be the word of a proxy in front of a
    /// gateway.
    pub(super) fn is_gateways(&self) -> bool {
        !self.trace_id.is_empty()
    }

    /// Returns true if a gateway has carried out the request.
    pub(crate) fn is_success(&self) -> bool {
        self.status.is_success() && self.is_gateways()
    }

    /// Returns true if a gateway says that the file does not exist. A gateway says the same of an
    /// unknown path, but the client asks for known paths only.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status.as_u16() == 404
            && self.is_gateways()
            && (self.body.is_empty() || self.code() == End::NotFound.code())
    }

    /// Returns the time after which the same request may be sent again.
    pub(crate) fn wait(&self) -> Wait {
        match self.retry_after() {
            Some(wished) => Wait::Wished(wished),
            // A proxy sends 502 while the gateway behind it is down.
            None if self.status.as_u16() == 502 => Wait::Away,
            None => Wait::Usual,
        }
    }
}

/// Returns the failure for an answer that comes from no gateway.
pub(crate) fn stranger(what: &str) -> Failure {
    Failure::Failed(format!(
        "{what}, and no x-cstore-trace-id: that is no C-Store gateway{WANTED}"
    ))
}

fn end(status: StatusCode) -> End {
    match status.as_u16() {
        404 => End::NotFound,
        409 | 412 => End::Conflict,
        401 | 403 => End::Denied,
        429 | 502 | 503 | 504 => End::Unavailable,
        507 => End::Full,
        _ => End::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            trace_id: "t".to_owned(),
            content_range: None,
            body: Bytes::from(body.to_owned()),
            took: Duration::ZERO,
            speaker: None,
        }
    }

    #[test]
    fn problems_are_understood_old_and_new_and_those_of_others() {
        for (body, code, told) in [
            (
                r#"{"detail":"taken","code":"already_exists","error":{"code":"x","message":"y"}}"#,
                "already_exists",
                "taken",
            ),
            (
                r#"{"error":{"code":"already_exists","message":"taken"}}"#,
                "already_exists",
                "taken",
            ),
            ("<h1>no</h1>", "conflict", "<h1>no</h1>"),
            ("", "conflict", "409 Conflict"),
            (r#"{"detail":7}"#, "conflict", r#"{"detail":7}"#),
        ] {
            let answer = answer(409, body);
            assert_eq!(
                (answer.code().as_str(), answer.told().as_str()),
                (code, told),
                "{body}"
            );
            assert_eq!(answer.failure().end(), End::Conflict);
        }
    }

    #[test]
    fn what_a_stranger_says_of_a_name_means_nothing() {
        for (status, end) in [
            (200, End::Failed),
            (404, End::Failed),
            (409, End::Failed),
            (401, End::Denied),
            (502, End::Unavailable),
        ] {
            let answer = Answer {
                trace_id: String::new(),
                ..answer(status, "")
            };
            assert_eq!(
                (
                    answer.failure().end(),
                    answer.is_success(),
                    answer.is_not_found()
                ),
                (end, false, false)
            );
        }
        assert!(
            answer(404, "").is_not_found() && answer(404, r#"{"code":"not_found"}"#).is_not_found()
        );
        assert_eq!(
            answer(404, r#"{"code":"other"}"#).failure().end(),
            End::Failed
        );
        assert!(!answer(404, r#"{"code":"other"}"#).is_not_found() && answer(204, "").is_success());
    }

    #[test]
    fn a_gateway_cannot_ask_for_an_endless_wait() {
        let mut busy = answer(503, "");
        assert!(busy.is_busy() && busy.retry_after().is_none());
        for (text, seconds) in [
            ("2", Some(2)),
            ("99999", Some(10)),
            ("soon", None),
            ("-1", None),
        ] {
            busy.headers.insert("retry-after", text.parse().unwrap());
            assert_eq!(
                busy.retry_after().map(|wait| wait.as_secs()),
                seconds,
                "{text}"
            );
        }
    }
}
