//! Plans of training: gradients where they belong and nowhere else, and updates in place.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{about, small};
use ccl_ir::plan::{Place, Region};
use ccl_ir::{Binding, DType, Graph, Op, Plan, TensorType};
use ccl_model::{Config, Guidance, Spec, Task, answers, build_loss, tensors};
use ccl_passes::differentiate::GRADIENT;
use ccl_passes::{Optimiser, Options, Training, compile};

fn loss(config: &Config, task: Task, tokens: usize) -> Graph {
    let mut spec = Spec::new(task, "3x4x4@13".parse().unwrap(), Guidance::None);
    (spec.text_tokens, spec.batch) = (tokens, 2);
    build_loss(config, &spec).unwrap()
}

fn plan(config: &Config, task: Task, options: &Options) -> Plan {
    let options = Options { schedule_rows: 0, ..options.clone() };
    compile(&loss(config, task, 5), &answers(task, Guidance::None), about(), &options).unwrap()
}

fn optimiser(config: &Config, accumulate: bool) -> Optimiser {
    let parameters = tensors(config).into_iter().map(|t| {
        let group = usize::from(t.name.contains(".cca."));
        (t.name, (TensorType::f32(t.shape), group))
    });
    Optimiser {
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        decays: vec![0.01, 0.0],
        parameters: parameters.collect(),
        average: true,
        accumulate,
    }
}

fn gradients(plan: &Plan) -> BTreeSet<&str> {
    plan.outputs.iter().filter_map(|o| o.name.strip_prefix(GRADIENT)).collect()
}

