//! Loads, stores, atomics and asynchronous copies.

use super::alu::access_class;
use super::{Decoded, Mods, count};
use crate::emit::{Arg, Emit, Var};
use crate::op::{Addr, Atomic, Class, NONE, Op, SINK, Space, Ty, ZERO};

/// Modifiers of accesses that change no result here.
const HINTS: [&str; 24] = [
    "nc", "ca", "cg", "cs", "cv", "lu", "wb", "wt", "weak", "volatile", "relaxed", "acquire", "release", "acq_rel",
    "gpu", "sys", "cta", "cluster", "L1::*", "L2::*", "level::*", "mmio", "unified", "noftz",
];

const ATOMICS: [(&str, Atomic); 10] = [
    ("add", Atomic::Add),
    ("min", Atomic::Min),
    ("max", Atomic::Max),
    ("and", Atomic::And),
    ("or", Atomic::Or),
    ("xor", Atomic::Xor),
    ("exch", Atomic::Exch),
    ("cas", Atomic::Cas),
    ("inc", Atomic::Inc),
    ("dec", Atomic::Dec),
];

impl Emit<'_> {
    /// An address and its space: a parameter of an inlined function is local memory here.
    pub(super) fn place(&mut self, space: Space, arg: &Arg) -> Result<(Addr, Space), String> {
        let (addr, var) = self.address(arg)?;
        let space = match (space, var) {
            (Space::Param, Some(Var::Local(_))) => Space::Local,
            (Space::Generic, Some(Var::Shared(_))) => Space::Shared,
            (Space::Generic, Some(Var::Local(_))) => Space::Local,
            (Space::Generic, Some(Var::Param(_))) => Space::Param,
            (space, _) => space,
        };
        Ok((addr, space))
    }

    pub(super) fn memory(&mut self, head: &str, mods: &mut Mods, args: &[Arg]) -> Result<Option<(Op, Class)>, String> {
        match head {
            "ld" | "ldu" => self.load(mods, args).map(Some),
            "st" => self.store(mods, args).map(Some),
            "atom" | "red" => self.atomic(head == "red", mods, args).map(Some),
            "cp" if mods.parts.get(1) == Some(&"bulk") => self.bulk(mods, args).map(Some),
            "mapa" => self.map_address(mods, args).map(Some),
            "mbarrier" => self.mbarrier(mods, args).map(Some),
            "cp" if mods.parts.first() == Some(&"async") => self.copy(mods, args),
            "griddepcontrol" if mods.has("wait") => Ok(Some((Op::Await, Class::Barrier))),
            // When later kernels may begin: they see nothing before this one's end.
            "griddepcontrol" if mods.has("launch_dependents") => Ok(Some((Op::Nop, Class::Other))),
            "prefetch" if mods.has("global") => {
                mods.ignore(&["L1", "L2", "L2::*"]);
                count(args, 1)?;
                let (addr, _) = self.place(Space::Global, &args[0])?;
                Ok(Some((Op::Prefetch { addr }, Class::Other)))
            }
            "prefetch" | "prefetchu" | "applypriority" | "discard" | "nanosleep" | "setmaxnreg" => {
                mods.ignore(&["*"]);
                Ok(Some((Op::Nop, Class::Other)))
            }
            "fence" if mods.has("proxy") && mods.has("async") => {
                mods.ignore(&["shared::cta", "shared::cluster", "global"]);
                Ok(Some((Op::ProxyFence, Class::Barrier)))
            }
            "membar" | "fence" => {
                mods.ignore(&["*"]);
                Ok(Some((Op::Nop, Class::Barrier)))
            }
            _ => Ok(None),
        }
    }

    fn map_address(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        count(args, 3)?;
        // Addresses of 32 bits can only be those of shared memory.
        let space = match (mods.has("shared::cluster"), mods.ty(0)?) {
            (true, Ty::U32 | Ty::U64) | (false, Ty::U32) => Space::Shared,
            (false, Ty::U64) => Space::Generic,
            _ => return Err("mapa is of .u32 or .u64".into()),
        };
        let (d, a) = (self.dest(&args[0])?, self.value(&args[1])?);
        let rank = self.typed_value(&args[2], Some(Ty::U32))?;
        Ok((Op::Mapa { space, d, a, rank }, Class::Move))
    }

    fn vector(mods: &mut Mods) -> usize {
        mods.pick(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1)
    }

    fn load(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        let n = Self::vector(mods);
        let space = if mods.has("shared::cluster") { Space::Cluster } else { mods.space() };
        mods.ignore(&HINTS);
        let ty = mods.ty(0)?;
        if args.len() > 2 && !mods.has("L2::cache_hint") {
            count(args, 2)?;
        }
        let list: &[Arg] = match &args[0] {
            Arg::Vector(list) => list,
            _ => &args[..1],
        };
        count(list, n)?;
        let mut parts = Vec::new();
        for arg in list {
            let width = match arg {
                Arg::Word(w) => self.register(w).map_or(8, |(_, t)| t.size()),
                _ => 8,
            };
            parts.push((self.dest(arg)?, width));
        }
        let (addr, space) = self.place(space, &args[1])?;
        Ok((Op::Ld { space, ty, parts: parts.into(), addr }, access_class(space)))
    }

    fn store(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        let n = Self::vector(mods);
        let space = mods.space();
        mods.ignore(&HINTS);
        let ty = mods.ty(0)?;
        if args.len() < 2 {
            count(args, 2)?;
        }
        let parts = self.sources(&args[1], Some(ty))?;
        if parts.len() != n {
            return Err(format!("expected {n} values"));
        }
        let (addr, space) = self.place(space, &args[0])?;
        Ok((Op::St { space, ty, parts, addr }, access_class(space)))
    }

    fn atomic(&mut self, red: bool, mods: &mut Mods, args: &[Arg]) -> Decoded {
        let n = Self::vector(mods);
        let op = mods.pick(&ATOMICS).ok_or("an atomic without an operation")?;
        let space = mods.space();
        mods.ignore(&HINTS);
        mods.has("async");
        let ty = mods.ty(0)?;
        let (target, args) = if red { (None, args) } else { (args.first(), args.get(1..).ok_or("too few operands")?) };
        count(args, if op == Atomic::Cas { 3 } else { 2 })?;
        let (addr, space) = self.place(space, &args[0])?;
        let b = self.sources(&args[1], Some(ty))?;
        if b.len() != n {
            return Err(format!("expected {n} values"));
        }
        let c = if op == Atomic::Cas { self.typed_value(&args[2], Some(ty))? } else { ZERO };
        let d = match target {
            Some(arg) => self.dests(arg)?,
            None => vec![SINK; n].into(),
        };
        Ok((Op::Atom { space, op, ty, d, addr, b, c }, access_class(space)))
    }

    fn copy(&mut self, mods: &mut Mods, args: &[Arg]) -> Result<Option<(Op, Class)>, String> {
        mods.has("async");
        if mods.has("commit_group") {
            return Ok(Some((Op::CpCommit, Class::Copy)));
        }
        if mods.has("wait_all") {
            return Ok(Some((Op::CpWaitAll, Class::Copy)));
        }
        let constant = |arg: &Arg| match arg {
            Arg::Word(w) => crate::lex::integer(w).map(|n| n as u32),
            _ => None,
        };
        if mods.has("wait_group") {
            count(args, 1)?;
            let keep = constant(&args[0]).ok_or("wait_group needs a constant")?;
            return Ok(Some((Op::CpWait { keep }, Class::Copy)));
        }
        if !(mods.has("ca") || mods.has("cg")) {
            return Ok(None);
        }
        mods.ignore(&["shared", "shared::cta", "global", "L2::*"]);
        if args.len() < 3 {
            count(args, 3)?;
        }
        let (dst, _) = self.place(Space::Shared, &args[0])?;
        let (src, _) = self.place(Space::Global, &args[1])?;
        let size = constant(&args[2]).ok_or("cp.async needs a constant size")?;
        let (mut src_size, mut ignore, mut ignore_neg) = (NONE, NONE, false);
        if let Some(arg) = args.get(3) {
            let is_predicate = match arg {
                Arg::Not(_) => true,
                Arg::Word(w) => self.register(w).is_some_and(|(_, ty)| ty == Ty::Pred),
                _ => false,
            };
            if is_predicate {
                (ignore, ignore_neg) = self.predicate(arg)?;
            } else if !mods.has("L2::cache_hint") || args.len() > 4 {
                src_size = self.value(arg)?;
            }
        }
        Ok(Some((Op::CpAsync { dst, src, size, src_size, ignore, ignore_neg }, Class::Copy)))
    }
}
