//! How a kernel of attention is cut: by a tile of tensor cores where they do the work, else by one of plain arithmetic.

use crate::gpu::kernels::attention::{ROWS, Tile};
use crate::gpu::launch::{Args, LowerError};
use crate::gpu::tensor::OfHead;
use crate::gpu::tensor::attention::AttentionTile;
use crate::gpu::tensor::attention_grad::GradTile;
use crate::gpu::tiles::plain::WIDEST;

/// A tile of either kind.
pub(super) enum Cut<T> {
    /// On tensor cores.
    Tensor(OfHead<T>),
    /// By plain arithmetic.
    Plain(Tile),
}

/// What a grid is made of.
pub(super) trait Block {
    /// Rows that a cube keeps.
    fn rows(&self) -> u32;
    /// Units of a cube.
    fn units(&self) -> u32;
}

impl Block for AttentionTile {
    fn rows(&self) -> u32 {
        self.queries()
    }

    fn units(&self) -> u32 {
        self.units()
    }
}

impl Block for GradTile {
    fn rows(&self) -> u32 {
        self.kept()
    }

    fn units(&self) -> u32 {
        self.units()
    }
}

impl<T: Block> Cut<T> {
    /// The tile for heads of `dim` channels: the first kind where it is there.
    ///
    /// # Errors
    /// When there is neither: the heads are too wide.
    pub(super) fn new(
        args: &Args<'_>,
        dim: usize,
        tensor: Option<T>,
        plain: impl FnOnce() -> Option<Tile>,
    ) -> Result<Self, LowerError> {
        if let Some(tile) = tensor {
            return Ok(Self::Tensor(OfHead { dim: dim as u32, tile }));
        }
        plain().map(Self::Plain).ok_or_else(|| {
            let (name, shared) = (&args.target.name, args.target.shared_bytes);
            args.error(format!(
                "heads of {dim} channels do not fit target {name}: at most {WIDEST}, in {shared} bytes of shared memory"
            ))
        })
    }

    /// Blocks of so many rows.
    pub(super) fn blocks(&self, rows: usize) -> usize {
        rows.div_ceil(match self {
            Self::Tensor(of) => of.tile.rows() as usize,
            Self::Plain(tile) => tile.queries as usize,
        })
    }

    /// Units of a cube.
    pub(super) fn units(&self) -> [u32; 3] {
        match self {
            Self::Tensor(of) => [of.tile.units(), 1, 1],
            Self::Plain(tile) => [tile.columns, ROWS, 1],
        }
    }
}
