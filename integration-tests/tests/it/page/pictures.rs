//! Pictures of the page in `target/page`, for people who look at them: no, some and many files, each
//! light, dark and narrow, and each failure of a node.

use super::*;

/// Names, sizes and color schemes of the pictures of one state.
const LOOKS: [(&str, u32, u32, &str); 4] = [
    ("light", 1280, 1000, "light"),
    ("dark", 1280, 1000, "dark"),
    ("390", 390, 1400, "light"),
    ("320", 320, 1400, "dark"),
];

fn shoot(browser: &mut Browser, state: &str) {
    for (look, width, height, scheme) in LOOKS {
        browser.look(width, height, scheme);
        let wide = browser.eval("document.documentElement.scrollWidth");
        assert!(
            wide.as_u64() <= Some(u64::from(width)),
            "{state} is {wide} wide at {width}"
        );
        browser.screenshot(&pictures().join(format!("{state}-{look}.png")));
    }
    browser.look(1280, 1000, "light");
}

/// Stores files, every third of which has the content of another one.
fn store(cluster: &Cluster, range: std::ops::Range<usize>, folder: &str) {
    let kinds = [
        ("holiday photo", "jpg"),
        ("Invoice", "pdf"),
        ("notes of the meeting", "txt"),
    ];
    let mut client = Client::connect(&cluster.gateway).unwrap();
    for n in range {
        let (word, ending) = kinds[n % kinds.len()];
        let name = encoded(&format!("{folder}{word} {n:04}.{ending}"));
        let body = random(500 + 7 * (n % 1_000), (n - n % 3) as u64);
        let put = client.call("PUT", &format!("/api/files/{name}"), "", &body);
        assert_eq!(put.unwrap().status, 201);
    }
}

#[test]
fn pictures_of_no_some_and_many_files_and_of_failed_uploads() {
    let Some(mut browser) = Browser::start_or_skip("pictures of the web page") else {
        return;
    };
    let cluster = Cluster::builder(PROGRAM).dev().start();
    let desk = Desk::new();
    browser.look(1280, 1000, "light");
    browser.open(&format!("http://{}/", cluster.gateway));
    browser
        .until("document.getElementById('empty').textContent.startsWith('Nothing is stored yet')");
    browser.until("document.getElementById('health').dataset.state === 'ready'");
    // The file with which the cluster was tried is gone by then.
    browser.until("document.getElementById('savings').textContent.includes('0 files, 0 blocks')");
    shoot(&mut browser, "files-0");

    store(&cluster, 0..28, "");
    store(&cluster, 28..30, "2026/summer/");
    browser.eval("location.reload(); 0");
    browser.until("document.querySelectorAll('#list tr').length === 29");
    browser.until("document.getElementById('savings').textContent.includes('30 files,')");
    shoot(&mut browser, "files-30");

    // The gateway refuses a parameter that it does not know.
    browser.eval(
        "window.realOpen = XMLHttpRequest.prototype.open; XMLHttpRequest.prototype.open = \
         function (method, url) { return realOpen.call(this, method, /[1-9]\\.jpg/.test(url) ? `${url}?refused=true` : url); }; 0",
    );
    let long = "a name that is much longer than a row of the page, as cameras and telephones make them of place and time and";
    let paths: Vec<PathBuf> = (0..8)
        .map(|n| desk.file(&format!("{long} {n}.jpg"), b"x"))
        .collect();
    drop_on(&mut browser, &paths);
    idle(&mut browser, "1 of 8 files stored, 7 failed");
    browser.until("document.getElementById('cancel-all').hidden");
    shoot(&mut browser, "failure");

    store(&cluster, 30..3_000, "");
    browser.eval("location.reload(); 0");
    browser.until("document.querySelectorAll('#list tr').length === 200");
    shoot(&mut browser, "files-3000");
}

#[test]
fn pictures_of_a_lost_node_and_of_a_full_one() {
    let Some(mut browser) = Browser::start_or_skip("pictures of nodes on the web page") else {
        return;
    };
    let cluster = Cluster::one_of_each(PROGRAM).env("FS_SIZE", "8MiB").start();
    let desk = Desk::new();
    store(&cluster, 0..12, "");
    browser.look(1280, 1000, "light");
    browser.open(&format!("http://{}/", cluster.gateway));
    browser.until("document.getElementById('health').dataset.state === 'ready'");
    drop_on(&mut browser, &[desk.file("film.mp4", &random(12 << 20, 9))]);
    idle(&mut browser, "1 failed");
    browser.until("document.getElementById('health').dataset.state === 'full'");
    shoot(&mut browser, "full");

    cluster.kill("storage-1");
    browser.until("document.getElementById('health').dataset.state === 'lost'");
    drop_on(&mut browser, &[desk.file("later.txt", b"later")]);
    browser.until("!document.getElementById('pause').hidden");
    shoot(&mut browser, "lost");
}
