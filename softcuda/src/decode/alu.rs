//! Arithmetic, comparisons, conversions and moves.

use super::{Decoded, Mods, count};
use crate::emit::{Arg, Emit};
use crate::op::{Bin, Bool, Class, Cmp, NONE, Op, SINK, Space, Tri, Ty, Un, ZERO};

fn class(ty: Ty) -> Class {
    if ty.float() { Class::Float } else { Class::Integer }
}

const CMPS: [(&str, Cmp); 18] = [
    ("eq", Cmp::Eq),
    ("ne", Cmp::Ne),
    ("lt", Cmp::Lt),
    ("le", Cmp::Le),
    ("gt", Cmp::Gt),
    ("ge", Cmp::Ge),
    ("lo", Cmp::Lt),
    ("ls", Cmp::Le),
    ("hi", Cmp::Gt),
    ("hs", Cmp::Ge),
    ("equ", Cmp::Equ),
    ("neu", Cmp::Neu),
    ("ltu", Cmp::Ltu),
    ("leu", Cmp::Leu),
    ("gtu", Cmp::Gtu),
    ("geu", Cmp::Geu),
    ("num", Cmp::Num),
    ("nan", Cmp::Nan),
];

const BOOLS: [(&str, Bool); 3] = [("and", Bool::And), ("or", Bool::Or), ("xor", Bool::Xor)];

