/*!
Chromium without a screen, told what to do over a pair of pipes (DevTools protocol).

It resolves no name and reaches no address. What a page complains about, what it asks for and
what it opens is kept; a dialog ends the test at once.
*/

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// A browser with one page.
pub struct Browser {
    process: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    calls: u64,
    session: Option<String>,
    /// Whatever it told unasked.
    told: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Start it; `Err` says why there is none.
    pub fn start() -> Result<Self, String> {
        let version = Command::new("chromium").arg("--version").output();
        match version {
            Ok(output) if output.status.success() => {}
            Ok(output) => return Err(format!("chromium --version: {}", output.status)),
            Err(error) => return Err(format!("chromium cannot be executed: {error}")),
        }
        let profile = tempfile::tempdir().unwrap();
        // Chromium reads from descriptor 3, and writes to 4.
        let mut process = Command::new("sh")
            .args([
                "-c",
                "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1",
                "sh",
            ])
            .args(["chromium", "--headless=new", "--remote-debugging-pipe"])
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking"])
            .args([
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
            ])
            .arg("--host-resolver-rules=MAP * ~NOTFOUND")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut browser = Self {
            to: process.stdin.take().unwrap(),
            from: messages(&mut process),
            process,
            calls: 0,
            session: None,
            told: Vec::new(),
            _profile: profile,
        };
        let page = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in [
            "Page",
            "Runtime",
            "Log",
            "Network",
            "Audits",
            "Accessibility",
        ] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Ok(browser)
    }

    /// Show that file.
    pub fn open(&mut self, page: &Path) {
        let url = format!("file://{}", page.display());
        let navigation = self.call("Page.navigate", json!({"url": url}));
        assert!(navigation["errorText"].is_null(), "{navigation}");
        while !self
            .told
            .iter()
            .any(|event| event["method"] == "Page.loadEventFired")
        {
            let message = self.receive();
            self.told.push(message);
        }
        self.told
            .retain(|event| event["method"] != "Page.loadEventFired");
    }

    /// What it was told, and answers.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to
            .write_all(format!("{message}\0").as_bytes())
            .unwrap();
        loop {
            let mut answer = self.receive();
            if answer["id"] != self.calls {
                self.told.push(answer);
                continue;
            }
            assert!(answer["error"].is_null(), "{method}: {answer}");
            return answer["result"].take();
        }
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub fn eval(&mut self, expression: &str) -> Value {
        let parameters = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let mut answer = self.call("Runtime.evaluate", parameters);
        let thrown = &answer["exceptionDetails"];
        assert!(thrown.is_null(), "{expression}: {thrown}");
        answer["result"]["value"].take()
    }

    /// Bring that part of the page into view, and click on its middle.
    #[track_caller]
    pub fn click(&mut self, selector: &str) {
        let at = self.middle(selector);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": at["x"], "y": at["y"], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    #[track_caller]
    pub fn point_at(&mut self, selector: &str) {
        let at = self.middle(selector);
        let event = json!({"type": "mouseMoved", "x": at["x"], "y": at["y"]});
        self.call("Input.dispatchMouseEvent", event);
    }

    #[track_caller]
    fn middle(&mut self, selector: &str) -> Value {
        self.eval(&format!(
            "(() => {{ const it = document.querySelector({selector:?}); \
             it.scrollIntoView({{block: 'center', behavior: 'instant'}}); \
             const box = it.getBoundingClientRect(); \
             return {{x: box.x + box.width / 2, y: box.y + box.height / 2}}; }})()"
        ))
    }

    /// Press a key, by its name in UI Events.
    pub fn press(&mut self, key: &str) {
        let (text, code) = match key {
            "Enter" => ("\r", 13),
            " " => (" ", 32),
            "Tab" => ("", 9),
            "Escape" => ("", 27),
            "End" => ("", 35),
            "Home" => ("", 36),
            "ArrowLeft" => ("", 37),
            "ArrowUp" => ("", 38),
            "ArrowRight" => ("", 39),
            "ArrowDown" => ("", 40),
            _ => panic!("no key {key:?}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    /// What the browser's owner prefers, and how wide the window is, in CSS pixels.
    pub fn look(&mut self, scheme: &str, width: u32, height: u32) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// A picture of what is in the window, as PNG.
    pub fn picture(&mut self) -> Vec<u8> {
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let data = picture["data"].as_str().unwrap();
        BASE64.decode(data.as_bytes()).unwrap()
    }

    /// What pages wrote on the console, and what the browser had to say about them.
    pub fn complaints(&self) -> Vec<&Value> {
        let events = self.told.iter();
        events
            .filter(|event| {
                [
                    "Runtime.consoleAPICalled",
                    "Runtime.exceptionThrown",
                    "Log.entryAdded",
                    "Audits.issueAdded",
                ]
                .iter()
                .any(|complaint| event["method"] == *complaint)
            })
            .collect()
    }

    /// The addresses that pages asked for.
    pub fn requests(&self) -> Vec<&str> {
        let events = self.told.iter();
        events
            .filter(|event| event["method"] == "Network.requestWillBeSent")
            .filter_map(|event| event["params"]["request"]["url"].as_str())
            .collect()
    }

    fn receive(&mut self) -> Value {
        let message = self
            .from
            .recv_timeout(PATIENCE)
            .expect("chromium is silent");
        assert_ne!(
            message["method"], "Page.javascriptDialogOpening",
            "{message}"
        );
        message
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its children end with it; it is gone before its profile is.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// What it says, as it comes: objects, each with a zero octet behind it.
fn messages(process: &mut Child) -> Receiver<Value> {
    let (sender, receiver) = mpsc::channel();
    let stdout = BufReader::new(process.stdout.take().unwrap());
    thread::spawn(move || {
        for message in stdout.split(0) {
            let Ok(message) = message else { break };
            let message = serde_json::from_slice(&message).unwrap();
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    receiver
}
