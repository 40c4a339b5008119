//! The state of a warp and its main loop. Each lane has its own program counter; those with the smallest run together.

use super::bulk::Copy;
use super::copy::Pending;
use super::group::op_needs_group;
use super::product::Products;
use super::{Block, Lanes, bits, lanes};
use crate::error::{Fault, FaultKind};
use crate::op::{Kernel, NONE, Op, Row};

/// One warp.
#[derive(Default)]
pub(crate) struct Warp<'a> {
    pub id: u32,
    pub regs: Vec<Lanes>,
    /// Where each lane that isn't running stands.
    pub pcs: [u32; 32],
    /// Lanes that the block has.
    pub valid: u32,
    pub exited: u32,
    /// Lanes that wait at a barrier of the block.
    pub blocked: u32,
    /// Lanes that wait for the others of a warp instruction.
    pub waiting: u32,
    /// Lane-major local memory.
    pub local: Vec<u8>,
    pub pending: Vec<Pending>,
    /// Number of groups of copies that each lane has committed.
    pub groups: [u32; 32],
    pub products: Products<'a>,
    /// Lanes whose last test of a barrier in shared memory failed: others go first.
    pub polling: u32,
    /// Bulk copies from shared memory that were not waited for.
    pub stores: Vec<Copy>,
    /// Number of groups of them that each lane has committed.
    pub bulk_groups: [u32; 32],
    /// The other warps of the group are at the same instruction.
    pub met: bool,
    /// Lanes that see what earlier kernels wrote.
    pub awaited: u32,
}

impl Warp<'_> {
    pub fn new(kernel: &Kernel, id: u32, threads: u32) -> Self {
        let count = (threads - id * 32).min(32);
        Warp {
            id,
            regs: vec![[0; 32]; kernel.rows as usize],
            valid: u32::MAX >> (32 - count),
            local: vec![0; kernel.local_bytes as usize * 32],
            ..Warp::default()
        }
    }

    pub fn reset(&mut self, kernel: &Kernel) {
        self.regs.fill([0; 32]);
        for &(row, value) in &kernel.consts {
            self.regs[row as usize] = [value; 32];
        }
        self.pcs = [0; 32];
        (self.exited, self.blocked, self.waiting) = (0, 0, 0);
        self.pending.clear();
        self.groups = [0; 32];
        self.met = false;
        self.awaited = if kernel.awaits { 0 } else { u32::MAX };
        self.polling = 0;
        self.stores.clear();
        self.bulk_groups = [0; 32];
        if !kernel.product_registers.is_empty() {
            self.products.reset(kernel.rows as usize);
        }
    }

    /// Lanes that have not exited.
    pub fn alive(&self) -> u32 {
        self.valid & !self.exited
    }

    /// Lanes that can run now.
    pub fn candidates(&self) -> u32 {
        self.alive() & !self.blocked & !self.waiting
    }

    pub fn set_pcs(&mut self, mask: u32, pc: u32) {
        for lane in lanes(mask) {
            self.pcs[lane] = pc;
        }
    }

    pub fn row(&self, row: Row) -> &Lanes {
        &self.regs[row as usize]
    }
}

