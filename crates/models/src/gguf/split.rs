//! The naming of split models: `name-00001-of-00003.gguf`.

/// A file name taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardName {
    /// What comes before the numbers.
    pub stem: String,
    /// This file's number, from 1.
    pub number: u32,
    /// Files in all.
    pub count: u32,
}

impl ShardName {
    /// The file name of shard `number` of the same model.
    #[must_use]
    pub fn sibling(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }

    /// The file names of all shards, in order.
    pub fn all(&self) -> impl Iterator<Item = String> + '_ {
        (1..=self.count).map(|number| self.sibling(number))
    }
}

/// Reads a file name of a split model; `None` for any other name.
#[must_use]
pub fn shard_name(file_name: &str) -> Option<ShardName> {
    let rest = file_name.strip_suffix(".gguf")?;
    let (rest, count) = five_digits(rest)?;
    let (rest, number) = five_digits(rest.strip_suffix("-of-")?)?;
    let stem = rest.strip_suffix('-').filter(|stem| !stem.is_empty())?;
    (number >= 1 && number <= count).then(|| ShardName {
        stem: stem.to_owned(),
        number,
        count,
    })
}

fn five_digits(text: &str) -> Option<(&str, u32)> {
    let (rest, digits) = text.split_at_checked(text.len().checked_sub(5)?)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((rest, digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::shard_name;

    #[test]
    fn takes_shard_names_apart() {
        let shard = shard_name("Big-70B-Q4_K_M-00002-of-00003.gguf").unwrap();
        assert_eq!((shard.number, shard.count), (2, 3));
        assert_eq!(
            shard.all().collect::<Vec<_>>(),
            [
                "Big-70B-Q4_K_M-00001-of-00003.gguf",
                "Big-70B-Q4_K_M-00002-of-00003.gguf",
                "Big-70B-Q4_K_M-00003-of-00003.gguf",
            ]
        );
        for other in [
            "model.gguf",
            "a-00000-of-00003.gguf",
            "a-00004-of-00003.gguf",
            "-00001-of-00003.gguf",
            "a-0001-of-0003.gguf",
            "a-00001-of-00003.bin",
            "ä-of-00001.gguf",
            "",
        ] {
            assert_eq!(shard_name(other), None, "{other}");
        }
    }
}
