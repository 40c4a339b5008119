//! The text form: what it looks like, that it is read back as it was, and that nothing makes the reader panic.

use ccl_ir::ops::{Attention, Binary, BinaryKind, Constant, Linear, Slice};
use ccl_ir::{Binding, DType, Graph, IrError, Op, TensorType, Value, text, verify::verify};
use proptest::prelude::*;

fn small() -> Result<Graph, IrError> {
    let mut g = Graph::new("small");
    let x = g.input("video", TensorType::f32([1, 6, 8]), Binding::Step)?;
    let w = g.weight("video.proj.weight", TensorType::new(DType::Bf16, [8, 8]))?;
    let q = g.add("cond/video.proj", Linear::plain(), &[x, w])?;
    let q = g.add("cond/video.heads", ccl_ir::ops::Reshape { shape: vec![1, 6, 2, 4] }, &[q])?;
    let a = g.add("cond/video.attn", Attention::full(), &[q, q, q])?;
    let last = g.add("", Slice { axis: 1, start: 5, len: 1 }, &[a])?;
    let third = g.add("", Constant { ty: TensorType::f32([]), value: 1.0 / 3.0 }, &[])?;
    let y = g.add("a \"name\"\nof two lines", Binary { kind: BinaryKind::Mul }, &[last, third])?;
    g.output("velocity.video", y, Some("video"));
    g.output("lse", Value { port: 1, ..a }, None);
    Ok(g)
}

