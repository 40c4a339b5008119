//! The 14B model at the paper's clip: what plans cost.

use std::collections::BTreeSet;

use crate::common::{plan, wan14b};
use ccl_ir::plan::Place;
use ccl_ir::{Binding, Op};
use ccl_model::{Guidance, Task};
use ccl_passes::Options;

const CLIP: &str = "21x44x80@158";

fn tflop(n: u64) -> f64 {
    n as f64 / 1e12
}

#[test]
fn flops_of_one_pass_are_the_papers() {
    let expected =
        [(Task::Joint, 833.8), (Task::A2v, 810.5), (Task::V2a, 833.3), (Task::T2v, 809.1), (Task::T2a, 0.86)];
    for (task, want) in expected {
        let plan = plan(&wan14b(), task, Guidance::None, CLIP, &Options::default());
        let got = tflop(plan.report.flops_before["step"]);
        println!("{task}: {got:.3} TFLOP before, step {:.3}", tflop(plan.report.flops["step"]));
        assert!((got - want).abs() / want < 0.015, "{task}: {got} TFLOP, expected {want}");
    }
}

#[test]
fn a_reference_video_stream_leaves_the_step() {
    let plan = plan(&wan14b(), Task::V2a, Guidance::TwoPass, CLIP, &Options::default());
    assert!(tflop(plan.report.flops["step"]) < 20.0, "{}", tflop(plan.report.flops["step"]));
    // One pass of the video stream, less what the algebra saves.
    assert!(tflop(plan.report.flops["prologue"]) > 750.0);
}

#[test]
fn every_task_and_guidance_plans_within_the_memory_bound() {
    for task in Task::ALL {
        for guidance in Guidance::ALL {
            let begin = std::time::Instant::now();
            let plan = plan(&wan14b(), task, guidance, CLIP, &Options::default());
            let (peak, bound) = (plan.report.peak_bytes, plan.report.live_lower_bound_bytes);
            println!(
                "{task} {guidance}: {:.2} s, step {:.1} TFLOP, peak {:.2} GB, bound {:.2} GB, scratch {:.3} of {:.3} GB, weights {:.1} GB, {} calls, {} events",
                begin.elapsed().as_secs_f64(),
                tflop(plan.report.flops["step"]),
                peak as f64 / 1e9,
                bound as f64 / 1e9,
                plan.scratch_bytes as f64 / 1e9,
                plan.live_scratch_lower_bound() as f64 / 1e9,
                plan.report.weight_bytes as f64 / 1e9,
                plan.entries.values().map(Vec::len).sum::<usize>(),
                plan.report.events.len()
            );
            assert!(peak as f64 <= 1.25 * bound as f64, "{task} {guidance}: {peak} bytes, bound {bound}");
            assert!(
                plan.scratch_bytes as f64 <= 1.25 * plan.live_scratch_lower_bound() as f64,
                "{task} {guidance}: scratch {} bytes, bound {}",
                plan.scratch_bytes,
                plan.live_scratch_lower_bound()
            );
            // Weights may be put side by side once.
            let running = plan.entries.iter().filter(|(b, _)| **b != Binding::Load).flat_map(|(_, calls)| calls);
            let gathers = running.filter(|c| matches!(c.op, Op::WindowGather(_) | Op::Concat(_)));
            assert_eq!(gathers.count(), 0, "{task} {guidance}: keys are copied");
        }
    }
}

/// What depends on the noise levels alone is computed once for the whole schedule: every call of a step reads the noisy latents, or is the
/// choice of a row.
#[test]
fn the_schedule_leaves_nothing_to_the_step_but_the_choice_of_its_row() {
    for (task, guidance) in
        [(Task::Joint, Guidance::TwoPass), (Task::V2a, Guidance::None), (Task::T2av, Guidance::ThreePass)]
    {
        let plan = plan(&wan14b(), task, guidance, CLIP, &Options::default());
        let buffer = |place| match place {
            Place::Buffer(b) => Some(b),
            Place::Weight(_) => None,
        };
        let noisy = plan.inputs.iter().filter(|p| p.binding == Binding::Step && p.name != "step");
        let mut noisy: BTreeSet<u32> = noisy.filter_map(|p| buffer(p.operand.place)).collect();
        assert!(!noisy.is_empty());
        let mut rows = 0;
        for call in plan.calls(Binding::Step) {
            let outputs = call.outputs.iter().filter_map(|o| buffer(o.place));
            if call.inputs.iter().filter_map(|o| buffer(o.place)).any(|b| noisy.contains(&b)) {
                noisy.extend(outputs);
                continue;
            }
            outputs.for_each(|b| {
                noisy.remove(&b);
            });
            assert_eq!(call.work().flops, 0, "{task} {guidance}: {} at {}", call.op.name(), call.at);
            rows += 1;
        }
        // Of each stream: a row for the blocks and one for the head, each with the weights that it is added to.
        assert_eq!(rows, 4 * if task == Task::V2a { 1 } else { 2 }, "{task} {guidance}");
    }
}
