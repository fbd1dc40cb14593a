//! Generation token by token, by the static-shape program `next_token`.

use super::session::{Session, SessionError};
use crate::config::Architecture;
use crate::ir::Literal;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0 takes the most probable token.
    pub temperature: f64,
    /// Only the k most probable; 0 is all.
    pub top_k: usize,
    pub seed: u64,
}

/// Text cannot be generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error("the prompt has {found} tokens, the model takes {limit}; shorten it")]
    LongPrompt { found: usize, limit: usize },
    #[error("temperature must be finite and at least 0, found {found}")]
    Temperature { found: f64 },
    #[error("the model's logits at position {position} are not finite; the checkpoint is not usable")]
    NotFinite { position: usize },
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// A prompt and what has been generated from it.
pub struct Generator {
    session: Session,
    inputs: Option<Vec<i32>>,
    /// Prompt of a causal model, then what was generated, then padding.
    targets: Vec<i32>,
    position: usize,
    eos: u32,
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Generator {
    /// `session` holds the parameters of a model compiled for one sequence.
    pub fn new(
        session: Session,
        prompt: &[u32],
        eos: u32,
        sampling: Sampling,
    ) -> Result<Self, GenerateError> {
        if !(sampling.temperature.is_finite() && sampling.temperature >= 0.0) {
            return Err(GenerateError::Temperature { found: sampling.temperature });
        }
        let config = &session.artifact().manifest.config;
        let sizes = &config.batch;
        let mut targets = vec![0; sizes.target_length];
        let (inputs, position) = match config.model.architecture {
            Architecture::EncoderDecoder => {
                let mut tokens = prompt.to_vec();
                tokens.push(eos);
                (Some(padded(&tokens, sizes.input_length)?), 0)
            }
            Architecture::DecoderOnly => {
                targets = padded(prompt, sizes.target_length)?;
                (None, prompt.len())
            }
        };
        let rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        Ok(Self { session, inputs, targets, position, eos, sampling, rng })
    }

    /// Generates until the end-of-sequence token, at most `limit` tokens or until the target is full.
    pub fn run(&mut self, limit: usize) -> Result<Vec<u32>, GenerateError> {
        let mut tokens = vec![];
        while tokens.len() < limit && self.position < self.targets.len() {
            let token = self.next()?;
            self.targets[self.position] = token as i32;
            self.position += 1;
            if token == self.eos {
                break;
            }
            tokens.push(token);
        }
        Ok(tokens)
    }

    fn next(&mut self) -> Result<u32, GenerateError> {
        let row = |tokens: &[i32]| Literal::new([1, tokens.len()], tokens);
        let mut named = vec![("position".into(), Literal::scalar(self.position as i32))];
        let rows = [("inputs", self.inputs.as_deref()), ("targets", Some(&self.targets[..]))];
        for (name, tokens) in rows {
            // The count is that of the shape.
            named.extend(tokens.and_then(|t| row(t).ok()).map(|literal| (name.to_string(), literal)));
        }
        let outputs = self.session.run("next_token", named)?;
        let logits = outputs.first().map(|(_, logits)| logits.to_f64()).unwrap_or_default();
        if logits.is_empty() || logits.iter().any(|x| x.is_nan()) {
            return Err(GenerateError::NotFinite { position: self.position });
        }
        Ok(choose(&logits, self.sampling, &mut self.rng))
    }
}

fn padded(tokens: &[u32], length: usize) -> Result<Vec<i32>, GenerateError> {
    if tokens.len() > length {
        return Err(GenerateError::LongPrompt { found: tokens.len(), limit: length });
    }
    let mut row: Vec<i32> = tokens.iter().map(|&t| t as i32).collect();
    row.resize(length, 0);
    Ok(row)
}

/// The index of a token: the greatest logit (the lowest index of equals), or a draw from the softmax at the temperature. Padding
/// (0) is never drawn.
fn choose(logits: &[f64], sampling: Sampling, rng: &mut impl Rng) -> u32 {
    let mut order: Vec<usize> = (1..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let Some(&best) = order.first() else { return 0 };
    if sampling.temperature == 0.0 {
        return best as u32;
    }
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let weight = |&i: &usize| ((logits[i] - logits[best]) / sampling.temperature).exp();
    let total: f64 = order.iter().map(weight).sum();
    let mut left = rng.random::<f64>() * total;
    for i in &order {
        left -= weight(i);
        if left <= 0.0 {
            return *i as u32;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(logits: &[f64], temperature: f64, top_k: usize, seed: u64) -> u32 {
        let sampling = Sampling { temperature, top_k, seed };
        choose(logits, sampling, &mut ChaCha8Rng::seed_from_u64(seed))
    }

    #[test]
    fn greedy_choice_takes_the_lowest_of_equal_logits_and_never_padding() {
        assert_eq!(draw(&[9.0, 1.0, 3.0, 3.0], 0.0, 0, 0), 2);
    }

    #[test]
    fn top_1_sampling_is_greedy_at_any_temperature() {
        assert!((0..50).all(|seed| draw(&[0.0, 1.0, 3.0, 2.0], 5.0, 1, seed) == 2));
    }

    #[test]
    fn samples_follow_the_softmax() {
        // Odds of e^0 : e^ln(3) = 1 : 3.
        let hits = (0..4000).filter(|&seed| draw(&[0.0, 0.0, 3f64.ln()], 1.0, 0, seed) == 2).count();
        assert!((2850..3150).contains(&hits), "{hits} of 4000, expected 3000");
    }

    #[test]
    fn a_long_prompt_is_refused() {
        assert!(matches!(padded(&[1, 2, 3], 2), Err(GenerateError::LongPrompt { found: 3, limit: 2 })));
    }
}
