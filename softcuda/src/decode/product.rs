//! `wgmma`: asynchronous products of four warps.

use super::{Decoded, Mods, count};
use crate::emit::{Arg, Emit};
use crate::op::{Class, GroupMma, Left, Op, Ty};

impl Emit<'_> {
    pub(super) fn product(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        if !mods.has("sync") || !mods.has("aligned") {
            return Err("wgmma needs .sync.aligned".into());
        }
        if mods.has("fence") {
            return Ok((Op::GroupFence, Class::Barrier));
        }
        if mods.has("commit_group") {
            return Ok((Op::GroupCommit, Class::Barrier));
        }
        if mods.has("wait_group") {
            count(args, 1)?;
            let keep = match &args[0] {
                Arg::Word(w) => crate::lex::integer(w),
                _ => None,
            };
            let keep = keep.ok_or("wait_group needs a constant")? as u32;
            return Ok((Op::GroupWait { keep }, Class::Barrier));
        }
        if !mods.has("mma_async") {
            return Err("this wgmma instruction isn't known".into());
        }
        let shape = mods.parts.iter().find(|p| p.starts_with("m64n")).copied().ok_or("wgmma without a shape")?;
        mods.has(shape);
        let n = shape.strip_prefix("m64n").and_then(|s| s.strip_suffix("k16")).and_then(|s| s.parse::<u32>().ok());
        let n = n.filter(|n| n % 8 == 0 && (8..=256).contains(n)).ok_or("this wgmma shape isn't supported")?;
        let ty = match mods.types[..] {
            [Ty::F32, Ty::F16, Ty::F16] => Ty::F16,
            [Ty::F32, Ty::Bf16, Ty::Bf16] => Ty::Bf16,
            _ => return Err("these wgmma types aren't supported".into()),
        };
        if args.len() < 2 {
            count(args, 8)?;
        }
        let d = self.dests(&args[0])?;
        if d.len() != n as usize / 2 {
            return Err(format!("expected {} accumulators, found {}", n / 2, d.len()));
        }
        let in_registers = matches!(args[1], Arg::Vector(_));
        // A in registers has no layout to choose.
        count(args, if in_registers { 7 } else { 8 })?;
        let a = if in_registers {
            let rows = self.sources(&args[1], None)?;
            let rows: [u32; 4] = rows[..].try_into().map_err(|_| "A needs four registers")?;
            Left::Registers(rows)
        } else {
            Left::Shared(self.value(&args[1])?)
        };
        let b = self.value(&args[2])?;
        let scale = self.predicate(&args[3])?;
        let sign = |arg: &Arg| match arg {
            Arg::Word(w) if *w == "1" => Ok(false),
            Arg::Negative(w) if *w == "1" => Ok(true),
            _ => Err("imm-scale must be 1 or -1".to_string()),
        };
        let turn = |arg: &Arg| match arg {
            Arg::Word(w) if *w == "0" => Ok(false),
            Arg::Word(w) if *w == "1" => Ok(true),
            _ => Err("imm-trans must be 0 or 1".to_string()),
        };
        let (negate_a, negate_b) = (sign(&args[4])?, sign(&args[5])?);
        let turn_a = if in_registers { false } else { turn(&args[6])? };
        let turn_b = turn(&args[args.len() - 1])?;
        let mma = GroupMma { n, ty, d, a, b, scale, negate: negate_a != negate_b, turn_a, turn_b };
        Ok((Op::GroupMma(Box::new(mma)), Class::Matrix))
    }
}
