//! What may be chosen.

/// One setting, or some that go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    pub name: String,
    /// What it makes a difference to; only that is compared.
    pub phase: Phase,
    pub switch: Switch,
    /// What they are called, in the order in which they are tried.
    pub levels: Vec<String>,
    /// The level without tuning.
    pub default: usize,
    /// What each level takes from others on the machine, such as its number of cores: of levels
    /// that are equally fast the one that takes less wins. Empty where none does.
    pub takes: Vec<usize>,
}

impl Axis {
    /// Whether a level takes less than another.
    #[must_use]
    pub fn is_leaner(&self, level: usize, than: usize) -> bool {
        let takes = |level: usize| self.takes.get(level);
        takes(level) < takes(than)
    }
}

/// What a setting makes a difference to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Prefill,
    Decode,
    Both,
}

/// What it takes to try another level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Nothing: the loaded model changes over.
    Live,
    /// A process with the model of its own.
    Load,
}

/// A level of an axis, by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub axis: usize,
    pub level: usize,
}

/// A level of every axis.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Point(Vec<usize>);

/// All axes, the one with the largest expected effect first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Space {
    pub axes: Vec<Axis>,
    /// Levels that cannot be together.
    pub forbidden: Vec<[Choice; 2]>,
}

impl Point {
    /// The level of an axis; 0 of one that is not there.
    #[must_use]
    pub fn level(&self, axis: usize) -> usize {
        self.0.get(axis).copied().unwrap_or(0)
    }

    #[must_use]
    pub fn has(&self, choice: Choice) -> bool {
        self.0.get(choice.axis) == Some(&choice.level)
    }

    /// The same with another level of one axis.
    #[must_use]
    pub fn with(&self, choice: Choice) -> Self {
        let mut levels = self.0.clone();
        if let Some(level) = levels.get_mut(choice.axis) {
            *level = choice.level;
        }
        Self(levels)
    }

    /// The axes on which two points differ.
    pub fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let pairs = self.0.iter().zip(&other.0).enumerate();
        pairs.filter(|(_, (a, b))| a != b).map(|(axis, _)| axis)
    }
}

impl Space {
    #[must_use]
    pub fn default_point(&self) -> Point {
        Point(self.axes.iter().map(|axis| axis.default).collect())
    }

    /// The pair of levels that keeps a point from being one.
    #[must_use]
    pub fn forbids(&self, point: &Point) -> Option<[Choice; 2]> {
        let both = |pair: &&[Choice; 2]| pair.iter().all(|choice| point.has(*choice));
        self.forbidden.iter().find(both).copied()
    }

    /// Every point that may be, in the order of the last axis first; for an exhaustive sweep.
    #[must_use]
    pub fn points(&self) -> Vec<Point> {
        let mut points = vec![Vec::new()];
        for axis in &self.axes {
            let longer = points.iter().flat_map(|point: &Vec<usize>| {
                (0..axis.levels.len()).map(|level| {
                    let mut point = point.clone();
                    point.push(level);
                    point
                })
            });
            points = longer.collect();
        }
        let points = points.into_iter().map(Point);
        points
            .filter(|point| self.forbids(point).is_none())
            .collect()
    }

    /// What a level is called.
    #[must_use]
    pub fn label(&self, choice: Choice) -> &str {
        let axis = self.axes.get(choice.axis);
        let level = axis.and_then(|axis| axis.levels.get(choice.level));
        level.map_or("?", String::as_str)
    }

    /// What it takes to go from one point to another.
    #[must_use]
    pub fn switch(&self, from: &Point, to: &Point) -> Switch {
        let needs_load = |axis: usize| self.axes[axis].switch == Switch::Load;
        match from.differences(to).any(needs_load) {
            true => Switch::Load,
            false => Switch::Live,
        }
    }
}
