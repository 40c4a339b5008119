//! Runs blocks: warps one after another until each of them waits, then the barriers. The blocks of a cluster run together.

mod access;
mod alu;
mod atomic;
mod barrier;
mod bulk;
mod cluster;
mod collective;
mod convert;
mod copy;
mod descriptor;
mod float;
mod gate;
mod group;
mod half;
mod integer;
mod matrix;
mod mbarrier;
mod mma;
mod product;
mod proxy;
mod remote;
mod shadow;
mod traffic;
mod warp;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::error::{Fault, FaultKind};
use crate::module::Grid;
use crate::op::{Kernel, Special};
use crate::stats::Stats;
use barrier::Barrier;
use bulk::Copy;
use cluster::Cluster;
use gate::Gate;
use group::Meeting;
use mbarrier::MBarrier;
use product::Tile;
use shadow::Shadow;
use warp::Warp;

/// One value per lane.
pub(crate) type Lanes = [u64; 32];

/// Where the generic address space shows shared memory.
pub(crate) const SHARED_WINDOW: u64 = 0x0100_0000_0000_0000;
/// Where it shows local memory.
pub(crate) const LOCAL_WINDOW: u64 = 0x0200_0000_0000_0000;
/// Where it shows the parameters.
pub(crate) const PARAM_WINDOW: u64 = 0x0300_0000_0000_0000;
/// Size of each of these windows.
pub(crate) const WINDOW: u64 = 0x0100_0000_0000_0000;

/// A fault with its place.
pub(crate) struct Located {
    pub fault: Box<Fault>,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    pub line: u32,
    pub source: u32,
}

/// State of the block that runs.
pub(crate) struct Block<'a> {
    pub kernel: &'a Kernel,
    pub grid: Grid,
    pub index: [u32; 3],
    /// Which block of its cluster it is.
    pub rank: u32,
    /// While it runs: the other blocks of the cluster, by rank from the next one on.
    pub peers: VecDeque<Box<Block<'a>>>,
    pub gate: Gate,
    pub params: &'a [u8],
    /// Live ranges of global memory, in order.
    pub ranges: &'a [(u64, u64)],
    /// The range that each instruction accessed last.
    pub recent: Vec<(u64, u64)>,
    pub shared: Vec<u8>,
    pub shadow: Shadow,
    pub barriers: Vec<Barrier>,
    pub warps: Vec<Warp<'a>>,
    /// One per warpgroup.
    pub meetings: Vec<Meeting>,
    /// Factors of products that some warps of a group have used already.
    pub tiles: Vec<Tile>,
    pub mbarriers: HashMap<u32, MBarrier>,
    /// Bulk copies to shared memory that are under way.
    pub copies: VecDeque<Copy>,
    /// Lanes of the warp that runs which see what earlier kernels wrote.
    pub awaited: u32,
    /// Something happened that waits for barriers in shared memory may depend on.
    pub moved: bool,
    pub stats: Stats,
    /// The host has vector and fused multiply-add instructions.
    pub fast: bool,
    pub ticks: u64,
}

/// Runs a whole grid. Clusters that can't see each other's work run on several threads; the result, the counts and the
/// fault, if there is one, are those of running them in order.
pub(crate) fn run(kernel: &Kernel, grid: Grid, params: &[u8], ranges: &[(u64, u64)]) -> Result<Stats, Located> {
    let total = grid.cubes.iter().map(|n| u64::from(*n)).product::<u64>() / u64::from(kernel.cluster);
    let queue = Queue { next: AtomicU64::new(1), end: AtomicU64::new(total), faults: Mutex::new(Vec::new()) };
    let mut cluster = Cluster::new(kernel, grid, params, ranges);
    let begin = Instant::now();
    cluster.run_at(0)?;
    let workers = if kernel.independent { threads().min(total.saturating_sub(1)) } else { 1 };
    // Threads cost more than what little work there may be.
    let worth = begin.elapsed().saturating_mul(total.min(1 << 20) as u32 - 1) > Duration::from_micros(500);
    let stats = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..if worth { workers } else { 1 })
            .map(|_| scope.spawn(|| queue.drain(Cluster::new(kernel, grid, params, ranges))))
            .collect();
        let mut stats = queue.drain(cluster);
        for helper in helpers {
            match helper.join() {
                Ok(more) => stats.add(&more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        stats
    });
    let faults = queue.faults.into_inner().unwrap_or_else(|broken| broken.into_inner());
    match faults.into_iter().min_by_key(|(index, _)| *index) {
        Some((_, fault)) => Err(fault),
        None => Ok(stats),
    }
}

