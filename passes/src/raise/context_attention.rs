//! Gathered windows, concatenated with context tokens, under a masked softmax, become
//! `PartitionedContextAttention` (SPEC 4): the keys are read in place, no copy of a window is made.

use ccl_ir::ops;
use ccl_ir::{NodeId, Op, Partition, Value};

use super::{From, Raised, Site};

/// Matches the masked attention of the pattern.
pub(super) fn matches(site: &Site<'_>, id: NodeId) -> Option<Result<Raised, String>> {
    match &site.graph.node(id).op {
        Op::Attention(a) if a.masked => Some(find(site, id, a)),
        _ => None,
    }
}

fn find(site: &Site<'_>, id: NodeId, attention: &ops::Attention) -> Result<Raised, String> {
    let node = site.graph.node(id);
    if attention.counted {
        return Err("the number of keys is given at run time".into());
    }
    let Op::WindowMask(mask) = site.op(node.inputs[3]) else {
        return Err("the mask is not a window's".into());
    };
    let partition = mask.partition;
    let (k, ck) = window_and_context(site, node.inputs[1], partition).map_err(|e| format!("keys: {e}"))?;
    let (v, cv) = window_and_context(site, node.inputs[2], partition).map_err(|e| format!("values: {e}"))?;
    let grouped = node.inputs[0];
    let shape = &site.graph.ty(grouped).shape;
    if shape.len() != 5 {
        return Err(format!("queries are {}, not [B, rows, n, H, D]", site.graph.ty(grouped)));
    }
    let queries = [shape[0], shape[1] * shape[2], shape[3], shape[4]];
    if queries[1] != partition.queries() {
        return Err(format!("{} queries, the windows are for {}", queries[1], partition.queries()));
    }
    if site.graph.ty(ck).shape[0] != mask.context {
        return Err(format!("{} context tokens, the mask is for {}", site.graph.ty(ck).shape[0], mask.context));
    }
    let out_shape = node.types[0].shape.clone();
    if lse_is_read(site, id) {
        return Err("the log-sum-exp of the plain form is read".into());
    }
    let steps = vec![
        (ops::Reshape { shape: queries.to_vec() }.into(), vec![From::Old(grouped)]),
        (
            ops::PartitionedContextAttention::new(partition).into(),
            vec![From::Step(0), From::Old(k), From::Old(v), From::Old(ck), From::Old(cv)],
        ),
        (ops::Reshape { shape: out_shape }.into(), vec![From::Step(1)]),
    ];
    Ok(Raised { steps, reason: "window and context keys are read in place; no gathered copies".into() })
}

/// Whether anybody reads the plain attention's second output.
fn lse_is_read(site: &Site<'_>, id: NodeId) -> bool {
    let second = |v: &Value| v.node == id && v.port == 1;
    site.users[id.index()].iter().any(|u| site.graph.node(*u).inputs.iter().any(second))
        || site.graph.outputs.iter().any(|o| second(&o.value))
}

/// Keys (or values) and context of `concat(window_gather(k), expand(ck))` along the key dimension.
fn window_and_context(site: &Site<'_>, v: Value, partition: Partition) -> Result<(Value, Value), String> {
    let joined = site.graph.node(v.node);
    let (window, context) = match (&joined.op, joined.inputs.as_slice()) {
        (Op::Concat(c), &[window, context]) if c.axis == 2 => (window, context),
        _ => return Err("not a window joined with context tokens".into()),
    };
    match site.op(window) {
        Op::WindowGather(w) if w.partition == partition => {}
        Op::WindowGather(_) => return Err("gathered by another partition than the mask's".into()),
        _ => return Err("not gathered by a window".into()),
    }
    if !matches!(site.op(context), Op::Expand(_)) {
        return Err("the context tokens are not shared by all rows".into());
    }
    let tokens = site.input(context, 0);
    if site.graph.ty(tokens).rank() != 3 {
        return Err(format!("context tokens are {}, not [n, H, D]", site.graph.ty(tokens)));
    }
    Ok((site.input(window, 0), tokens))
}
