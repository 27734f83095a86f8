//! Uploads through the page while the gateway or a storage node is away, and uploads that fail.

use super::*;

const MANY: usize = 1_000;

/// Returns the text above the bar of uploads.
fn total(browser: &mut Browser) -> String {
    let text = browser.eval("document.getElementById('total-text').textContent");
    text.as_str().unwrap().to_owned()
}

fn rows(browser: &mut Browser) -> u64 {
    let count = browser.eval("document.querySelectorAll('#list tr').length");
    count.as_u64().unwrap()
}

/// Scrolls to the end of the list until it has this many rows.
fn scroll_to_row(browser: &mut Browser, count: usize) {
    browser.until(&format!(
        "window.scrollTo(0, document.body.scrollHeight); document.querySelectorAll('#list tr').length === {count}"
    ));
}

#[test]
fn a_drop_of_1000_files_outlives_a_gateway_that_is_away_and_needs_no_hand() {
    let Some(mut browser) = Browser::start_or_skip("an outage during uploads") else {
        return;
    };
    let cluster = Cluster::one_of_each(PROGRAM).start();
    let desk = Desk::new();
    let content = |n: usize| format!("content of {n}").into_bytes();
    let paths: Vec<PathBuf> = (0..MANY)
        .map(|n| desk.file(&format!("{n:04}.txt"), &content(n)))
        .collect();
    browser.look(1280, 1000, "light");
    browser.open(&format!("http://{}/#/drop/", cluster.gateway));
    browser.until("document.getElementById('health').dataset.state === 'ready'");
    // Records the text with the numbers of files at each redraw, and counts the dialogs that open.
    browser.eval(
        "window.totals = []; window.questions = 0; \
         new MutationObserver(() => totals.push(document.getElementById('total-text').textContent.match(/[\\d,]+/g).slice(0, 2) \
             .map((n) => Number(n.replaceAll(',', ''))))) \
             .observe(document.getElementById('total-text'), {childList: true}); \
         new MutationObserver(() => { questions += document.querySelectorAll('dialog').length; }) \
             .observe(document.body, {childList: true}); 0",
    );
    drop_on(&mut browser, &paths);
    browser.until("totals.at(-1)?.[0] >= 100");

    // Killed with uploads in flight. The fourth pause of 8 s comes after those of 1, 2 and 4 s.
    cluster.kill("gateway");
    browser.until(
        "document.getElementById('pause-text').textContent.startsWith('Gateway away, trying again in 4 s')",
    );
    browser.until("document.getElementById('health').textContent === 'No answer'");
    everything_has_a_name(&mut browser, 8);
    browser.screenshot(&pictures().join("away.png"));
    browser.until("document.getElementById('pause-text').textContent.includes('in 8 s')");
    assert!(total(&mut browser).starts_with(|c: char| c.is_ascii_digit()));
    assert!(
        !total(&mut browser).contains("failed"),
        "{}",
        total(&mut browser)
    );
    cluster.launch("gateway");

    idle(&mut browser, "1,000 of 1,000 files stored");
    browser.until("document.getElementById('pause').hidden");
    browser.until("document.getElementById('health').dataset.state === 'ready'");
    browser.until("document.getElementById('cancel-all').hidden");
    assert!(!total(&mut browser).contains("left out"));
    assert_eq!(browser.eval("questions"), 0);
    let totals: Vec<[u64; 2]> = serde_json::from_value(browser.eval("totals")).unwrap();
    assert!(totals.is_sorted(), "a total shrank: {totals:?}");
    for n in 0..MANY {
        let name = format!("drop/{n:04}.txt");
        assert_eq!(stored(&cluster, &name), (200, content(n)), "{name}");
    }
    let stats = cluster.fetch("/api/stats").json();
    assert_eq!(stats["files"], MANY as u64);

    // The list grows as it is scrolled, and keeps its rows when it is refreshed.
    for n in 0..100 {
        let name = format!("/api/files/drop/later-{n:02}");
        assert_eq!(cluster.ask("PUT", &name, b"later").status, 201);
    }
    assert!(rows(&mut browser) < MANY as u64);
    scroll_to_row(&mut browser, MANY + 100);
    browser.until("document.getElementById('more').hidden");
    browser.eval("document.getElementById('said').textContent = ''; 0");
    browser.click("#refresh");
    browser.until("document.getElementById('said').textContent === '1,100 files in the list'");
    assert_eq!(rows(&mut browser), MANY as u64 + 100);
}

