//! Generation token by token, by the static-shape programs `prefill` and `decode_step`.

use super::session::{Named, Session, SessionError};
use crate::config::{Architecture, DecoderInputs};
use crate::ir::{Element, Literal, LiteralError};
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
    #[error("there are {found} prompts, the program takes from 1 to {rows}")]
    Prompts { found: usize, rows: usize },
    #[error("the prompt is empty; this model continues at least one token")]
    EmptyPrompt,
    #[error("the prompt has {found} tokens, the model takes {limit}; shorten it")]
    LongPrompt { found: usize, limit: usize },
    #[error("temperature must be finite and at least 0, found {found}")]
    Temperature { found: f64 },
    #[error("the model's logits at position {position} are not finite; the checkpoint is not usable")]
    NotFinite { position: usize },
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("internal: rows of different lengths")]
    Rows(#[from] LiteralError),
}

/// Sequences that are generated together, one per row of the program's batch. Rows without a prompt of their own do what the
/// last one does.
pub struct Generator {
    session: Session,
    given: Given,
    /// Rows of the program, and those of prompts, which come first.
    rows: usize,
    prompts: usize,
    /// Slot of the next token that the decoder reads.
    slot: usize,
    slots: usize,
    eos: u32,
    sampling: Sampling,
    rng: ChaCha8Rng,
}

/// What is read before the first token is generated.
enum Given {
    /// The encoder's tokens.
    Inputs(Vec<Vec<i32>>),
    /// The decoder's, padded on the left to one width, and 1 where they are real.
    Prompt(Vec<Vec<i32>>, Vec<Vec<f32>>),
}

impl Generator {
    /// `session` holds the parameters of a model compiled for at least as many sequences as there are prompts.
    pub fn new(
        session: Session,
        prompts: &[Vec<u32>],
        eos: u32,
        sampling: Sampling,
    ) -> Result<Self, GenerateError> {
        if !(sampling.temperature.is_finite() && sampling.temperature >= 0.0) {
            return Err(GenerateError::Temperature { found: sampling.temperature });
        }
        let config = &session.artifact().manifest.config;
        let rows = config.batch.sequences_per_microbatch();
        if prompts.is_empty() || prompts.len() > rows {
            return Err(GenerateError::Prompts { found: prompts.len(), rows });
        }
        let all = padded(prompts, rows);
        let slots = config.batch.target_length;
        let (given, slot) = match config.model.architecture {
            Architecture::EncoderDecoder => {
                let pad = config.model.pad_id.unwrap_or(0) as i32;
                let row = |prompt: &Vec<u32>| ended(prompt, eos, config.batch.input_length, pad);
                (Given::Inputs(all.iter().map(row).collect::<Result<_, _>>()?), 0)
            }
            Architecture::DecoderOnly => read_prompts(&all, config.model.decoder_inputs, slots)?,
        };
        let rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        Ok(Self { session, given, rows, prompts: prompts.len(), slot, slots, eos, sampling, rng })
    }

    /// The session, to be used again.
    pub fn into_session(self) -> Session {
        self.session
    }

    /// Generates until every row has ended, at most `limit` tokens each or until the slots are full. What was generated for each
    /// prompt before its end-of-sequence token is returned.
    pub fn run(&mut self, limit: usize) -> Result<Vec<Vec<u32>>, GenerateError> {
        let mut logits = self.prefill()?;
        let mut rows: Vec<Vec<u32>> = vec![vec![]; logits.len()];
        let mut ended = vec![false; rows.len()];
        for count in 1..=limit {
            let mut tokens = vec![];
            for ((row, ended), logits) in rows.iter_mut().zip(&mut ended).zip(&logits) {
                let token = choose(logits, self.sampling, &mut self.rng);
                *ended |= token == self.eos;
                if !*ended {
                    row.push(token);
                }
                tokens.push(if *ended { self.eos } else { token } as i32);
            }
            if count == limit || self.slot == self.slots || ended.iter().all(|ended| *ended) {
                break;
            }
            logits = self.decode(&tokens)?;
        }
        Ok(rows)
    }

    /// Reads what is given: the logits of each prompt's first token.
    fn prefill(&mut self) -> Result<Vec<Vec<f64>>, GenerateError> {
        match &self.given {
            Given::Inputs(rows) => {
                let named = vec![("inputs".into(), matrix(rows)?)];
                self.session.run("prefill", named)?;
                self.decode(&[START])
            }
            Given::Prompt(tokens, real) => {
                let named = vec![("prompt".into(), matrix(tokens)?), ("prompt_real".into(), matrix(real)?)];
                let outputs = self.session.run("prefill", named)?;
                self.logits(&outputs)
            }
        }
    }

    /// Reads one token per prompt: the logits of the next.
    fn decode(&mut self, tokens: &[i32]) -> Result<Vec<Vec<f64>>, GenerateError> {
        let tokens = Literal::new([self.rows], &padded(tokens, self.rows))?;
        let slot = Literal::scalar(self.slot as i32);
        let outputs =
            self.session.run("decode_step", vec![("token".into(), tokens), ("slot".into(), slot)])?;
        self.slot += 1;
        self.logits(&outputs)
    }

