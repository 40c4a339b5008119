//! A graph as a [petgraph] graph, and as a picture. A view: nodes stay where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use petgraph::algo::toposort;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Dfs, IntoNeighbors, Reversed, Visitable};

use crate::error::{IrError, Problem};
use crate::graph::{Binding, Graph, Node, NodeId};

/// Nodes by id, one edge from a value's node to each of its readers, weighted with the reader's input number.
pub type View = DiGraph<NodeId, usize>;

/// The view of a graph; node `n` of one is node `n` of the other. Inputs that do not exist have no edge.
pub fn view(graph: &Graph) -> View {
    let mut view = View::with_capacity(graph.nodes().len(), graph.nodes().len());
    for (id, _) in graph.iter() {
        view.add_node(id);
    }
    for (id, node) in graph.iter() {
        for (i, value) in node.inputs.iter().enumerate() {
            if value.node.index() < graph.nodes().len() {
                view.add_edge(index(value.node), index(id), i);
            }
        }
    }
    view
}

fn index(id: NodeId) -> NodeIndex {
    NodeIndex::new(id.index())
}

/// An order in which every node comes after its inputs.
///
/// # Errors
/// When a node needs its own result, with the node. Cannot happen in a graph that was built by [`Graph::add`].
pub fn topological_order(graph: &Graph) -> Result<Vec<NodeId>, IrError> {
    let view = view(graph);
    let order = toposort(&view, None).map_err(|cycle| IrError::Graph {
        graph: graph.name.clone(),
        problem: Problem(format!("{} needs its own result", graph.describe(view[cycle.node_id()]))),
    })?;
    Ok(order.into_iter().map(|i| view[i]).collect())
}

/// All nodes that a node of the graph needs, itself left out.
pub fn ancestors(graph: &Graph, node: NodeId) -> BTreeSet<NodeId> {
    let view = view(graph);
    reach(Reversed(&view), node)
}

/// All nodes that need a node of the graph, itself left out.
pub fn descendants(graph: &Graph, node: NodeId) -> BTreeSet<NodeId> {
    reach(&view(graph), node)
}

fn reach<G>(view: G, start: NodeId) -> BTreeSet<NodeId>
where
    G: IntoNeighbors<NodeId = NodeIndex> + Visitable,
{
    let mut dfs = Dfs::new(view, index(start));
    let mut found = BTreeSet::new();
    while let Some(node) = dfs.next(view) {
        found.insert(NodeId(node.index() as u32));
    }
    found.remove(&start);
    found
}

/// The graph in Graphviz's language: boxes around guidance passes, streams and blocks, the colour says when a value
/// is known, the label what it costs. The graph must pass [`crate::verify::verify`].
pub fn dot(graph: &Graph) -> String {
    let mut tree = Cluster::default();
    for (id, node) in graph.iter() {
        tree.insert(&places(&node.at), id);
    }
    let bindings = graph.bindings();
    let mut out = format!("digraph {} {{\n  node [shape=box, style=filled];\n", quoted(&graph.name));
    tree.write(&mut out, graph, &bindings, &mut 0, 1);
    for (id, node) in graph.iter() {
        for value in &node.inputs {
            let port = if value.port == 0 { String::new() } else { format!(" [label={}]", value.port) };
            let _ = writeln!(out, "  n{} -> n{}{port};", value.node.0, id.0);
        }
    }
    for (i, output) in graph.outputs.iter().enumerate() {
        let _ = writeln!(out, "  o{i} [label={}, shape=ellipse, fillcolor=white];", quoted(&output.name));
        let _ = writeln!(out, "  n{} -> o{i};", output.value.node.0);
    }
    out.push_str("}\n");
    out
}

/// The boxes around a node: `cond/video.blocks.3.cca.q` is in `cond`, `video`, `blocks.3`.
fn places(at: &str) -> Vec<String> {
    let (pass, module) = at.split_once('/').map_or((None, at), |(pass, module)| (Some(pass), module));
    let parts: Vec<&str> = module.split('.').collect();
    let mut places: Vec<String> = pass.map(str::to_owned).into_iter().collect();
    if let [stream, rest @ ..] = &parts[..]
        && !rest.is_empty()
    {
        places.push((*stream).to_owned());
        if let ["blocks", number, ..] = rest {
            places.push(format!("blocks.{number}"));
        }
    }
    places
}

/// A box: its nodes, and the boxes in it.
#[derive(Default)]
struct Cluster {
    nodes: Vec<NodeId>,
    /// In the order of their first node.
    inner: Vec<(String, Cluster)>,
    by_name: BTreeMap<String, usize>,
}

impl Cluster {
    fn insert(&mut self, places: &[String], id: NodeId) {
        let Some((first, rest)) = places.split_first() else {
            self.nodes.push(id);
            return;
        };
        let next = self.inner.len();
        let slot = *self.by_name.entry(first.clone()).or_insert(next);
        if slot == next {
            self.inner.push((first.clone(), Cluster::default()));
        }
        self.inner[slot].1.insert(rest, id);
    }

    fn write(&self, out: &mut String, graph: &Graph, bindings: &[Binding], number: &mut usize, depth: usize) {
        let pad = "  ".repeat(depth);
        for &id in &self.nodes {
            let color = color(bindings[id.index()]);
            let label = quoted(&label(graph, id, graph.node(id)));
            let _ = writeln!(out, "{pad}n{} [label={label}, fillcolor={color}];", id.0);
        }
        for (name, cluster) in &self.inner {
            let _ = writeln!(out, "{pad}subgraph cluster_{number} {{\n{pad}  label={};", quoted(name));
            *number += 1;
            cluster.write(out, graph, bindings, number, depth + 1);
            let _ = writeln!(out, "{pad}}}");
        }
    }
}

