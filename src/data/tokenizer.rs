//! Text to token ids and back, with sentinels.

use super::error::DataError;
use crate::config::{BYTES_VOCABULARY, NUM_SENTINELS, TokenizerSpec};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

/// The id that fills unused places of a batch; the loss gives it no weight, whatever the tokenizer.
pub const PAD: u32 = 0;

const BYTES_EOS: u32 = 1;
const BYTE_OFFSET: u32 = 3; // pad, eos, unknown, as in ByT5
const EOS_NAMES: [&str; 7] =
    ["</s>", "<|endoftext|>", "<eos>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "[SEP]"];

/// Turns text into token ids below `vocab_size` and back.
///
/// Sentinel `n` prints as `<extra_id_n>`. In [`encode`](Self::encode) that text is ordinary text; only
/// [`encode_prompt`](Self::encode_prompt) gives it its meaning, so no text of a corpus can forge a sentinel.
pub struct Tokenizer {
    kind: Kind,
    vocab_size: u32,
    eos: u32,
    sentinels: Vec<u32>,
    sentinel_numbers: HashMap<u32, usize>, // looked up only, never iterated
    fingerprint: String,
}

enum Kind {
    Bytes,
    HuggingFace(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// The tokenizer of `spec` with ids below `vocab_size`.
    ///
    /// Errors: [`DataError::VocabTooSmall`] with the size needed; [`DataError::Tokenizer`] or [`DataError::Io`] for
    /// a file that is missing, malformed, or names no token that ends a document.
    pub fn open(spec: &TokenizerSpec, vocab_size: u32) -> Result<Self, DataError> {
        match spec {
            TokenizerSpec::Bytes => Self::bytes(vocab_size),
            TokenizerSpec::HuggingFace { path, eos_token } => {
                Self::hugging_face(Path::new(path), eos_token.as_deref(), vocab_size)
            }
        }
    }

    fn bytes(vocab_size: u32) -> Result<Self, DataError> {
        let needed = BYTES_VOCABULARY as u64;
        if u64::from(vocab_size) < needed {
            let why = format!("{BYTE_OFFSET} special ids, 256 bytes, {NUM_SENTINELS} sentinels");
            return Err(DataError::VocabTooSmall { needed, found: vocab_size.into(), why });
        }
        let sentinels = (0..NUM_SENTINELS as u32).map(|n| vocab_size - 1 - n).collect();
        Ok(Self::new(Kind::Bytes, vocab_size, BYTES_EOS, sentinels, format!("bytes {NUM_SENTINELS}")))
    }

    fn hugging_face(path: &Path, eos_token: Option<&str>, vocab_size: u32) -> Result<Self, DataError> {
        let fail = |reason: String| DataError::Tokenizer { path: path.to_path_buf(), reason };
        let bytes = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| fail(e.to_string()))?;
        // Such settings would cut or fill up a corpus.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| fail(e.to_string()))?;
        inner.set_encode_special_tokens(true);
        let used = inner.get_vocab(true).into_values().max().map_or(0, |id| u64::from(id) + 1);
        if u64::from(vocab_size) < used {
            let why = format!("the highest id in {} is {}", path.display(), used.saturating_sub(1));
            return Err(DataError::VocabTooSmall { needed: used, found: vocab_size.into(), why });
        }
        let eos = find_eos(&inner, eos_token).map_err(fail)?;
        let sentinels = find_sentinels(&inner, used, vocab_size);
        let fingerprint = format!("hugging_face {} {eos}", hex(&Sha256::digest(&bytes)));
        Ok(Self::new(Kind::HuggingFace(Box::new(inner)), vocab_size, eos, sentinels, fingerprint))
    }

    fn new(kind: Kind, vocab_size: u32, eos: u32, sentinels: Vec<u32>, fingerprint: String) -> Self {
        let sentinel_numbers = sentinels.iter().enumerate().map(|(n, &id)| (id, n)).collect();
        Self { kind, vocab_size, eos, sentinels, sentinel_numbers, fingerprint }
    }

    /// All ids are below it.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The id that ends a document.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The id of unused places: [`PAD`].
    pub fn pad(&self) -> u32 {
        PAD
    }

    /// The id of `<extra_id_n>`, or `None` from [`num_sentinels`](Self::num_sentinels) on.
    pub fn sentinel(&self, n: usize) -> Option<u32> {
        self.sentinels.get(n).copied()
    }

    pub fn num_sentinels(&self) -> usize {
        self.sentinels.len()
    }

    /// The `n` of the sentinel with this id.
    pub fn sentinel_number(&self, id: u32) -> Option<usize> {
        self.sentinel_numbers.get(&id).copied()
    }

    /// Names everything that decides the ids, for digests.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The ids of a text, without eos. Errors: [`DataError::Encode`] from a Hugging Face tokenizer; never for bytes.
    ///
    /// Sentinel ids never come out: where a Hugging Face vocabulary would make one from the text, it is left out.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match &self.kind {
            Kind::Bytes => Ok(text.bytes().map(|b| u32::from(b) + BYTE_OFFSET).collect()),
            Kind::HuggingFace(inner) => match inner.encode_fast(text, false) {
                // A vocabulary that lists its sentinels among the words makes them from plain text too.
                Ok(encoding) => {
                    let plain = |id: &u32| self.sentinel_number(*id).is_none();
                    Ok(encoding.get_ids().iter().copied().filter(plain).collect())
                }
                Err(e) => Err(DataError::Encode { reason: e.to_string() }),
            },
        }
    }

    /// The ids of a prompt, without eos: `<extra_id_n>` is a sentinel, the rest is text.
    ///
    /// A number without sentinel stays text. Errors: as [`encode`](Self::encode).
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>, DataError> {
        let mut ids = vec![];
        let mut text_start = 0;
        for (start, _) in prompt.match_indices(SENTINEL_START) {
            if let Some((sentinel, length)) = self.parse_sentinel(&prompt[start..]) {
                ids.extend(self.encode_part(&prompt[text_start..start])?);
                ids.push(sentinel);
                text_start = start + length;
            }
        }
        ids.extend(self.encode_part(&prompt[text_start..])?);
        Ok(ids)
    }

    fn encode_part(&self, text: &str) -> Result<Vec<u32>, DataError> {
        if text.is_empty() { Ok(vec![]) } else { self.encode(text) }
    }

    /// The sentinel at the start of `text` and its length in bytes.
    fn parse_sentinel(&self, text: &str) -> Option<(u32, usize)> {
        let (number, _) = text.strip_prefix(SENTINEL_START)?.split_once('>')?;
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return None; // parse would take a sign
        }
        let id = self.sentinel(number.parse().ok()?)?;
        Some((id, SENTINEL_START.len() + number.len() + 1))
    }

    /// The text of ids: sentinels as `<extra_id_n>`; pad and eos are left out; what is no valid text or no known id
    /// becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        for part in ids.split_inclusive(|&id| self.sentinel_number(id).is_some()) {
            let sentinel = part.last().and_then(|&id| self.sentinel_number(id));
            let plain = if sentinel.is_some() { &part[..part.len() - 1] } else { part };
            text.push_str(&self.decode_plain(plain));
            if let Some(n) = sentinel {
                text.push_str(&format!("{SENTINEL_START}{n}>"));
            }
        }
        text
    }

    fn decode_plain(&self, ids: &[u32]) -> String {
        let shown: Vec<u32> = ids.iter().copied().filter(|&id| id != self.eos && !self.is_pad(id)).collect();
        match &self.kind {
            Kind::Bytes => decode_bytes(&shown),
            Kind::HuggingFace(inner) => match inner.decode(&shown, true) {
                Ok(text) => text,
                Err(_) => char::REPLACEMENT_CHARACTER.to_string(),
            },
        }
    }

    /// Whether id 0 stands for nothing; some Hugging Face vocabularies give it a meaning.
    fn is_pad(&self, id: u32) -> bool {
        id == PAD && matches!(self.kind, Kind::Bytes)
    }
}

