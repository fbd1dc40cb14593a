//! Modules written by hand, for whatever backend, and what they give.

use switchyard::runtime::{DeviceBuffer, RuntimeError};

pub const ADD: &str = "HloModule add
ENTRY main {
  x = f32[3] parameter(0)
  y = f32[3] parameter(1)
  ROOT sum = f32[3] add(x, y)
}";

/// Its first argument becomes its first result in place.
pub const STEP: &str = "HloModule step, input_output_alias={ {0}: (0, {}, may-alias) }
ENTRY main {
  state = f32[4] parameter(0)
  by = f32[] parameter(1)
  wide = f32[4] broadcast(by), dimensions={}
  next = f32[4] add(state, wide)
  ROOT r = (f32[4], f32[]) tuple(next, by)
}";

pub fn values(buffer: &DeviceBuffer) -> Vec<f32> {
    buffer.download().unwrap().to_vec().unwrap()
}

pub fn error<T>(result: Result<T, RuntimeError>) -> String {
    result.err().expect("an error was expected").to_string()
}
