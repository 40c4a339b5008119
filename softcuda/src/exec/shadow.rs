//! What is known about every byte of shared memory: who wrote it last, who read it since, and what those accesses are
//! ordered with. Ordering between warps follows from barriers only, by vector clocks.
//!
//! Cells cover four bytes while all accesses do; a narrower access splits the cell of its word into four.

use crate::error::FaultKind;

const WRITTEN: u8 = 1;
const ATOMIC: u8 = 2;
const PENDING: u8 = 4;
const SPLIT: u8 = 8;

#[derive(Clone, Copy, Default)]
struct Cell {
    /// Warps that read it since it was written.
    readers: u32,
    /// Clock of the writer.
    clock: u32,
    writer: u8,
    flags: u8,
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
    warps: usize,
    words: Vec<Cell>,
    word_reads: Vec<u32>,
    narrow: Vec<Cell>,
    narrow_reads: Vec<u32>,
    /// `clocks[a * warps + b]`: the last clock of warp `b` that warp `a` is ordered after.
    pub clocks: Vec<u32>,
}

/// A broken rule: which, what happened.
pub(crate) type Broken = (FaultKind, String);

impl Shadow {
    pub fn new(bytes: u32, warps: usize) -> Shadow {
        let words = bytes.div_ceil(4) as usize;
        let mut shadow = Shadow {
            bytes,
            warps,
            words: vec![Cell::default(); words],
            word_reads: vec![0; words * warps],
            narrow: Vec::new(),
            narrow_reads: Vec::new(),
            clocks: vec![0; warps * warps],
        };
        shadow.reset();
        shadow
    }

    pub fn reset(&mut self) {
        self.words.fill(Cell::default());
        self.clocks.fill(0);
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
    pub fn touch(&mut self, w: u32, at: u32, size: u32, access: Access) -> Result<(), Broken> {
        if at & 3 == 0 && size & 3 == 0 {
            for word in at / 4..(at + size) / 4 {
                let i = word as usize;
                if self.words[i].flags & SPLIT == 0 {
                    let own = w as usize * self.warps;
                    // Read before by this warp at this clock, and not written since: nothing new to learn.
                    if access == Access::Read
                        && self.words[i].readers >> w & 1 != 0
                        && self.word_reads[i * self.warps + w as usize] == self.clocks[own + w as usize]
                    {
                        continue;
                    }
                    let clocks = &self.clocks[own..own + self.warps];
                    let reads = &mut self.word_reads[i * self.warps..][..self.warps];
                    check(&mut self.words[i], reads, w, clocks, access).map_err(|b| at_byte(b, word * 4))?;
                } else {
                    for byte in word * 4..word * 4 + 4 {
                        self.narrow(w, byte, access)?;
                    }
                    if access != Access::Read && access != Access::Atomic {
                        self.words[i] = self.narrow[i * 4];
                        self.words[i].flags &= !SPLIT;
                    }
                }
            }
            return Ok(());
        }
        if self.narrow.is_empty() {
            self.narrow = vec![Cell::default(); self.words.len() * 4];
            self.narrow_reads = vec![0; self.words.len() * 4 * self.warps];
        }
        for byte in at..at + size {
            let i = byte as usize / 4;
            if self.words[i].flags & SPLIT == 0 {
                let reads = i * self.warps;
                for b in i * 4..i * 4 + 4 {
                    self.narrow[b] = self.words[i];
                    self.narrow_reads[b * self.warps..][..self.warps]
                        .copy_from_slice(&self.word_reads[reads..reads + self.warps]);
                }
                self.words[i].flags |= SPLIT;
            }
            self.narrow(w, byte, access)?;
        }
        Ok(())
    }

    fn narrow(&mut self, w: u32, byte: u32, access: Access) -> Result<(), Broken> {
        let i = byte as usize;
        let own = w as usize * self.warps;
        let clocks = &self.clocks[own..own + self.warps];
        let reads = &mut self.narrow_reads[i * self.warps..][..self.warps];
        check(&mut self.narrow[i], reads, w, clocks, access).map_err(|b| at_byte(b, byte))
    }
}

fn at_byte(broken: Broken, byte: u32) -> Broken {
    (broken.0, format!("{} (shared byte {byte})", broken.1))
}

#[inline]
fn check(cell: &mut Cell, reads: &mut [u32], w: u32, clocks: &[u32], access: Access) -> Result<(), Broken> {
    let own = clocks[w as usize];
    if access == Access::End {
        *cell = Cell { readers: 0, clock: own, writer: w as u8, flags: WRITTEN };
        return Ok(());
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
        if !ordered {
            let message = format!("data race: warp {w} reads what warp {writer} wrote without a barrier between");
            return Err((FaultKind::Race, message));
        }
        cell.readers |= 1 << w;
        reads[w as usize] = own;
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
        if clocks[u] < reads[u] {
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
    *cell = Cell { readers: 0, clock: own, writer: w as u8, flags: flags | cell.flags & SPLIT };
    Ok(())
}
