//! The module level of PTX: directives, variables, and the extent of every function.

use std::collections::HashMap;

use crate::emit::Emit;
use crate::error::Error;
use crate::lex::{Spanned, Token, float, integer, lex};
use crate::op::{Kernel, Ty};

/// The most blocks of a cluster that every device runs.
const MAX_CLUSTER: u32 = 8;

/// A variable of the module.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GlobalVar {
    /// `.global` or `.const`: the address of its storage.
    Device(u64),
    /// `.shared` of a known size: bytes and alignment.
    Shared(u32, u32),
    /// `.extern .shared`: the dynamic part. Its alignment.
    Dynamic(u32),
}

/// A parameter of a function.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub name: String,
    pub size: u32,
    pub align: u32,
}

/// A function or a kernel: where its body stands among the tokens.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub name: String,
    pub returns: Vec<Param>,
    pub params: Vec<Param>,
    /// Index of the token after the opening brace; `None` for a declaration.
    pub body: Option<usize>,
    pub max_threads: Option<[u32; 3]>,
    pub exact_threads: bool,
    /// Blocks of a cluster, where the kernel says so.
    pub cluster: Option<u32>,
}

/// Everything that the module level declares.
#[derive(Default)]
pub(crate) struct Symbols {
    pub vars: HashMap<String, GlobalVar>,
    pub functions: HashMap<String, Function>,
    order: Vec<String>,
    pub storage: Vec<Box<[u128]>>,
    /// Begin and end of every stored variable, by name.
    pub ranges: Vec<(String, u64, u64)>,
}

/// A parsed module.
pub(crate) struct Parsed {
    pub kernels: Vec<Kernel>,
    pub symbols: Symbols,
}

/// A position in the tokens.
pub(crate) struct Cursor<'a> {
    pub tokens: &'a [Spanned<'a>],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    /// Line of the token that comes next.
    pub fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.line)
    }

    pub fn peek(&self) -> Option<&'a Token<'a>> {
        self.tokens.get(self.at).map(|t| &t.token)
    }

    pub fn peek_at(&self, ahead: usize) -> Option<&'a Token<'a>> {
        self.tokens.get(self.at + ahead).map(|t| &t.token)
    }

    pub fn is(&self, c: char) -> bool {
        self.peek() == Some(&Token::Punct(c))
    }

    pub fn eat(&mut self, c: char) -> bool {
        let yes = self.is(c);
        self.at += usize::from(yes);
        yes
    }

    pub fn expect(&mut self, c: char) -> Result<(), String> {
        if self.eat(c) { Ok(()) } else { Err(format!("expected `{c}`")) }
    }

    pub fn word(&mut self) -> Result<&'a str, String> {
        match self.peek() {
            Some(Token::Word(w)) => {
                self.at += 1;
                Ok(w)
            }
            _ => Err("expected a word".into()),
        }
    }

    pub fn eat_word(&mut self, word: &str) -> bool {
        let yes = matches!(self.peek(), Some(Token::Word(w)) if *w == word);
        self.at += usize::from(yes);
        yes
    }

    pub fn number(&mut self) -> Result<i64, String> {
        let negative = self.eat('-');
        let word = self.word()?;
        let value = integer(word).ok_or_else(|| format!("`{word}` is no number"))? as i64;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    /// Skips the rest of the current line.
    pub fn skip_line(&mut self, line: u32) {
        while self.at < self.tokens.len() && self.tokens[self.at].line == line {
            self.at += 1;
        }
    }

    /// Skips past the `close` that matches an `open` which was eaten already.
    pub fn skip_block(&mut self, open: char, close: char) {
        let mut depth = 1;
        while let Some(token) = self.peek() {
            self.at += 1;
            if *token == Token::Punct(open) {
                depth += 1;
            } else if *token == Token::Punct(close) {
                depth -= 1;
                if depth == 0 {
                    return;
                }
            }
        }
    }
}

/// What a variable's declaration says after its space: alignment, type, name, elements.
pub(crate) struct Declared {
    pub name: String,
    pub ty: Ty,
    pub align: u32,
    /// Elements; `None` for `[]`.
    pub count: Option<u64>,
    /// `name<N>`: that many registers.
    pub many: Option<u64>,
}

