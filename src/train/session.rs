//! A model on devices: compiled programs, and the state that stays there between calls.

use crate::artifact::{Artifact, PortSpec, ProgramSpec};
use crate::hlo;
use crate::ir::{Literal, TensorType};
use crate::layers::{row_name, row_of};
use crate::runtime::{
    Argument, Backend, CompileOptions, DeviceBuffer, DeviceMemory, Executable, PendingLiteral, RuntimeError,
};
use crate::shard::{Mesh, Partition, PartitionError, Placement};
use crate::step::{DERIVE, Role, StateTensor};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
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
    #[error("`{name}` cannot be divided among the devices")]
    Divided {
        name: String,
        #[source]
        source: PartitionError,
    },
    #[error("program `{program}`")]
    Runtime {
        program: String,
        #[source]
        source: RuntimeError,
    },
}

/// Named host values.
pub type Named = Vec<(String, Literal)>;

/// An artifact with a backend to run it on, on as many devices as its mesh has.
///
/// Values come and go whole: what each device holds of them is cut and joined here.
pub struct Session {
    backend: Box<dyn Backend>,
    artifact: Artifact,
    executables: BTreeMap<String, Box<dyn Executable>>,
    /// What each device holds of each tensor.
    state: BTreeMap<String, Vec<DeviceBuffer>>,
    layout: Vec<StateTensor>,
    /// Stacks of which programs take and return the rows, and how many these are.
    stacks: BTreeMap<String, usize>,
    compile_time: Duration,
}

impl Session {
    pub fn new(backend: Box<dyn Backend>, artifact: Artifact) -> Self {
        let layout = crate::step::layout(&artifact.manifest.config);
        let stacks = stacks(&artifact);
        Self {
            backend,
            artifact,
            executables: BTreeMap::new(),
            state: BTreeMap::new(),
            layout,
            stacks,
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
        self.layout.iter().map(|t| (t.name.clone(), t.ty.clone())).collect()
    }

    fn mesh(&self) -> Mesh {
        self.artifact.manifest.config.mesh
    }

    fn num_replicas(&self) -> usize {
        self.mesh().num_replicas()
    }

    /// How a tensor that stays on the devices is divided: as the layout of the training state says, or the ports of programs, of
    /// which a cache and a teacher are.
    fn partition(&self, name: &str) -> Partition {
        let of_state = self.layout.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.partition);
        let programs = self.artifact.manifest.programs.iter();
        let mut ports = programs.flat_map(|program| program.inputs.iter().chain(&program.outputs));
        let of_ports = || ports.find(|port| port.role.stays() && port.name == name).map(|p| &p.partition);
        of_state.or_else(of_ports).cloned().unwrap_or_default()
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
            .compile(&hlo::encode(module), &CompileOptions { num_replicas: self.num_replicas() })
            .map_err(|source| SessionError::Runtime { program: name.into(), source })?;
        self.compile_time += start.elapsed();
        self.executables.insert(name.into(), executable);
        Ok(())
    }

    fn no_program(&self, name: &str) -> SessionError {
        let found = self.artifact.manifest.programs.iter().map(|p| p.name.clone()).collect();
        SessionError::NoProgram { name: name.into(), found }
    }

    /// Makes the first state on the devices.
    pub fn init(&mut self, seed: u64) -> Result<(), SessionError> {
        let words = [(seed >> 32) as u32, seed as u32];
        let seed = Literal::from_bytes(TensorType::new(crate::ir::DType::U32, [2]), words_bytes(words));
        let seed = seed.map_err(|e| runtime("init", RuntimeError::Module(e.to_string())))?;
        self.run("init", vec![("seed".into(), seed)])?;
        // Compiled for one use.
        self.executables.remove("init");
        Ok(())
    }

    /// Puts one tensor of the state on the devices.
    pub fn set_state(&mut self, name: &str, value: &Literal) -> Result<(), SessionError> {
        if !self.stacks.contains_key(name) {
            return self.set_held(name, value);
        }
        let (names, rows) = (self.held(name), value.rows());
        if names.len() != rows.len() {
            return Err(SessionError::Input(format!(
                "`{name}` has {} rows, found {}",
                names.len(),
                rows.len()
            )));
        }
        names.iter().zip(&rows).try_for_each(|(name, row)| self.set_held(name, row))
    }

    /// The names under which the devices hold a tensor: its own, or those of its rows.
    fn held(&self, name: &str) -> Vec<String> {
        match self.stacks.get(name) {
            Some(&rows) => (0..rows).map(|row| row_name(name, row)).collect(),
            None => vec![name.into()],
        }
    }

