//! HTML pages under test: their structure without a browser, and what a browser makes of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A page.
pub struct Page {
    /// The document.
    pub text: String,
}

impl Page {
    /// A page with this text.
    pub fn new(text: String) -> Self {
        Self { text }
    }

    /// The element with this id and what is in it, up to the next section.
    #[track_caller]
    pub fn section(&self, id: &str) -> &str {
        let starts = [format!("<section id=\"{id}\""), format!("<header class=\"top\" id=\"{id}\"")];
        let start = starts.iter().find_map(|s| self.text.find(s)).unwrap_or_else(|| panic!("no section {id}"));
        let end = ["</section>", "</header>"].iter().filter_map(|e| self.text[start..].find(e)).min();
        &self.text[start..start + end.expect("the section's end")]
    }

    /// Every tag is closed, in the right order, and every attribute is quoted.
    #[track_caller]
    pub fn is_well_formed(&self) {
        const VOID: [&str; 5] = ["meta", "link", "input", "wbr", "br"];
        let mut open: Vec<&str> = Vec::new();
        let mut rest = self.text.strip_prefix("<!DOCTYPE html>").expect("a document type");
        while let Some(at) = rest.find('<') {
            assert!(
                !rest[..at].contains('>') || open.last().is_some_and(|t| raw(t)),
                "a bare > in {:?}",
                short(&rest[..at])
            );
            rest = &rest[at + 1..];
            let end = rest.find('>').unwrap_or_else(|| panic!("an open tag: {}", short(rest)));
            let (tag, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closed in the wrong order, before {}", short(after));
                continue;
            }
            let name = tag.split_whitespace().next().unwrap_or_default();
            assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()), "no tag: <{}", short(tag));
            assert!(tag.matches('"').count().is_multiple_of(2) && !tag.contains('<'), "an open quote: <{}", short(tag));
            if VOID.contains(&name) {
                continue;
            }
            open.push(name);
            if raw(name) {
                // Style and script: everything up to the end tag is theirs.
                let close = format!("</{name}>");
                rest = &rest[rest.find(&close).expect("an end tag")..];
            }
        }
        assert_eq!(open, Vec::<&str>::new(), "tags are left open");
    }

    /// Nothing on the page names another file or host.
    #[track_caller]
    pub fn loads_nothing(&self) {
        for word in
            ["http:", "https:", "//www", "src=", "@import", "url(", "<iframe", "<object", "<embed", "fetch(", "import("]
        {
            assert!(!self.text.contains(word), "`{word}` on the page");
        }
        for link in self.text.split("href=\"").skip(1) {
            assert!(link.starts_with('#') || link.starts_with("data:,"), "a link to {}", short(link));
        }
        assert!(self.text.contains("default-src 'none'"), "the policy that forbids loading");
    }
}

fn raw(tag: &str) -> bool {
    matches!(tag, "style" | "script")
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A browser of the Chromium family.
pub struct Browser(PathBuf);

/// The browser that `CCL_BROWSER` names, or one that is in the path; `None` where there is none.
pub fn browser() -> Option<Browser> {
    if let Some(named) = std::env::var_os("CCL_BROWSER") {
        return Some(Browser(named.into()));
    }
    let names = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    names.iter().flat_map(|n| folders.iter().map(move |f| f.join(n))).find(|p| p.is_file()).map(Browser)
}

/// Says that nothing was looked at, where the test harness does not catch it.
pub fn forget_no_browser() {
    let text = "\nNOT TESTED: there is no Chromium on this machine, so no browser looked at the pages (./test.sh installs one)\n";
    std::io::stderr().write_all(text.as_bytes()).expect("standard error");
}

/// What a browser made of a page.
#[derive(Debug)]
pub struct Seen {
    /// Lines on the console.
    pub console: Vec<String>,
    probes: BTreeMap<String, String>,
}

impl Seen {
    /// What the probe found.
    #[track_caller]
    pub fn probe(&self, name: &str) -> &str {
        self.probes.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// What the probe counted.
    #[track_caller]
    pub fn number(&self, name: &str) -> i64 {
        self.probe(name).parse().expect("a whole number")
    }
}

/// No window is narrower than this, whatever is asked for; a frame in one is.
const NARROWEST: i64 = 500;

/// Runs last on the page: what it looks like to the browser with every part open, as attributes of the body.
const PROBE: &str = r##"<script>addEventListener("load", () => {
  const d = document.documentElement, put = (k, v) => parent.document.body.setAttribute("data-probe-" + k, v);
  document.querySelectorAll("details").forEach((part) => (part.open = true));
  put("scheme", matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  put("width", innerWidth);
  put("overflow", d.scrollWidth - innerWidth);
  put("tall", d.scrollHeight);
  put("collapsed", [...document.querySelectorAll("svg")].filter((s) => s.checkVisibility() && !s.getBoundingClientRect().height).length);
  const rect = document.querySelector("figure.memory rect"), filter = document.querySelector(".filter");
  if (rect) rect.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  put("tip", rect && rect.closest("figure").querySelector(".tip").textContent === rect.textContent ? "shown" : "none");
  if (filter) (filter.value = "no such rule"), filter.dispatchEvent(new Event("input"));
  put("filtered", document.querySelectorAll("#rewrites .rule:not([hidden])").length);
  put("hidden", document.querySelectorAll(".filter[hidden]").length);
});</script></body>"##;

impl Browser {
    /// Opens the page in a window of this size, in the `light` or `dark` scheme.
    pub fn show(&self, page: &str, width: i64, height: i64, scheme: &str, dir: &Path) -> Seen {
        let file = dir.join("shown.html");
        let mut probed = page.replacen("</body>", PROBE, 1);
        assert_ne!(probed, page, "the page has no end");
        if width < NARROWEST {
            let document = probed.replace('&', "&amp;").replace('"', "&quot;");
            probed = format!(
                "<!DOCTYPE html><iframe style=\"width:{width}px;height:{height}px;border:0\" srcdoc=\"{document}\"></iframe>"
            );
        }
        fs::write(&file, probed).expect("a page");
        let profile = tempfile::tempdir().expect("a profile");
        let mut command = Command::new(&self.0);
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--hide-scrollbars",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
            ])
            .args(["--enable-logging=stderr", "--dump-dom"])
            .arg(format!("--blink-settings=preferredColorScheme={}", i32::from(scheme == "light")))
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("file://{}", file.display()));
        let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", self.0.display()));
        let (dom, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && dom.contains("</html>"), "the browser failed: {log}");
        let probes = dom.split("data-probe-").skip(1).filter_map(|p| {
            let (name, rest) = p.split_once("=\"")?;
            Some((name.to_string(), rest.split_once('"')?.0.to_string()))
        });
        let console = log.lines().filter(|l| l.contains("CONSOLE")).map(str::to_owned).collect();
        Seen { console, probes: probes.collect() }
    }
}