impl Emit<'_> {
    pub(super) fn alu(&mut self, head: &str, mods: &mut Mods, args: &[Arg]) -> Result<Option<(Op, Class)>, String> {
        let un = match head {
            "abs" => Some(Un::Abs),
            "neg" => Some(Un::Neg),
            "not" => Some(Un::Not),
            "cnot" => Some(Un::Cnot),
            "popc" => Some(Un::Popc),
            "clz" => Some(Un::Clz),
            "brev" => Some(Un::Brev),
            "bfind" => Some(Un::Bfind(mods.has("shiftamt"))),
            "rcp" => Some(Un::Rcp),
            "sqrt" => Some(Un::Sqrt),
            "rsqrt" => Some(Un::Rsqrt),
            "ex2" => Some(Un::Ex2),
            "lg2" => Some(Un::Lg2),
            "sin" => Some(Un::Sin),
            "cos" => Some(Un::Cos),
            "tanh" => Some(Un::Tanh),
            _ => None,
        };
        if let Some(op) = un {
            return self.unary(op, mods, args).map(Some);
        }
        let bin = match head {
            "add" | "sub" | "addc" | "subc" if head.ends_with('c') || mods.has("cc") => {
                return self.carrying(head, mods, args).map(Some);
            }
            "add" => Some(Bin::Add),
            "sub" => Some(Bin::Sub),
            "mul" | "mul24" => Some(mods.pick(&[("hi", Bin::MulHi), ("wide", Bin::MulWide)]).unwrap_or(Bin::MulLo)),
            "div" => Some(Bin::Div),
            "rem" => Some(Bin::Rem),
            "min" => Some(Bin::Min),
            "max" => Some(Bin::Max),
            "and" => Some(Bin::And),
            "or" => Some(Bin::Or),
            "xor" => Some(Bin::Xor),
            "shl" => Some(Bin::Shl),
            "shr" => Some(Bin::Shr),
            "copysign" => Some(Bin::Copysign),
            _ => None,
        };
        if let Some(op) = bin {
            return self.binary(op, mods, args).map(Some);
        }
        if head == "madc" || head == "mad" && mods.has("cc") {
            return self.multiply_carrying(head, mods, args).map(Some);
        }
        let tri = match head {
            "mad" | "mad24" => {
                Some(mods.pick(&[("hi", Tri::MadHi), ("wide", Tri::MadWide), ("lo", Tri::MadLo)]).unwrap_or(Tri::Fma))
            }
            "fma" => Some(Tri::Fma),
            "bfe" => Some(Tri::Bfe),
            "sad" => Some(Tri::Sad),
            "prmt" => {
                let modes = [("f4e", 1), ("b4e", 2), ("rc8", 3), ("ecl", 4), ("ecr", 5), ("rc16", 6)];
                Some(Tri::Prmt(mods.pick(&modes).unwrap_or(0)))
            }
            "shf" => {
                let wrap = mods.has("wrap");
                mods.has("clamp");
                Some(if mods.has("l") {
                    Tri::ShfL(wrap)
                } else {
                    mods.has("r");
                    Tri::ShfR(wrap)
                })
            }
            "dp2a" => {
                let upper = mods.pick(&[("lo", false), ("hi", true)]).ok_or("`dp2a` without its half")?;
                Some(Tri::Dp2a(mods.ty(0)?.signed(), mods.ty(1)?.signed(), upper))
            }
            "dp4a" => Some(Tri::Dp4a(mods.ty(0)?.signed(), mods.ty(1)?.signed())),
            _ => None,
        };
        if let Some(op) = tri {
            return self.ternary(op, mods, args).map(Some);
        }
        match head {
            "mov" => self.mov(mods, args).map(Some),
            "lop3" => self.lop3(mods, args).map(Some),
            "bfi" => {
                count(args, 5)?;
                let ty = mods.ty(0)?;
                let d = self.dest(&args[0])?;
                let [a, b, c, e] = [1, 2, 3, 4].map(|i| self.typed_value(&args[i], Some(Ty::B64)));
                Ok(Some((Op::Bfi { ty, d, a: a?, b: b?, c: c?, e: e? }, Class::Integer)))
            }
            "cvt" => self.convert(mods, args).map(Some),
            "setp" => self.setp(mods, args).map(Some),
            "set" => self.set(mods, args).map(Some),
            "selp" => {
                count(args, 4)?;
                let ty = Some(mods.ty(0)?);
                let d = self.dest(&args[0])?;
                let (a, b) = (self.typed_value(&args[1], ty)?, self.typed_value(&args[2], ty)?);
                let (p, neg) = self.predicate(&args[3])?;
                Ok(Some((Op::Selp { d, a, b, p, neg }, Class::Move)))
            }
            "slct" => {
                count(args, 4)?;
                mods.has("ftz");
                let ty = mods.ty(1)?;
                let d = self.dest(&args[0])?;
                let (a, b) =
                    (self.typed_value(&args[1], mods.ty(0).ok())?, self.typed_value(&args[2], mods.ty(0).ok())?);
                let c = self.typed_value(&args[3], Some(ty))?;
                Ok(Some((Op::Slct { ty, d, a, b, c }, Class::Move)))
            }
            "testp" => {
                count(args, 2)?;
                let names = [
                    ("finite", 0u8),
                    ("infinite", 1),
                    ("number", 2),
                    ("notanumber", 3),
                    ("normal", 4),
                    ("subnormal", 5),
                ];
                let what = mods.pick(&names).ok_or("testp without a class")?;
                let (d, a) = (self.dest(&args[0])?, self.value(&args[1])?);
                Ok(Some((Op::Testp { ty: mods.ty(0)?, what, d, a }, Class::Float)))
            }
            "cvta" => {
                count(args, 2)?;
                let to = mods.has("to");
                let space = mods.space();
                let width = mods.ty(0)?.size();
                let (d, a) = (self.dest(&args[0])?, self.value(&args[1])?);
                Ok(Some((Op::Cvta { d, a, space, to, width }, Class::Move)))
            }
            "isspacep" => {
                count(args, 2)?;
                let space = mods.space();
                let (d, a) = (self.dest(&args[0])?, self.value(&args[1])?);
                Ok(Some((Op::Isspacep { d, a, space }, Class::Move)))
            }
            _ => Ok(None),
        }
    }

    fn unary(&mut self, op: Un, mods: &mut Mods, args: &[Arg]) -> Decoded {
        count(args, 2)?;
        let mode = mods.mode();
        let approx = mods.has("approx");
        let ty = mods.ty(mods.types.len().saturating_sub(1))?;
        let d = self.dest(&args[0])?;
        let a = self.typed_value(&args[1], Some(ty))?;
        let class = if approx || matches!(op, Un::Rcp | Un::Sqrt) { Class::Special } else { class(ty) };
        Ok((Op::Un { op, ty, mode, d, a }, class))
    }

    fn binary(&mut self, op: Bin, mods: &mut Mods, args: &[Arg]) -> Decoded {
        count(args, 3)?;
        let mode = mods.mode();
        mods.ignore(&["lo", "full", "approx", "xorsign"]);
        let ty = mods.ty(0)?;
        let d = self.dest(&args[0])?;
        let a = self.typed_value(&args[1], Some(ty))?;
        let b_ty = if matches!(op, Bin::Shl | Bin::Shr) { Ty::U32 } else { ty };
        let b = self.typed_value(&args[2], Some(b_ty))?;
        let class = if op == Bin::Div && ty.float() { Class::Special } else { class(ty) };
        Ok((Op::Bin { op, ty, mode, d, a, b }, class))
    }

    fn ternary(&mut self, op: Tri, mods: &mut Mods, args: &[Arg]) -> Decoded {
        count(args, 4)?;
        let mode = mods.mode();
        let ty = mods.ty(0)?;
        let d = self.dest(&args[0])?;
        let (a, b) = (self.typed_value(&args[1], Some(ty))?, self.typed_value(&args[2], Some(ty))?);
        let c_ty = match (op, ty) {
            (Tri::MadWide, Ty::U32 | Ty::S32) => Ty::U64,
            (Tri::MadWide, Ty::U16 | Ty::S16) => Ty::U32,
            _ => ty,
        };
        let c = self.typed_value(&args[3], Some(c_ty))?;
        Ok((Op::Tri { op, ty, mode, d, a, b, c }, class(ty)))
    }

    fn carrying(&mut self, head: &str, mods: &mut Mods, args: &[Arg]) -> Decoded {
        count(args, 3)?;
        mods.has("cc");
        let ty = mods.ty(0)?;
        let d = self.dest(&args[0])?;
        let (a, b) = (self.typed_value(&args[1], Some(ty))?, self.typed_value(&args[2], Some(ty))?);
        let flag = self.carry();
        let op = Op::Carry { sub: head.starts_with("sub"), ty, d, a, b, carry_in: head.ends_with('c'), flag };
        Ok((op, Class::Integer))
    }

    /// A product and an addition with carry.
    fn multiply_carrying(&mut self, head: &str, mods: &mut Mods, args: &[Arg]) -> Decoded {
        count(args, 4)?;
        mods.has("cc");
        let mode = mods.mode();
        let op = mods.pick(&[("hi", Bin::MulHi), ("lo", Bin::MulLo)]).ok_or("mad.cc without a half")?;
        let ty = mods.ty(0)?;
        let [a, b, c] = [1, 2, 3].map(|i| self.typed_value(&args[i], Some(ty)));
        let (a, b, c) = (a?, b?, c?);
        let product = self.fresh();
        self.push(Op::Bin { op, ty, mode, d: product, a, b }, Class::Integer);
        let (d, flag) = (self.dest(&args[0])?, self.carry());
        let op = Op::Carry { sub: false, ty, d, a: product, b: c, carry_in: head == "madc", flag };
        Ok((op, Class::Integer))
    }

    fn mov(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        count(args, 2)?;
        let ty = mods.ty(0)?;
        let bits = ty.size() * 8;
        if let Arg::Word(w) = &args[1]
            && matches!(*w, "%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo" | "%clock_hi")
        {
            return Ok((Op::Clock { d: self.dest(&args[0])? }, Class::Move));
        }
        match (&args[0], &args[1]) {
            (Arg::Vector(list), source) => {
                let parts: Box<[_]> = list.iter().map(|a| self.dest(a)).collect::<Result<_, _>>()?;
                let a = self.typed_value(source, Some(ty))?;
                Ok((Op::Unpack { bits: bits / parts.len() as u32, parts, a }, Class::Move))
            }
            (target, Arg::Vector(list)) => {
                let parts: Box<[_]> = list.iter().map(|a| self.value(a)).collect::<Result<_, _>>()?;
                let d = self.dest(target)?;
                Ok((Op::Pack { d, bits: bits / parts.len() as u32, parts }, Class::Move))
            }
            (target, source) => {
                let a = self.typed_value(source, Some(ty))?;
                Ok((Op::Mov { d: self.dest(target)?, a }, Class::Move))
            }
        }
    }

    fn lop3(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        count(args, 5)?;
        let Arg::Word(table) = &args[4] else { return Err("lop3 needs a constant".into()) };
        let table = crate::lex::integer(table).ok_or("lop3 needs a constant")? as u8;
        let mode = mods.mode();
        let ty = mods.ty(0)?;
        let d = self.dest(&args[0])?;
        let [a, b, c] = [1, 2, 3].map(|i| self.typed_value(&args[i], Some(ty)));
        Ok((Op::Tri { op: Tri::Lop3(table), ty, mode, d, a: a?, b: b?, c: c? }, Class::Integer))
    }

    fn convert(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        let mode = mods.mode();
        mods.ignore(&["satfinite"]);
        let (to, from) = (mods.ty(0)?, mods.ty(1)?);
        let packed = matches!(to, Ty::F16x2 | Ty::Bf16x2);
        count(args, if packed { 3 } else { 2 })?;
        let d = self.dest(&args[0])?;
        let a = self.typed_value(&args[1], Some(from))?;
        let b = if packed { self.typed_value(&args[2], Some(from))? } else { ZERO };
        // The destination may be wider than the type: it is then extended.
        let width = match &args[0] {
            Arg::Word(w) => self.register(w).map_or(8, |(_, ty)| ty.size()),
            _ => 8,
        };
        Ok((Op::Cvt { to, from, mode, d, a, b, width }, Class::Convert))
    }

    fn combine(&mut self, mods: &mut Mods, args: &[Arg]) -> Result<Option<(Bool, u32, bool)>, String> {
        let Some(op) = mods.pick(&BOOLS) else { return count(args, 3).map(|()| None) };
        count(args, 4)?;
        let (row, neg) = self.predicate(&args[3])?;
        Ok(Some((op, row, neg)))
    }

    fn setp(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        let cmp = mods.pick(&CMPS).ok_or("setp without a comparison")?;
        let ftz = mods.has("ftz");
        let combine = self.combine(mods, args)?;
        let ty = mods.ty(0)?;
        let (p, q) = match &args[0] {
            Arg::Pair(p, q) => (self.dest(p)?, self.dest(q)?),
            one => (self.dest(one)?, if ty == Ty::F16x2 || ty == Ty::Bf16x2 { NONE } else { SINK }),
        };
        let (a, b) = (self.typed_value(&args[1], Some(ty))?, self.typed_value(&args[2], Some(ty))?);
        Ok((Op::Setp { cmp, ty, ftz, combine, p, q, a, b }, class(ty)))
    }

    fn set(&mut self, mods: &mut Mods, args: &[Arg]) -> Decoded {
        let cmp = mods.pick(&CMPS).ok_or("set without a comparison")?;
        mods.has("ftz");
        let combine = self.combine(mods, args)?;
        let (to, ty) = (mods.ty(0)?, mods.ty(1)?);
        let d = self.dest(&args[0])?;
        let (a, b) = (self.typed_value(&args[1], Some(ty))?, self.typed_value(&args[2], Some(ty))?);
        Ok((Op::Set { cmp, ty, to, combine, d, a, b }, class(ty)))
    }
}

/// The class of an access to `space`.
pub(super) fn access_class(space: Space) -> Class {
    match space {
        Space::Global | Space::Generic => Class::Global,
        Space::Shared | Space::Cluster => Class::Shared,
        _ => Class::Other,
    }
}
