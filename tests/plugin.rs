//! PJRT plugins: XLA's CPU as a plugin does what the CPU backend does, and what is no usable plugin is refused.
//!
//! The plugin comes from `scripts/setup.sh --with-cpu-plugin`. Without it these tests say so and pass, unless
//! `SWITCHYARD_REQUIRE_PLUGINS` is set.

mod modules;

use modules::{ADD, STEP, error, values};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use switchyard::hlo;
use switchyard::ir::{DType, Literal, TensorType};
use switchyard::runtime::measure;
use switchyard::runtime::pjrt::{self, PluginBackend};
use switchyard::runtime::{
    Argument, Backend, CompileOptions, DeviceBuffer, Executable, RuntimeChoice, RuntimeError,
};

const CPU_PLUGIN: &str = "cpu-plugin/pjrt_c_api_cpu_plugin.so";

fn runtime_folder() -> PathBuf {
    std::env::var_os("SWITCHYARD_RUNTIME").map_or(".runtime".into(), PathBuf::from)
}

/// The one client of this process, or `None` where the plugin is absent.
fn backend() -> Option<&'static PluginBackend> {
    static BACKEND: OnceLock<Option<PluginBackend>> = OnceLock::new();
    let backend = BACKEND.get_or_init(|| {
        let path = runtime_folder().join(CPU_PLUGIN);
        if !path.is_file() {
            let hint = "run `scripts/setup.sh --with-cpu-plugin`";
            assert!(
                std::env::var_os("SWITCHYARD_REQUIRE_PLUGINS").is_none(),
                "no {}: {hint}",
                path.display()
            );
            eprintln!("skipped: no {}: {hint}", path.display());
            return None;
        }
        // SAFETY: nothing reads the environment before the plugin is loaded, which is next.
        unsafe { std::env::set_var("XLA_FLAGS", "--xla_force_host_platform_device_count=4") };
        Some(pjrt::open(&path, 2, &[]).unwrap().with_cache(None))
    });
    backend.as_ref()
}

macro_rules! backend_or_return {
    () => {
        match backend() {
            Some(backend) => backend,
            None => return,
        }
    };
}

fn module(text: &str) -> Vec<u8> {
    hlo::encode(&hlo::parse(text).unwrap())
}

fn compile(text: &str) -> Result<Box<dyn Executable>, RuntimeError> {
    backend().unwrap().compile(&module(text), &CompileOptions::default())
}

fn upload(shape: &[usize], data: &[f32]) -> DeviceBuffer {
    backend().unwrap().upload(&Literal::new(shape, data).unwrap(), 0).unwrap()
}

#[test]
fn platform_version_and_devices_are_told() {
    let backend = backend_or_return!();
    assert_eq!(backend.platform(), "cpu");
    assert!(!backend.devices().is_empty() && !backend.devices()[0].kind.is_empty());
    assert!(backend.api_version().starts_with("0."));
    assert!(backend.path().ends_with("pjrt_c_api_cpu_plugin.so"));
}

#[test]
fn a_sum_is_computed_and_lent_arguments_stay() {
    backend_or_return!();
    let (x, y) = (upload(&[3], &[1., 2., 3.]), upload(&[3], &[10., 20., 30.]));
    let results = compile(ADD).unwrap().run(vec![(&x).into(), (&y).into()]).unwrap();
    assert_eq!(values(&results[0]), [11., 22., 33.]);
    assert_eq!(values(&x), [1., 2., 3.]);
}

#[test]
fn a_root_tuple_comes_apart_and_layouts_do_not_show() {
    backend_or_return!();
    let program = compile(
        "HloModule pair
        ENTRY main {
          x = f32[2,3] parameter(0)
          t = f32[3,2] transpose(x), dimensions={1,0}
          n = s32[] constant(7)
          ROOT r = (f32[3,2], s32[]) tuple(t, n)
        }",
    )
    .unwrap();
    let results = program.run(vec![upload(&[2, 3], &[1., 2., 3., 4., 5., 6.]).into()]).unwrap();
    assert_eq!(values(&results[0]), [1., 4., 2., 5., 3., 6.]);
    assert_eq!(results[1].download().unwrap().to_vec::<i32>(), Some(vec![7]));
}

