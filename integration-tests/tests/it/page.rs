//! The web page in a real browser, in front of a real cluster: what a person does, by mouse and
//! keys.

mod axe;
mod large;
mod outage;
mod panel;
mod pictures;
mod signin;

use std::path::{Path, PathBuf};

use cstore_gateway::tokens::Token;
use cstore_integration_tests::browser::Browser;
use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::{Answer, Client};
use cstore_testkit::{random, until_blocking};

use crate::PROGRAM;
use crate::tenants::{closed, until_status};

/// Names that would be markup, paths, queries or numbers, were they taken for that.
const HOSTILE: [&str; 6] = [
    "<img src=x onerror=alert(1)>.txt",
    "\"quoted' & <b>bold<\u{2044}b>.txt",
    "%2e%2e%2fpercent.txt",
    "#hash?query=1&a=b.txt",
    "üñï 文件 🦀.txt",
    "a:rename",
];

/// Name and bytes of files on the disk of the user.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/page")
}

/// `text` as a literal of JavaScript.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn encoded(name: &str) -> String {
    name.split('/')
        .map(|part| {
            part.bytes()
                .map(|b| format!("%{b:02X}"))
                .collect::<String>()
        })
        .collect::<Vec<_>>()
        .join("/")
}

fn stored(cluster: &Cluster, name: &str) -> (u16, Vec<u8>) {
    let answer = cluster.fetch(&format!("/api/files/{}", encoded(name)));
    (answer.status, answer.body)
}

/// Sends a request with a token.
fn ask_as(cluster: &Cluster, token: &str, method: &str, name: &str, body: &[u8]) -> Answer {
    let header = format!("authorization: Bearer {token}\r\n");
    let path = format!("/api/files/{}", encoded(name));
    let mut client = Client::connect(&cluster.gateway).unwrap();
    client.call(method, &path, &header, body).unwrap()
}

fn put_as(cluster: &Cluster, token: &str, name: &str, body: &[u8]) {
    assert_eq!(ask_as(cluster, token, "PUT", name, body).status, 201);
}

fn row(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('#list tr')].find((row) => row.querySelector('.name').textContent === {})",
        quoted(name)
    )
}

/// Presses a button of a file's row, which begins with these words.
fn press(browser: &mut Browser, name: &str, label: &str) {
    let row = row(name);
    browser.until(&row.clone().replacen("[...", "!![...", 1));
    browser.eval(&format!(
        "document.querySelectorAll('[data-hit]').forEach((e) => e.removeAttribute('data-hit')); \
         [...{row}.querySelectorAll('button, a')].find((e) => e.ariaLabel?.startsWith({})).setAttribute('data-hit', '')",
        quoted(label)
    ));
    browser.click("[data-hit]");
}

/// Presses a button of the open dialog.
fn answer(browser: &mut Browser, label: &str) {
    browser.until("!!document.querySelector('dialog[open]')");
    browser.eval(&format!(
        "[...document.querySelectorAll('dialog[open] button')].find((e) => e.textContent === {}).setAttribute('data-answer', '')",
        quoted(label)
    ));
    browser.click("dialog[open] [data-answer]");
    browser.until("!document.querySelector('dialog[open]')");
}

fn idle(browser: &mut Browser, text: &str) {
    browser.until(&format!(
        "document.getElementById('total-text').textContent.includes({})",
        quoted(text)
    ));
}

fn drop_on(browser: &mut Browser, files: &[PathBuf]) {
    browser.drop_files("#drop", files);
}

/// Every control of the page has a name that is read out, and every picture says what it shows.
fn everything_has_a_name(browser: &mut Browser, at_least: usize) {
    let tree = browser.call("Accessibility.getFullAXTree", serde_json::json!({}));
    let mut controls = 0;
    for node in tree["nodes"].as_array().unwrap() {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if node["ignored"] == true
            || ![
                "button",
                "link",
                "textbox",
                "checkbox",
                "image",
                "progressbar",
                "dialog",
                "table",
                "navigation",
            ]
            .contains(&role)
        {
            continue;
        }
        let name = node["name"]["value"].as_str().unwrap_or_default();
        assert!(!name.trim().is_empty(), "{role} has no name: {node}");
        controls += 1;
    }
    assert!(controls >= at_least, "only {controls} controls were seen");
}

