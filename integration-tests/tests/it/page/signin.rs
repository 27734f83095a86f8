//! Signing in and out on the page: what is in sight without a token, how long a token is kept, and
//! tokens that may only write.

use super::*;

/// Number of parts of the page that are in sight besides the header and dialogs.
const IN_SIGHT: &str = "[...document.querySelectorAll('main *')].filter((e) => e.checkVisibility() \
    && (e.matches('section, aside, #drop, table') || (e.childElementCount === 0 && e.textContent === 'Loading'))).length";

/// Number of tokens that the browser keeps for this computer and for this tab.
const KEPT: &str = "[localStorage.length, sessionStorage.length].join()";

/// Enters a token into the open dialog.
fn sign_in(browser: &mut Browser, token: &str, stays: bool) {
    browser.until("!!document.querySelector('dialog[open] #token')");
    if stays {
        browser.click("#stay");
    }
    browser.eval("document.getElementById('token').focus(); 0");
    browser.type_text(token);
    browser.press("Enter");
}

#[test]
fn i13_only_the_header_is_in_sight_without_a_token_and_a_token_is_kept_if_the_user_says_so() {
    let Some(mut browser) = Browser::start_or_skip("signing in on the web page") else {
        return;
    };
    let cluster = Cluster::one_of_each(PROGRAM).start();
    assert_eq!(cluster.ask("PUT", "/api/files/mine.txt", b"1").status, 201);
    let created = cluster.admin_command(&["token", "create", "--tenant", "default"]);
    let token = created.trim().to_owned();
    let lines = std::fs::read_to_string(cluster.dir().join("api-tokens")).unwrap();
    let cluster = closed(cluster, &lines, &token);
    let url = format!("http://{}/", cluster.gateway);
    let listed = row("mine.txt").replacen("[...", "!![...", 1);

    browser.look(1280, 800, "light");
    browser.open(&url);
    browser.until("document.activeElement.id === 'token'");
    assert_eq!(browser.eval(IN_SIGHT), 0);
    browser.screenshot(&pictures().join("signin.png"));
    // The question comes once, and then the user finds it in the page.
    browser.press("Escape");
    browser.until("document.getElementById('signed-out').checkVisibility()");
    assert_eq!(browser.eval(IN_SIGHT), 1);
    browser.eval("document.dispatchEvent(new Event('visibilitychange')); 0");
    browser.until("document.getElementById('savings').textContent === 'Sign in to see this.'");
    assert_eq!(
        browser.eval("document.querySelectorAll('dialog').length"),
        0
    );

    // Without the check mark the token is of this tab only.
    browser.click("#signin-again");
    sign_in(&mut browser, &token, false);
    browser.until(&listed);
    assert_eq!(browser.eval(KEPT), "0,1");
    let first = browser.open_tab(&url);
    browser.until("document.activeElement.id === 'token'");
    assert_eq!(browser.eval(IN_SIGHT), 0);

    // With it the token is of all tabs.
    sign_in(&mut browser, &token, true);
    browser.until(&listed);
    assert_eq!(browser.eval(KEPT), "1,0");
    let second = browser.open_tab(&url);
    browser.until(&listed);
    let third = browser.switch(second);

    // A sign-out in one tab ends the session of all tabs that used its token, and clears their lists.
    browser.click("#signin");
    browser.until("!!document.querySelector('dialog[open] #token')");
    assert_eq!(browser.eval(KEPT), "0,0");
    let second = browser.switch(third);
    browser.until("!!document.querySelector('dialog[open] #token')");
    browser.until(&format!("{IN_SIGHT} === 0"));
    assert_eq!(
        browser.eval("document.querySelectorAll('#list tr').length"),
        0
    );
    // A sign-in for all tabs reaches the other tabs.
    sign_in(&mut browser, &token, true);
    browser.until(&listed);
    let third = browser.switch(second);
    browser.until(&listed);
    browser.until("!document.querySelector('dialog')");
    // A tab with a token of its own does not change.
    browser.switch(first);
    assert_eq!(
        browser.eval("document.querySelectorAll('#list tr').length"),
        1
    );
    browser.switch(third);
    browser.click("#signin");
    browser.until("!!document.querySelector('dialog[open] #token')");
    assert_eq!(browser.eval(KEPT), "0,0");
}

#[test]
fn i13_a_token_that_may_only_write_uploads_and_sees_no_list() {
    let Some(mut browser) = Browser::start_or_skip("tokens that only write on the web page") else {
        return;
    };
    let cluster = Cluster::one_of_each(PROGRAM).start();
    let create = |rights: &str| {
        let args = ["token", "create", "--tenant", "acme", "--rights", rights];
        cluster.admin_command(&args).trim().to_owned()
    };
    let (all, writes) = (create("read,write,delete"), create("write"));
    let lines = std::fs::read_to_string(cluster.dir().join("api-tokens")).unwrap();
    let cluster = closed(cluster, &lines, &all);
    put_as(&cluster, &all, "taken.txt", b"first");
    put_as(&cluster, &all, "taken (2).txt", b"second");
    let desk = Desk::new();

    browser.look(1280, 800, "light");
    browser.open(&format!("http://{}/", cluster.gateway));
    sign_in(&mut browser, &writes, false);
    browser.until("document.getElementById('who').textContent === 'acme, may only write'");
    browser.until("document.getElementById('empty').textContent === 'This token may store files, but not list them.'");
    browser.until("document.getElementById('drop').checkVisibility()");
    browser.screenshot(&pictures().join("write-only.png"));
    // Counts lists, which would be refused, looks at the cluster, and dialogs.
    browser.eval(
        "window.lists = 0; window.looks = 0; window.questions = 0; window.realFetch = fetch; \
         window.fetch = (...of) => { lists += String(of[0]).startsWith('/api/files?'); \
             looks += of[0] === '/api/stats'; return realFetch(...of); }; \
         new MutationObserver(() => { questions += document.querySelectorAll('dialog').length; }) \
             .observe(document.body, {childList: true}); 0",
    );
    let files = [
        desk.file("new.txt", b"new"),
        desk.file("taken.txt", b"third"),
    ];
    drop_on(&mut browser, &files);
    answer(&mut browser, "Keep both");
    idle(&mut browser, "2 of 2 files stored");
    assert_eq!(browser.eval("questions"), 1);
    // Both are made anew after uploads.
    browser.eval("looks = 0; 0");
    browser.until("looks > 0");
    assert_eq!(browser.eval("lists"), 0);
    for (name, bytes) in [
        ("new.txt", "new"),
        ("taken.txt", "first"),
        ("taken (2).txt", "second"),
        ("taken (3).txt", "third"),
    ] {
        let stored = ask_as(&cluster, &all, "GET", name, b"");
        assert_eq!(stored.text(), bytes, "{name}");
    }
    browser.eval("document.getElementById('clear').click(); 0");
    drop_on(&mut browser, &[desk.file("taken.txt", b"fourth")]);
    answer(&mut browser, "Overwrite");
    idle(&mut browser, "1 of 1 file stored");
    assert_eq!(
        ask_as(&cluster, &all, "GET", "taken.txt", b"").text(),
        "fourth"
    );
}