/// Clusters that nobody has begun yet.
struct Queue {
    next: AtomicU64,
    /// Clusters from here on don't matter any more.
    end: AtomicU64,
    faults: Mutex<Vec<(u64, Located)>>,
}

impl Queue {
    /// Runs clusters until there are none. They are begun in order: all before a fault end on their own.
    fn drain(&self, mut cluster: Cluster) -> Stats {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.end.load(Ordering::Relaxed) {
                return cluster.stats();
            }
            if let Err(fault) = cluster.run_at(index) {
                self.end.fetch_min(index, Ordering::Relaxed);
                self.faults.lock().unwrap_or_else(|broken| broken.into_inner()).push((index, fault));
                return cluster.stats();
            }
        }
    }
}

/// Threads that run clusters: `SOFTCUDA_THREADS`, or as many as the host has.
fn threads() -> u64 {
    static COUNT: OnceLock<u64> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let asked = std::env::var("SOFTCUDA_THREADS").ok().and_then(|n| n.parse().ok());
        asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get().min(16) as u64)).max(1)
    })
}

#[cfg(target_arch = "x86_64")]
fn fast_host() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(not(target_arch = "x86_64"))]
fn fast_host() -> bool {
    false
}

impl<'a> Block<'a> {
    fn new(kernel: &'a Kernel, grid: Grid, params: &'a [u8], ranges: &'a [(u64, u64)], rank: u32) -> Self {
        let threads = grid.units.iter().product::<u32>();
        let warps = threads.div_ceil(32) as usize;
        let shared_bytes =
            if grid.dynamic_shared > 0 { kernel.dynamic_base + grid.dynamic_shared } else { kernel.static_shared };
        Block {
            kernel,
            grid,
            index: [0; 3],
            rank,
            peers: VecDeque::new(),
            gate: Gate::new(warps, kernel.bulk),
            params,
            ranges,
            recent: vec![(1, 0); kernel.code.len()],
            shared: vec![0; shared_bytes.next_multiple_of(16) as usize],
            shadow: Shadow::new(shared_bytes, warps, kernel.bulk),
            barriers: (0..16).map(|_| Barrier::new(warps + usize::from(kernel.bulk))).collect(),
            warps: (0..warps).map(|w| Warp::new(kernel, w as u32, threads)).collect(),
            meetings: vec![Meeting::default(); warps.div_ceil(4)],
            tiles: Vec::new(),
            mbarriers: HashMap::new(),
            copies: VecDeque::new(),
            awaited: 0,
            moved: false,
            stats: Stats::default(),
            fast: fast_host(),
            ticks: 0,
        }
    }

    /// Prepares for the block of an index.
    fn begin(&mut self, index: u64) {
        let [x, y] = [self.grid.cubes[0], self.grid.cubes[1]].map(u64::from);
        self.index = [index % x, index / x % y, index / x / y].map(|n| n as u32);
        self.reset();
    }

