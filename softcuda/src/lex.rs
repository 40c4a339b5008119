//! Splits PTX text into tokens that know their line.

/// One token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// An identifier, opcode, directive or number: everything made of letters, digits and `_$%.` and `::`.
    Word(&'a str),
    /// A quoted string, without its quotes.
    Text(&'a str),
    /// Any other character.
    Punct(char),
}

/// A token and its one-based line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spanned<'a> {
    pub token: Token<'a>,
    pub line: u32,
}

/// Splits `text` into tokens. Comments vanish.
pub(crate) fn lex(text: &str) -> Vec<Spanned<'_>> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(text.len() / 6);
    let (mut at, mut line) = (0, 1u32);
    let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.');
    while at < bytes.len() {
        let c = bytes[at];
        match c {
            b'\n' => {
                line += 1;
                at += 1;
            }
            // A NUL ends the texts that come from C.
            0 => break,
            c if c.is_ascii_whitespace() => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at += 2;
                while at + 1 < bytes.len() && !(bytes[at] == b'*' && bytes[at + 1] == b'/') {
                    line += u32::from(bytes[at] == b'\n');
                    at += 1;
                }
                at += 2;
            }
            b'"' => {
                let start = at + 1;
                at = start;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += 1;
                }
                out.push(Spanned { token: Token::Text(&text[start..at.min(bytes.len())]), line });
                at += 1;
            }
            c if word(c) => {
                let start = at;
                while at < bytes.len() {
                    if word(bytes[at]) {
                        at += 1;
                    } else if bytes[at] == b':' && bytes.get(at + 1) == Some(&b':') {
                        at += 2;
                    } else {
                        break;
                    }
                }
                let word = &text[start..at];
                match word.strip_prefix('.') {
                    // Directives may touch: `.reg.b32`. Each keeps its dot.
                    Some(_) => {
                        let mut from = start;
                        while from < at {
                            let end = text[from + 1..at].find('.').map_or(at, |n| from + 1 + n);
                            out.push(Spanned { token: Token::Word(&text[from..end]), line });
                            from = end;
                        }
                    }
                    None => out.push(Spanned { token: Token::Word(word), line }),
                }
            }
            c => {
                out.push(Spanned { token: Token::Punct(c as char), line });
                at += 1;
            }
        }
    }
    out
}

/// Reads an unsigned integer literal: decimal, `0x`, `0b` or octal, with an optional `U`.
pub(crate) fn integer(word: &str) -> Option<u64> {
    let word = word.strip_suffix('U').unwrap_or(word);
    if let Some(hex) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    if let Some(binary) = word.strip_prefix("0b") {
        return u64::from_str_radix(binary, 2).ok();
    }
    if word.len() > 1 && word.starts_with('0') {
        return u64::from_str_radix(&word[1..], 8).ok();
    }
    word.parse().ok()
}

/// Reads `0fXXXXXXXX` (bits of an f32, `false`) or `0dXXXXXXXXXXXXXXXX` (bits of an f64, `true`).
pub(crate) fn float(word: &str) -> Option<(u64, bool)> {
    let digits = word.get(2..)?;
    if (word.starts_with("0f") || word.starts_with("0F")) && digits.len() == 8 {
        return Some((u64::from_str_radix(digits, 16).ok()?, false));
    }
    if (word.starts_with("0d") || word.starts_with("0D")) && digits.len() == 16 {
        return Some((u64::from_str_radix(digits, 16).ok()?, true));
    }
    None
}
