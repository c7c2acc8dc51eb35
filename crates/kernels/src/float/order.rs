//! The order of a row's elements.

/// Which elements come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
}

/// Writes the places of the row's elements in the order of their values; equal ones, and what
/// is not a number, by [`f32::total_cmp`] and then by place. `keys` is memory to work in.
///
/// Panics unless there is a place for each element.
pub fn argsort(places: &mut [i32], row: &[f32], order: Order, keys: &mut Vec<u64>) {
    assert_eq!(places.len(), row.len(), "a place for each element");
    keys.clear();
    keys.extend(row.iter().enumerate().map(|(place, x)| {
        let rank = match order {
            Order::Ascending => rank(*x),
            Order::Descending => !rank(*x),
        };
        u64::from(rank) << 32 | place as u64
    }));
    keys.sort_unstable();
    for (place, key) in places.iter_mut().zip(keys) {
        *place = *key as i32;
    }
}

/// A number that grows as the value does: the bits, with those of negative ones turned.
fn rank(x: f32) -> u32 {
    let bits = x.to_bits();
    match bits >> 31 {
        0 => bits | 1 << 31,
        _ => !bits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_in_the_order_of_their_values() {
        let row = [0.5, -1.0, f32::INFINITY, 0.5, -0.0, 0.0, f32::NEG_INFINITY];
        let sorted = |order| {
            let (mut places, mut keys) = ([0; 7], Vec::new());
            argsort(&mut places, &row, order, &mut keys);
            places
        };
        assert_eq!(sorted(Order::Ascending), [6, 1, 4, 5, 0, 3, 2]);
        assert_eq!(sorted(Order::Descending), [2, 0, 3, 5, 4, 1, 6]);
    }
}
