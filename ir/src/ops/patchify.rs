//! Latents to patches.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// Cuts `[B, C, D1..Dn]` into patches: `[B, tokens, C * p1 * .. * pn]`, tokens in row-major order of the patch
/// grid, a token's channels ordered (C, p1, .., pn) as a convolution's weight is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patchify {
    /// Patch sizes, one per dimension after the channels.
    pub patch: Vec<usize>,
}

/// The patch grid, or what is wrong with the sizes.
pub(super) fn grid_of(sizes: &[usize], patch: &[usize]) -> Result<Vec<usize>, Problem> {
    crate::ensure!(sizes.len() == patch.len(), "{} sizes and {} patch sizes", sizes.len(), patch.len());
    for (s, p) in sizes.iter().zip(patch) {
        crate::ensure!(*p > 0 && *s > 0 && s % p == 0, "sizes {sizes:?} cannot be cut into patches {patch:?}");
    }
    Ok(sizes.iter().zip(patch).map(|(s, p)| s / p).collect())
}

/// Splits a flat index by sizes, last fastest.
pub(super) fn unravel(mut flat: usize, sizes: &[usize], out: &mut [usize]) {
    for (o, s) in out.iter_mut().zip(sizes).rev() {
        *o = flat % s;
        flat /= s;
    }
}

impl Operator for Patchify {
    const NAME: &'static str = "patchify";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        let x = inputs[0];
        crate::ensure!(x.rank() >= 3, "wants [B, C, sizes...], got {x}");
        let grid = grid_of(&x.shape[2..], &self.patch)?;
        let width = x.shape[1] * self.patch.iter().product::<usize>();
        Ok(vec![x.with_shape([x.shape[0], grid.iter().product(), width])])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let x = inputs[0];
        let n = self.patch.len();
        let grid = grid_of(&x.shape[2..], &self.patch)?;
        let volume: usize = self.patch.iter().product();
        let shape = [x.shape[0], grid.iter().product(), x.shape[1] * volume];
        let (mut token, mut inner, mut source) = (vec![0; n], vec![0; n], vec![0; n + 2]);
        Ok(vec![Tensor::from_fn(shape, |i| {
            unravel(i[1], &grid, &mut token);
            unravel(i[2] % volume, &self.patch, &mut inner);
            source[0] = i[0];
            source[1] = i[2] / volume;
            for a in 0..n {
                source[2 + a] = token[a] * self.patch[a] + inner[a];
            }
            x.at(&source)
        })])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Exact
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (g, shape, n) = (cx.cotangent()?, cx.shape(cx.inputs[0]), self.patch.len());
        // [B, g1..gn, C, p1..pn] to [B, C, g1, p1, .., gn, pn].
        let grid = shape[2..].iter().zip(&self.patch).map(|(s, p)| s / p);
        let mut split = vec![shape[0]];
        split.extend(grid);
        split.push(shape[1]);
        split.extend(&self.patch);
        let mut perm = vec![0, n + 1];
        perm.extend((0..n).flat_map(|a| [1 + a, n + 2 + a]));
        let g = cx.reshape(g, split)?;
        let g = cx.add(super::Transpose { perm }, &[g])?;
        Ok(vec![Some(cx.reshape(g, shape)?)])
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![
            Sample::new(Self { patch: vec![1, 2, 2] }, [TensorType::f32([2, 3, 2, 4, 6])]),
            Sample::new(Self { patch: vec![2, 2, 3] }, [TensorType::f32([1, 2, 4, 2, 6])]),
            Sample::new(Self { patch: vec![1] }, [TensorType::f32([2, 3, 5])]),
        ]
    }
}
