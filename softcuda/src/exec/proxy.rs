//! What asynchronous readers of shared memory need to know: which bytes they read while they are under way, and what the
//! writers of those bytes have shown them by `fence.proxy.async`.

use super::shadow::{Access, BARRIER, Broken, COPIED, PENDING, SPLIT, Shadow, WRITTEN, at_byte};
use crate::error::FaultKind;

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
            self.products = vec![0; self.words.len().div_ceil(4)];
            self.guarded = true;
        }
        for (u, slot) in self.horizons.iter_mut().enumerate() {
            let seen = self.clocks[w as usize * self.warps + u];
            let list = &self.shown[u];
            let before = &list[..list.partition_point(|(clock, _)| *clock < seen)];
            if self.copier == Some(u) {
                // Asynchronous writes need no fence.
                *slot = seen;
                continue;
            }
            *slot = before.iter().rev().find(|(_, missing)| *missing == 0).map_or(0, |(clock, _)| *clock);
        }
    }

    /// A product of warp `w` begins to read the 16 bytes at each of `places`, which are in range.
    pub fn product_begins(&mut self, w: u32, places: &[u32]) -> Result<(), Broken> {
        for &at in places {
            let first = at as usize / 4;
            self.products[first / 4] += 1;
            // Whatever lies before the horizon is ordered, too.
            let plain = self.words[first..first + 4].iter().all(|cell| {
                cell.flags & (WRITTEN | PENDING | SPLIT) == WRITTEN && cell.clock <= self.horizons[cell.writer as usize]
            });
            if !plain {
                self.product_begins_slowly(w, at)?;
            }
        }
        Ok(())
    }

    /// A bulk copy of warp `w` into `bytes` at `at` begins; both are multiples of 16.
    pub fn copy_begins(&mut self, w: u32, lane: usize, at: u32, bytes: u32) -> Result<(), Broken> {
        for place in (at..at + bytes).step_by(16) {
            let first = place as usize / 4;
            let before: [_; 4] = std::array::from_fn(|i| self.words[first + i]);
            self.touch(w, lane, place, 16, Access::Begin)?;
            for (cell, byte) in before.iter().zip((place..).step_by(4)) {
                // A write of before could come after the copy if nothing keeps them in order.
                if cell.flags & (WRITTEN | SPLIT) == WRITTEN {
                    self.visible(w, cell, byte)?;
                }
            }
        }
        Ok(())
    }

    /// It is there: the copier wrote the bytes after all that `seen` is ordered after. Returns what those who wait for
    /// it are ordered after.
    pub fn copy_lands(&mut self, at: u32, bytes: u32, seen: &[u32]) -> Vec<u32> {
        let copier = self.copier.unwrap_or(0);
        self.join(copier, seen);
        let clock = self.clock(copier).to_vec();
        let cell = super::shadow::Cell {
            clock: clock[copier],
            writer: copier as u8,
            flags: WRITTEN | COPIED,
            ..Default::default()
        };
        self.words[at as usize / 4..(at + bytes) as usize / 4].fill(cell);
        self.tick(copier);
        clock
    }

    /// Whether warp `w` is ordered after the last write of the word at `at`.
    pub fn ordered(&self, w: u32, at: u32) -> bool {
        let cell = &self.words[at as usize / 4];
        u32::from(cell.writer) == w || self.clock(w as usize)[cell.writer as usize] >= cell.clock
    }

    /// The eight bytes at `at` become a barrier, or are one no longer.
    pub fn reserve(&mut self, at: u32, barrier: bool) {
        for cell in &mut self.words[at as usize / 4..][..2] {
            cell.flags = if barrier { BARRIER } else { 0 };
        }
    }

    fn product_begins_slowly(&mut self, w: u32, at: u32) -> Result<(), Broken> {
        self.touch(w, 0, at, 16, Access::Read)?;
        for byte in at..at + 16 {
            let word = &self.words[byte as usize / 4];
            let cell = if word.flags & SPLIT == 0 { word } else { &self.narrow[byte as usize] };
            self.visible(w, cell, byte)?;
        }
        Ok(())
    }

    fn visible(&self, w: u32, cell: &super::shadow::Cell, byte: u32) -> Result<(), Broken> {
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

    /// A product of warp `w` has read the 16 bytes at each of `places`.
    pub fn product_ends(&mut self, w: u32, places: &[u32]) {
        let own = self.clocks[w as usize * self.warps + w as usize];
        let words = self.words.len();
        for &at in places {
            let first = at as usize / 4;
            self.products[first / 4] -= 1;
            self.word_reads[w as usize * words..][first..first + 4].fill(own);
            for word in first..first + 4 {
                self.words[word].readers |= 1 << w;
                if self.words[word].flags & SPLIT != 0 {
                    for byte in word * 4..word * 4 + 4 {
                        self.narrow[byte].readers |= 1 << w;
                        self.narrow_reads[w as usize * words * 4 + byte] = own;
                    }
                }
            }
        }
    }

    /// Fails if a product under way reads any of the bytes, or another block read them.
    pub fn unread(&self, at: u32, size: u32) -> Result<(), Broken> {
        for part in at / 16..(at + size).div_ceil(16) {
            if self.products.get(part as usize).is_some_and(|n| *n != 0) {
                let message = "write to shared memory that a wgmma or a bulk copy under way reads";
                return Err(at_byte((FaultKind::PendingProduct, message.into()), at.max(part * 16)));
            }
        }
        self.unread_elsewhere(at, size)
    }
}
