//! Views and the copies that they cannot avoid.
//!
//! Reshapes, slices, transposes and expansions move nothing: they are strided views of the value below them. Where a kernel wants
//! its input packed more tightly than a view is, [`run`] puts a copy.

use ccl_ir::types::dense_strides;
use ccl_ir::{Access, Graph, NodeId, Op, Value, ops};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;

/// Where a value's elements are: strides over the elements of a value that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The stored value.
    pub base: Value,
    /// First element.
    pub offset: u64,
    /// Distance in elements between neighbours of each dimension.
    pub strides: Vec<u64>,
}

impl Layout {
    fn stored(base: Value, shape: &[usize]) -> Self {
        Self { base, offset: 0, strides: dense_strides(shape).into_iter().map(|s| s as u64).collect() }
    }

    /// Whether the elements are packed in row-major order.
    pub fn is_dense(&self, shape: &[usize]) -> bool {
        let mut want = 1;
        for (&n, &s) in shape.iter().zip(&self.strides).rev() {
            if n != 1 && s != want {
                return false;
            }
            want *= n as u64;
        }
        true
    }

    fn allows(&self, shape: &[usize], access: Access) -> bool {
        match access {
            Access::Any => true,
            Access::Rows => shape.last().is_none_or(|&n| n == 1) || self.strides.last() == Some(&1),
            Access::Dense => self.is_dense(shape),
        }
    }
}

/// Whether an operator only looks at its input in another way.
pub fn is_view(op: &Op) -> bool {
    matches!(op, Op::Reshape(_) | Op::Slice(_) | Op::Transpose(_) | Op::Expand(_))
}

/// Layout of a node's outputs, given the layouts of the values before it. `None` where a view cannot be expressed by strides.
pub fn of_node(graph: &Graph, id: NodeId, known: &[Vec<Layout>]) -> Option<Vec<Layout>> {
    let node = graph.node(id);
    if !is_view(&node.op) {
        let ports = node.types.iter().enumerate();
        return Some(ports.map(|(p, t)| Layout::stored(Value { node: id, port: p as u8 }, &t.shape)).collect());
    }
    let source = node.inputs[0];
    let from = &known[source.node.index()][source.port as usize];
    let shape = &graph.ty(source).shape;
    let mut view = from.clone();
    match &node.op {
        Op::Slice(s) => view.offset += s.start as u64 * from.strides[s.axis],
        Op::Transpose(t) => view.strides = t.perm.iter().map(|&p| from.strides[p]).collect(),
        Op::Expand(e) => {
            let lead = e.shape.len() - shape.len();
            let keep = |i: usize| if shape[i] == e.shape[lead + i] { from.strides[i] } else { 0 };
            view.strides = (0..e.shape.len()).map(|i| if i < lead { 0 } else { keep(i - lead) }).collect();
        }
        Op::Reshape(r) => view.strides = reshape_strides(shape, &from.strides, &r.shape)?,
        _ => return None,
    }
    Some(vec![view])
}

/// Strides of the same elements under another shape, where there are such.
fn reshape_strides(shape: &[usize], strides: &[u64], to: &[usize]) -> Option<Vec<u64>> {
    // Runs of old dimensions that are packed against each other: (size, stride of the innermost).
    let mut runs: Vec<(usize, u64)> = Vec::new();
    for (&n, &s) in shape.iter().zip(strides) {
        match runs.last_mut() {
            _ if n == 1 => {}
            Some((size, stride)) if *stride == s * n as u64 => {
                *size *= n;
                *stride = s;
            }
            _ => runs.push((n, s)),
        }
    }
    let mut out = vec![0; to.len()];
    let mut run = runs.pop();
    let mut inner = 1usize;
    for (i, &n) in to.iter().enumerate().rev() {
        if n == 1 {
            out[i] = inner as u64;
            continue;
        }
        let (size, stride) = run?;
        if size % (inner * n) != 0 {
            return None;
        }
        out[i] = stride * inner as u64;
        inner *= n;
        if inner == size {
            run = runs.pop();
            inner = 1;
        }
    }
    Some(out)
}