    /// The rows of the prompts.
    fn logits(&self, outputs: &Named) -> Result<Vec<Vec<f64>>, GenerateError> {
        let logits = outputs.first().map(|(_, logits)| logits.to_f64()).unwrap_or_default();
        let width = self.session.artifact().manifest.config.model.vocab_size;
        if logits.is_empty() || logits.iter().any(|x| x.is_nan()) {
            return Err(GenerateError::NotFinite { position: self.slot });
        }
        Ok(logits.chunks(width).take(self.prompts).map(<[f64]>::to_vec).collect())
    }
}

/// The token that T5's decoder reads first.
const START: i32 = 0;

/// As many rows as asked for: the last one is repeated.
fn padded<T: Clone>(rows: &[T], count: usize) -> Vec<T> {
    let last = rows.last().into_iter().cycle().take(count.saturating_sub(rows.len()));
    rows.iter().chain(last).cloned().collect()
}

/// A row of the encoder: the prompt, the end of the sequence, padding.
fn ended(prompt: &[u32], eos: u32, length: usize, pad: i32) -> Result<Vec<i32>, GenerateError> {
    let mut row: Vec<i32> = prompt.iter().chain([&eos]).map(|&t| t as i32).collect();
    fits(row.len(), length)?;
    row.resize(length, pad);
    Ok(row)
}

fn matrix<T: Element>(rows: &[Vec<T>]) -> Result<Literal, LiteralError> {
    let width = rows.first().map_or(0, Vec::len);
    Literal::new([rows.len(), width], &rows.concat())
}

fn fits(found: usize, limit: usize) -> Result<(), GenerateError> {
    if found > limit { Err(GenerateError::LongPrompt { found, limit }) } else { Ok(()) }
}

/// The prompts as a decoder alone reads them, and the slot behind them.
fn read_prompts(
    prompts: &[Vec<u32>],
    inputs: DecoderInputs,
    slots: usize,
) -> Result<(Given, usize), GenerateError> {
    let start = match inputs {
        DecoderInputs::ShiftRight => vec![START],
        DecoderInputs::Tokens => vec![],
    };
    let read = |prompt: &Vec<u32>| -> Vec<i32> {
        start.iter().copied().chain(prompt.iter().map(|&t| t as i32)).collect()
    };
    let rows: Vec<Vec<i32>> = prompts.iter().map(read).collect();
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    fits(width - start.len().min(width), slots - start.len())?;
    if rows.iter().any(Vec::is_empty) {
        return Err(GenerateError::EmptyPrompt);
    }
    // Rows end at the same slot.
    let padded = |row: &Vec<i32>| [vec![0; width - row.len()], row.clone(), vec![0; slots - width]].concat();
    let real = |row: &Vec<i32>| -> Vec<f32> {
        let before = width - row.len();
        (0..slots).map(|slot| if (before..width).contains(&slot) { 1.0 } else { 0.0 }).collect()
    };
    let given = Given::Prompt(rows.iter().map(padded).collect(), rows.iter().map(real).collect());
    Ok((given, width))
}

/// The index of a token: the greatest logit (the lowest index of equals), or a draw from the softmax at the temperature.
fn choose(logits: &[f64], sampling: Sampling, rng: &mut impl Rng) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
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
    fn greedy_choice_takes_the_lowest_of_equal_logits() {
        assert_eq!(draw(&[0.0, 1.0, 3.0, 3.0], 0.0, 0, 0), 2);
    }

    #[test]
    fn top_1_sampling_is_greedy_at_any_temperature() {
        assert!((0..50).all(|seed| draw(&[0.0, 1.0, 3.0, 2.0], 5.0, 1, seed) == 2));
    }

    #[test]
    fn samples_follow_the_softmax() {
        // Odds of e^0 : e^ln(3) = 1 : 3.
        let hits = (0..4000).filter(|&seed| draw(&[0.0, 3f64.ln()], 1.0, 0, seed) == 1).count();
        assert!((2850..3150).contains(&hits), "{hits} of 4000, expected 3000");
    }

    #[test]
    fn a_long_prompt_is_refused() {
        assert!(matches!(ended(&[1, 2], 1, 2, 0), Err(GenerateError::LongPrompt { found: 3, limit: 2 })));
        let read = |inputs, slots| read_prompts(&[vec![3, 4], vec![5]], inputs, slots).map(|(_, slot)| slot);
        assert!(matches!(
            read(DecoderInputs::Tokens, 1),
            Err(GenerateError::LongPrompt { found: 2, limit: 1 })
        ));
        // Token 0 takes a slot of its own.
        let refused = read(DecoderInputs::ShiftRight, 2);
        assert!(matches!(refused, Err(GenerateError::LongPrompt { found: 2, limit: 1 })));
        assert_eq!(read(DecoderInputs::ShiftRight, 3).unwrap(), 3);
    }

    #[test]
    fn prompts_end_at_the_same_slot() {
        let (given, slot) = read_prompts(&[vec![3, 4], vec![5]], DecoderInputs::ShiftRight, 4).unwrap();
        let Given::Prompt(tokens, real) = given else { panic!("a prompt") };
        assert_eq!((tokens, slot), (vec![vec![0, 3, 4, 0], vec![0, 0, 5, 0]], 3));
        assert_eq!(real, [[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]]);
    }
}