    fn reset(&mut self) {
        self.shadow.reset();
        self.gate.reset();
        self.meetings.fill(Meeting::default());
        self.tiles.clear();
        self.mbarriers.clear();
        self.copies.clear();
        for barrier in &mut self.barriers {
            barrier.reset();
        }
        let (kernel, grid, index, rank) = (self.kernel, self.grid, self.index, self.rank);
        let cluster = [kernel.cluster, 1, 1];
        let shared = self.shared.len() as u64;
        let warps = self.warps.len() as u64;
        for warp in &mut self.warps {
            warp.reset(kernel);
            let id = warp.id;
            for &(row, special) in &kernel.specials {
                for lane in 0..32u32 {
                    let t = id * 32 + lane;
                    let tid = [t % grid.units[0], t / grid.units[0] % grid.units[1], t / grid.units[0] / grid.units[1]];
                    let bit = 1u64 << lane;
                    warp.regs[row as usize][lane as usize] = match special {
                        Special::Tid(a) => u64::from(tid[a as usize]),
                        Special::Ntid(a) => u64::from(grid.units[a as usize]),
                        Special::Ctaid(a) => u64::from(index[a as usize]),
                        Special::Nctaid(a) => u64::from(grid.cubes[a as usize]),
                        Special::Lane => u64::from(lane),
                        Special::Warp => u64::from(id),
                        Special::Nwarp => warps,
                        Special::ClusterRank => u64::from(rank),
                        Special::Clusterid(a) => u64::from(index[a as usize] / cluster[a as usize]),
                        Special::Nclusterid(a) => u64::from(grid.cubes[a as usize] / cluster[a as usize]),
                        Special::Smid => 0,
                        Special::Nsmid => 132,
                        Special::DynamicShared => u64::from(grid.dynamic_shared),
                        Special::TotalShared => shared,
                        Special::LaneMaskEq => bit,
                        Special::LaneMaskLt => bit - 1,
                        Special::LaneMaskLe => bit | (bit - 1),
                        Special::LaneMaskGt => 0xffff_ffff & !(bit | (bit - 1)),
                        Special::LaneMaskGe => 0xffff_ffff & !(bit - 1),
                    };
                }
            }
        }
    }

    /// Whether all its threads have exited.
    fn ended(&self) -> bool {
        self.warps.iter().all(|w| w.alive() == 0)
    }

    /// Runs until the block has ended, or only the other blocks of the cluster can make it go on.
    fn advance(&mut self) -> Result<(), Located> {
        // Waits for barriers in shared memory are loops, which may also count how often they tried.
        let mut idle = 0;
        loop {
            let mut progress = false;
            for w in 0..self.warps.len() {
                if self.warps[w].candidates() == 0 {
                    continue;
                }
                self.moved = false;
                let mut warp = std::mem::take(&mut self.warps[w]);
                let result = self.run_warp(&mut warp);
                progress |= self.moved || warp.polling == 0 || warp.candidates() & !warp.polling != 0;
                self.warps[w] = warp;
                if let Err((pc, fault)) = result {
                    return Err(self.locate(w, pc, fault));
                }
            }
            match self.release() {
                Ok(released) => progress |= released,
                Err((w, pc, fault)) => return Err(self.locate(w, pc, fault)),
            }
            if self.ended() {
                if let Some(copy) = self.copies.front() {
                    let message = "the block ends while a bulk copy to its shared memory is under way";
                    let fault = Fault::new(FaultKind::PendingCopy, copy.lane as u32, message);
                    return Err(self.locate(copy.warp, copy.pc, fault));
                }
                return Ok(());
            }
            if !progress && self.land() {
                continue;
            }
            idle = if progress { 0 } else { idle + 1 };
            if idle > 100 || idle > 0 && self.warps.iter().all(|w| w.polling == 0) {
                if self.gate.waits() {
                    return Ok(());
                }
                let (w, pc, fault) = self.stuck();
                return Err(self.locate(w, pc, fault));
            }
        }
    }

    fn locate(&self, warp: usize, pc: u32, fault: Box<Fault>) -> Located {
        let t = warp as u32 * 32 + fault.lane;
        let units = self.grid.units;
        let inst = &self.kernel.code[pc as usize];
        Located {
            fault,
            block: self.index,
            thread: [t % units[0], t / units[0] % units[1], t / units[0] / units[1]],
            line: inst.line,
            source: inst.source,
        }
    }
}

/// The lanes of a mask.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros();
        rest &= rest - 1;
        Some(lane as usize)
    })
}

/// The lanes in which a predicate row is set.
#[inline]
pub(crate) fn bits(row: &Lanes) -> u32 {
    let mut out = 0u32;
    for (lane, value) in row.iter().enumerate() {
        out |= ((*value & 1) as u32) << lane;
    }
    out
}

/// Sets `d` in the lanes of `mask`.
#[inline(always)]
pub(crate) fn put(regs: &mut [Lanes], mask: u32, d: u32, f: impl Fn(usize) -> u64) {
    let row = &mut regs[d as usize];
    if mask == u32::MAX {
        for (lane, slot) in row.iter_mut().enumerate() {
            *slot = f(lane);
        }
    } else {
        for (lane, slot) in row.iter_mut().enumerate() {
            if mask >> lane & 1 != 0 {
                *slot = f(lane);
            }
        }
    }
}
