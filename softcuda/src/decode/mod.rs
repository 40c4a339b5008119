//! Opcodes to decoded instructions. An opcode or modifier that isn't known is an error, never skipped.

mod alu;
mod bulk;
mod memory;
mod product;
mod warp;

use crate::emit::{Arg, Emit};
use crate::op::{Class, Mode, Op, Round, Row, Space, Ty};

/// Result of decoding one instruction.
pub(crate) type Decoded = Result<(Op, Class), String>;

/// The parts of an opcode after its first.
pub(crate) struct Mods<'a> {
    pub parts: Vec<&'a str>,
    pub types: Vec<Ty>,
    used: Vec<bool>,
}

impl<'a> Mods<'a> {
    fn new(opcode: &'a str) -> (&'a str, Mods<'a>) {
        let mut split = opcode.split('.');
        let head = split.next().unwrap_or("");
        let parts: Vec<&str> = split.collect();
        let types: Vec<Ty> = parts.iter().filter_map(|p| Ty::parse(p)).collect();
        let used = parts.iter().map(|p| Ty::parse(p).is_some()).collect();
        (head, Mods { parts, types, used })
    }

    /// Whether the modifier is there; marks it as understood.
    pub fn has(&mut self, name: &str) -> bool {
        let mut found = false;
        for (part, used) in self.parts.iter().zip(&mut self.used) {
            if *part == name {
                *used = true;
                found = true;
            }
        }
        found
    }

    /// The value of the first modifier of the table that is there.
    pub fn pick<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        table.iter().find(|(name, _)| self.has(name)).map(|(_, v)| *v)
    }

    /// Marks modifiers that change nothing here.
    pub fn ignore(&mut self, names: &[&str]) {
        for (part, used) in self.parts.iter().zip(&mut self.used) {
            *used |= names.contains(part)
                || names.iter().any(|n| n.ends_with('*') && part.starts_with(n.trim_end_matches('*')));
        }
    }

    /// The type at `index`.
    pub fn ty(&self, index: usize) -> Result<Ty, String> {
        self.types.get(index).copied().ok_or_else(|| "an opcode without its type".to_string())
    }

    /// Fails if a modifier wasn't understood.
    pub fn done(&self) -> Result<(), String> {
        match self.parts.iter().zip(&self.used).find(|(_, used)| !**used) {
            Some((part, _)) => Err(format!("modifier `.{part}` isn't known")),
            None => Ok(()),
        }
    }

    /// Rounding, saturation and the like.
    pub fn mode(&mut self) -> Mode {
        let round = self.pick(&[
            ("rn", Round::Near),
            ("rna", Round::Away),
            ("rz", Round::Zero),
            ("rm", Round::Down),
            ("rp", Round::Up),
        ]);
        let integral =
            self.pick(&[("rni", Round::Near), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)]);
        Mode {
            round: integral.or(round).unwrap_or(Round::Near),
            integral: integral.is_some(),
            sat: self.has("sat"),
            ftz: self.has("ftz"),
            relu: self.has("relu"),
            nan: self.has("NaN"),
        }
    }

    /// The address space; generic when none is named.
    pub fn space(&mut self) -> Space {
        self.pick(&[
            ("global", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("shared::cluster", Space::Shared),
            ("local", Space::Local),
            ("param", Space::Param),
            ("param::entry", Space::Param),
            ("param::func", Space::Param),
            ("const", Space::Const),
        ])
        .unwrap_or(Space::Generic)
    }
}

impl Emit<'_> {
    /// Decodes everything but branches, calls and returns.
    pub fn decode(&mut self, opcode: &str, args: &[Arg]) -> Decoded {
        let (head, mut mods) = Mods::new(opcode);
        let found = self.decode_with(head, &mut mods, args)?;
        mods.done()?;
        Ok(found)
    }

    fn decode_with(&mut self, head: &str, mods: &mut Mods, args: &[Arg]) -> Decoded {
        if let Some(found) = self.alu(head, mods, args)? {
            return Ok(found);
        }
        if let Some(found) = self.memory(head, mods, args)? {
            return Ok(found);
        }
        if let Some(found) = self.warp(head, mods, args)? {
            return Ok(found);
        }
        Err(format!("instruction `{head}` isn't known"))
    }

    /// The rows of a vector of sources, or of one source.
    pub fn sources(&mut self, arg: &Arg, ty: Option<Ty>) -> Result<Box<[Row]>, String> {
        match arg {
            Arg::Vector(list) => list.iter().map(|a| self.typed_value(a, ty)).collect(),
            one => Ok(vec![self.typed_value(one, ty)?].into()),
        }
    }

    /// The rows of a vector of destinations, or of one destination.
    pub fn dests(&mut self, arg: &Arg) -> Result<Box<[Row]>, String> {
        match arg {
            Arg::Vector(list) => list.iter().map(|a| self.dest(a)).collect(),
            one => Ok(vec![self.dest(one)?].into()),
        }
    }
}

/// Fails unless there are `n` operands.
pub(crate) fn count(args: &[Arg], n: usize) -> Result<(), String> {
    if args.len() == n { Ok(()) } else { Err(format!("expected {n} operands, found {}", args.len())) }
}
