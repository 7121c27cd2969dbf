//! Names with a `*`, which stands for any characters or none, `/` too.

/// Whether `pattern` stands for `text`. Takes at most the product of their lengths in steps.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` was, and how far it reaches.
    let mut star = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(wanted) if wanted == byte => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((after, reaches)) = star else {
                    return false;
                };
                star = Some((after, reaches + 1));
                (p, t) = (after, reaches + 1);
            }
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

/// Whether one of `patterns` stands for `text`.
pub fn any<P: AsRef<str>>(patterns: &[P], text: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| matches(pattern.as_ref(), text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_is_anything_and_all_else_is_itself() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*.service", "web.service", true),
            ("ssh/*", "ssh/sshd_config.d/x", true),
            ("ssh", "ssh/x", false),
            ("**a**", "bab", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    /// The plain definition.
    fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|n| by_definition(rest, &text[n..])),
            [first, rest @ ..] => text.first() == Some(first) && by_definition(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_is_the_plain_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &text), by_definition(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
