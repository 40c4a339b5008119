//! TARP's partition of keys (SPEC 3) as an affine description: no index tensors.
//!
//! Queries and keys are cut into *groups*. All queries of a group read the same contiguous run of
//! keys, plus the context tokens. With `replicate` edges the run's first or last key counts more
//! than once.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::Problem;

/// Most frames of a clip: what [`Partition::groups`] may list. Far above any clip.
pub const MAX_FRAMES: usize = 1 << 20;

/// What happens to a window that leaves the clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// Tokens outside the clip are not there.
    Mask,
    /// The window moves inside and keeps its size.
    Shift,
    /// The edge token stands in for each missing one.
    Replicate,
}

/// Which keys each query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partition {
    /// Audio to video: the `tokens_per_frame` queries of frame `i` see the audio tokens
    /// `start .. start + size`, where `start = floor((scale * i + offset) / divisor) - size / 2`.
    Windows {
        /// Frames of the clip (groups).
        frames: usize,
        /// Video tokens (queries) of one frame.
        tokens_per_frame: usize,
        /// Audio tokens (keys).
        length: usize,
        /// Window size `s` in audio tokens.
        size: usize,
        /// Numerator's slope of the window centre.
        scale: usize,
        /// Numerator's offset of the window centre.
        offset: usize,
        /// Denominator of the window centre.
        divisor: usize,
        /// Rule at the clip's ends.
        edge: Edge,
    },
    /// Video to audio: audio token `j` (query) sees all tokens of frame `floor(j * frames / length)`.
    NearestFrame {
        /// Frames of the clip.
        frames: usize,
        /// Video tokens (keys) of one frame.
        tokens_per_frame: usize,
        /// Audio tokens (queries).
        length: usize,
    },
}

/// Queries that share their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The queries.
    pub queries: Range<usize>,
    /// The keys, without context tokens.
    pub keys: Range<usize>,
    /// How often the first key counts (1 unless edges are replicated).
    pub first: usize,
    /// How often the last key counts. With a single key, `first + last - 1` in all.
    pub last: usize,
}

impl Group {
    /// How often key `key` of the group counts.
    pub fn times(&self, key: usize) -> usize {
        let mut times = 1;
        if key == self.keys.start {
            times += self.first - 1;
        }
        if key + 1 == self.keys.end {
            times += self.last - 1;
        }
        times
    }
}

impl Partition {
    /// Number of queries.
    pub fn queries(&self) -> usize {
        match *self {
            Partition::Windows { frames, tokens_per_frame, .. } => frames * tokens_per_frame,
            Partition::NearestFrame { length, .. } => length,
        }
    }

    /// Number of keys, without context tokens.
    pub fn keys(&self) -> usize {
        match *self {
            Partition::Windows { length, .. } => length,
            Partition::NearestFrame { frames, tokens_per_frame, .. } => frames * tokens_per_frame,
        }
    }

    /// Checks that the sizes are positive and products do not overflow.
    ///
    /// # Errors
    /// When they are not.
    pub fn check(&self) -> Result<(), Problem> {
        let (frames, per, length) = match *self {
            Partition::Windows { frames, tokens_per_frame, length, size, scale, offset, divisor, .. } => {
                crate::ensure!(size > 0 && divisor > 0, "a window needs a size and a divisor above zero");
                let top = scale.checked_mul(frames).and_then(|n| n.checked_add(offset));
                crate::ensure!(
                    top.is_some_and(|n| n < 1 << 40) && size < 1 << 40 && divisor < 1 << 40,
                    "the window's numbers are too large"
                );
                (frames, tokens_per_frame, length)
            }
            Partition::NearestFrame { frames, tokens_per_frame, length } => (frames, tokens_per_frame, length),
        };
        crate::ensure!(frames > 0 && per > 0 && length > 0, "a partition needs at least one frame and one token");
        let small = |a: usize, b: usize| a.checked_mul(b).is_some_and(|n| n < 1 << 40);
        crate::ensure!(
            frames <= MAX_FRAMES && small(frames, per) && small(frames, length),
            "a partition of {frames} frames, {per} tokens in each and {length} audio tokens is too large"
        );
        Ok(())
    }

    /// First token and size of window `i` before the clip's ends are looked at, for `Windows`.
    fn window(&self, i: usize) -> (i64, i64) {
        match *self {
            Partition::Windows { size, scale, offset, divisor, .. } => {
                let center = ((scale * i + offset) / divisor) as i64;
                (center - (size / 2) as i64, size as i64)
            }
            Partition::NearestFrame { tokens_per_frame: per, .. } => ((i * per) as i64, per as i64),
        }
    }

