//! `ccl explain`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use ccl::error::Error;
use ccl::model_dir::ModelDir;
use ccl::planning::{add_kernels, target};
use ccl_codegen::gpu::Target;
use ccl_ir::plan::{Call, Place};
use ccl_ir::{Binding, Event, Plan};
use ccl_runtime::device::human_bytes;
use ccl_runtime::planfile;
use clap::ValueEnum;

use super::args::{ClipArgs, SourceArgs, SpecArgs};
use super::prepare::{agree, compile, request, required_task, warn_drift};
use super::report::{kernels, report};

/// Options of `ccl explain`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    clip: ClipArgs,
    /// What to plan for: cpu, wgpu, cuda, or an NVIDIA architecture such as cuda:sm_90a
    #[arg(long, default_value = "cpu")]
    target: String,
    /// text for people, json for programs, dot for graphviz
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// List every event, not one line per rule
    #[arg(long)]
    events: bool,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "F")]
    output: Option<PathBuf>,
}

/// Forms of the explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// The calls and what flows between them, for graphviz.
    Dot,
}

/// Explains a plan.
///
/// # Errors
/// When the model, the plan or an option is wrong.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    let gpu = target(&args.target)?;
    let plan = match (&args.source.plan, &args.source.model) {
        (Some(file), None) => {
            let plan = planfile::load(file)?;
            agree(&plan, file, &args.spec, &args.clip)?;
            plan
        }
        (None, Some(model)) => from_model(args, gpu, model)?,
        _ => return Err(Error::Usage("explain takes either --model DIR or --plan F.cclp".into())),
    };
    let text = match args.format {
        _ if json => as_json(&plan)?,
        Format::Json => as_json(&plan)?,
        Format::Text => as_text(&plan, args.events),
        Format::Dot => as_dot(&plan),
    };
    match &args.output {
        Some(path) => Ok(ccl_runtime::write::write_atomic(path, text.as_bytes())?),
        None => super::print_line(text.trim_end()),
    }
}

fn from_model(args: &Args, gpu: Option<Target>, dir: &std::path::Path) -> Result<Plan, Error> {
    let model = ModelDir::open(dir)?;
    let task = required_task(&args.spec)?;
    let clip = args.clip.clip.ok_or_else(|| Error::Usage("say the clip: --clip TxHxW@L".into()))?;
    warn_drift(&model.config, task, &clip);
    let mut request = request(&model.config, &args.spec, task, clip, args.clip.batch.unwrap_or(1));
    if args.spec.dtype.is_none() && model.has_weights() {
        request.dtype = model.stored_dtype(&model.files()?)?;
    }
    request.gpu = gpu;
    let mut plan = compile(&model.config, &request)?;
    add_kernels(&mut plan, &request)?;
    Ok(plan)
}

fn as_json(plan: &Plan) -> Result<String, Error> {
    serde_json::to_string_pretty(&report(plan)).map_err(|e| Error::Failed(format!("JSON: {e}")))
}

/// FLOPs for people: `12.3 GFLOP`.
pub fn human_flops(flops: u64) -> String {
    let (value, unit) = match flops {
        n if n >= 1_000_000_000_000 => (n as f64 / 1e12, "TFLOP"),
        n if n >= 1_000_000_000 => (n as f64 / 1e9, "GFLOP"),
        n => (n as f64 / 1e6, "MFLOP"),
    };
    format!("{value:.2} {unit}")
}

fn as_text(plan: &Plan, all_events: bool) -> String {
    let mut out = String::new();
    let (about, r) = (&plan.about, &plan.report);
    let _ = writeln!(
        out,
        "{} for clip {}, batch {}, guidance {}, target {}, matrices in {}\n",
        about.task, about.clip, about.batch, about.guidance, about.target, about.dtype
    );
    let _ = writeln!(out, "work                 before        after   bytes moved");
    for b in Binding::ALL {
        let of = |m: &BTreeMap<String, u64>| m.get(b.name()).copied().unwrap_or(0);
        let (before, after, bytes) = (of(&r.flops_before), of(&r.flops), of(&r.bytes));
        if before + after + bytes > 0 {
            let (before, after) = (human_flops(before), human_flops(after));
            let _ = writeln!(out, "  {:<10} {before:>14} {after:>12}  {:>12}", b.name(), human_bytes(bytes));
        }
    }
    let _ = writeln!(out, "  (load: once per model; prologue: once per clip; step: every denoising step)\n");
    let _ = writeln!(
        out,
        "memory     {:>10}   the lower bound of this order is {}",
        human_bytes(r.peak_bytes),
        human_bytes(r.live_lower_bound_bytes)
    );
    let _ = writeln!(out, "  weights  {:>10}   {} tensors", human_bytes(r.weight_bytes), plan.weights.len());
    let _ = writeln!(
        out,
        "  kept     {:>10}   inputs, and values kept from one entry to the next",
        human_bytes(plan.persistent_bytes)
    );
    let _ = writeln!(out, "  working  {:>10}\n", human_bytes(plan.scratch_bytes));
    let _ = writeln!(out, "kernels                                   calls          work   bytes moved");
    for k in kernels(plan) {
        let (name, flops) = (format!("{} {}", k.entry, k.name), human_flops(k.flops));
        let _ = writeln!(out, "  {name:<38} {:>7}  {flops:>12}  {:>12}", k.count, human_bytes(k.bytes));
    }
    if let Some(carried) = super::compile::carried(plan) {
        let _ = writeln!(out, "  the plan {carried}");
    }
    let _ = writeln!(out, "\nwhat the passes did");
    if all_events {
        for e in &r.events {
            let _ = writeln!(out, "  {}", event_line(e));
        }
    } else {
        summary(&r.events, &mut out);
    }
    out
}

