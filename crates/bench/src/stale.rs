//! Whether what was measured still tells of what is there: of the same file of the model, by the
//! same build, on the same machine.

/// What a measurement depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    Model,
    Build,
    Hardware,
}

impl Ground {
    pub const ALL: [Self; 3] = [Self::Model, Self::Build, Self::Hardware];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Build => "build",
            Self::Hardware => "hardware",
        }
    }
}

/// Each ground in words that differ where the thing does; `None`: nobody knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grounds {
    /// Of its file.
    pub model: Option<String>,
    pub build: Option<String>,
    pub hardware: Option<String>,
}

impl Grounds {
    fn get(&self, ground: Ground) -> Option<&str> {
        match ground {
            Ground::Model => self.model.as_deref(),
            Ground::Build => self.build.as_deref(),
            Ground::Hardware => self.hardware.as_deref(),
        }
    }
}

/// A ground that is no longer what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub ground: Ground,
    pub then: String,
    pub now: String,
}

impl Change {
    /// What has changed, in a line. Of lists of as many parts only those that differ are told.
    #[must_use]
    pub fn sentence(&self) -> String {
        let parts = |text: &'_ str| -> Vec<String> {
            let parts = text.split("; ").flat_map(|part| part.split(", "));
            parts.map(|part| part.trim().to_owned()).collect()
        };
        let (then, now) = (parts(&self.then), parts(&self.now));
        let (then, now) = if then.len() == now.len() {
            let pairs = then.into_iter().zip(now);
            pairs.filter(|(then, now)| then != now).unzip()
        } else {
            (then, now)
        };
        format!(
            "the {} has changed: it was {}, and is {}",
            self.ground.word(),
            then.join(", "),
            now.join(", ")
        )
    }
}

/// How a measurement stands to what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Empty: nothing that is known has changed.
    pub changed: Vec<Change>,
    /// What cannot be told, since it was not written down or is not known now.
    pub unknown: Vec<Ground>,
}

/// Compares what a measurement stood on with what is there now.
#[must_use]
pub fn standing(then: &Grounds, now: &Grounds) -> Standing {
    let mut standing = Standing::default();
    for ground in Ground::ALL {
        match (then.get(ground), now.get(ground)) {
            (Some(then), Some(now)) if then != now => standing.changed.push(Change {
                ground,
                then: then.to_owned(),
                now: now.to_owned(),
            }),
            (Some(_), Some(_)) => {}
            _ => standing.unknown.push(ground),
        }
    }
    standing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grounds(model: &str, build: &str, hardware: &str) -> Grounds {
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Grounds {
            model: known(model),
            build: known(build),
            hardware: known(hardware),
        }
    }

    #[test]
    fn what_has_changed_is_told_apart_from_what_nobody_knows() {
        let then = grounds("7-ab", "sextant 1", "board; 4 cores");
        for (now, changed, unknown) in [
            (then.clone(), &[][..], &[][..]),
            (
                grounds("7-cd", "sextant 1", "board; 4 cores"),
                &[Ground::Model][..],
                &[][..],
            ),
            (
                grounds("7-ab", "sextant 2", "board; 8 cores"),
                &[Ground::Build, Ground::Hardware][..],
                &[][..],
            ),
            (
                grounds("", "sextant 2", ""),
                &[Ground::Build][..],
                &[Ground::Model, Ground::Hardware][..],
            ),
        ] {
            let standing = standing(&then, &now);
            let told: Vec<Ground> = standing.changed.iter().map(|one| one.ground).collect();
            assert_eq!(
                (told.as_slice(), standing.unknown.as_slice()),
                (changed, unknown)
            );
        }
        let nothing = standing(&Grounds::default(), &then);
        assert_eq!(nothing.unknown, Ground::ALL);
        assert!(nothing.changed.is_empty());
    }

    #[test]
    fn of_long_descriptions_what_differs_is_told() {
        let change = |then: &str, now: &str| Change {
            ground: Ground::Hardware,
            then: then.into(),
            now: now.into(),
        };
        let told = change(
            "2; board; cores 0-3; quota none",
            "2; board; cores 4-7; quota none",
        );
        assert!(
            told.sentence()
                .ends_with("it was cores 0-3, and is cores 4-7"),
            "{}",
            told.sentence()
        );
        let told = change("board", "board; cores 4-7").sentence();
        assert!(
            told.ends_with("it was board, and is board, cores 4-7"),
            "{told}"
        );
    }
}
