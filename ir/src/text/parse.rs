//! Text to graph.

use serde::de::DeserializeOwned;
use serde_json::Map;

use super::default_path;
use crate::error::{IrError, Problem};
use crate::graph::{Graph, NodeId, Output, Value};
use crate::op::Op;
use crate::types::TensorType;

/// Reads the text form of a graph. See the [module](super) for what it looks like.
///
/// # Errors
/// [`IrError::Text`] with the line, where the text is not of this form, an operator cannot take its inputs, a
/// written type is not the inferred one, or a name is given twice.
pub fn parse(text: &str) -> Result<Graph, IrError> {
    let mut graph: Option<Graph> = None;
    let mut last = 1;
    for (i, line) in text.lines().enumerate() {
        let mut cursor = Cursor { rest: line.trim() };
        if cursor.rest.is_empty() || cursor.rest.starts_with('#') {
            continue;
        }
        last = i + 1;
        let done = match &mut graph {
            None => header(&mut cursor).map(|g| graph = Some(g)),
            Some(graph) if cursor.rest.starts_with('%') => node(&mut cursor, graph),
            Some(graph) => output(&mut cursor, graph),
        };
        done.and_then(|()| cursor.end()).map_err(|problem| IrError::Text { line: last, problem })?;
    }
    let problem = || Problem::new("expected `graph \"name\"`, found the end of the text");
    graph.ok_or_else(|| IrError::Text { line: last, problem: problem() })
}

fn header(cursor: &mut Cursor) -> Result<Graph, Problem> {
    cursor.expect("graph")?;
    Ok(Graph::new(cursor.string()?))
}

fn node(cursor: &mut Cursor, graph: &mut Graph) -> Result<(), Problem> {
    let results = cursor.list(Cursor::value)?;
    cursor.expect("=")?;
    let name = cursor.word();
    let mut inputs = Vec::new();
    if cursor.eat("(") {
        inputs = cursor.list(Cursor::value)?;
        cursor.expect(")")?;
    }
    let attributes = if cursor.peek('{') { cursor.json()? } else { Map::new() };
    let op = Op::from_attributes(name, attributes).map_err(|p| Problem(format!("operator `{name}`: {p}")))?;
    cursor.expect(":")?;
    let types = cursor.list(Cursor::ty)?;
    let at = if cursor.eat("@") { cursor.string()? } else { default_path(&op).to_owned() };

    let id = NodeId(graph.nodes().len() as u32);
    let value = graph.add(at, op, &inputs).map_err(|e| Problem(e.to_string()))?;
    crate::ensure!(
        value.node == id,
        "the input or weight {} is given twice, first as {value}",
        graph.node(value.node).at
    );
    let node = graph.node(id);
    let want = (0..node.types.len()).map(|port| Value { node: id, port: port as u8 });
    crate::ensure!(
        results.iter().copied().eq(want),
        "this is node {value} with {} result(s), the line names {}",
        node.types.len(),
        joined(&results)
    );
    crate::ensure!(types == node.types, "the line says {}, inference says {}", joined(&types), joined(&node.types));
    Ok(())
}

fn output(cursor: &mut Cursor, graph: &mut Graph) -> Result<(), Problem> {
    if !cursor.eat("output") {
        return Err(cursor.expected("`%number` or `output`"));
    }
    let name = cursor.string()?;
    cursor.expect("=")?;
    let value = cursor.value()?;
    let wanted_if = if cursor.eat("if") { Some(cursor.string()?) } else { None };
    let updates = if cursor.eat("updates") { Some(cursor.string()?) } else { None };
    let node = graph.nodes().get(value.node.index());
    crate::ensure!(node.is_some_and(|n| usize::from(value.port) < n.types.len()), "there is no {value} above");
    crate::ensure!(graph.outputs.iter().all(|o| o.name != name), "the output `{name}` is given twice");
    graph.outputs.push(Output { name, value, wanted_if, updates });
    Ok(())
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// What is left of a line.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// The next token begins with this character.
    fn peek(&self, c: char) -> bool {
        self.rest.trim_start().starts_with(c)
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.trim_start().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), Problem> {
        if self.eat(token) { Ok(()) } else { Err(self.expected(&format!("`{token}`"))) }
    }

    fn expected(&self, what: &str) -> Problem {
        let found: String = self.rest.trim_start().chars().take(24).collect();
        match found.is_empty() {
            true => Problem(format!("expected {what}, found the end of the line")),
            false => Problem(format!("expected {what}, found {found:?}")),
        }
    }

    fn end(&self) -> Result<(), Problem> {
        if self.rest.trim().is_empty() { Ok(()) } else { Err(self.expected("the end of the line")) }
    }

    /// One or more items with commas between them.
    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
        let mut items = vec![item(self)?];
        while self.eat(",") {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// The longest run of such characters, possibly none.
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest;
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.rest = &rest[end..];
        &rest[..end]
    }

    fn word(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        self.take(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    /// `%3` or `%3.1`.
    fn value(&mut self) -> Result<Value, Problem> {
        self.expect("%")?;
        let node = self.take(|c| c.is_ascii_digit());
        let node = node.parse().map_err(|_| Problem(format!("`%{node}` is no node number")))?;
        let port = if self.rest.starts_with('.') {
            self.expect(".")?;
            let port = self.take(|c| c.is_ascii_digit());
            port.parse().map_err(|_| Problem(format!("`%{node}.{port}` is no result number")))?
        } else {
            0
        };
        Ok(Value { node: NodeId(node), port })
    }

    /// `f32[2,3]`.
    fn ty(&mut self) -> Result<TensorType, Problem> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(']').map_or(self.rest.len(), |end| end + 1);
        let (text, rest) = self.rest.split_at(end);
        let ty = TensorType::parse(text).ok_or_else(|| self.expected("a type such as f32[2,3]"))?;
        self.rest = rest;
        Ok(ty)
    }

    fn string(&mut self) -> Result<String, Problem> {
        if !self.peek('"') {
            return Err(self.expected("a quoted string"));
        }
        self.json()
    }

    /// One JSON value of a kind; the cursor moves only where there is one.
    fn json<T: DeserializeOwned>(&mut self) -> Result<T, Problem> {
        let mut stream = serde_json::Deserializer::from_str(self.rest).into_iter::<T>();
        match stream.next() {
            Some(Ok(value)) => {
                self.rest = &self.rest[stream.byte_offset()..];
                Ok(value)
            }
            Some(Err(e)) => Err(Problem(format!("no valid JSON: {}", without_place(&e.to_string())))),
            None => Err(self.expected("JSON")),
        }
    }
}

/// A message of the JSON reader without its own count of lines and columns, which starts inside our line.
fn without_place(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(text, _)| text)
}
