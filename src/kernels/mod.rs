//! Kernels measured one by one: a plan of a single call for each, run as any other plan.
//!
//! [`small`] are what a step of a small model goes to, [`paper`] what a step of the 14B model does. Each case has an id that stays the same
//! from version to version; `benches/gpu/compare.py` measures the same ids in PyTorch. Inputs are rotated through copies that are together larger
//! than the device's second-level cache ([`measure`]).

pub mod check;
mod data;
pub mod lone;
pub mod measure;
pub mod paper;
pub mod small;

use ccl_ir::op::Work;
use ccl_ir::ops::{MergeAttention, PartitionedContextAttention};
use ccl_ir::{Binding, DType, Op, Plan, TensorType};
use ccl_passes::split;
use ccl_runtime::backend::{Backend, Instance};

pub use data::Weights;
pub use lone::{Input, Inputs, Lone, RESULT};
pub use measure::{Effort, Timing};
pub use small::cases;

use crate::error::Error;

/// A call to measure.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name for other programs, unique and the same in every version: `video.ffn.up`.
    pub id: String,
    /// Name for people, unique.
    pub name: String,
    op: Op,
    inputs: Vec<Input>,
}

/// Which kernels to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// A small model's.
    Small,
    /// The 14B model's at `21x44x80@158`.
    Paper,
    /// The same as [`Set::Paper`], of next to no size.
    Tiny,
}

impl Set {
    /// Name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Paper => "paper",
            Self::Tiny => "tiny",
        }
    }

    /// The set with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Small, Self::Paper, Self::Tiny].into_iter().find(|s| s.name() == name)
    }

    /// Its cases, stored in these types.
    pub fn cases(self, types: Types) -> Vec<Case> {
        match self {
            Self::Small => small::cases_of(types),
            Self::Paper => paper::cases(&paper::Sizes::PAPER, types),
            Self::Tiny => paper::cases(&paper::Sizes::TINY, types),
        }
    }
}

/// How tensors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types {
    /// Tokens, and whatever else is not a matrix of weights.
    pub tokens: DType,
    /// Matrices of weights.
    pub matrices: DType,
}

impl Types {
    /// Everything in single precision.
    pub const SINGLE: Self = Self { tokens: DType::F32, matrices: DType::F32 };

    /// What plans of `dtype` store on a backend: the cpu keeps tokens in single precision.
    pub fn of(dtype: DType, backend: &dyn Backend) -> Self {
        let tokens = if backend.target().is_some() { dtype } else { DType::F32 };
        Self { tokens, matrices: dtype }
    }

    /// Tokens of a shape.
    fn tokens(self, shape: &[usize]) -> TensorType {
        TensorType::new(self.tokens, shape)
    }

    /// A matrix of weights.
    fn matrix(self, shape: &[usize]) -> TensorType {
        TensorType::new(self.matrices, shape)
    }

    /// What a product is told to store, where that is not what it would.
    fn out(self) -> Option<DType> {
        self.tokens.is_half().then_some(self.tokens)
    }
}

/// A tensor that stays in single precision whatever tokens are.
fn f32(shape: &[usize]) -> TensorType {
    TensorType::f32(shape)
}

impl Case {
    /// A case; the id of one without its own is its name in small letters, with dashes.
    fn new(name: impl Into<String>, op: impl Into<Op>, inputs: Vec<Input>) -> Self {
        let name = name.into();
        let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
        let id = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
        Self { id, name, op: op.into(), inputs }
    }

    /// The same under an id.
    fn id(self, id: impl Into<String>) -> Self {
        Self { id: id.into(), ..self }
    }

    /// Name of the operator.
    pub fn op(&self) -> &str {
        self.op.name()
    }

    /// Whether the case has this text in its id, name or operator.
    pub fn fits(&self, filter: &str) -> bool {
        [self.id.as_str(), &self.name, self.op()].iter().any(|text| text.contains(filter))
    }

    /// The call with memory of its own.
    ///
    /// # Errors
    /// When the operator refuses the inputs.
    pub fn lone(&self) -> Result<Lone, Error> {
        Lone::new(&self.name, &self.op, &self.inputs)
    }

    /// The call as plans for a backend have it.
    ///
    /// # Errors
    /// When the operator refuses the inputs.
    pub fn lone_on(&self, backend: &dyn Backend) -> Result<Lone, Error> {
        self.lone_for(backend.target().map(|t| t.parallelism))
    }

