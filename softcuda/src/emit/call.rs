//! Calls: the body of the function takes their place.

use std::collections::HashMap;

use super::{Arg, Emit, Failed};
use crate::op::{Class, Op};

impl Emit<'_> {
    pub(super) fn call(&mut self, args: &[Arg]) -> Result<(), Failed> {
        let mut rest = args;
        let mut returns: &[Arg] = &[];
        if let [Arg::Paren(list), tail @ ..] = rest {
            returns = list;
            rest = tail;
        }
        let &[Arg::Word(name), ref tail @ ..] = rest else { return Err((0, "only direct calls are supported".into())) };
        let passed: &[Arg] = match tail {
            [Arg::Paren(list)] => list,
            [] => &[],
            _ => return Err((0, "only direct calls are supported".into())),
        };
        let symbols = self.symbols;
        let function = symbols.functions.get(name).ok_or((0, format!("no function `{name}`")))?;
        if function.body.is_none() {
            match name {
                "vprintf" => self.push(Op::Nop, Class::Other),
                "__assertfail" => self.push(Op::Trap, Class::Control),
                _ => return Err((0, format!("function `{name}` has no body"))),
            }
            return Ok(());
        }
        if self.calls.iter().any(|c| c == name) {
            return Err((0, format!("recursive call of `{name}`")));
        }
        let mut vars = HashMap::new();
        for (declared, given) in [(&function.returns, returns), (&function.params, passed)] {
            if declared.len() != given.len() {
                return Err((0, format!("`{name}` takes {} values", declared.len())));
            }
            for (p, arg) in declared.iter().zip(given) {
                let Arg::Word(w) = arg else { return Err((0, "only parameters can be passed".into())) };
                let var = self.variable(w).ok_or((0, format!("no parameter `{w}`")))?;
                vars.insert(p.name.clone(), var);
            }
        }
        let saved = std::mem::take(&mut self.scopes);
        let (line, source) = (self.line, self.source);
        self.push_scope();
        self.scope().vars = vars;
        self.calls.push(name.to_string());
        self.body(function, Some("$end"))?;
        let id = self.scope().id;
        self.labels.insert((id, "$end".into()), self.code.len() as u32);
        self.calls.pop();
        self.scopes = saved;
        (self.line, self.source) = (line, source);
        Ok(())
    }
}
