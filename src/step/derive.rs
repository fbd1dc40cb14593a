//! What follows from the state and is kept beside it on the devices.

use super::program::{Assembly, Output};
use super::state::optimizer;
use super::train::trained;
use crate::build::BuildError;
use crate::optim;

/// Parameters -> their mean squares, where the target keeps them.
pub(super) fn build(a: &mut Assembly) -> Result<Vec<Output>, BuildError> {
    let params = a.params()?;
    let layout = a.layout;
    let values = trained(&layout.held, &params);
    let found = optim::take_mean_squares(&mut a.b, &optimizer(a.config), &layout.specs, &values)?;
    let named = layout.mean_squares.iter().zip(found);
    Ok(named.map(|(slot, value)| Output::Derived(slot.name.clone(), value)).collect())
}
