//! Variables numbered in the order in which a text names them.
//!
//! CubeCL numbers the shared memories of CUDA kernels in the order of a hash map, which differs from run to run. A plan's bytes must not.

use std::collections::HashMap;
use std::fmt::Write;

/// The text with its variables, `v` and a number, renamed `v0`, `v1`, .. as they appear. Other identifiers stay.
pub(super) fn renumber(text: &str) -> String {
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let word = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(word);
        if is_variable(name) {
            let next = numbers.len();
            // Writing to a string cannot fail.
            let _ = write!(out, "v{}", numbers.entry(name).or_insert(next));
        } else {
            out.push_str(name);
        }
        let gap = after.find(is_word).unwrap_or(after.len());
        let (between, after) = after.split_at(gap);
        out.push_str(between);
        rest = after;
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_variable(name: &str) -> bool {
    name.strip_prefix('v').is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::renumber;

    #[test]
    fn variables_are_numbered_as_they_appear() {
        let text = "float *v17 = &v3[v17 + 1]; v3_store = info_v55.x; uv1 = v; // v17é";
        assert_eq!(renumber(text), "float *v0 = &v1[v0 + 1]; v3_store = info_v55.x; uv1 = v; // v17é");
    }

    #[test]
    fn texts_that_differ_in_numbers_become_one() {
        assert_eq!(renumber("a(v9); b(v8); c(v9)"), renumber("a(v1); b(v2); c(v1)"));
        assert_ne!(renumber("a(v9); b(v8); c(v9)"), renumber("a(v1); b(v2); c(v2)"));
        assert_eq!(renumber(""), "");
    }
}
