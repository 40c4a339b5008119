//! Graph to text.

use std::fmt::Write;

use serde_json::Value as Json;

use super::default_path;
use crate::graph::{Graph, Node, NodeId, Value};

/// The text form of a graph. See the [module](super) for what it looks like.
pub fn print(graph: &Graph) -> String {
    let mut out = format!("graph {}\n", quoted(&graph.name));
    for (id, node) in graph.iter() {
        line(&mut out, id, node);
    }
    for output in &graph.outputs {
        // Writing to a string cannot fail, here and below.
        let _ = write!(out, "output {} = {}", quoted(&output.name), output.value);
        if let Some(flag) = &output.wanted_if {
            let _ = write!(out, " if {}", quoted(flag));
        }
        if let Some(state) = &output.updates {
            let _ = write!(out, " updates {}", quoted(state));
        }
        out.push('\n');
    }
    out
}

fn line(out: &mut String, id: NodeId, node: &Node) {
    let results = (0..node.types.len()).map(|port| Value { node: id, port: port as u8 });
    list(out, results);
    let _ = write!(out, " = {}", node.op.name());
    if !node.inputs.is_empty() {
        out.push('(');
        list(out, &node.inputs);
        out.push(')');
    }
    let attributes = node.op.attributes();
    if !attributes.is_empty() {
        out.push(' ');
        json(out, &Json::Object(attributes));
    }
    out.push_str(" : ");
    list(out, &node.types);
    if node.at != default_path(&node.op) {
        let _ = write!(out, " @ {}", quoted(&node.at));
    }
    out.push('\n');
}

fn list(out: &mut String, items: impl IntoIterator<Item = impl std::fmt::Display>) {
    for (i, item) in items.into_iter().enumerate() {
        let _ = write!(out, "{}{item}", if i == 0 { "" } else { ", " });
    }
}

fn quoted(text: &str) -> Json {
    Json::from(text)
}

/// JSON with sorted keys, whatever order the map type keeps.
fn json(out: &mut String, value: &Json) {
    match value {
        Json::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            for (i, (key, value)) in entries.into_iter().enumerate() {
                let _ = write!(out, "{}{}:", if i == 0 { '{' } else { ',' }, quoted(key));
                json(out, value);
            }
            out.push_str(if map.is_empty() { "{}" } else { "}" });
        }
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                json(out, item);
            }
            out.push(']');
        }
        plain => {
            let _ = write!(out, "{plain}");
        }
    }
}
