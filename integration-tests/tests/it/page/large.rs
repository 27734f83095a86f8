//! A file as large as somebody wants it (`CSTORE_BROWSER_BYTES`), up and down through the page.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::time::Duration;

use super::*;
use cstore_testkit::until_within;

/// A block at a time.
const STEP: usize = 1 << 20;

fn is_equal(one: &Path, other: &Path) -> bool {
    let (Ok(one), Ok(other)) = (File::open(one), File::open(other)) else {
        return false;
    };
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    let (mut left, mut right) = (vec![0; STEP], vec![0; STEP]);
    loop {
        let n = one.read(&mut left).unwrap();
        if n == 0 {
            return other.read(&mut right).unwrap() == 0;
        }
        if other.read_exact(&mut right[..n]).is_err() || left[..n] != right[..n] {
            return false;
        }
    }
}

#[test]
fn a_file_of_any_size_goes_up_and_comes_down() {
    const BYTES: &str = "CSTORE_BROWSER_BYTES";
    let Some(bytes) = std::env::vars()
        .find(|(key, _)| key == BYTES)
        .and_then(|(_, n)| n.parse::<u64>().ok())
    else {
        cstore_integration_tests::tools::find_or_skip(BYTES, "a large file on the web page");
        return;
    };
    let Some(mut browser) = Browser::start_or_skip("a large file on the web page") else {
        return;
    };
    let cluster = Cluster::builder(PROGRAM)
        .dev()
        .env("FS_SIZE", "16GiB")
        .start();
    let desk = Desk::new();
    let path = desk.file("large.bin", b"");
    let mut file = File::create(&path).unwrap();
    for n in 0..bytes.div_ceil(STEP as u64) {
        let left = usize::try_from(bytes - n * STEP as u64).unwrap_or(usize::MAX);
        file.write_all(&random(STEP.min(left), n)).unwrap();
    }
    drop(file);
    browser.look(1280, 1000, "light");
    browser.open(&format!("http://{}/", cluster.gateway));
    drop_on(&mut browser, std::slice::from_ref(&path));
    let slow = Duration::from_secs(60 + bytes / 20_000_000);
    until_within("the upload", slow, || {
        let text = browser.eval("document.getElementById('total-text').textContent");
        text.as_str()
            .is_some_and(|text| text.contains("1 of 1 file stored"))
            .then_some(())
    });
    press(&mut browser, "large.bin", "Download");
    let saved = browser.downloads().join("large.bin");
    until_within("the download", slow, || {
        std::fs::metadata(&saved)
            .ok()
            .filter(|found| found.len() == bytes)
            .map(drop)
    });
    assert!(is_equal(&path, &saved));
    println!(
        "{bytes} bytes through the page: {} MiB of memory at most",
        cluster.peak_memory("dev") >> 20
    );
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
