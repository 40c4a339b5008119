//! Asynchronous products of four warps (`wgmma`). They are computed when their warp waits for them, never earlier, and
//! everything that would notice on a device that they run beside the warp is refused until then.
//!
//! Registers in PTX are not those of a device: the compiler may move accumulators that are still being computed to
//! other virtual registers, which costs nothing there. A move of such a register is thus a new name for it; anything
//! else that touches it is an error.

use std::collections::VecDeque;

use super::descriptor::Descriptor;
use super::half::{Kind, to_f32};
use super::warp::Warp;
use super::{Block, Lanes, bits};
use crate::error::{Fault, FaultKind};
use crate::op::{GroupMma, Left, NONE, Op, Row, Ty};

/// Where the accumulators of a product come from.
enum Start {
    Zero,
    /// Rows of the registers at the issue, as a tile.
    Tile(Vec<f32>),
    /// The product with this number.
    Chain(u32),
}

/// A product under way.
struct Flight<'a> {
    mma: &'a GroupMma,
    number: u32,
    group: Option<u32>,
    start: Start,
    a: Option<[Lanes; 4]>,
    /// Chunks of shared memory that it reads.
    left: Vec<u32>,
    right: Vec<u32>,
}

/// The products of a warp, and the state of the registers that they use.
#[derive(Default)]
pub(crate) struct Products<'a> {
    flights: VecDeque<Flight<'a>>,
    next: u32,
    committed: u32,
    /// Per register: the product that computes it and the element, plus one; 0 when nothing does.
    tags: Vec<u64>,
    /// Products that read the register.
    held: Vec<u16>,
    /// It was written since the last `wgmma.fence`.
    dirty: Vec<bool>,
    fenced: bool,
}

/// Columns of B as they are multiplied, until the four warps have used them.
pub(crate) struct Tile {
    group: u32,
    number: u32,
    uses: u32,
    values: Vec<f32>,
}

fn tag(number: u32, element: usize) -> u64 {
    (u64::from(number) << 8 | element as u64) + 1
}

fn refuse(message: impl Into<String>) -> Box<Fault> {
    Fault::new(FaultKind::PendingProduct, 0, message)
}

impl Products<'_> {
    /// Forgets everything.
    pub fn reset(&mut self, rows: usize) {
        self.flights.clear();
        (self.next, self.committed, self.fenced) = (0, 0, false);
        self.tags.clear();
        self.tags.resize(rows, 0);
        self.held.clear();
        self.held.resize(rows, 0);
        self.dirty.clear();
        self.dirty.resize(rows, false);
    }

    /// Whether a product is under way.
    pub fn any(&self) -> bool {
        !self.flights.is_empty()
    }

    fn check(&self, row: Row, write: bool) -> Result<(), Box<Fault>> {
        let verb = if write { "write to" } else { "read of" };
        if self.tags[row as usize] != 0 {
            return Err(refuse(format!("{verb} an accumulator of wgmma before it was waited for")));
        }
        if self.held[row as usize] != 0 {
            return Err(refuse(format!("{verb} a register of wgmma's factor A before the product was waited for")));
        }
        Ok(())
    }

    /// An instruction other than a product touches registers that products use.
    pub fn watch(&mut self, op: &Op, mask: u32) -> Result<(), Box<Fault>> {
        if let Op::Mov { d, a } = *op {
            let (from, to) = (a as usize, d as usize);
            if from == to {
                return Ok(());
            }
            if self.tags[from] != 0 {
                if mask != u32::MAX {
                    return Err(refuse(
                        "move of an accumulator of wgmma in a part of the lanes, before it was waited for",
                    ));
                }
                if self.held[to] != 0 {
                    self.check(d, true)?;
                }
                self.tags[to] = self.tags[from];
                self.dirty[to] = false;
                return Ok(());
            }
            self.check(d, true)?;
            // Compilers put constants into registers, and values into others, wherever they like.
            self.dirty[to] = self.dirty[from];
            return Ok(());
        }
        let mut result = Ok(());
        crate::operands::operands(op, |row, write| {
            if result.is_ok() {
                result = self.check(row, write);
            }
            if write {
                self.dirty[row as usize] = true;
            }
        });
        result
    }
}

impl<'a> Block<'a> {
    /// Runs `wgmma` instructions once the warpgroup is together.
    pub fn group(&mut self, w: &mut Warp<'a>, op: &'a Op) -> Result<(), Box<Fault>> {
        match op {
            Op::GroupFence => {
                w.products.fenced = true;
                for row in &self.kernel.product_registers {
                    w.products.dirty[*row as usize] = false;
                }
                Ok(())
            }
            Op::GroupCommit => {
                let group = w.products.committed;
                w.products.committed += 1;
                w.products.flights.iter_mut().filter(|f| f.group.is_none()).for_each(|f| f.group = Some(group));
                Ok(())
            }
            Op::GroupWait { keep } => self.wait_products(w, *keep),
            Op::GroupMma(mma) => self.issue(w, mma),
            _ => unreachable!("only wgmma comes here"),
        }
    }

