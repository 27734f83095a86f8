//! One round of every verb.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{content, say};
use crate::client::{Answer, Gateway, Lost};
use crate::exit::{End, Failure};
use crate::limits::SMOKE_PAUSE;

const BLOCK: usize = 64 << 10;
/// Around the edges of a block, nothing, and more than one frame.
const SIZES: [usize; 7] = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 1 << 20, 5 << 20];

/// A step that did not go as it must, with the status that the command ends with.
type Wrong = Failure;

fn wrong(message: String) -> Wrong {
    Failure::Failed(message)
}

pub(super) async fn run(
    gateway: &Gateway,
    prefix: &str,
    patience: Duration,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let round = Round { gateway, prefix };
    let ended = match round.wait(patience).await {
        Ok(()) => round.all().await,
        Err(wrong) => return Err(wrong),
    };
    // Also after a failure, as far as it can be done.
    let swept = round.sweep().await;
    match ended.and(swept) {
        Ok(()) => {
            say(&format!(
                "smoke: all good in {:.1} s at {}",
                begun.elapsed().as_secs_f64(),
                gateway.url()
            ));
            Ok(())
        }
        Err(wrong) => {
            let message = format!("smoke: {wrong}");
            Err(wrong.saying(message))
        }
    }
}

struct Round<'a> {
    gateway: &'a Gateway,
    prefix: &'a str,
}