#[test]
fn a_browser_uploads_by_drop_lists_downloads_and_removes() {
    let Some(mut browser) = Browser::start_or_skip("the web page") else {
        return;
    };
    let cluster = Cluster::builder(PROGRAM).dev().start();
    let desk = Desk::new();
    browser.look(1280, 1000, "light");
    browser.open(&format!("http://{}/", cluster.gateway));
    browser
        .until("document.getElementById('empty').textContent.startsWith('Nothing is stored yet')");
    browser.until("document.getElementById('health').dataset.state === 'ready'");
    // Requests need no token, and the gateway has no tokens.
    assert_eq!(
        browser.eval("document.getElementById('signin').hidden"),
        true
    );
    everything_has_a_name(&mut browser, 8);

    // Twenty files: some with the same contents, some with names that are hostile, one empty.
    let mut files: Vec<(String, Vec<u8>)> = HOSTILE
        .map(|name| (name.to_owned(), random(150_000, 1)))
        .into();
    files.push(("empty.txt".to_owned(), Vec::new()));
    files.extend((0..13).map(|n| (format!("photo-{n:02}.raw"), random(400_000, 100 + n / 2))));
    let paths: Vec<PathBuf> = files
        .iter()
        .map(|(name, bytes)| desk.file(name, bytes))
        .collect();
    browser.eval(
        "window.seen = []; window.most = 0; setInterval(() => { const t = document.getElementById('total'); \
         if (!document.getElementById('cancel-all').hidden) seen.push(t.ariaValueNow / 100); \
         most = Math.max(most, document.querySelectorAll('#transfer-list [data-state=running]').length); }, 20); 0",
    );
    browser.throttle_uploads(Some(2_000_000));
    drop_on(&mut browser, &paths);
    browser.until("seen.some((share) => share > 0.3)");
    browser.screenshot(&pictures().join("progress.png"));
    idle(&mut browser, "20 of 20 files stored");
    browser.throttle_uploads(None);
    let seen: Vec<f64> = serde_json::from_value(browser.eval("seen")).unwrap();
    let between = seen
        .iter()
        .filter(|share| (0.05..0.95).contains(*share))
        .count();
    assert!(between >= 5, "progress was seen only at {seen:?}");
    assert!(seen.is_sorted(), "progress went back: {seen:?}");
    let most = browser.eval("most").as_u64().unwrap();
    assert!((2..=3).contains(&most), "{most} at a time");

    for (name, bytes) in &files {
        assert_eq!(stored(&cluster, name), (200, bytes.clone()), "{name}");
        browser.until(&row(name).replacen("[...", "!![...", 1));
    }
    assert_eq!(
        browser.eval("document.querySelectorAll('#list tr').length"),
        20
    );
    assert_eq!(
        browser.eval("document.querySelectorAll('#list img, #list b, #transfers img').length"),
        0
    );
    // Six of the hostile ones and six pairs share their contents.
    browser.until(
        "document.querySelector('#savings .ring')?.getAttribute('aria-label').endsWith('percent saved')",
    );
    browser.until("parseFloat(document.querySelector('#savings .large')?.textContent) > 1.5");
    everything_has_a_name(&mut browser, 80);
    browser.look(1280, 1200, "light");
    browser.screenshot(&pictures().join("light.png"));
    browser.look(1280, 1200, "dark");
    browser.screenshot(&pictures().join("dark.png"));
    browser.look(390, 1400, "light");
    let wide = browser.eval("document.documentElement.scrollWidth");
    assert!(
        wide.as_u64() <= Some(390),
        "the page is wider than a telephone: {wide}"
    );
    browser.screenshot(&pictures().join("narrow.png"));
    browser.look(1280, 1000, "light");

    // A look at a removal, and the removal. The twin of the last photo is not there, that of the
    // first is.
    press(&mut browser, "photo-00.raw", "Delete");
    browser.until(
        "document.querySelector('.preview').textContent.includes('other files use them too')",
    );
    everything_has_a_name(&mut browser, 3);
    browser.look(1280, 800, "dark");
    browser.screenshot(&pictures().join("delete.png"));
    browser.look(1280, 1000, "light");
    answer(&mut browser, "Keep");
    assert_eq!(stored(&cluster, "photo-00.raw").0, 200);
    press(&mut browser, "photo-12.raw", "Delete");
    browser
        .until("document.querySelector('.preview').textContent.startsWith('This frees 391 KiB')");
    answer(&mut browser, "Delete");
    browser.until(&format!("!{}", row("photo-12.raw")));
    assert_eq!(stored(&cluster, "photo-12.raw").0, 404);

    // A click on a name opens a file that the browser can show in a new tab, and downloads others.
    let link =
        |name: &str, what: &str| format!("{}.querySelector('.name-cell a').{what}", row(name));
    assert_eq!(browser.eval(&link(HOSTILE[3], "target")), "_blank");
    assert_eq!(
        browser.eval(&link(HOSTILE[3], "getAttribute('href')")),
        "/api/files/%23hash%3Fquery%3D1%26a%3Db.txt"
    );
    assert_eq!(browser.eval(&link("photo-03.raw", "target")), "");
    assert_eq!(
        browser.eval(&link("photo-03.raw", "download")),
        "photo-03.raw"
    );

    for name in ["photo-03.raw", HOSTILE[3]] {
        press(&mut browser, name, "Download");
    }
    for (name, bytes) in files.iter().filter(|(name, _)| name == "photo-03.raw") {
        let saved = browser.downloads().join(name);
        until_blocking("the download", || {
            std::fs::read(&saved).ok().filter(|read| read == bytes)
        });
    }
    let count = || std::fs::read_dir(browser.downloads()).unwrap().count();
    until_blocking("both downloads", || (count() == 2).then_some(()));
    assert_eq!(browser.complaints(), Vec::<String>::new());
    cluster.audit(&[]);
}

