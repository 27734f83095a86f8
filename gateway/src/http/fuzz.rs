//! Names, ranges, queries, conditions and forms as nobody would send them: they are taken or
//! refused, and what is taken keeps the rules. `CSTORE_SEED` picks the sequence, `CSTORE_CASES` how
//! many of each kind.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use cstore_testkit::seed_and_cases;
use futures_util::{FutureExt, stream};
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::http::body::{Incoming, Source};
use crate::http::condition;
use crate::http::digest;
use crate::http::disposition;
use crate::http::metadata;
use crate::http::multipart::Multipart;
use crate::http::name;
use crate::http::query::Query;
use crate::http::range::{self, Wanted};

/// Pieces that mean something, put together without sense, with bytes of chance between them.
fn nonsense(random: &mut StdRng, pieces: &[&[u8]]) -> Vec<u8> {
    let mut text = Vec::new();
    for _ in 0..random.random_range(0..12) {
        if random.random_range(0..4) == 0 {
            text.extend((0..random.random_range(0..6)).map(|_| random.random::<u8>()));
        } else {
            text.extend_from_slice(pieces[random.random_range(0..pieces.len())]);
        }
    }
    text
}

fn each(mut case: impl FnMut(&mut StdRng)) {
    let (seed, cases) = seed_and_cases(20_261_124, 100_000);
    let mut random = StdRng::seed_from_u64(seed);
    (0..cases).for_each(|_| case(&mut random));
}

#[test]
fn i10_a_path_gives_a_name_that_keeps_the_rules_or_none() {
    let pieces: &[&[u8]] = &[
        b"a", b"/", b"//", b".", b"..", b"%2e%2E", b"%2f", b"%", b"%00", b"%zz", b"%C3%BC", b"%ff",
        b":copy", b" ", b"%0a",
    ];
    each(|random| {
        let raw = String::from_utf8_lossy(&nonsense(random, pieces)).into_owned();
        let Ok(name) = name::from_path(&format!("/f/{raw}"), "/f/") else {
            return;
        };
        let name = name.as_str();
        assert!((1..=1_024).contains(&name.len()), "{raw:?}");
        assert!(
            name.split('/')
                .all(|segment| !["", ".", ".."].contains(&segment)),
            "{raw:?}"
        );
        assert!(!name.chars().any(char::is_control), "{raw:?}");
        let _ = name::with_verb(&format!("/f/{raw}"), "/f/");
    });
}

#[test]
fn i10_a_range_lies_inside_of_the_file_or_is_none() {
    let pieces: &[&[u8]] = &[
        b"bytes",
        b"=",
        b"-",
        b"0",
        b"9",
        b"18446744073709551615",
        b"99999999999999999999",
        b",",
        b" ",
        b"+",
        b"=",
    ];
    each(|random| {
        let mut text = String::from_utf8_lossy(&nonsense(random, pieces)).into_owned();
        if random.random() {
            text.insert_str(0, "bytes=");
        }
        let size = if random.random() {
            random.random_range(0..20)
        } else {
            random.random()
        };
        if let Wanted::Part { first, last } = range::wanted(Some(&text), size) {
            assert!(first <= last && last < size, "{text:?} of {size}");
        }
    });
}

#[test]
fn i10_headers_and_queries_are_read_or_refused() {
    let pieces: &[&[u8]] = &[
        b"\"",
        b"*",
        b"W/",
        b",",
        b"a-1",
        b" ",
        b"=",
        b"&",
        b"+",
        b"%41",
        b"%",
        b"name",
        b"overwrite",
        b"true",
        b";",
        b"form-data",
        b"filename*=UTF-8''",
        b"\\",
    ];
    each(|random| {
        let text = nonsense(random, pieces);
        let lossy = String::from_utf8_lossy(&text).into_owned();
        let _ =
            Query::only(Some(&lossy), &["name", "overwrite"]).map(|query| query.flag("overwrite"));
        let _ = disposition::parse(&lossy);
        let _ = disposition::boundary(&lossy);
        let Ok(value) = HeaderValue::from_bytes(&text) else {
            return;
        };
        let mut headers = HeaderMap::new();
        for name in [
            "if-match",
            "if-none-match",
            "content-md5",
            "x-cstore-sha256",
            "x-cstore-meta-a",
            "if-modified-since",
        ] {
            if random.random() {
                headers.append(name, value.clone());
            }
        }
        let _ = condition::StatedCondition::from_headers(&headers, false);
        let _ = condition::read(&headers, "a-1", 0);
        let _ = (
            digest::md5(&headers),
            digest::sha256(&headers),
            metadata::from_headers(&headers),
        );
        headers.remove(IF_MATCH);
        headers.remove(IF_NONE_MATCH);
        let _ = condition::etag_of_source(&headers);
    });
}

// The runtime is for the deadlines.
#[tokio::test]
async fn i10_a_form_gives_its_file_or_an_error_however_it_is_split() {
    let pieces: &[&[u8]] = &[
        b"--XY",
        b"\r\n",
        b"--",
        b"\n",
        b"\r",
        b"Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n",
        b"Content-Disposition: form-data; name=other\r\n\r\n",
        b"\r\n--XY\r\n",
        b"\r\n--XY--",
        b"bytes",
        b":",
        b"--X",
        b"Content-Type: ",
    ];
    each(|random| {
        let mut text = nonsense(random, pieces);
        if random.random() {
            text.splice(
                0..0,
                b"--XY\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n"
                    .iter()
                    .copied(),
            );
        }
        let whole = read(&text, text.len().max(1));
        for step in [1, random.random_range(1..9)] {
            assert_eq!(
                read(&text, step),
                whole,
                "step {step}: {:?}",
                String::from_utf8_lossy(&text)
            );
        }
    });
}

/// The file of a form that comes in pieces, or that there is none.
fn read(text: &[u8], step: usize) -> Result<Vec<u8>, String> {
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
    let mut form = Multipart::new("multipart/form-data; boundary=XY", body).unwrap();
    let reading = async {
        form.file().await?;
        let mut all = Vec::new();
        while let Some(chunk) = form.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    };
    let done = reading
        .now_or_never()
        .expect("nothing waits: all pieces are there");
    done.map_err(|error: crate::error::ApiError| format!("{:?}", error.code()))
}
