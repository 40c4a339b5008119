//! How the work of products and of attention is cut: the tiles that a kernel may have, which of them is expected to be the fastest on a target, and what
//! was chosen by measuring.
//!
//! A problem is what the choice depends on: sizes, and whether tensor cores or plain arithmetic do the work. Single and half precision share a problem: what
//! is multiplied lies in shared memory alike.

pub mod attention;
pub mod plain;
pub mod product;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::blueprint::Kernel;
use super::kernels::attention::Tile as PlainAttentionTile;
use super::kernels::product::Tile as PlainProductTile;
use super::launch::Launch;
use super::target::Target;
use super::tensor::attention::AttentionTile;
use super::tensor::attention_grad::GradTile;
use super::tensor::product::ProductTile;
pub use attention::{AttentionProblem, GradProblem};
use product::ALIGNED;
pub use product::{ProductProblem, product_tiles};

/// Shared memory that a multiprocessor keeps for itself for each cube, in bytes.
pub const RESERVED: u32 = 1024;

/// Tiles that measuring found best, by problem. A problem that is not here takes the tile that is expected to be best.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Choices {
    /// The tiles, by [`Problem::key`].
    pub tiles: BTreeMap<String, ProblemTile>,
    /// Products that the library of the device's maker does faster where it can ([`super::tensor::library`]) and is there; the tile serves where it is
    /// not.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub library: BTreeSet<String>,
}

/// What is computed, with the sizes that the choice of a tile depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A product.
    Product(ProductProblem),
    /// An attention.
    Attention(AttentionProblem),
    /// A part of an attention's gradient.
    Gradient(GradProblem),
}

/// A problem that has tiles to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is computed.
    pub work: Work,
    /// Whether by plain arithmetic, as any GPU has it; else on tensor cores.
    pub plain: bool,
}

/// A tile of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemTile {
    /// Of a product on tensor cores.
    Product(ProductTile),
    /// Of an attention on tensor cores.
    Attention(AttentionTile),
    /// Of an attention's gradient on tensor cores.
    Gradient(GradTile),
    /// Of a product by plain arithmetic.
    PlainProduct(PlainProductTile),
    /// Of an attention by plain arithmetic.
    PlainAttention(PlainAttentionTile),
    /// Of an attention's gradient by plain arithmetic.
    PlainGradient(PlainAttentionTile),
    /// None of ours: the library of the device's maker does the product.
    Library,
}

impl Work {
    fn key(&self) -> String {
        match self {
            Self::Product(p) => p.key(),
            Self::Attention(a) => a.key(),
            Self::Gradient(g) => g.key(),
        }
    }
}

/// What a plain problem's name begins with.
const PLAIN: &str = "plain ";

impl Problem {
    /// A problem for tensor cores.
    pub fn tensor(work: Work) -> Self {
        Self { work, plain: false }
    }

    /// A problem for plain arithmetic.
    pub fn plain(work: Work) -> Self {
        Self { work, plain: true }
    }

    /// The problem that a launch solves, where its kernel has tiles to choose from.
    pub fn of(launch: &Launch) -> Option<Self> {
        Self::of_kernel(&launch.blueprint.kernel, &launch.sizes)
    }

    /// The problem that a kernel solves with these sizes.
    pub fn of_kernel(kernel: &Kernel, sizes: &[u32]) -> Option<Self> {
        Some(match kernel {
            Kernel::TensorProduct(p) => {
                let aligns = [p.a.align, p.b.align];
                Self::tensor(Work::Product(ProductProblem::of(p.row_rank, [p.a.along, p.b.along], aligns, sizes)))
            }
            // However its factors are aligned: only the copy engine asks for that.
            Kernel::Product(p) => Self::plain(Work::Product(ProductProblem::of(p.row_rank, p.along, ALIGNED, sizes))),
            Kernel::TensorAttention(a) => {
                Self::tensor(Work::Attention(AttentionProblem::of(a.tile.dim, a.keys, sizes)))
            }
            Kernel::Attention(a) => Self::plain(Work::Attention(AttentionProblem::of(a.tile.dim, a.keys, sizes))),
            Kernel::TensorAttentionGrad(a) => {
                Self::tensor(Work::Gradient(GradProblem::of(a.tile.dim, a.side, a.keys, sizes)))
            }
            Kernel::AttentionGrad(a) => Self::plain(Work::Gradient(GradProblem::of(a.tile.dim, a.side, a.keys, sizes))),
            _ => return None,
        })
    }

    /// The problem of this name; `None` where it is none.
    pub fn from_key(key: &str) -> Option<Self> {
        let (plain, rest) = key.strip_prefix(PLAIN).map_or((false, key), |rest| (true, rest));
        let (sizes, kind) = rest.split_once(' ').unwrap_or((rest, ""));
        let numbers: Vec<usize> = sizes.split('x').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let sizes: [usize; 4] = numbers.try_into().ok()?;
        let work = match kind {
            "" => Work::Attention(AttentionProblem::from_sizes(sizes)?),
            _ => (ProductProblem::from_name(sizes, kind).map(Work::Product))
                .or_else(|| GradProblem::from_name(sizes, kind).map(Work::Gradient))?,
        };
        Some(Self { work, plain })
    }

