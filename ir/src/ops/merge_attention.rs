//! Partial attention results put together.

use serde::{Deserialize, Serialize};

use super::{arity, float};
use crate::error::Problem;
use crate::op::{Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType};

/// `Σ_s e^{l_s - l} o_s` with `l = ln Σ_s e^{l_s}`: the attention over all keys from its parts over disjoint keys.
///
/// Inputs: partial results `o [S, B, L, H, D]` and their log-sum-exp `l [S, B, H, L]`. Outputs: the result `[B, L, H, D]` in the
/// type `out` (`f32` where `None`) and the log-sum-exp `[B, H, L]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeAttention {
    /// Element type of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<DType>,
}

impl Operator for MergeAttention {
    const NAME: &'static str = "merge_attention";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 2)?;
        float(inputs, 0)?;
        let (o, l) = (inputs[0], inputs[1]);
        crate::ensure!(o.rank() == 5 && o.shape[0] > 0, "wants partial results [S, B, L, H, D], got {o}");
        let want = TensorType::f32([o.shape[0], o.shape[1], o.shape[3], o.shape[2]]);
        crate::ensure!(*l == want, "the log-sum-exp of {o} must be {want}, is {l}");
        crate::ensure!(self.out.is_none_or(DType::is_float), "the result must be real numbers");
        let dtype = self.out.unwrap_or(DType::F32);
        Ok(vec![TensorType::new(dtype, &o.shape[1..]), TensorType::f32(&l.shape[1..])])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (o, l) = (inputs[0], inputs[1]);
        let parts = o.shape[0];
        let lse = Tensor::from_fn(&l.shape[1..], |i| {
            let at = |s: usize| l.at(&[s, i[0], i[1], i[2]]);
            let max = (0..parts).map(at).fold(at(0), |a, b| if b > a { b } else { a });
            let mut sum = T::default();
            (0..parts).for_each(|s| sum += (at(s) - max).exp());
            max + sum.ln()
        });
        let out = Tensor::from_fn(&o.shape[1..], |i| {
            let mut sum = T::default();
            for s in 0..parts {
                let weight = (l.at(&[s, i[0], i[2], i[1]]) - lse.at(&[i[0], i[2], i[1]])).exp();
                sum += weight * o.at(&[s, i[0], i[1], i[2], i[3]]);
            }
            sum
        });
        Ok(vec![out, lse])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn samples() -> Vec<Sample<Self>> {
        let of = |s: usize, b, l, h, d| {
            Sample::new(Self { out: None }, [TensorType::f32([s, b, l, h, d]), TensorType::f32([s, b, h, l])])
        };
        vec![of(3, 2, 5, 2, 4), of(1, 1, 3, 1, 6)]
    }
}