    /// The call as plans for a GPU of so much parallelism have it: where few queries would leave it idle, keys are dealt out, and the parts put
    /// together.
    fn lone_for(&self, parallelism: Option<usize>) -> Result<Lone, Error> {
        let whole = self.lone()?;
        let (Op::PartitionedContextAttention(op), Some(parallelism)) = (&self.op, parallelism) else {
            return Ok(whole);
        };
        let types = [0, 3].map(|i| &whole.call().inputs[i].ty);
        let splits = split::splits(op, types[0], types[1].shape[0], parallelism);
        if splits == 1 {
            return Ok(whole);
        }
        let parts = PartitionedContextAttention { splits, ..op.clone() };
        Lone::new(&self.name, &parts.into(), &self.inputs)?.then(MergeAttention { out: Some(types[0].dtype) })
    }

    /// A plan whose step is this call.
    ///
    /// # Errors
    /// When the operator refuses the inputs.
    pub fn plan(&self) -> Result<Plan, Error> {
        Ok(self.lone()?.plan(1, Inputs::Given))
    }

    /// The call on a backend, with random inputs, once for each of `copies` copies of its memory.
    ///
    /// # Errors
    /// When the backend refuses the plan.
    pub fn instance(&self, backend: &dyn Backend, copies: usize) -> Result<Box<dyn Instance>, Error> {
        let lone = self.lone_on(backend)?;
        let mut instance = backend.instantiate(lone.plan(copies, Inputs::Given).into(), &Weights)?;
        lone.fill(instance.as_mut(), true)?;
        Ok(instance)
    }

    /// Operations and bytes of the call.
    ///
    /// # Errors
    /// As for [`Case::plan`].
    pub fn work(&self) -> Result<Work, Error> {
        let plan = self.plan()?;
        Ok(plan.calls(Binding::Step).first().map(ccl_ir::plan::Call::work).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plans of all sets and types check, and no two cases of a set have one id or name.
    #[test]
    fn cases_are_plans_that_check() {
        for set in [Set::Small, Set::Paper, Set::Tiny] {
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                let cases = set.cases(Types { tokens: dtype, matrices: dtype });
                for case in &cases {
                    let lone = case.lone().unwrap();
                    lone.plan(1, Inputs::Given).check().unwrap();
                    lone.plan(3, Inputs::Shared).check().unwrap();
                    assert!(case.work().unwrap().bytes > 0, "{}", case.name);
                }
                for key in [|c: &Case| c.id.clone(), |c: &Case| c.name.clone()] {
                    let mut keys: Vec<String> = cases.iter().map(key).collect();
                    keys.sort();
                    keys.dedup();
                    assert_eq!(keys.len(), cases.len(), "two cases of one name");
                }
            }
        }
    }

    /// Where keys are dealt out each copy is two calls, which hand on what the first writes.
    #[test]
    fn dealt_out_keys_are_put_together() {
        let cases = Set::Paper.cases(Types { tokens: DType::Bf16, matrices: DType::Bf16 });
        let calls = |id: &str, parallelism| {
            let case = cases.iter().find(|c| c.id == id).unwrap();
            let plan = case.lone_for(parallelism).unwrap().plan(2, Inputs::Given);
            plan.check().unwrap();
            plan.calls(Binding::Step).len()
        };
        assert_eq!([calls("audio.cca", Some(528)), calls("audio.cca", None), calls("video.cca", Some(528))], [4, 2, 2]);
    }

    #[test]
    fn inputs_are_rotated_through_more_than_the_cache() {
        let case = &Set::Small.cases(Types::SINGLE)[0];
        let lone = case.lone().unwrap();
        let bytes = lone.read_bytes();
        assert_eq!(lone.copies(0, None), 1);
        assert_eq!(lone.copies(bytes, None), 1);
        assert_eq!(lone.copies(bytes + 1, None), 2);
        assert_eq!(lone.copies(u64::MAX, None), 256);
        assert_eq!(lone.copies(u64::MAX, Some(0)), 1, "one copy is what it takes");
        let plan = lone.plan(3, Inputs::Given);
        let calls = plan.calls(Binding::Step);
        assert_eq!(calls.len(), 3);
        let places: Vec<_> = calls.iter().flat_map(|c| c.inputs.iter().chain(&c.outputs)).map(|o| o.place).collect();
        assert!((0..places.len()).all(|i| !places[..i].contains(&places[i])), "two copies share memory");
    }
}