    fn set_held(&mut self, name: &str, value: &Literal) -> Result<(), SessionError> {
        self.forget_derived();
        let placement = self.partition(name).into();
        let blocks = self.upload_blocks(name, &placement, value)?;
        self.state.insert(name.into(), blocks);
        Ok(())
    }

    /// Cuts a value and puts on each device what it holds of it.
    fn upload_blocks(
        &self,
        name: &str,
        placement: &Placement,
        value: &Literal,
    ) -> Result<Vec<DeviceBuffer>, SessionError> {
        let mesh = self.mesh();
        let upload = |replica: usize| {
            let block = match self.num_replicas() {
                1 => Cow::Borrowed(value),
                _ => Cow::Owned(placement.cut(&mesh, value, replica).map_err(|e| divided(name, e))?),
            };
            self.backend.upload(&block, replica).map_err(|e| runtime(name, e))
        };
        (0..self.num_replicas()).map(upload).collect()
    }

    /// Copies one tensor of the state to the host.
    pub fn state(&self, name: &str) -> Result<Literal, SessionError> {
        let start = |name: String| {
            let blocks = self.state.get(&name).ok_or(SessionError::NoState)?;
            let partition = self.partition(&name);
            let copies = self.start_download(&name, &partition, blocks)?;
            Ok((name, partition, copies))
        };
        let started: Vec<_> = self.held(name).into_iter().map(start).collect::<Result<_, SessionError>>()?;
        let arrived =
            started.into_iter().map(|(name, partition, copies)| self.join(&name, &partition, copies));
        let mut rows: Vec<Literal> = arrived.collect::<Result<_, _>>()?;
        match self.stacks.contains_key(name) {
            true => Literal::stack(&rows).map_err(|e| SessionError::Input(e.to_string())),
            false => rows.pop().ok_or(SessionError::NoState),
        }
    }

    /// Starts to copy what makes up a value from the devices.
    fn start_download(
        &self,
        name: &str,
        partition: &Partition,
        blocks: &[DeviceBuffer],
    ) -> Result<Vec<Box<dyn PendingLiteral>>, SessionError> {
        // One copy of what all devices have.
        let owners = if partition.is_whole() { vec![0] } else { partition.owners(&self.mesh()) };
        let start = |replica: usize| {
            let block = blocks.get(replica).ok_or(SessionError::NoState)?;
            block.start_download().map_err(|e| runtime(name, e))
        };
        owners.into_iter().map(start).collect()
    }

    /// Waits for the parts of a value and joins them.
    fn join(
        &self,
        name: &str,
        partition: &Partition,
        copies: Vec<Box<dyn PendingLiteral>>,
    ) -> Result<Literal, SessionError> {
        let wait = |copy: Box<dyn PendingLiteral>| copy.wait().map_err(|e| runtime(name, e));
        let mut found: Vec<Literal> = copies.into_iter().map(wait).collect::<Result<_, _>>()?;
        if partition.is_whole() {
            return found.pop().ok_or(SessionError::NoState);
        }
        let first = found.first().ok_or(SessionError::NoState)?.ty();
        let whole = Placement::from(partition.clone()).whole(&self.mesh(), first);
        let whole = whole.ok_or(SessionError::NoState)?;
        partition.join(&self.mesh(), &whole, &found).map_err(|e| divided(name, e))
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
        self.layout
            .iter()
            .flat_map(|tensor| self.held(&tensor.name))
            .all(|name| self.state.contains_key(&name))
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
        self.derive(name)?;
        self.prepare(name)?;
        let (spec, _) = self.artifact.program(name).ok_or_else(|| self.no_program(name))?;
        let donated: Vec<usize> = spec.outputs.iter().filter_map(|p| p.alias).collect();
        let mut taken: BTreeMap<&str, Vec<DeviceBuffer>> = BTreeMap::new();
        for &index in &donated {
            let name = spec.inputs[index].name.as_str();
            taken.extend(self.state.remove_entry(name).map(|(_, blocks)| (name, blocks)));
        }
        let mut arguments: Vec<Vec<Argument>> = (0..self.num_replicas()).map(|_| vec![]).collect();
        for port in &spec.inputs {
            match taken.remove(port.name.as_str()) {
                Some(blocks) => {
                    let donated = arguments.iter_mut().zip(blocks);
                    donated.for_each(|(list, block)| list.push(Argument::Donate(block)));
                }
                None => {
                    let kept = given.get(&port.name).or_else(|| self.state.get(&port.name));
                    let kept = arguments.iter_mut().zip(kept.ok_or(SessionError::NoState)?);
                    kept.for_each(|(list, block)| list.push(Argument::Keep(&**block)));
                }
            }
        }
        let executable = self.executables.get(name).ok_or(SessionError::NoState)?;
        let results = executable.execute(arguments).map_err(|e| runtime(name, e))?;
        let ports = spec.outputs.clone();
        let makes = |role: Role| ports.iter().any(|port| port.role == role);
        if makes(Role::State) && !makes(Role::Derived) {
            self.forget_derived();
        }
        let mut by_port: Vec<Vec<DeviceBuffer>> = ports.iter().map(|_| vec![]).collect();
        for blocks in results {
            by_port.iter_mut().zip(blocks).for_each(|(all, block)| all.push(block));
        }
        let mut copies = vec![];
        for (port, blocks) in ports.into_iter().zip(by_port) {
            match port.role {
                role if role.stays() => drop(self.state.insert(port.name, blocks)),
                _ => {
                    let started = self.start_download(&port.name, &port.partition, &blocks)?;
                    copies.push((port, started));
                }
            }
        }
        let arrived = copies.into_iter().map(|(port, copies)| {
            let value = self.join(&port.name, &port.partition, copies)?;
            Ok((port.name, value))
        });
        arrived.collect()
    }