#[test]
fn donated_state_passes_through_steps() {
    backend_or_return!();
    let program = compile(STEP).unwrap();
    let by = upload(&[], &[0.5]);
    let mut state = upload(&[4], &[0., 1., 2., 3.]);
    for _ in 0..4 {
        state = program.run(vec![state.into(), (&by).into()]).unwrap().swap_remove(0);
    }
    assert_eq!(values(&state), [2., 3., 4., 5.]);
    let message = error(program.run(vec![(&state).into(), (&by).into()]));
    assert!(message.contains("must be donated"), "{message}");
    assert_eq!(values(&state), [2., 3., 4., 5.]);
}

#[test]
fn two_replicas_add_up_their_values() {
    let backend = backend_or_return!();
    let text = "HloModule sum
        add { a = f32[] parameter(0) b = f32[] parameter(1) ROOT s = f32[] add(a, b) }
        ENTRY main {
          x = f32[2] parameter(0)
          id = u32[] replica-id()
          idf = f32[] convert(id)
          ids = f32[2] broadcast(idf), dimensions={}
          y = f32[2] add(x, ids)
          ROOT s = f32[2] all-reduce(y), replica_groups={{0,1}}, to_apply=add
        }";
    let program = backend.compile(&module(text), &CompileOptions { num_replicas: 2 }).unwrap();
    let on = |device, data: [f32; 2]| backend.upload(&Literal::new([2], &data).unwrap(), device).unwrap();
    let arguments = vec![vec![on(0, [1., 2.]).into()], vec![on(1, [10., 20.]).into()]];
    let results = program.execute(arguments).unwrap();
    // (x0 + 0) + (x1 + 1)
    assert_eq!(results.iter().map(|r| values(&r[0])).collect::<Vec<_>>(), [[12., 23.], [12., 23.]]);
    assert_eq!([results[0][0].device(), results[1][0].device()], [0, 1]);
}

#[test]
fn a_matrix_product_is_timed() {
    let backend = backend_or_return!();
    let rate = measure::matmul_flops_per_second(backend, 64).unwrap();
    assert!(rate.is_finite() && rate > 1e6, "{rate}");
}

#[test]
fn copies_to_the_host_run_beside_each_other() {
    backend_or_return!();
    let buffers: Vec<_> = (0..8).map(|n| upload(&[1000], &vec![n as f32; 1000])).collect();
    let pending: Vec<_> = buffers.iter().map(|b| b.start_download().unwrap()).collect();
    // A buffer may go while its copy is under way, and a copy may be given up.
    drop(buffers);
    for (n, copy) in pending.into_iter().enumerate().filter(|(n, _)| n % 2 == 0) {
        assert_eq!(copy.wait().unwrap().to_vec::<f32>().unwrap(), vec![n as f32; 1000]);
    }
}

