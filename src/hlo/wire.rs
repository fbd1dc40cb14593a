//! Reading and writing modules as files: binary protos or text, told apart by content.

use super::parse::{TextError, parse};
use super::proto::{HloModuleProto, HloProto};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Most instructions a binary module may have; a decoded instruction takes about a kilobyte of memory.
pub const MAX_INSTRUCTIONS: usize = 1 << 20;
/// Most bytes a module may have.
pub const MAX_BYTES: usize = 1 << 30;

/// A file is not a readable module.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("hlo module: not a valid HloModuleProto")]
    Proto(#[source] prost::DecodeError),
    #[error("hlo module: neither HLO text (which starts with `HloModule`) nor a proto with computations")]
    NotAModule,
    #[error("hlo module: {found} instructions, at most {MAX_INSTRUCTIONS} are read")]
    TooManyInstructions { found: usize },
    #[error("hlo module: {found} bytes, at most {MAX_BYTES} are read")]
    TooLarge { found: usize },
    #[error(transparent)]
    Text(#[from] TextError),
}

/// The bytes of a module, the same for equal modules.
pub fn encode(module: &HloModuleProto) -> Vec<u8> {
    module.encode_to_vec()
}

/// Reads a module from HLO text, an `HloModuleProto`, or an `HloProto` as XLA dumps it.
///
/// Errors: [`ReadError`] that says what is wrong; nothing is trusted, and memory stays in proportion to the input.
pub fn read_module(bytes: &[u8]) -> Result<HloModuleProto, ReadError> {
    if bytes.len() > MAX_BYTES {
        return Err(ReadError::TooLarge { found: bytes.len() });
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if looks_like_text(text) => Ok(parse(text)?),
        _ => decode(bytes),
    }
}

/// Text starts with `HloModule`, after comments or blanks.
fn looks_like_text(text: &str) -> bool {
    let start = text.trim_start();
    start.starts_with("HloModule") || start.starts_with("//") || start.starts_with("/*")
}

/// Reads an `HloModuleProto`, or an `HloProto` as XLA dumps it. Errors: as [`read_module`].
pub fn decode(bytes: &[u8]) -> Result<HloModuleProto, ReadError> {
    limit_instructions(bytes)?;
    let plain = HloModuleProto::decode(bytes);
    if let Ok(module) = &plain
        && !module.computations.is_empty()
    {
        return plain.map_err(ReadError::Proto);
    }
    let wrapped = HloProto::decode(bytes).ok().and_then(|p| p.hlo_module);
    match (wrapped, plain) {
        (Some(module), _) if !module.computations.is_empty() => Ok(module),
        (_, Err(error)) => Err(ReadError::Proto(error)),
        (_, Ok(_)) => Err(ReadError::NotAModule),
    }
}

/// Refuses a file whose decoded form would be far larger than the file: an empty instruction is two bytes.
fn limit_instructions(bytes: &[u8]) -> Result<(), ReadError> {
    let found = count_instructions(bytes).max(nested(bytes, 1).map(count_instructions).sum());
    if found > MAX_INSTRUCTIONS {
        return Err(ReadError::TooManyInstructions { found });
    }
    Ok(())
}

fn count_instructions(module: &[u8]) -> usize {
    nested(module, 3).map(|computation| 1 + nested(computation, 2).count()).sum()
}

/// The length-delimited fields of this number, as far as the message can be walked.
fn nested(mut rest: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        loop {
            let (tag, wire) = decode_key(&mut rest).ok()?;
            if wire != WireType::LengthDelimited {
                skip_field(wire, tag, &mut rest, DecodeContext::default()).ok()?;
                continue;
            }
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            let (field, after) = rest.split_at_checked(length)?;
            rest = after;
            if tag == number {
                return Some(field);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::proto::{HloComputationProto, HloInstructionProto};
    use super::*;

    fn module() -> HloModuleProto {
        let computation = HloComputationProto {
            instructions: vec![HloInstructionProto { id: 7, ..Default::default() }],
            ..Default::default()
        };
        HloModuleProto { name: "m".into(), computations: vec![computation], ..Default::default() }
    }

    #[test]
    fn plain_and_wrapped_protos_are_read() {
        let plain = encode(&module());
        assert_eq!(read_module(&plain).unwrap(), module());
        let wrapped = HloProto { hlo_module: Some(module()) }.encode_to_vec();
        assert_eq!(read_module(&wrapped).unwrap(), module());
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        assert!(matches!(read_module(b""), Err(ReadError::NotAModule)));
        assert!(matches!(read_module(&[0xff; 40]), Err(ReadError::Proto(_))));
        assert!(matches!(read_module(b"HloModule m, ???"), Err(ReadError::Text(_))));
    }

    #[test]
    fn a_small_file_of_very_many_instructions_is_refused_before_decoding() {
        // Field 3 (computation) of n bytes that are all `field 2, length 0`: an empty instruction.
        let body: Vec<u8> = [0x12, 0x00].repeat(MAX_INSTRUCTIONS + 1);
        let mut bytes = vec![0x1a];
        prost::encoding::encode_varint(body.len() as u64, &mut bytes);
        bytes.extend(body);
        assert!(matches!(decode(&bytes), Err(ReadError::TooManyInstructions { .. })));
    }
}
