//! Operands that take more than a few rows to describe.

use crate::op::{Addr, Row, Shape, Space, Ty};

/// Operands of `mma.sync` and `wmma.mma`.
#[derive(Clone, Debug)]
pub(crate) struct Mma {
    pub shape: Shape,
    /// `wmma` fragments are laid out differently (see the executor).
    pub wmma: bool,
    pub a_ty: Ty,
    pub b_ty: Ty,
    pub c_ty: Ty,
    pub d_ty: Ty,
    pub d: Box<[Row]>,
    pub a: Box<[Row]>,
    pub b: Box<[Row]>,
    pub c: Box<[Row]>,
}

/// An address and its space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub addr: Addr,
    pub space: Space,
}

/// What a bulk copy moves.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub(crate) enum BulkMove {
    Linear {
        shared: Place,
        global: Place,
        size: Row,
    },
    /// A tile of a tensor that a map describes.
    Tensor {
        map: Place,
        coordinates: Box<[Row]>,
        shared: Place,
    },
}

/// A bulk copy: to shared memory with a barrier that counts its bytes, from it without.
#[derive(Clone, Debug)]
pub(crate) struct Bulk {
    pub what: BulkMove,
    pub barrier: Option<Place>,
}

/// The left factor of a product of four warps.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub(crate) enum Left {
    Registers([Row; 4]),
    /// The row of a descriptor.
    Shared(Row),
}

/// Operands of `wgmma.mma_async`: 64 rows, `n` columns, a depth of 16.
#[derive(Clone, Debug)]
pub(crate) struct GroupMma {
    pub n: u32,
    /// Of both factors.
    pub ty: Ty,
    pub d: Box<[Row]>,
    pub a: Left,
    /// The row of the right factor's descriptor.
    pub b: Row,
    /// Whether the accumulators are added: a predicate, and whether it is negated.
    pub scale: (Row, bool),
    /// One of the factors is negated.
    pub negate: bool,
    /// The left factor lies by its columns (M-major).
    pub turn_a: bool,
    /// The right factor lies by its rows (N-major).
    pub turn_b: bool,
}