#[test]
fn every_element_type_goes_up_and_down_and_through_a_program() {
    let backend = backend_or_return!();
    for dtype in DType::ALL {
        for shape in [vec![], vec![3], vec![2, 3], vec![2, 0, 4], vec![1, 1, 5, 1]] {
            let ty = TensorType::new(dtype, shape);
            let top = if dtype == DType::Pred { 2 } else { 251 };
            let bytes = (0..ty.size_bytes()).map(|i| ((i * 37 + 1) % top) as u8).collect();
            let value = Literal::from_bytes(ty.clone(), bytes).unwrap();
            let buffer = backend.upload(&value, 0).unwrap();
            assert_eq!((buffer.ty(), buffer.device()), (&ty, 0));
            assert!(buffer.download().unwrap() == value, "{ty}");
        }
        let text = format!(
            "HloModule m\nENTRY e {{ p = {dtype}[2]{{0}} parameter(0) ROOT r = {dtype}[2]{{0}} reverse(p), dimensions={{0}} }}"
        );
        let pair = |a, b| {
            let (a, b) = (Literal::scalar_of(dtype, a), Literal::scalar_of(dtype, b));
            Literal::from_bytes(TensorType::new(dtype, [2]), [a.bytes(), b.bytes()].concat()).unwrap()
        };
        let argument = backend.upload(&pair(1., 0.), 0).unwrap();
        let results = compile(&text).unwrap().run(vec![argument.into()]).unwrap();
        assert!(results[0].download().unwrap() == pair(0., 1.), "{dtype}");
    }
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let backend = backend_or_return!();
    let program = compile(ADD).unwrap();
    let x = || upload(&[3], &[0.; 3]);
    assert!(error(program.run(vec![x().into()])).contains("takes 2 arguments, 1 were given"));
    let message = error(program.run(vec![x().into(), upload(&[2], &[0.; 2]).into()]));
    assert!(message.contains("is f32[3], found f32[2]"), "{message}");
    let message = error(backend.upload(&Literal::scalar(1f32), 9999));
    assert!(message.contains("device 9999 does not exist"), "{message}");
    let options = CompileOptions { num_replicas: 9999 };
    let message = error(backend.compile(&module(ADD), &options));
    assert!(message.contains("9999 devices were asked for, the cpu runtime has"), "{message}");
}

#[test]
fn buffers_of_another_client_are_refused() {
    let backend = backend_or_return!();
    let other = pjrt::open(backend.path(), 1, &[]).unwrap();
    let foreign = other.upload(&Literal::new([3], &[0f32; 3]).unwrap(), 0).unwrap();
    let message = error(compile(ADD).unwrap().run(vec![upload(&[3], &[0.; 3]).into(), foreign.into()]));
    assert!(message.contains("argument 1 was made by another backend"), "{message}");
}

#[test]
fn errors_carry_the_words_of_the_plugin() {
    let backend = backend_or_return!();
    let mut module = hlo::parse(ADD).unwrap();
    module.computations[0].instructions[2].opcode = "no-such-opcode".into();
    let message = error(backend.compile(&hlo::encode(&module), &CompileOptions::default()));
    assert!(
        message.starts_with("XLA refused the module: ") && message.contains("no-such-opcode"),
        "{message}"
    );
    for bytes in [&b""[..], b"hello", &[0xff; 64]] {
        let result = backend.compile(bytes, &CompileOptions::default());
        assert!(matches!(result, Err(RuntimeError::Module(_))), "{bytes:?}");
    }
}

#[test]
fn a_compiled_program_comes_back_from_the_cache() {
    let backend = backend_or_return!();
    let folder = tempfile::tempdir().unwrap();
    let cached = || pjrt::open(backend.path(), 1, &[]).unwrap().with_cache(Some(folder.path()));
    let run = |backend: &PluginBackend| {
        let program = backend.compile(&module(STEP), &CompileOptions::default()).unwrap();
        let up =
            |shape: &[usize], data: &[f32]| backend.upload(&Literal::new(shape, data).unwrap(), 0).unwrap();
        let arguments = vec![up(&[4], &[0.; 4]).into(), up(&[], &[2.]).into()];
        values(&program.run(arguments).unwrap()[0])
    };
    let entries = || std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(run(&cached()), [2.; 4]);
    let first = entries();
    assert_eq!(first.len(), 1, "the plugin serializes");
    let written = std::fs::metadata(&first[0]).unwrap().modified().unwrap();
    assert_eq!(run(&cached()), [2.; 4]);
    assert_eq!(std::fs::metadata(&first[0]).unwrap().modified().unwrap(), written, "compiled a second time");
    // A damaged entry is compiled again and replaced.
    std::fs::write(&first[0], b"damaged").unwrap();
    assert_eq!(run(&cached()), [2.; 4]);
    assert!(entries() == first && std::fs::metadata(&first[0]).unwrap().len() > 100);
}

