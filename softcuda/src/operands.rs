//! Which rows each instruction reads and writes, and which instructions touch registers of asynchronous products.

use std::collections::HashSet;

use crate::op::{BulkMove, Inst, Left, NONE, Op, Row};

/// Calls `f` with every row that `op` reads (`false`) or writes (`true`).
pub(crate) fn operands(op: &Op, mut f: impl FnMut(Row, bool)) {
    let mut each = |rows: &[Row], write: bool| rows.iter().filter(|r| **r != NONE).for_each(|r| f(*r, write));
    match op {
        Op::Nop
        | Op::Await
        | Op::Bra { .. }
        | Op::Exit
        | Op::Trap
        | Op::CpCommit
        | Op::CpWait { .. }
        | Op::CpWaitAll => {}
        Op::ProxyFence | Op::GroupFence | Op::GroupCommit | Op::GroupWait { .. } => {}
        Op::Clock { d } | Op::ActiveMask { d } => each(&[*d], true),
        Op::Brx { index, .. } => each(&[*index], false),
        Op::WarpBar { mask } => each(&[*mask], false),
        Op::Mov { d, a }
        | Op::Un { d, a, .. }
        | Op::Testp { d, a, .. }
        | Op::Cvta { d, a, .. }
        | Op::Isspacep { d, a, .. } => {
            each(&[*a], false);
            each(&[*d], true);
        }
        Op::Pack { d, parts, .. } => {
            each(parts, false);
            each(&[*d], true);
        }
        Op::Unpack { parts, a, .. } => {
            each(&[*a], false);
            each(parts, true);
        }
        Op::Bin { d, a, b, .. } | Op::Cvt { d, a, b, .. } => {
            each(&[*a, *b], false);
            each(&[*d], true);
        }
        Op::Tri { d, a, b, c, .. } | Op::Slct { d, a, b, c, .. } => {
            each(&[*a, *b, *c], false);
            each(&[*d], true);
        }
        Op::Carry { d, a, b, flag, .. } => {
            each(&[*a, *b], false);
            each(&[*d, *flag], true);
        }
        Op::Bfi { d, a, b, c, e, .. } => {
            each(&[*a, *b, *c, *e], false);
            each(&[*d], true);
        }
        Op::Setp { p, q, a, b, .. } => {
            each(&[*a, *b], false);
            each(&[*p, *q], true);
        }
        Op::Set { d, a, b, .. } => {
            each(&[*a, *b], false);
            each(&[*d], true);
        }
        Op::Selp { d, a, b, p, .. } => {
            each(&[*a, *b, *p], false);
            each(&[*d], true);
        }
        Op::Prefetch { addr } => each(&[addr.base], false),
        Op::Ld { parts, addr, .. } => {
            each(&[addr.base], false);
            parts.iter().for_each(|(row, _)| each(&[*row], true));
        }
        Op::St { parts, addr, .. } => {
            each(parts, false);
            each(&[addr.base], false);
        }
        Op::Atom { d, addr, b, c, .. } => {
            each(b, false);
            each(&[addr.base, *c], false);
            each(d, true);
        }
        Op::Bar { id, count, reduce, .. } => {
            each(&[*id, *count], false);
            if let Some((_, p, _, d)) = reduce {
                each(&[*p], false);
                each(&[*d], true);
            }
        }
        Op::Vote { d, a, mask, .. } | Op::Redux { d, a, mask, .. } => {
            each(&[*a, *mask], false);
            each(&[*d], true);
        }
        Op::Shfl { d, p, a, b, c, mask, .. } => {
            each(&[*a, *b, *c, *mask], false);
            each(&[*d, *p], true);
        }
        Op::Match { d, p, a, mask, .. } => {
            each(&[*a, *mask], false);
            each(&[*d, *p], true);
        }
        Op::Elect { d, p, mask } => {
            each(&[*mask], false);
            each(&[*d, *p], true);
        }
        Op::Ldmatrix { d, addr, .. } | Op::WmmaLoad { d, addr, .. } => {
            each(&[addr.base], false);
            each(d, true);
        }
        Op::Stmatrix { a, addr, .. } | Op::WmmaStore { a, addr, .. } => {
            each(a, false);
            each(&[addr.base], false);
        }
        Op::Mma(mma) => {
            each(&mma.a, false);
            each(&mma.b, false);
            each(&mma.c, false);
            each(&mma.d, true);
        }
        Op::CpAsync { dst, src, src_size, ignore, .. } => {
            each(&[dst.base, src.base, *src_size, *ignore], false);
        }
        Op::BulkCommit | Op::BulkWait { .. } | Op::ClusterArrive { .. } | Op::ClusterWait { .. } => {}
        Op::Mapa { d, a, rank, .. } => {
            each(&[*a, *rank], false);
            each(&[*d], true);
        }
        Op::MbInit { at, count: more } | Op::MbExpect { at, bytes: more } => each(&[at.addr.base, *more], false),
        Op::MbInval { at } => each(&[at.addr.base], false),
        Op::MbArrive { d, at, count, bytes, .. } => {
            each(&[at.addr.base, *count, *bytes], false);
            each(&[*d], true);
        }
        Op::MbWait { p, at, state, .. } => {
            each(&[at.addr.base, *state], false);
            each(&[*p], true);
        }
        Op::MbPending { d, state } => {
            each(&[*state], false);
            each(&[*d], true);
        }
        Op::Bulk(bulk) => {
            match &bulk.what {
                BulkMove::Linear { shared, global, size } => each(&[shared.addr.base, global.addr.base, *size], false),
                BulkMove::Tensor { map, coordinates, shared } => {
                    each(coordinates, false);
                    each(&[map.addr.base, shared.addr.base], false);
                }
            }
            bulk.barrier.iter().for_each(|b| each(&[b.addr.base], false));
        }
        Op::GroupMma(mma) => {
            match &mma.a {
                Left::Registers(rows) => each(rows, false),
                Left::Shared(row) => each(&[*row], false),
            }
            each(&[mma.b, mma.scale.0], false);
            each(&mma.d, false);
            each(&mma.d, true);
        }
    }
}

/// The registers that asynchronous products read and write, those that moves tie to them included. Empty in kernels
/// without such products.
pub(crate) fn product_registers(code: &[Inst]) -> HashSet<Row> {
    let mut found = HashSet::new();
    for inst in code {
        if let Op::GroupMma(mma) = &inst.op {
            found.extend(mma.d.iter().copied());
            if let Left::Registers(rows) = &mma.a {
                found.extend(rows.iter().copied());
            }
        }
    }
    if found.is_empty() {
        return found;
    }
    loop {
        let before = found.len();
        for inst in code {
            if let Op::Mov { d, a } = inst.op
                && (found.contains(&d) || found.contains(&a))
            {
                found.extend([d, a]);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Marks the instructions that touch one of `registers`.
pub(crate) fn mark(code: &mut [Inst], registers: &HashSet<Row>) {
    if registers.is_empty() {
        return;
    }
    for inst in code {
        let mut watched = false;
        operands(&inst.op, |row, _| watched |= registers.contains(&row));
        inst.watched = watched;
    }
}
