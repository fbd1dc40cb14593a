//! The CPU backend, with modules written by hand.
#![cfg(feature = "cpu")]

mod modules;

use modules::{ADD, STEP, error, values};
use switchyard::ir::{DType, Literal, TensorType};
use switchyard::runtime::cpu::{self, CpuBackend};
use switchyard::runtime::{Argument, Backend, CompileOptions, DeviceBuffer, Executable, RuntimeError};

/// All tests of this file share one client, so each asks for as many devices as the largest needs.
fn backend() -> CpuBackend {
    cpu::open(2).unwrap()
}

fn compile(text: &str, num_replicas: usize) -> Result<Box<dyn Executable>, RuntimeError> {
    let backend = backend();
    backend.compile(&backend.parse_hlo_text(text)?, &CompileOptions { num_replicas })
}

fn program(text: &str) -> Box<dyn Executable> {
    compile(text, 1).unwrap()
}

fn upload(shape: &[usize], data: &[f32]) -> DeviceBuffer {
    backend().upload(&Literal::new(shape, data).unwrap(), 0).unwrap()
}

#[test]
fn a_sum_is_computed() {
    let (x, y) = (upload(&[3], &[1., 2., 3.]), upload(&[3], &[10., 20., 30.]));
    let results = program(ADD).run(vec![(&x).into(), (&y).into()]).unwrap();
    assert_eq!(values(&results[0]), [11., 22., 33.]);
    assert_eq!(results[0].ty().to_string(), "f32[3]");
    assert_eq!(values(&x), [1., 2., 3.], "an argument that is lent stays valid");
}

#[test]
fn a_root_tuple_comes_apart() {
    let program = program(
        "HloModule pair
        ENTRY main {
          x = f32[2,2] parameter(0)
          t = f32[2,2] transpose(x), dimensions={1,0}
          n = s32[] constant(7)
          ROOT r = (f32[2,2], s32[]) tuple(t, n)
        }",
    );
    let results = program.run(vec![upload(&[2, 2], &[1., 2., 3., 4.]).into()]).unwrap();
    assert_eq!(values(&results[0]), [1., 3., 2., 4.]);
    assert_eq!(results[1].download().unwrap().to_vec::<i32>(), Some(vec![7]));
}

#[test]
fn donated_state_passes_through_steps() {
    let program = program(STEP);
    assert_eq!(program.signature().parameters[0].aliased_result, Some(0));
    let by = upload(&[], &[0.5]);
    let mut state = upload(&[4], &[0., 1., 2., 3.]);
    for _ in 0..4 {
        state = program.run(vec![state.into(), (&by).into()]).unwrap().swap_remove(0);
    }
    assert_eq!(values(&state), [2., 3., 4., 5.]);
}

#[test]
fn an_aliased_argument_must_be_given_up() {
    let (state, by) = (upload(&[4], &[0.; 4]), upload(&[], &[0.5]));
    let message = error(program(STEP).run(vec![(&state).into(), (&by).into()]));
    assert!(message.contains("becomes result 0 in place, so it must be donated"), "{message}");
    assert_eq!(values(&state), [0.; 4]);
}

/// Adds 1 to every element of 256 MiB, with or without donation of the argument.
#[cfg(target_os = "linux")]
fn big_step(alias: &str) -> Box<dyn Executable> {
    program(&format!(
        "HloModule big{alias}
        ENTRY main {{
          x = f32[67108864] parameter(0)
          one = f32[] constant(1)
          ones = f32[67108864] broadcast(one), dimensions={{}}
          ROOT y = f32[67108864] add(x, ones)
        }}"
    ))
}

