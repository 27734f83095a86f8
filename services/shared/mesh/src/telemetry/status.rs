//! The status of a gRPC answer, as its headers or trailers carry it.

use http::HeaderMap;
use tonic::{Code, Status};

/// Returns the code in the `grpc-status` header, or `None` if the header is missing.
///
/// Does not allocate, in contrast to [`Status::from_header_map`], which also copies the message and
/// all other headers. A code that gRPC does not know becomes [`Code::Unknown`].
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<Code> {
    let code = headers.get(Status::GRPC_STATUS)?;
    Some(Code::from_bytes(code.as_bytes()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_code_is_the_one_of_the_whole_status() {
        for code in 0..=16 {
            let code = Code::from_i32(code);
            let answer = Status::new(code, "why, in ünicode").into_http::<()>();
            assert_eq!(grpc_status(answer.headers()), Some(code));
        }
        let garbage = ["", "17", "99", "-1", "00", "x", "0 ", "123456", "\u{e9}"];
        for text in garbage {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            headers.insert(Status::GRPC_STATUS, value);
            headers.insert("grpc-message", HeaderValue::from_static("message"));
            let whole = Status::from_header_map(&headers).map(|status| status.code());
            assert_eq!(grpc_status(&headers), whole, "{text:?}");
            assert_eq!(whole, Some(Code::Unknown), "{text:?}");
        }
        assert_eq!(grpc_status(&HeaderMap::new()), None);
        assert!(Status::from_header_map(&HeaderMap::new()).is_none());
    }
}
