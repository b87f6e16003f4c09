//! The syntax of Java's properties files, which `zoo.cfg` is written in, with line numbers.
//!
//! Knows no key. Text is UTF-8; bytes that are not are taken as Latin-1, as Java takes all of them.

/// One key and its value, trimmed as ZooKeeper trims them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Property {
    /// The line on which it begins, from 1.
    pub(super) line: usize,
    pub(super) key: String,
    pub(super) value: String,
}

/// All properties of a file in their order. The only text that is not one is a bad `\u` escape.
///
/// # Errors
/// The line and what is wrong with it.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Property>, (usize, String)> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    };
    logical_lines(&text)
        .into_iter()
        .map(|(line, text)| property(line, &text).map_err(|problem| (line, problem)))
        .collect()
}

/// Lines without comments and blank ones, with continued lines joined; each with its first line's
/// number.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in natural_lines(text).enumerate() {
        let line = line.trim_start_matches(is_blank);
        let (number, mut joined) = match open.take() {
            Some(begun) => begun,
            None if line.is_empty() || line.starts_with(['#', '!']) => continue,
            None => (at + 1, String::new()),
        };
        let slashes = line.len() - line.trim_end_matches('\\').len();
        if slashes % 2 == 1 {
            joined.push_str(&line[..line.len() - 1]);
            open = Some((number, joined));
        } else {
            joined.push_str(line);
            all.push((number, joined));
        }
    }
    all.extend(open);
    all
}

/// Lines ended by `\n`, `\r` or both.
fn natural_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let Some(end) = text.find(['\n', '\r']) else { return Some(text) };
        let len = if text[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&text[end + len..]);
        Some(&text[..end])
    })
}

const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

/// Splits at the first unescaped `=`, `:` or blank.
fn property(line: usize, text: &str) -> Result<Property, String> {
    let mut escaped = false;
    let end = text
        .find(|c| {
            let ends = !escaped && (matches!(c, '=' | ':') || is_blank(c));
            escaped = c == '\\' && !escaped;
            ends
        })
        .unwrap_or(text.len());
    let rest = text[end..].trim_start_matches(is_blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    let key = unescape(&text[..end])?.trim().to_owned();
    let value = unescape(rest.trim_start_matches(is_blank))?.trim().to_owned();
    Ok(Property { line, key, value })
}

fn unescape(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\x0c'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                plain.push(code.and_then(char::from_u32).ok_or_else(|| {
                    format!("\\u{digits} is no character: expected four hexadecimal digits")
                })?);
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(usize, String, String)> {
        let properties = parse(text.as_bytes()).unwrap();
        properties.into_iter().map(|p| (p.line, p.key, p.value)).collect()
    }

    fn one(text: &str) -> (String, String) {
        let mut all = parsed(text);
        assert_eq!(all.len(), 1, "{text:?}");
        let (_, key, value) = all.remove(0);
        (key, value)
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn a_key_ends_at_an_equals_sign_a_colon_or_a_blank() {
        assert_eq!(one("a=b"), pair("a", "b"));
        assert_eq!(one("a:b"), pair("a", "b"));
        assert_eq!(one("a b"), pair("a", "b"));
        assert_eq!(one(" \t a \t = \t b c  "), pair("a", "b c"));
        assert_eq!(one("server.1=h:2:3;4"), pair("server.1", "h:2:3;4"));
        assert_eq!(one("a==b"), pair("a", "=b"));
        assert_eq!(one("a"), pair("a", ""));
    }

    #[test]
    fn comments_and_blank_lines_are_skipped_and_counted() {
        let text = "# one\n\n   ! three \\\na=1\r\n\r\n#\rb=2\n";
        let expected = [(4, "a", "1"), (7, "b", "2")];
        let expected = expected.map(|(line, k, v)| (line, k.to_owned(), v.to_owned()));
        assert_eq!(parsed(text), expected);
    }

    #[test]
    fn a_backslash_continues_a_line_and_two_do_not() {
        assert_eq!(one("a=b\\\n   c\\\n#d"), pair("a", "bc#d"));
        assert_eq!(parsed("a=b\\\\\nc=d").len(), 2);
        assert_eq!(one("a=b\\"), pair("a", "b"));
        assert_eq!(parsed("\na=1\\\n2\nb=3")[1].0, 4);
    }

    #[test]
    fn escapes_become_characters() {
        assert_eq!(one(r"a\=b\ c=d\te\u0041\z"), pair("a=b c", "d\teAz"));
        assert_eq!(one(r"C\:\\data"), pair(r"C:\data", ""));
        let (line, problem) = parse(b"x=1\ny=\\u12").unwrap_err();
        assert_eq!(line, 2);
        assert!(problem.contains("\\u12"), "{problem}");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_latin_1() {
        assert_eq!(parse(b"a=\xe4").unwrap()[0].value, "\u{e4}");
        assert_eq!(parse("a=\u{e4}".as_bytes()).unwrap()[0].value, "\u{e4}");
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let alphabet = b"\\u=: #\r\n\xff0a";
        let mut state = 7_u32;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..12)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    alphabet[(state >> 16) as usize % alphabet.len()]
                })
                .collect();
            let lines = bytes.iter().filter(|&&b| b == b'\n' || b == b'\r').count() + 1;
            if let Ok(all) = parse(&bytes) {
                assert!(all.iter().all(|p| (1..=lines).contains(&p.line)));
            }
        }
    }
}
