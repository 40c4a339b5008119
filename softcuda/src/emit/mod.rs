//! Bodies of kernels: scopes, registers, labels and calls. Calls are inlined, so that the executor needs no stack.

mod call;
mod operand;

use std::collections::HashMap;

pub(crate) use operand::Arg;
use operand::argument;

use crate::lex::{Spanned, Token};
use crate::op::{Class, Inst, Kernel, NONE, Op, Row, Space, Special, Ty, ZERO};
use crate::operands::{mark, product_registers};
use crate::parse::{Cursor, Function, Symbols, declared};

/// A variable that is declared in a body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Var {
    Shared(u32),
    Local(u32),
    Param(u32),
}

/// Registers that were declared together: `.reg .b32 %r<100>`.
struct Family {
    name: String,
    first: Row,
    count: u32,
    ty: Ty,
}

#[derive(Default)]
struct Scope {
    id: u32,
    regs: HashMap<String, (Row, Ty)>,
    families: Vec<Family>,
    vars: HashMap<String, Var>,
}

struct Fixup {
    inst: usize,
    slot: usize,
    label: String,
    path: Vec<u32>,
    line: u32,
}

/// State while a kernel is decoded.
pub(crate) struct Emit<'a> {
    symbols: &'a Symbols,
    tokens: &'a [Spanned<'a>],
    code: Vec<Inst>,
    rows: u32,
    consts: HashMap<u64, Row>,
    specials: Vec<(Row, Special)>,
    scopes: Vec<Scope>,
    next_scope: u32,
    labels: HashMap<(u32, String), u32>,
    tables: HashMap<(u32, String), Vec<String>>,
    fixups: Vec<Fixup>,
    shared_top: u32,
    shared: HashMap<String, u32>,
    local_top: u32,
    /// Row of the dynamic part's address, and its alignment.
    dynamic: Option<Row>,
    dynamic_align: u32,
    carry: Option<Row>,
    calls: Vec<String>,
    /// Blocks of a cluster, where the kernel says so.
    pub cluster: Option<u32>,
    source: u32,
    line: u32,
}

type Failed = (u32, String);