/// Puts a copy before every input that its kernel could not read as it lies, and before outputs that are not stored densely.
///
/// # Errors
/// Never on a verified graph.
pub fn run(graph: &Graph, record: &mut Record) -> Result<Graph, PassError> {
    let err = PassError::ir("layout");
    let mut re = Rebuild::new(graph);
    let mut known: Vec<Vec<Layout>> = Vec::with_capacity(graph.nodes().len());
    for (id, node) in graph.iter() {
        let mut inputs = re.inputs(node);
        for (slot, v) in inputs.iter_mut().enumerate() {
            let fits = known[v.node.index()][v.port as usize].allows(&re.new.ty(*v).shape, node.op.access(slot));
            let expressible = !is_view(&node.op) || view_fits(&node.op, &re.new, *v, &known);
            if !fits || !expressible {
                let bytes = 2 * re.new.ty(*v).bytes() as i64;
                record.applied(
                    "layout",
                    "copy",
                    &node.at,
                    format!("`{}` cannot read a strided view", node.op.name()),
                    0,
                    bytes,
                );
                *v = re.new.add(node.at.clone(), ops::Copy {}, &[*v]).map_err(&err)?;
                extend(&re.new, &mut known);
            }
        }
        re.put(id, node.op.clone(), &inputs).map_err(&err)?;
        extend(&re.new, &mut known);
    }
    let mut out = re.finish();
    for i in 0..out.outputs.len() {
        let v = out.outputs[i].value;
        let layout = &known[v.node.index()][v.port as usize];
        let given = matches!(out.op(layout.base), Op::Input(_) | Op::Weight(_) | Op::State(_));
        if given || !layout.is_dense(&out.ty(v).shape) {
            let name = out.outputs[i].name.clone();
            let bytes = 2 * out.ty(v).bytes() as i64;
            record.applied("layout", "copy", &name, "a result is stored densely, apart from what is given", 0, bytes);
            out.outputs[i].value = out.add(name, ops::Copy {}, &[v]).map_err(&err)?;
            extend(&out, &mut known);
        }
    }
    Ok(out)
}

fn view_fits(op: &Op, graph: &Graph, v: Value, known: &[Vec<Layout>]) -> bool {
    match op {
        Op::Reshape(r) => {
            let from = &known[v.node.index()][v.port as usize];
            reshape_strides(&graph.ty(v).shape, &from.strides, &r.shape).is_some()
        }
        _ => true,
    }
}

/// Layouts of the nodes that were added since the last call.
fn extend(graph: &Graph, known: &mut Vec<Vec<Layout>>) {
    while known.len() < graph.nodes().len() {
        let id = NodeId(known.len() as u32);
        let layouts = of_node(graph, id, known).unwrap_or_default();
        known.push(layouts);
    }
}

/// Layouts of all values of a graph that [`run`] has passed.
pub fn layouts(graph: &Graph) -> Vec<Vec<Layout>> {
    let mut known = Vec::with_capacity(graph.nodes().len());
    extend(graph, &mut known);
    known
}

#[cfg(test)]
mod tests {
    use super::reshape_strides;

    #[test]
    fn reshapes_keep_views_where_they_can() {
        assert_eq!(reshape_strides(&[2, 6], &[6, 1], &[3, 4]), Some(vec![4, 1]));
        // Rows of a wider table: heads split, but rows do not merge.
        assert_eq!(reshape_strides(&[2, 6], &[10, 1], &[2, 2, 3]), Some(vec![10, 3, 1]));
        assert_eq!(reshape_strides(&[2, 6], &[10, 1], &[12]), None);
        assert_eq!(reshape_strides(&[2, 1, 5], &[30, 5, 1], &[2, 5]), Some(vec![30, 1]));
        assert_eq!(reshape_strides(&[3, 4], &[1, 3], &[12]), None);
        assert_eq!(reshape_strides(&[1, 1], &[7, 9], &[]), Some(vec![]));
        assert_eq!(reshape_strides(&[4], &[0], &[2, 2]), Some(vec![0, 0]));
    }
}
