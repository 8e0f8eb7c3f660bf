//! HTML character references, as Python's `html.unescape` reads them: the rules of the HTML standard, which also
//! take some names without a semicolon and map the numbers 128..159 as Windows-1252 does.

use std::borrow::Cow;

use html_escape::NAMED_ENTITIES;

/// Longest name that is looked up, in characters.
const LONGEST_NAME: usize = 32;

/// Names that also count without a semicolon, in byte order (HTML standard, named character references).
const BARE: [&str; 106] = [
    "AElig", "AMP", "Aacute", "Acirc", "Agrave", "Aring", "Atilde", "Auml", "COPY", "Ccedil", "ETH", "Eacute", "Ecirc",
    "Egrave", "Euml", "GT", "Iacute", "Icirc", "Igrave", "Iuml", "LT", "Ntilde", "Oacute", "Ocirc", "Ograve", "Oslash",
    "Otilde", "Ouml", "QUOT", "REG", "THORN", "Uacute", "Ucirc", "Ugrave", "Uuml", "Yacute", "aacute", "acirc",
    "acute", "aelig", "agrave", "amp", "aring", "atilde", "auml", "brvbar", "ccedil", "cedil", "cent", "copy",
    "curren", "deg", "divide", "eacute", "ecirc", "egrave", "eth", "euml", "frac12", "frac14", "frac34", "gt",
    "iacute", "icirc", "iexcl", "igrave", "iquest", "iuml", "laquo", "lt", "macr", "micro", "middot", "nbsp", "not",
    "ntilde", "oacute", "ocirc", "ograve", "ordf", "ordm", "oslash", "otilde", "ouml", "para", "plusmn", "pound",
    "quot", "raquo", "reg", "sect", "shy", "sup1", "sup2", "sup3", "szlig", "thorn", "times", "uacute", "ucirc",
    "ugrave", "uml", "uuml", "yacute", "yen", "yuml",
];

/// What the numbers 128..=159 stand for: Windows-1252, with its five holes left as they are.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Replaces every character reference once; `&amp;lt;` becomes `&lt;`.
pub(crate) fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let taken = match rest.strip_prefix('#') {
            Some(number) => numeric(number, &mut out).map(|n| n + 1),
            None => named(rest, &mut out),
        };
        match taken {
            Some(n) => rest = &rest[n..],
            None => out.push('&'),
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Reads what follows `&#`; returns the bytes taken, or `None` when no number is there.
fn numeric(text: &str, out: &mut String) -> Option<usize> {
    let (skip, radix) = if text.starts_with(['x', 'X']) { (1, 16) } else { (0, 10) };
    let digits = &text[skip..];
    let count = digits.bytes().take_while(|b| char::from(*b).is_digit(radix)).count();
    if count == 0 {
        return None;
    }
    let number = digits[..count]
        .chars()
        .fold(0u32, |n, c| n.saturating_mul(radix).saturating_add(c.to_digit(radix).unwrap_or(0)));
    match number {
        0 => out.push('\u{fffd}'),
        0x80..=0x9f => out.push(WINDOWS_1252[number as usize - 0x80]),
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => {}
        _ if number <= 0x10_ffff && number & 0xfffe == 0xfffe => {}
        _ => out.push(char::from_u32(number).unwrap_or('\u{fffd}')),
    }
    let semicolon = usize::from(digits[count..].starts_with(';'));
    Some(skip + count + semicolon)
}

/// Reads what follows `&`; returns the bytes taken, or `None` when no known name is there.
fn named(text: &str, out: &mut String) -> Option<usize> {
    let stop = |c: char| matches!(c, '\t' | '\n' | '\x0c' | ' ' | '<' | '&' | '#' | ';');
    let end = text.char_indices().take(LONGEST_NAME).take_while(|(_, c)| !stop(*c)).last();
    let name = &text[..end.map(|(i, c)| i + c.len_utf8())?];
    if text[name.len()..].starts_with(';')
        && let Ok(i) = NAMED_ENTITIES.binary_search_by(|(n, _)| (*n).cmp(name.as_bytes()))
    {
        out.push_str(NAMED_ENTITIES[i].1);
        return Some(name.len() + 1);
    }
    let longest =
        (2..=name.len().min(6)).rev().filter_map(|n| name.get(..n)).find(|n| BARE.binary_search(n).is_ok())?;
    let i = NAMED_ENTITIES.binary_search_by(|(n, _)| (*n).cmp(longest.as_bytes())).ok()?;
    out.push_str(NAMED_ENTITIES[i].1);
    Some(longest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_order() {
        assert!(BARE.is_sorted());
        assert!(BARE.iter().all(|n| n.len() <= 6));
        assert!(NAMED_ENTITIES.is_sorted_by(|a, b| a.0 <= b.0));
    }

    /// Right sides printed by Python 3.11's `html.unescape`.
    #[test]
    fn as_python_does() {
        let cases = [
            ("no reference", "no reference"),
            ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),
            ("AT&T &amp &bogus; & &", "AT&T & &bogus; & &"),
            ("&notit; &notin; &NotEqualTilde;", "¬it; ∉ ≂̸"),
            ("&ampx &ltimes &ltimes; &copy2024", "&x <imes ⋉ ©2024"),
            ("&#65;&#x42;&#X43 &#128;&#0;&#xD800;&#x110000;&#99999999999999;", "ABC €\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            ("a&#1;b&#xFFFE;c&#127;d", "abcd"),
            ("&#; &#x; &#xg", "&#; &#x; &#xg"),
            ("&#13;&#9;|&nbsp;|", "\r\t|\u{a0}|"),
            ("&é; &lté &", "&é; <é &"),
            (
                "&CounterClockwiseContourIntegral;&aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa;",
                "∳&aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa;",
            ),
        ];
        for (text, want) in cases {
            assert_eq!(unescape(text), want, "{text}");
        }
    }
}