    /// Name of the problem in a file of choices.
    pub fn key(&self) -> String {
        format!("{}{}", if self.plain { PLAIN } else { "" }, self.work.key())
    }

    /// The tiles that the target has for it.
    pub fn tiles(&self, target: &Target) -> Vec<ProblemTile> {
        match (&self.work, self.plain) {
            (Work::Product(p), false) => p.tiles(target).map(ProblemTile::Product).collect(),
            (Work::Attention(a), false) => a.tiles(target).map(ProblemTile::Attention).collect(),
            (Work::Gradient(g), false) => g.tiles(target).map(ProblemTile::Gradient).collect(),
            (Work::Product(_), true) => plain::product_tiles(target).map(ProblemTile::PlainProduct).collect(),
            (Work::Attention(a), true) => plain::attention_tiles(target, a).map(ProblemTile::PlainAttention).collect(),
            (Work::Gradient(g), true) => plain::gradient_tiles(target, g).map(ProblemTile::PlainGradient).collect(),
        }
    }

    /// The tile that is taken where nothing was measured; `None` where the target has none.
    pub fn expected(&self, target: &Target) -> Option<ProblemTile> {
        Some(match (&self.work, self.plain) {
            (Work::Product(p), false) => ProblemTile::Product(p.expected(target)?),
            (Work::Attention(a), false) => ProblemTile::Attention(a.tiles(target).next()?),
            (Work::Gradient(g), false) => ProblemTile::Gradient(g.tiles(target).next()?),
            (Work::Product(p), true) => ProblemTile::PlainProduct(plain::product(target, p)),
            (Work::Attention(a), true) => ProblemTile::PlainAttention(plain::attention(target, a.dim, a.queries)?),
            (Work::Gradient(g), true) => ProblemTile::PlainGradient(plain::gradient(target, g)?),
        })
    }

    /// The tile: what was chosen by measuring, where the target has it, else what is expected to be fastest.
    fn tile(&self, target: &Target) -> Option<ProblemTile> {
        let chosen = if target.choices.tiles.is_empty() { None } else { target.choices.tiles.get(&self.key()) };
        let chosen = chosen.copied().filter(|tile| self.takes(target, tile));
        chosen.or_else(|| self.expected(target))
    }

    /// Whether its kernels run with a tile: of attention's on tensor cores those too that are listed for other sizes.
    fn takes(&self, target: &Target, tile: &ProblemTile) -> bool {
        match (&self.work, tile) {
            (Work::Attention(a), ProblemTile::Attention(tile)) if !self.plain => tile.fits(target, a.dim),
            _ => self.tiles(target).contains(tile),
        }
    }
}

/// A kind of tile that lowering asks for.
pub(in crate::gpu) trait TileKind: Sized {
    /// Itself, where the tile is of this kind.
    fn from_tile(tile: ProblemTile) -> Option<Self>;
}

/// The tile of a problem on a target, of the kind that the problem's kernels have: what was chosen by measuring, where the target has it, else what is
/// expected to be fastest; `None` where the target has none.
pub(in crate::gpu) fn tile_of<T: TileKind>(problem: Problem, target: &Target) -> Option<T> {
    problem.tile(target).and_then(T::from_tile)
}

macro_rules! kinds {
    ($($tile:ty: $($kind:ident),+;)*) => {
        $(impl TileKind for $tile {
            fn from_tile(tile: ProblemTile) -> Option<Self> {
                match tile {
                    $(ProblemTile::$kind(tile) => Some(tile),)+
                    _ => None,
                }
            }
        })*
    };
}
kinds!(
    ProductTile: Product;
    AttentionTile: Attention;
    GradTile: Gradient;
    PlainProductTile: PlainProduct;
    PlainAttentionTile: PlainAttention, PlainGradient;
);

impl Choices {
    /// Whether a tile was chosen for a problem.
    pub fn knows(&self, problem: &Problem) -> bool {
        self.tiles.contains_key(&problem.key())
    }

    /// Takes over what others choose, and keeps what they say nothing of.
    pub fn replace(&mut self, others: Self) {
        self.library.retain(|key| !others.tiles.contains_key(key));
        self.tiles.extend(others.tiles);
        self.library.extend(others.library);
    }

    /// Takes a tile for a problem from now on.
    pub fn choose(&mut self, problem: &Problem, tile: ProblemTile) {
        match tile {
            ProblemTile::Library => drop(self.library.insert(problem.key())),
            _ => drop(self.tiles.insert(problem.key(), tile)),
        }
    }

    /// Leaves out the tiles that the target does not have for their problem.
    pub fn keep_known(&mut self, target: &Target) {
        self.tiles.retain(|key, tile| Problem::from_key(key).is_some_and(|p| p.tiles(target).contains(tile)));
    }
}
