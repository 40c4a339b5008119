//! Equality saturation on small models: every rule on, paying or not, against the interpreter.

use crate::common::{plan, small};
use ccl_model::{Guidance, Task};
use ccl_passes::algebra::{Choose, Class, Settings};
use ccl_passes::{DeviceSpec, Options};

fn settings(choose: Choose) -> Settings {
    Settings { choose, keep_share: 10.0, ..Settings::new(DeviceSpec::for_target("cpu")) }
}

#[test]
fn no_rewrite_that_can_be_made_changes_a_result() {
    for (choose, extra) in [
        (Choose::Always, ""),
        (Choose::Cheapest, ""),
        (Choose::Always, r#", "window_center": "proportional", "window_edge": "shift""#),
        (Choose::Always, r#", "window_edge": "replicate""#),
    ] {
        let algebra = Some(settings(choose));
        let options = Options { validate: true, schedule_rows: 4, algebra, ..Options::default() };
        for task in Task::ALL {
            let plan = plan(&small(extra), task, Guidance::TwoPass, "3x4x4@13", &options);
            let applied = |rule: &str| plan.report.events.iter().any(|e| e.rule == rule && e.applied);
            if choose == Choose::Always {
                assert!(applied("absorb output"), "{task}");
            }
        }
    }
}

#[test]
fn one_class_of_rules_does_what_it_may() {
    for class in [Class::Exact, Class::Reassociating] {
        let mut settings = settings(Choose::Always);
        settings.rules.retain(|r| r.class == class);
        let options = Options { validate: true, schedule_rows: 4, algebra: Some(settings), ..Options::default() };
        plan(&small(""), Task::Joint, Guidance::ThreePass, "3x4x4@13", &options);
    }
}

#[test]
fn projecting_after_attention_changes_no_result() {
    // Where an output is absorbed, its attention has no values left to project.
    let algebra = Some(settings(Choose::Always).without("absorb output"));
    let options = Options { validate: true, schedule_rows: 4, algebra, ..Options::default() };
    for task in [Task::V2a, Task::A2v, Task::Joint] {
        let plan = plan(&small(""), task, Guidance::TwoPass, "3x4x4@13", &options);
        assert!(plan.report.events.iter().any(|e| e.rule == "project after attention" && e.applied), "{task}");
    }
}
