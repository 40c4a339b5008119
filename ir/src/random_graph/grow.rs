//! Growing a graph, one operator or pattern at a time.

use super::noise::Noise;
use super::{VALUES, fit};
use crate::graph::{Binding, Graph, NodeId, Value};
use crate::interp::{Stream, random_value};
use crate::op::{Op, Sample, Tolerance};
use crate::ops::{self, Binary, BinaryKind, Cast, Route, Unary, UnaryKind};
use crate::tensor::{Tensor, relative_l2};
use crate::types::{DType, TensorType};

/// Largest number in a graph: far inside of what half precision holds.
const LARGEST: f64 = 1e3;

/// How far rounding to half precision may move a value, relative L2.
const HALF: f64 = 2e-2;

/// What random graphs are like.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// How many operators and patterns to add.
    pub nodes: usize,
    /// Most elements of one value.
    pub elements: u64,
    /// The half precision that weights and values may have; `None`: all real numbers are `f32`.
    pub half: Option<DType>,
    /// How far an inexact kernel may move a value, relative L2: less well conditioned operations are left out.
    pub sensitivity: f64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self { nodes: 16, elements: 2000, half: None, sensitivity: 5e-5 }
    }
}

/// Grows the graph of a seed.
pub fn grow(seed: u64, recipe: &Recipe) -> Graph {
    let mut grower = Grower {
        graph: Graph::new(format!("random {seed}")),
        recipe,
        dice: Dice { stream: Stream::new(seed, "random graph"), rolls: 0 },
        samples: samples(recipe),
        held: Vec::new(),
        pool: Vec::new(),
    };
    let mut added = 0;
    // An operation that is refused costs a try and no node.
    for _ in 0..40 * recipe.nodes {
        if added == recipe.nodes {
            break;
        }
        added += usize::from(grower.step());
    }
    grower.finish()
}

/// The samples of each operator that fit a recipe.
fn samples(recipe: &Recipe) -> Vec<Vec<Sample<Op>>> {
    let mut all: Vec<Vec<Sample<Op>>> = Vec::new();
    for sample in Op::samples() {
        let types: Vec<&TensorType> = sample.inputs.iter().collect();
        let Ok(results) = sample.op.infer(&types) else { continue };
        let fits = |t: &TensorType| {
            let known = matches!(t.dtype, DType::F32 | DType::I32) || Some(t.dtype) == recipe.half;
            known && t.elements() <= recipe.elements
        };
        if !types.into_iter().chain(&results).all(fits) {
            continue;
        }
        match all.last_mut() {
            Some(same) if same[0].op.name() == sample.op.name() => same.push(sample),
            _ => all.push(vec![sample]),
        }
    }
    all
}

/// A graph in the making.
pub(super) struct Grower<'a> {
    pub graph: Graph,
    pub recipe: &'a Recipe,
    pub dice: Dice,
    samples: Vec<Vec<Sample<Op>>>,
    held: Vec<Held>,
    /// Values that operators may read.
    pub pool: Vec<Value>,
}

/// The results of a node.
struct Held {
    exact: Vec<Tensor<f64>>,
    /// As inexact kernels may have them.
    single: Vec<Tensor<f64>>,
    /// The same where what has half precision in the graph is rounded to it.
    half: Vec<Tensor<f64>>,
}

/// The value that was grown, or nothing where what the dice asked for cannot be had.
pub(super) type Grown = Option<Value>;

