//! What plans for GPUs have beyond those for the CPU: half precision activations and keys dealt out.

use crate::common::{about, small, wan14b};
use ccl_ir::plan::{Call, Plan};
use ccl_ir::{DType, Event, Op};
use ccl_model::{Config, Guidance, Spec, Task, answers, build};
use ccl_passes::{Options, compile};

/// A clip whose frames have enough tokens for the small model's keys to be worth dealing out.
const WIDE: &str = "2x16x32@9";
const PAPER: &str = "21x44x80@158";

fn plan(config: &Config, task: Task, guidance: Guidance, clip: &str, dtype: DType, options: &Options) -> Plan {
    let mut spec = Spec::new(task, clip.parse().unwrap(), guidance);
    spec.counted = true;
    spec.weight_dtype = dtype;
    if options.validate {
        spec.text_tokens = 7;
    }
    compile(&build(config, &spec).unwrap(), &answers(task, guidance), about(), options).unwrap()
}

fn calls(plan: &Plan) -> impl Iterator<Item = &Call> {
    plan.entries.values().flatten()
}

/// Events of the `split` pass at modules of one stream.
fn splits<'a>(plan: &'a Plan, stream: &str) -> Vec<&'a Event> {
    let part = format!("/{stream}.");
    plan.report.events.iter().filter(|e| e.pass == "split" && e.at.contains(&part)).collect()
}

/// In how many parts each context attention deals its keys out.
fn dealt(plan: &Plan) -> Vec<usize> {
    calls(plan)
        .filter_map(|c| match &c.op {
            Op::PartitionedContextAttention(p) => Some(p.splits),
            _ => None,
        })
        .collect()
}

#[test]
fn dealing_keys_out_changes_no_result() {
    let options = Options { validate: true, schedule_rows: 4, parallelism: 64, ..Options::default() };
    for task in Task::ALL {
        let plan = plan(&small(""), task, Guidance::None, WIDE, DType::F32, &options);
        let merged = calls(&plan).filter(|c| matches!(c.op, Op::MergeAttention(_))).count();
        let split = dealt(&plan).iter().filter(|&&n| n > 1).count();
        assert_eq!(merged, split, "{task}");
        // The audio stream looks at whole frames.
        let looks = matches!(task, Task::V2a | Task::Joint);
        assert_eq!(split > 0, looks, "{task}: {:?}", dealt(&plan));
    }
}

#[test]
fn half_precision_activations_change_no_result_but_by_rounding() {
    for parallelism in [0, 64] {
        let options =
            Options { validate: true, schedule_rows: 4, half_activations: true, parallelism, ..Options::default() };
        for task in Task::ALL {
            for guidance in Guidance::ALL {
                let clip = if parallelism == 0 { "3x4x4@13" } else { WIDE };
                if parallelism > 0 && guidance != Guidance::None {
                    continue;
                }
                // The interpreter does not round, so that it sees a wrong rewrite and nothing else.
                plan(&small(""), task, guidance, clip, DType::Bf16, &options);
            }
        }
    }
}

#[test]
fn half_precision_stops_where_it_would_hurt() {
    for dtype in [DType::Bf16, DType::F16] {
        let options = Options { half_activations: true, ..Options::default() };
        let plan = plan(&small(""), Task::Joint, Guidance::TwoPass, "3x4x4@13", dtype, &options);
        for port in plan.inputs.iter().chain(&plan.outputs) {
            assert!(!matches!(port.operand.ty.dtype, DType::Bf16 | DType::F16), "{}: {}", port.name, port.operand.ty);
        }
        let mut half = 0;
        for call in calls(&plan) {
            let out = call.outputs[0].ty.dtype;
            match &call.op {
                Op::Linear(_) if call.at.contains("time_") => assert_eq!(out, DType::F32, "{}", call.at),
                Op::Linear(_) if call.at.contains("blocks.") => assert_eq!(out, dtype, "{}", call.at),
                Op::TimeFeatures(_) | Op::RopeTable(_) => assert_eq!(out, DType::F32, "{}", call.at),
                Op::Attention(_) | Op::PartitionedContextAttention(_) => {
                    assert_eq!(out, dtype, "{}", call.at);
                    assert_eq!(call.outputs[1].ty.dtype, DType::F32, "the log-sum-exp at {}", call.at);
                    half += 1;
                }
                _ => {}
            }
        }
        assert!(half > 0);
    }
}

#[test]
fn partial_results_are_single_and_merged_ones_half() {
    let options = Options { half_activations: true, parallelism: 64, ..Options::default() };
    let plan = plan(&small(""), Task::V2a, Guidance::None, WIDE, DType::Bf16, &options);
    let merges: Vec<&Call> = calls(&plan).filter(|c| matches!(c.op, Op::MergeAttention(_))).collect();
    assert!(!merges.is_empty());
    for merge in merges {
        assert!(merge.inputs.iter().all(|o| o.ty.dtype == DType::F32));
        assert_eq!((merge.outputs[0].ty.dtype, merge.outputs[1].ty.dtype), (DType::Bf16, DType::F32));
    }
}

#[test]
fn few_queries_are_split_and_few_keys_are_not() {
    // Without the algebra, which takes this attention apart.
    let options = Options { parallelism: 528, half_activations: true, algebra: None, ..Options::default() };
    let v2a = plan(&wan14b(), Task::V2a, Guidance::TwoPass, PAPER, DType::Bf16, &options);
    let events = splits(&v2a, "audio");
    assert!(!events.is_empty() && events.iter().all(|e| e.applied), "{events:?}");
    assert!(events[0].reason.contains("would leave a parallelism of 528 idle"), "{}", events[0].reason);
    assert!(dealt(&v2a).iter().all(|&n| n > 1), "{:?}", dealt(&v2a));

    let a2v = plan(&wan14b(), Task::A2v, Guidance::TwoPass, PAPER, DType::Bf16, &options);
    let events = splits(&a2v, "video");
    assert!(!events.is_empty() && events.iter().all(|e| !e.applied), "{events:?}");
    assert!(events[0].reason.contains("are enough for a parallelism of 528"), "{}", events[0].reason);
    assert!(dealt(&a2v).iter().all(|&n| n == 1));

    // On a device so wide that even the video's queries do not fill it there are too few keys in a window.
    let options = Options { parallelism: 1 << 20, ..options };
    let a2v = plan(&wan14b(), Task::A2v, Guidance::None, PAPER, DType::Bf16, &options);
    let events = splits(&a2v, "video");
    assert!(!events.is_empty() && events.iter().all(|e| !e.applied), "{events:?}");
    assert!(events[0].reason.contains("are too few to deal out"), "{}", events[0].reason);
}

#[test]
fn context_attention_moves_queries_results_keys_and_values_once() {
    let options = Options { parallelism: 528, half_activations: true, algebra: None, ..Options::default() };
    let plan = plan(&wan14b(), Task::Joint, Guidance::None, PAPER, DType::Bf16, &options);
    // Merging belongs to the attention that was split.
    let part = |c: &&Call| matches!(c.op, Op::PartitionedContextAttention(_) | Op::MergeAttention(_));
    let layer = calls(&plan).filter(part).filter(|c| c.at.contains("blocks.7."));
    let (count, bytes) = layer.fold((0, 0), |(n, sum), c| (n + 1, sum + c.work().bytes));
    println!("{count} calls, {:.1} MB", bytes as f64 / 1e6);
    assert!(count >= 2 && bytes < 520_000_000, "{count} calls move {bytes} bytes in a layer");
}