#[test]
fn no_pass_changes_a_loss_or_a_gradient() {
    for extra in ["", r#", "window_center": "proportional", "window_edge": "shift""#, r#", "window_edge": "replicate""#]
    {
        let config = small(extra);
        for task in Task::ALL.into_iter().filter(|t| extra.is_empty() || *t == Task::Joint) {
            let options = Options { training: Some(Training::default()), validate: true, ..Options::default() };
            plan(&config, task, &options);
        }
    }
}

#[test]
fn raised_and_plain_forms_have_the_same_gradients() {
    let config = small("");
    for task in [Task::Joint, Task::A2v, Task::V2a, Task::T2av] {
        let of = |raise| {
            let options = Options { training: Some(Training::default()), raise, ..Options::default() };
            plan(&config, task, &options)
        };
        assert_eq!(gradients(&of(true)), gradients(&of(false)), "{task}");
    }
}

#[test]
fn a_reference_stream_has_no_backward_pass() {
    let config = small("");
    for (task, reference) in [(Task::A2v, "audio"), (Task::V2a, "video")] {
        let options = Options { training: Some(Training::default()), ..Options::default() };
        let plan = plan(&config, task, &options);
        let own = format!("{reference}.");
        let strays: Vec<_> = gradients(&plan).into_iter().filter(|n| n.starts_with(&own)).collect();
        assert!(strays.is_empty(), "{task}: {strays:?}");
        let backward = format!("grad/cond/{reference}.");
        let calls: Vec<_> = plan.calls(Binding::Step).iter().filter(|c| c.at.starts_with(&backward)).collect();
        assert!(calls.is_empty(), "{task}: {} calls such as {:?}", calls.len(), calls[0].at);
        // The keys' own weights do learn.
        let other = if reference == "audio" { "video" } else { "audio" };
        assert!(gradients(&plan).contains(format!("{other}.blocks.0.cca.k.weight").as_str()));
    }
}

#[test]
fn attention_is_recomputed_not_kept() {
    let options = Options { training: Some(Training::default()), ..Options::default() };
    let plan = plan(&small(""), Task::Joint, &options);
    let count = |f: &dyn Fn(&Op) -> bool| plan.calls(Binding::Step).iter().filter(|c| f(&c.op)).count();
    // Self and text attention of both streams, and both directions of the CCA, in each of two blocks.
    assert_eq!(count(&|op| matches!(op, Op::AttentionGrad(_))), 8);
    assert_eq!(count(&|op| matches!(op, Op::PartitionedContextAttentionGrad(_))), 4);
    assert_eq!(count(&|op| matches!(op, Op::WindowGather(_) | Op::WindowScatter(_) | Op::Softmax(_))), 0);
}

#[test]
fn updates_are_in_place_and_share_one_layout() {
    let config = small("");
    for accumulate in [false, true] {
        let optimiser = optimiser(&config, accumulate);
        let mut table: Vec<(String, TensorType)> =
            optimiser.parameters.iter().map(|(name, (ty, _))| (name.clone(), ty.clone())).collect();
        table.extend(optimiser.states());
        let training = Training { optimiser: Some(optimiser), ..Training::default() };
        let options =
            Options { training: Some(training), states: table.clone(), validate: !accumulate, ..Options::default() };
        let mut offsets: BTreeMap<String, u64> = BTreeMap::new();
        for task in [Task::Joint, Task::A2v, Task::V2a, Task::T2av] {
            let plan = plan(&config, task, &options);
            assert!(gradients(&plan).is_empty());
            assert!(plan.output("grad_norm_squared").is_some() && plan.output("loss").is_some());
            for s in &plan.states {
                let offset = plan.buffers[s.buffer as usize].offset;
                assert_eq!(*offsets.entry(s.name.clone()).or_insert(offset), offset, "{task}: {}", s.name);
            }
            let adam = plan.calls(Binding::Epilogue).iter().filter(|c| matches!(c.op, Op::AdamW(_)));
            for call in adam {
                for (o, output) in call.outputs.iter().enumerate() {
                    let input = &call.inputs[call.op.updates(o).expect("an update")];
                    let at = |place| match place {
                        Place::Buffer(b) => &plan.buffers[b as usize],
                        Place::Weight(_) => panic!("{}: a weight", call.at),
                    };
                    let (from, to) = (at(input.place), at(output.place));
                    assert_eq!((from.region, from.offset), (Region::State, to.offset), "{}", call.at);
                }
            }
        }
        // Between them the tasks read every state: nothing is kept in vain.
        assert_eq!(offsets.len(), table.len());
    }
}

/// A parameter, its moments and its average go through one call, and the steps of all are counted by one more. What has no gradient is averaged alone.
#[test]
fn an_update_is_one_call_for_each_parameter() {
    let config = small("");
    for (task, alone) in [(Task::Joint, false), (Task::T2av, true), (Task::A2v, true)] {
        for average in [true, false] {
            let optimiser = Optimiser { average, ..optimiser(&config, true) };
            let trained = optimiser.parameters.len();
            let training = Training { optimiser: Some(optimiser), ..Training::default() };
            let plan = plan(&config, task, &Options { training: Some(training), ..Options::default() });
            let calls = plan.calls(Binding::Epilogue);
            let of = |mark: &str| calls.iter().filter(|c| c.at.starts_with(mark)).collect::<Vec<_>>();
            let steps = calls.iter().filter(|c| matches!(c.op, Op::AdamW(_))).count();
            let (counting, averaged) = (of("adam/count"), of("ema/"));
            println!("{task}: {} calls: {steps} steps, {} averages alone", calls.len(), averaged.len());
            assert_eq!(counting.len(), 1, "{task}");
            assert_eq!(counting[0].outputs[0].ty, TensorType::f32([trained]));
            assert_eq!(calls.len(), steps + averaged.len() + 1, "{task}: nothing else is left");
            assert_eq!(averaged.len(), if average { trained - steps } else { 0 }, "{task}");
            assert_eq!(steps < trained, alone, "{task}");
            for call in calls.iter().filter(|c| matches!(c.op, Op::AdamW(_))) {
                assert_eq!(call.outputs.len(), if average { 4 } else { 3 }, "{}", call.at);
                let bytes: u64 = call.inputs.iter().chain(&call.outputs).map(|o| o.ty.bytes()).sum();
                assert_eq!(call.work().bytes, bytes, "{}", call.at);
            }
        }
    }
}

/// Products read half precision, and whatever becomes a gradient, a moment or the loss is single precision.
#[test]
fn mixed_precision_keeps_master_weights_and_gradients_in_single_precision() {
    let config = small("");
    let optimiser = optimiser(&config, true);
    let training = Training { optimiser: Some(optimiser), half: Some(DType::Bf16), ..Training::default() };
    for task in [Task::Joint, Task::A2v] {
        let plan = plan(&config, task, &Options { training: Some(training.clone()), ..Options::default() });
        assert!(plan.states.iter().all(|s| s.ty.dtype == DType::F32));
        assert!(plan.outputs.iter().all(|o| o.operand.ty.dtype == DType::F32));
        let calls: Vec<_> = Binding::ALL.iter().flat_map(|&b| plan.calls(b)).collect();
        let mut products = 0;
        for call in &calls {
            let types: Vec<DType> = call.inputs.iter().map(|i| i.ty.dtype).collect();
            match &call.op {
                Op::AdamW(_) => assert!(types.iter().all(|t| *t == DType::F32), "{}", call.at),
                Op::MatMul(_) => {
                    assert_eq!(types, [DType::Bf16; 2], "{}", call.at);
                    products += 1;
                }
                Op::Linear(_) if !call.at.contains(".time_") => {
                    assert_eq!(types[..2], [DType::Bf16; 2], "{}", call.at);
                    products += 1;
                }
                _ => {}
            }
        }
        assert!(products > 60, "{products}");
        // A matrix is copied once, though the forward and the backward pass read it.
        let copied: Vec<_> = calls
            .iter()
            .filter(|c| matches!(c.op, Op::Cast(_)))
            .filter_map(|c| match c.inputs[0].place {
                Place::Buffer(b) if plan.buffers[b as usize].region == Region::State => Some((b, c.inputs[0].offset)),
                _ => None,
            })
            .collect();
        assert_eq!(copied.len(), copied.iter().collect::<BTreeSet<_>>().len());
        assert!(copied.len() > 30, "{}", copied.len());
    }
}

#[test]
fn only_what_is_trained_gets_a_gradient() {
    let config = small("");
    let only: BTreeSet<String> =
        tensors(&config).into_iter().map(|t| t.name).filter(|n| n.starts_with("video.head.")).collect();
    let whole = plan(&config, Task::Joint, &Options { training: Some(Training::default()), ..Options::default() });
    let training = Training { only: Some(only.clone()), ..Training::default() };
    let part = plan(&config, Task::Joint, &Options { training: Some(training), ..Options::default() });
    assert_eq!(gradients(&part), only.iter().map(String::as_str).collect());
    // The forward pass, and next to nothing of the backward pass.
    assert!(part.report.flops["step"] < whole.report.flops["step"] / 2);
}

#[test]
fn rematerialised_blocks_take_less_memory_and_change_nothing() {
    let config = small("");
    let of = |rematerialise, validate| {
        let training = Training { rematerialise, ..Training::default() };
        plan(&config, Task::Joint, &Options { training: Some(training), validate, ..Options::default() })
    };
    let plans = [of(0, false), of(1, true), of(2, true)];
    for pair in plans.windows(2) {
        assert!(pair[1].report.flops["step"] > pair[0].report.flops["step"]);
        assert_eq!(gradients(&pair[0]), gradients(&pair[1]));
    }
    assert!(plans[1].scratch_bytes < plans[0].scratch_bytes, "{} {}", plans[1].scratch_bytes, plans[0].scratch_bytes);
    let events = plans[2].report.events.iter().filter(|e| e.pass == "rematerialise");
    assert_eq!(events.map(|e| e.at.as_str()).collect::<BTreeSet<_>>(), BTreeSet::from(["blocks.0", "blocks.1"]));
}