/// The library made from `tests/mock/plugin.c`, or `None` without headers or a C compiler.
fn mock(folder: &Path, variant: usize) -> Option<PathBuf> {
    let include =
        std::env::var_os("XLA_EXTENSION_DIR").map_or(".runtime".into(), PathBuf::from).join("include");
    let path = folder.join(format!("mock_{variant}.so"));
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
    cc.args(["-shared", "-fPIC", "-I"]).arg(&include).arg(format!("-DVARIANT={variant}"));
    let built = cc.args(["-o".as_ref(), path.as_os_str(), "tests/mock/plugin.c".as_ref()]).output();
    if !include.join("xla/pjrt/c/pjrt_c_api.h").is_file() || built.is_err() {
        eprintln!("skipped: no XLA headers or no C compiler");
        return None;
    }
    let built = built.unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(path)
}

fn refusal(path: &Path) -> String {
    error(pjrt::open(path, 1, &[]))
}

#[test]
fn plugins_that_cannot_be_used_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    for (variant, reason) in [
        (1, "has PJRT API 0.12, but 0.54 or a later 0.x is needed"),
        (2, "has PJRT API 1."),
        (3, "is no PJRT plugin: GetPjrtApi returns null"),
        (4, "the plugin has no function PJRT_Client_Create"),
        (5, "the plugin has no function PJRT_Client_Create"),
        (6, "does not start: another process holds the chips (internal)"),
        (7, "opening the devices failed: no chips are visible (not found)"),
        (8, "is no PJRT plugin: its table has 8 bytes"),
    ] {
        let Some(path) = mock(folder.path(), variant) else { return };
        let message = refusal(&path);
        assert!(message.contains(reason), "{variant}: {message}");
    }
}

#[test]
fn a_plugin_for_gpus_is_told_how_much_memory_to_take_and_no_other_is() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = mock(folder.path(), 9) else { return };
    let [gpu, other] = ["xla_cuda_plugin.so", "pjrt_other_plugin.so"].map(|name| folder.path().join(name));
    std::fs::copy(&path, &gpu).unwrap();
    std::fs::copy(&path, &other).unwrap();
    let half = Some("0.5".parse().unwrap());
    for (plugin, fraction, expected) in [
        (&gpu, None, "failed: memory_fraction=0.9 preallocate=true (not found)"),
        (&gpu, half, "failed: memory_fraction=0.5 preallocate=true (not found)"),
        (&other, None, "failed: no options (not found)"),
        (&other, half, "--memory-fraction is for GPUs, the runtime is plugin:"),
    ] {
        let message = error(RuntimeChoice::Plugin(plugin.clone()).open_plugin(1, fraction));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn files_that_are_no_plugin_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.so");
    std::fs::write(&text, "this is no library, although its name says so, and it is long enough").unwrap();
    assert!(refusal(&text).contains("is damaged (not an ELF library)"));
    assert!(refusal(&folder.path().join("missing.so")).contains("is missing"));
    assert!(refusal(folder.path()).contains("the PJRT plugin"));
    // A program is a whole ELF file, but none that can be loaded.
    let program = refusal(Path::new(env!("CARGO_BIN_EXE_switchyard")));
    assert!(program.contains("cannot be loaded") || program.contains("no function GetPjrtApi"), "{program}");
}

#[test]
fn arguments_may_be_donated_where_nothing_is_aliased() {
    backend_or_return!();
    let (x, y) = (upload(&[3], &[1.; 3]), upload(&[3], &[2.; 3]));
    let results = compile(ADD).unwrap().run(vec![Argument::Donate(x), Argument::Keep(&*y)]).unwrap();
    assert_eq!(values(&results[0]), [3.; 3]);
    assert_eq!(values(&y), [2.; 3]);
}
