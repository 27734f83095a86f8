//! The panel of uploads and the list beside it: room, folding, sizes of folders, and PDFs.

use super::*;

/// A PDF with one empty page.
const PDF: &[u8] = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj \
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj trailer<</Root 1 0 R>>\n%%EOF";

const IS_FOLDED: &str = "document.getElementById('fold').ariaExpanded === 'false' \
    && !document.getElementById('transfer-list').checkVisibility()";

fn height(browser: &mut Browser, selector: &str) -> f64 {
    let height = browser.eval(&format!(
        "document.querySelector({}).getBoundingClientRect().height",
        quoted(selector)
    ));
    height.as_f64().unwrap()
}

#[test]
fn uploads_fold_to_a_line_and_leave_room_for_the_list() {
    let Some(mut browser) = Browser::start_or_skip("the panel of uploads") else {
        return;
    };
    let cluster = Cluster::builder(PROGRAM).dev().start();
    let desk = Desk::new();
    browser.look(1280, 680, "light");
    browser.open(&format!("http://{}/", cluster.gateway));
    browser
        .until("document.getElementById('empty').textContent.startsWith('Nothing is stored yet')");
    let tall = height(&mut browser, "#drop");
    for n in 0..5 {
        let name = format!("/api/files/a{n}.txt");
        assert_eq!(cluster.ask("PUT", &name, b"a").status, 201);
    }
    browser.click("#refresh");
    browser.until("document.querySelectorAll('#list tr').length === 5");
    let low = height(&mut browser, "#drop");
    assert!(tall > 140.0 && low < 80.0, "{tall} and {low} pixels");

    browser.throttle_uploads(Some(200_000));
    let paths: Vec<PathBuf> = (0..9)
        .map(|n| desk.file(&format!("z{n}.bin"), &random(150_000, n)))
        .collect();
    drop_on(&mut browser, &paths);
    browser.until("document.querySelectorAll('#transfer-list li').length >= 6");
    // The first file is in sight below the rows of uploads.
    browser.until("document.getElementById('transfer-list').checkVisibility()");
    for (width, is_wide) in [(1280, true), (390, false)] {
        browser.look(width, 680, "light");
        let bottom = browser
            .eval("document.querySelector('#list tr .name-cell').getBoundingClientRect().bottom");
        assert!(bottom.as_f64() < Some(680.0), "{bottom} at {width}");
        let name = if is_wide {
            "panel.png"
        } else {
            "panel-390.png"
        };
        browser.screenshot(&pictures().join(name));
    }
    browser.look(1280, 680, "light");

    // By keys; the focus stays on the control, and new uploads leave it as it is.
    assert_eq!(browser.eval(IS_FOLDED), false);
    browser.eval("document.getElementById('fold').focus(); 0");
    browser.press("Enter");
    browser.until(IS_FOLDED);
    assert_eq!(browser.eval("document.activeElement.id"), "fold");
    browser.until(
        "document.getElementById('total').checkVisibility() && document.getElementById('cancel-all').checkVisibility()",
    );
    let line = height(&mut browser, "#transfers");
    assert!(line < 50.0, "{line} pixels are more than a line");
    browser.screenshot(&pictures().join("panel-folded.png"));
    browser.throttle_uploads(None);
    idle(&mut browser, "9 of 9 files stored");
    drop_on(&mut browser, &[desk.file("later.txt", b"later")]);
    idle(&mut browser, "1 of 1 file stored");
    assert_eq!(browser.eval(IS_FOLDED), true);
    browser.press("Enter");
    browser.until("document.getElementById('fold').ariaExpanded === 'true' && document.getElementById('transfer-list').checkVisibility()");
}

#[test]
fn a_folder_is_counted_when_asked_and_a_pdf_opens_in_a_tab() {
    let Some(mut browser) = Browser::start_or_skip("folders and PDFs on the web page") else {
        return;
    };
    let cluster = Cluster::builder(PROGRAM).dev().start();
    for (name, body) in [("d/a", &b"12345"[..]), ("d/e/b", b"1234567"), ("f/c", b"1")] {
        let put = cluster.ask("PUT", &format!("/api/files/{name}"), body);
        assert_eq!(put.status, 201);
    }
    let mut client = Client::connect(&cluster.gateway).unwrap();
    let kind = "content-type: application/pdf\r\n";
    let put = client.call("PUT", "/api/files/report.pdf", kind, PDF);
    assert_eq!(put.unwrap().status, 201);

    let url = format!("http://{}/", cluster.gateway);
    browser.look(1280, 800, "light");
    browser.open(&url);
    browser.until("document.querySelectorAll('#list tr').length === 3");
    browser.eval(
        "window.asked = []; window.realFetch = fetch; \
         window.fetch = (...of) => { asked.push(String(of[0])); return realFetch(...of); }; 0",
    );
    press(&mut browser, "d", "Size of d");
    let cells = |name: &str| {
        format!(
            "[...{}.querySelectorAll('td')].map((cell) => cell.textContent).join()",
            row(name)
        )
    };
    browser.until(&format!("{} === '12 B,2 files,'", cells("d")));
    // No other folder is counted, and no other row has changed.
    browser.until(&format!("{} === 'Size,,'", cells("f")));
    assert_eq!(
        browser.eval("asked.filter((url) => url.startsWith('/api/usage')).join()"),
        "/api/usage?prefix=d%2F"
    );
    // Counted again after a change.
    assert_eq!(cluster.ask("PUT", "/api/files/d/g", b"123").status, 201);
    press(&mut browser, "d", "12 B in d");
    browser.until(&format!("{} === '15 B,3 files,'", cells("d")));

    // Files are served in a sandbox, in which the viewer of this browser does start.
    let served = cluster.fetch("/api/files/report.pdf");
    assert_eq!(served.header("content-security-policy"), Some("sandbox"));
    browser.eval(&format!(
        "{}.querySelector('.name-cell a').id = 'pdf'; 0",
        row("report.pdf")
    ));
    browser.click("#pdf");
    let path = format!("{url}api/files/report.pdf");
    until_blocking("the viewer of PDFs", || {
        // The tab, the viewer in it, and the document in the viewer.
        let targets = browser.targets();
        let shown = targets.iter().filter(|url| **url == path).count();
        let viewers = targets
            .iter()
            .filter(|url| url.starts_with("chrome-extension://"))
            .count();
        (shown == 2 && viewers >= 1).then_some(())
    });
    let saved = std::fs::read_dir(browser.downloads());
    assert_eq!(saved.map_or(0, Iterator::count), 0);
}
