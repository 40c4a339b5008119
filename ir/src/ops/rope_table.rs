//! Cosines and sines of rotary position embeddings.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::op::{Operator, Sample};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// Which position turns which channels (SPEC 2 and 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// The token index turns the whole head: audio self-attention.
    Linear {
        /// Tokens.
        length: usize,
    },
    /// Frame, row and column turn their shares of the head: video.
    Axial {
        /// Frames.
        frames: usize,
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
    /// Token `j` sits at frame `j * frames / length` and turns the temporal channels only: TARP.
    Aligned {
        /// Audio tokens.
        length: usize,
        /// Frames of the clip.
        frames: usize,
    },
}

impl Positions {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        match *self {
            Positions::Linear { length } | Positions::Aligned { length, .. } => length,
            Positions::Axial { frames, rows, columns } => frames * rows * columns,
        }
    }
}

/// Channels of one head given to frame, row and column.
pub fn axial_split(head_dim: usize) -> [usize; 3] {
    let side = 2 * (head_dim / 6);
    [head_dim - 2 * side, side, side]
}

/// `(cos, sin)` of every token and channel pair: `[L, head_dim / 2, 2]`. No inputs. Angles are f64.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeTable {
    /// Which positions.
    pub positions: Positions,
    /// Channels of a head, even.
    pub head_dim: usize,
    /// Base of the frequencies.
    pub theta: f64,
}

impl RopeTable {
    /// Angle of channel pair `pair` at token `token`.
    pub fn angle(&self, token: usize, pair: usize) -> f64 {
        let turn =
            |position: f64, pair: usize, dims: usize| position / self.theta.powf(2.0 * pair as f64 / dims as f64);
        let [dt, dh, dw] = axial_split(self.head_dim);
        match self.positions {
            Positions::Linear { .. } => turn(token as f64, pair, self.head_dim),
            Positions::Axial { rows, columns, .. } => {
                let (t, h, w) = (token / (rows * columns), token / columns % rows, token % columns);
                if pair < dt / 2 {
                    turn(t as f64, pair, dt)
                } else if pair < (dt + dh) / 2 {
                    turn(h as f64, pair - dt / 2, dh)
                } else {
                    turn(w as f64, pair - (dt + dh) / 2, dw)
                }
            }
            Positions::Aligned { length, frames } => {
                if pair < dt / 2 {
                    turn(token as f64 * (frames as f64 / length as f64), pair, dt)
                } else {
                    0.0
                }
            }
        }
    }
}

impl Operator for RopeTable {
    const NAME: &'static str = "rope_table";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 0)?;
        crate::ensure!(
            self.head_dim > 0 && self.head_dim.is_multiple_of(2),
            "head width must be even, is {}",
            self.head_dim
        );
        crate::ensure!(self.theta > 0.0 && self.theta.is_finite(), "theta must be positive, is {}", self.theta);
        let sizes = match self.positions {
            Positions::Linear { length } => [length, 1, 1],
            Positions::Aligned { length, frames } => [length, frames.min(1), 1],
            Positions::Axial { frames, rows, columns } => [frames, rows, columns],
        };
        let tokens = TensorType::f32(sizes).checked_elements().filter(|&n| n > 0);
        let tokens = tokens.ok_or_else(|| Problem(format!("impossible positions {:?}", self.positions)))?;
        Ok(vec![TensorType::f32([tokens as usize, self.head_dim / 2, 2])])
    }

    fn eval<T: Real>(&self, _: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let shape = [self.positions.tokens(), self.head_dim / 2, 2];
        Ok(vec![Tensor::from_fn(shape, |i| {
            let angle = self.angle(i[0], i[1]);
            T::from_f64(if i[2] == 0 { angle.cos() } else { angle.sin() })
        })])
    }

    fn samples() -> Vec<Sample<Self>> {
        let of = |positions, head_dim| Sample::new(Self { positions, head_dim, theta: 10000.0 }, []);
        vec![
            of(Positions::Linear { length: 5 }, 8),
            of(Positions::Axial { frames: 2, rows: 3, columns: 2 }, 16),
            of(Positions::Aligned { length: 7, frames: 3 }, 24),
        ]
    }
}
