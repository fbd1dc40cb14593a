//! Span corruption: the T5 objective with lengths that fill static shapes.

use super::error::DataError;
use super::random::random_lengths;
use crate::config::{SpanLengths, span_corruption_lengths};
use rand_chacha::rand_core::Rng;

/// Returns the longest example whose corrupted form fits `input_length` tokens, eos included.
///
/// Errors: [`DataError::Setting`] for a density outside (0, 1), a mean below 1, or an input length that holds nothing.
pub(super) fn lengths(
    input_length: usize,
    noise_density: f64,
    mean_span: f64,
) -> Result<SpanLengths, DataError> {
    if !(noise_density > 0.0 && noise_density < 1.0) {
        return Err(DataError::setting("noise_density", "between 0 and 1, such as 0.15", noise_density));
    }
    if !(mean_span >= 1.0 && mean_span.is_finite()) {
        return Err(DataError::setting("mean_span_length", "at least 1, such as 3", mean_span));
    }
    if !(3..=1 << 30).contains(&input_length) {
        return Err(DataError::setting("input_length", "between 3 and 1073741824", input_length));
    }
    Ok(span_corruption_lengths(input_length, noise_density, mean_span))
}

/// An example after corruption; both sides end in eos.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Corrupted {
    pub(super) inputs: Vec<u32>,
    pub(super) targets: Vec<u32>,
}

/// Corrupts `tokens` (at least 2): text and noise alternate, beginning with text and ending in noise.
///
/// `sentinel(n)` stands for span `n` in the inputs and precedes its tokens in the targets.
pub(super) fn corrupt(
    tokens: &[u32],
    noise_density: f64,
    mean_span: f64,
    rng: &mut impl Rng,
    sentinel: impl Fn(usize) -> u32,
    eos: u32,
) -> Corrupted {
    let lengths = SpanLengths::of(tokens.len(), noise_density, mean_span);
    let noise = lengths.noise_tokens;
    let noise_spans = random_lengths(rng, noise, lengths.spans);
    let text_spans = random_lengths(rng, tokens.len() - noise, lengths.spans);
    let mut out = Corrupted {
        inputs: Vec::with_capacity(lengths.inputs),
        targets: Vec::with_capacity(lengths.targets),
    };
    let mut rest = tokens;
    for (n, (text, noise)) in text_spans.into_iter().zip(noise_spans).enumerate() {
        let (kept, after) = rest.split_at(text);
        let (corrupted, after) = after.split_at(noise);
        out.inputs.extend_from_slice(kept);
        out.inputs.push(sentinel(n));
        out.targets.push(sentinel(n));
        out.targets.extend_from_slice(corrupted);
        rest = after;
    }
    out.inputs.push(eos);
    out.targets.push(eos);
    out
}

#[cfg(test)]
mod tests {
    use super::super::random::{Purpose, rng};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_those_of_t5() {
        // 70 tokens: round(10.5) = 10 noise, round(10 / 3) = 3 spans; 60 + 3 + 1 = 64 and 10 + 3 + 1 = 14.
        // 71 tokens: round(10.65) = 11 noise, round(3.67) = 4 spans; 60 + 4 + 1 = 65 is too long.
        for (input, tokens, targets) in
            [(64, 70, 14), (128, 141, 29), (256, 284, 58), (512, 568, 114), (1024, 1137, 229)]
        {
            let found = lengths(input, 0.15, 3.0).unwrap();
            assert_eq!((found.tokens, found.inputs, found.targets), (tokens, input, targets));
        }
    }

    #[test]
    fn shortest_example_has_two_tokens() {
        // 1 kept + 1 sentinel + eos = 3.
        let found = lengths(3, 0.15, 3.0).unwrap();
        assert_eq!((found.tokens, found.targets, found.spans), (2, 3, 1));
        assert!(lengths(2, 0.15, 3.0).is_err());
    }

    #[test]
    fn impossible_noise_is_refused() {
        for (density, span) in [(0.0, 3.0), (1.0, 3.0), (f64::NAN, 3.0), (0.15, 0.5), (0.15, f64::INFINITY)] {
            assert!(lengths(64, density, span).is_err(), "{density} {span}");
        }
    }

    /// Puts the spans of the targets back in place of the sentinels of the inputs.
    fn restore(inputs: &[u32], targets: &[u32], first_sentinel: u32) -> Vec<u32> {
        let span = |sentinel: u32| {
            let start = targets.iter().position(|&t| t == sentinel).unwrap() + 1;
            targets[start..targets.len() - 1].iter().copied().take_while(|&t| t < first_sentinel)
        };
        let mut out = vec![];
        for &token in &inputs[..inputs.len() - 1] {
            if token < first_sentinel { out.push(token) } else { out.extend(span(token)) }
        }
        out
    }

    proptest! {
        #[test]
        fn putting_the_spans_back_gives_the_raw_tokens(
            input_length in 3usize..600, density in 0.01f64..0.95, mean in 1.0f64..8.0, key: u64,
        ) {
            let lengths = lengths(input_length, density, mean).unwrap();
            let tokens: Vec<u32> = (0..lengths.tokens as u32).map(|i| 3 + i % 250).collect();
            let sentinel = |n: usize| 1_000_000 - n as u32;
            let out = corrupt(&tokens, density, mean, &mut rng(key, Purpose::Noise, 0, 0), sentinel, 1);
            prop_assert_eq!(out.inputs.len(), lengths.inputs);
            prop_assert_eq!(out.targets.len(), lengths.targets);
            prop_assert!(lengths.inputs <= input_length);
            let longer = SpanLengths::of(lengths.tokens + 1, density, mean);
            prop_assert!(longer.inputs > input_length, "not the longest");
            prop_assert_eq!(out.inputs.last(), Some(&1));
            prop_assert_eq!(restore(&out.inputs, &out.targets, 900_000), tokens);
        }
    }

    #[test]
    fn text_comes_first_and_noise_last() {
        // 7 tokens at density 0.3: round(2.1) = 2 noise, 1 span: five kept, then the last two corrupted.
        let tokens = [10, 11, 12, 13, 14, 15, 16];
        let out = corrupt(&tokens, 0.3, 3.0, &mut rng(0, Purpose::Noise, 0, 0), |_| 99, 1);
        assert_eq!(out.inputs, [10, 11, 12, 13, 14, 99, 1]);
        assert_eq!(out.targets, [99, 15, 16, 1]);
    }
}