impl Grower<'_> {
    /// Tries to add one operator or pattern. What turns out not to be computable, too large or ill conditioned is taken
    /// back.
    fn step(&mut self) -> bool {
        let (graph, pool) = (self.graph.clone(), self.pool.len());
        let grown = match self.dice.below(10) {
            0..4 => self.sample(),
            4..7 => self.elementwise(),
            7 => self.view(),
            _ => self.pattern(),
        };
        match grown {
            Some(value) if self.sound(value) => {
                let ports = 0..self.graph.node(value.node).types.len() as u8;
                self.pool.extend(ports.map(|port| Value { node: value.node, port }));
                true
            }
            _ => {
                self.graph = graph;
                self.pool.truncate(pool);
                self.held.truncate(self.graph.nodes().len());
                false
            }
        }
    }

    /// Adds a node and evaluates it.
    pub fn add(&mut self, op: impl Into<Op>, inputs: &[Value]) -> Grown {
        let at = format!("n{}", self.graph.nodes().len());
        let op = op.into();
        let at = op.given_name().map_or(at, str::to_owned);
        let value = self.graph.add(at, op, inputs).ok()?;
        if value.node.index() < self.held.len() {
            return Some(value);
        }
        self.held.push(self.evaluate(value.node)?);
        let small = self.graph.node(value.node).types.iter().all(|t| t.elements() <= 4 * self.recipe.elements);
        small.then_some(value)
    }

    fn evaluate(&self, id: NodeId) -> Option<Held> {
        let node = self.graph.node(id);
        if let Some(value) = random_value(&self.graph, &node.op, VALUES) {
            return Some(Held { exact: vec![value.clone()], single: vec![value.clone()], half: vec![value] });
        }
        let inputs = |of: fn(&Held) -> &Vec<Tensor<f64>>| -> Vec<&Tensor<f64>> {
            node.inputs.iter().map(|v| &of(&self.held[v.node.index()])[usize::from(v.port)]).collect()
        };
        let noisy = |halves, inputs: Vec<&Tensor<f64>>| {
            let noise = Noise { stream: Stream::new(0, "growth"), storage: None, halves };
            noise.evaluate(id.0.into(), &self.graph, node, &inputs).ok()
        };
        Some(Held {
            exact: node.op.eval(&inputs(|h| &h.exact)).ok()?,
            single: noisy(false, inputs(|h| &h.single))?,
            half: noisy(true, inputs(|h| &h.half))?,
        })
    }

    /// Whether a node's results are numbers of a sound size that rounding moves little.
    fn sound(&self, value: Value) -> bool {
        let Held { exact, single, half } = &self.held[value.node.index()];
        let moved = self.graph.node(value.node).op.tolerance() == Tolerance::Exact;
        let near = |a: &Tensor<f64>, b: &Tensor<f64>, limit| relative_l2(&a.data, &b.data) <= limit;
        exact.iter().zip(single).zip(half).all(|((exact, single), half)| {
            let moderate = exact.data.iter().all(|x| x.abs() <= LARGEST);
            // Nothing but zeros is often a difference of equals, of which a rewrite makes rounding.
            let some = moved || exact.data.iter().any(|x| *x != 0.0);
            moderate && some && near(single, exact, self.recipe.sensitivity) && near(half, exact, HALF)
        })
    }

    /// A new input or weight. Inputs are of the prologue or the step; plans have none in half precision.
    pub fn given(&mut self, ty: &TensorType) -> Grown {
        let n = self.graph.nodes().len();
        let half = ty.dtype.is_float() && ty.dtype != DType::F32;
        let op: Op = match if half { 1 } else { self.dice.below(4) } {
            0 => ops::Input { name: format!("p{n}"), ty: ty.clone(), binding: Binding::Prologue }.into(),
            1 => ops::Weight { name: format!("w{n}"), ty: ty.clone() }.into(),
            _ => ops::Input { name: format!("x{n}"), ty: ty.clone(), binding: Binding::Step }.into(),
        };
        self.add(op, &[])
    }

    /// An input, and a whole number that goes with it: `_len` of its second dimension, or a `_row` of its first.
    fn counted(&mut self, ty: &TensorType, suffix: &str) -> Option<(Value, Value)> {
        let (name, binding) =
            (format!("x{}", self.graph.nodes().len()), self.dice.of(&[Binding::Prologue, Binding::Step]));
        let count = ops::Input { name: format!("{name}{suffix}"), ty: TensorType::new(DType::I32, []), binding };
        let value = self.add(ops::Input { name, ty: ty.clone(), binding }, &[])?;
        Some((value, self.add(count, &[])?))
    }

    /// A value of this type: a given one, or what is there seen in another way.
    pub fn value(&mut self, ty: &TensorType) -> Grown {
        if self.pool.is_empty() || self.dice.below(4) == 0 {
            return self.given(ty);
        }
        // Late values more often: depth, not width.
        let n = self.pool.len();
        let at = self.dice.below(n).max(self.dice.below(n));
        match fit::to_type(self, self.pool[at], ty) {
            Some(value) => Some(value),
            None => self.given(ty),
        }
    }

    /// An operator by one of its samples.
    fn sample(&mut self) -> Grown {
        let group = self.dice.below(self.samples.len());
        let sample = self.dice.below(self.samples[group].len());
        let Sample { op, inputs: types, .. } = self.samples[group][sample].clone();
        let op = match op {
            // The answers are those of `answers`.
            Op::Route(Route { answer, .. }) => {
                let flag = if answer == Some(true) { "yes" } else { "no" };
                Route { flag: flag.into(), answer }.into()
            }
            op => op,
        };
        let mut inputs: Vec<Value> = Vec::new();
        for (i, ty) in types.iter().enumerate() {
            if inputs.len() > i {
                continue;
            }
            let value = match &op {
                _ if ty.dtype == DType::I32 => *inputs.get(i)?,
                Op::Index(_) => {
                    let (table, row) = self.counted(ty, "_row")?;
                    inputs.extend([table, row]);
                    continue;
                }
                Op::Attention(a) if a.counted && i == 1 => {
                    let (keys, count) = self.counted(ty, "_len")?;
                    let values = self.value(ty)?;
                    inputs.extend([keys, values]);
                    if a.masked {
                        inputs.push(self.value(&types[3])?);
                    }
                    inputs.push(count);
                    continue;
                }
                // Angles are a thousand times a time: a computed one would be a wrong one.
                Op::TimeFeatures(_) => self.given(ty)?,
                // Matrices may be stored in half precision.
                Op::Linear(_) if i == 1 && self.recipe.half.is_some() && self.dice.below(2) == 0 => {
                    self.given(&ty.with_dtype(self.recipe.half?))?
                }
                _ => self.value(ty)?,
            };
            inputs.push(value);
        }
        self.add(op, &inputs)
    }

    /// A function of one number or of two, one of which may repeat.
    pub fn elementwise(&mut self) -> Grown {
        let a = self.any()?;
        let ty = self.graph.ty(a).clone();
        match self.dice.below(4) {
            0 => {
                let kind = self.dice.of(&UnaryKind::ALL);
                self.add(Unary { kind }, &[a])
            }
            1 if self.recipe.half.is_some() => {
                let to = self.dice.of(&[DType::F32, self.recipe.half?]);
                self.add(Cast { to }, &[a])
            }
            _ => {
                let kind = self.dice.of(&[BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul]);
                let mut shape = ty.shape.clone();
                match self.dice.below(4) {
                    // Repeats along some dimensions, or has fewer.
                    0 => shape.iter_mut().for_each(|n| *n = self.dice.of(&[*n, 1])),
                    1 => drop(shape.drain(..self.dice.below(shape.len() + 1))),
                    _ => {}
                }
                let b = match self.dice.below(8) {
                    0 => {
                        let value = self.dice.of(&[0.0, 1.0, -0.5, 3.0]);
                        self.add(ops::Constant { ty: ty.with_shape(shape), value }, &[])?
                    }
                    _ => self.value(&ty.with_shape(shape))?,
                };
                let pair = if self.dice.below(2) == 0 { [a, b] } else { [b, a] };
                self.add(Binary { kind }, &pair)
            }
        }
    }

    /// A value that is there, looked at in another way.
    pub fn view(&mut self) -> Grown {
        let v = self.any()?;
        fit::any_view(self, v)
    }

    /// A value of real numbers that is there; one of two dimensions before there is any.
    pub fn any(&mut self) -> Grown {
        if self.pool.is_empty() {
            let shape = [1 + self.dice.below(4), 1 + self.dice.below(9)];
            let value = self.given(&TensorType::f32(shape))?;
            self.pool.push(value);
        }
        let n = self.pool.len();
        let at = self.dice.below(n).max(self.dice.below(n));
        Some(self.pool[at])
    }

    /// Names what nobody reads, and now and then what somebody does.
    fn finish(mut self) -> Graph {
        let users = self.graph.users();
        let mut named: Vec<Value> = Vec::new();
        for &value in self.pool.iter().rev() {
            let unread = users[value.node.index()].is_empty();
            if (unread && named.len() < 6) || self.dice.below(8) == 0 {
                named.push(value);
            }
        }
        if named.is_empty() {
            named.extend(self.any());
        }
        for (i, value) in named.into_iter().enumerate() {
            // The first is always wanted: no output at all is an error.
            let flag = if i == 0 { None } else { self.dice.of(&[None, None, Some("yes"), Some("no")]) };
            let value = in_single(&mut self.graph, value);
            self.graph.output(format!("y{i}"), value, flag);
        }
        self.graph
    }
}

/// A value as plans give it out: what is in half precision in `f32`.
pub(super) fn in_single(graph: &mut Graph, value: Value) -> Value {
    match graph.ty(value).dtype {
        DType::F32 | DType::I32 => value,
        _ => added(graph, "out", Cast { to: DType::F32 }.into(), &[value]),
    }
}

/// Adds a node whose operator is known to take these inputs.
pub(super) fn added(graph: &mut Graph, at: &str, op: Op, inputs: &[Value]) -> Value {
    graph.add(at, op, inputs).unwrap_or_else(|e| unreachable!("the types are known to fit: {e}"))
}

/// Random choices in a row.
pub(super) struct Dice {
    stream: Stream,
    rolls: u64,
}

impl Dice {
    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.rolls += 1;
        (self.stream.bits(self.rolls) % n as u64) as usize
    }

    /// One of these.
    pub fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }
}