impl Declared {
    pub fn bytes(&self) -> u64 {
        self.count.unwrap_or(0) * u64::from(self.ty.size())
    }
}

/// Reads `.align N .b8 name[count]` (the name is optional for return values of declarations).
pub(crate) fn declared(at: &mut Cursor) -> Result<Vec<Declared>, String> {
    let (mut align, mut ty, mut lanes) = (None, None, 1u64);
    while let Some(Token::Word(w)) = at.peek() {
        let Some(dotted) = w.strip_prefix('.') else { break };
        at.at += 1;
        match dotted {
            "align" => align = Some(at.number()? as u32),
            "v2" => lanes = 2,
            "v4" => lanes = 4,
            "ptr" | "global" | "shared" | "const" | "local" => {}
            other => ty = Some(Ty::parse(other).ok_or_else(|| format!("unknown type `{other}`"))?),
        }
    }
    let ty = ty.ok_or("a declaration without a type")?;
    let mut out = Vec::new();
    loop {
        let name = match at.peek() {
            Some(Token::Word(w)) => {
                at.at += 1;
                w.to_string()
            }
            _ => String::new(),
        };
        let (mut count, mut many) = (Some(lanes), None);
        if at.eat('<') {
            many = Some(at.number()? as u64);
            at.expect('>')?;
        }
        while at.eat('[') {
            if at.eat(']') {
                count = None;
            } else {
                count = count.map(|c| c).zip(Some(at.number()? as u64)).map(|(c, n)| c * n);
                at.expect(']')?;
            }
        }
        out.push(Declared { name, ty, align: align.unwrap_or(ty.size()), count, many });
        // A comma continues a list of names; in a parameter list it separates declarations.
        if at.is(',') && matches!(at.peek_at(1), Some(Token::Word(w)) if !w.starts_with('.')) {
            at.at += 1;
        } else {
            return Ok(out);
        }
    }
}

fn params(at: &mut Cursor) -> Result<Vec<Param>, String> {
    let mut out = Vec::new();
    if !at.eat('(') {
        return Ok(out);
    }
    while !at.eat(')') {
        at.eat(',');
        let kind = at.word()?;
        if kind != ".param" {
            return Err(format!("parameters in `{kind}` aren't known"));
        }
        for d in declared(at)? {
            out.push(Param { size: d.bytes() as u32, align: d.align, name: d.name });
        }
    }
    Ok(out)
}

fn initialiser(at: &mut Cursor, ty: Ty, bytes: &mut [u8]) -> Result<(), String> {
    let mut position = 0;
    let mut values = Vec::new();
    let mut depth = 0;
    loop {
        if at.eat('{') {
            depth += 1;
        } else if at.eat('}') {
            depth -= 1;
        } else if !at.eat(',') {
            let negative = at.eat('-');
            let word = at.word()?;
            let value = match float(word) {
                Some((bits, _)) => bits,
                None => integer(word).ok_or_else(|| format!("initialiser `{word}` isn't known"))?,
            };
            values.push(if negative { value.wrapping_neg() } else { value });
        }
        if depth == 0 {
            break;
        }
    }
    let size = ty.size() as usize;
    for value in values {
        let target = bytes.get_mut(position..position + size).ok_or("too many initialisers")?;
        target.copy_from_slice(&value.to_le_bytes()[..size]);
        position += size;
    }
    Ok(())
}

fn variable(at: &mut Cursor, space: &str, external: bool, symbols: &mut Symbols) -> Result<(), String> {
    for d in declared(at)? {
        let var = match space {
            ".shared" if external || d.count.is_none() => GlobalVar::Dynamic(d.align),
            ".shared" => GlobalVar::Shared(d.bytes() as u32, d.align),
            _ => {
                let size = d.bytes();
                let mut storage = vec![0u128; (size as usize).div_ceil(16).max(1)].into_boxed_slice();
                let address = storage.as_mut_ptr() as u64;
                if at.eat('=') {
                    // SAFETY: the storage holds at least `size` bytes and nothing else refers to it.
                    let bytes = unsafe { std::slice::from_raw_parts_mut(address as *mut u8, size as usize) };
                    initialiser(at, d.ty, bytes)?;
                }
                symbols.ranges.push((d.name.clone(), address, address + size));
                symbols.storage.push(storage);
                GlobalVar::Device(address)
            }
        };
        symbols.vars.insert(d.name, var);
    }
    at.expect(';')
}