#[test]
fn a_small_graph() -> Result<(), IrError> {
    insta::assert_snapshot!(small()?, @r#"
    graph "small"
    %0 = input {"binding":"step","name":"video","ty":{"dtype":"f32","shape":[1,6,8]}} : f32[1,6,8]
    %1 = weight {"name":"video.proj.weight","ty":{"dtype":"bf16","shape":[8,8]}} : bf16[8,8]
    %2 = linear(%0, %1) {"bias":false,"epilogue":null} : f32[1,6,8] @ "cond/video.proj"
    %3 = reshape(%2) {"shape":[1,6,2,4]} : f32[1,6,2,4] @ "cond/video.heads"
    %4, %4.1 = attention(%3, %3, %3) {"counted":false,"masked":false} : f32[1,6,2,4], f32[1,2,6] @ "cond/video.attn"
    %5 = slice(%4) {"axis":1,"len":1,"start":5} : f32[1,1,2,4]
    %6 = constant {"ty":{"dtype":"f32","shape":[]},"value":0.3333333333333333} : f32[]
    %7 = binary(%5, %6) {"kind":"mul"} : f32[1,1,2,4] @ "a \"name\"\nof two lines"
    output "velocity.video" = %7 if "video"
    output "lse" = %4.1
    "#);
    Ok(())
}

#[test]
fn reading_gives_the_same_graph() -> Result<(), IrError> {
    let g = small()?;
    let again: Graph = g.to_string().parse()?;
    assert_eq!(again, g);
    assert_eq!(again.find("video"), g.find("video"));
    assert_eq!(text::parse("graph \"\"")?, Graph::new(""));
    Ok(())
}

#[test]
fn spaces_comments_and_empty_lines_do_not_matter() -> Result<(), IrError> {
    let text = "\n# A comment.\n\n  graph  \"g\"\r\n%0=constant{ \"value\" : 2, \"ty\":{\"shape\":[ ],\"dtype\":\"f32\"}}:f32[]\n\
                \t%1 = unary ( %0 ) {\"kind\":\"neg\"} : f32[]@\"p\"\n# End.\noutput \"y\"=%1if\"video\"";
    let g = text::parse(text)?;
    let mut want = Graph::new("g");
    let c = want.add("", Constant { ty: TensorType::f32([]), value: 2.0 }, &[])?;
    let y = want.add("p", ccl_ir::ops::Unary { kind: ccl_ir::ops::UnaryKind::Neg }, &[c])?;
    want.output("y", y, Some("video"));
    assert_eq!(g, want);
    Ok(())
}

/// Checks that the text is refused with this message.
fn check(text: &str, want: &str) {
    let error = text::parse(text).expect_err(text).to_string();
    assert!(error.contains(want), "wanted `{want}`, got `{error}`");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn errors_name_the_line() {
    check("", "graph text, line 1: expected `graph \"name\"`");
    check("\n%0 = copy", "line 2: expected `graph`, found \"%0 = copy\"");
    check("graph small", "line 1: expected a quoted string, found \"small\"");
    check("graph \"g\" x", "expected the end of the line, found \"x\"");
    let with = |line: &str, want: &str| check(&format!("graph \"g\"\n%0 = {X}\n{line}\n"), want);
    const X: &str = "input {\"binding\":\"step\",\"name\":\"x\",\"ty\":{\"dtype\":\"f32\",\"shape\":[2,3]}} : f32[2,3]";
    with("%1 = copy(%0) : f32[3,2]", "line 3: the line says f32[3,2], inference says f32[2,3]");
    with("%1 = copy(%0) : f32[2,3], f32[]", "the line says f32[2,3], f32[], inference says f32[2,3]");
    with("%1 = copy(%0)", "line 3: expected `:`, found the end of the line");
    with("%1 = copy(%0) : f33[2]", "expected a type such as f32[2,3], found \"f33[2]\"");
    with("%1 = copy(%1) : f32[2,3]", "copy at ``: input %1 is not computed before it");
    with("%1 = copy(%0.1) : f32[2,3]", "input %0.1 is not computed before it");
    with("%1 = copy(%0, %0) : f32[2,3]", "copy at ``: takes 1 inputs, got 2");
    with("%2 = copy(%0) : f32[2,3]", "this is node %1 with 1 result(s), the line names %2");
    with("%1, %1.1 = copy(%0) : f32[2,3]", "the line names %1, %1.1");
    with("%99999999999 = copy(%0) : f32[2,3]", "`%99999999999` is no node number");
    with("%1.300 = copy(%0) : f32[2,3]", "`%1.300` is no result number");
    with("%1 = cpoy(%0) : f32[2,3]", "operator `cpoy`: unknown variant `cpoy`");
    with("%1 = slice(%0) {\"axis\":1} : f32[2,3]", "operator `slice`: missing field `start`");
    with("%1 = copy(%0) {\"axis\":1} : f32[2,3]", "operator `copy`: `copy` has no attribute `axis`");
    with("%1 = slice(%0) {\"axis\":1 : f32[2,3]", "line 3: no valid JSON: expected `,` or `}`");
    with(&format!("%1 = {X}"), "the input or weight x is given twice, first as %0");
    with(
        &format!("%1 = {}", X.replace("step", "prologue")),
        "`x` is taken by a step input f32[2,3], this is a prologue input f32[2,3]",
    );
    with("output \"y\" = %1", "there is no %1 above");
    with("output \"y\" = %0.1", "there is no %0.1 above");
    with("output \"y\" = %0\noutput \"y\" = %0", "line 4: the output `y` is given twice");
    with("what", "expected `%number` or `output`, found \"what\"");
    let deep = format!("graph \"g\"\n%0 = input {}", "{\"a\":".repeat(5000));
    check(&deep, "no valid JSON: recursion limit exceeded");
}

/// One change of a text: a byte, a deleted or doubled run, or a piece of the text somewhere else.
fn mutate(text: &str, kind: u8, at: usize, len: usize, byte: u8) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let at = at % bytes.len();
    let end = (at + len).min(bytes.len());
    match kind % 4 {
        0 => bytes[at] = byte,
        1 => drop(bytes.drain(at..end)),
        2 => {
            let run = bytes[at..end].to_vec();
            bytes.splice(at..at, run);
        }
        _ => {
            let run = bytes[at..end].to_vec();
            let to = usize::from(byte) * 7 % bytes.len();
            bytes.splice(to..to, run);
        }
    }
    if bytes.is_empty() {
        bytes.push(byte);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A graph of operators' samples with arbitrary names.
fn graph_of(samples: &[usize], names: &[String], numbers: &[f64]) -> Graph {
    let all = Op::samples();
    let name = |i: usize| names[i % names.len()].as_str();
    let mut g = Graph::new(name(0));
    for (n, sample) in samples.iter().map(|i| &all[i % all.len()]).enumerate() {
        let input = |(i, ty): (usize, &TensorType)| {
            let (name, ty) = (format!("{}{n}.{i}", name(n + i)), ty.clone());
            if i % 2 == 0 { g.input(&name, ty, Binding::ALL[n % 4]) } else { g.weight(&name, ty) }
        };
        let inputs: Vec<Value> = sample.inputs.iter().enumerate().map(input).collect::<Result<_, _>>().unwrap();
        let value = g.add(name(n + 1), sample.op.clone(), &inputs).unwrap();
        let last = g.node(value.node).types.len() as u8 - 1;
        g.output(format!("{}{n}", name(n)), Value { port: last, ..value }, (n % 2 == 0).then(|| name(n + 2)));
    }
    for &value in numbers {
        g.add("", Constant { ty: TensorType::f32([1]), value }, &[]).unwrap();
    }
    g
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_graph_is_read_as_it_was(
        samples in prop::collection::vec(any::<usize>(), 0..6),
        names in prop::collection::vec(any::<String>(), 1..4),
        numbers in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO, 0..4),
    ) {
        let g = graph_of(&samples, &names, &numbers);
        prop_assert_eq!(verify(&g), Ok(()));
        let printed = text::print(&g);
        prop_assert_eq!(text::parse(&printed), Ok(g), "{}", printed);
    }

    #[test]
    fn broken_texts_are_errors_or_sound_graphs(
        samples in prop::collection::vec(any::<usize>(), 1..4),
        changes in prop::collection::vec((any::<u8>(), any::<usize>(), 1usize..40, any::<u8>()), 1..6),
    ) {
        let mut text = text::print(&graph_of(&samples, &["n".into()], &[0.5]));
        for (kind, at, len, byte) in changes {
            text = mutate(&text, kind, at, len, byte);
        }
        if let Ok(g) = text::parse(&text) {
            prop_assert_eq!(verify(&g), Ok(()));
            prop_assert_eq!(text::parse(&text::print(&g)), Ok(g));
        }
    }
}
