//! The web page against the rules of axe-core: WCAG 2.0 to 2.2, levels A and AA, and best practices.
//!
//! axe-core is not part of this tree. `.ci/axe` fetches it with npm, and `make page-test` passes its
//! path in `CSTORE_AXE`.

use super::*;

/// Tags of the rules.
const RULES: [&str; 7] = [
    "wcag2a",
    "wcag2aa",
    "wcag21a",
    "wcag21aa",
    "wcag22a",
    "wcag22aa",
    "best-practice",
];

/// Sizes and color schemes.
const LOOKS: [(u32, u32, &str); 4] = [
    (1280, 1000, "light"),
    (1280, 1000, "dark"),
    (390, 900, "light"),
    (320, 900, "dark"),
];

/// Returns the source of axe-core, or prints `SKIP`.
fn source() -> Option<String> {
    let path = std::env::vars()
        .find(|(key, _)| key == "CSTORE_AXE")
        .map(|(_, path)| path)
        .filter(|path| !path.is_empty());
    let source = path.and_then(|path| std::fs::read_to_string(path).ok());
    if source.is_none() {
        cstore_integration_tests::tools::skip(
            "accessibility of the web page",
            "CSTORE_AXE names no axe.min.js (make page-test fetches it with npm)",
        );
    }
    source
}

/// Returns the violations of the page as it is now, one a line.
fn violations(browser: &mut Browser, source: &str) -> Vec<String> {
    if browser.eval("!!window.axe") != true {
        browser.eval(&format!("{source}; 0"));
    }
    let found = browser.eval(&format!(
        "axe.run(document, {{runOnly: {}}}).then((found) => ({{passes: found.passes.length, \
         violations: found.violations.map((rule) => `${{rule.id}}: ${{rule.nodes.map((node) => node.target.join(' ')).join(', ')}}`)}}))",
        serde_json::json!(RULES)
    ));
    let passes = found["passes"].as_u64().unwrap();
    assert!(passes >= 15, "only {passes} rules applied");
    serde_json::from_value(found["violations"].clone()).unwrap()
}

fn is_clean(browser: &mut Browser, source: &str, state: &str) {
    for (width, height, scheme) in LOOKS {
        browser.look(width, height, scheme);
        let found = violations(browser, source);
        assert!(
            found.is_empty(),
            "{state}, {width}, {scheme}: {}",
            found.join("\n")
        );
        let wide = browser.eval("document.documentElement.scrollWidth");
        assert!(
            wide.as_u64() <= Some(u64::from(width)),
            "{state} is {wide} wide at {width}"
        );
    }
    browser.look(1280, 1000, "light");
}

#[test]
fn axe_finds_nothing_in_any_state_of_the_page() {
    let Some(source) = source() else { return };
    let Some(mut browser) = Browser::start_or_skip("accessibility of the web page") else {
        return;
    };
    let cluster = Cluster::one_of_each(PROGRAM).start();
    let created = cluster.admin_command(&["token", "create", "--tenant", "default"]);
    let token = created.trim().to_owned();
    let lines = std::fs::read_to_string(cluster.dir().join("api-tokens")).unwrap();
    let cluster = closed(cluster, &lines, &token);
    let desk = Desk::new();
    browser.look(1280, 1000, "light");
    browser.open(&format!("http://{}/", cluster.gateway));

    browser.until("document.activeElement.id === 'token'");
    is_clean(&mut browser, &source, "sign-in dialog");
    browser.press("Escape");
    browser.until("document.getElementById('signed-out').checkVisibility()");
    is_clean(&mut browser, &source, "signed out");
    browser.click("#signin-again");
    browser.until("document.activeElement.id === 'token'");
    browser.type_text(&token);
    browser.press("Enter");

    browser
        .until("document.getElementById('empty').textContent.startsWith('Nothing is stored yet')");
    browser.until("document.getElementById('health').dataset.state === 'ready'");
    is_clean(&mut browser, &source, "empty list");

    for n in 0..30 {
        put_as(&cluster, &token, &format!("photo-{n:02}.jpg"), b"photo");
    }
    put_as(&cluster, &token, "folder/a.txt", b"text");
    browser.click("#refresh");
    browser.until("document.querySelectorAll('#list tr').length === 31");
    press(&mut browser, "folder", "Size of folder");
    browser.until("document.querySelector('#list .folder .when').textContent === '1 file'");
    is_clean(&mut browser, &source, "30 files");

    press(&mut browser, "photo-00.jpg", "Delete");
    browser.until("document.querySelector('.preview').textContent.includes('frees')");
    is_clean(&mut browser, &source, "removal dialog");
    answer(&mut browser, "Keep");

    drop_on(&mut browser, &[desk.file("photo-00.jpg", b"other")]);
    browser.until("!!document.getElementById('for-all')");
    is_clean(&mut browser, &source, "conflict dialog");
    answer(&mut browser, "Skip");
    idle(&mut browser, "1 left out");

    browser.eval(
        "window.realOpen = XMLHttpRequest.prototype.open; XMLHttpRequest.prototype.open = \
         function (method, url) { return realOpen.call(this, method, `${url}?refused=true`); }; 0",
    );
    let failing: Vec<PathBuf> = (0..4)
        .map(|n| desk.file(&format!("fails-{n}.jpg"), b"x"))
        .collect();
    drop_on(&mut browser, &failing);
    idle(&mut browser, "4 failed");
    is_clean(&mut browser, &source, "failed uploads");
    browser.click("#fold");
    is_clean(&mut browser, &source, "failed uploads in one line");

    // The rules do see what is wrong.
    browser.eval("document.getElementById('refresh').textContent = ''; 0");
    let found = violations(&mut browser, &source);
    assert!(
        found.iter().any(|rule| rule.starts_with("button-name")),
        "{found:?}"
    );
}
