//! From how fast each core is to sets of cores that are worth a try.

/// A core that may be used, and how fast it was in some unit, the same for all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Core {
    pub cpu: u32,
    pub speed: f64,
}

/// Some of the fastest cores; a thread each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreSet {
    /// The least number first.
    pub cpus: Vec<u32>,
}

/// Cores within this share of the fastest of their group are alike.
const ALIKE: f64 = 0.85;
/// All numbers up to this are tried: on four big cores three may do as well as four, and
/// leave one to the rest of the machine.
const ALL_UP_TO: usize = 4;
const SETS_MAX: usize = 8;

/// Sets that are worth a try, none with more than `threads_max` cores: the most promising
/// first. Groups of equal cores are taken whole, then with one core less, then halved again
/// and again.
#[must_use]
pub fn sets(cores: &[Core], threads_max: usize) -> Vec<CoreSet> {
    let groups = groups(cores);
    let order: Vec<u32> = groups.iter().flatten().copied().collect();
    let n = order.len();
    let mut counts: Vec<usize> = Vec::new();
    let mut upto = 0;
    for group in &groups {
        upto += group.len();
        counts.push(upto);
    }
    counts.extend([n, n.saturating_sub(1), threads_max]);
    counts.extend((1..=ALL_UP_TO.min(n)).rev());
    let halves = std::iter::successors(Some(n), |count| Some(count / 2));
    counts.extend(halves.take_while(|count| *count > 0));
    let mut sets: Vec<CoreSet> = Vec::new();
    for count in counts {
        let set = CoreSet::of(&order[..count.min(n)]);
        let fits = (1..=threads_max).contains(&count) && count <= n;
        if fits && !sets.contains(&set) && sets.len() < SETS_MAX {
            sets.push(set);
        }
    }
    sets
}

/// Groups of cores that are alike, the fastest first.
fn groups(cores: &[Core]) -> Vec<Vec<u32>> {
    let mut cores = cores.to_vec();
    cores.sort_by(|a, b| b.speed.total_cmp(&a.speed).then(a.cpu.cmp(&b.cpu)));
    let mut groups: Vec<(f64, Vec<u32>)> = Vec::new();
    for core in cores {
        match groups.last_mut() {
            Some((fastest, group)) if core.speed >= *fastest * ALIKE => group.push(core.cpu),
            _ => groups.push((core.speed, vec![core.cpu])),
        }
    }
    let sorted = groups.into_iter().map(|(_, mut group)| {
        group.sort_unstable();
        group
    });
    sorted.collect()
}

impl CoreSet {
    fn of(cpus: &[u32]) -> Self {
        let mut cpus = cpus.to_vec();
        cpus.sort_unstable();
        Self { cpus }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(speeds: &[f64], threads_max: usize) -> Vec<Vec<u32>> {
        let cores = speeds.iter().zip(0..);
        let cores: Vec<_> = cores
            .map(|(speed, cpu)| Core { cpu, speed: *speed })
            .collect();
        sets(&cores, threads_max)
            .into_iter()
            .map(|set| set.cpus)
            .collect()
    }

    #[test]
    fn the_fast_ones_come_first() {
        assert_eq!(told(&[1.0, 0.97], 2), [vec![0, 1], vec![0]]);
        assert_eq!(told(&[0.5, 1.0], 2), [vec![1], vec![0, 1]], "one is busy");
        // Four little cores and four big ones.
        let board = [0.4, 0.41, 0.4, 0.4, 1.0, 1.0, 0.98, 1.0];
        let sets = told(&board, 8);
        assert_eq!(sets[..2], [vec![4, 5, 6, 7], (0..8).collect()]);
        assert!(sets.contains(&vec![4, 5, 6]) && sets.contains(&vec![4]));
        assert_eq!(sets.len(), 6);
        // A quota bounds the number.
        assert!(told(&[1.0; 16], 6).iter().all(|set| set.len() <= 6));
        assert_eq!(told(&[1.0; 16], 6)[0].len(), 6);
        assert!(told(&[1.0; 128], 128).len() <= SETS_MAX);
        assert!(told(&[], 4).is_empty());
    }
}
