//! `ccl explain --format html` and `--diff`: what is on the page, that it stands alone, that nothing in a plan can break out of its
//! text, and what a comparison names.

use std::fs;
use std::path::Path;

use crate::common::page::{Page, browser, forget_no_browser};
use crate::common::{case, ccl, temp_dir, tiny};
use ccl::explain::cost::Machine;
use ccl::explain::html;
use ccl::ir::Plan;

const CLIP_14B: &str = "21x44x80@158";
const SECTIONS: [&str; 8] = ["passes", "graph", "rewrites", "refusals", "memory", "kernels", "roofline", "about"];

/// The page of a plan of the small case.
fn small(words: &str) -> Page {
    let run = ccl("explain --format html --clip 4x6x4@21").words(words).with("--model", case("small")).ok();
    Page::new(run.stdout)
}

/// The page of a plan as data.
fn page_of(plan: &Plan) -> String {
    html::page(plan, &Machine::for_plan(plan, None), None)
}

/// The page of the 14B model, from its configuration alone, into a file.
fn large(words: &str, dir: &Path) -> Page {
    fs::write(dir.join("config.json"), crate::common::WAN_14B).expect("a configuration");
    let file = dir.join("page.html");
    let run = ccl("explain --format html --clip").words(CLIP_14B).words(words).with("--model", dir).with("-o", &file);
    assert_eq!(run.ok().stdout, "");
    Page::new(fs::read_to_string(file).expect("a page"))
}

/// A plan of the small case as a file.
fn compile(words: &str, file: &Path) {
    ccl("compile --clip 4x6x4@21").words(words).with("--model", case("small")).with("-o", file).ok();
}

#[test]
fn the_page_stands_alone_and_is_whole() {
    for (task, guidance) in [("joint", "two-pass"), ("v2a", "none"), ("t2a", "three-pass"), ("t2v", "modality-drop")] {
        let page = small(&format!("--task {task} --guidance {guidance}"));
        page.is_well_formed();
        page.loads_nothing();
        assert!(page.text.starts_with("<!DOCTYPE html>"));
        for id in SECTIONS {
            assert!(page.section(id).contains(&format!("id=\"{id}-title\"")), "{task}: section {id}");
            assert!(page.text.contains(&format!("href=\"#{id}\"")), "{task}: {id} in the contents");
        }
        assert!(page.text.contains("prefers-color-scheme: dark") && page.text.contains("width=device-width"));
        // Equal compilations, equal pages.
        assert_eq!(page.text, small(&format!("--task {task} --guidance {guidance}")).text);
    }
}

#[test]
fn the_page_says_what_the_plan_says() {
    let words = "--task v2a --guidance two-pass";
    let json = ccl("explain --json --clip 4x6x4@21").words(words).with("--model", case("small")).ok().json();
    let page = small(words);
    let flops = |field: &str| {
        let n = json[field]["step"].as_u64().expect("a number");
        ccl::explain::units::human_flops(n)
    };
    let head = page.section("top");
    assert!(head.contains(&flops("flops")) && head.contains(&flops("flops_before")), "the gain is said first: {head}");
    let count = |applied: bool| {
        let events = json["events"].as_array().expect("a list").iter();
        events.filter(|e| e["applied"] == applied).count()
    };
    assert!(head.contains(&format!("<p class=\"big\">{}</p>", count(true))), "{head}");
    assert!(head.contains(&format!("{} refused", count(false))), "{head}");
    // Every rule and every kernel.
    for event in json["events"].as_array().expect("a list") {
        let section = page.section(if event["applied"] == true { "rewrites" } else { "refusals" });
        assert!(section.contains(event["rule"].as_str().expect("a name")), "{event}");
    }
    let kernels = page.section("kernels").replace("<wbr>", "");
    for kernel in json["kernels"].as_array().expect("a list") {
        assert!(kernels.contains(kernel["name"].as_str().expect("a name")), "{kernel}");
    }
    // Laws, the passes in order, marks of what was pruned and what was hoisted.
    assert!(page.section("rewrites").contains("f(row k of S) = row k of f(S)"));
    let passes = page.section("passes");
    let places = ["build", "specialise", "raise", "hoist", "fuse", "lower"].map(|p| {
        let cell = format!(">{p}<small>");
        passes.find(&cell).unwrap_or_else(|| panic!("no row for {p}"))
    });
    assert!(places.is_sorted(), "{places:?}");
    let graph = page.section("graph");
    assert!(graph.contains("pruned") && graph.contains("mark prologue") && graph.contains("mark step"));
    let memory = page.section("memory");
    assert!(memory.contains("<rect") && memory.contains("<title>") && memory.contains("calls "));
    assert!(page.section("roofline").contains("<circle"));
}

