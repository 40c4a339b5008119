//! What is known about every byte of shared memory: who wrote it last, who read it since, and what those accesses are
//! ordered with. Ordering between warps follows from barriers only, by vector clocks.
//!
//! Cells cover four bytes while all accesses do; a narrower access splits the cell of its word into four.

use super::remote::RemoteRead;
use crate::error::FaultKind;

pub(super) const WRITTEN: u8 = 1;
const ATOMIC: u8 = 2;
pub(super) const PENDING: u8 = 4;
pub(super) const SPLIT: u8 = 8;
/// The word belongs to an `mbarrier`.
pub(super) const BARRIER: u8 = 16;
/// A bulk copy wrote it.
pub(super) const COPIED: u8 = 32;

#[derive(Clone, Copy, Default)]
pub(super) struct Cell {
    /// Warps that read it since it was written.
    pub readers: u32,
    /// Clock of the writer.
    pub clock: u32,
    pub writer: u8,
    pub flags: u8,
    /// Lane of the writer.
    pub lane: u8,
}

/// Kinds of access.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Atomic,
    /// An asynchronous copy into the bytes begins.
    Begin,
    /// It has ended.
    End,
}

/// The shadow of a block's shared memory.
pub(crate) struct Shadow {
    pub bytes: u32,
    pub(super) warps: usize,
    /// Stands for bulk copies among the warps.
    pub(super) copier: Option<usize>,
    pub(super) words: Vec<Cell>,
    /// `word_reads[w * words + i]`: the clock at which warp `w` read word `i`.
    pub(super) word_reads: Vec<u32>,
    pub(super) narrow: Vec<Cell>,
    pub(super) narrow_reads: Vec<u32>,
    /// `clocks[a * warps + b]`: the last clock of warp `b` that warp `a` is ordered after.
    pub clocks: Vec<u32>,
    /// Asynchronous products under way that read each 16 bytes; empty before the first.
    pub(super) products: Vec<u16>,
    /// Reads by other blocks of the cluster that nothing orders before what this block does.
    pub(super) remote: Vec<RemoteRead>,
    /// Writes have to look at `products` and `remote`.
    pub(super) guarded: bool,
    /// Per warp: the clocks at which it executed `fence.proxy.async`, and the lanes that did not.
    pub(super) shown: Vec<Vec<(u32, u32)>>,
    /// For the warp that issues products: the last clock of each warp whose writes it may read asynchronously.
    pub(super) horizons: Vec<u32>,
}

/// A broken rule: which, what happened.
pub(crate) type Broken = (FaultKind, String);

impl Shadow {
    /// `copies`: bulk copies take part as one more warp, the last.
    pub fn new(bytes: u32, warps: usize, copies: bool) -> Shadow {
        let copier = copies.then_some(warps);
        let warps = warps + usize::from(copies);
        let words = bytes.div_ceil(4) as usize;
        let mut shadow = Shadow {
            bytes,
            warps,
            copier,
            words: vec![Cell::default(); words],
            word_reads: vec![0; words * warps],
            narrow: Vec::new(),
            narrow_reads: Vec::new(),
            clocks: vec![0; warps * warps],
            products: Vec::new(),
            remote: Vec::new(),
            guarded: false,
            shown: vec![Vec::new(); warps],
            horizons: vec![0; warps],
        };
        shadow.reset();
        shadow
    }

    pub fn reset(&mut self) {
        self.words.fill(Cell::default());
        self.clocks.fill(0);
        self.products.fill(0);
        self.remote.clear();
        self.guarded = !self.products.is_empty();
        self.shown.iter_mut().for_each(Vec::clear);
        for w in 0..self.warps {
            self.clocks[w * self.warps + w] = 1;
        }
    }

    /// The clocks that warp `w` is ordered after.
    pub fn clock(&self, w: usize) -> &[u32] {
        &self.clocks[w * self.warps..][..self.warps]
    }

    /// Everything that `w` did so far gets a clock of its own.
    pub fn tick(&mut self, w: usize) {
        self.clocks[w * self.warps + w] += 1;
    }

