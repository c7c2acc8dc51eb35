//! Convolutions along the tokens of a sequence, as recurrent families mix them.

/// Gives for each token the products of the weights with what comes in up to it:
/// `put(t, sum over j of weights[j] * row[t + j])`, added up in that order and rounded after
/// each step. `row` starts with what came before the first token, one less than there are
/// weights.
pub fn causal(row: &[f32], weights: &[f32], mut put: impl FnMut(usize, f32)) {
    if weights.is_empty() {
        return;
    }
    for (token, window) in row.windows(weights.len()).enumerate() {
        let products = window.iter().zip(weights).map(|(x, w)| x * w);
        put(token, products.fold(0.0, |sum, product| sum + product));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_sees_what_came_before() {
        let mut sums = Vec::new();
        causal(&[1.0, 2.0, 3.0, 4.0], &[10.0, 1.0], |token, sum| {
            sums.push((token, sum));
        });
        assert_eq!(sums, [(0, 12.0), (1, 23.0), (2, 34.0)]);
        causal(&[1.0], &[10.0, 1.0], |_, _| panic!("no token"));
        causal(&[1.0], &[], |_, _| panic!("no weights"));
    }
}
