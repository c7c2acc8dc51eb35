//! Patterns of models' names.

/// Whether a name has the form of a pattern, in which `*` stands for any characters.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(start) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        // The earliest place leaves most for what follows.
        let Some(place) = name.find(part) else {
            return false;
        };
        name = &name[place + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stand_for_any_characters_and_nothing_else_does() {
        for (pattern, name, fits) in [
            ("tiny", "tiny", true),
            ("tiny", "tiny2", false),
            ("tiny*", "tiny", true),
            ("tiny*", "a-tiny", false),
            ("*", "", true),
            ("*:m", "box:m", true),
            ("*:m", "box:m2", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("a**a", "aa", true),
            ("box:*-4b*", "box:qwen-4b:q4", true),
            ("t.ny", "tiny", false),
            ("é*", "été", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
