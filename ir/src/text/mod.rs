//! The text form of a graph: one line per node, for people, snapshots and filetests.
//!
//! ```text
//! graph "example"
//! %0 = input {"binding":"step","name":"x","ty":{"dtype":"f32","shape":[2,3]}} : f32[2,3]
//! %1 = weight {"name":"w","ty":{"dtype":"f32","shape":[4,3]}} : f32[4,3]
//! %2 = linear(%0, %1) {"bias":false,"epilogue":null} : f32[2,4] @ "cond/proj"
//! output "y" = %2 if "video"
//! output "next.s" = %2 updates "s"
//! ```
//!
//! A node lists its results (`%4, %4.1` where there are two), the operator, its inputs, its attributes as JSON
//! with sorted keys (left out where there are none), the types of its results and the model path it came from
//! (left out where it is empty, and for inputs and weights where it is their name). Empty lines and lines that
//! begin with `#` are skipped.
//!
//! Two promises: [`parse`] of [`print()`] gives an equal graph, and [`parse`] never panics: it rebuilds the graph
//! with every check of [`Graph::add`] and compares the written types with the inferred ones.

mod parse;
mod print;

use std::fmt;
use std::str::FromStr;

pub use parse::parse;
pub use print::print;

use crate::error::IrError;
use crate::graph::Graph;
use crate::op::Op;

/// The path that a node has where its line says none.
fn default_path(op: &Op) -> &str {
    op.given_name().unwrap_or_default()
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self))
    }
}

impl FromStr for Graph {
    type Err = IrError;

    fn from_str(text: &str) -> Result<Self, IrError> {
        parse(text)
    }
}
