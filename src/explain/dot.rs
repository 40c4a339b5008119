//! A plan for graphviz.

use std::collections::BTreeMap;
use std::fmt::Write;

use ccl_ir::Plan;
use ccl_ir::plan::{Call, Place};

/// The calls as a graph: one cluster per entry, an edge from the call that wrote a buffer to each that reads it.
pub fn dot(plan: &Plan) -> String {
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
