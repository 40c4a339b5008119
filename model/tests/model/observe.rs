//! What the cross attention gives to its context, by its share where it is known: keys that are all alike share the weight evenly.

use std::collections::BTreeMap;

use crate::common::{config, resolve};
use ccl_ir::interp::evaluate;
use ccl_ir::{Op, Tensor};
use ccl_model::{
    Config, CrossAttention, Guidance, Spec, Stream, Task, answers, build_context_weights, context_weights, tarp,
    tensors,
};

#[test]
fn keys_that_are_all_alike_share_evenly_with_the_context() {
    let config = config();
    let spec =
        Spec { text_tokens: 2, image_tokens: 3, ..Spec::new(Task::Joint, "4x4x4@21".parse().unwrap(), Guidance::None) };
    let graph = build_context_weights(&config, &spec).unwrap();
    let graph = resolve(&graph, &answers(Task::Joint, Guidance::None));
    let mut values: BTreeMap<String, Tensor<f64>> = BTreeMap::new();
    let fill = |shape: &[usize], seed: usize| {
        let n: usize = shape.iter().product();
        Tensor::new(shape, (0..n).map(|i| ((i * 37 + seed * 11) % 19) as f64 / 19.0 - 0.5).collect()).unwrap()
    };
    for (i, t) in tensors(&config).into_iter().enumerate() {
        // Without the norm's weight every key is zero, and zero again when it is turned.
        let still = t.name.contains(".cca.norm_k");
        let value = if still { Tensor::filled(t.shape.clone(), 0.0) } else { fill(&t.shape, i) };
        values.insert(t.name, value);
    }
    for (i, input) in graph.nodes().iter().enumerate() {
        if let Op::Input(input) = &input.op {
            values.entry(input.name.clone()).or_insert_with(|| fill(&input.ty.shape, i));
        }
    }
    let got = evaluate(&graph, &values).unwrap();
    let grid = spec.clip.grid(&config).unwrap();
    for m in Stream::ALL {
        let (n, heads) = (config.context_tokens(m), config.stream(m).heads);
        let partition = tarp::partition(&config, &grid, m);
        for block in 0..2 {
            let weights = &got[&context_weights(m, block)];
            assert_eq!(weights.shape[2..], [n, heads]);
            for group in partition.groups() {
                let keys: usize = group.keys.clone().map(|j| group.times(j)).sum();
                for i in group.queries.clone() {
                    let share = weights.data[i * n * heads];
                    assert!((share - 1.0 / (n + keys) as f64).abs() < 1e-12, "{m} {i}: {share}, {keys} keys");
                }
            }
        }
    }
    let plain = Config { cross_attention: CrossAttention::Windowed, ..config };
    assert!(build_context_weights(&plain, &spec).unwrap_err().to_string().contains("no context tokens"));
}
