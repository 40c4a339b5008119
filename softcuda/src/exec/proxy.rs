//! What asynchronous readers of shared memory need to know: which bytes they read while they are under way, and what the
//! writers of those bytes have shown them by `fence.proxy.async`.

use super::shadow::{Access, Broken, PENDING, SPLIT, Shadow, WRITTEN, at_byte};
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
        }
        for (u, slot) in self.horizons.iter_mut().enumerate() {
            let seen = self.clocks[w as usize * self.warps + u];
            let list = &self.shown[u];
            let before = &list[..list.partition_point(|(clock, _)| *clock < seen)];
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

    /// Fails if a product under way reads any of the bytes.
    pub fn unread(&self, at: u32, size: u32) -> Result<(), Broken> {
        for part in at / 16..(at + size).div_ceil(16) {
            if self.products[part as usize] != 0 {
                let message = "write to shared memory that a wgmma under way reads";
                return Err(at_byte((FaultKind::PendingProduct, message.into()), at.max(part * 16)));
            }
        }
        Ok(())
    }
}