    fn issue(&mut self, w: &mut Warp<'a>, mma: &'a GroupMma) -> Result<(), Box<Fault>> {
        let products = &mut w.products;
        if !products.fenced {
            return Err(refuse("the first wgmma needs a wgmma.fence before it"));
        }
        let (scale, negated) = mma.scale;
        let add = scale == NONE || (bits(&w.regs[scale as usize]) & 1 != 0) != negated;
        let changed = "was changed since the last wgmma.fence";
        let number = products.next;
        let before = products.tags[mma.d[0] as usize];
        let chained =
            mma.d.iter().enumerate().all(|(i, row)| before != 0 && products.tags[*row as usize] == before + i as u64);
        let earlier = before.saturating_sub(1) >> 8;
        let chained = chained
            && (before - 1) & 0xff == 0
            && products
                .flights
                .iter()
                .any(|f| u64::from(f.number) == earlier && f.mma.n == mma.n && f.mma.ty == mma.ty);
        let start = if chained {
            if add { Start::Chain(earlier as u32) } else { Start::Zero }
        } else {
            for row in &mma.d {
                products.check(*row, true)?;
                if products.dirty[*row as usize] {
                    return Err(refuse(format!("an accumulator of wgmma {changed}")));
                }
            }
            if add { Start::Tile(tile_of(&w.regs, mma)) } else { Start::Zero }
        };
        let mut a = None;
        if let Left::Registers(rows) = &mma.a {
            for row in rows {
                if products.tags[*row as usize] != 0 {
                    products.check(*row, false)?;
                }
                if products.dirty[*row as usize] {
                    return Err(refuse(format!("a register of wgmma's factor A {changed}")));
                }
                products.held[*row as usize] += 1;
            }
            a = Some(rows.map(|r| w.regs[r as usize]));
        }
        for (i, row) in mma.d.iter().enumerate() {
            if products.held[*row as usize] != 0 {
                products.check(*row, true)?;
            }
            products.tags[*row as usize] = tag(number, i);
        }
        products.next += 1;
        let read = |bits: u64| Descriptor::new(bits).map_err(|m| Fault::new(FaultKind::Trap, 0, m));
        let left = match mma.a {
            Left::Shared(row) => read(w.row(row)[0])?.chunks(mma.turn_a, w.id % 4 * 16, 16),
            Left::Registers(_) => Vec::new(),
        };
        let right = read(w.row(mma.b)[0])?.chunks(mma.turn_b, 0, mma.n);
        self.shadow.horizon(w.id);
        for places in [&left, &right] {
            if let Some(at) = places.iter().find(|at| **at + 16 > self.shadow.bytes) {
                let all = self.shadow.bytes;
                let message = format!("wgmma reads 16 bytes at {at} of shared memory; the block has {all}");
                return Err(Fault::new(FaultKind::SharedRange, 0, message));
            }
            self.shadow.product_begins(w.id, places).map_err(|(kind, m)| Fault::new(kind, 0, format!("wgmma: {m}")))?;
        }
        self.stats.matrix_ops += u64::from(mma.n) * 256;
        w.products.flights.push_back(Flight { mma, number, group: None, start, a, left, right });
        Ok(())
    }

    /// Completes all groups but the last `keep`.
    fn wait_products(&mut self, w: &mut Warp<'a>, keep: u32) -> Result<(), Box<Fault>> {
        loop {
            let committed = w.products.committed;
            let done = w.products.flights.front().and_then(|f| f.group).is_some_and(|g| g + keep < committed);
            if !done {
                return Ok(());
            }
            if let Some(flight) = w.products.flights.pop_front() {
                self.finish(w, flight);
            }
        }
    }