impl<'a> Block<'a> {
    /// Runs a warp until none of its lanes can run.
    pub fn run_warp(&mut self, w: &mut Warp<'a>) -> Result<(), (u32, Box<Fault>)> {
        let kernel = self.kernel;
        let code = kernel.code.as_slice();
        w.polling = 0;
        self.awaited = w.awaited;
        'group: loop {
            let candidates = w.candidates() & !w.polling;
            if candidates == 0 {
                return Ok(());
            }
            let mut pc = lanes(candidates).map(|l| w.pcs[l]).min().unwrap_or(0);
            let runnable = w.alive() & !w.blocked;
            let (mut group, mut join) = (0u32, u32::MAX);
            for lane in lanes(runnable) {
                let at = w.pcs[lane];
                if at == pc {
                    group |= 1 << lane;
                } else if at > pc {
                    join = join.min(at);
                }
            }
            let others = runnable & !group;
            w.waiting &= !group;
            w.polling &= !group;
            loop {
                let inst = &code[pc as usize];
                let mut mask = group;
                if inst.pred != NONE {
                    let set = bits(&w.regs[inst.pred as usize]);
                    mask &= if inst.neg { !set } else { set };
                }
                self.stats.count(inst.class, mask.count_ones());
                if inst.watched && mask != 0 && !matches!(inst.op, Op::GroupMma(_)) {
                    w.products.watch(&inst.op, mask).map_err(|f| (pc, f))?;
                }
                match &inst.op {
                    Op::Bra { target } => {
                        if mask == group && others == 0 {
                            pc = *target;
                            continue;
                        }
                        if mask != 0 {
                            w.set_pcs(mask, *target);
                            w.set_pcs(group & !mask, pc + 1);
                            continue 'group;
                        }
                    }
                    Op::Brx { index, targets } => {
                        if mask != 0 {
                            w.set_pcs(group & !mask, pc + 1);
                            for lane in lanes(mask) {
                                let i = w.regs[*index as usize][lane] as u32 as usize;
                                let Some(target) = targets.get(i) else {
                                    let message = format!("branch index {i} of {}", targets.len());
                                    return Err((pc, Fault::new(FaultKind::Trap, lane as u32, message)));
                                };
                                w.pcs[lane] = *target;
                            }
                            continue 'group;
                        }
                    }
                    Op::Exit => {
                        if mask != 0 {
                            self.check_awaited(mask, "exit").map_err(|f| (pc, f))?;
                            self.finish_copies(w, mask).map_err(|f| (pc, f))?;
                            if let Some(copy) = w.stores.iter().find(|c| mask >> c.lane & 1 != 0) {
                                let message = "exit while a bulk copy from shared memory is under way";
                                return Err((pc, Fault::new(FaultKind::PendingCopy, copy.lane as u32, message)));
                            }
                            self.moved = true;
                            if w.products.any() {
                                let message = "exit while products of wgmma are under way";
                                return Err((pc, Fault::new(FaultKind::PendingProduct, 0, message)));
                            }
                            w.exited |= mask;
                            w.set_pcs(group & !mask, pc + 1);
                            continue 'group;
                        }
                    }
                    Op::Bar { .. } | Op::ClusterArrive { .. } | Op::ClusterWait { .. } => {
                        if mask != 0 {
                            self.moved = true;
                            self.arrive(w, &inst.op, mask, pc).map_err(|f| (pc, f))?;
                            w.set_pcs(group, pc + 1);
                            continue 'group;
                        }
                    }
                    op if op_needs_lanes(op) => {
                        if mask != 0 && !self.collective(w, op, mask, pc).map_err(|f| (pc, f))? {
                            // The other lanes of its mask aren't here yet.
                            w.waiting |= mask;
                            w.set_pcs(mask, pc);
                            w.set_pcs(group & !mask, pc + 1);
                            continue 'group;
                        }
                    }
                    op if op_is_mbarrier(op) => {
                        if mask != 0 {
                            let failed = self.mbarrier(w, mask, op).map_err(|f| (pc, f))?;
                            if failed != 0 {
                                w.polling |= failed;
                                w.set_pcs(group, pc + 1);
                                continue 'group;
                            }
                        }
                    }
                    op if op_needs_group(op) => {
                        if mask != 0 {
                            if !self.meet(w, op, mask, pc).map_err(|f| (pc, f))? {
                                w.set_pcs(mask, pc);
                                w.set_pcs(group & !mask, pc + 1);
                                continue 'group;
                            }
                            self.group(w, op).map_err(|f| (pc, f))?;
                        }
                    }
                    op => {
                        if mask != 0 {
                            self.step(w, op, mask, pc).map_err(|f| (pc, f))?;
                        }
                    }
                }
                pc += 1;
                if pc >= join {
                    w.set_pcs(group, pc);
                    continue 'group;
                }
            }
        }
    }

    #[inline(always)]
    fn step(&mut self, w: &mut Warp, op: &Op, mask: u32, pc: u32) -> Result<(), Box<Fault>> {
        match op {
            Op::Ld { space, ty, parts, addr } => self.load(w, mask, pc, *space, *ty, parts, *addr),
            Op::St { space, ty, parts, addr } => self.store(w, mask, pc, *space, *ty, parts, *addr),
            Op::Atom { .. } => self.atomic(w, mask, pc, op),
            Op::CpAsync { .. } => self.copy_async(w, mask, pc, op),
            Op::CpCommit => {
                for lane in lanes(mask) {
                    w.groups[lane] += 1;
                }
                Ok(())
            }
            Op::CpWait { keep } => self.wait_copies(w, mask, Some(*keep)),
            Op::CpWaitAll => self.wait_copies(w, mask, None),
            Op::Bulk(bulk) => self.bulk(w, mask, pc, bulk),
            Op::BulkCommit => {
                for lane in lanes(mask) {
                    w.bulk_groups[lane] += 1;
                }
                Ok(())
            }
            Op::BulkWait { keep } => {
                self.wait_stores(w, mask, *keep);
                Ok(())
            }
            Op::ProxyFence => {
                self.shadow.show(w.id, mask, w.alive());
                Ok(())
            }
            Op::Mapa { space, d, a, rank } => self.map_address(w, mask, *space, *d, *a, *rank),
            Op::Nop => Ok(()),
            Op::Prefetch { addr } => self.prefetch(w, mask, *addr),
            Op::Await => {
                w.awaited |= mask;
                self.awaited = w.awaited;
                Ok(())
            }
            Op::Trap => Err(Fault::new(FaultKind::Trap, mask.trailing_zeros(), "trap")),
            Op::Clock { d } => {
                self.ticks += 1;
                let now = self.ticks + self.stats.issued;
                super::put(&mut w.regs, mask, *d, |_| now);
                Ok(())
            }
            _ => {
                super::alu::run(self.fast, &mut w.regs, mask, op);
                Ok(())
            }
        }
    }
}

/// Whether the instruction is about a barrier in shared memory.
fn op_is_mbarrier(op: &Op) -> bool {
    matches!(
        op,
        Op::MbInit { .. }
            | Op::MbInval { .. }
            | Op::MbExpect { .. }
            | Op::MbArrive { .. }
            | Op::MbWait { .. }
            | Op::MbPending { .. }
    )
}

/// Whether the instruction needs all the lanes that its mask names.
fn op_needs_lanes(op: &Op) -> bool {
    matches!(
        op,
        Op::WarpBar { .. }
            | Op::Vote { .. }
            | Op::Shfl { .. }
            | Op::Redux { .. }
            | Op::Match { .. }
            | Op::ActiveMask { .. }
            | Op::Elect { .. }
            | Op::Ldmatrix { .. }
            | Op::Stmatrix { .. }
            | Op::Mma(_)
            | Op::WmmaLoad { .. }
            | Op::WmmaStore { .. }
    )
}