#[test]
fn the_14b_page_is_small_and_folds_its_blocks() {
    let dir = temp_dir();
    let page = large("--task joint --guidance two-pass", dir.path());
    page.is_well_formed();
    page.loads_nothing();
    assert!(page.text.len() < 1_500_000, "{} bytes", page.text.len());
    let graph = page.section("graph");
    assert!(
        graph.contains("blocks 0–39") && graph.contains("×40") && graph.contains("blocks 1–39"),
        "forty blocks once"
    );
    // The edges: what the calls of a block read.
    assert!(graph.contains("29 calls of block 0") && graph.contains("q.weight, q.bias"), "calls and what they read");
    assert!(!graph.contains("block 17") && !graph.contains("blocks.17"), "a block of forty equal ones");
    assert!(page.section("rewrites").contains("blocks.<wbr>N.<wbr>cca"));
    // Thousands of buffers, and no more rectangles than a phone can bear.
    assert!(page.section("memory").matches("<rect").count() < 3500);
}

#[test]
fn whatever_a_plan_says_is_text() {
    let dir = temp_dir();
    let file = dir.path().join("p.cclp");
    compile("--task joint --guidance two-pass", &file);
    let mut plan = Plan::from_bytes(&fs::read(&file).expect("a plan")).expect("a plan");
    const EVIL: &str =
        "</title></style></script><script>alert('x')</script><img src=http://evil.example/ onerror=a>\"'&";
    plan.about.task = EVIL.into();
    plan.about.clip = EVIL.into();
    plan.about.guidance = EVIL.into();
    plan.about.target = EVIL.into();
    plan.about.compiler = EVIL.into();
    plan.about.config = serde_json::json!({ EVIL: EVIL });
    for e in &mut plan.report.events {
        (e.pass, e.rule, e.reason) = (EVIL.into(), EVIL.into(), EVIL.into());
        e.at += EVIL;
    }
    plan.report.modules.iter_mut().for_each(|m| m.at += EVIL);
    plan.report.stages.iter_mut().for_each(|s| s.pass = EVIL.into());
    plan.entries.values_mut().flatten().for_each(|c| c.at += EVIL);
    plan.inputs.iter_mut().chain(&mut plan.outputs).for_each(|p| p.name += EVIL);
    plan.weights.iter_mut().for_each(|w| w.name += EVIL);
    let clean = Plan::from_bytes(&fs::read(&file).expect("a plan")).expect("a plan");
    let diff = ccl::explain::Diff::new([EVIL.into(), EVIL.into()], &plan, &clean);
    for page in [page_of(&plan), html::diff_page(&diff)] {
        assert_eq!(page.matches("<script").count(), 1, "the page's own script");
        assert!(!page.contains("<img") && !page.contains("alert('x')</script>"));
        Page::new(page).is_well_formed();
    }
}

#[test]
fn plans_of_older_compilers_have_a_page_too() {
    let dir = temp_dir();
    let file = dir.path().join("p.cclp");
    compile("--task joint", &file);
    let mut plan = Plan::from_bytes(&fs::read(&file).expect("a plan")).expect("a plan");
    plan.report.stages.clear();
    plan.report.modules.clear();
    let page = Page::new(page_of(&plan));
    page.is_well_formed();
    assert!(page.section("passes").contains("keeps no record"));
    // Nothing at all is no reason to fail.
    plan.entries.clear();
    plan.report.events.clear();
    Page::new(page_of(&plan)).is_well_formed();
}