    fn finish(&mut self, w: &mut Warp<'a>, mut flight: Flight<'a>) {
        let (mma, n) = (flight.mma, flight.mma.n as usize);
        self.shadow.product_ends(w.id, &flight.left);
        self.shadow.product_ends(w.id, &flight.right);
        let kind = if mma.ty == Ty::F16 { Kind::F16 } else { Kind::Bf16 };
        let mut a = [[0f32; 16]; 16];
        match &flight.a {
            Some(rows) => {
                for (r, row) in rows.iter().enumerate() {
                    for (lane, value) in row.iter().enumerate() {
                        for e in 0..2 {
                            let (i, k) = (lane / 4 + r % 2 * 8, lane % 4 * 2 + e + r / 2 * 8);
                            a[i][k] = to_f32(kind, (value >> (e * 16)) as u16);
                        }
                    }
                }
            }
            None => {
                for (i, at) in flight.left.iter().enumerate() {
                    let values = chunk(&self.shared, *at, kind);
                    for (e, value) in values.into_iter().enumerate() {
                        let (row, k) = if mma.turn_a { (i % 2 * 8 + e, i / 2) } else { (i / 2, i % 2 * 8 + e) };
                        a[row][k] = value;
                    }
                }
            }
        }
        if mma.negate {
            a.iter_mut().flatten().for_each(|x| *x = -*x);
        }
        let mut sums = match std::mem::replace(&mut flight.start, Start::Zero) {
            Start::Zero | Start::Chain(_) => vec![0f32; 16 * n],
            Start::Tile(tile) => tile,
        };
        let b = self.right(w.id / 4, &flight, kind);
        multiply(self.fast, n, &a, &b.values, &mut sums);
        self.keep(b);
        let products = &mut w.products;
        if let Left::Registers(rows) = &mma.a {
            rows.iter().for_each(|r| products.held[*r as usize] -= 1);
        }
        for row in &self.kernel.product_registers {
            let tag = products.tags[*row as usize];
            if tag != 0 && (tag - 1) >> 8 == u64::from(flight.number) {
                products.tags[*row as usize] = 0;
                let e = (tag - 1) as usize & 0xff;
                w.regs[*row as usize] = std::array::from_fn(|lane| {
                    let (i, j) = place(lane, e);
                    u64::from(sums[i * n + j].to_bits())
                });
            }
        }
        for later in &mut products.flights {
            if matches!(later.start, Start::Chain(number) if number == flight.number) {
                later.start = Start::Tile(sums);
                return;
            }
        }
    }

    /// The columns of B; all four warps multiply by the same ones.
    fn right(&mut self, group: u32, flight: &Flight, kind: Kind) -> Tile {
        if let Some(i) = self.tiles.iter().position(|t| t.group == group && t.number == flight.number) {
            return self.tiles.swap_remove(i);
        }
        let n = flight.mma.n as usize;
        let mut values = vec![0f32; 16 * n];
        for (i, at) in flight.right.iter().enumerate() {
            let part = chunk(&self.shared, *at, kind);
            if flight.mma.turn_b {
                values[i * 8..][..8].copy_from_slice(&part);
            } else {
                for (e, value) in part.into_iter().enumerate() {
                    values[(i % 2 * 8 + e) * n + i / 2] = value;
                }
            }
        }
        Tile { group, number: flight.number, uses: 0, values }
    }

    fn keep(&mut self, mut tile: Tile) {
        tile.uses += 1;
        if tile.uses < 4 {
            self.tiles.push(tile);
        }
    }
}

/// Row (of a warp's sixteen) and column of an element of an accumulator.
fn place(lane: usize, e: usize) -> (usize, usize) {
    (lane / 4 + e / 2 % 2 * 8, e / 4 * 8 + lane % 4 * 2 + e % 2)
}

fn tile_of(regs: &[Lanes], mma: &GroupMma) -> Vec<f32> {
    let n = mma.n as usize;
    let mut tile = vec![0f32; 16 * n];
    for (e, row) in mma.d.iter().enumerate() {
        for (lane, value) in regs[*row as usize].iter().enumerate() {
            let (i, j) = place(lane, e);
            tile[i * n + j] = f32::from_bits(*value as u32);
        }
    }
    tile
}

/// Eight halves of shared memory.
fn chunk(shared: &[u8], at: u32, kind: Kind) -> [f32; 8] {
    let bytes = &shared[at as usize..at as usize + 16];
    std::array::from_fn(|e| to_f32(kind, u16::from_le_bytes([bytes[e * 2], bytes[e * 2 + 1]])))
}

fn multiply(fast: bool, n: usize, a: &[[f32; 16]; 16], b: &[f32], c: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if fast {
        // SAFETY: the caller found the features on this host.
        return unsafe { multiply_fast(n, a, b, c) };
    }
    let _ = fast;
    multiply_body(n, a, b, c);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_fast(n: usize, a: &[[f32; 16]; 16], b: &[f32], c: &mut [f32]) {
    multiply_body(n, a, b, c);
}

#[inline(always)]
fn multiply_body(n: usize, a: &[[f32; 16]; 16], b: &[f32], c: &mut [f32]) {
    for (row, sums) in a.iter().zip(c.chunks_exact_mut(n)) {
        for (x, line) in row.iter().zip(b.chunks_exact(n)) {
            for (sum, y) in sums.iter_mut().zip(line) {
                *sum = x.mul_add(*y, *sum);
            }
        }
    }
}
