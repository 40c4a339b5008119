//! Broken graphs, and what the verifier says about them.

use ccl_ir::ops::{Copy, Input, Linear, Weight};
use ccl_ir::verify::verify;
use ccl_ir::{Binding, Graph, IrError, Node, NodeId, Output, TensorType, Value};

fn small() -> Result<Graph, IrError> {
    let mut g = Graph::new("small");
    let x = g.input("x", TensorType::f32([2, 3]), Binding::Step)?;
    let w = g.weight("w", TensorType::f32([4, 3]))?;
    let y = g.add("cond/proj", Linear::plain(), &[x, w])?;
    let z = g.add("cond/copy", Copy {}, &[y])?;
    g.output("y", y, None);
    g.output("z", z, Some("video"));
    Ok(g)
}

/// Breaks the small graph and checks the message.
fn check(tamper: impl FnOnce(&mut Vec<Node>, &mut Vec<Output>), want: &str) {
    let g = small().unwrap();
    let (mut nodes, mut outputs) = (g.nodes().to_vec(), g.outputs.clone());
    tamper(&mut nodes, &mut outputs);
    let broken = Graph::from_parts_unchecked("small", nodes, outputs);
    assert_eq!(verify(&broken).unwrap_err().to_string(), format!("graph `small`: {want}"));
}

fn value(node: u32, port: u8) -> Value {
    Value { node: NodeId(node), port }
}

#[test]
fn a_graph_of_unchanged_parts_is_sound() -> Result<(), IrError> {
    let g = small()?;
    verify(&g)?;
    let again = Graph::from_parts_unchecked("small", g.nodes().to_vec(), g.outputs.clone());
    verify(&again)?;
    assert_eq!(again, g);
    verify(&Graph::new("empty"))
}

#[test]
fn inputs_come_first() {
    check(|nodes, _| nodes[3].inputs[0] = value(3, 0), "%3 copy at `cond/copy`: input %3 is not computed before it");
    check(|nodes, _| nodes[2].inputs[1] = value(3, 0), "%2 linear at `cond/proj`: input %3 is not computed before it");
    check(|nodes, _| nodes[3].inputs[0] = value(77, 0), "%3 copy at `cond/copy`: input %77 is not computed before it");
    check(|nodes, _| nodes[3].inputs[0] = value(2, 1), "%3 copy at `cond/copy`: input %2.1 is not computed before it");
}

#[test]
fn types_are_inferred_again() {
    check(
        |nodes, _| nodes[2].types[0] = TensorType::f32([4, 2]),
        "%2 linear at `cond/proj`: is recorded as f32[4,2], inference says f32[2,4]",
    );
    check(|nodes, _| nodes[3].types.clear(), "%3 copy at `cond/copy`: is recorded as , inference says f32[2,4]");
    check(|nodes, _| nodes[2].inputs.truncate(1), "%2 linear at `cond/proj`: takes 2 inputs, got 1");
    let huge = TensorType::f32([1 << 40, 1 << 40]);
    check(
        |nodes, _| nodes[0].op = Input { name: "x".into(), ty: huge, binding: Binding::Step }.into(),
        "%0 input at `x`: a result f32[1099511627776,1099511627776] has too many elements",
    );
}

#[test]
fn names_are_unique() {
    check(
        |nodes, _| nodes[1].op = Weight { name: "x".into(), ty: TensorType::f32([4, 3]) }.into(),
        "%1 weight at `w`: the name `x` is taken by %0 input at `x`",
    );
    check(|_, outputs| outputs[1].name = "y".into(), "output `y`: there are two outputs of this name");
}

#[test]
fn outputs_exist() {
    check(|_, outputs| outputs[0].value = value(4, 0), "output `y`: there is no value %4");
    check(|_, outputs| outputs[1].value = value(3, 1), "output `z`: there is no value %3.1");
}

#[test]
fn one_name_is_one_value() -> Result<(), IrError> {
    let mut g = small()?;
    let again = g.add("elsewhere", Weight { name: "w".into(), ty: TensorType::f32([4, 3]) }, &[])?;
    assert_eq!(Some(again), g.find("w"));
    assert_eq!(g.nodes().len(), 4);
    let error = g.weight("x", TensorType::f32([9])).unwrap_err().to_string();
    assert_eq!(error, "weight at `x`: the name `x` is taken by a step input f32[2,3], this is a weight f32[9]");
    Ok(())
}
