//! What accesses cost a GPU: sectors of global memory, conflicts of shared memory's banks.

use super::{Block, Lanes, lanes};

impl Block<'_> {
    /// Counts the sectors of a global access.
    pub fn count_sectors(&mut self, mask: u32, addr: &Lanes, size: u32) {
        let mut list = [0u64; 32];
        let (mut n, mut sorted) = (0, true);
        for lane in lanes(mask) {
            list[n] = addr[lane] >> 5;
            sorted &= n == 0 || list[n - 1] <= list[n];
            n += 1;
        }
        let list = &mut list[..n];
        if !sorted {
            list.sort_unstable();
        }
        let distinct = list.chunk_by(|a, b| a == b).count() as u64;
        self.stats.sectors += distinct;
        self.stats.sectors_needed += (u64::from(size) * n as u64).div_ceil(32).min(distinct);
    }

    /// Counts the bank conflicts of a shared access: 32 banks of four bytes; wide accesses go in parts.
    pub fn count_banks(&mut self, mask: u32, addr: &Lanes, size: u32) {
        self.stats.shared_accesses += 1;
        let words = (size / 4).max(1);
        let per_phase = 32 / words;
        for phase in 0..words {
            let part = mask & ((u32::MAX >> (32 - per_phase)) << (phase * per_phase));
            if part == 0 {
                continue;
            }
            // The word that each bank served first, plus one; further words of a bank are conflicts unless they repeat.
            let mut first = [0u32; 32];
            let mut extra = [(0u32, 0u32); 32];
            let (mut extras, mut depth) = (0, [0u8; 32]);
            let mut last = u64::MAX;
            for lane in lanes(part) {
                if addr[lane] == last {
                    continue;
                }
                last = addr[lane];
                for k in 0..words {
                    let word = (last >> 2) as u32 + k;
                    let bank = (word & 31) as usize;
                    if first[bank] == 0 {
                        first[bank] = word + 1;
                    } else if first[bank] != word + 1 && !extra[..extras].contains(&(bank as u32, word)) {
                        if extras < 32 {
                            extra[extras] = (bank as u32, word);
                            extras += 1;
                        }
                        depth[bank] += 1;
                    }
                }
            }
            if extras > 0 {
                self.stats.bank_conflicts += u64::from(depth.into_iter().max().unwrap_or(0));
            }
        }
    }
}
