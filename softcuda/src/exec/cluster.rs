//! Clusters: blocks that run together on one thread, in order of their ranks, each until it can't go on alone. Then their
//! barrier lets all of them go on. A kernel that names no clusters has clusters of one block.

use std::collections::VecDeque;

use super::{Block, Located};
use crate::error::{Fault, FaultKind};
use crate::module::Grid;
use crate::op::Kernel;
use crate::stats::Stats;

/// The blocks of one cluster.
pub(crate) struct Cluster<'a> {
    /// In order of rank, from that of the block whose turn it is.
    blocks: VecDeque<Box<Block<'a>>>,
}

impl<'a> Cluster<'a> {
    pub fn new(kernel: &'a Kernel, grid: Grid, params: &'a [u8], ranges: &'a [(u64, u64)]) -> Self {
        let new = |rank| Box::new(Block::new(kernel, grid, params, ranges, rank));
        let blocks = (0..kernel.cluster).map(new).collect();
        Cluster { blocks }
    }

    /// Runs the cluster of an index. After a fault it can't be used any more.
    pub fn run_at(&mut self, index: u64) -> Result<(), Located> {
        let size = self.blocks.len() as u64;
        for block in &mut self.blocks {
            block.begin(index * size + u64::from(block.rank));
        }
        loop {
            for _ in 0..size {
                self.turn()?;
            }
            if self.blocks.iter().all(|b| b.ended()) {
                return Ok(());
            }
            self.open()?;
        }
    }

    /// What all its blocks did so far.
    pub fn stats(self) -> Stats {
        let mut sum = Stats::default();
        self.blocks.iter().for_each(|b| sum.add(&b.stats));
        sum
    }

    /// Runs the block whose turn it is.
    fn turn(&mut self) -> Result<(), Located> {
        let Some(mut block) = self.blocks.pop_front() else { return Ok(()) };
        if !block.ended() {
            block.peers = std::mem::take(&mut self.blocks);
            let result = block.advance();
            self.blocks = std::mem::take(&mut block.peers);
            result?;
        }
        let unordered = if block.ended() { block.shadow.remote.first().copied() } else { None };
        let rank = block.rank;
        self.blocks.push_back(block);
        // Had it ended earlier, as it may, there would have been nothing to read.
        if let Some((read, reader)) = unordered.and_then(|r| Some((r, self.blocks.iter().find(|b| b.rank == r.rank)?)))
        {
            let message = format!(
                "data race: the block of rank {rank} may end before this read of its shared memory, as no barrier of the \
                 cluster is between"
            );
            return Err(reader.locate(read.warp, read.pc, Fault::new(FaultKind::Race, read.lane, message)));
        }
        Ok(())
    }

    /// No block can go on alone: lets all pass the barrier, if all have arrived.
    fn open(&mut self) -> Result<(), Located> {
        if let Some(block) = self.blocks.iter().find(|b| !b.gate_full()) {
            let (w, pc, mut fault) = block.stuck();
            fault.message += "; other threads of the cluster wait for this block at the cluster's barrier";
            return Err(block.locate(w, pc, fault));
        }
        self.blocks.iter_mut().for_each(|b| b.gate.settle());
        let shown: Vec<Vec<u32>> = self.blocks.iter().map(|b| b.gate.shown.clone()).collect();
        for block in &mut self.blocks {
            block.shadow.remote.retain(|r| r.clock > shown[r.rank as usize][r.warp]);
            block.gate_open();
        }
        Ok(())
    }
}