    /// Orders `w` after `seen`.
    pub fn join(&mut self, w: usize, seen: &[u32]) {
        for (mine, theirs) in self.clocks[w * self.warps..][..self.warps].iter_mut().zip(seen) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// Checks and records an access of `size` bytes at `at`, which are in range.
    #[inline]
    pub fn touch(&mut self, w: u32, lane: usize, at: u32, size: u32, access: Access) -> Result<(), Broken> {
        if access != Access::Read && self.guarded {
            self.unread(at, size)?;
        }
        if at & 3 == 0 && size & 3 == 0 {
            let (from, to) = (at as usize / 4, (at + size) as usize / 4);
            let done = match access {
                Access::Read => self.read_words(w, from, to),
                Access::Atomic => false,
                _ => self.write_words(w, lane, from, to, access),
            };
            if done {
                return Ok(());
            }
        }
        self.touch_slowly(w, lane, at, size, access)
    }

    /// Records a read of whole words in the common case; `false` leaves it to the full check.
    #[inline]
    fn read_words(&mut self, w: u32, from: usize, to: usize) -> bool {
        let clocks = &self.clocks[w as usize * self.warps..][..self.warps];
        let own = clocks[w as usize];
        let reads = &mut self.word_reads[w as usize * self.words.len()..][from..to];
        for (cell, read) in self.words[from..to].iter_mut().zip(reads) {
            let ordered = u32::from(cell.writer) == w || clocks[cell.writer as usize] >= cell.clock;
            if cell.flags & (WRITTEN | PENDING | SPLIT) != WRITTEN || !ordered {
                return false;
            }
            cell.readers |= 1 << w;
            *read = own;
        }
        true
    }

    /// Records a write of whole words in the common case; `false` leaves it to the full check.
    #[inline]
    fn write_words(&mut self, w: u32, lane: usize, from: usize, to: usize, access: Access) -> bool {
        let clocks = &self.clocks[w as usize * self.warps..][..self.warps];
        let mut readers = 0;
        for cell in &self.words[from..to] {
            let pending = cell.flags & PENDING != 0 && access != Access::End;
            let ordered = u32::from(cell.writer) == w || clocks[cell.writer as usize] >= cell.clock;
            if cell.flags & (SPLIT | BARRIER) != 0 || pending || !ordered {
                return false;
            }
            readers |= cell.readers;
        }
        readers &= !(1 << w);
        while readers != 0 {
            let u = readers.trailing_zeros() as usize;
            readers &= readers - 1;
            // Reads before the last write may be found here too; the full check knows better.
            if self.word_reads[u * self.words.len()..][from..to].iter().any(|read| *read > clocks[u]) {
                return false;
            }
        }
        let flags = if access == Access::Begin { PENDING } else { WRITTEN };
        let cell = Cell { readers: 0, clock: clocks[w as usize], writer: w as u8, flags, lane: lane as u8 };
        self.words[from..to].fill(cell);
        true
    }

    #[cold]
    fn touch_slowly(&mut self, w: u32, lane: usize, at: u32, size: u32, access: Access) -> Result<(), Broken> {
        let whole = at & 3 == 0 && size & 3 == 0;
        if !whole && self.narrow.is_empty() {
            self.narrow = vec![Cell::default(); self.words.len() * 4];
            self.narrow_reads = vec![0; self.words.len() * 4 * self.warps];
        }
        let own = w as usize * self.warps;
        let words = self.words.len();
        for word in at / 4..(at + size).div_ceil(4) {
            let i = word as usize;
            let split = self.words[i].flags & SPLIT != 0;
            if whole && !split {
                let clocks = &self.clocks[own..own + self.warps];
                let reads = Reads { of: &mut self.word_reads, step: words, at: i };
                check(&mut self.words[i], reads, (w, lane), clocks, access).map_err(|b| at_byte(b, word * 4))?;
                continue;
            }
            if !split {
                for b in i * 4..i * 4 + 4 {
                    self.narrow[b] = self.words[i];
                    for u in 0..self.warps {
                        self.narrow_reads[u * words * 4 + b] = self.word_reads[u * words + i];
                    }
                }
                self.words[i].flags |= SPLIT;
            }
            for byte in (word * 4).max(at)..(word * 4 + 4).min(at + size) {
                let clocks = &self.clocks[own..own + self.warps];
                let reads = Reads { of: &mut self.narrow_reads, step: words * 4, at: byte as usize };
                check(&mut self.narrow[byte as usize], reads, (w, lane), clocks, access)
                    .map_err(|b| at_byte(b, byte))?;
            }
            // A write of the whole word makes it one again.
            if whole && access != Access::Read && access != Access::Atomic {
                self.words[i] = self.narrow[i * 4];
                self.words[i].flags &= !SPLIT;
            }
        }
        Ok(())
    }
}

/// The clocks at which warps read one cell.
struct Reads<'a> {
    of: &'a mut [u32],
    step: usize,
    at: usize,
}