#[test]
fn every_upload_that_failed_stays_known_and_is_tried_again() {
    let Some(mut browser) = Browser::start_or_skip("failed uploads on the web page") else {
        return;
    };
    let cluster = Cluster::builder(PROGRAM).dev().start();
    let desk = Desk::new();
    let long = "holiday photo with a name that is much longer than a row of a telephone";
    let paths: Vec<PathBuf> = (0..150)
        .map(|n| desk.file(&format!("{long} {n:03}.jpg"), format!("{n}").as_bytes()))
        .collect();
    browser.look(390, 900, "light");
    browser.open(&format!("http://{}/", cluster.gateway));
    browser.until("document.getElementById('health').dataset.state === 'ready'");
    // The gateway refuses a parameter that it does not know.
    browser.eval(
        "window.realOpen = XMLHttpRequest.prototype.open; \
         XMLHttpRequest.prototype.open = function (method, url) { return realOpen.call(this, method, /[1-9]\\.jpg/.test(url) ? `${url}?refused=true` : url); }; 0",
    );
    drop_on(&mut browser, &paths);
    idle(&mut browser, "15 of 150 files stored, 135 failed");
    browser.until("document.getElementById('cancel-all').hidden");
    let shown = browser.eval("document.querySelectorAll('#transfer-list li').length");
    assert!(shown.as_u64() <= Some(100), "{shown}");
    browser
        .until("document.getElementById('more-failed').textContent.startsWith('35 more uploads')");
    let failed =
        browser.eval("Number(document.querySelector('#total .failed').getAttribute('width'))");
    assert!((failed.as_f64().unwrap() - 90.0).abs() < 0.5, "{failed}");
    // The whole name is read, also where the row is narrow.
    let cut = browser.eval(
        "[...document.querySelectorAll('#transfer-list .name')].filter((e) => e.scrollWidth > e.clientWidth || !e.textContent.endsWith('.jpg')).length",
    );
    assert_eq!(cut, 0);
    let wide = browser.eval("document.documentElement.scrollWidth");
    assert!(wide.as_u64() <= Some(390), "wider than a telephone: {wide}");
    browser.screenshot(&pictures().join("failed.png"));

    browser.click("#failed-list");
    let names = browser.until("document.getElementById('failed-names')?.value");
    assert_eq!(names.as_str().unwrap().lines().count(), 135);
    everything_has_a_name(&mut browser, 3);
    browser.screenshot(&pictures().join("failed-names.png"));
    answer(&mut browser, "Close");

    // The retry fails as well, and all failed files are still listed.
    browser.click("#retry-all");
    browser.until("document.getElementById('cancel-all').hidden === false");
    browser.until("document.getElementById('cancel-all').hidden");
    idle(&mut browser, "15 of 150 files stored, 135 failed");
    browser.eval("XMLHttpRequest.prototype.open = realOpen; 0");
    browser.click("#retry-all");
    idle(&mut browser, "150 of 150 files stored");
    browser.until("document.getElementById('retry-all').hidden && document.getElementById('more-failed').hidden");
    assert_eq!(cluster.fetch("/api/stats").json()["files"], 150);
    browser.click("#clear");
    browser.until("document.getElementById('transfers').hidden");
}

#[test]
fn a_lost_storage_node_is_red_and_uploads_wait_for_it() {
    let Some(mut browser) = Browser::start_or_skip("a lost node on the web page") else {
        return;
    };
    let cluster = Cluster::one_of_each(PROGRAM).start();
    let desk = Desk::new();
    browser.look(1280, 1000, "light");
    browser.open(&format!("http://{}/", cluster.gateway));
    browser.until("document.getElementById('health').dataset.state === 'ready'");
    cluster.kill("storage-1");
    browser.until("document.getElementById('health').textContent === 'storage-1 is lost'");
    browser.until("document.querySelector('#nodes .pill[data-state=lost]').textContent === 'lost'");
    drop_on(&mut browser, &[desk.file("later.txt", b"later")]);
    browser.until(
        "document.getElementById('pause-text').textContent.includes('storage node storage-1 is lost')",
    );
    browser.screenshot(&pictures().join("lost.png"));
    cluster.launch("storage-1");
    idle(&mut browser, "1 of 1 file stored");
    assert_eq!(stored(&cluster, "later.txt"), (200, b"later".to_vec()));
    browser.until("document.getElementById('health').dataset.state === 'ready'");
}

#[test]
fn an_upload_whose_answer_was_lost_is_found_and_nobody_is_asked() {
    let Some(mut browser) = Browser::start_or_skip("a lost answer on the web page") else {
        return;
    };
    let cluster = Cluster::builder(PROGRAM).dev().start();
    let desk = Desk::new();
    browser.look(1280, 1000, "light");
    browser.open(&format!("http://{}/", cluster.gateway));
    browser.until("document.getElementById('health').dataset.state === 'ready'");
    // The first upload is stored, and the page sees a connection that broke.
    browser.eval(
        "window.uploads = 0; window.realOpen = XMLHttpRequest.prototype.open; \
         XMLHttpRequest.prototype.open = function (...of) { uploads += 1; \
             if (uploads === 1) this.addEventListener('load', (event) => { event.stopImmediatePropagation(); this.dispatchEvent(new Event('error')); }); \
             return realOpen.apply(this, of); }; 0",
    );
    drop_on(&mut browser, &[desk.file("once.txt", b"once")]);
    browser
        .until("document.getElementById('pause-text').textContent.startsWith('Connection broken')");
    idle(&mut browser, "1 of 1 file stored");
    assert_eq!(browser.eval("uploads"), 1);
    assert_eq!(
        browser.eval("document.querySelectorAll('dialog').length"),
        0
    );
    assert_eq!(stored(&cluster, "once.txt"), (200, b"once".to_vec()));
}