impl Round<'_> {
    /// Until the gateway answers at all, and not that it is starting.
    async fn wait(&self, patience: Duration) -> Result<(), Wrong> {
        let end = Instant::now() + patience;
        loop {
            let found = self.gateway.list(self.prefix, "").await;
            let why = match &found {
                Ok(answer) if answer.status.is_success() => return Ok(()),
                Ok(answer) if answer.status.as_u16() != 503 => return Err(refused("list", answer)),
                Ok(answer) => told("list", answer),
                Err(lost) => format!("{}: {lost}", self.gateway.url()),
            };
            if Instant::now() >= end {
                let message = format!("not there after {patience:?}: {why}");
                return Err(Failure::client(End::Unavailable, message));
            }
            sleep(SMOKE_PAUSE).await;
        }
    }

    async fn all(&self) -> Result<(), Wrong> {
        for size in SIZES {
            let name = content::name(self.prefix, "file", size);
            let bytes = content::bytes(&name).unwrap_or_default();
            let step = format!("upload of {size} bytes");
            self.expect(&step, 201, self.gateway.put(&name, bytes.clone()))
                .await?;
            self.same(
                &format!("download of {size} bytes"),
                200,
                self.gateway.get(&name),
                &bytes,
            )
            .await?;
        }
        let name = content::name(self.prefix, "file", BLOCK + 1);
        let bytes = content::bytes(&name).unwrap_or_default();
        let (first, last) = (BLOCK - 10, BLOCK);
        let part = bytes.slice(first..=last);
        let answer = self.same(
            "range over a block's edge",
            206,
            self.gateway.get_range(&name, first as u64, last as u64),
            &part,
        );
        let found = answer.await?.content_range.unwrap_or_default();
        let wanted = format!("bytes {first}-{last}/{}", bytes.len());
        if found != wanted {
            return Err(wrong(format!(
                "range over a block's edge: content-range is {found:?} and not {wanted:?}"
            )));
        }
        self.again(&bytes).await?;
        let (copy, listed) = (
            format!("{}/copy-{}", self.prefix, bytes.len()),
            SIZES.len() + 2,
        );
        self.expect("copy", 200, self.gateway.copy(&name, &copy))
            .await?;
        self.same("download of the copy", 200, self.gateway.get(&copy), &bytes)
            .await?;
        let list = self
            .expect(
                "list",
                200,
                self.gateway.list(&format!("{}/", self.prefix), ""),
            )
            .await?;
        let found = list.json()["files"].as_array().map_or(0, Vec::len);
        if found != listed {
            return Err(wrong(format!("list: {found} files, and not {listed}")));
        }
        self.expect("delete", 204, self.gateway.delete(&name))
            .await?;
        self.expect("download of what was deleted", 404, self.gateway.get(&name))
            .await?;
        self.same("the copy afterwards", 200, self.gateway.get(&copy), &bytes)
            .await?;
        if self.gateway.has_token() {
            let stranger = self.gateway.with_token("cst_000000000000_wrong");
            self.expect("a wrong token", 401, stranger.get(&copy))
                .await?;
        }
        Ok(())
    }

    /// The same bytes under another name: nothing is stored again. Named tenants are not told.
    async fn again(&self, bytes: &Bytes) -> Result<(), Wrong> {
        let name = format!("{}/again-{}", self.prefix, bytes.len());
        let put = self
            .expect(
                "upload of the same bytes",
                201,
                self.gateway.put(&name, bytes.clone()),
            )
            .await?;
        match put.json()["new_blocks"].as_u64() {
            None | Some(0) => Ok(()),
            Some(new) => Err(wrong(format!("upload of the same bytes: {new} new blocks"))),
        }
    }

    /// Removes whatever has the prefix.
    async fn sweep(&self) -> Result<(), Wrong> {
        let prefix = format!("{}/", self.prefix);
        let list = self
            .quietly("sweep", 200, self.gateway.list(&prefix, ""))
            .await?
            .json();
        for file in list["files"].as_array().into_iter().flatten() {
            let name = file["name"].as_str().unwrap_or_default();
            self.quietly("sweep", 204, self.gateway.delete(name))
                .await?;
        }
        Ok(())
    }

    async fn expect(
        &self,
        step: &str,
        status: u16,
        call: impl Future<Output = Result<Answer, Lost>>,
    ) -> Result<Answer, Wrong> {
        let answer = self.quietly(step, status, call).await?;
        say(&format!(
            "{step:<32} {status}  {:>7.1} ms  trace {}",
            answer.took.as_secs_f64() * 1e3,
            answer.trace_id
        ));
        Ok(answer)
    }

    async fn quietly(
        &self,
        step: &str,
        status: u16,
        call: impl Future<Output = Result<Answer, Lost>>,
    ) -> Result<Answer, Wrong> {
        match call.await {
            Ok(answer) if answer.status.as_u16() == status => Ok(answer),
            Ok(answer) => {
                let message = format!("{}, and not {status}", told(step, &answer));
                Err(refused(step, &answer).saying(message))
            }
            Err(lost) => {
                let failure = lost.failure(self.gateway.url());
                Err(failure.saying(format!("{step}: {lost}")))
            }
        }
    }

    async fn same(
        &self,
        step: &str,
        status: u16,
        call: impl Future<Output = Result<Answer, Lost>>,
        bytes: &Bytes,
    ) -> Result<Answer, Wrong> {
        let answer = self.expect(step, status, call).await?;
        if answer.body == *bytes {
            return Ok(answer);
        }
        let (found, wanted) = (blake3::hash(&answer.body), blake3::hash(bytes));
        Err(wrong(format!(
            "{step}: WRONG BYTES: {} of {found}, and not {} of {wanted} (trace {})",
            answer.body.len(),
            bytes.len(),
            answer.trace_id
        )))
    }
}

/// Returns the failure of a step that the gateway refuses. Its status is that of a refusal for want
/// of a right, of room or of a node; any other answer is a wrong one.
pub(super) fn refused(step: &str, answer: &Answer) -> Failure {
    let hint = match answer.status.as_u16() {
        401 => "; CSTORE_TOKEN takes the token",
        _ => "",
    };
    let message = format!("{}{hint}", told(step, answer));
    match answer.failure().end() {
        end @ (End::Denied | End::Unavailable | End::Full) => Failure::client(end, message),
        _ => wrong(message),
    }
}

fn told(step: &str, answer: &Answer) -> String {
    format!(
        "{step}: {} {:?} (trace {})",
        answer.status.as_u16(),
        answer.told(),
        answer.trace_id
    )
}