fn signed(delta: i64, human: fn(u64) -> String) -> String {
    match delta {
        0 => String::new(),
        d => format!("{}{}", if d < 0 { "-" } else { "+" }, human(d.unsigned_abs())),
    }
}

fn event_line(e: &Event) -> String {
    let mark = if e.applied { " " } else { "not " };
    let deltas = [signed(e.flops_delta, human_flops), signed(e.bytes_delta, human_bytes)].join(" ");
    format!("{mark}{}: {} at {}: {} {deltas}", e.pass, e.rule, e.at, e.reason).trim_end().to_string()
}

/// One line for each pass and rule, with one place and its reason as an example.
fn summary(events: &[Event], out: &mut String) {
    let mut order: Vec<(&str, &str, bool)> = Vec::new();
    let mut groups: BTreeMap<(&str, &str, bool), Vec<&Event>> = BTreeMap::new();
    for e in events {
        let key = (e.pass.as_str(), e.rule.as_str(), e.applied);
        let group = groups.entry(key).or_default();
        if group.is_empty() {
            order.push(key);
        }
        group.push(e);
    }
    for key in order {
        let group = &groups[&key];
        let (pass, rule, applied) = key;
        let flops = signed(group.iter().map(|e| e.flops_delta).sum(), human_flops);
        let bytes = signed(group.iter().map(|e| e.bytes_delta).sum(), human_bytes);
        let what = if applied { format!("{pass}: {rule}") } else { format!("{pass}: {rule} refused") };
        let _ = writeln!(out, "  {what:<44} {:>5} x  {flops:>14} {bytes:>12}", group.len());
        let first = group[0];
        let _ = writeln!(out, "      e.g. {}: {}", first.at, first.reason);
    }
    let _ = writeln!(out, "  (--events lists every one)");
}

/// The calls as a graph: one cluster per entry, an edge from the call that wrote a buffer to each that reads it.
fn as_dot(plan: &Plan) -> String {
    let mut out = String::from("digraph plan {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    let mut writer: BTreeMap<u32, String> = BTreeMap::new();
    let mut edges = String::new();
    for (i, port) in plan.inputs.iter().enumerate() {
        let _ = writeln!(out, "  in{i} [label=\"{}\\n{}\", shape=ellipse];", port.name, port.operand.ty);
        if let Place::Buffer(b) = port.operand.place {
            writer.insert(b, format!("in{i}"));
        }
    }
    for (entry, calls) in &plan.entries {
        let _ = writeln!(out, "  subgraph cluster_{entry} {{\n    label=\"{entry}\";");
        for (i, call) in calls.iter().enumerate() {
            let id = format!("{entry}{i}");
            let _ = writeln!(out, "    {id} [label=\"{}\\n{}\"];", call.op.name(), label(call));
            for operand in &call.inputs {
                if let Place::Buffer(b) = operand.place
                    && let Some(from) = writer.get(&b)
                {
                    let _ = writeln!(edges, "  {from} -> {id};");
                }
            }
            for operand in &call.outputs {
                if let Place::Buffer(b) = operand.place {
                    writer.insert(b, id.clone());
                }
            }
        }
        out.push_str("  }\n");
    }
    for (i, port) in plan.outputs.iter().enumerate() {
        let _ = writeln!(out, "  out{i} [label=\"{}\", shape=ellipse];", port.name);
        if let Place::Buffer(b) = port.operand.place
            && let Some(from) = writer.get(&b)
        {
            let _ = writeln!(edges, "  {from} -> out{i};");
        }
    }
    out + &edges + "}\n"
}

fn label(call: &Call) -> String {
    let ty = call.outputs.first().map(|o| o.ty.to_string()).unwrap_or_default();
    format!("{}\\n{ty}", call.at.replace('"', "'"))
}
