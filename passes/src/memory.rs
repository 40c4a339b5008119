//! Placement: an offset for every buffer, so that buffers alive at the same time do not overlap.
//!
//! Largest first, each at the lowest free offset: simple, deterministic, and within a few per cent of the lower bound on these
//! graphs (the plan reports both).

/// A buffer's size and the calls during which it is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Size in bytes.
    pub bytes: u64,
    /// The call that writes it.
    pub first: usize,
    /// The last call that reads it.
    pub last: usize,
}

/// Offsets for all lifetimes, multiples of `alignment`, and the size of the region.
pub fn place(lifetimes: &[Lifetime], alignment: u64) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lifetimes[i].bytes), lifetimes[i].first, i));
    let mut offsets = vec![0u64; lifetimes.len()];
    // Buffers already placed, by their offsets. In training many live long: to look through all of them is shorter than call by call.
    let mut placed: Vec<(u64, usize)> = Vec::with_capacity(lifetimes.len());
    let mut size = 0;
    for &i in &order {
        let l = &lifetimes[i];
        let mut offset = 0u64;
        for &(start, other) in &placed {
            let o = &lifetimes[other];
            if o.last < l.first || l.last < o.first {
                continue;
            }
            if offset + l.bytes <= start {
                break;
            }
            offset = offset.max((start + o.bytes).next_multiple_of(alignment));
        }
        offsets[i] = offset;
        size = size.max(offset + l.bytes);
        let at = placed.partition_point(|p| *p < (offset, i));
        placed.insert(at, (offset, i));
    }
    (offsets, size.next_multiple_of(alignment))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic noise.
    fn noise(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *state >> 33
    }

    #[test]
    fn placed_buffers_never_overlap_while_alive() {
        let mut state = 7;
        for _ in 0..50 {
            let lifetimes: Vec<Lifetime> = (0..60)
                .map(|_| {
                    let first = (noise(&mut state) % 40) as usize;
                    let last = first + (noise(&mut state) % 12) as usize;
                    Lifetime { bytes: 1 + noise(&mut state) % 5000, first, last }
                })
                .collect();
            let (offsets, size) = place(&lifetimes, 64);
            for (i, a) in lifetimes.iter().enumerate() {
                assert_eq!(offsets[i] % 64, 0);
                assert!(offsets[i] + a.bytes <= size);
                for (j, b) in lifetimes.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    assert!(!together || apart, "{a:?} at {} and {b:?} at {}", offsets[i], offsets[j]);
                }
            }
        }
    }
}
