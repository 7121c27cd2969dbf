//! Matching a device's modalias against a module's alias: shell patterns with `*`,
//! `?` and `[…]`, as `modprobe` reads them (fnmatch without special characters
//! for slashes or dots).

/// Whether `text` is what `pattern` describes.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on if the last star has to swallow one more byte.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(_), Some(&byte)) => one(&pattern[p..], byte),
            _ => None,
        };
        match (step, retry) {
            (Some(width), _) => {
                p += width;
                t += 1;
            }
            (None, Some((after_star, at))) if at < text.len() => {
                p = after_star;
                t = at + 1;
                retry = Some((p, t));
            }
            (None, _) => return false,
        }
    }
}

/// How long the pattern's first element is, if it describes `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => set(pattern, byte).unwrap_or_else(|| (byte == b'[').then_some(1)),
        literal => (*literal == byte).then_some(1),
    }
}

/// A bracketed set; the outer `None` says that it never ends and so is no set.
fn set(pattern: &[u8], byte: u8) -> Option<Option<usize>> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    // A closing bracket in the first place stands for itself.
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|b| *b == b']')?;
    let mut members = &pattern[first..end];
    let mut found = false;
    while let Some((&low, rest)) = members.split_first() {
        if let [b'-', high, after @ ..] = rest {
            found |= (low..=*high).contains(&byte);
            members = after;
        } else {
            found |= low == byte;
            members = rest;
        }
    }
    Some((found != negated).then_some(end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_fnmatch_does() {
        let disk = "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00";
        let cases = [
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
            ("*", "", true),
            ("abc", "abc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*c", "abbbc", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXcXb", false),
            ("*a", "aaab", false),
            ("**b", "aab", true),
            ("[abc]x", "bx", true),
            ("[a-c]x", "cx", true),
            ("[a-c]x", "dx", false),
            ("[!a-c]x", "dx", true),
            ("[!a-c]x", "ax", false),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("[", "[", true),
            ("[a", "a", false),
            ("pci:v00001AF4d*sv*sd*bc*sc*i*", disk, true),
            ("pci:v00008086d*sv*sd*bc*sc*i*", disk, false),
            ("pci:v*d*sv*sd*bc01sc0[0-6]i*", disk, true),
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            (
                "cpu:type:x86,ven*fam*mod*:feature:*0081*",
                "cpu:type:x86,ven0002fam000Fmod006B:feature:,0000,0081,0099,",
                true,
            ),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} {text:?}");
        }
    }
}