impl Reads<'_> {
    fn by(&mut self, warp: usize) -> &mut u32 {
        &mut self.of[warp * self.step + self.at]
    }
}

pub(super) fn at_byte(broken: Broken, byte: u32) -> Broken {
    (broken.0, format!("{} (shared byte {byte})", broken.1))
}

fn check(
    cell: &mut Cell,
    mut reads: Reads,
    (w, lane): (u32, usize),
    clocks: &[u32],
    access: Access,
) -> Result<(), Broken> {
    let own = clocks[w as usize];
    if access == Access::End {
        *cell = Cell { readers: 0, clock: own, writer: w as u8, flags: WRITTEN, lane: lane as u8 };
        return Ok(());
    }
    if cell.flags & BARRIER != 0 {
        return Err((FaultKind::Trap, "access to the bytes of an mbarrier".into()));
    }
    if cell.flags & PENDING != 0 {
        let what = match access {
            Access::Read => "read of shared memory before the asynchronous copy into it was waited for",
            Access::Begin => "asynchronous copy into shared memory while another one into it is pending",
            _ => "write to shared memory while an asynchronous copy into it is pending",
        };
        return Err((FaultKind::PendingCopy, what.into()));
    }
    let writer = u32::from(cell.writer);
    let ordered = cell.flags & WRITTEN == 0 || writer == w || clocks[writer as usize] >= cell.clock;
    if access == Access::Read {
        if cell.flags & WRITTEN == 0 {
            return Err((
                FaultKind::Uninitialised,
                "read of shared memory that was never written in this block".into(),
            ));
        }
        if !ordered && cell.flags & COPIED != 0 {
            let message = format!("data race: warp {w} reads what a bulk copy wrote without waiting for its mbarrier");
            return Err((FaultKind::Race, message));
        }
        if !ordered {
            let message = format!("data race: warp {w} reads what warp {writer} wrote without a barrier between");
            return Err((FaultKind::Race, message));
        }
        cell.readers |= 1 << w;
        *reads.by(w as usize) = own;
        return Ok(());
    }
    if !ordered && !(access == Access::Atomic && cell.flags & ATOMIC != 0) {
        let message = format!("data race: warp {w} writes what warp {writer} wrote without a barrier between");
        return Err((FaultKind::Race, message));
    }
    let mut others = cell.readers & !(1 << w);
    while others != 0 {
        let u = others.trailing_zeros() as usize;
        others &= others - 1;
        if clocks[u] < *reads.by(u) {
            let message = format!("data race: warp {w} writes what warp {u} read without a barrier between");
            return Err((FaultKind::Race, message));
        }
    }
    if access == Access::Atomic && cell.flags & WRITTEN == 0 {
        return Err((FaultKind::Uninitialised, "atomic on shared memory that was never written in this block".into()));
    }
    let flags = match access {
        Access::Atomic => WRITTEN | ATOMIC,
        Access::Begin => PENDING,
        _ => WRITTEN,
    };
    *cell = Cell { readers: 0, clock: own, writer: w as u8, flags: flags | cell.flags & SPLIT, lane: lane as u8 };
    Ok(())
}
