//! Tokens back to latents.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// `[B, tokens, p1 * .. * pn * C]` to `[B, C, D1..Dn]`, `Di = grid[i] * patch[i]`. A token's channels are
/// ordered (p1, .., pn, C): the head's layout (SPEC 2.6), not the patch embedding's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unpatchify {
    /// Patch sizes.
    pub patch: Vec<usize>,
    /// Number of patches along each dimension.
    pub grid: Vec<usize>,
}

impl Operator for Unpatchify {
    const NAME: &'static str = "unpatchify";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        let x = inputs[0];
        crate::ensure!(self.patch.len() == self.grid.len(), "grid {:?} and patch {:?} differ", self.grid, self.patch);
        let volume = TensorType::f32(self.patch.clone()).checked_elements().filter(|&n| n > 0);
        let volume = volume.ok_or_else(|| Problem(format!("impossible patch {:?}", self.patch)))? as usize;
        let tokens = TensorType::f32(self.grid.clone()).checked_elements();
        let fits =
            x.rank() == 3 && x.shape[2] > 0 && x.shape[2].is_multiple_of(volume) && tokens == Some(x.shape[1] as u64);
        crate::ensure!(fits, "cannot put {x} together as grid {:?} of patches {:?}", self.grid, self.patch);
        let mut shape = vec![x.shape[0], x.shape[2] / volume];
        shape.extend(self.grid.iter().zip(&self.patch).map(|(g, p)| g.saturating_mul(*p)));
        Ok(vec![x.with_shape(shape)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let x = inputs[0];
        let n = self.patch.len();
        let channels = x.shape[2] / self.patch.iter().product::<usize>();
        let mut shape = vec![x.shape[0], channels];
        shape.extend(self.grid.iter().zip(&self.patch).map(|(g, p)| g * p));
        Ok(vec![Tensor::from_fn(shape, |i| {
            let (mut token, mut inner) = (0, 0);
            for a in 0..n {
                let (t, p) = (i[2 + a] / self.patch[a], i[2 + a] % self.patch[a]);
                token = token * self.grid[a] + t;
                inner = inner * self.patch[a] + p;
            }
            x.at(&[i[0], token, inner * channels + i[1]])
        })])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Exact
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (g, shape, n) = (cx.cotangent()?, cx.shape(cx.inputs[0]), self.patch.len());
        // [B, C, g1, p1, .., gn, pn] to [B, g1..gn, p1..pn, C].
        let mut split = cx.shape(g)[..2].to_vec();
        split.extend(self.grid.iter().zip(&self.patch).flat_map(|(&g, &p)| [g, p]));
        let mut perm = vec![0];
        perm.extend((0..n).map(|a| 2 + 2 * a));
        perm.extend((0..n).map(|a| 3 + 2 * a));
        perm.push(1);
        let g = cx.reshape(g, split)?;
        let g = cx.add(super::Transpose { perm }, &[g])?;
        Ok(vec![Some(cx.reshape(g, shape)?)])
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![
            Sample::new(Self { patch: vec![1, 2, 2], grid: vec![2, 2, 3] }, [TensorType::f32([2, 12, 12])]),
            Sample::new(Self { patch: vec![2], grid: vec![5] }, [TensorType::f32([2, 5, 6])]),
        ]
    }
}
