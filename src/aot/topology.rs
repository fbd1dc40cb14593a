//! Topologies by name: `v5e:4x4` is 16 chips of kind v5e, four by four.

use super::chip::{Chip, TPUS};
use std::fmt;
use std::str::FromStr;

/// A slice of chips.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    pub chip: &'static Chip,
    /// Chips along each dimension.
    pub dims: Vec<usize>,
}

/// A name is no topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    #[error("topology `{0}`: expected KIND:AxB or KIND:AxBxC, such as v5e:4x4")]
    Form(String),
    #[error("topology `{name}`: there is no chip `{chip}`; chips are {}", chip_names())]
    Chip { name: String, chip: String },
    #[error("topology `{name}`: {chip} has {expected} dimensions, found {found}; `{chip}:{}` is the smallest", ones(*expected))]
    Dimensions { name: String, chip: &'static str, expected: usize, found: usize },
}

fn chip_names() -> String {
    TPUS.iter().map(|chip| chip.name).collect::<Vec<_>>().join(", ")
}

fn ones(count: usize) -> String {
    vec!["1"; count].join("x")
}

impl Topology {
    /// Devices as the compiler counts them.
    pub fn num_devices(&self) -> usize {
        self.num_chips() * self.chip.devices
    }

    pub fn num_chips(&self) -> usize {
        self.dims.iter().product()
    }

    /// Options that the compiler needs besides the name: a v4 chip is one device only where it is asked for.
    pub fn options(&self) -> Vec<(&'static str, &'static str)> {
        if self.chip.name == "v4" { vec![("chip_config_name", "megacore")] } else { vec![] }
    }
}

impl FromStr for Topology {
    type Err = TopologyError;

    fn from_str(name: &str) -> Result<Self, TopologyError> {
        let form = || TopologyError::Form(name.into());
        let (kind, sizes) = name.split_once(':').ok_or_else(form)?;
        let size = |text: &str| text.parse().ok().filter(|n| (1..=4096).contains(n)).ok_or_else(form);
        let dims = sizes.split('x').map(size).collect::<Result<Vec<usize>, _>>()?;
        let chip = TPUS.iter().find(|chip| chip.name == kind);
        let chip = chip.ok_or_else(|| TopologyError::Chip { name: name.into(), chip: kind.into() })?;
        if dims.len() != chip.dimensions {
            let (expected, found) = (chip.dimensions, dims.len());
            return Err(TopologyError::Dimensions { name: name.into(), chip: chip.name, expected, found });
        }
        Ok(Self { chip, dims })
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(usize::to_string).collect();
        write!(f, "{}:{}", self.chip.name, dims.join("x"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        for (name, chips, devices) in [("v5e:4x4", 16, 16), ("v5p:2x2x2", 8, 8), ("tpu7x:2x2x1", 4, 8)] {
            let topology: Topology = name.parse().unwrap();
            assert_eq!(topology.to_string(), name);
            assert_eq!((topology.num_chips(), topology.num_devices()), (chips, devices));
        }
    }

    #[test]
    fn what_is_no_topology_is_refused_with_what_would_be() {
        let refusal = |name: &str| name.parse::<Topology>().unwrap_err().to_string();
        for name in ["", "v5e", "v5e:", "v5e:4", "v5e:0x4", "v5e:4x-1", "v5e:99999x1", "v5e:4x4x"] {
            assert!(refusal(name).contains(name), "{name}");
        }
        assert!(refusal("trillium:2x2").contains("chips are v4, v5e, v5p, v6e, tpu7x"));
        assert!(refusal("v5p:2x2").contains("v5p has 3 dimensions, found 2; `v5p:1x1x1` is the smallest"));
    }
}
