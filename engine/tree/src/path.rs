//! Which byte strings name a node, by ZooKeeper's rules (`client.md` 2.1).
//!
//! Paths stay bytes. Nothing here is normalised, and nothing here knows which nodes exist.

use core::fmt;

/// Checks a path as ZooKeeper's `PathUtils.validatePath` does: it starts with `/`, has no empty,
/// `.` or `..` component, no slash at its end, and no UTF-16 unit in U+0000-001F, U+007F-009F,
/// U+D800-F8FF or U+FFF0-FFFF. Everything outside the basic plane is a pair of surrogates and so
/// is refused, and a byte sequence that is no UTF-8 decodes to U+FFFD and is refused too.
///
/// # Errors
/// [`PathError`], the first rule broken.
pub fn check(path: &[u8]) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path[0] != b'/' {
        return Err(PathError::Relative);
    }
    if path.len() == 1 {
        return Ok(());
    }
    if path[path.len() - 1] == b'/' {
        return Err(PathError::TrailingSlash);
    }
    let mut component = 1;
    let mut only_ascii = true;
    for (at, &byte) in path.iter().enumerate().skip(1) {
        if byte == b'/' {
            check_component(&path[component..at])?;
            component = at + 1;
        } else if byte < 0x20 || byte == 0x7f {
            return Err(PathError::Character);
        } else if byte >= 0x80 {
            only_ascii = false;
        }
    }
    check_component(&path[component..])?;
    if !only_ascii {
        let text = core::str::from_utf8(path).map_err(|_| PathError::Character)?;
        if !text.chars().all(is_allowed) {
            return Err(PathError::Character);
        }
    }
    Ok(())
}

/// Why a path is refused. Clients only ever see BadArguments (-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// No byte at all.
    Empty,
    /// It does not start with a slash.
    Relative,
    /// It ends in a slash.
    TrailingSlash,
    /// Two slashes in a row.
    EmptyComponent,
    /// A component `.` or `..`.
    DotComponent,
    /// A character that paths must not have.
    Character,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the path is empty",
            Self::Relative => "the path does not start with a slash",
            Self::TrailingSlash => "the path ends in a slash",
            Self::EmptyComponent => "the path has an empty component",
            Self::DotComponent => "the path has a relative component",
            Self::Character => "the path has a character that is not allowed",
        })
    }
}

impl core::error::Error for PathError {}

fn check_component(component: &[u8]) -> Result<(), PathError> {
    match component {
        b"" => Err(PathError::EmptyComponent),
        b"." | b".." => Err(PathError::DotComponent),
        _ => Ok(()),
    }
}

fn is_allowed(c: char) -> bool {
    !matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

/// Everything before the last slash, so empty for a top-level node; `None` without a slash. Needs no
/// valid path: ZooKeeper looks for a create's parent before it checks the path.
pub fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').map(|slash| &path[..slash])
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec::Vec;

    /// ZooKeeper's loop over UTF-16 units, transcribed from the rules and not from the code above.
    fn dumb_is_valid(path: &[u8]) -> bool {
        let units: Vec<u16> = String::from_utf8_lossy(path).encode_utf16().collect();
        if units.first() != Some(&u16::from(b'/')) {
            return false;
        }
        if units.len() == 1 {
            return true;
        }
        let text = String::from_utf16_lossy(&units);
        let components: Vec<&str> = text[1..].split('/').collect();
        components.iter().all(|c| !matches!(*c, "" | "." | ".."))
            && units.iter().all(
                |unit| !matches!(unit, 0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..=0xffff),
            )
    }

    #[test]
    fn the_rules_of_validate_path_hold() {
        let cases: [(&[u8], Result<(), PathError>); 14] = [
            (b"", Err(PathError::Empty)),
            (b"a", Err(PathError::Relative)),
            (b"/", Ok(())),
            (b"/a", Ok(())),
            (b"/a/", Err(PathError::TrailingSlash)),
            (b"//a", Err(PathError::EmptyComponent)),
            (b"/a//b", Err(PathError::EmptyComponent)),
            (b"/.", Err(PathError::DotComponent)),
            (b"/a/../b", Err(PathError::DotComponent)),
            (b"/..x/.y", Ok(())),
            (b"/a\0", Err(PathError::Character)),
            (b"/a\x7f", Err(PathError::Character)),
            (b"/\xff", Err(PathError::Character)),
            ("/\u{1f600}".as_bytes(), Err(PathError::Character)),
        ];
        for (path, expected) in cases {
            assert_eq!(check(path), expected, "{path:?}");
            assert_eq!(dumb_is_valid(path), expected.is_ok(), "{path:?}");
        }
    }

    #[test]
    fn every_character_of_the_basic_plane_is_judged_as_its_unit() {
        for c in ('\0'..='\u{10010}').filter(|c| *c != '/' && *c != '.') {
            let mut path = String::from("/a");
            path.push(c);
            let path = path.as_bytes();
            assert_eq!(check(path).is_ok(), dumb_is_valid(path), "{:#x}", c as u32);
        }
    }

    #[test]
    fn random_bytes_are_judged_like_by_the_dumb_twin() {
        let alphabet: [&[u8]; 8] =
            [b"/", b"/", b".", b"a", b"\xc2\xa0", b"\xef\xbf\xb0", b"\xed\xa0\x80", b"\x01"];
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut path = Vec::from(&b"/"[..]);
            for _ in 0..6 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                path.extend_from_slice(alphabet[(state >> 33) as usize % alphabet.len()]);
                assert_eq!(check(&path).is_ok(), dumb_is_valid(&path), "{path:?}");
            }
        }
    }

    #[test]
    fn a_parent_is_what_stands_before_the_last_slash() {
        assert_eq!(parent(b"/a/b"), Some(&b"/a"[..]));
        assert_eq!(parent(b"/a"), Some(&b""[..]));
        assert_eq!(parent(b"/a/"), Some(&b"/a"[..]));
        assert_eq!(parent(b"a"), None);
    }
}