    /// Makes what the program takes that follows from the state, unless it is there.
    fn derive(&mut self, name: &str) -> Result<(), SessionError> {
        let missing = |p: &PortSpec| p.role == Role::Derived && !self.state.contains_key(&p.name);
        if self.program(name)?.0.inputs.iter().any(missing) {
            self.run(DERIVE, vec![])?;
        }
        Ok(())
    }

    /// Frees what follows from the state; it is made again where it is needed.
    pub fn forget_derived(&mut self) {
        let programs = self.artifact.manifest.programs.iter();
        let derived = programs.flat_map(|program| &program.inputs).filter(|port| port.role == Role::Derived);
        derived.for_each(|port| drop(self.state.remove(&port.name)));
    }

    /// Nothing is taken from the state before all of it is known to be there, but for what follows from the rest.
    fn require_state(&self, name: &str) -> Result<(), SessionError> {
        let missing =
            |p: &&PortSpec| p.role.stays() && p.role != Role::Derived && !self.state.contains_key(&p.name);
        match self.program(name)?.0.inputs.iter().find(missing) {
            Some(port) => {
                let (program, name) = (name.to_string(), port.name.clone());
                Err(SessionError::MissingInput { program, name, ty: port_type(port) })
            }
            None => Ok(()),
        }
    }

    /// Checks the given inputs against the signature and puts them on the devices.
    fn upload(
        &self,
        spec: &ProgramSpec,
        inputs: Named,
    ) -> Result<BTreeMap<String, Vec<DeviceBuffer>>, SessionError> {
        let program = || spec.name.clone();
        let mut given = BTreeMap::new();
        for (name, value) in inputs {
            let ports = spec.inputs.iter().filter(|p| p.role == Role::Input);
            let Some(port) = ports.clone().find(|p| p.name == name) else {
                let allowed = ports.map(|p| p.name.clone()).collect();
                return Err(SessionError::UnknownInput { program: program(), name, allowed });
            };
            let expected = port.whole(&self.mesh());
            if expected.as_ref() != Some(value.ty()) {
                let expected = expected.map_or_else(|| port_type(port), |ty| ty.to_string());
                let found = value.ty().clone();
                return Err(SessionError::InputType { program: program(), name, expected, found });
            }
            let blocks = self.upload_blocks(&name, &port.placement(), &value)?;
            given.insert(name, blocks);
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

/// The stacks of which programs take and return rows, with the number of these.
fn stacks(artifact: &Artifact) -> BTreeMap<String, usize> {
    let programs = artifact.manifest.programs.iter();
    let ports = programs.flat_map(|program| program.inputs.iter().chain(&program.outputs));
    let mut stacks: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (stack, row) in ports.filter(|port| port.role.stays()).filter_map(|port| row_of(&port.name)) {
        stacks.entry(stack).or_default().insert(row);
    }
    stacks.into_iter().map(|(stack, rows)| (stack.into(), rows.len())).collect()
}

fn port_type(port: &PortSpec) -> String {
    port.ty().map_or_else(|| format!("{}{:?}", port.dtype, port.shape), |ty| ty.to_string())
}

fn divided(name: &str, source: PartitionError) -> SessionError {
    SessionError::Divided { name: name.into(), source }
}

fn words_bytes(words: [u32; 2]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn runtime(program: &str, source: RuntimeError) -> SessionError {
    SessionError::Runtime { program: program.into(), source }
}
