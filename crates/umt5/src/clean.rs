//! Text cleaning as Wan 2.1 does it before tokenising ("whitespace" mode): ftfy's `fix_text`, HTML references undone
//! twice, ends stripped, every run of whitespace made one space.

use std::borrow::Cow;

use plsfix::TextFixerConfig;

use crate::html;

/// A line is repaired in pieces of this many characters. ftfy's pieces are a hundred times longer, but there the
/// library's expressions can exceed their budget of steps and panic. Only 512 tokens of a prompt count, which
/// end long before, but for a line made of nothing but whitespace or one repeated unknown sign.
const SEGMENT_CHARS: usize = 10_000;

/// The prompt as the tokenizer is to see it.
///
/// Mojibake is repaired ("schÃ¶n"), full-width forms become ASCII (so '，' becomes ','), half-width katakana and
/// ligatures are expanded, curly quotes straightened, terminal escapes, control characters and byte order marks
/// removed, and the result is in NFC. '…', '—' and zero-width characters stay. Never longer than a few times the
/// input; time is linear in it.
pub fn clean(prompt: &str) -> String {
    let fixed = fix_text(prompt);
    let once = html::unescape(&fixed);
    collapse(&html::unescape(&once))
}

/// ftfy works line by line. It undoes HTML references itself, but from the first line with a '<' on it leaves them.
///
/// The library does what ftfy does but for three gaps, which are closed here: its terminal escapes never match, its
/// table of widths lacks the one character that becomes two, and its references cannot be left alone.
fn fix_text(text: &str) -> String {
    let config = TextFixerConfig::default();
    let mut out = String::with_capacity(text.len());
    let mut is_html = false;
    let text = without_terminal_escapes(text).replace('￣', " \u{304}");
    for segment in segments(&text) {
        is_html |= segment.contains('<');
        let fixed = if is_html && segment.contains(['&', '＆']) {
            // A reference with a space in it is none.
            let kept = segment.replace(['&', '＆'], "& ");
            plsfix::fix_and_explain(&kept, false, Some(&config)).text.replace("& ", "&")
        } else {
            plsfix::fix_and_explain(segment, false, Some(&config)).text
        };
        out.push_str(&fixed);
    }
    out
}

/// Without the sequences that colour text in a terminal: escape, '[', numbers and semicolons, a letter.
fn without_terminal_escapes(text: &str) -> Cow<'_, str> {
    if !text.contains("\u{1b}[") {
        return Cow::Borrowed(text);
    }
    let mut pieces = text.split("\u{1b}[");
    let mut out = String::with_capacity(text.len());
    out.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let after = piece.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        match after.strip_prefix(|c: char| c.is_ascii_alphabetic()) {
            Some(rest) => out.push_str(rest),
            None => out.extend(["\u{1b}[", piece]),
        }
    }
    Cow::Owned(out)
}

/// Lines with their line feed, cut where they are longer than [`SEGMENT_CHARS`].
fn segments(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let line = rest.find('\n').map_or(rest.len(), |i| i + 1);
        let cut = rest[..line].char_indices().nth(SEGMENT_CHARS).map_or(line, |(i, _)| i);
        let (segment, after) = rest.split_at(cut);
        rest = after;
        Some(segment)
    })
}

/// Whitespace in the sense of Python's `str.isspace`: Unicode's, and the four information separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn collapse(text: &str) -> String {
    let words = text.split(is_space).filter(|word| !word.is_empty());
    words.fold(String::with_capacity(text.len()), |mut out, word| {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Right sides printed by ftfy 6.3.1 and the steps after it, in Python 3.11.
    #[test]
    fn as_ftfy_does() {
        let cases = [
            ("", ""),
            (" \t\n ", ""),
            ("schÃ¶n, naÃ¯ve cafÃ©, itâ€™s", "schön, naïve café, it's"),
            ("镜头晃动，色调艳丽", "镜头晃动,色调艳丽"),
            ("ＡＢＣ　１２３ ﾊﾝｶｸ", "ABC 123 ハンカク"),
            ("eﬃcient ﬁlm ﬀ", "efficient film ff"),
            ("“a” ‘b’ „c‟", "\"a\" 'b' \"c\""),
            ("e\u{301} が", "é が"),
            ("\u{feff}\u{1b}[31mred\u{1b}[0m\u{7} bell", "red bell"),
            ("\u{1b}[1;31mbold\u{1b}[K \u{1b}[ \u{1b}[12 x", "bold [ [12 x"),
            ("overline￣", "overline \u{304}"),
            ("a\u{a0}b\u{3000}c\u{2028}d\u{2009}e\r\nf\u{85}g", "a b c d e f…g"),
            ("wait… a — b\u{200b}c", "wait… a — b\u{200b}c"),
            ("&amp;amp; &amp;quot;", "& \""),
            ("&amp;amp;amp;amp;", "&"),
            ("<b> &amp;amp;amp;amp; &lt;", "<b> &amp;amp; <"),
            ("＆lt; AT&T < x & y", "< AT&T < x & y"),
            ("&amp;amp;amp;amp;\n<\n&amp;amp;amp;amp;", "& < &amp;amp;"),
            ("&#x2007;a&#28;b", "ab"),
        ];
        for (text, want) in cases {
            assert_eq!(clean(text), want, "{text:?}");
        }
    }

    #[test]
    fn cleaning_again_changes_nothing_in_plain_prompts() {
        for text in ["Eine Frau lächelt.", "若い女性が海辺で踊っている。", "الرَّاقِصَةُ", "a dancer, 4k"]
        {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn segments_are_whole_characters() {
        let long = "ä".repeat(SEGMENT_CHARS + 3);
        let text = format!("one\n{long}\ntwo");
        let parts: Vec<&str> = segments(&text).collect();
        assert_eq!(parts.len(), 4);
        assert_eq!(parts.concat(), text);
        assert_eq!(parts[2], "äää\n");
    }
}
