//! `cstore stat`: what is known of a file.

use std::collections::BTreeMap;

use serde::Serialize;

use super::known::Known;
use super::out::human;
use super::{Session, name};
use crate::args::files::Stat;
use crate::client::header;
use crate::exit::{Failure, printable};

const META: &str = "x-cstore-meta-";

#[derive(Debug, Serialize)]
struct Told {
    name: String,
    size: u64,
    etag: String,
    content_type: String,
    modified: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    metadata: BTreeMap<String, String>,
}

pub(super) async fn run(session: &Session, options: &Stat) -> Result<(), Failure> {
    let name = name(&options.name)?.to_string();
    let told = match look(session, &name).await {
        Ok(told) => told,
        Err(failure) => {
            let of_folder = "it is a folder; `ls -l` lists its files, `du` sums them up";
            let failure = session.hint_at_folder(&name, failure, of_folder).await;
            return Err(failure.of(&name));
        }
    };
    session.out.show(&told, || text(&told))
}

async fn look(session: &Session, name: &str) -> Result<Told, Failure> {
    let answer = session.head(name).await?;
    let Known { size, etag, sha256 } = Known::from_headers(&answer.headers, None)?;
    let text = |key| header(&answer.headers, key).unwrap_or_default().to_owned();
    let meta = answer.headers.iter().filter_map(|(key, value)| {
        Some((
            key.as_str().strip_prefix(META)?.to_owned(),
            value.to_str().ok()?.to_owned(),
        ))
    });
    Ok(Told {
        name: name.to_owned(),
        size,
        etag,
        content_type: text("content-type"),
        modified: text("last-modified"),
        sha256,
        metadata: meta.collect(),
    })
}

fn text(told: &Told) -> String {
    let mut lines = vec![
        format!("name      {}", printable(&told.name)),
        format!("size      {} ({} bytes)", human(told.size), told.size),
        format!("etag      {}", printable(&told.etag)),
        format!("type      {}", printable(&told.content_type)),
        format!("modified  {}", printable(&told.modified)),
    ];
    if let Some(sha256) = &told.sha256 {
        lines.push(format!("sha256    {}", printable(sha256)));
    }
    for (key, value) in &told.metadata {
        lines.push(format!("meta      {}={}", printable(key), printable(value)));
    }
    lines.join("\n")
}
