//! A headless Chromium, driven over the DevTools protocol through its pipe: no port, no driver, no
//! client library.
//!
//! Messages are JSON, each ended by a zero byte: ours on the browser's descriptor 3, its own on
//! descriptor 4. One thread reads; answers go to who waits, and of events only the errors of pages
//! are kept.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cstore_testkit::until_blocking;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::tools::find;

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const CLICKS: usize = 5;
/// Most complaints that are kept.
const AT_MOST: usize = 100;

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    to: ChildStdin,
    heard: Arc<Mutex<Heard>>,
    next: u64,
    session: String,
    dir: tempfile::TempDir,
}

#[derive(Debug, Default)]
struct Heard {
    answers: BTreeMap<u64, Value>,
    complaints: Vec<String>,
}

impl Browser {
    /// Starts one with an empty page. `None`, and a line `SKIP`, when there is no Chromium.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_or_skip(what: &str) -> Option<Self> {
        // A browser beside everything else takes longer than any bound on two cores: `make
        // page-test` runs them alone.
        if !std::env::vars().any(|(key, _)| key == "CSTORE_BROWSER") {
            crate::tools::find_or_skip("CSTORE_BROWSER (make page-test)", what);
            return None;
        }
        let Some(program) = NAMES.iter().find_map(|name| find(name)) else {
            crate::tools::find_or_skip(NAMES[0], what);
            return None;
        };
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        // The pipes of a child are its standard ones; a shell moves them to where the browser
        // looks.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>&2"])
            .arg(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-sync",
                "--mute-audio",
            ])
            .args([
                "--remote-debugging-pipe",
                "--lang=en-US",
                "--force-color-profile=srgb",
            ])
            .arg(format!(
                "--user-data-dir={}",
                dir.path().join("profile").display()
            ))
            .arg("about:blank")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("the browser starts");
        let (to, from) = (
            child.stdin.take().expect("a pipe"),
            child.stdout.take().expect("a pipe"),
        );
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let ears = heard.clone();
        std::thread::spawn(move || listen(from, &ears));
        let mut browser = Self {
            child,
            to,
            heard,
            next: 0,
            session: String::new(),
            dir,
        };
        let target = until_blocking("a page of the browser", || {
            let found = browser.call("Target.getTargets", json!({}));
            let page = found["targetInfos"]
                .as_array()?
                .iter()
                .find(|target| target["type"] == "page")?;
            page["targetId"].as_str().map(str::to_owned)
        });
        let attached = browser.call(
            "Target.attachToTarget",
            json!({"targetId": target, "flatten": true}),
        );
        browser.session = attached["sessionId"]
            .as_str()
            .expect("a session")
            .to_owned();
        for domain in ["Page", "Runtime", "Log", "DOM", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        let downloads = browser.downloads().display().to_string();
        browser.call(
            "Browser.setDownloadBehavior",
            json!({"behavior": "allow", "downloadPath": downloads}),
        );
        Some(browser)
    }

    /// Returns the folder of downloads.
    pub fn downloads(&self) -> PathBuf {
        self.dir.path().join("downloads")
    }

    /// Sends one command of the protocol and returns its result.
    ///
    /// # Panics
    /// When it is refused, or not answered in time.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty()
            && !method.starts_with("Browser.")
            && !method.starts_with("Target.")
        {
            message["sessionId"] = self.session.clone().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).expect("the browser listens");
        let answer = until_blocking(&format!("an answer to {method}"), || {
            self.heard.lock().answers.remove(&id)
        });
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    /// Opens a URL and waits until its modules have run.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url}));
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        self.until("document.readyState === 'complete'");
    }

    /// Opens a URL in another tab, waits until its modules have run, and talks to that tab from now
    /// on. Returns the session of the tab before, for [`Browser::switch`].
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn open_tab(&mut self, url: &str) -> String {
        let made = self.call("Target.createTarget", json!({"url": "about:blank"}));
        let wanted = json!({"targetId": made["targetId"], "flatten": true});
        let attached = self.call("Target.attachToTarget", wanted);
        let session = attached["sessionId"].as_str().expect("a session");
        let before = self.switch(session.to_owned());
        for domain in ["Page", "Runtime", "Log", "DOM", "Network"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        self.open(url);
        before
    }

    /// Talks to the tab of another session from now on. Returns the session before.
    pub fn switch(&mut self, session: String) -> String {
        let before = std::mem::replace(&mut self.session, session);
        self.call("Page.bringToFront", json!({}));
        before
    }

    /// Returns the URLs of all pages and frames that the browser has open.
    pub fn targets(&mut self) -> Vec<String> {
        let found = self.call("Target.getTargets", json!({}));
        let targets = found["targetInfos"].as_array().expect("targets").iter();
        targets
            .filter_map(|target| target["url"].as_str().map(str::to_owned))
            .collect()
    }

    /// Returns the value of an expression in the page; promises are awaited.
    ///
    /// # Panics
    /// When it throws.
    pub fn eval(&mut self, expression: &str) -> Value {
        let wanted = json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let found = self.call("Runtime.evaluate", wanted);
        assert!(
            found["exceptionDetails"].is_null(),
            "{expression}: {}",
            found["exceptionDetails"]
        );
        found["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page, or has some other value that is not false,
    /// null, 0 or empty.
    ///
    /// # Panics
    /// When it does not become so in time.
    pub fn until(&mut self, expression: &str) -> Value {
        until_blocking(expression, || {
            let value = self.eval(expression);
            let nothing = value.is_null() || value == false || value == 0 || value == "";
            (!nothing).then_some(value)
        })
    }

    /// Clicks in the middle of an element. If it moves away, it is clicked again where it is then.
    ///
    /// # Panics
    /// When it is not there, or always has something else before it.
    pub fn click(&mut self, selector: &str) {
        for _ in 0..CLICKS {
            let (x, y) = self.middle(selector);
            self.eval(&format!(
                "window.wasHit = false; window.toHit = document.querySelector({selector:?}); \
                 addEventListener('click', (event) => {{ wasHit = event.composedPath().includes(toHit); }}, \
                 {{capture: true, once: true}}); 0"
            ));
            for kind in ["mousePressed", "mouseReleased"] {
                let event =
                    json!({"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1});
                self.call("Input.dispatchMouseEvent", event);
            }
            if self.eval("window.wasHit") == true {
                return;
            }
        }
        panic!("{selector} could not be clicked");
    }

    fn middle(&mut self, selector: &str) -> (f64, f64) {
        let found = self.until(&format!(
            "(() => {{ const e = document.querySelector({selector:?}); if (!e) return null; \
             e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); \
             const at = [r.x + r.width / 2, r.y + r.height / 2]; const hit = document.elementFromPoint(...at); \
             return hit && (e.contains(hit) || hit.contains(e)) ? at : null; }})()"
        ));
        (
            found[0].as_f64().expect("a number"),
            found[1].as_f64().expect("a number"),
        )
    }

    /// Lets files of the disk fall onto an element, as from a file manager.
    pub fn drop_files(&mut self, selector: &str, files: &[PathBuf]) {
        let (x, y) = self.middle(selector);
        for kind in ["dragEnter", "dragOver", "drop"] {
            let data = json!({"items": [], "files": files, "dragOperationsMask": 1});
            self.call(
                "Input.dispatchDragEvent",
                json!({"type": kind, "x": x, "y": y, "data": data}),
            );
        }
    }

    /// Presses a key, by its name in the DOM.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            "Escape" => (27, ""),
            _ => (0, ""),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Types text into what has the focus.
    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    /// Limits uploads to `rate` bytes a second; `None` removes the limit.
    pub fn throttle_uploads(&mut self, rate: Option<u32>) {
        let rate = rate.map_or(-1, i64::from);
        let conditions = json!({"offline": false, "latency": 0, "downloadThroughput": -1, "uploadThroughput": rate});
        self.call("Network.emulateNetworkConditions", conditions);
    }

    /// Sets the size of the window, and the color scheme: `light` or `dark`.
    pub fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        // A window of another system lays them over the page.
        self.call("Emulation.setScrollbarsHidden", json!({"hidden": true}));
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Writes the content of the window as PNG into a file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn screenshot(&mut self, path: &Path) {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let bytes = STANDARD
            .decode(shot["data"].as_str().expect("a picture"))
            .expect("base64");
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        std::fs::write(path, bytes).expect("the picture can be written");
    }

    /// Returns the complaints of pages so far: exceptions, breaches of the policy, failed parts.
    pub fn complaints(&self) -> Vec<String> {
        self.heard.lock().complaints.clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser's own processes are in the group that was made for it.
        let group = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Reads messages until the browser ends.
fn listen(from: impl Read, heard: &Mutex<Heard>) {
    let mut from = BufReader::new(from);
    let mut bytes = Vec::new();
    while from.read_until(0, &mut bytes).is_ok_and(|read| read > 0) {
        bytes.pop();
        let message: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        bytes.clear();
        let mut heard = heard.lock();
        if let Some(id) = message["id"].as_u64() {
            heard.answers.insert(id, message);
        } else if let Some(complaint) = complaint(&message)
            && heard.complaints.len() < AT_MOST
        {
            heard.complaints.push(complaint);
        }
    }
}

fn complaint(message: &Value) -> Option<String> {
    let params = &message["params"];
    match message["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
        "Log.entryAdded" if params["entry"]["level"] == "error" => {
            Some(params["entry"].to_string())
        }
        "Runtime.consoleAPICalled" if params["type"] == "error" => Some(params["args"].to_string()),
        _ => None,
    }
}
