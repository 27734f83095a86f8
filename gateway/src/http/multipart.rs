//! multipart/form-data (RFC 7578), streamed: the file part is handed out as it comes in, nothing is
//! spooled.
//!
//! ```text
//! preamble → delimiter → headers → content → delimiter → headers → … → delimiter "--"
//! ```
//! Bounds: preamble 8 KiB, headers of one part 8 KiB, 32 parts, 1 MiB of parts that are not the
//! file. A body that ends anywhere before the closing delimiter is an error: half a form is never a
//! file. Exactly one part may be named `file`, and the parts behind it are read before its end is
//! reported, so that a second one is noticed in time.

use bytes::{Bytes, BytesMut};
use cstore_types::ErrorCode;

use crate::error::ApiError;
use crate::http::body::{Incoming, Source};
use crate::http::disposition::{self, Disposition};
use crate::http::needle::Needle;
use crate::limits::{MAX_BOUNDARY, MAX_OTHER_PARTS, MAX_PART_HEADERS, MAX_PARTS};

const FIELD: &str = "file";

/// Headers of the file part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilePart {
    pub(crate) filename: Option<String>,
    pub(crate) content_type: Option<String>,
}

/// A form on its way in; as a [`Source`] it is the content of the file part.
#[derive(Debug)]
pub(crate) struct Multipart {
    body: Incoming,
    pending: Bytes,
    delimiter: Needle,
    line_end: Needle,
    parts: usize,
    other: usize,
    started: bool,
    ended: bool,
}

impl Multipart {
    /// # Errors
    /// When the content type is not multipart/form-data with a usable boundary.
    /// The body comes back then, to be drained.
    pub(crate) fn new(
        content_type: &str,
        body: Incoming,
    ) -> Result<Self, Box<(ApiError, Incoming)>> {
        let boundary = disposition::boundary(content_type)
            .filter(|boundary| (1..=MAX_BOUNDARY).contains(&boundary.len()));
        let Some(boundary) = boundary else {
            let error =
                ApiError::invalid("send multipart/form-data with a boundary of 1 to 70 characters");
            return Err(Box::new((error, body)));
        };
        Ok(Self {
            body,
            // The first delimiter may stand at the very beginning, without a line end before it.
            pending: Bytes::from_static(b"\r\n"),
            delimiter: Needle::new(format!("\r\n--{boundary}").as_bytes()),
            line_end: Needle::new(b"\r\n"),
            parts: 0,
            other: 0,
            started: false,
            ended: false,
        })
    }

    /// Reads on to the content of the file part.
    ///
    /// # Errors
    /// When there is none, or the form breaks a bound or a rule.
    pub(crate) async fn file(&mut self) -> Result<FilePart, ApiError> {
        self.skip_content(MAX_PART_HEADERS, "before the first part")
            .await?;
        self.next_file()
            .await?
            .ok_or_else(|| ApiError::invalid("the form has no part named file"))
    }

    /// The body, to be drained.
    pub(crate) fn into_body(self) -> Incoming {
        self.body
    }

    /// From behind a delimiter to the next file part, over all others.
    async fn next_file(&mut self) -> Result<Option<FilePart>, ApiError> {
        while let Some((disposition, content_type)) = self.headers().await? {
            if disposition.name.as_deref() == Some(FIELD) {
                return Ok(Some(FilePart {
                    filename: disposition.filename,
                    content_type,
                }));
            }
            let left = MAX_OTHER_PARTS - self.other;
            self.other += self
                .skip_content(left, "in parts that are not the file")
                .await?;
        }
        Ok(None)
    }

