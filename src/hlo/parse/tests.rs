use super::*;
use crate::hlo::text::print;
use crate::hlo::{check, literal_from};
use crate::ir::Literal;
use proptest::prelude::*;

const EVERY_FAMILY: &str = include_str!("../testdata/every_family.hlo.txt");
const DUMP: &str = include_str!("../testdata/dump.hlo.txt");

fn entry(body: &str) -> String {
    format!("HloModule m\nENTRY e {{\n{body}\n}}\n")
}

fn constant(ty: &str, text: &str) -> Option<Literal> {
    let module = parse(&entry(&format!(" c = {ty} constant({text})"))).unwrap();
    literal_from(module.computations[0].instructions[0].literal.as_deref()?)
}

fn error(text: &str) -> TextError {
    parse(text).unwrap_err()
}

#[test]
fn compiler_dumps_are_read_and_printed_again() {
    let module = parse(DUMP).unwrap();
    assert_eq!(check(&module), Ok(()));
    let entry = module.entry().unwrap();
    let names: Vec<&str> = entry.instructions.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["x.1", "t", "y", "conv", "f"]);
    let fused = &module.computations[0];
    assert_eq!((fused.execution_thread.as_str(), fused.instructions[1].op_name()), ("main", "jit(f)/tanh"));
    let layout = fused.instructions[0].shape.as_ref().unwrap().layout.clone().unwrap();
    assert_eq!((layout.tiles.len(), layout.memory_space), (2, 1));
    assert_eq!(entry.instructions[1].custom_call_target, "a\"b");
    assert_eq!(entry.root().unwrap().called_computation_ids, [fused.id]);
    let text = print(&module);
    assert_eq!(parse(&text).unwrap(), parse(&print(&parse(&text).unwrap())).unwrap());
}

#[test]
fn called_computations_stand_in_the_order_of_the_proto() {
    let module = parse(EVERY_FAMILY).unwrap();
    let id = |name: &str| module.computations.iter().find(|c| c.name == name).unwrap().id;
    let main = module.entry().unwrap();
    let loop_ = main.instructions.iter().find(|i| i.opcode == "while").unwrap();
    assert_eq!(loop_.called_computation_ids, [id("body"), id("condition")]);
    assert_eq!(module.host_program_shape.as_ref().unwrap().parameter_names, ["x", "w", "index"]);
}

#[test]
fn special_numbers_keep_their_bits() {
    let value = constant("f32[4]{0}", "{nan, -nan, nan(0x400001), -0}").unwrap();
    let bits: Vec<u32> = value.to_vec::<f32>().unwrap().iter().map(|v| v.to_bits()).collect();
    assert_eq!(bits, [0x7fc00000, 0xffc00000, 0x7fc00001, 0x80000000]);
    assert_eq!(constant("bf16[2]{0}", "{inf, -nan}").unwrap().bytes(), [0x80, 0x7f, 0xc0, 0xff]);
    assert_eq!(constant("s8[2]{0}", "{-128, 127}").unwrap().bytes(), [0x80, 0x7f]);
    assert_eq!(constant("pred[2]{0}", "{true, 0}").unwrap().bytes(), [1, 0]);
    assert_eq!(constant("c64[]", "(1, 2)"), None);
}

#[test]
fn errors_name_line_and_column() {
    let e = error(&entry(" x = f32[2]{0} parameter(0)\n y = f32[2]{0} negate(z)"));
    assert_eq!((e.line, e.column), (4, 23));
    assert_eq!(
        e.to_string(),
        "hlo text, line 4, column 23: expected the name of an instruction above in this computation, found `z)`"
    );
    assert!(error("").expected.contains("HloModule"));
    assert!(error("HloModule m").expected.contains("ENTRY"));
    assert!(error(&entry("")).expected.contains("at least one instruction"));
}

#[test]
fn wrong_texts_are_refused() {
    let cases = [
        (" x = f32[-1]{0} parameter(0)", "at least 0"),
        (" x = f33[1]{0} parameter(0)", "element type"),
        (" x = f32[2,2]{1,1} parameter(0)", "orders 2 dimensions"),
        (" x = f32[99999999999999999999] parameter(0)", "64 bits"),
        (" x = f32[2]{0} constant({1})", "2 values"),
        (" x = f32[2]{0} constant(1)", "nested 1 deep"),
        (" x = s8[] constant(128)", "type s8"),
        (" x = pred[] constant(2)", "type pred"),
        (" x = f32[] parameter(-1)", "at least 0"),
        (" x = f32[] parameter(0)\n x = f32[] parameter(1)", "not taken"),
        (" x = f32[] call(), to_apply=nobody", "computation above"),
        (" x = f32[] parameter(0), metadata={op_name=\"open", "double quotes"),
        (" x = f32[] parameter(0), future={(", "close"),
    ];
    for (body, expected) in cases {
        let e = error(&entry(body));
        assert!(e.expected.contains(expected), "{body}: {e}");
    }
}

#[test]
fn huge_declared_sizes_cost_nothing() {
    let e = error(&entry(" x = f32[4000000000000,4000000000000]{1,0} constant({ { 1 } })"));
    assert!(e.expected.contains("values for"), "{e}");
    parse(&entry(" x = f32[4000000000000,4000000000000]{1,0} constant({...})")).unwrap();
    parse(&entry(" x = f32[] all-gather(), replica_groups=[1000000000000,1000000000000]<=[8]")).unwrap();
}

#[test]
fn deep_nesting_is_an_error_not_an_overflow() {
    let many = 200_000;
    let deep = |text: &str| text.replace('@', &"(".repeat(many)).replace('#', &"{".repeat(many));
    for body in [
        " x = @f32[]",
        " x = f32[] constant(#1)",
        " x = () constant(@",
        " x = f32[] parameter(0), sharding=#",
        " x = f32[] parameter(0), other=@#",
    ] {
        assert!(parse(&entry(&deep(body))).is_err(), "{body}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn changed_texts_parse_or_fail_but_never_panic(
        dump in any::<bool>(), at in any::<prop::sample::Index>(), cut in 0usize..40,
        put in "[ -~\n]{0,6}", other in any::<prop::sample::Index>(), length in 0usize..60,
    ) {
        let text: Vec<char> = if dump { DUMP } else { EVERY_FAMILY }.chars().collect();
        let (at, other) = (at.index(text.len()), other.index(text.len()));
        let mut changed: String = text[..at].iter().collect();
        changed.push_str(&put);
        changed.extend(&text[other..(other + length).min(text.len())]);
        changed.extend(&text[(at + cut).min(text.len())..]);
        if let Ok(module) = parse(&changed) {
            let printed = print(&module);
            let again = parse(&printed);
            prop_assert!(again.is_ok(), "{:?}\n{printed}", again.err());
            prop_assert_eq!(print(&again.unwrap()), printed);
            if let Ok(report) = crate::inspect::inspect(&module) {
                crate::inspect::render(&report);
            }
        }
    }

    #[test]
    fn changed_protos_are_read_or_refused_but_never_panic(
        at in any::<prop::sample::Index>(), put in prop::collection::vec(any::<u8>(), 0..4), cut in 0usize..4,
    ) {
        let mut bytes = crate::hlo::encode(&parse(EVERY_FAMILY).unwrap());
        let at = at.index(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, put);
        if let Ok(module) = crate::hlo::decode(&bytes) {
            print(&module);
            if let Ok(report) = crate::inspect::inspect(&module) {
                crate::inspect::render(&report);
            }
        }
    }
}
