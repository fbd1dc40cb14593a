//! A position in the text, with the few tokens that HLO is made of.

use super::TextError;
use crate::hlo::text::unquoted;

/// Deepest nesting of shapes, constants and shardings that is followed.
pub const MAX_DEPTH: usize = 64;

/// A place in the text; every method leaves it behind what it has read.
#[derive(Clone)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// What is left.
    pub fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    /// An error here: what was expected, and what stands here instead.
    pub fn error(&self, expected: impl Into<String>) -> TextError {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        let rest = self.rest();
        let found: String = rest.chars().take_while(|c| *c != '\n').take(24).collect();
        TextError {
            line: before.bytes().filter(|&b| b == b'\n').count() + 1,
            column: before.get(line_start..).unwrap_or("").chars().count() + 1,
            expected: expected.into(),
            found: match (rest.is_empty(), found.is_empty()) {
                (true, _) => "the end of the text".into(),
                (_, true) => "the end of the line".into(),
                _ => format!("`{found}`"),
            },
        }
    }

    /// Skips blanks and comments.
    pub fn space(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            let rest = rest.trim_start();
            let comment = if rest.starts_with("/*") {
                rest.find("*/").map_or(rest.len(), |n| n + 2)
            } else if rest.starts_with("//") {
                rest.find('\n').unwrap_or(rest.len())
            } else {
                0
            };
            self.at += blank + comment;
            if comment == 0 {
                return;
            }
        }
    }

    /// Whether the text here starts so, after blanks.
    pub fn sees(&mut self, token: &str) -> bool {
        self.space();
        self.rest().starts_with(token)
    }

    /// Reads this token if it stands here, after blanks.
    pub fn eat(&mut self, token: &str) -> bool {
        let found = self.sees(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Reads this character if it stands right here, without skipping blanks.
    pub fn eat_here(&mut self, token: char) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len_utf8();
        }
        found
    }

    pub fn expect(&mut self, token: &str) -> Result<(), TextError> {
        if self.eat(token) { Ok(()) } else { Err(self.error(format!("`{token}`"))) }
    }

    /// The characters from here on that satisfy `keep`.
    pub fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or("")
    }

    /// A name or keyword: letters, digits, `_`, `.`, `-`.
    pub fn word(&mut self, what: &str) -> Result<&'a str, TextError> {
        self.space();
        let word = self.clone().take_while(is_word);
        if word.is_empty() {
            return Err(self.error(what));
        }
        self.at += word.len();
        Ok(word)
    }

    /// A name, with or without `%`.
    pub fn name(&mut self, what: &str) -> Result<&'a str, TextError> {
        self.eat("%");
        self.word(what)
    }

    pub fn integer(&mut self) -> Result<i64, TextError> {
        self.space();
        let start = self.clone();
        let text = self.take_while(|c| c == '-' || c.is_ascii_digit());
        text.parse().map_err(|_| start.error("an integer of at most 64 bits"))
    }

    /// `true` or `false`.
    pub fn boolean(&mut self) -> Result<bool, TextError> {
        let start = self.clone();
        match self.word("`true` or `false`")? {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(start.error("`true` or `false`")),
        }
    }

    /// A list between these brackets, separated by commas.
    pub fn list<T>(
        &mut self,
        (open, close): (&str, &str),
        mut item: impl FnMut(&mut Self) -> Result<T, TextError>,
    ) -> Result<Vec<T>, TextError> {
        self.expect(open)?;
        let mut out = Vec::new();
        while !self.eat(close) {
            if !out.is_empty() {
                self.expect(",")?;
            }
            out.push(item(self)?);
        }
        Ok(out)
    }

    /// `{0,1}`.
    pub fn integers(&mut self) -> Result<Vec<i64>, TextError> {
        self.list(("{", "}"), Self::integer)
    }

    /// A string in double quotes, escapes undone.
    pub fn string(&mut self) -> Result<String, TextError> {
        self.space();
        let start = self.clone();
        let text = self.quoted_text().ok_or_else(|| start.error("a string in double quotes"))?;
        Ok(unquoted(text))
    }

    fn quoted_text(&mut self) -> Option<&'a str> {
        let rest = self.rest().strip_prefix('"')?;
        let mut escaped = false;
        let end = rest.bytes().position(|b| {
            let closes = b == b'"' && !escaped;
            escaped = b == b'\\' && !escaped;
            closes
        })?;
        self.at += end + 2;
        rest.get(..end)
    }

    /// The raw text of a value of unknown form: up to a comma, blank or closing bracket outside of brackets.
    pub fn raw_value(&mut self) -> Result<&'a str, TextError> {
        self.space();
        let start = self.clone();
        let rest = self.rest();
        let mut depth = 0usize;
        while let Some(c) = self.rest().chars().next() {
            match c {
                '"' => {
                    self.quoted_text().ok_or_else(|| start.error("a closed string"))?;
                    continue;
                }
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' if depth == 0 => break,
                '}' | ')' | ']' => depth -= 1,
                ',' if depth == 0 => break,
                c if depth == 0 && c.is_whitespace() => break,
                _ => {}
            }
            self.at += c.len_utf8();
        }
        if depth > 0 {
            return Err(start.error("brackets that close"));
        }
        Ok(rest.get(..rest.len() - self.rest().len()).unwrap_or(""))
    }

    /// Skips the rest of the line.
    pub fn skip_line(&mut self) {
        self.take_while(|c| c != '\n');
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}
