//! The time line of the passes agrees with the plan, and every rule has its law.

use crate::common::{about, plan, small, wan14b};
use ccl_ir::DType;
use ccl_model::{Guidance, Spec, Task, answers, build};
use ccl_passes::{Options, compile, law};

const STEP: &str = "step";

#[test]
fn the_time_line_ends_at_the_plan() {
    let gpu = Options { half_activations: true, parallelism: 64, ..Options::default() };
    for (config, clip) in [(small(""), "3x4x4@7"), (small(r#", "layers": 3"#), "2x4x4@9")] {
        for task in Task::ALL {
            for guidance in Guidance::ALL {
                for options in [Options::default(), gpu.clone()] {
                    let plan = plan(&config, task, guidance, clip, &options);
                    let r = &plan.report;
                    let what = format!("{task} {guidance}");
                    let (first, last) = (&r.stages[0], r.stages.last().unwrap());
                    assert_eq!((first.pass.as_str(), last.pass.as_str()), ("build", "lower"), "{what}");
                    assert_eq!((&last.flops, &last.bytes), (&r.flops, &r.bytes), "{what}");
                    assert_eq!((last.peak_bytes, last.weight_bytes), (r.peak_bytes, r.weight_bytes), "{what}");
                    assert_eq!(last.nodes, plan.entries.values().map(Vec::len).sum::<usize>(), "{what}");
                    // What the passes claim to start from is the stage after the first dead code went.
                    let needed = r.stages.iter().find(|s| s.pass == "dead").unwrap();
                    assert_eq!(needed.flops, r.flops_before, "{what}");
                    // The estimate before lowering is near what lowering found: it lacks overwriting, and alignment.
                    let estimate = r.stages[r.stages.len() - 2].peak_bytes as f64;
                    let ratio = r.peak_bytes as f64 / estimate;
                    assert!((0.5..1.5).contains(&ratio), "{what}: {} bytes, {estimate} estimated", r.peak_bytes);
                    // Events belong to stages in order.
                    assert!(r.stages.windows(2).all(|s| s[0].events <= s[1].events), "{what}");
                    assert_eq!(last.events, r.events.len(), "{what}");
                    for s in r.stages.windows(2) {
                        let here = &r.events[s[0].events..s[1].events];
                        let own = |pass: &str| {
                            pass == s[1].pass || (s[1].pass == "lower" && ["bind", "schedule"].contains(&pass))
                        };
                        assert!(here.iter().all(|e| own(&e.pass)), "{what}: an event of another pass in {}", s[1].pass);
                    }
                }
            }
        }
    }
}

#[test]
fn modules_add_up_to_the_program() {
    for task in Task::ALL {
        let plan = plan(&small(""), task, Guidance::TwoPass, "3x4x4@7", &Options::default());
        let r = &plan.report;
        assert_eq!(r.modules.iter().map(|m| m.built.nodes).sum::<usize>(), r.stages[0].nodes, "{task}");
        assert_eq!(r.modules.iter().map(|m| m.built.flops).sum::<u64>(), r.stages[0].flops[STEP], "{task}");
        assert_eq!(r.modules.iter().map(|m| m.specialised.flops).sum::<u64>(), r.flops_before[STEP], "{task}");
        assert!(r.modules.iter().all(|m| m.operators.values().sum::<usize>() == m.built.nodes), "{task}");
        // Both streams are built whatever the task; what it does not need is not there after specialisation.
        let blocks = |stream: &str| {
            let path = format!("cond/{stream}.blocks.0.");
            r.modules.iter().filter(move |m| m.at.starts_with(&path)).collect::<Vec<_>>()
        };
        assert!(!blocks("video").is_empty() && !blocks("audio").is_empty(), "{task}");
        let pruned = |stream: &str| blocks(stream).iter().all(|m| m.specialised.nodes == 0);
        assert_eq!((pruned("video"), pruned("audio")), (task == Task::T2a, task == Task::T2v), "{task}");
    }
}

/// Hoisting is what moves work out of the step.
#[test]
fn hoisting_is_seen_where_it_happens() {
    let plan = plan(&wan14b(), Task::V2a, Guidance::TwoPass, "21x44x80@158", &Options::default());
    let stages = &plan.report.stages;
    let at = stages.iter().position(|s| s.pass == "hoist").unwrap();
    let (before, after) = (&stages[at - 1], &stages[at]);
    assert!(before.flops["prologue"] == 0 && after.flops["prologue"] > 700_000_000_000_000);
    assert!(after.flops[STEP] < before.flops[STEP] / 100);
    assert!(after.peak_bytes > before.peak_bytes, "what is kept takes memory");
}

#[test]
fn every_rule_that_applies_has_its_law() {
    let half = Options { half_activations: true, parallelism: 512, ..Options::default() };
    for task in Task::ALL {
        for guidance in Guidance::ALL {
            for options in [Options::default(), half.clone()] {
                let mut spec = Spec::new(task, "3x4x4@7".parse().unwrap(), guidance);
                spec.weight_dtype = if options.half_activations { DType::Bf16 } else { DType::F32 };
                let graph = build(&small(""), &spec).unwrap();
                let plan = compile(&graph, &answers(task, guidance), about(), &options).unwrap();
                for e in plan.report.events.iter().filter(|e| e.applied) {
                    assert!(law(&e.pass, &e.rule).is_some(), "{}: {} has no law in passes/src/law.rs", e.pass, e.rule);
                }
            }
        }
    }
    assert_eq!(law("raise", "no such rule"), None);
}
