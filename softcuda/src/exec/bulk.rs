//! `cp.async.bulk`: copies to shared memory happen when nothing else can go on, those from it when they are waited for.

use super::warp::Warp;
use super::{Block, lanes};
use crate::error::{Fault, FaultKind};
use crate::op::{Bulk, BulkMove, Place, Space};
use crate::tensor_map::{Swizzle, TensorMap};

/// Neighbouring bytes of a copy.
struct Run {
    /// Where they are in shared memory, before the swizzle.
    shared: u32,
    bytes: u32,
    /// Elements that exist: their place in the run, in bytes, and in global memory.
    parts: Vec<(u32, u64, u32)>,
}

/// A copy under way.
pub(crate) struct Copy {
    runs: Vec<Run>,
    /// Chunks of 16 bytes in the width of the swizzle.
    width: u32,
    fill: u8,
    /// Of a copy to shared memory: the barrier, all bytes, and what the issue is ordered after.
    barrier: u32,
    bytes: u32,
    clock: Vec<u32>,
    pub warp: usize,
    pub lane: usize,
    pub pc: u32,
    group: u32,
    /// Of a copy from shared memory: the chunks that it reads.
    places: Vec<u32>,
}

impl Copy {
    fn swizzled(&self, at: u32) -> u32 {
        at ^ (at >> 3 & (self.width - 1) << 4)
    }
}

fn refuse(lane: usize, message: impl Into<String>) -> Box<Fault> {
    Fault::new(FaultKind::Trap, lane as u32, message)
}

/// The runs of a tile: rows along the innermost axis.
fn runs_of(map: &TensorMap, origin: &[i64], shared: u32) -> Vec<Run> {
    let counts: Vec<u32> = map.tile.iter().zip(&map.steps).map(|(t, s)| t.div_ceil(*s)).collect();
    let bytes = counts[0] * map.element;
    let rows: u32 = counts[1..].iter().product();
    let mut runs = Vec::with_capacity(rows as usize);
    for row in 0..rows {
        let (mut rest, mut base, mut inside) = (row, map.address, true);
        for axis in 1..counts.len() {
            let i = origin[axis] + i64::from(rest % counts[axis] * map.steps[axis]);
            rest /= counts[axis];
            inside &= i >= 0 && (i as u64) < map.dims[axis];
            base = base.wrapping_add((i as u64).wrapping_mul(map.strides[axis - 1]));
        }
        let mut parts = Vec::new();
        if inside {
            let (element, size) = (i64::from(map.element), map.dims[0] as i64);
            if map.steps[0] == 1 {
                let (from, to) = (origin[0].max(0), (origin[0] + i64::from(counts[0])).min(size));
                if from < to {
                    let place = (from - origin[0]) * element;
                    parts.push((place as u32, base + (from * element) as u64, ((to - from) * element) as u32));
                }
            } else {
                for j in 0..counts[0] {
                    let i = origin[0] + i64::from(j * map.steps[0]);
                    if (0..size).contains(&i) {
                        parts.push((j * map.element, base + (i * element) as u64, map.element));
                    }
                }
            }
        }
        runs.push(Run { shared: shared + row * bytes, bytes, parts });
    }
    runs
}