#[test]
fn a_difference_is_named() {
    let dir = temp_dir();
    let [joint, same, a2v] = ["joint.cclp", "same.cclp", "a2v.cclp"].map(|n| dir.path().join(n));
    compile("--task joint --guidance two-pass", &joint);
    compile("--task joint --guidance two-pass", &same);
    compile("--task a2v --guidance two-pass --dtype bf16", &a2v);
    let diff =
        |other: &Path, words: &str| ccl("explain").with("--plan", &joint).with("--diff", other).words(words).ok();

    let none = diff(&same, "");
    assert!(none.stdout.trim_end().ends_with("are the same plan"), "{}", none.stdout);
    let json = diff(&same, "--json").json();
    assert_eq!(json["same"], true);
    for list in ["about", "numbers", "kernels", "modules", "rules", "weights", "ports"] {
        assert_eq!(json[list].as_array().map(Vec::len), Some(0), "{list}");
    }
    let page = Page::new(diff(&same, "--format html").stdout);
    assert!(page.section("top").contains("They are the same plan."));

    let json = diff(&a2v, "--json").json();
    assert_eq!(json["same"], false);
    for list in ["about", "numbers", "kernels", "modules", "rules", "weights", "ports"] {
        let pairs = json[list].as_array().expect("a list");
        assert!(!pairs.is_empty(), "{list}");
        assert!(pairs.iter().all(|p| p["this"] != p["other"]), "{list} has what is equal");
    }
    let find = |list: &str, name: &str| {
        let pairs = json[list].as_array().expect("a list");
        pairs.iter().find(|p| p["name"] == name).cloned().unwrap_or_else(|| panic!("no {name} in {list}"))
    };
    assert_eq!((&find("about", "task")["this"], &find("about", "task")["other"]), (&"joint".into(), &"a2v".into()));
    assert_eq!(find("about", "dtype")["other"], "bf16");
    // The other plan's numbers are those of its own explanation.
    let other = ccl("explain --json").with("--plan", &a2v).ok().json();
    assert_eq!(find("numbers", "step work")["other"], other["flops"]["step"]);
    assert_eq!(find("numbers", "memory")["other"], other["peak_bytes"]);
    assert_eq!(find("ports", "output guided.audio")["other"], serde_json::Value::Null);
    let head = find("weights", "audio.head.head.weight");
    assert!(head["this"].is_string() && head["other"].is_null(), "{head}");

    let text = diff(&a2v, "").stdout;
    for word in ["task", "joint", "a2v", "step work", "memory", "audio.head.head.weight", "step linear", "rules"] {
        assert!(text.contains(word), "no `{word}` in\n{text}");
    }
    let page = Page::new(diff(&a2v, "--format html").stdout);
    page.is_well_formed();
    page.loads_nothing();
    for (section, word) in
        [("for", "a2v"), ("numbers", "step work"), ("weights", "gone"), ("ports", "guided.<wbr>audio")]
    {
        assert!(page.section(section).contains(word), "no `{word}` in {section}");
    }
}