/// One to three sizes; those that aren't given are one.
fn sizes(at: &mut Cursor) -> Result<[u32; 3], String> {
    let mut size = [1u32; 3];
    for (i, slot) in size.iter_mut().enumerate() {
        if i == 0 || at.eat(',') {
            let n = at.number()?;
            *slot = u32::try_from(n).map_err(|_| format!("{n} is no size"))?;
        }
    }
    Ok(size)
}

fn function(at: &mut Cursor, entry: bool, symbols: &mut Symbols) -> Result<(), String> {
    let returns = if entry { Vec::new() } else { params(at)? };
    let name = at.word()?.to_string();
    let mut f = Function {
        name: name.clone(),
        returns,
        params: params(at)?,
        body: None,
        max_threads: None,
        exact_threads: false,
        cluster: None,
    };
    loop {
        if at.eat(';') {
            break;
        }
        if at.eat('{') {
            f.body = Some(at.at);
            at.skip_block('{', '}');
            break;
        }
        let directive = at.word()?;
        match directive {
            ".maxntid" | ".reqntid" => {
                f.max_threads = Some(sizes(at)?);
                f.exact_threads = directive == ".reqntid";
            }
            ".reqnctapercluster" => match sizes(at)? {
                [n @ 1..=MAX_CLUSTER, 1, 1] => f.cluster = Some(n),
                other => {
                    return Err(format!(
                        "clusters of {other:?} blocks aren't supported, only of up to {MAX_CLUSTER} along the first axis"
                    ));
                }
            },
            ".minnctapersm" | ".maxnreg" | ".maxclusterrank" => {
                at.number()?;
            }
            ".noreturn" | ".explicitcluster" => {}
            ".pragma" => at.at += 2,
            other => return Err(format!("directive `{other}` isn't known")),
        }
    }
    if f.body.is_some() || !symbols.functions.contains_key(&name) {
        if f.body.is_some() && entry {
            symbols.order.push(name.clone());
        }
        symbols.functions.insert(name, f);
    }
    Ok(())
}

fn top_level(at: &mut Cursor, symbols: &mut Symbols) -> Result<(), String> {
    let line = at.line();
    let mut external = false;
    loop {
        let word = at.word()?;
        match word {
            ".version" | ".target" | ".address_size" | ".file" | ".loc" => {
                at.skip_line(line);
                return Ok(());
            }
            ".section" => {
                while !at.eat('{') {
                    if at.peek().is_none() {
                        return Err("a section without a body".into());
                    }
                    at.at += 1;
                }
                at.skip_block('{', '}');
                return Ok(());
            }
            ".pragma" => {
                at.at += 1;
                return at.expect(';');
            }
            ".extern" => external = true,
            ".visible" | ".weak" | ".common" => {}
            ".global" | ".const" | ".shared" => return variable(at, word, external, symbols),
            ".entry" => return function(at, true, symbols),
            ".func" => return function(at, false, symbols),
            ".noreturn" => {}
            other => return Err(format!("`{other}` isn't known here")),
        }
    }
}

/// Parses a whole text.
pub(crate) fn parse(text: &str) -> Result<Parsed, Error> {
    let tokens = lex(text);
    let fail = |line: u32, message: String| Error::Parse { line, message, text: line_of(text, line) };
    let mut symbols = Symbols::default();
    let mut at = Cursor { tokens: &tokens, at: 0 };
    while at.peek().is_some() {
        let line = at.line();
        top_level(&mut at, &mut symbols).map_err(|m| fail(line, m))?;
    }
    let mut kernels = Vec::new();
    for name in &symbols.order {
        kernels.push(Emit::kernel(&symbols, &tokens, name).map_err(|(line, m)| fail(line, m))?);
    }
    Ok(Parsed { kernels, symbols })
}

/// The text of a line, trimmed.
pub(crate) fn line_of(text: &str, line: u32) -> String {
    text.lines().nth((line.max(1) - 1) as usize).unwrap_or("").trim().to_string()
}