impl Block<'_> {
    /// Issues a copy for every lane of the mask.
    pub fn bulk(&mut self, w: &mut Warp, mask: u32, pc: u32, bulk: &Bulk) -> Result<(), Box<Fault>> {
        self.moved = true;
        self.check_awaited(mask, "bulk copy")?;
        for lane in lanes(mask) {
            let mut copy = self.describe(w, lane, bulk)?;
            copy.pc = pc;
            let what = if bulk.barrier.is_some() { "read" } else { "write" };
            for (_, at, bytes) in copy.runs.iter().flat_map(|r| &r.parts) {
                let end = at + u64::from(*bytes);
                if !self.ranges.iter().any(|(b, e)| *b <= *at && end <= *e) {
                    let message =
                        format!("global {what} (bulk copy) of {bytes} bytes at {at:#x} is outside of every allocation");
                    return Err(Fault::new(FaultKind::IllegalAddress, lane as u32, message));
                }
                let counter = &mut self.stats;
                if bulk.barrier.is_some() {
                    counter.global_load_bytes += u64::from(*bytes);
                } else {
                    counter.global_store_bytes += u64::from(*bytes);
                }
            }
            let first = copy.runs.first().map_or(0, |r| r.shared);
            if u64::from(first) + u64::from(copy.bytes) > u64::from(self.shadow.bytes) {
                let message = format!("bulk copy of {} bytes at {first} of shared memory", copy.bytes);
                return Err(Fault::new(FaultKind::SharedRange, lane as u32, message));
            }
            self.shadow.horizon(w.id);
            let failed =
                |(kind, message): (FaultKind, String)| Fault::new(kind, lane as u32, format!("bulk copy: {message}"));
            if bulk.barrier.is_some() {
                self.shadow.copy_begins(w.id, lane, first, copy.bytes).map_err(failed)?;
                self.copies.push_back(copy);
            } else {
                copy.places = (first..first + copy.bytes).step_by(16).collect();
                self.shadow.product_begins(w.id, &copy.places).map_err(failed)?;
                w.stores.push(copy);
            }
        }
        Ok(())
    }

    fn describe(&mut self, w: &Warp, lane: usize, bulk: &Bulk) -> Result<Copy, Box<Fault>> {
        let barrier = match bulk.barrier {
            Some(place) => self.barrier_place(w, lane, place)?,
            None => 0,
        };
        let mut copy = Copy {
            runs: Vec::new(),
            width: 1,
            fill: 0,
            barrier,
            bytes: 0,
            clock: self.shadow.clock(w.id as usize).to_vec(),
            warp: w.id as usize,
            lane,
            pc: 0,
            group: w.bulk_groups[lane],
            places: Vec::new(),
        };
        let (BulkMove::Linear { shared, .. } | BulkMove::Tensor { shared, .. }) = bulk.what;
        let at = self.shared_place(w, lane, shared)?.min(u64::from(u32::MAX / 2)) as u32;
        let misaligned = |what: String| Fault::new(FaultKind::Misaligned, lane as u32, what);
        match &bulk.what {
            BulkMove::Linear { global, size, .. } => {
                let from = w.row(global.addr.base)[lane].wrapping_add(global.addr.offset as u64);
                let bytes = w.row(*size)[lane] as u32;
                if at % 16 != 0 || from % 16 != 0 || bytes % 16 != 0 {
                    return Err(misaligned(format!(
                        "bulk copy of {bytes} bytes between {from:#x} and {at}: no multiples of 16"
                    )));
                }
                copy.bytes = bytes;
                copy.runs.push(Run { shared: at, bytes, parts: vec![(0, from, bytes)] });
            }
            BulkMove::Tensor { map, coordinates, .. } => {
                let map = self.tensor_map(w, lane, *map)?;
                if map.dims.len() != coordinates.len() {
                    return Err(refuse(
                        lane,
                        format!("{} coordinates for a tensor of rank {}", coordinates.len(), map.dims.len()),
                    ));
                }
                let origin: Vec<i64> = coordinates.iter().map(|c| i64::from(w.row(*c)[lane] as i32)).collect();
                if at % 128 != 0 {
                    return Err(misaligned(format!("a tile at {at} of shared memory: no multiple of 128")));
                }
                copy.width = match map.swizzle {
                    Swizzle::None => 1,
                    Swizzle::B32 => 2,
                    Swizzle::B64 => 4,
                    Swizzle::B128 => 8,
                };
                copy.fill = if map.fill_nan { 0xff } else { 0 };
                copy.runs = runs_of(&map, &origin, at);
                copy.bytes = copy.runs.iter().map(|r| r.bytes).sum();
            }
        }
        Ok(copy)
    }

    fn tensor_map(&self, w: &Warp, lane: usize, place: Place) -> Result<TensorMap, Box<Fault>> {
        let at = w.row(place.addr.base)[lane].wrapping_add(place.addr.offset as u64);
        let words = match Self::resolve(place.space, at) {
            (Space::Param, at) => self.params.get(at as usize..at as usize + 128).map(<[u8]>::to_vec),
            (Space::Global, at) if self.ranges.iter().any(|(b, e)| *b <= at && at + 128 <= *e) => {
                // SAFETY: the range is of live memory.
                Some(unsafe { std::slice::from_raw_parts(at as *const u8, 128) }.to_vec())
            }
            _ => None,
        };
        let words = words.ok_or_else(|| refuse(lane, format!("no tensor map can be read at {at:#x}")))?;
        let words = std::array::from_fn(|i| u64::from_le_bytes(std::array::from_fn(|b| words[i * 8 + b])));
        TensorMap::decode(&words).ok_or_else(|| refuse(lane, "what should be a tensor map is none"))
    }

    /// Completes the oldest copy to shared memory; `false` when there is none.
    pub fn land(&mut self) -> bool {
        let Some(copy) = self.copies.pop_front() else { return false };
        for run in &copy.runs {
            let mut row = vec![copy.fill; run.bytes as usize];
            for (place, from, bytes) in &run.parts {
                // SAFETY: the range was checked at the issue, and nothing was freed since.
                let source = unsafe { std::slice::from_raw_parts(*from as *const u8, *bytes as usize) };
                row[*place as usize..][..*bytes as usize].copy_from_slice(source);
            }
            for (i, chunk) in row.chunks(16).enumerate() {
                let at = copy.swizzled(run.shared + i as u32 * 16) as usize;
                self.shared[at..at + chunk.len()].copy_from_slice(chunk);
            }
        }
        let first = copy.runs.first().map_or(0, |r| r.shared);
        let clock = self.shadow.copy_lands(first, copy.bytes, &copy.clock);
        self.arrived(copy.barrier, copy.bytes, &clock);
        true
    }

    /// Completes a warp's copies from shared memory, all groups but the last `keep`.
    pub fn wait_stores(&mut self, w: &mut Warp, mask: u32, keep: u32) {
        let groups = w.bulk_groups;
        let done = |c: &Copy| mask >> c.lane & 1 != 0 && c.group + keep < groups[c.lane];
        for copy in w.stores.extract_if(.., |c| done(c)) {
            self.shadow.product_ends(copy.warp as u32, &copy.places);
            for run in &copy.runs {
                let row: Vec<u8> = (0..run.bytes / 16)
                    .flat_map(|i| {
                        let at = copy.swizzled(run.shared + i * 16) as usize;
                        self.shared[at..at + 16].to_vec()
                    })
                    .collect();
                for (place, to, bytes) in &run.parts {
                    let source = &row[*place as usize..][..*bytes as usize];
                    // SAFETY: the range was checked at the issue, and nothing was freed since.
                    unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), *to as *mut u8, source.len()) };
                }
            }
        }
    }
}
