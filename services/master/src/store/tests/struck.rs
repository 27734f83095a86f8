//! Damage of the log: whatever block of it is struck, the open has everything or refuses, and with
//! an index beside it the damage is made good.

use rand::RngExt;

use super::truth::{Content, Folder};
use super::*;

const BLOCK: usize = 4_096;

/// Strikes a block of a file: flips a byte of it, or zeroes it.
fn strike(path: &Path, block: usize, at: Option<usize>) {
    let mut bytes = std::fs::read(path).unwrap();
    match at {
        Some(at) => bytes[block * BLOCK + at] ^= 0x10,
        None => bytes[block * BLOCK..(block + 1) * BLOCK].fill(0),
    }
    std::fs::write(path, bytes).unwrap();
}

fn blocks(folder: &Folder) -> Vec<(usize, usize)> {
    let mut blocks = Vec::new();
    for (n, path) in folder.log_files().iter().enumerate() {
        let len = std::fs::metadata(path).unwrap().len();
        let len = usize::try_from(len).unwrap();
        blocks.extend((0..len / BLOCK).map(|block| (n, block)));
    }
    blocks
}

/// Opens a struck copy; returns what it holds, unless it is refused.
async fn try_content(folder: &Folder) -> Option<Content> {
    let meta = folder.try_open(1 << 30).ok()?;
    let content = content(&meta).await;
    meta.close().await.unwrap();
    Some(content)
}

#[tokio::test]
async fn i8_a_blow_to_any_block_of_a_closed_log_is_made_good_by_the_index() {
    let whole = Folder::new();
    whole.write(0, 40, 7).await;
    let expected = whole.content().await;
    assert!(whole.log_files().len() >= 3);
    let mut rng = StdRng::seed_from_u64(5);
    let mut refused = 0;
    for (file, block) in blocks(&whole) {
        let at = (rng.random_range(0..4) > 0).then(|| rng.random_range(0..120));
        let folder = whole.copy();
        strike(&folder.log_files()[file], block, at);
        let case = format!("file {file} block {block} {at:?}");
        let without = folder.copy().without_index();
        match try_content(&without).await {
            Some(content) => assert!(content == expected, "{case}"),
            None => refused += 1,
        }
        let made_good = try_content(&folder).await;
        let found = made_good.as_ref().map(Content::len);
        assert!(made_good == Some(expected.clone()), "{case}: {found:?}");
        // The repair lasts without the index.
        let healed = try_content(&folder.without_index()).await;
        assert!(healed == Some(expected.clone()), "{case}");
    }
    assert!(refused > 10, "{refused}");
}

#[tokio::test]
async fn i8_a_blow_to_any_block_of_a_killed_log_is_refused_or_costs_the_newest_frame() {
    let whole = Folder::new();
    let meta = whole.open();
    for n in 0..40u32 {
        let key = format!("n{n:04}");
        meta.commit(put(key.as_bytes(), vec![7; 3_000]))
            .await
            .unwrap();
    }
    let expected = content(&meta).await;
    drop(meta);
    let mut shorter = expected.clone();
    shorter.pop_last();
    let mut rng = StdRng::seed_from_u64(6);
    let mut counts = [0; 3];
    for (file, block) in blocks(&whole) {
        let at = (rng.random_range(0..4) > 0).then(|| rng.random_range(0..120));
        let folder = whole.copy().without_index();
        strike(&folder.log_files()[file], block, at);
        match try_content(&folder).await {
            Some(content) if content == expected => counts[0] += 1,
            Some(content) if content == shorter => counts[1] += 1,
            None => counts[2] += 1,
            Some(content) => panic!("file {file} block {block} {at:?}: {} names", content.len()),
        }
    }
    assert!(
        counts[0] > 0 && counts[1] <= 2 && counts[2] > 0,
        "{counts:?}"
    );
}
