//! `mbarrier` and `cp.async.bulk`.

use super::{Decoded, Mods, count};
use crate::emit::{Arg, Emit};
use crate::op::{Bulk, BulkMove, Class, NONE, Op, Place, Row, SINK, Space, Ty};

impl Emit<'_> {
    fn spot(&mut self, space: Space, arg: &Arg) -> Result<Place, String> {
        let (addr, space) = self.place(space, arg)?;
        Ok(Place { addr, space })
    }

    pub(super) fn mbarrier(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        let space = mods.space();
        let space = if mods.has("shared::cta") || mods.has("shared::cluster") { Space::Shared } else { space };
        mods.ignore(&["b64", "release", "acquire", "relaxed", "cta", "cluster"]);
        let op = if mods.has("init") {
            count(args, 2)?;
            Op::MbInit { at: self.spot(space, &args[0])?, count: self.value(&args[1])? }
        } else if mods.has("inval") {
            count(args, 1)?;
            Op::MbInval { at: self.spot(space, &args[0])? }
        } else if mods.has("pending_count") {
            count(args, 2)?;
            Op::MbPending { d: self.dest(&args[0])?, state: self.value(&args[1])? }
        } else if mods.has("arrive") || mods.has("arrive_drop") {
            let drop = mods.parts.first() == Some(&"arrive_drop");
            let expects = mods.has("expect_tx");
            mods.ignore(&["noComplete"]);
            let (d, rest) = match args.first() {
                Some(Arg::Memory(..)) => (SINK, args),
                Some(arg) => (self.dest(arg)?, &args[1..]),
                None => return Err("mbarrier.arrive without a barrier".into()),
            };
            let [place, more @ ..] = rest else { return Err("mbarrier.arrive without a barrier".into()) };
            let at = self.spot(space, place)?;
            let more = match more {
                [] => NONE,
                [value] => self.value(value)?,
                _ => return Err("too many operands".into()),
            };
            let (count, bytes) = if expects { (NONE, more) } else { (more, NONE) };
            Op::MbArrive { d, at, count, bytes, drop }
        } else if mods.has("expect_tx") {
            count(args, 2)?;
            Op::MbExpect { at: self.spot(space, &args[0])?, bytes: self.value(&args[1])? }
        } else if mods.has("test_wait") || mods.has("try_wait") {
            let parity = mods.has("parity");
            // A fourth operand limits the time of suspension.
            if args.len() != 4 {
                count(args, 3)?;
            }
            let (p, at) = (self.dest(&args[0])?, self.spot(space, &args[1])?);
            Op::MbWait { p, at, state: self.value(&args[2])?, parity }
        } else {
            return Err("this mbarrier instruction isn't known".into());
        };
        Ok((op, Class::Barrier))
    }

    pub(super) fn bulk(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        mods.ignore(&["async", "bulk", "tile", "L2::cache_hint"]);
        if mods.has("commit_group") {
            return Ok((Op::BulkCommit, Class::Copy));
        }
        if mods.has("wait_group") {
            mods.ignore(&["read"]);
            count(args, 1)?;
            let keep = match &args[0] {
                Arg::Word(w) => crate::lex::integer(w),
                _ => None,
            };
            return Ok((Op::BulkWait { keep: keep.ok_or("wait_group needs a constant")? as u32 }, Class::Copy));
        }
        if mods.has("prefetch") {
            mods.ignore(&["*"]);
            return Ok((Op::Nop, Class::Other));
        }
        let load = mods.has("mbarrier::complete_tx::bytes");
        if !load && !mods.has("bulk_group") {
            return Err("this bulk copy isn't supported".into());
        }
        mods.ignore(&["shared::cluster", "shared::cta", "global"]);
        let tensor = mods.has("tensor");
        let rank = mods.pick(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)]);
        let (Some(first), Some(second)) = (args.first(), args.get(1)) else { return Err("too few operands".into()) };
        let what = if tensor {
            let rank = rank.ok_or("a copy of a tensor without its rank")?;
            let (map, shared) = if load { (second, first) } else { (first, second) };
            let Arg::Memory(base, offset, coordinates) = map else { return Err("expected a tensor map".into()) };
            let [Arg::Vector(list)] = &coordinates[..] else { return Err("expected coordinates".into()) };
            if list.len() != rank {
                return Err(format!("expected {rank} coordinates"));
            }
            let coordinates: Vec<Row> =
                list.iter().map(|c| self.typed_value(c, Some(Ty::B32))).collect::<Result<_, _>>()?;
            let map = self.spot(Space::Generic, &Arg::Memory(base.clone(), *offset, Vec::new()))?;
            BulkMove::Tensor { map, coordinates: coordinates.into(), shared: self.spot(Space::Shared, shared)? }
        } else {
            let (shared, global) = if load { (first, second) } else { (second, first) };
            let size = args.get(2).ok_or("a bulk copy without its size")?;
            BulkMove::Linear {
                shared: self.spot(Space::Shared, shared)?,
                global: self.spot(Space::Global, global)?,
                size: self.value(size)?,
            }
        };
        let at = if tensor { 2 } else { 3 };
        let barrier = match args.get(at) {
            Some(arg) if load => Some(self.spot(Space::Shared, arg)?),
            None if load => return Err("a bulk copy without its mbarrier".into()),
            _ => None,
        };
        Ok((Op::Bulk(Box::new(Bulk { what, barrier })), Class::Copy))
    }
}