/// How far one run of `program` on a 256 MiB argument raises the peak of resident memory, in MiB.
#[cfg(target_os = "linux")]
fn peak_growth_mib(program: &dyn Executable, donate: bool) -> u64 {
    let status = |field: &str| {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let zeros = Literal::zeros(TensorType::new(DType::F32, [67_108_864]));
    let x = backend().upload(&zeros, 0).unwrap();
    drop(zeros);
    // 5 resets the peak to the present value (proc(5)).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    let argument = if donate { Argument::Donate(x) } else { Argument::Keep(&*x) };
    let results = program.run(vec![argument]).unwrap();
    assert_eq!(results.len(), 1);
    status("VmHWM").saturating_sub(before)
}

#[cfg(target_os = "linux")]
#[test]
fn a_donated_buffer_lends_its_memory_to_the_result() {
    let aliased = big_step(", input_output_alias={ {}: (0, {}, must-alias) }");
    let growth = peak_growth_mib(&*aliased, true);
    assert!(growth < 128, "{growth} MiB with donation");
    let growth = peak_growth_mib(&*big_step(""), false);
    assert!(growth >= 200, "{growth} MiB without donation, so the measure is wrong");
}

#[test]
fn every_element_type_goes_up_and_down_unchanged() {
    let backend = backend();
    for dtype in DType::ALL {
        for shape in [vec![], vec![3], vec![2, 3], vec![2, 0, 4], vec![1, 1, 5, 1]] {
            let ty = TensorType::new(dtype, shape);
            let top = if dtype == DType::Pred { 2 } else { 251 };
            let bytes = (0..ty.size_bytes()).map(|i| ((i * 37 + 1) % top) as u8).collect();
            let value = Literal::from_bytes(ty.clone(), bytes).unwrap();
            let buffer = backend.upload(&value, 1).unwrap();
            assert_eq!((buffer.ty(), buffer.device()), (&ty, 1));
            assert!(buffer.download().unwrap() == value, "{ty}");
        }
    }
}

#[test]
fn every_element_type_passes_through_a_program() {
    let backend = backend();
    for dtype in DType::ALL {
        let text = format!(
            "HloModule m\nENTRY e {{ p = {dtype}[2]{{0}} parameter(0) ROOT r = {dtype}[2]{{0}} reverse(p), dimensions={{0}} }}"
        );
        let pair = |a, b| {
            let (a, b) = (Literal::scalar_of(dtype, a), Literal::scalar_of(dtype, b));
            Literal::from_bytes(TensorType::new(dtype, [2]), [a.bytes(), b.bytes()].concat()).unwrap()
        };
        let argument = backend.upload(&pair(1., 0.), 0).unwrap();
        let results = program(&text).run(vec![argument.into()]).unwrap();
        assert!(results[0].download().unwrap() == pair(0., 1.), "{dtype}");
    }
}

const ALL_REDUCE: &str = "HloModule sum
add { a = f32[] parameter(0) b = f32[] parameter(1) ROOT s = f32[] add(a, b) }
ENTRY main {
  x = f32[2] parameter(0)
  id = u32[] replica-id()
  idf = f32[] convert(id)
  ids = f32[2] broadcast(idf), dimensions={}
  y = f32[2] add(x, ids)
  ROOT s = f32[2] all-reduce(y), replica_groups={{0,1}}, to_apply=add
}";

#[test]
fn two_replicas_add_up_their_values() {
    let (backend, program) = (backend(), compile(ALL_REDUCE, 2).unwrap());
    let on = |device, data: [f32; 2]| backend.upload(&Literal::new([2], &data).unwrap(), device).unwrap();
    let arguments = vec![vec![on(0, [1., 2.]).into()], vec![on(1, [10., 20.]).into()]];
    let results = program.execute(arguments).unwrap();
    // (x0 + 0) + (x1 + 1)
    assert_eq!(results.iter().map(|r| values(&r[0])).collect::<Vec<_>>(), [[12., 23.], [12., 23.]]);
    assert_eq!([results[0][0].device(), results[1][0].device()], [0, 1]);
}

#[test]
fn arguments_that_do_not_fit_are_refused_before_the_runtime_sees_them() {
    let program = program(ADD);
    let x = || upload(&[3], &[0.; 3]);
    let run = |arguments| error(program.run(arguments));
    assert!(run(vec![x().into()]).contains("takes 2 arguments, 1 were given"));
    let message = run(vec![x().into(), upload(&[2], &[0.; 2]).into()]);
    assert!(message.contains("argument 1") && message.contains("is f32[3], found f32[2]"), "{message}");
    let elsewhere = backend().upload(&Literal::new([3], &[0f32; 3]).unwrap(), 1).unwrap();
    let message = run(vec![x().into(), elsewhere.into()]);
    assert!(message.contains("must be on device 0, it is on 1"), "{message}");
    assert!(error(program.execute(vec![])).contains("has 1 replicas, argument lists for 0"));
}

#[test]
fn a_device_that_does_not_exist_is_an_error() {
    let message = error(backend().upload(&Literal::scalar(1f32), 99));
    assert!(message.contains("device 99 does not exist"), "{message}");
    assert!(error(compile(ADD, 99)).contains("99 devices were asked for"));
    assert!(error(compile(ADD, 0)).contains("0 devices were asked for"));
    assert!(matches!(cpu::open(99), Err(RuntimeError::TooFewDevices { asked: 99, .. })));
}

#[test]
fn modules_that_xla_refuses_are_errors() {
    let backend = backend();
    assert!(matches!(backend.parse_hlo_text("HloModule {"), Err(RuntimeError::Module(_))));
    let options = CompileOptions::default();
    for bytes in [&b""[..], b"\x0a\x03abc", b"hello", &[0xff; 64]] {
        assert!(matches!(backend.compile(bytes, &options), Err(RuntimeError::Module(_))), "{bytes:?}");
    }
    let mismatch = "HloModule bad\nENTRY e { p = f32[2] parameter(0) ROOT r = f32[3] negate(p) }";
    let bytes = backend.parse_hlo_text(mismatch);
    let result = bytes.and_then(|bytes| backend.verify(&bytes));
    assert!(result.is_err());
}

#[test]
fn every_cut_of_a_module_is_an_error_or_a_module() {
    let backend = backend();
    let bytes = backend.parse_hlo_text(ADD).unwrap();
    for len in 0..bytes.len() {
        if let Ok(program) = backend.compile(&bytes[..len], &CompileOptions::default()) {
            assert_eq!(program.signature().parameters.len(), 2, "cut at {len}");
        }
    }
    backend.verify(&bytes).unwrap();
}

#[test]
fn texts_of_a_module_are_printed() {
    let backend = backend();
    let bytes = backend.parse_hlo_text(ADD).unwrap();
    assert!(backend.hlo_text(&bytes).unwrap().contains("f32[3]{0} add("));
    assert!(backend.stablehlo_text(&bytes).unwrap().contains("stablehlo.add"));
}
