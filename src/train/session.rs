//! A model on a device: compiled programs, and the state that stays there between calls.

use crate::artifact::{Artifact, PortSpec, ProgramSpec};
use crate::hlo;
use crate::ir::{Literal, TensorType};
use crate::runtime::{
    Argument, Backend, CompileOptions, DeviceBuffer, DeviceMemory, Executable, RuntimeError,
};
use crate::step::Role;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A program cannot be run on what is at hand.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the artifact has no program `{name}`; it has {}", found.join(", "))]
    NoProgram { name: String, found: Vec<String> },
    #[error("program `{program}` needs an input `{name}` of type {ty}, which was not given")]
    MissingInput { program: String, name: String, ty: String },
    #[error("program `{program}` takes no input `{name}`; it takes {}", allowed.join(", "))]
    UnknownInput { program: String, name: String, allowed: Vec<String> },
    #[error("program `{program}`: input `{name}` must be {expected}, found {found}")]
    InputType { program: String, name: String, expected: String, found: TensorType },
    #[error("an input is malformed: {0}")]
    Input(String),
    #[error("`{name}` of the state holds numbers that are not finite; the run has diverged")]
    NotFinite { name: String },
    #[error("there is no state yet: initialise or restore it first")]
    NoState,
    #[error("program `{program}`")]
    Runtime {
        program: String,
        #[source]
        source: RuntimeError,
    },
}

/// Named host values.
pub type Named = Vec<(String, Literal)>;

/// An artifact with a backend to run it on.
pub struct Session {
    backend: Box<dyn Backend>,
    artifact: Artifact,
    executables: BTreeMap<String, Box<dyn Executable>>,
    state: BTreeMap<String, DeviceBuffer>,
    compile_time: Duration,
}

impl Session {
    pub fn new(backend: Box<dyn Backend>, artifact: Artifact) -> Self {
        Self {
            backend,
            artifact,
            executables: BTreeMap::new(),
            state: BTreeMap::new(),
            compile_time: Duration::ZERO,
        }
    }

    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// The memory of the first device, where the runtime counts it.
    pub fn device_memory(&self) -> Option<DeviceMemory> {
        self.backend.memory(0)
    }

    /// Time spent in the XLA compiler so far.
    pub fn compile_time(&self) -> Duration {
        self.compile_time
    }

    /// Names and types of the training state, in order.
    pub fn state_layout(&self) -> Vec<(String, TensorType)> {
        let layout = crate::step::layout(&self.artifact.manifest.config);
        layout.into_iter().map(|t| (t.name, t.ty)).collect()
    }

    /// Checks that the artifact has these programs. Errors: [`SessionError::NoProgram`].
    pub fn require(&self, names: &[&str]) -> Result<(), SessionError> {
        names.iter().try_for_each(|name| self.program(name).map(drop))
    }

    /// A program's signature and module. Errors: [`SessionError::NoProgram`].
    pub fn program(&self, name: &str) -> Result<(&ProgramSpec, &hlo::HloModuleProto), SessionError> {
        self.artifact.program(name).ok_or_else(|| self.no_program(name))
    }

    /// Compiles a program, unless that is done.
    pub fn prepare(&mut self, name: &str) -> Result<(), SessionError> {
        if self.executables.contains_key(name) {
            return Ok(());
        }
        let (_, module) = self.program(name)?;
        let start = Instant::now();
        let executable = self
            .backend
            .compile(&hlo::encode(module), &CompileOptions::default())
            .map_err(|source| SessionError::Runtime { program: name.into(), source })?;
        self.compile_time += start.elapsed();
        self.executables.insert(name.into(), executable);
        Ok(())
    }

    fn no_program(&self, name: &str) -> SessionError {
        let found = self.artifact.manifest.programs.iter().map(|p| p.name.clone()).collect();
        SessionError::NoProgram { name: name.into(), found }
    }

    /// Makes the first state on the device.
    pub fn init(&mut self, seed: u64) -> Result<(), SessionError> {
        let words = [(seed >> 32) as u32, seed as u32];
        let seed = Literal::from_bytes(TensorType::new(crate::ir::DType::U32, [2]), words_bytes(words));
        let seed = seed.map_err(|e| runtime("init", RuntimeError::Module(e.to_string())))?;
        self.run("init", vec![("seed".into(), seed)])?;
        // Compiled for one use.
        self.executables.remove("init");
        Ok(())
    }

    /// Puts one tensor of the state on the device.
    pub fn set_state(&mut self, name: &str, value: &Literal) -> Result<(), SessionError> {
        let buffer = self.backend.upload(value, 0).map_err(|e| runtime("state", e))?;
        self.state.insert(name.into(), buffer);
        Ok(())
    }

    /// Copies one tensor of the state to the host.
    pub fn state(&self, name: &str) -> Result<Literal, SessionError> {
        let buffer = self.state.get(name).ok_or(SessionError::NoState)?;
        buffer.download().map_err(|e| runtime("state", e))
    }

