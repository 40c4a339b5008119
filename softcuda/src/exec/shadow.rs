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
    /// Lane of the writer.
    lane: u8,
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
    /// Asynchronous products under way that read each word; empty before the first.
    products: Vec<u16>,
    /// Per warp: the clocks at which it executed `fence.proxy.async`, and the lanes that did not.
    shown: Vec<Vec<(u32, u32)>>,
    /// For the warp that issues products: the last clock of each warp whose writes it may read asynchronously.
    horizons: Vec<u32>,
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
            products: Vec::new(),
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
        if access != Access::Read && !self.products.is_empty() {
            self.unread(at, size)?;
        }
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
                    check(&mut self.words[i], reads, (w, lane), clocks, access).map_err(|b| at_byte(b, word * 4))?;
                } else {
                    for byte in word * 4..word * 4 + 4 {
                        self.narrow(w, lane, byte, access)?;
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
            self.narrow(w, lane, byte, access)?;
        }
        Ok(())
    }

    fn narrow(&mut self, w: u32, lane: usize, byte: u32, access: Access) -> Result<(), Broken> {
        let i = byte as usize;
        let own = w as usize * self.warps;
        let clocks = &self.clocks[own..own + self.warps];
        let reads = &mut self.narrow_reads[i * self.warps..][..self.warps];
        check(&mut self.narrow[i], reads, (w, lane), clocks, access).map_err(|b| at_byte(b, byte))
    }
}

impl Shadow {
    /// The lanes of `mask` show what they wrote so far to asynchronous readers that are ordered after this.
    pub fn show(&mut self, w: u32, mask: u32, alive: u32) {
        let clock = self.clocks[w as usize * self.warps + w as usize];
        self.shown[w as usize].push((clock, alive & !mask));
        self.tick(w as usize);
    }

    /// Prepares for products that warp `w` issues: finds the last fence of each warp that it is ordered after.
    pub fn horizon(&mut self, w: u32) {
        if self.products.is_empty() {
            self.products = vec![0; self.words.len()];
        }
        for (u, slot) in self.horizons.iter_mut().enumerate() {
            let seen = self.clocks[w as usize * self.warps + u];
            let list = &self.shown[u];
            let before = &list[..list.partition_point(|(clock, _)| *clock < seen)];
            *slot = before.iter().rev().find(|(_, missing)| *missing == 0).map_or(0, |(clock, _)| *clock);
        }
    }

    /// A product of warp `w` begins to read the 16 bytes at `at`, which are in range.
    pub fn product_begins(&mut self, w: u32, at: u32) -> Result<(), Broken> {
        self.touch(w, 0, at, 16, Access::Read)?;
        for word in at / 4..at / 4 + 4 {
            let i = word as usize;
            self.products[i] += 1;
            if self.words[i].flags & SPLIT == 0 {
                self.visible(w, &self.words[i], word * 4)?;
            } else {
                for byte in word * 4..word * 4 + 4 {
                    self.visible(w, &self.narrow[byte as usize], byte)?;
                }
            }
        }
        Ok(())
    }

    fn visible(&self, w: u32, cell: &Cell, byte: u32) -> Result<(), Broken> {
        let writer = cell.writer as usize;
        if cell.clock <= self.horizons[writer] {
            return Ok(());
        }
        let seen = self.clocks[w as usize * self.warps + writer];
        let lane = u32::from(cell.lane);
        let shown = self.shown[writer]
            .iter()
            .any(|(clock, missing)| cell.clock <= *clock && *clock < seen && missing >> lane & 1 == 0);
        if shown {
            return Ok(());
        }
        let message = format!(
            "what warp {writer} wrote was not shown by a fence.proxy.async of lane {lane} before the barrier (shared byte \
             {byte})"
        );
        Err((FaultKind::ProxyFence, message))
    }

    /// A product of warp `w` has read the 16 bytes at `at`.
    pub fn product_ends(&mut self, w: u32, at: u32) {
        let own = self.clocks[w as usize * self.warps + w as usize];
        for word in at as usize / 4..at as usize / 4 + 4 {
            self.products[word] -= 1;
            if self.words[word].flags & SPLIT == 0 {
                self.words[word].readers |= 1 << w;
                self.word_reads[word * self.warps + w as usize] = own;
            } else {
                for byte in word * 4..word * 4 + 4 {
                    self.narrow[byte].readers |= 1 << w;
                    self.narrow_reads[byte * self.warps + w as usize] = own;
                }
            }
        }
    }

    /// Fails if a product under way reads any of the bytes.
    fn unread(&self, at: u32, size: u32) -> Result<(), Broken> {
        for word in at / 4..(at + size).div_ceil(4) {
            if self.products[word as usize] != 0 {
                let message = "write to shared memory that a wgmma under way reads";
                return Err(at_byte((FaultKind::PendingProduct, message.into()), word * 4));
            }
        }
        Ok(())
    }
}

fn at_byte(broken: Broken, byte: u32) -> Broken {
    (broken.0, format!("{} (shared byte {byte})", broken.1))
}

#[inline]
fn check(
    cell: &mut Cell,
    reads: &mut [u32],
    (w, lane): (u32, usize),
    clocks: &[u32],
    access: Access,
) -> Result<(), Broken> {
    let own = clocks[w as usize];
    if access == Access::End {
        *cell = Cell { readers: 0, clock: own, writer: w as u8, flags: WRITTEN, lane: lane as u8 };
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
    *cell = Cell { readers: 0, clock: own, writer: w as u8, flags: flags | cell.flags & SPLIT, lane: lane as u8 };
    Ok(())
}
