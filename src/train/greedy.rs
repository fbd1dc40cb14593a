//! Exact match by greedy decoding: the model writes each target itself.

use super::evaluate::HeldOutText;
use super::generate::{Generator, Sampling};
use super::session::Session;
use super::{GenerateError, TrainError};
use crate::config::{Architecture, DecoderInputs};
use crate::data::{DataError, Pair};

/// How many targets were written exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GreedyMatch {
    pub exact: usize,
    pub pairs: usize,
}

impl GreedyMatch {
    /// The share of them.
    pub fn share(self) -> f64 {
        self.exact as f64 / self.pairs.max(1) as f64
    }
}

/// Generates the targets of held-out pairs, at most so many (at least one), and counts those that are right to the last token
/// and end there.
///
/// `session` holds the parameters of a model with the programs `prefill` and `decode_step`.
///
/// Errors: [`TrainError::NoHeldOut`] if there is no pair; those of reading and of generating.
pub fn greedy_match(
    mut session: Session,
    text: &HeldOutText,
    most: usize,
) -> Result<GreedyMatch, TrainError> {
    let (room, eos) = (Room::new(&session), text.corpus().tokenizer().eos());
    let mut pairs = text.batches(1).pairs().take(most.max(1)).peekable();
    let mut found = GreedyMatch { exact: 0, pairs: 0 };
    while pairs.peek().is_some() {
        let batch = room.batch(&mut pairs)?;
        let (next, exact) = exact(session, &batch, eos)?;
        session = next;
        found.exact += exact;
        found.pairs += batch.len();
    }
    if found.pairs == 0 { Err(TrainError::NoHeldOut) } else { Ok(found) }
}

/// What the programs hold.
struct Room {
    rows: usize,
    slots: usize,
    /// Slots that a prompt takes beside its tokens; `None` where the encoder reads it.
    before: Option<usize>,
}

impl Room {
    fn new(session: &Session) -> Self {
        let config = &session.artifact().manifest.config;
        let before = match (config.model.architecture, config.model.decoder_inputs) {
            (Architecture::EncoderDecoder, _) => None,
            (Architecture::DecoderOnly, DecoderInputs::ShiftRight) => Some(1),
            (Architecture::DecoderOnly, DecoderInputs::Tokens) => Some(0),
        };
        Self { rows: config.batch.sequences_per_microbatch(), slots: config.batch.target_length, before }
    }

    /// Whether the longest target of these pairs has room behind the longest prompt, with which all of them end. The last token
    /// is not read, so it needs no slot.
    fn holds(&self, pairs: &[Pair]) -> bool {
        let longest = |side: fn(&Pair) -> usize| pairs.iter().map(side).max().unwrap_or(0);
        let target = longest(|pair| pair.target.len());
        self.before.is_none_or(|before| before + longest(|pair| pair.input.len()) + target <= self.slots)
    }

    /// The next pairs that are generated together, at least one.
    fn batch(
        &self,
        pairs: &mut std::iter::Peekable<impl Iterator<Item = Result<Pair, DataError>>>,
    ) -> Result<Vec<Pair>, DataError> {
        let mut batch: Vec<Pair> = vec![];
        while batch.len() < self.rows {
            let Some(Ok(next)) = pairs.peek() else { break };
            if !batch.is_empty() && !self.holds(&[&batch[..], std::slice::from_ref(next)].concat()) {
                break;
            }
            batch.extend(pairs.next().transpose()?);
        }
        match pairs.next_if(|next| batch.is_empty() && next.is_err()) {
            Some(Err(error)) => Err(error),
            _ => Ok(batch),
        }
    }
}

/// How many of the targets the model writes.
fn exact(session: Session, pairs: &[Pair], eos: u32) -> Result<(Session, usize), GenerateError> {
    let prompts: Vec<Vec<u32>> = pairs.iter().map(|pair| pair.input.clone()).collect();
    let longest = pairs.iter().map(|pair| pair.target.len()).max().unwrap_or(0);
    let mut generator = Generator::new(session, &prompts, eos, Sampling::default())?;
    // With the end: who has written as much as its target and has not ended writes one token more than that.
    let written = generator.run(longest + 1)?;
    let exact = pairs.iter().zip(&written).filter(|(pair, written)| pair.target == **written).count();
    Ok((generator.into_session(), exact))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of the batches for pairs of so many input and target tokens.
    fn batches(room: &Room, lengths: &[(usize, usize)]) -> Vec<usize> {
        let pair =
            |&(input, target): &(usize, usize)| Ok(Pair { input: vec![5; input], target: vec![6; target] });
        let mut pairs = lengths.iter().map(pair).peekable();
        let mut sizes = vec![];
        while pairs.peek().is_some() {
            sizes.push(room.batch(&mut pairs).unwrap().len());
        }
        sizes
    }

    #[test]
    fn prompts_that_end_together_leave_room_for_the_longest_target() {
        let room = |before| Room { rows: 3, slots: 8, before };
        // 5 + 3 slots; a longer target beside that prompt, or one slot less, begins another batch.
        assert_eq!(batches(&room(Some(0)), &[(5, 3), (2, 3), (1, 1)]), [3]);
        assert_eq!(batches(&room(Some(0)), &[(5, 3), (2, 4), (1, 1)]), [1, 2]);
        assert_eq!(batches(&room(Some(1)), &[(5, 2), (2, 3), (4, 3), (7, 0)]), [1, 2, 1]);
        // An encoder has places of its own.
        assert_eq!(batches(&room(None), &[(8, 8), (1, 7), (8, 1), (3, 3)]), [3, 1]);
    }

    #[test]
    fn an_error_of_reading_comes_after_the_pairs_before_it() {
        let room = Room { rows: 3, slots: 8, before: None };
        let pair = Pair { input: vec![5], target: vec![6] };
        let mut pairs = vec![Ok(pair), Err(DataError::NoTokens)].into_iter().peekable();
        assert_eq!(room.batch(&mut pairs).unwrap().len(), 1);
        assert!(matches!(room.batch(&mut pairs), Err(DataError::NoTokens)));
    }
}