const SENTINEL_START: &str = "<extra_id_";

fn decode_bytes(ids: &[u32]) -> String {
    let mut bytes = Vec::with_capacity(ids.len());
    for id in ids {
        match id.checked_sub(BYTE_OFFSET).map(u8::try_from) {
            Some(Ok(byte)) => bytes.push(byte),
            _ => bytes.extend_from_slice("\u{fffd}".as_bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn find_eos(inner: &tokenizers::Tokenizer, named: Option<&str>) -> Result<u32, String> {
    if let Some(token) = named {
        return inner
            .token_to_id(token)
            .ok_or_else(|| format!("eos_token {token:?} is not in the vocabulary"));
    }
    EOS_NAMES.iter().find_map(|name| inner.token_to_id(name)).ok_or_else(|| {
        format!(
            "none of {EOS_NAMES:?} is in the vocabulary; name the token that ends a document as eos_token"
        )
    })
}

/// The tokens `<extra_id_0>`, `<extra_id_1>` and so on if there are any, else the unused ids from the top down.
fn find_sentinels(inner: &tokenizers::Tokenizer, used: u64, vocab_size: u32) -> Vec<u32> {
    let named: Vec<u32> =
        (0..).map_while(|n: u32| inner.token_to_id(&format!("{SENTINEL_START}{n}>"))).collect();
    if !named.is_empty() {
        return named;
    }
    let free = u64::from(vocab_size).saturating_sub(used);
    let count = free.min(NUM_SENTINELS as u64) as u32;
    (0..count).map(|n| vocab_size - 1 - n).collect()
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> Tokenizer {
        Tokenizer::open(&TokenizerSpec::Bytes, 384).unwrap()
    }

    /// Words "a" = 4, "b" = 5, "<" = 6 and so on; with sentinels 7 and 8 if asked.
    fn words(sentinels: bool, vocab_size: u32, eos: &str) -> Result<Tokenizer, DataError> {
        words_ending_in(None, sentinels, vocab_size, eos)
    }

    /// The same; the settings name the end token as `named`, the file has `eos`.
    fn words_ending_in(
        named: Option<&str>,
        sentinels: bool,
        vocab_size: u32,
        eos: &str,
    ) -> Result<Tokenizer, DataError> {
        let added = |id: u32, text: &str| {
            serde_json::json!({"id": id, "content": text, "special": true, "single_word": false,
                               "lstrip": false, "rstrip": false, "normalized": false})
        };
        let mut added_tokens = vec![added(1, eos)];
        if sentinels {
            added_tokens.extend([added(8, "<extra_id_0>"), added(7, "<extra_id_1>")]);
        }
        let mut vocab = serde_json::json!({"<pad>": 0, "<unk>": 2, "the": 3, "a": 4, "b": 5, "<": 6});
        vocab[eos] = 1.into();
        if sentinels {
            (vocab["<extra_id_0>"], vocab["<extra_id_1>"]) = (8.into(), 7.into());
        }
        let json = serde_json::json!({
            "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
            "padding": null, "added_tokens": added_tokens, "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": vocab}
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, json.to_string()).unwrap();
        let (path, eos_token) = (path.to_str().unwrap().to_owned(), named.map(str::to_owned));
        Tokenizer::open(&TokenizerSpec::HuggingFace { path, eos_token }, vocab_size)
    }

    #[test]
    fn bytes_are_offset_by_three_and_sentinels_lie_on_top() {
        let t = bytes();
        assert_eq!(t.encode("A\0").unwrap(), [68, 3]); // 65 + 3, 0 + 3
        assert_eq!((t.pad(), t.eos(), t.vocab_size()), (0, 1, 384));
        assert_eq!((t.sentinel(0), t.sentinel(99), t.sentinel(100)), (Some(383), Some(284), None));
    }

    #[test]
    fn bytes_need_room_for_their_sentinels() {
        // 3 + 256 + 100 = 359.
        assert!(Tokenizer::open(&TokenizerSpec::Bytes, 359).is_ok());
        let error = Tokenizer::open(&TokenizerSpec::Bytes, 358).err().unwrap();
        assert_eq!(
            error.to_string(),
            "tokenizer: vocab_size must be at least 359 (3 special ids, 256 bytes, 100 sentinels), found 358"
        );
    }

    #[test]
    fn prompts_have_sentinels_and_corpora_do_not() {
        let t = bytes();
        assert_eq!(t.encode_prompt("a<extra_id_0>b<extra_id_12>").unwrap(), [100, 383, 101, 371]);
        assert_eq!(t.encode("<extra_id_0>").unwrap().len(), 12);
        // No such sentinel, no number, no end: plain text.
        for text in ["<extra_id_100>", "<extra_id_+1>", "<extra_id_>", "<extra_id_1"] {
            assert_eq!(t.encode_prompt(text).unwrap(), t.encode(text).unwrap(), "{text}");
        }
        assert_eq!(t.encode_prompt("<extra_id_<extra_id_1>").unwrap().len(), 11);
    }

    #[test]
    fn decoding_shows_sentinels_and_replaces_what_is_no_text() {
        let t = bytes();
        let ids = t.encode_prompt("né<extra_id_3>!").unwrap();
        assert_eq!(t.decode(&ids), "né<extra_id_3>!");
        assert_eq!(t.decode(&[100, 1, 0, 0]), "a");
        assert_eq!(t.decode(&[0xc3 + 3, 270, 4_000_000]), "\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(t.decode(&[]), "");
    }

    #[test]
    fn a_tokenizer_file_keeps_its_own_sentinels() {
        let t = words(true, 16, "</s>").unwrap();
        assert_eq!((t.eos(), t.num_sentinels(), t.sentinel(0), t.sentinel(1)), (1, 2, Some(8), Some(7)));
        // The truncation to two tokens that the file asks for is not applied.
        assert_eq!(t.encode("the a b a").unwrap(), [3, 4, 5, 4]);
        assert_eq!(t.encode_prompt("a <extra_id_1> b").unwrap(), [4, 7, 5]);
        assert_eq!(t.encode("a <extra_id_1> b").unwrap().iter().filter(|&&id| id == 7).count(), 0);
        assert_eq!(t.decode(&[4, 8, 5, 1]), "a<extra_id_0>b");
    }

    #[test]
    fn a_tokenizer_file_without_sentinels_gets_the_unused_ids_from_the_top() {
        // Ids 0 to 6 are used: of 10 ids, 9, 8 and 7 are free.
        let t = words(false, 10, "<eos>").unwrap();
        assert_eq!((0..4).map(|n| t.sentinel(n)).collect::<Vec<_>>(), [Some(9), Some(8), Some(7), None]);
        assert_eq!(words(false, 7, "</s>").unwrap().num_sentinels(), 0);
    }

    #[test]
    fn unusable_tokenizer_files_are_refused() {
        assert!(matches!(words(false, 6, "</s>"), Err(DataError::VocabTooSmall { needed: 7, .. })));
        assert!(matches!(words(false, 9, "THE_END"), Err(DataError::Tokenizer { .. })));
        assert_eq!(words_ending_in(Some("THE_END"), false, 9, "THE_END").unwrap().eos(), 1);
        let absent = words_ending_in(Some("END"), false, 9, "</s>").err().unwrap().to_string();
        assert!(absent.ends_with("eos_token \"END\" is not in the vocabulary"), "{absent}");
        let missing = TokenizerSpec::HuggingFace { path: "/no/such/file".into(), eos_token: None };
        assert!(matches!(Tokenizer::open(&missing, 100), Err(DataError::Io { .. })));
    }
}
