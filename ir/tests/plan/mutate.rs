//! Files with a right hash and wrong contents: nothing panics, and what passes only touches its own memory.

use ccl_ir::plan::{Operand, Place, Plan, Region};
use proptest::prelude::*;
use serde_json::Value;

use crate::build::small;
use crate::bytes::{HEADER, sealed};

/// Every value of the tree, in order.
fn visit(value: &mut Value, f: &mut impl FnMut(&mut Value)) {
    f(value);
    match value {
        Value::Array(list) => list.iter_mut().for_each(|v| visit(v, f)),
        Value::Object(map) => map.values_mut().for_each(|v| visit(v, f)),
        _ => {}
    }
}

/// Applies `f` to the `n`-th (modulo their number) value that `pick` picks.
fn change(tree: &mut Value, n: usize, pick: impl Fn(&Value) -> bool, f: impl Fn(&mut Value)) {
    let mut count = 0;
    visit(tree, &mut |v| count += usize::from(pick(v)));
    let (mut seen, target) = (0, n % count.max(1));
    visit(tree, &mut |v| {
        if pick(v) {
            if seen == target {
                f(v);
            }
            seen += 1;
        }
    });
}

fn numbers() -> impl Strategy<Value = Value> {
    let big =
        [0u64, 1, 2, 3, 8, 256, 512, 1792, 1 << 31, u64::from(u32::MAX), 1 << 46, 1 << 62, u64::MAX - 63, u64::MAX];
    prop_oneof![
        prop::sample::select(big.to_vec()).prop_map(Value::from),
        (0u64..2000).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
    ]
}

/// Walks over every element of an operand; `None` where that would take too long.
fn touched(operand: &Operand) -> Option<Vec<u64>> {
    if operand.ty.elements() > 4096 {
        return None;
    }
    let mut at = vec![operand.offset];
    for (&n, &stride) in operand.ty.shape.iter().zip(&operand.strides) {
        at = at.iter().flat_map(|&a| (0..n as u64).map(move |i| a + i * stride)).collect();
    }
    Some(at)
}

/// Every element of every operand is inside its region or weight.
fn stays_inside(p: &Plan) {
    let calls = p.entries.values().flatten().flat_map(|c| c.inputs.iter().chain(&c.outputs));
    for operand in calls.chain(p.inputs.iter().chain(&p.outputs).map(|port| &port.operand)) {
        let (start, size) = match operand.place {
            Place::Weight(i) => (0, p.weights[i as usize].ty.bytes()),
            Place::Buffer(i) => {
                let buffer = &p.buffers[i as usize];
                let persistent = buffer.region == Region::Persistent;
                (buffer.offset, if persistent { p.persistent_bytes } else { p.scratch_bytes })
            }
        };
        let width = operand.ty.dtype.bytes();
        for element in touched(operand).into_iter().flatten() {
            assert!(
                u128::from(start) + (u128::from(element) + 1) * u128::from(width) <= u128::from(size),
                "{operand:?}"
            );
        }
    }
}

fn read(tree: &Value) -> bool {
    let body = serde_json::to_vec(tree).expect("JSON of a tree");
    match Plan::from_bytes(&sealed(&body)) {
        Ok(plan) => {
            stays_inside(&plan);
            assert!(plan.live_scratch_lower_bound() <= plan.scratch_bytes);
            true
        }
        Err(e) => {
            assert!(!e.to_string().contains(char::is_control));
            false
        }
    }
}

fn tree() -> Value {
    let bytes = small().to_bytes().expect("the small plan passes");
    serde_json::from_slice(&bytes[HEADER..]).expect("the body is JSON")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn numbers_changed(changes in prop::collection::vec((any::<usize>(), numbers()), 1..4)) {
        let mut tree = tree();
        for (n, new) in changes {
            change(&mut tree, n, Value::is_number, |v| *v = new.clone());
        }
        read(&tree);
    }

    #[test]
    fn lists_changed(changes in prop::collection::vec((any::<usize>(), any::<usize>(), 0..4), 1..4)) {
        let mut tree = tree();
        for (n, at, kind) in changes {
            change(&mut tree, n, |v| v.as_array().is_some_and(|l| !l.is_empty()), |v| {
                let Value::Array(list) = v else { return };
                let (i, j) = (at % list.len(), at / 7 % list.len());
                match kind {
                    0 => drop(list.remove(i)),
                    1 => list.swap(i, j),
                    2 => list.insert(i, list[j].clone()),
                    _ => list.truncate(i),
                }
            });
        }
        read(&tree);
    }
}

#[test]
fn every_number_to_every_edge() {
    let (mut passed, mut refused) = (0, 0);
    let mut count = 0;
    visit(&mut tree(), &mut |v| count += usize::from(v.is_number()));
    for n in 0..count {
        for edge in [0, 1, 65, 1 << 46, u64::MAX - 3, u64::MAX] {
            let mut tree = tree();
            change(&mut tree, n, Value::is_number, |v| *v = edge.into());
            if read(&tree) { passed += 1 } else { refused += 1 }
        }
    }
    // Numbers of the report and of the configuration may be anything, and small ones are often right by chance.
    assert!(passed > 0 && refused > 4 * passed, "{passed} passed, {refused} refused");
}