    /// As [`Session::state`]. Errors: [`SessionError::NotFinite`] if the tensor holds infinities or NaN.
    pub fn finite_state(&self, name: &str) -> Result<Literal, SessionError> {
        let value = self.state(name)?;
        if !value.is_finite() {
            return Err(SessionError::NotFinite { name: name.into() });
        }
        Ok(value)
    }

    /// Whether every tensor of the state is there.
    pub fn has_state(&self) -> bool {
        self.state_layout().iter().all(|(name, _)| self.state.contains_key(name))
    }

    /// Frees the state.
    pub fn drop_state(&mut self) {
        self.state.clear();
    }

    /// Runs a program on the state and these inputs; returns its outputs that do not stay on the device, in order.
    ///
    /// State and cache that the program returns replace the old ones, in the same memory where they are donated.
    pub fn run(&mut self, name: &str, inputs: Named) -> Result<Named, SessionError> {
        // Inputs are checked before the compiler, which may take minutes, is started.
        let given = self.upload(self.program(name)?.0, inputs)?;
        self.require_state(name)?;
        self.prepare(name)?;
        let (spec, _) = self.artifact.program(name).ok_or_else(|| self.no_program(name))?;
        let donated: Vec<usize> = spec.outputs.iter().filter_map(|p| p.alias).collect();
        let mut taken: BTreeMap<&str, DeviceBuffer> = BTreeMap::new();
        for &index in &donated {
            let name = spec.inputs[index].name.as_str();
            taken.extend(self.state.remove_entry(name).map(|(_, buffer)| (name, buffer)));
        }
        let mut arguments = Vec::with_capacity(spec.inputs.len());
        for port in &spec.inputs {
            let argument = match taken.remove(port.name.as_str()) {
                Some(buffer) => Argument::Donate(buffer),
                None => {
                    let kept = given.get(&port.name).or_else(|| self.state.get(&port.name));
                    Argument::Keep(&**kept.ok_or(SessionError::NoState)?)
                }
            };
            arguments.push(argument);
        }
        let executable = self.executables.get(name).ok_or(SessionError::NoState)?;
        let results = executable.run(arguments).map_err(|e| runtime(name, e))?;
        let mut copies = vec![];
        for (port, buffer) in spec.outputs.iter().zip(results) {
            match port.role {
                role if role.stays() => drop(self.state.insert(port.name.clone(), buffer)),
                _ => copies.push((port.name.clone(), buffer.start_download().map_err(|e| runtime(name, e))?)),
            }
        }
        let arrived = copies.into_iter().map(|(port, copy)| Ok((port, copy.wait()?)));
        arrived.collect::<Result<_, _>>().map_err(|e| runtime(name, e))
    }

    /// Nothing is taken from the state before all of it is known to be there.
    fn require_state(&self, name: &str) -> Result<(), SessionError> {
        let missing = |p: &&PortSpec| p.role.stays() && !self.state.contains_key(&p.name);
        match self.program(name)?.0.inputs.iter().find(missing) {
            Some(port) => {
                let (program, name) = (name.to_string(), port.name.clone());
                Err(SessionError::MissingInput { program, name, ty: port_type(port) })
            }
            None => Ok(()),
        }
    }

    /// Checks the given inputs against the signature and puts them on the device.
    fn upload(
        &self,
        spec: &ProgramSpec,
        inputs: Named,
    ) -> Result<BTreeMap<String, DeviceBuffer>, SessionError> {
        let program = || spec.name.clone();
        let mut given = BTreeMap::new();
        for (name, value) in inputs {
            let ports = spec.inputs.iter().filter(|p| p.role == Role::Input);
            let Some(port) = ports.clone().find(|p| p.name == name) else {
                let allowed = ports.map(|p| p.name.clone()).collect();
                return Err(SessionError::UnknownInput { program: program(), name, allowed });
            };
            if port.ty().as_ref() != Some(value.ty()) {
                let (expected, found) = (port_type(port), value.ty().clone());
                return Err(SessionError::InputType { program: program(), name, expected, found });
            }
            let buffer = self.backend.upload(&value, 0).map_err(|e| runtime(&spec.name, e))?;
            given.insert(name, buffer);
        }
        let missing = |p: &&PortSpec| p.role == Role::Input && !given.contains_key(&p.name);
        match spec.inputs.iter().find(missing) {
            Some(port) => {
                let name = port.name.clone();
                Err(SessionError::MissingInput { program: program(), name, ty: port_type(port) })
            }
            None => Ok(given),
        }
    }
}

fn port_type(port: &PortSpec) -> String {
    port.ty().map_or_else(|| format!("{}{:?}", port.dtype, port.shape), |ty| ty.to_string())
}

fn words_bytes(words: [u32; 2]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn runtime(program: &str, source: RuntimeError) -> SessionError {
    SessionError::Runtime { program: program.into(), source }
}