    /// The headers of the next part; `None` behind the closing delimiter.
    async fn headers(&mut self) -> Result<Option<(Disposition, Option<String>)>, ApiError> {
        while self.pending.len() < 2 {
            self.fill().await?;
        }
        if self.pending.starts_with(b"--") {
            return self.close().await.map(|()| None);
        }
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(ApiError::new(
                ErrorCode::TooLarge,
                format!("a form may have at most {MAX_PARTS} parts"),
            ));
        }
        let mut budget = MAX_PART_HEADERS;
        if !self
            .line(&mut budget)
            .await?
            .iter()
            .all(|byte| matches!(byte, b' ' | b'\t'))
        {
            return Err(ApiError::invalid(
                "a delimiter of the form must stand on a line of its own",
            ));
        }
        let (mut disposition, mut content_type) = (None, None);
        loop {
            let line = self.line(&mut budget).await?;
            if line.is_empty() {
                break;
            }
            let text = std::str::from_utf8(&line)
                .map_err(|_| ApiError::invalid("headers of a part must be UTF-8"))?;
            let (name, value) = text
                .split_once(':')
                .ok_or_else(|| ApiError::invalid("a header of a part has no colon"))?;
            let twice = if name.eq_ignore_ascii_case("content-disposition") {
                disposition
                    .replace(disposition::parse(value.trim())?)
                    .is_some()
            } else if name.eq_ignore_ascii_case("content-type") {
                content_type.replace(value.trim().to_owned()).is_some()
            } else if name.eq_ignore_ascii_case("content-transfer-encoding") {
                refuse_encoding(value.trim())?;
                false
            } else {
                false
            };
            if twice {
                return Err(ApiError::invalid(format!(
                    "a part has the header {name} twice"
                )));
            }
        }
        let disposition =
            disposition.ok_or_else(|| ApiError::invalid("a part has no Content-Disposition"))?;
        Ok(Some((disposition, content_type)))
    }

    /// Behind the two dashes of the closing delimiter only white space stands on its line; what
    /// follows is passed over (RFC 2046 §5.1.1).
    async fn close(&mut self) -> Result<(), ApiError> {
        self.ended = true;
        self.pending = self.pending.split_off(2);
        let mut budget = MAX_PART_HEADERS;
        loop {
            let end = self
                .pending
                .iter()
                .position(|byte| !matches!(byte, b' ' | b'\t'));
            match end.and_then(|end| self.pending.get(end)) {
                Some(b'\r') => return Ok(()),
                Some(_) => {
                    return Err(ApiError::invalid(
                        "the closing delimiter of the form must end its line",
                    ));
                }
                None => {}
            }
            budget = budget.checked_sub(self.pending.len()).ok_or_else(|| {
                ApiError::new(
                    ErrorCode::TooLarge,
                    "the line of the closing delimiter is too long",
                )
            })?;
            self.pending = Bytes::new();
            match self.body.chunk().await? {
                Some(next) => self.pending = next,
                None => return Ok(()),
            }
        }
    }

    /// One line of headers, without its end.
    async fn line(&mut self, budget: &mut usize) -> Result<Bytes, ApiError> {
        loop {
            let end = self.line_end.find(&self.pending);
            if end.unwrap_or(self.pending.len()) > *budget {
                let message =
                    format!("the headers of a part may have at most {MAX_PART_HEADERS} bytes");
                return Err(ApiError::new(ErrorCode::TooLarge, message));
            }
            if let Some(end) = end {
                *budget = budget.saturating_sub(end + 2);
                let line = self.pending.split_to(end);
                self.pending = self.pending.split_off(2);
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    /// Bytes of the current part; `None` when its delimiter has been passed.
    async fn content(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            match self.delimiter.find(&self.pending) {
                Some(0) => {
                    self.pending = self.pending.split_off(self.delimiter.len());
                    return Ok(None);
                }
                Some(end) => return Ok(Some(self.pending.split_to(end))),
                None => {}
            }
            let sure = self.pending.len() - self.delimiter.begun_in(&self.pending);
            if sure > 0 {
                return Ok(Some(self.pending.split_to(sure)));
            }
            self.fill().await?;
        }
    }

    async fn skip_content(&mut self, limit: usize, place: &str) -> Result<usize, ApiError> {
        let mut skipped = 0;
        while let Some(chunk) = self.content().await? {
            skipped += chunk.len();
            if skipped > limit {
                return Err(ApiError::new(
                    ErrorCode::TooLarge,
                    format!("the form has too many bytes {place}"),
                ));
            }
        }
        Ok(skipped)
    }

    /// Takes more of the body. What is pending is copied only when a delimiter or a line may
    /// straddle two chunks.
    async fn fill(&mut self) -> Result<(), ApiError> {
        let next = self.body.chunk().await?;
        let next =
            next.ok_or_else(|| ApiError::invalid("the form ends before its closing delimiter"))?;
        if self.pending.is_empty() {
            self.pending = next;
        } else {
            let mut joined = BytesMut::with_capacity(self.pending.len() + next.len());
            joined.extend_from_slice(&self.pending);
            joined.extend_from_slice(&next);
            self.pending = joined.freeze();
        }
        Ok(())
    }
}

/// Parts are kept as they come (RFC 7578 §4.7).
fn refuse_encoding(value: &str) -> Result<(), ApiError> {
    match ["7bit", "8bit", "binary"]
        .iter()
        .any(|known| value.eq_ignore_ascii_case(known))
    {
        true => Ok(()),
        false => Err(ApiError::invalid(format!(
            "Content-Transfer-Encoding of a part must be binary, 8bit or 7bit, found {value:?}"
        ))),
    }
}

impl Source for Multipart {
    async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        if self.ended {
            return Ok(None);
        }
        self.started = true;
        if let Some(chunk) = self.content().await? {
            return Ok(Some(chunk));
        }
        match self.next_file().await? {
            Some(_) => Err(ApiError::invalid(
                "the form has two parts named file; send one",
            )),
            None => Ok(None),
        }
    }

    fn started(&self) -> bool {
        self.started
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use futures_util::stream;
    use std::time::Duration;

    const TYPE: &str = "multipart/form-data; boundary=XY";

    fn form(text: &[u8], step: usize) -> Multipart {
        let chunks: Vec<_> = text
            .chunks(step)
            .map(|c| Ok::<_, std::io::Error>(Bytes::copy_from_slice(c)))
            .collect();
        let body = Incoming::new(
            http::Version::HTTP_11,
            Body::from_stream(stream::iter(chunks)),
            Duration::from_secs(5),
            0,
        );
        Multipart::new(TYPE, body).unwrap()
    }

    async fn read(mut form: Multipart) -> Result<(FilePart, Vec<u8>), ApiError> {
        let part = form.file().await?;
        let mut all = Vec::new();
        while let Some(chunk) = form.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok((part, all))
    }

    fn part(headers: &str, content: &str) -> String {
        format!("--XY\r\n{headers}\r\n\r\n{content}\r\n")
    }

    const FILE: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"";

    #[tokio::test]
    async fn every_split_of_a_form_gives_the_same_file() {
        let content = "one\r\ntwo\r\n--X\r\n--XZ\r\r\n-";
        let text = format!(
            "preamble\r\n{}{}{}--XY--\r\nepilogue",
            part("content-disposition: form-data; name=note", "not the file"),
            part(&format!("{FILE}\r\nContent-Type: text/plain"), content),
            part("Content-Disposition: form-data; name=\"after\"", ""),
        );
        for step in 1..=text.len() {
            let (part, found) = read(form(text.as_bytes(), step)).await.unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), content, "step {step}");
            let expected = FilePart {
                filename: Some("a.txt".to_owned()),
                content_type: Some("text/plain".to_owned()),
            };
            assert_eq!(part, expected);
        }
    }

    #[tokio::test]
    async fn a_form_cut_anywhere_before_its_end_is_refused() {
        let text = format!("{}--XY--", part(FILE, "content"));
        for cut in 0..text.len() {
            assert!(
                read(form(&text.as_bytes()[..cut], 5)).await.is_err(),
                "cut at {cut}"
            );
        }
        assert_eq!(read(form(text.as_bytes(), 5)).await.unwrap().1, b"content");
    }

    #[tokio::test]
    async fn hostile_forms_are_refused_with_the_bound_they_break() {
        let many: String = (0..40)
            .map(|n| part(&format!("Content-Disposition: form-data; name=f{n}"), ""))
            .collect();
        let cases = [
            (
                format!("{}{}--XY--", part(FILE, "a"), part(FILE, "b")),
                ErrorCode::InvalidArgument,
                "two parts",
            ),
            (
                "--XY--\r\n".to_owned(),
                ErrorCode::InvalidArgument,
                "no part named file",
            ),
            (
                format!("--XY\r\nX: {}", "x".repeat(100_000)),
                ErrorCode::TooLarge,
                "headers of a part",
            ),
            (
                format!("--XY\r\n{}", "X: y\r\n".repeat(10_000)),
                ErrorCode::TooLarge,
                "headers of a part",
            ),
            (
                format!("{many}--XY--"),
                ErrorCode::TooLarge,
                "at most 32 parts",
            ),
            (
                "x".repeat(100_000),
                ErrorCode::TooLarge,
                "before the first part",
            ),
            (
                part(
                    "Content-Disposition: form-data; name=o",
                    &"x".repeat(2 << 20),
                ),
                ErrorCode::TooLarge,
                "not the file",
            ),
            (
                part("X: y", ""),
                ErrorCode::InvalidArgument,
                "no Content-Disposition",
            ),
            (
                part("colonless", ""),
                ErrorCode::InvalidArgument,
                "no colon",
            ),
            (
                "--XYZ\r\n\r\n".to_owned(),
                ErrorCode::InvalidArgument,
                "line of its own",
            ),
        ];
        for (text, code, reason) in cases {
            let error = read(form(text.as_bytes(), 4_096)).await.unwrap_err();
            assert_eq!(error.code(), code, "{reason}");
            assert!(
                format!("{error:?}").contains(reason),
                "{error:?} should say: {reason}"
            );
        }
    }

    #[test]
    fn a_content_type_without_a_usable_boundary_is_refused() {
        let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
        for text in [
            "text/plain",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            &long,
        ] {
            let body = Incoming::new(
                http::Version::HTTP_11,
                Body::empty(),
                Duration::from_secs(1),
                0,
            );
            assert!(Multipart::new(text, body).is_err(), "{text}");
        }
    }
}