#[test]
fn a_taken_name_is_asked_about_and_an_upload_can_be_cancelled() {
    let Some(mut browser) = Browser::start_or_skip("conflicts on the web page") else {
        return;
    };
    let cluster = Cluster::builder(PROGRAM).dev().start();
    let desk = Desk::new();
    assert_eq!(
        cluster.ask("PUT", "/api/files/d/a.txt", b"first").status,
        201
    );
    browser.open(&format!("http://{}/#/d/", cluster.gateway));
    browser.until(&row("a.txt").replacen("[...", "!![...", 1));
    let second = desk.file("a.txt", b"second");

    for (choice, told, expected) in [
        ("Skip", "1 left out", &[("d/a.txt", &b"first"[..])][..]),
        (
            "Keep both",
            "1 of 1 file stored",
            &[("d/a.txt", b"first"), ("d/a (2).txt", b"second")],
        ),
        (
            "Keep both",
            "1 of 1 file stored",
            &[("d/a (2).txt", b"second"), ("d/a (3).txt", b"second")],
        ),
        ("Overwrite", "1 of 1 file stored", &[("d/a.txt", b"second")]),
    ] {
        drop_on(&mut browser, std::slice::from_ref(&second));
        answer(&mut browser, choice);
        idle(&mut browser, told);
        for (name, bytes) in expected {
            until_blocking(&format!("{choice}: {name}"), || {
                (stored(&cluster, name) == (200, bytes.to_vec())).then_some(())
            });
        }
        browser.click("#clear");
        browser.eval("document.getElementById('total-text').textContent = ''");
    }

    // Escape leaves the file alone, and one answer does for all when the user says so.
    drop_on(&mut browser, std::slice::from_ref(&second));
    browser.until("!!document.querySelector('dialog[open]')");
    browser.press("Escape");
    idle(&mut browser, "1 left out");
    let more: Vec<PathBuf> = ["a.txt", "a (2).txt", "a (3).txt"]
        .map(|name| desk.file(name, b"third"))
        .into();
    drop_on(&mut browser, &more);
    browser.until("!!document.getElementById('for-all')");
    browser.click("#for-all");
    answer(&mut browser, "Overwrite");
    idle(&mut browser, "3 of 3 files stored");
    assert_eq!(stored(&cluster, "d/a (3).txt"), (200, b"third".to_vec()));

    // A file that changed since the list was made keeps its name; so the list is awaited.
    browser.until(&format!(
        "{}?.querySelector('.number').textContent === '5 B'",
        row("a (3).txt")
    ));

    browser.throttle_uploads(Some(500_000));
    drop_on(&mut browser, &[desk.file("large.bin", &random(8 << 20, 7))]);
    browser.until(
        "document.querySelector('#transfer-list [data-state=running] progress')?.value > 100000",
    );
    browser.click("#transfer-list [data-state=running] button");
    idle(&mut browser, "1 left out");
    browser.throttle_uploads(None);
    assert_eq!(stored(&cluster, "d/large.bin").0, 404);

    // By keys alone: rename, to a taken name first.
    browser.eval(&format!(
        "[...{}.querySelectorAll('button')].find((e) => e.ariaLabel.startsWith('Rename')).focus()",
        row("a (3).txt")
    ));
    browser.press("Enter");
    browser.until("document.activeElement.id === 'new-name'");
    assert_eq!(browser.eval("document.activeElement.value.slice(document.activeElement.selectionStart, document.activeElement.selectionEnd)"), "a (3)");
    browser.type_text("a");
    browser.press("Enter");
    browser
        .until("document.querySelector('dialog[open] [role=alert]').textContent.includes('already_exists')");
    browser.eval("document.getElementById('new-name').value = 'd/e/<i>.txt'");
    browser.press("Enter");
    browser.until("!document.querySelector('dialog[open]')");
    browser.until("!!document.querySelector('#list a[href=\"#/d/e/\"]')");
    assert_eq!(stored(&cluster, "d/e/<i>.txt"), (200, b"third".to_vec()));
    // The row of the removed file is gone, so the focus moves to the folder, and again after a step into
    // another folder by keys.
    browser.until("document.activeElement.getAttribute('aria-current') === 'page'");
    browser.eval("document.querySelector('#list a[href=\"#/d/e/\"]').focus(); 0");
    browser.press("Enter");
    browser.until(&row("<i>.txt").replacen("[...", "!![...", 1));
    browser.until(
        "document.activeElement.getAttribute('aria-current') === 'page' && document.activeElement.textContent === 'e'",
    );

    // A refusal by the gateway is shown, with its code and trace.
    drop_on(&mut browser, &[desk.file("bad\u{1}name", b"x")]);
    browser.until(
        "document.querySelector('[data-state=failed]')?.textContent.includes('invalid_argument')",
    );
    browser.until(
        "/^trace [0-9a-f]{8}$/.test(document.querySelector('[data-state=failed] .trace').textContent)",
    );
    // A folder keeps its paths.
    desk.file("folder/deep/x.txt", b"deep");
    drop_on(&mut browser, &[desk.dir.path().join("folder")]);
    until_blocking("the file of the folder", || {
        (stored(&cluster, "d/e/folder/deep/x.txt") == (200, b"deep".to_vec())).then_some(())
    });
}

