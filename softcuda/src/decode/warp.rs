//! Instructions of a whole warp or block: barriers, shuffles, votes and matrices.

use super::alu::access_class;
use super::{Decoded, Mods, count};
use crate::emit::{Arg, Emit};
use crate::op::{Atomic, Class, Mma, NONE, Op, SINK, Shape, Shfl, Space, Ty, Vote, ZERO};

const SHAPES: [(&str, Shape); 7] = [
    ("m16n8k4", Shape::M16N8K4),
    ("m16n8k8", Shape::M16N8K8),
    ("m16n8k16", Shape::M16N8K16),
    ("m16n8k32", Shape::M16N8K32),
    ("m16n16k16", Shape::M16N16K16),
    ("m32n8k16", Shape::M32N8K16),
    ("m8n32k16", Shape::M8N32K16),
];

impl Emit<'_> {
    pub(super) fn warp(&mut self, head: &str, mods: &mut Mods, args: &[Arg]) -> Result<Option<(Op, Class)>, String> {
        mods.has("sync");
        match head {
            "bar" | "barrier" => self.barrier(head, mods, args).map(Some),
            "vote" => {
                let modes = [("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uni), ("ballot", Vote::Ballot)];
                let mode = mods.pick(&modes).ok_or("vote without a mode")?;
                count(args, 3)?;
                let d = self.dest(&args[0])?;
                let (a, neg) = self.predicate(&args[1])?;
                let mask = self.typed_value(&args[2], Some(Ty::B32))?;
                Ok(Some((Op::Vote { mode, d, a, neg, mask }, Class::Warp)))
            }
            "shfl" => {
                let modes = [("up", Shfl::Up), ("down", Shfl::Down), ("bfly", Shfl::Bfly), ("idx", Shfl::Idx)];
                let mode = mods.pick(&modes).ok_or("shfl without a mode")?;
                count(args, 5)?;
                let (d, p) = match &args[0] {
                    Arg::Pair(d, p) => (self.dest(d)?, self.dest(p)?),
                    one => (self.dest(one)?, SINK),
                };
                let [a, b, c, mask] = [1, 2, 3, 4].map(|i| self.typed_value(&args[i], Some(Ty::B32)));
                Ok(Some((Op::Shfl { mode, d, p, a: a?, b: b?, c: c?, mask: mask? }, Class::Warp)))
            }
            "redux" => {
                let ops = [
                    ("add", Atomic::Add),
                    ("min", Atomic::Min),
                    ("max", Atomic::Max),
                    ("and", Atomic::And),
                    ("or", Atomic::Or),
                    ("xor", Atomic::Xor),
                ];
                let op = mods.pick(&ops).ok_or("redux without an operation")?;
                count(args, 3)?;
                let ty = mods.ty(0)?;
                let d = self.dest(&args[0])?;
                let (a, mask) = (self.typed_value(&args[1], Some(ty))?, self.typed_value(&args[2], Some(Ty::B32))?);
                Ok(Some((Op::Redux { op, ty, d, a, mask }, Class::Warp)))
            }
            "match" => {
                let all = mods.has("all");
                mods.has("any");
                count(args, 3)?;
                let (d, p) = match &args[0] {
                    Arg::Pair(d, p) => (self.dest(d)?, self.dest(p)?),
                    one => (self.dest(one)?, SINK),
                };
                let ty = mods.ty(0)?;
                let (a, mask) = (self.typed_value(&args[1], Some(ty))?, self.typed_value(&args[2], Some(Ty::B32))?);
                Ok(Some((Op::Match { all, ty, d, p, a, mask }, Class::Warp)))
            }
            "activemask" => {
                count(args, 1)?;
                Ok(Some((Op::ActiveMask { d: self.dest(&args[0])? }, Class::Warp)))
            }
            "elect" => {
                count(args, 2)?;
                let (d, p) = match &args[0] {
                    Arg::Pair(d, p) => (self.dest(d)?, self.dest(p)?),
                    one => (SINK, self.dest(one)?),
                };
                let mask = self.typed_value(&args[1], Some(Ty::B32))?;
                Ok(Some((Op::Elect { d, p, mask }, Class::Warp)))
            }
            "trap" | "brkpt" => Ok(Some((Op::Trap, Class::Control))),
            "exit" => Ok(Some((Op::Exit, Class::Control))),
            "ldmatrix" | "stmatrix" => self.matrix_move(head == "ldmatrix", mods, args).map(Some),
            "mma" => self.mma(mods, args).map(Some),
            "wmma" => self.wmma(mods, args).map(Some),
            "wgmma" => self.product(mods, args).map(Some),
            _ => Ok(None),
        }
    }

    fn barrier(&mut self, head: &str, mods: &mut Mods, args: &[Arg]) -> Decoded {
        if mods.has("warp") {
            count(args, 1)?;
            let mask = self.typed_value(&args[0], Some(Ty::B32))?;
            return Ok((Op::WarpBar { mask }, Class::Barrier));
        }
        if mods.has("cluster") {
            return self.cluster_barrier(mods, args);
        }
        mods.has("cta");
        let aligned = mods.has("aligned") || head == "bar";
        let arrive = mods.has("arrive");
        if mods.has("red") {
            let op = mods
                .pick(&[("and", Vote::All), ("or", Vote::Any), ("popc", Vote::Ballot)])
                .ok_or("bar.red without an operation")?;
            if args.len() < 3 {
                count(args, 3)?;
            }
            let d = self.dest(&args[0])?;
            let id = self.value(&args[1])?;
            let count = if args.len() == 4 { self.value(&args[2])? } else { NONE };
            let (p, neg) = self.predicate(&args[args.len() - 1])?;
            return Ok((Op::Bar { id, count, aligned, arrive, reduce: Some((op, p, neg, d)) }, Class::Barrier));
        }
        let id = match args.first() {
            Some(arg) => self.value(arg)?,
            None => ZERO,
        };
        let threads = match args.get(1) {
            Some(arg) => self.value(arg)?,
            None => NONE,
        };
        Ok((Op::Bar { id, count: threads, aligned, arrive, reduce: None }, Class::Barrier))
    }

    fn cluster_barrier(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        count(args, 0)?;
        let aligned = mods.has("aligned");
        let op = if mods.has("arrive") {
            let relaxed = mods.has("relaxed");
            Op::ClusterArrive { release: mods.has("release") || !relaxed, aligned }
        } else if mods.has("wait") {
            mods.has("acquire");
            Op::ClusterWait { aligned }
        } else {
            return Err("barrier.cluster without arrive or wait".into());
        };
        // A block alone has nobody to wait for.
        let alone = self.cluster.unwrap_or(1) == 1;
        Ok((if alone { Op::Nop } else { op }, Class::Barrier))
    }

    fn matrix_move(&mut self, load: bool, mods: &mut Mods, args: &[Arg]) -> Decoded {
        mods.ignore(&["aligned", "m8n8"]);
        let n = mods.pick(&[("x1", 1), ("x2", 2), ("x4", 4)]).ok_or("a matrix move without a count")?;
        let trans = mods.has("trans");
        let space = mods.space();
        if mods.ty(0)? != Ty::B16 {
            return Err("only .b16 matrices are supported".into());
        }
        count(args, 2)?;
        let (registers, place) = if load { (&args[0], &args[1]) } else { (&args[1], &args[0]) };
        let rows = if load { self.dests(registers)? } else { self.sources(registers, None)? };
        if rows.len() != n {
            return Err(format!("expected {n} registers"));
        }
        let (addr, space) = self.place(space, place)?;
        let op = if load {
            Op::Ldmatrix { trans, d: rows, addr, space }
        } else {
            Op::Stmatrix { trans, a: rows, addr, space }
        };
        Ok((op, Class::Shared))
    }

    fn mma(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        mods.ignore(&["aligned"]);
        let shape = mods.pick(&SHAPES).ok_or("this mma shape isn't known")?;
        if !mods.has("row") || !mods.has("col") {
            return Err("only mma.row.col is supported".into());
        }
        count(args, 4)?;
        let [d_ty, a_ty, b_ty, c_ty] = mods.types[..] else { return Err("mma needs four types".into()) };
        let known = match (shape, a_ty) {
            (Shape::M16N8K16 | Shape::M16N8K8, Ty::F16 | Ty::Bf16) => true,
            (Shape::M16N8K8 | Shape::M16N8K4, Ty::Tf32) => true,
            (Shape::M16N8K16 | Shape::M16N8K32, Ty::S8 | Ty::U8) => true,
            _ => false,
        };
        if !known {
            return Err("this mma shape isn't supported for its types".into());
        }
        let d = self.dests(&args[0])?;
        let [a, b, c] = [1, 2, 3].map(|i| self.sources(&args[i], None));
        let mma = Mma { shape, wmma: false, a_ty, b_ty, c_ty, d_ty, d, a: a?, b: b?, c: c? };
        Ok((Op::Mma(Box::new(mma)), Class::Matrix))
    }

    fn wmma(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        mods.ignore(&["aligned"]);
        let shape = mods.pick(&SHAPES).ok_or("this wmma shape isn't known")?;
        if mods.has("mma") {
            // Layouts of the sources: any are fine, as fragments are laid out by `load`.
            mods.ignore(&["row", "col"]);
            count(args, 4)?;
            let (d_ty, a_ty, c_ty) = match mods.types[..] {
                [d, c] => (d, Ty::F16, c),
                [d, a, _, c] => (d, a, c),
                _ => return Err("these wmma types aren't known".into()),
            };
            let d = self.dests(&args[0])?;
            let [a, b, c] = [1, 2, 3].map(|i| self.sources(&args[i], None));
            let mma = Mma { shape, wmma: true, a_ty, b_ty: a_ty, c_ty, d_ty, d, a: a?, b: b?, c: c? };
            return Ok((Op::Mma(Box::new(mma)), Class::Matrix));
        }
        let row = mods.has("row");
        if !row && !mods.has("col") {
            return Err("wmma without a layout".into());
        }
        let space = mods.space();
        let ty = mods.ty(0)?;
        let load = mods.has("load");
        if !load && !mods.has("store") {
            return Err("this wmma instruction isn't known".into());
        }
        if mods.pick(&[("a", ()), ("b", ()), ("c", ()), ("d", ())]).is_none() {
            return Err("wmma without a fragment".into());
        }
        if args.len() < 2 {
            count(args, 3)?;
        }
        let (registers, place) = if load { (&args[0], &args[1]) } else { (&args[1], &args[0]) };
        let (addr, space) = self.place(space, place)?;
        if shape != Shape::M16N16K16 {
            return Err("only m16n16k16 is supported".into());
        }
        let stride = match args.get(2) {
            Some(arg) => self.value(arg)?,
            None => self.constant(16),
        };
        let class = access_class(if space == Space::Generic { Space::Global } else { space });
        if load {
            let d = self.dests(registers)?;
            Ok((Op::WmmaLoad { row, ty, space, d, addr, stride }, class))
        } else {
            let a = self.sources(registers, None)?;
            Ok((Op::WmmaStore { row, ty, space, a, addr, stride }, class))
        }
    }
}