impl<'a> Emit<'a> {
    /// Decodes the kernel `name`.
    pub fn kernel(symbols: &'a Symbols, tokens: &'a [Spanned<'a>], name: &str) -> Result<Kernel, Failed> {
        let function = &symbols.functions[name];
        let mut emit = Emit {
            symbols,
            tokens,
            code: Vec::new(),
            rows: 2,
            consts: HashMap::from([(0, ZERO)]),
            specials: Vec::new(),
            scopes: Vec::new(),
            next_scope: 0,
            labels: HashMap::new(),
            tables: HashMap::new(),
            fixups: Vec::new(),
            shared_top: 0,
            shared: HashMap::new(),
            local_top: 0,
            dynamic: None,
            dynamic_align: 16,
            carry: None,
            calls: vec![name.to_string()],
            cluster: function.cluster,
            source: 0,
            line: 0,
        };
        let mut params = Vec::new();
        let mut top = 0u32;
        emit.push_scope();
        for p in &function.params {
            top = top.next_multiple_of(p.align.max(1));
            emit.scope().vars.insert(p.name.clone(), Var::Param(top));
            params.push((top, p.size));
            top += p.size;
        }
        emit.body(function, None)?;
        emit.scopes.pop();
        emit.push(Op::Exit, Class::Control);
        emit.resolve()?;
        let dynamic_base = emit.shared_top.next_multiple_of(emit.dynamic_align.max(16));
        let mut consts: Vec<(Row, u64)> = emit.consts.iter().map(|(v, r)| (*r, *v)).collect();
        if let Some(row) = emit.dynamic {
            consts.push((row, u64::from(dynamic_base)));
        }
        consts.sort_unstable();
        let independent = !emit.code.iter().any(|inst| match inst.op {
            Op::Atom { space, .. } => space != Space::Shared,
            Op::Clock { .. } => true,
            _ => false,
        });
        let bulk = emit.code.iter().any(|inst| matches!(inst.op, Op::Bulk(_) | Op::MbInit { .. }));
        let awaits = emit.code.iter().any(|inst| matches!(inst.op, Op::Await));
        let registers = product_registers(&emit.code);
        mark(&mut emit.code, &registers);
        let mut product_registers: Vec<Row> = registers.into_iter().collect();
        product_registers.sort_unstable();
        Ok(Kernel {
            name: name.to_string(),
            code: emit.code,
            rows: emit.rows,
            consts,
            specials: emit.specials,
            params,
            param_bytes: top,
            static_shared: emit.shared_top,
            dynamic_base,
            local_bytes: emit.local_top.next_multiple_of(16),
            max_threads: function.max_threads,
            exact_threads: function.exact_threads,
            cluster: function.cluster.unwrap_or(1),
            independent,
            bulk,
            awaits,
            product_registers,
        })
    }

    fn push_scope(&mut self) {
        let id = self.next_scope;
        self.next_scope += 1;
        self.scopes.push(Scope { id, ..Scope::default() });
    }

    fn scope(&mut self) -> &mut Scope {
        self.scopes.last_mut().expect("a body has a scope")
    }

    pub fn push(&mut self, op: Op, class: Class) {
        let (line, source) = (self.line, self.source);
        self.code.push(Inst { op, pred: NONE, neg: false, class, line, source, watched: false });
    }

    /// A fresh register.
    pub fn fresh(&mut self) -> Row {
        self.rows += 1;
        self.rows - 1
    }

    /// The row of the carry flag.
    pub fn carry(&mut self) -> Row {
        if let Some(row) = self.carry {
            return row;
        }
        let row = self.fresh();
        self.carry = Some(row);
        row
    }

    /// The row that holds `value` in every lane.
    pub fn constant(&mut self, value: u64) -> Row {
        if let Some(row) = self.consts.get(&value) {
            return *row;
        }
        let row = self.fresh();
        self.consts.insert(value, row);
        row
    }

    fn local_space(&mut self, size: u32, align: u32) -> u32 {
        let at = self.local_top.next_multiple_of(align.max(1));
        self.local_top = at + size;
        at
    }

    fn shared_space(&mut self, size: u32, align: u32) -> u32 {
        let at = self.shared_top.next_multiple_of(align.max(1));
        self.shared_top = at + size;
        at
    }

    fn resolve(&mut self) -> Result<(), Failed> {
        for fixup in std::mem::take(&mut self.fixups) {
            let found = fixup.path.iter().rev().find_map(|scope| self.labels.get(&(*scope, fixup.label.clone())));
            let target = *found.ok_or((fixup.line, format!("label `{}` doesn't exist", fixup.label)))?;
            match &mut self.code[fixup.inst].op {
                Op::Bra { target: slot } => *slot = target,
                Op::Brx { targets, .. } => targets[fixup.slot] = target,
                _ => unreachable!("only branches have labels"),
            }
        }
        Ok(())
    }

    /// Decodes a body. `end` is the label that `ret` goes to in an inlined function.
    fn body(&mut self, function: &Function, end: Option<&str>) -> Result<(), Failed> {
        let start = function.body.ok_or((self.line, format!("function `{}` has no body", function.name)))?;
        let mut at = Cursor { tokens: self.tokens, at: start };
        let mut depth = 0;
        loop {
            let line = at.line();
            self.line = line;
            if at.eat('{') {
                self.push_scope();
                depth += 1;
            } else if at.eat('}') {
                if depth == 0 {
                    return Ok(());
                }
                self.scopes.pop();
                depth -= 1;
            } else if !at.eat(';') {
                self.statement(&mut at, end).map_err(|(l, m)| (if l == 0 { line } else { l }, m))?;
            }
            if at.peek().is_none() {
                return Err((line, "a body without an end".into()));
            }
        }
    }

    fn statement(&mut self, at: &mut Cursor<'a>, end: Option<&str>) -> Result<(), Failed> {
        let zero = |m: String| (0, m);
        if let Some(Token::Word(word)) = at.peek() {
            if at.peek_at(1) == Some(&Token::Punct(':')) {
                at.at += 2;
                let id = self.scope().id;
                if at.eat_word(".branchtargets") {
                    let mut list = Vec::new();
                    while !at.eat(';') {
                        at.eat(',');
                        list.push(at.word().map_err(zero)?.to_string());
                    }
                    self.tables.insert((id, word.to_string()), list);
                } else {
                    self.labels.insert((id, word.to_string()), self.code.len() as u32);
                }
                return Ok(());
            }
            if word.starts_with('.') {
                return self.directive(at).map_err(zero);
            }
        }
        let mut pred = None;
        if at.eat('@') {
            let neg = at.eat('!');
            let name = at.word().map_err(zero)?;
            pred = Some((self.register(name).ok_or_else(|| zero(format!("no predicate `{name}`")))?.0, neg));
        }
        let opcode = at.word().map_err(zero)?;
        let mut args = Vec::new();
        while !at.eat(';') {
            at.eat(',');
            args.push(argument(at).map_err(zero)?);
        }
        let first = self.code.len();
        self.instruction(opcode, &args, end)?;
        if let Some((row, neg)) = pred {
            // Inlined bodies and multi-part instructions can't be predicated as a whole.
            if self.code.len() != first + 1 {
                return Err(zero("a predicate isn't supported here".into()));
            }
            self.code[first].pred = row;
            self.code[first].neg = neg;
        }
        Ok(())
    }

    fn directive(&mut self, at: &mut Cursor<'a>) -> Result<(), String> {
        let line = at.line();
        let word = at.word()?;
        match word {
            ".loc" => {
                at.number()?;
                self.source = at.number()? as u32;
                at.skip_line(line);
                Ok(())
            }
            ".file" => {
                at.skip_line(line);
                Ok(())
            }
            ".pragma" => {
                at.at += 1;
                at.expect(';')
            }
            ".reg" => {
                for d in declared(at)? {
                    match d.many {
                        Some(n) => {
                            let (first, count) = (self.rows, n as u32);
                            self.rows += count;
                            self.scope().families.push(Family { name: d.name, first, count, ty: d.ty });
                        }
                        None => {
                            let row = self.fresh();
                            self.scope().regs.insert(d.name, (row, d.ty));
                        }
                    }
                }
                at.expect(';')
            }
            ".shared" => {
                for d in declared(at)? {
                    let offset = self.shared_space(d.bytes() as u32, d.align);
                    self.scope().vars.insert(d.name, Var::Shared(offset));
                }
                at.expect(';')
            }
            ".local" | ".param" => {
                for d in declared(at)? {
                    let offset = self.local_space(d.bytes() as u32, d.align);
                    self.scope().vars.insert(d.name, Var::Local(offset));
                }
                at.expect(';')
            }
            other => Err(format!("directive `{other}` isn't known here")),
        }
    }

    fn instruction(&mut self, opcode: &str, args: &[Arg], end: Option<&str>) -> Result<(), Failed> {
        let head = opcode.split('.').next().unwrap_or("");
        match head {
            "bra" => {
                let Some(Arg::Word(label)) = args.first() else { return Err((0, "a branch without a label".into())) };
                self.branch(label);
                Ok(())
            }
            "brx" => {
                let [index, Arg::Word(table)] = args else {
                    return Err((0, "brx.idx needs an index and a list".into()));
                };
                let index = self.value(index).map_err(|m| (0, m))?;
                let found = self.scopes.iter().rev().find_map(|s| self.tables.get(&(s.id, table.to_string()))).cloned();
                let list = found.ok_or((0, format!("no branch targets `{table}`")))?;
                for (slot, label) in list.iter().enumerate() {
                    self.fixup(slot, label);
                }
                self.push(Op::Brx { index, targets: vec![0; list.len()].into() }, Class::Control);
                Ok(())
            }
            "ret" => {
                match end {
                    Some(label) => self.branch(label),
                    None => self.push(Op::Exit, Class::Control),
                }
                Ok(())
            }
            "call" => self.call(args),
            _ => {
                let (op, class) = self.decode(opcode, args).map_err(|m| (0, m))?;
                self.push(op, class);
                Ok(())
            }
        }
    }

    fn fixup(&mut self, slot: usize, label: &str) {
        let path = self.scopes.iter().map(|s| s.id).collect();
        self.fixups.push(Fixup { inst: self.code.len(), slot, label: label.to_string(), path, line: self.line });
    }

    fn branch(&mut self, label: &str) {
        self.fixup(0, label);
        self.push(Op::Bra { target: 0 }, Class::Control);
    }
}
