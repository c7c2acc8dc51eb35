//! A sample as bytes of a row.
//!
//! Little-endian: a version; the number of figures, and each as its number, weight and mean, then
//! least and most unless the highest bit of the number says that all three are one; the number of
//! steps of waits, and each with its count; cores; processes. A figure that this program does not
//! know is passed over, so an older program reads what a newer one has added.

use super::Figure;
use super::sample::{CORES_SHOWN_MAX, Cores, PROCESSES_MAX, Sample, Spread, WAIT_STEPS};

const VERSION: u8 = 1;
/// Least, mean and most are one.
const IS_STEADY: u8 = 0x80;

pub(super) fn encode(sample: &Sample) -> Vec<u8> {
    let mut out = vec![VERSION];
    let known = Figure::ALL.iter();
    let known: Vec<_> = known
        .filter_map(|figure| Some((figure.number(), sample.get(*figure)?)))
        .collect();
    out.push(known.len() as u8);
    for (number, spread) in known {
        put(&mut out, number, &spread);
    }
    let steps = sample.waits.steps();
    out.extend((steps.len() as u16).to_le_bytes());
    for (step, count) in steps {
        out.extend(step.to_le_bytes());
        out.extend(count.to_le_bytes());
    }
    out.push(sample.cores.each);
    out.push(sample.cores.percent.len().min(CORES_SHOWN_MAX) as u8);
    out.extend(sample.cores.weight.to_le_bytes());
    out.extend(sample.cores.percent.iter().take(CORES_SHOWN_MAX));
    let processes = sample.processes();
    out.push(processes.len() as u8);
    for (name, spread) in processes {
        out.push(name.len() as u8);
        out.extend(name.as_bytes());
        put(&mut out, 0, &spread);
    }
    out
}

fn put(out: &mut Vec<u8>, number: u8, spread: &Spread) {
    let is_steady = spread.min == spread.max;
    out.push(number | if is_steady { IS_STEADY } else { 0 });
    out.extend(spread.weight.to_le_bytes());
    out.extend(spread.mean.to_le_bytes());
    if !is_steady {
        out.extend(spread.min.to_le_bytes());
        out.extend(spread.max.to_le_bytes());
    }
}

/// `None` where the bytes are no sample.
pub(super) fn decode(at_s: u64, bytes: &[u8]) -> Option<Sample> {
    let mut rest = Bytes(bytes);
    if rest.byte()? != VERSION {
        return None;
    }
    let mut sample = Sample::at(at_s);
    for _ in 0..rest.byte()? {
        let (number, spread) = rest.spread()?;
        if let Some(figure) = Figure::of_number(number) {
            sample.add(figure, spread);
        }
    }
    let n_steps = usize::from(u16::from_le_bytes(rest.array()?));
    if n_steps > WAIT_STEPS {
        return None;
    }
    for _ in 0..n_steps {
        let step = u16::from_le_bytes(rest.array()?);
        let count = u32::from_le_bytes(rest.array()?);
        sample.waits.add(usize::from(step), count);
    }
    let (each, n_cells) = (rest.byte()?, usize::from(rest.byte()?));
    let weight = f32::from_le_bytes(rest.array()?);
    let percent = rest.take(n_cells)?;
    if n_cells > CORES_SHOWN_MAX || !weight.is_finite() {
        return None;
    }
    sample.cores = Cores {
        each,
        percent: percent.iter().map(|one| (*one).min(100)).collect(),
        weight,
    };
    let n_processes = usize::from(rest.byte()?);
    if n_processes > PROCESSES_MAX {
        return None;
    }
    for _ in 0..n_processes {
        let length = usize::from(rest.byte()?);
        let name = std::str::from_utf8(rest.take(length)?).ok()?;
        let (_, spread) = rest.spread()?;
        sample.add_process(name, spread);
    }
    Some(sample)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n_bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n_bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    fn float(&mut self) -> Option<f32> {
        self.array().map(f32::from_le_bytes)
    }

    fn spread(&mut self) -> Option<(u8, Spread)> {
        let tag = self.byte()?;
        let (weight, mean) = (self.float()?, self.float()?);
        let (min, max) = match tag & IS_STEADY {
            0 => (self.float()?, self.float()?),
            _ => (mean, mean),
        };
        let spread = Spread {
            weight,
            min,
            mean,
            max,
        };
        Some((tag & !IS_STEADY, spread))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sample::Waits;

    fn full() -> Sample {
        let mut sample = Sample::at(1_790_000_000);
        for (n, figure) in Figure::ALL.iter().enumerate() {
            sample.add(*figure, Spread::of(n as f64));
            if n % 2 == 0 {
                sample.add(*figure, Spread::weighted(1e10, 0.5));
            }
        }
        sample.waits.add(Waits::step_of(0.2), 7);
        sample.waits.add(WAIT_STEPS - 1, u32::MAX);
        sample.cores = Cores::of(&[0.1, 0.9, 1.0]);
        sample.add_process("qwen3:4b", Spread::of(2e9));
        sample
    }

    #[test]
    fn a_sample_comes_back_as_it_was() {
        for sample in [full(), Sample::at(9)] {
            assert_eq!(decode(sample.at_s, &encode(&sample)), Some(sample));
        }
    }

    /// Whatever the bytes are, reading them ends, and what is read has no infinities.
    #[test]
    fn bytes_that_are_no_sample_are_none() {
        let whole = encode(&full());
        for length in 0..whole.len() {
            assert_eq!(decode(1, &whole[..length]), None, "{length}");
        }
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..=(round % 4) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = state as usize % bytes.len();
                bytes[at] = (state >> 40) as u8;
            }
            if let Some(sample) = decode(1, &bytes) {
                let spreads = Figure::ALL.iter().filter_map(|one| sample.get(*one));
                for spread in spreads {
                    assert!(spread.mean.is_finite() && spread.max.is_finite());
                }
            }
        }
    }
}
