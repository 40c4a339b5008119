//! Operands: how they are written, and the rows that they become.

use super::{Emit, Var};
use crate::lex::{float, integer};
use crate::op::{Addr, Row, SINK, Special, Ty, ZERO};
use crate::parse::{Cursor, GlobalVar};

/// An operand as it is written.
#[derive(Clone, Debug)]
pub(crate) enum Arg<'a> {
    Word(&'a str),
    Negative(&'a str),
    Not(&'a str),
    Pair(Box<Arg<'a>>, Box<Arg<'a>>),
    Vector(Vec<Arg<'a>>),
    /// Base, offset, and what else stands between the brackets (coordinates of bulk copies).
    Memory(Box<Arg<'a>>, i64, Vec<Arg<'a>>),
    Paren(Vec<Arg<'a>>),
}

impl Emit<'_> {
    pub(super) fn variable(&self, name: &str) -> Option<Var> {
        self.scopes.iter().rev().find_map(|s| s.vars.get(name)).copied()
    }

    /// The row and type of a declared register.
    pub fn register(&self, name: &str) -> Option<(Row, Ty)> {
        let (family, number) = split_number(name);
        self.scopes.iter().rev().find_map(|scope| {
            let found = scope.families.iter().find(|f| f.name == family && number.is_some_and(|n| n < f.count));
            let found = found.zip(number).map(|(f, n)| (f.first + n, f.ty));
            found.or_else(|| scope.regs.get(name).copied())
        })
    }

    /// The row with the address of a symbol, and where a parameter's or local's address belongs.
    pub fn symbol(&mut self, name: &str) -> Option<(Row, Option<Var>)> {
        if let Some(var) = self.variable(name) {
            let (Var::Shared(v) | Var::Local(v) | Var::Param(v)) = var;
            return Some((self.constant(u64::from(v)), Some(var)));
        }
        match *self.symbols.vars.get(name)? {
            GlobalVar::Device(address) => Some((self.constant(address), None)),
            GlobalVar::Shared(size, align) => {
                let at = match self.shared.get(name) {
                    Some(at) => *at,
                    None => {
                        let at = self.shared_space(size, align);
                        self.shared.insert(name.to_string(), at);
                        at
                    }
                };
                Some((self.constant(u64::from(at)), Some(Var::Shared(at))))
            }
            GlobalVar::Dynamic(align) => {
                self.dynamic_align = self.dynamic_align.max(align);
                let row = match self.dynamic {
                    Some(row) => row,
                    None => self.fresh(),
                };
                self.dynamic = Some(row);
                Some((row, Some(Var::Shared(0))))
            }
        }
    }

    /// The row of a source operand.
    pub fn value(&mut self, arg: &Arg) -> Result<Row, String> {
        self.typed_value(arg, None)
    }

    /// The row of a source operand; float literals take the width of `ty`.
    pub fn typed_value(&mut self, arg: &Arg, ty: Option<Ty>) -> Result<Row, String> {
        match arg {
            Arg::Word(w) => {
                if *w == "_" {
                    return Ok(ZERO);
                }
                if let Some((row, _)) = self.register(w) {
                    return Ok(row);
                }
                if let Some(row) = self.special(w) {
                    return Ok(row);
                }
                if let Some((bits, wide)) = float(w) {
                    let bits = match (wide, ty) {
                        (true, Some(Ty::F32)) => u64::from((f64::from_bits(bits) as f32).to_bits()),
                        (false, Some(Ty::F64)) => f64::from(f32::from_bits(bits as u32)).to_bits(),
                        _ => bits,
                    };
                    return Ok(self.constant(bits));
                }
                if let Some(value) = integer(w) {
                    return Ok(self.constant(value));
                }
                self.symbol(w).map(|(row, _)| row).ok_or_else(|| format!("operand `{w}` isn't known"))
            }
            Arg::Negative(w) => {
                let value = integer(w).ok_or_else(|| format!("operand `-{w}` isn't known"))?.wrapping_neg();
                // Narrow registers hold their bits zero-extended.
                let value = match ty.map(Ty::size) {
                    Some(4) => value & 0xffff_ffff,
                    Some(2) => value & 0xffff,
                    Some(1) => value & 0xff,
                    _ => value,
                };
                Ok(self.constant(value))
            }
            _ => Err("this operand isn't supported here".into()),
        }
    }

    /// The row of a destination register.
    pub fn dest(&mut self, arg: &Arg) -> Result<Row, String> {
        match arg {
            Arg::Word(w) if *w == "_" => Ok(SINK),
            Arg::Word(w) => self.register(w).map(|(r, _)| r).ok_or_else(|| format!("no register `{w}`")),
            _ => Err("this destination isn't supported".into()),
        }
    }

    /// A predicate source and whether it is negated.
    pub fn predicate(&mut self, arg: &Arg) -> Result<(Row, bool), String> {
        match arg {
            Arg::Not(w) => self.register(w).map(|(r, _)| (r, true)).ok_or_else(|| format!("no predicate `{w}`")),
            other => Ok((self.value(other)?, false)),
        }
    }

    /// A memory operand; the variable it names, if any, decides the space of parameters.
    pub fn address(&mut self, arg: &Arg) -> Result<(Addr, Option<Var>), String> {
        let Arg::Memory(base, offset, _) = arg else { return Err("expected an address".into()) };
        let Arg::Word(w) = &**base else { return Err("this address isn't supported".into()) };
        if let Some((row, _)) = self.register(w) {
            return Ok((Addr { base: row, offset: *offset }, None));
        }
        if let Some(value) = integer(w) {
            return Ok((Addr { base: ZERO, offset: value as i64 + offset }, None));
        }
        let (row, var) = self.symbol(w).ok_or_else(|| format!("address `{w}` isn't known"))?;
        Ok((Addr { base: row, offset: *offset }, var))
    }

    fn special(&mut self, name: &str) -> Option<Row> {
        let axis = |s: &str| match s {
            "x" => Some(0u8),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        let (head, tail) = name.split_once('.').unwrap_or((name, ""));
        let size = u64::from(self.cluster.unwrap_or(1));
        let special = match head {
            "%tid" => Special::Tid(axis(tail)?),
            "%ntid" => Special::Ntid(axis(tail)?),
            "%ctaid" => Special::Ctaid(axis(tail)?),
            "%nctaid" => Special::Nctaid(axis(tail)?),
            "%clusterid" => Special::Clusterid(axis(tail)?),
            "%nclusterid" => Special::Nclusterid(axis(tail)?),
            "%laneid" => Special::Lane,
            "%warpid" => Special::Warp,
            "%nwarpid" => Special::Nwarp,
            "%smid" => Special::Smid,
            "%nsmid" => Special::Nsmid,
            "%cluster_ctarank" => Special::ClusterRank,
            // Clusters extend along the first axis only.
            "%cluster_ctaid" if axis(tail)? == 0 => Special::ClusterRank,
            "%cluster_nctarank" => return Some(self.constant(size)),
            "%cluster_nctaid" if axis(tail)? == 0 => return Some(self.constant(size)),
            "%cluster_nctaid" => return Some(self.constant(1)),
            "%is_explicit_cluster" => return Some(self.constant(u64::from(self.cluster.is_some()))),
            "%gridid" | "%cluster_ctaid" => return Some(ZERO),
            "%dynamic_smem_size" => Special::DynamicShared,
            "%total_smem_size" => Special::TotalShared,
            "%lanemask_eq" => Special::LaneMaskEq,
            "%lanemask_lt" => Special::LaneMaskLt,
            "%lanemask_le" => Special::LaneMaskLe,
            "%lanemask_gt" => Special::LaneMaskGt,
            "%lanemask_ge" => Special::LaneMaskGe,
            "WARP_SZ" => return Some(self.constant(32)),
            _ => return None,
        };
        if let Some((row, _)) = self.specials.iter().find(|(_, s)| *s == special) {
            return Some(*row);
        }
        let row = self.fresh();
        self.specials.push((row, special));
        Some(row)
    }
}

/// The name and the number of a register of a family: `%r12`.
fn split_number(name: &str) -> (&str, Option<u32>) {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (family, number) = name.split_at(name.len() - digits);
    // Names with leading zeros aren't numbers.
    let plain = digits == 1 || digits < 10 && !number.starts_with('0');
    (family, if plain { number.parse().ok() } else { None })
}

fn list<'a>(at: &mut Cursor<'a>, close: char) -> Result<Vec<Arg<'a>>, String> {
    let mut out = Vec::new();
    while !at.eat(close) {
        if at.peek().is_none() {
            return Err(format!("expected `{close}`"));
        }
        if !at.eat(',') {
            out.push(argument(at)?);
        }
    }
    Ok(out)
}

pub(super) fn argument<'a>(at: &mut Cursor<'a>) -> Result<Arg<'a>, String> {
    if at.eat('{') {
        return Ok(Arg::Vector(list(at, '}')?));
    }
    if at.eat('(') {
        return Ok(Arg::Paren(list(at, ')')?));
    }
    if at.eat('[') {
        let base = argument(at)?;
        let mut offset = 0i64;
        let mut rest = Vec::new();
        while !at.eat(']') {
            if at.eat('+') {
                offset += at.number()?;
            } else if at.is('-') {
                offset += at.number()?;
            } else {
                at.expect(',')?;
                rest.push(argument(at)?);
            }
        }
        return Ok(Arg::Memory(Box::new(base), offset, rest));
    }
    if at.eat('-') {
        return Ok(Arg::Negative(at.word()?));
    }
    if at.eat('!') {
        return Ok(Arg::Not(at.word()?));
    }
    let word = at.word().map_err(|_| "expected an operand".to_string())?;
    let arg = Arg::Word(word);
    if at.eat('|') {
        return Ok(Arg::Pair(Box::new(arg), Box::new(argument(at)?)));
    }
    Ok(arg)
}