#[test]
fn every_size_and_a_long_folder_come_back() {
    let Some(mut browser) = Browser::start_or_skip("sizes on the web page") else {
        return;
    };
    let cluster = Cluster::builder(PROGRAM).dev().start();
    let desk = Desk::new();
    for n in 0..230 {
        assert_eq!(
            cluster
                .ask("PUT", &format!("/api/files/many/{n:03}"), b"x")
                .status,
            201
        );
    }
    browser.look(1280, 1000, "light");
    browser.open(&format!("http://{}/#/many/", cluster.gateway));
    browser.until("document.querySelectorAll('#list tr').length === 200");
    browser.until(
        "window.scrollTo(0, document.body.scrollHeight); document.querySelectorAll('#list tr').length === 230",
    );
    browser.until("document.getElementById('more').hidden");
    browser.eval("location.hash = '#/'; 0");
    browser.until("document.querySelector('#list a')?.getAttribute('href') === '#/many/'");

    let block = 64 << 10;
    let sizes = [0, 1, block - 1, block, block + 1, 100_000_000];
    let files: Vec<(String, Vec<u8>)> = sizes
        .iter()
        .map(|size| (format!("of-{size}"), random(*size, 5)))
        .collect();
    let paths: Vec<PathBuf> = files
        .iter()
        .map(|(name, bytes)| desk.file(name, bytes))
        .collect();
    // By the picker this time.
    let document = browser.call("DOM.getDocument", serde_json::json!({}));
    let wanted =
        serde_json::json!({"nodeId": document["root"]["nodeId"], "selector": "#file-input"});
    let input = browser.call("DOM.querySelector", wanted);
    browser.call(
        "DOM.setFileInputFiles",
        serde_json::json!({"files": paths, "nodeId": input["nodeId"]}),
    );
    idle(&mut browser, "6 of 6 files stored");
    for (name, bytes) in &files {
        assert!(
            stored(&cluster, name) == (200, bytes.clone()),
            "{name} is not what was uploaded"
        );
        press(&mut browser, name, "Download");
        let saved = browser.downloads().join(name);
        until_blocking(name, || {
            std::fs::read(&saved).ok().filter(|read| read == bytes)
        });
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn i13_a_closed_gateway_asks_for_a_token_and_keeps_it_in_this_tab_only() {
    let Some(mut browser) = Browser::start_or_skip("tokens on the web page") else {
        return;
    };
    let cluster = Cluster::one_of_each(PROGRAM)
        .env("CSTORE_JAEGER_UI_URL", "http://127.0.0.1:1/jaeger/")
        .start();
    let bytes = random(300_000, 3);
    assert_eq!(
        cluster.ask("PUT", "/api/files/secret.bin", &bytes).status,
        201
    );
    let token = cluster
        .admin_command(&["token", "create", "--tenant", "default"])
        .trim()
        .to_owned();
    let lines = std::fs::read_to_string(cluster.dir().join("api-tokens")).unwrap();
    let cluster = closed(cluster, &lines, &token);
    let stranger = Token::generate().unwrap().expose();
    browser.open(&format!("http://{}/", cluster.gateway));
    for (text, told) in [
        (stranger.clone(), "asks for an API token"),
        (token.clone(), "unauthenticated"),
    ] {
        browser.until(&format!(
            "document.querySelector('dialog[open]')?.textContent.includes({})",
            quoted(told)
        ));
        browser.until("document.activeElement.id === 'token'");
        let shown = browser.eval("document.querySelector('dialog[open]').textContent");
        assert!(!shown.as_str().unwrap().contains(&token[20..]));
        everything_has_a_name(&mut browser, 3);
        browser.type_text(&text);
        browser.press("Enter");
        browser.until(
            "!document.querySelector('dialog[open]') || document.getElementById('token').value === ''",
        );
    }
    browser.until(&row("secret.bin").replacen("[...", "!![...", 1));
    browser.until("document.getElementById('signin').textContent === 'Sign out'");
    assert_eq!(
        browser.eval("localStorage.length + document.cookie.length"),
        0
    );
    assert_eq!(
        browser.eval("location.href").as_str().unwrap(),
        format!("http://{}/", cluster.gateway)
    );

    press(&mut browser, "secret.bin", "Download");
    let saved = browser.downloads().join("secret.bin");
    until_blocking("the download", || {
        std::fs::read(&saved).ok().filter(|read| *read == bytes)
    });

    let desk = Desk::new();
    drop_on(&mut browser, &[desk.file("mine.txt", b"mine")]);
    idle(&mut browser, "1 of 1 file stored");
    let link = browser.until("document.querySelector('#transfer-list a.trace')?.href");
    assert!(
        link.as_str()
            .unwrap()
            .starts_with("http://127.0.0.1:1/jaeger/trace/"),
        "{link}"
    );
    browser.until(&row("mine.txt").replacen("[...", "!![...", 1));
    // A token that ends while a question is open is asked for over it.
    browser.eval(&format!(
        "sessionStorage.setItem('cstore-token', {}); 0",
        quoted(&stranger)
    ));
    press(&mut browser, "mine.txt", "Delete");
    browser.until("document.activeElement.id === 'token'");
    browser.type_text(&token);
    browser.press("Enter");
    browser.until("document.querySelector('.preview')?.textContent.startsWith('This frees 4 B')");
    answer(&mut browser, "Delete");
    browser.until(&format!("!{}", row("mine.txt")));

    // A gateway that is away is told of, and found again by itself.
    cluster.kill("gateway");
    drop_on(&mut browser, &[desk.file("later.txt", b"later")]);
    browser.until("document.getElementById('pause-text').textContent.startsWith('Gateway away')");
    browser.click("#refresh");
    browser.until("document.getElementById('failures').textContent.includes('network')");
    cluster.launch("gateway");
    until_status(&cluster, &token, 200);
    idle(&mut browser, "1 of 1 file stored");
    browser.until(&row("later.txt").replacen("[...", "!![...", 1));
    browser.until("document.getElementById('failures').childElementCount === 0");

    browser.click("#signin");
    browser.until("!!document.querySelector('dialog[open] #token')");
    assert_eq!(browser.eval("sessionStorage.length"), 0);
}

#[test]
fn i13_the_page_offers_only_what_a_token_may_do() {
    let Some(mut browser) = Browser::start_or_skip("rights on the web page") else {
        return;
    };
    let cluster = Cluster::one_of_each(PROGRAM).start();
    let create = |rights: &str| {
        let args = ["token", "create", "--tenant", "acme", "--rights", rights];
        cluster.admin_command(&args).trim().to_owned()
    };
    let (all, reads) = (create("read,write,delete"), create("read"));
    let lines = std::fs::read_to_string(cluster.dir().join("api-tokens")).unwrap();
    let cluster = closed(cluster, &lines, &all);
    put_as(&cluster, &all, "theirs.txt", b"theirs");
    put_as(&cluster, &all, "folder/theirs.txt", b"theirs");

    browser.look(1280, 800, "light");
    browser.open(&format!("http://{}/", cluster.gateway));
    browser.until("document.activeElement.id === 'token'");
    browser.type_text(&reads);
    browser.press("Enter");
    browser.until(&row("theirs.txt").replacen("[...", "!![...", 1));
    browser.until("document.getElementById('who').textContent === 'acme, may only read'");
    browser.until("document.getElementById('drop').closest('section').hidden");
    browser.until("document.getElementById('nodes-card').hidden");
    let offered = "[...document.querySelectorAll('#list tr [aria-label]')].map((e) => e.ariaLabel.split(' ')[0]).join()";
    browser.until(&format!("{offered} === 'Download,Copy'"));
    browser.screenshot(&pictures().join("tenant.png"));
    browser.click("#signin");
    browser.until("document.activeElement.id === 'token'");
    browser.type_text(&all);
    browser.press("Enter");
    browser.until("document.getElementById('who').textContent === 'acme'");
    browser.until(&format!("{offered} === 'Download,Copy,Rename,Delete'"));
    // A tenant is not shown what the files of a folder use.
    assert_eq!(
        browser.eval("document.querySelectorAll('#list .folder .size').length"),
        0
    );
    browser.until("!document.getElementById('drop').closest('section').hidden");
}
