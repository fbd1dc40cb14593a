//! Strings in quotes with C escapes, and raw text with balanced brackets.

/// The string in double quotes; bytes outside printable ASCII as octal escapes, as XLA prints them.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for b in text.bytes() {
        match b {
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b'"' | b'\'' | b'\\' => {
                out.push('\\');
                out.push(b as char);
            }
            0x20..=0x7e => out.push(b as char),
            _ => out.push_str(&format!("\\{b:03o}")),
        }
    }
    out.push('"');
    out
}

/// Undoes the escapes of [`quoted`] (`text` without its quotes); hexadecimal escapes too.
pub fn unquoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, after)) = rest.split_first() {
        rest = after;
        if b != b'\\' {
            out.push(b);
            continue;
        }
        let Some((&escape, after)) = rest.split_first() else { break };
        match escape {
            b'0'..=b'7' => rest = number(rest, 8, 3, &mut out),
            b'x' | b'X' => rest = number(after, 16, 2, &mut out),
            _ => {
                out.push(match escape {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => other,
                });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Reads up to `most` digits of this base as one byte.
fn number<'a>(rest: &'a [u8], base: u32, most: usize, out: &mut Vec<u8>) -> &'a [u8] {
    let digits = rest.iter().take(most).take_while(|&&b| (b as char).is_digit(base)).count();
    let (digits, after) = rest.split_at(digits);
    let value = digits.iter().fold(0u32, |v, &b| v * base + (b as char).to_digit(base).unwrap_or(0));
    out.push(value as u8);
    after
}

/// The text itself where it is one balanced `{..}` on one line, such as JSON; otherwise quoted.
pub fn raw_or_quoted(text: &str) -> String {
    if text.starts_with('{') && !text.contains('\n') && balanced(text) == Some(text.len()) {
        text.to_string()
    } else {
        quoted(text)
    }
}

/// The length of the bracketed text (`{}`, `()`, `[]`, strings skipped) at the start, if it closes.
pub fn balanced(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, b)) = bytes.next() {
        match b {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b'"' => loop {
                match bytes.next()?.1 {
                    b'\\' => drop(bytes.next()?),
                    b'"' => break,
                    _ => {}
                }
            },
            _ => {}
        }
        if depth == 0 {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_come_back_as_they_went() {
        let text = "jit(f)/\"x\"\\\n\t'é\u{7f}1";
        let printed = quoted(text);
        assert_eq!(printed, r#""jit(f)/\"x\"\\\n\t\'\303\251\1771""#);
        assert_eq!(unquoted(&printed[1..printed.len() - 1]), text);
        assert_eq!((unquoted("\\x41\\"), unquoted("\\777")), ("A".into(), "\u{fffd}".into()));
    }

    #[test]
    fn brackets_inside_strings_do_not_count() {
        assert_eq!(balanced(r#"{"a}":[1,(2)]} tail"#), Some(14));
        assert_eq!((balanced("{(]"), balanced("x{}"), balanced("")), (None, None, None));
        assert_eq!(raw_or_quoted(r#"{"n":"5"}"#), r#"{"n":"5"}"#);
        assert_eq!(raw_or_quoted("{} {}"), "\"{} {}\"");
    }
}