#[test]
fn a_trace_gives_measured_times() {
    let dir = temp_dir();
    let trace = dir.path().join("step.json");
    let words = "--task joint --guidance two-pass --clip 5x8x8@29";
    let bench = ccl("bench step --backend cpu --steps 1 --repeat 1").words(words).with("--model", tiny());
    bench.with("--trace", &trace).ok();
    let explain =
        |words: &str| ccl("explain --format html").words(words).with("--model", tiny()).with("--trace", &trace);
    let page = Page::new(explain(words).ok().stdout);
    page.is_well_formed();
    assert!(page.section("kernels").contains("Measured") && page.section("top").contains("measured"));
    assert!(
        !Page::new(ccl("explain --format html").words(words).with("--model", tiny()).ok().stdout)
            .section("kernels")
            .contains("Measured</th>")
    );

    let name = trace.to_string_lossy().into_owned();
    let other = words.replace("two-pass", "none");
    explain(&other).run().fails(1, &[&name, "guidance two-pass", "none"]);
    explain(&words.replace("@29", "@30")).run().fails(1, &[&name, "clip"]);
    let text = fs::read_to_string(&trace).expect("a trace");
    fs::write(&trace, text.replace("\"linear\"", "\"fused\"")).expect("a file");
    explain(words).run().fails(1, &[&name, "trace it again"]);
    fs::write(&trace, &text[..text.len() / 2]).expect("a file");
    explain(words).run().fails(1, &[&name, "is no trace", "bench step --trace"]);
    fs::remove_file(&trace).expect("a file");
    explain(words).run().fails(1, &[&name, "cannot read"]);
}

#[test]
fn wrong_uses_say_what_is_right() {
    let dir = temp_dir();
    let plan = dir.path().join("p.cclp");
    compile("--task t2a", &plan);
    let explain = |words: &str| ccl("explain").with("--plan", &plan).words(words);
    explain("--trace x.json").run().fails(2, &["--trace", "--format html"]);
    explain("--format dot").with("--diff", &plan).run().fails(2, &["--diff", "text, json or html"]);
    explain("--events").with("--diff", &plan).run().fails(2, &["--events", "--diff"]);
    let missing = dir.path().join("none.cclp");
    explain("").with("--diff", &missing).run().fails(1, &["none.cclp"]);
    let junk = dir.path().join("junk.cclp");
    fs::write(&junk, "junk").expect("a file");
    explain("").with("--diff", &junk).run().fails(1, &["junk.cclp", "no plan"]);
    let out = dir.path().join("no/such/trace.json");
    let bench = ccl("bench step --task t2a --clip 5x8x8@29 --backend cpu").with("--model", tiny());
    bench.with("--trace", &out).run().fails(1, &["no/such"]);
}

/// In a real browser: no word on the console, the script ran, nothing sticks out sideways, both schemes, phone and big screen.
#[test]
fn a_browser_shows_the_pages() {
    let Some(browser) = browser() else { return forget_no_browser() };
    let dir = temp_dir();
    let plans = ["joint", "a2v"].map(|task| {
        let file = dir.path().join(format!("{task}.cclp"));
        compile(&format!("--task {task} --guidance two-pass"), &file);
        file
    });
    let diff = ccl("explain --format html").with("--plan", &plans[0]).with("--diff", &plans[1]).ok().stdout;
    let pages = [
        (large("--task joint --guidance two-pass", dir.path()).text, true, 390, 844, "light"),
        (small("--task joint --guidance two-pass").text, true, 1600, 1000, "dark"),
        (diff, false, 390, 844, "dark"),
    ];
    for (page, plan, width, height, scheme) in pages {
        let seen = browser.show(&page, width, height, scheme, dir.path());
        let what = format!("{width}x{height} {scheme}");
        assert_eq!(seen.console, Vec::<String>::new(), "{what}");
        assert_eq!(seen.probe("scheme"), scheme, "{what}");
        assert_eq!(seen.number("width"), width, "{what}");
        let overflow = seen.number("overflow");
        assert!(overflow <= 0, "{what}: the page is {overflow} pixels too wide");
        assert!(seen.number("tall") > 2 * height, "{what}: nothing is there");
        assert_eq!(seen.number("collapsed"), 0, "{what}: drawings without a size");
        // The script: a tap on a buffer says what it is, a filter that fits nothing leaves nothing.
        assert_eq!(seen.number("hidden"), 0, "{what}: the script did not show the filters");
        assert_eq!(seen.number("filtered"), 0, "{what}: rules that the filter left");
        assert_eq!(seen.probe("tip"), if plan { "shown" } else { "none" }, "{what}");
    }
}
