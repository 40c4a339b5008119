//! What several tests share: small models, files of the numeric cases, and graphs with their routes answered.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ccl_ir::{Graph, Op, Tensor, Value, ops};
use ccl_model::{Config, StreamConfig};
use safetensors::SafeTensors;

/// A small model with everything in it: image, condition channels, different head widths.
pub fn config() -> Config {
    let video = StreamConfig { dim: 48, ffn_dim: 80, heads: 2, in_channels: 9, out_channels: 4, patch: vec![1, 2, 2] };
    let audio = StreamConfig { dim: 32, ffn_dim: 64, heads: 1, in_channels: 6, out_channels: 6, patch: vec![1] };
    Config { text_dim: 24, freq_dim: 32, image_dim: 20, ..Config::new(video, audio, 2) }
}

/// A file beside the workspace's own tests, such as `cases/small/config.json`.
pub fn shared(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests").join(path)
}

/// The configuration of a case.
pub fn case_config(case: &str) -> Config {
    Config::from_json(&std::fs::read_to_string(shared(case).join("config.json")).unwrap()).unwrap()
}

/// All tensors of a safetensors file.
pub fn read(path: &str) -> BTreeMap<String, Tensor<f64>> {
    let bytes = std::fs::read(shared(path)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |view: safetensors::tensor::TensorView<'_>| {
        assert_eq!(view.dtype(), safetensors::Dtype::F32);
        let numbers = view.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
        Tensor::new(view.shape(), numbers.collect()).unwrap()
    };
    file.iter().map(|(name, view)| (name.to_owned(), tensor(view))).collect()
}

/// The graph that is left when routes are answered: only wanted outputs and what they need.
pub fn resolve(graph: &Graph, answers: &BTreeMap<String, bool>) -> Graph {
    // A route's value becomes the value of the way taken.
    let mut taken: Vec<Option<Value>> = vec![None; graph.nodes().len()];
    for (id, node) in graph.iter() {
        if let Op::Route(route) = &node.op {
            let way = node.inputs[if answers[&route.flag] { 0 } else { 1 }];
            taken[id.index()] = Some(taken[way.node.index()].unwrap_or(way));
        }
    }
    let through = |v: Value| taken[v.node.index()].unwrap_or(v);
    let wanted = |flag: &Option<String>| flag.as_ref().is_none_or(|f| answers[f]);
    let outputs: Vec<_> = graph.outputs.iter().filter(|o| wanted(&o.wanted_if)).collect();

    let mut live = vec![false; graph.nodes().len()];
    outputs.iter().for_each(|o| live[through(o.value).node.index()] = true);
    for (id, node) in graph.iter().rev().filter(|(_, n)| !matches!(n.op, Op::Route(_))) {
        if live[id.index()] {
            node.inputs.iter().for_each(|&v| live[through(v).node.index()] = true);
        }
    }

    let mut out = Graph::new(&graph.name);
    let mut moved: Vec<Option<Value>> = vec![None; graph.nodes().len()];
    let at = |moved: &[Option<Value>], v: Value| {
        let v = through(v);
        Value { port: v.port, ..moved[v.node.index()].unwrap() }
    };
    for (id, node) in graph.iter().filter(|(id, _)| live[id.index()]) {
        let inputs: Vec<Value> = node.inputs.iter().map(|&v| at(&moved, v)).collect();
        let value = match &node.op {
            Op::Input(ops::Input { name, ty, binding }) => out.input(name, ty.clone(), *binding),
            Op::Weight(ops::Weight { name, ty }) => out.weight(name, ty.clone()),
            op => out.add(&node.at, op.clone(), &inputs),
        };
        moved[id.index()] = Some(value.unwrap());
    }
    outputs.iter().for_each(|o| out.output(&o.name, at(&moved, o.value), None));
    out
}

/// Names of the weights that a graph reads.
pub fn weights(graph: &Graph) -> BTreeMap<&str, &[usize]> {
    let weights = graph.nodes().iter().filter_map(|n| match &n.op {
        Op::Weight(w) => Some((w.name.as_str(), &w.ty.shape[..])),
        _ => None,
    });
    weights.collect()
}