fn label(graph: &Graph, id: NodeId, node: &Node) -> String {
    let types: Vec<String> = node.types.iter().map(ToString::to_string).collect();
    let work = graph.work(id);
    let mut label = format!("%{} {}\n{}\n{}", id.0, node.op.name(), node.at, types.join(", "));
    if work.flops > 0 {
        let _ = write!(label, "\n{}", quantity(work.flops, "FLOP"));
    }
    if work.bytes > 0 {
        let _ = write!(label, "\n{}", quantity(work.bytes, "B"));
    }
    label
}

fn color(binding: Binding) -> &'static str {
    match binding {
        Binding::Load => "lightgrey",
        Binding::Prologue => "lightblue",
        Binding::Step => "orange",
        Binding::Epilogue => "palegreen",
    }
}

/// Two decimals and a prefix: `4.19 GFLOP`.
fn quantity(n: u64, unit: &str) -> String {
    let mut value = n as f64;
    let mut prefix = "";
    for next in ["k", "M", "G", "T", "P", "E"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        prefix = next;
    }
    if prefix.is_empty() { format!("{n} {unit}") } else { format!("{value:.2} {prefix}{unit}") }
}

/// A string of Graphviz's language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Binary, BinaryKind, Copy, Linear};
    use crate::types::TensorType;

    fn small() -> Result<Graph, IrError> {
        let mut g = Graph::new("small");
        let x = g.input("video", TensorType::f32([64, 512]), Binding::Step)?;
        let w = g.weight("video.blocks.3.cca.q.weight", TensorType::f32([512, 512]))?;
        let y = g.add("cond/video.blocks.3.cca.q", Linear::plain(), &[x, w])?;
        let z = g.add("cond/video.blocks.3.cca.k", Linear::plain(), &[y, w])?;
        let sum = g.add("guidance.video", Binary { kind: BinaryKind::Add }, &[y, z])?;
        g.add("", Copy {}, &[x])?;
        g.output("guided.\"video\"", sum, Some("video"));
        Ok(g)
    }

    fn ids(ids: &[u32]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn orders_put_inputs_first() -> Result<(), IrError> {
        let g = small()?;
        let order = topological_order(&g)?;
        let place: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(i, &id)| (id, i)).collect();
        assert_eq!(place.len(), g.nodes().len());
        for (id, node) in g.iter() {
            assert!(node.inputs.iter().all(|v| place[&v.node] < place[&id]), "{order:?}");
        }
        Ok(())
    }

    #[test]
    fn a_circle_is_an_error() -> Result<(), IrError> {
        let mut nodes = small()?.nodes().to_vec();
        nodes[2].inputs[0].node = NodeId(3);
        let error =
            topological_order(&Graph::from_parts_unchecked("small", nodes, Vec::new())).unwrap_err().to_string();
        assert!(error.contains("linear at `cond/video.blocks.3.cca.") && error.contains("its own result"), "{error}");
        Ok(())
    }

    #[test]
    fn reachability() -> Result<(), IrError> {
        let g = small()?;
        assert_eq!(ancestors(&g, NodeId(4)), ids(&[0, 1, 2, 3]));
        assert_eq!(ancestors(&g, NodeId(0)), ids(&[]));
        assert_eq!(descendants(&g, NodeId(2)), ids(&[3, 4]));
        assert_eq!(descendants(&g, NodeId(0)), ids(&[2, 3, 4, 5]));
        let edges: Vec<usize> = view(&g).edge_weights().copied().collect();
        assert_eq!(edges, [0, 1, 0, 1, 0, 1, 0]);
        Ok(())
    }

    #[test]
    fn quantities() {
        let texts = [0, 999, 1000, 33_554_432, u64::MAX].map(|n| quantity(n, "B"));
        assert_eq!(texts, ["0 B", "999 B", "1.00 kB", "33.55 MB", "18.45 EB"]);
    }

    #[test]
    fn picture() -> Result<(), IrError> {
        insta::assert_snapshot!(dot(&small()?), @r#"
        digraph "small" {
          node [shape=box, style=filled];
          n0 [label="%0 input\nvideo\nf32[64,512]", fillcolor=orange];
          n5 [label="%5 copy\n\nf32[64,512]\n262.14 kB", fillcolor=orange];
          subgraph cluster_0 {
            label="video";
            subgraph cluster_1 {
              label="blocks.3";
              n1 [label="%1 weight\nvideo.blocks.3.cca.q.weight\nf32[512,512]", fillcolor=lightgrey];
            }
          }
          subgraph cluster_2 {
            label="cond";
            subgraph cluster_3 {
              label="video";
              subgraph cluster_4 {
                label="blocks.3";
                n2 [label="%2 linear\ncond/video.blocks.3.cca.q\nf32[64,512]\n33.55 MFLOP\n1.31 MB", fillcolor=orange];
                n3 [label="%3 linear\ncond/video.blocks.3.cca.k\nf32[64,512]\n33.55 MFLOP\n1.31 MB", fillcolor=orange];
              }
            }
          }
          subgraph cluster_5 {
            label="guidance";
            n4 [label="%4 binary\nguidance.video\nf32[64,512]\n393.22 kB", fillcolor=orange];
          }
          n0 -> n2;
          n1 -> n2;
          n2 -> n3;
          n1 -> n3;
          n2 -> n4;
          n3 -> n4;
          n0 -> n5;
          o0 [label="guided.\"video\"", shape=ellipse, fillcolor=white];
          n4 -> o0;
        }
        "#);
        Ok(())
    }
}