    /// The groups in query order. Every query is in exactly one; groups without queries are left out.
    pub fn groups(&self) -> Vec<Group> {
        match *self {
            Partition::Windows { frames, tokens_per_frame: per, length, edge, .. } => (0..frames)
                .map(|i| {
                    let (start, size) = self.window(i);
                    let queries = i * per..(i + 1) * per;
                    let end = length as i64;
                    match edge {
                        Edge::Shift => {
                            let size = size.min(end);
                            let start = start.clamp(0, end - size) as usize;
                            Group { queries, keys: start..start + size as usize, first: 1, last: 1 }
                        }
                        Edge::Mask => {
                            let a = start.clamp(0, end) as usize;
                            let b = (start + size).clamp(a as i64, end) as usize;
                            Group { queries, keys: a..b, first: 1, last: 1 }
                        }
                        Edge::Replicate => {
                            // Tokens before the clip become key 0, those after it key `length - 1`.
                            let before = (-start).clamp(0, size);
                            let after = (start + size - end).clamp(0, size);
                            let a = start.clamp(0, end - 1) as usize;
                            let b = (start + size).clamp(1, end) as usize;
                            let inside = size - before - after;
                            let (mut first, mut last) = (1 + before as usize, 1 + after as usize);
                            if inside <= 0 {
                                // The whole window is outside: one key counts `size` times.
                                first = size as usize;
                                last = 1;
                            }
                            Group { queries, keys: a..b.max(a + 1), first, last }
                        }
                    }
                })
                .collect(),
            Partition::NearestFrame { frames, tokens_per_frame: per, length } => (0..frames)
                .filter_map(|f| {
                    // floor(j * frames / length) = f  <=>  ceil(f * length / frames) <= j < ceil((f+1) * length / frames)
                    let a = (f * length).div_ceil(frames);
                    let b = ((f + 1) * length).div_ceil(frames).min(length);
                    (a < b).then(|| Group { queries: a..b, keys: f * per..(f + 1) * per, first: 1, last: 1 })
                })
                .collect(),
        }
    }

    /// Gather form for the oracle: for each *row* (a frame, or an audio token), the key indices it sees,
    /// clamped into the clip, and whether each is there.
    pub fn rows(&self) -> Vec<(Vec<usize>, Vec<bool>)> {
        match *self {
            Partition::Windows { frames, length, edge, .. } => (0..frames)
                .map(|i| {
                    let (mut start, mut size) = self.window(i);
                    if edge == Edge::Shift {
                        size = size.min(length as i64);
                        start = start.clamp(0, length as i64 - size);
                    }
                    let index = start..start + size;
                    let clamped = index.clone().map(|j| j.clamp(0, length as i64 - 1) as usize).collect();
                    let valid = index.map(|j| edge != Edge::Mask || (0..length as i64).contains(&j)).collect();
                    (clamped, valid)
                })
                .collect(),
            Partition::NearestFrame { frames, tokens_per_frame: per, length } => (0..length)
                .map(|j| {
                    let f = j * frames / length;
                    ((f * per..(f + 1) * per).collect(), vec![true; per])
                })
                .collect(),
        }
    }

    /// Number of rows of [`Partition::rows`] and keys in each.
    pub fn row_shape(&self) -> (usize, usize) {
        match *self {
            Partition::Windows { frames, length, size, edge, .. } => {
                (frames, if edge == Edge::Shift { size.min(length) } else { size })
            }
            Partition::NearestFrame { tokens_per_frame, length, .. } => (length, tokens_per_frame),
        }
    }

    /// Most keys of a group, without context tokens.
    pub fn widest(&self) -> usize {
        match *self {
            Partition::NearestFrame { tokens_per_frame, .. } => tokens_per_frame,
            Partition::Windows { .. } => self.groups().iter().map(|g| g.keys.len()).max().unwrap_or(0),
        }
    }

    /// Pairs of a query and a key that it reads, context tokens left out.
    pub fn pairs(&self) -> u64 {
        let pairs = |g: &Group| (g.queries.len() as u64).saturating_mul(g.keys.len() as u64);
        self.groups().iter().map(pairs).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiset of keys of each query, by both forms.
    fn check(p: Partition) {
        p.check().unwrap();
        let (rows, groups) = (p.rows(), p.groups());
        let mut next = 0;
        for g in &groups {
            assert_eq!(g.queries.start, next, "{p:?}");
            next = g.queries.end;
            for q in g.queries.clone() {
                let row = match p {
                    Partition::Windows { tokens_per_frame, .. } => q / tokens_per_frame,
                    Partition::NearestFrame { .. } => q,
                };
                let (index, valid) = &rows[row];
                let mut want: Vec<usize> = index.iter().zip(valid).filter(|(_, v)| **v).map(|(i, _)| *i).collect();
                want.sort_unstable();
                let mut got = Vec::new();
                for k in g.keys.clone() {
                    got.extend(std::iter::repeat_n(k, g.times(k)));
                }
                assert_eq!(got, want, "{p:?} query {q}");
            }
        }
        assert_eq!(next, p.queries());
    }

    #[test]
    fn groups_and_rows_agree() {
        for frames in 1..7 {
            for length in 1..26 {
                check(Partition::NearestFrame { frames, tokens_per_frame: 2, length });
                let c = (length / frames).max(1);
                for edge in [Edge::Mask, Edge::Shift, Edge::Replicate] {
                    for (scale, offset, divisor) in [(c, c / 2, 1), (2 * length, length, 2 * frames)] {
                        for size in [c, 3 * c, 5 * c] {
                            let (per, len) = (2, length);
                            let p = Partition::Windows {
                                frames,
                                tokens_per_frame: per,
                                length: len,
                                size,
                                scale,
                                offset,
                                divisor,
                                edge,
                            };
                            check(p);
                        }
                    }
                }
            }
        }
    }
}
