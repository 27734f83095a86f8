//! The end of a run: nothing is wrong any more, and everything must be as the book says.

use std::collections::BTreeMap;

use cstore_proto::v1;
use tokio::time::sleep;

use super::{Client, HEAL, OWN_NAMES, PAUSE, now};

impl Client {
    /// I12: after the faults uploads succeed and all nodes are ready within bounds, and every
    /// outcome can be learned.
    pub(super) async fn recover(&mut self) {
        let healed = self.shared.progress.borrow().healed.unwrap_or_default();
        let mut missing: BTreeMap<&str, bool> = ["an upload", "all nodes ready", "every outcome"]
            .into_iter()
            .map(|what| (what, true))
            .collect();
        let mut tries = 0;
        while missing.values().any(|missing| *missing) {
            if now() > healed + HEAL {
                let missing: Vec<_> = missing.iter().filter(|(_, missing)| **missing).collect();
                return self.violated(format!("{HEAL:?} after the heal there is not: {missing:?}"));
            }
            if missing["an upload"] {
                tries += 1;
                let name = format!("{}/after-{tries}", self.id);
                self.put(&name, false, false).await;
                let there = matches!(self.shared.book.borrow().certain(&name), Some(Some(_)));
                missing.insert("an upload", !there);
            }
            missing.insert("all nodes ready", !self.all_ready().await);
            self.settle().await;
            missing.insert("every outcome", !self.open.is_empty());
            sleep(PAUSE).await;
        }
        self.say(&format!(
            "recovered {} ms after the heal",
            (now().saturating_sub(healed)).as_millis()
        ));
    }

    /// I1, I2: everything is read again.
    pub(super) async fn verify(&mut self) {
        let names = self.shared.book.borrow().names();
        let mine = |name: &String| {
            name.starts_with("shared/") || name.starts_with(&format!("{}/", self.id))
        };
        let names: Vec<String> = names.into_iter().filter(mine).collect();
        for name in names {
            let mut tries = 0;
            while let Err(status) = self.get(&name).await {
                tries += 1;
                if tries == 5 {
                    return self
                        .violated(format!("{name} cannot be read after the heal: {status}"));
                }
                sleep(PAUSE).await;
            }
        }
        let request = v1::ListFilesRequest::default();
        match self.master.list_files(request).await {
            Ok(found) => {
                let known = self.shared.book.borrow().names();
                for file in found
                    .files
                    .iter()
                    .filter(|file| !known.contains(&file.name))
                {
                    self.violated(format!("{} is listed, and nobody made it", file.name));
                }
            }
            Err(status) => self.violated(format!("nothing can be listed after the heal: {status}")),
        }
    }

    /// I4: half of the own names go, their space is given back, and the other half must not miss a
    /// block.
    pub(super) async fn tidy_up(&mut self) {
        for n in 0..OWN_NAMES / 2 {
            let name = format!("{}/{n}", self.id);
            self.delete(&name).await;
        }
        let end = now() + HEAL;
        loop {
            let usage = self.master.get_usage(v1::GetUsageRequest::default()).await;
            if usage.is_ok_and(|usage| usage.pending_releases == 0) {
                return;
            }
            if now() > end {
                return self.violated(format!("releases are not done after {HEAL:?}"));
            }
            sleep(PAUSE).await;
        }
    }
}
