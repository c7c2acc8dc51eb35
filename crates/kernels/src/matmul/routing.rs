//! Which columns of a mixture of experts are whose.

use super::TILE_COLUMNS;
use std::ops::Range;

/// Whose the columns are, and how they lie in tiles: columns of one expert side by side.
#[derive(Debug, Default)]
pub struct Routing {
    /// Numbers of columns, by expert.
    order: Vec<usize>,
    /// Where each expert's begin in `order`.
    starts: Vec<usize>,
    tiles: Vec<ExpertTile>,
}

/// Columns of one expert, at most [`TILE_COLUMNS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertTile {
    pub expert: usize,
    /// Columns in the tiles before it.
    pub first: usize,
    pub width: usize,
}

impl Routing {
    /// Sorts columns by their experts, stably.
    ///
    /// # Panics
    /// When an expert is not below `experts`.
    pub fn fill(&mut self, experts: usize, columns: usize, expert_of: impl Fn(usize) -> usize) {
        self.starts.clear();
        self.starts.resize(experts + 1, 0);
        for column in 0..columns {
            self.starts[expert_of(column) + 1] += 1;
        }
        for expert in 0..experts {
            self.starts[expert + 1] += self.starts[expert];
        }
        self.tiles.clear();
        for expert in 0..experts {
            let range = self.starts[expert]..self.starts[expert + 1];
            self.tiles
                .extend(range.clone().step_by(TILE_COLUMNS).map(|first| ExpertTile {
                    expert,
                    first,
                    width: (range.end - first).min(TILE_COLUMNS),
                }));
        }
        self.order.clear();
        self.order.resize(columns, 0);
        for column in 0..columns {
            let place = &mut self.starts[expert_of(column)];
            self.order[*place] = column;
            *place += 1;
        }
    }

    #[must_use]
    pub fn tiles(&self) -> &[ExpertTile] {
        &self.tiles
    }

    /// The numbers of a tile's columns.
    #[must_use]
    pub fn columns(&self, tile: &ExpertTile) -> &[usize] {
        &self.order[tile.first..tile.first + tile.width]
    }

    /// Runs of at most `most` tiles of one expert.
    #[must_use]
    pub fn groups(&self, most: usize) -> Vec<Range<usize>> {
        let mut groups: Vec<Range<usize>> = Vec::new();
        for (index, tile) in self.tiles.iter().enumerate() {
            match groups.last_mut() {
                Some(group)
                    if self.tiles[group.start].expert == tile.expert && group.len() < most =>
                {
                    group.end = index + 1;
                }
                _ => groups.push(index..index + 1),
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_an_expert_are_together_and_none_is_lost() {
        let experts = [2, 0, 2, 5, 2, 0];
        let mut routing = Routing::default();
        routing.fill(6, experts.len(), |column| experts[column]);
        assert_eq!(routing.order, [1, 5, 0, 2, 4, 3]);
        let tile = |tile: &ExpertTile| (tile.expert, tile.first, tile.width);
        let tiles: Vec<_> = routing.tiles.iter().map(tile).collect();
        assert_eq!(tiles, [(0, 0, 2), (2, 2, 3), (5, 5, 1)]);
    }

    #[test]
    fn an_experts_tiles_are_cut_and_grouped() {
        let mut routing = Routing::default();
        let columns = 3 * TILE_COLUMNS + 1;
        routing.fill(2, columns, |column| usize::from(column == 0));
        let widths: Vec<_> = routing.tiles.iter().map(|tile| tile.width).collect();
        assert_eq!(widths, [TILE_COLUMNS, TILE_COLUMNS, TILE_COLUMNS, 1]);
        assert_eq!(routing.groups(2), [0..2, 2..3, 3..4]);
        routing.fill(2, 0, |_| 0);
        assert!(routing.groups(2).is_empty());
    }
}
