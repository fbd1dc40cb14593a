//! What `compile` leaves on disk: HLO modules and one manifest that says what they are.
//!
//! | file | subject |
//! | --- | --- |
//! | `compile` | a configuration to an [`Artifact`] in memory |
//! | `manifest` | `manifest.json` as types |
//! | `store` | writing and reading a folder; reading trusts nothing |

mod compile;
mod manifest;
mod store;

pub use compile::{CompileError, compile, compile_program, compile_programs, optimized};
pub use manifest::{FORMAT_VERSION, Manifest, MoeLayer, PortSpec, ProgramSpec};
pub use store::{ArtifactError, HLO_SUFFIX, MANIFEST_FILE, TEXT_SUFFIX};

use crate::hlo::HloModuleProto;

/// The programs of one configuration.
#[derive(Clone, Debug)]
pub struct Artifact {
    pub manifest: Manifest,
    /// In the order of `manifest.programs`.
    pub modules: Vec<HloModuleProto>,
}

impl Artifact {
    /// The signature and module of a program, if it is there.
    pub fn program(&self, name: &str) -> Option<(&ProgramSpec, &HloModuleProto)> {
        self.manifest.programs.iter().zip(&self.modules).find(|(spec, _)| spec.name == name)
    }
}
