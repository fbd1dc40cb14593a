//! The folder: `<program>.hlo.pb`, `<program>.hlo.txt`, `manifest.json`.

use super::Artifact;
use super::manifest::{FORMAT_VERSION, Manifest, ProgramSpec};
use crate::hlo::{self, HloModuleProto, ShapeProto};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

pub const MANIFEST_FILE: &str = "manifest.json";
pub const HLO_SUFFIX: &str = "hlo.pb";
pub const TEXT_SUFFIX: &str = "hlo.txt";
/// A manifest is text of some hundred lines per program; more is not one of ours.
const MAX_MANIFEST_BYTES: u64 = 256 << 20;

/// An artifact cannot be written or is not what it claims.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("cannot {action} `{}`", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` is not a manifest: {problem}; write the artifact again with `switchyard compile`", path.display())]
    Manifest { path: PathBuf, problem: String },
    #[error("`{}` is damaged: sha-256 is {found}, the manifest says {expected}; compile again", path.display())]
    Digest { path: PathBuf, expected: String, found: String },
    #[error("`{}` is not a readable HLO module", path.display())]
    Hlo {
        path: PathBuf,
        #[source]
        source: hlo::ReadError,
    },
    #[error("program `{program}`: {problem}; compile again")]
    Signature { program: String, problem: String },
}

impl Artifact {
    /// Writes the folder; existing files of the same names are replaced, the manifest last.
    pub fn write(&self, folder: &Path) -> Result<(), ArtifactError> {
        fs::create_dir_all(folder).map_err(io("create", folder))?;
        let manifest = folder.join(MANIFEST_FILE);
        if manifest.exists() {
            // Until the new manifest stands, the folder must not pass for whole.
            fs::remove_file(&manifest).map_err(io("replace", &manifest))?;
        }
        for (spec, module) in self.manifest.programs.iter().zip(&self.modules) {
            let binary = folder.join(format!("{}.{HLO_SUFFIX}", spec.name));
            fs::write(&binary, hlo::encode(module)).map_err(io("write", &binary))?;
            let text = folder.join(format!("{}.{TEXT_SUFFIX}", spec.name));
            fs::write(&text, hlo::print(module)).map_err(io("write", &text))?;
        }
        let json = serde_json::to_string_pretty(&self.manifest)
            .map_err(|e| ArtifactError::Manifest { path: manifest.clone(), problem: e.to_string() })?;
        fs::write(&manifest, json + "\n").map_err(io("write", &manifest))
    }

    /// Reads a folder and checks digests, signatures and alias tables.
    pub fn read(folder: &Path) -> Result<Artifact, ArtifactError> {
        let manifest = read_manifest(&folder.join(MANIFEST_FILE))?;
        let read = |spec: &ProgramSpec| read_module(folder, spec);
        let modules = manifest.programs.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Artifact { manifest, modules })
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, ArtifactError> {
    let refuse = |problem: String| ArtifactError::Manifest { path: path.into(), problem };
    let size = fs::metadata(path).map_err(io("read", path))?.len();
    if size > MAX_MANIFEST_BYTES {
        return Err(refuse(format!("{size} bytes are more than {MAX_MANIFEST_BYTES}")));
    }
    let json = fs::read_to_string(path).map_err(io("read", path))?;
    let value: serde_json::Value = serde_json::from_str(&json).map_err(|e| refuse(e.to_string()))?;
    let version = value.get("format_version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(FORMAT_VERSION)) {
        let found = version.map_or("none".into(), |v| v.to_string());
        return Err(refuse(format!("format_version must be {FORMAT_VERSION}, found {found}")));
    }
    let manifest: Manifest = serde_path_to_error::deserialize(value)
        .map_err(|e| refuse(format!("{}: {}", e.path(), e.inner())))?;
    manifest.config.validate().map_err(|e| refuse(e.to_string()))?;
    let (replicas, found) = (manifest.config.mesh.num_replicas(), manifest.num_replicas);
    if replicas != found {
        return Err(refuse(format!(
            "num_replicas is {found}, the mesh of the config has {replicas} devices"
        )));
    }
    let digest = manifest.config.digest();
    if digest != manifest.config_digest {
        return Err(refuse(format!("config_digest is {}, the config has {digest}", manifest.config_digest)));
    }
    Ok(manifest)
}

fn read_module(folder: &Path, spec: &ProgramSpec) -> Result<HloModuleProto, ArtifactError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if spec.name.is_empty() || !spec.name.chars().all(plain) {
        let problem = "a name has letters, digits and underscores only".into();
        return Err(ArtifactError::Signature { program: spec.name.clone(), problem });
    }
    let path = folder.join(format!("{}.{HLO_SUFFIX}", spec.name));
    let bytes = fs::read(&path).map_err(io("read", &path))?;
    let found = digest(&bytes);
    if found != spec.hlo_digest {
        return Err(ArtifactError::Digest { path, expected: spec.hlo_digest.clone(), found });
    }
    let module = hlo::decode(&bytes).map_err(|source| ArtifactError::Hlo { path, source })?;
    check_signature(spec, &module)
        .map_err(|problem| ArtifactError::Signature { program: spec.name.clone(), problem })?;
    Ok(module)
}

/// The module takes and returns what the manifest says, and donates what it says.
fn check_signature(spec: &ProgramSpec, module: &HloModuleProto) -> Result<(), String> {
    let shape = module.host_program_shape.as_ref().ok_or("the module has no program shape")?;
    let results = shape.result.as_ref().map_or(&[][..], |r| &r.tuple_shapes);
    check_ports("input", &spec.inputs, &shape.parameters)?;
    check_ports("output", &spec.outputs, results)?;
    let mut expected: Vec<(i64, i64)> = vec![];
    for (i, port) in spec.outputs.iter().enumerate() {
        let Some(input) = port.alias else { continue };
        let source =
            spec.inputs.get(input).ok_or_else(|| format!("output {i} aliases missing input {input}"))?;
        if (&source.dtype, &source.shape) != (&port.dtype, &port.shape) {
            return Err(format!("output `{}` aliases input `{}` of another type", port.name, source.name));
        }
        expected.push((i as i64, input as i64));
    }
    let entries = module.input_output_alias.as_ref().map_or(&[][..], |a| &a.entries);
    let found: Vec<(i64, i64)> = entries
        .iter()
        .map(|e| (e.output_shape_index.first().copied().unwrap_or(-1), e.parameter_number))
        .collect();
    if found != expected {
        return Err("the alias table of the module is not the manifest's".into());
    }
    Ok(())
}

fn check_ports(what: &str, ports: &[super::PortSpec], shapes: &[ShapeProto]) -> Result<(), String> {
    if ports.len() != shapes.len() {
        return Err(format!("{} {what}s in the manifest, {} in the module", ports.len(), shapes.len()));
    }
    for (i, (port, shape)) in ports.iter().zip(shapes).enumerate() {
        let expected = port.ty();
        if expected.is_none() || expected != shape.tensor_type() {
            return Err(format!("{what} {i} `{}` is {} in the module", port.name, shape.brief()));
        }
    }
    Ok(())
}

/// Sha-256 in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> ArtifactError + 'a {
    move |source| ArtifactError::Io { action, path: path.into(), source }
}
