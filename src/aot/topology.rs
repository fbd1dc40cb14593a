//! Topologies by name: `v5e:4x4` is 16 TPUs of kind v5e, four by four; `h100:2x8` two hosts of eight GPUs.

use super::card::{CARDS_PER_HOST, GPUS};
use super::chip::{Chip, Kind, TPUS};
use std::fmt;
use std::str::FromStr;

/// Chips that run one program together.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    pub chip: &'static Chip,
    /// Of TPUs the chips along each dimension of the torus; of GPUs the hosts and the cards of each.
    pub dims: Vec<usize>,
}

/// A name is no topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    #[error(
        "topology `{0}`: expected KIND:AxB or KIND:AxBxC of TPUs, such as v5e:4x4, or KIND:N of GPUs, such as h100:8"
    )]
    Form(String),
    #[error(
        "topology `{name}`: there is no chip `{chip}`; TPUs are {}, GPUs are {}",
        names(&TPUS),
        names(&GPUS)
    )]
    Chip { name: String, chip: String },
    #[error("topology `{name}`: {chip} has {expected} dimensions, found {found}; `{chip}:{}` is the smallest", ones(*expected))]
    Dimensions { name: String, chip: &'static str, expected: usize, found: usize },
    #[error(
        "topology `{name}`: a host has {CARDS_PER_HOST} cards at most; several are written as HOSTSxCARDS, such as `{chip}:2x{CARDS_PER_HOST}`"
    )]
    Hosts { name: String, chip: &'static str },
}

fn names(chips: &[Chip]) -> String {
    chips.iter().map(|chip| chip.name).collect::<Vec<_>>().join(", ")
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

    /// Options that the compiler needs besides the name: a v4 chip is one device only where it is asked for, and a GPU
    /// that is not there has to be described.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        match &self.chip.kind {
            Kind::Tpu(_) if self.chip.name == "v4" => vec![("chip_config_name", "megacore".into())],
            Kind::Tpu(_) => vec![],
            Kind::Gpu(card) => {
                let one_slice = self.dims.iter().map(|n| format!("x{n}")).collect::<String>();
                vec![("target_config", card.target_config(self.chip)), ("topology", format!("1{one_slice}"))]
            }
        }
    }
}

impl FromStr for Topology {
    type Err = TopologyError;

    fn from_str(name: &str) -> Result<Self, TopologyError> {
        let form = || TopologyError::Form(name.into());
        let (kind, sizes) = name.split_once(':').ok_or_else(form)?;
        let size = |text: &str| text.parse().ok().filter(|n| (1..=4096).contains(n)).ok_or_else(form);
        let dims = sizes.split('x').map(size).collect::<Result<Vec<usize>, _>>()?;
        let chip = Chip::by_name(kind);
        let chip = chip.ok_or_else(|| TopologyError::Chip { name: name.into(), chip: kind.into() })?;
        let dims = match &chip.kind {
            Kind::Tpu(torus) if dims.len() != torus.dimensions => {
                let (expected, found) = (torus.dimensions, dims.len());
                return Err(TopologyError::Dimensions {
                    name: name.into(),
                    chip: chip.name,
                    expected,
                    found,
                });
            }
            Kind::Tpu(_) => dims,
            Kind::Gpu(_) => hosts(&dims)
                .ok_or_else(|| TopologyError::Hosts { name: name.into(), chip: chip.name })?
                .to_vec(),
        };
        Ok(Self { chip, dims })
    }
}

/// Hosts and the cards of each: `N` cards of one host or of several full ones, or `HOSTSxN`.
fn hosts(sizes: &[usize]) -> Option<[usize; 2]> {
    match *sizes {
        [cards] if cards <= CARDS_PER_HOST => Some([1, cards]),
        [cards] if cards.is_multiple_of(CARDS_PER_HOST) => Some([cards / CARDS_PER_HOST, CARDS_PER_HOST]),
        [hosts, cards] if cards <= CARDS_PER_HOST => Some([hosts, cards]),
        _ => None,
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = match (&self.chip.kind, self.dims.as_slice()) {
            (Kind::Gpu(_), [1, cards @ ..]) => cards,
            (_, dims) => dims,
        };
        let dims: Vec<String> = shown.iter().map(usize::to_string).collect();
        write!(f, "{}:{}", self.chip.name, dims.join("x"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        for (name, chips, devices) in [
            ("v5e:4x4", 16, 16),
            ("v5p:2x2x2", 8, 8),
            ("tpu7x:2x2x1", 4, 8),
            ("h100:1", 1, 1),
            ("b200:8", 8, 8),
            ("a100:4x8", 32, 32),
            ("h200:2x4", 8, 8),
        ] {
            let topology: Topology = name.parse().unwrap();
            assert_eq!(topology.to_string(), name);
            assert_eq!((topology.num_chips(), topology.num_devices()), (chips, devices));
        }
    }

    #[test]
    fn cards_beyond_a_host_are_full_hosts() {
        let topology: Topology = "h100:16".parse().unwrap();
        assert_eq!(topology, "h100:2x8".parse().unwrap());
        assert_eq!(topology.options()[1], ("topology", "1x2x8".into()));
    }

    #[test]
    fn what_is_no_topology_is_refused_with_what_would_be() {
        let refusal = |name: &str| name.parse::<Topology>().unwrap_err().to_string();
        for name in ["", "v5e", "v5e:", "v5e:4", "v5e:0x4", "v5e:4x-1", "v5e:99999x1", "v5e:4x4x", "h100:0"] {
            assert!(refusal(name).contains(name), "{name}");
        }
        let unknown = refusal("trillium:2x2");
        assert!(
            unknown.contains("TPUs are v4, v5e, v5p, v6e, tpu7x, GPUs are a100-40, a100, h100"),
            "{unknown}"
        );
        assert!(refusal("v5p:2x2").contains("v5p has 3 dimensions, found 2; `v5p:1x1x1` is the smallest"));
        for name in ["h100:12", "h100:2x16", "h100:1x2x8"] {
            assert!(refusal(name).contains("a host has 8 cards at most"), "{name}");
        }
    }
}
