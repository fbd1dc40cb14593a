use super::*;
use crate::hlo::parse;
use crate::ir::DType;

/// Five trips of a matrix product [4,8] x [8,8] over carried state, donated, under two scopes.
const LOOP: &str = r#"HloModule loop, input_output_alias={ {0}: (0, {}, may-alias) }

%sum {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%body {
  %p = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = f32[4,8]{1,0} get-tuple-element(%p), index=1
  %w = f32[8,8]{1,0} get-tuple-element(%p), index=2
  %d = f32[4,8]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="encoder/block_1/ffn/wi"}
  %t = f32[4,8]{1,0} tanh(%d), metadata={op_name="grad/encoder/block_2/ffn/act"}
  %g = f32[4,8]{1,0} all-reduce(%t), replica_groups={{0,1,2,3}}, to_apply=%sum
  ROOT %out = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) tuple(%next, %g, %w)
}

%condition {
  %p = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(5)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main {
  %hidden = f32[4,8]{1,0} parameter(0)
  %wi = f32[8,8]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %init = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) tuple(%zero, %hidden, %wi)
  %loop = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) while(%init), condition=%condition, body=%body, metadata={op_name="encoder/blocks/while"}
  %y = f32[4,8]{1,0} get-tuple-element(%loop), index=1
  %fzero = f32[] constant(0)
  %s = f32[] reduce(%y, %fzero), dimensions={0,1}, to_apply=%sum
  ROOT %r = (f32[4,8]{1,0}, f32[]) tuple(%y, %s)
}
"#;

fn report() -> Report {
    inspect(&parse(LOOP).unwrap()).unwrap()
}

#[test]
fn loop_bodies_count_as_often_as_they_run() {
    let r = report();
    assert_eq!(r.loops.len(), 1);
    assert_eq!((r.loops[0].trip_count, r.loops[0].executions), (Some(5), 1));
    // dot: 2 * 4 * 8 * 8 = 512 a trip; tanh: 32 a trip.
    assert_eq!((r.flops.dot, r.flops.transcendental), (2560, 160));
    // A trip: add 1, all-reduce 32; six conditions of 1; the reduction of 32 values to one: 31.
    assert_eq!(r.flops.elementwise, 5 * 33 + 6 + 31);
}

#[test]
fn scopes_are_split_into_forward_and_backward() {
    let r = report();
    let row = r.scopes.iter().find(|s| s.scope == "encoder/block_*/ffn").unwrap();
    assert_eq!((row.forward.dot, row.backward.transcendental, row.dot_share), (2560, 160, 1.0));
}

#[test]
fn collectives_are_counted_per_device() {
    let r = report();
    assert_eq!(r.collectives.len(), 1);
    let row = &r.collectives[0];
    // 4 * 8 * 4 bytes = 128 a trip; a ring of 4 sends 2 * 3/4 of it: 192 a trip.
    assert_eq!(
        (row.opcode.as_str(), row.group_size, row.instructions, row.executions),
        ("all-reduce", Some(4), 1, 5)
    );
    assert_eq!((row.input_bytes, row.output_bytes, row.ring_bytes), (640, 640, Some(960)));
}

#[test]
fn memory_is_parameters_plus_what_lives_at_once() {
    let r = report();
    // Parameters 128 + 256. The body holds next (4) + dot (128), tanh in place, then the all-reduce beside it.
    assert_eq!((r.memory.parameter_bytes, r.memory.peak_temporary_bytes), (384, 4 + 128 + 128));
    assert_eq!((r.parameter_bytes, r.output_bytes, r.aliases.bytes), (384, 132, 128));
    assert_eq!(r.memory.unaliased_output_bytes, 4);
}

#[test]
fn what_a_loop_fills_takes_memory_and_is_kept_for_the_backward_pass() {
    // The loop writes over zeros [4,8], which must be there: 128 bytes, that a gradient reads, beside that gradient.
    let text = r#"HloModule m
body { p = (s32[], f32[4,8]{1,0}) parameter(0)
  i = s32[] get-tuple-element(p), index=0
  one = s32[] constant(1)
  j = s32[] add(i, one)
  x = f32[4,8]{1,0} get-tuple-element(p), index=1
  ROOT t = (s32[], f32[4,8]{1,0}) tuple(j, x) }
condition { p = (s32[], f32[4,8]{1,0}) parameter(0)
  i = s32[] get-tuple-element(p), index=0
  n = s32[] constant(4)
  ROOT c = pred[] compare(i, n), direction=LT }
ENTRY e { z = s32[] constant(0)
  f = f32[] constant(0)
  zeros = f32[4,8]{1,0} broadcast(f), dimensions={}
  t = (s32[], f32[4,8]{1,0}) tuple(z, zeros)
  w = (s32[], f32[4,8]{1,0}) while(t), condition=condition, body=body, metadata={op_name="encoder"}
  y = f32[4,8]{1,0} get-tuple-element(w), index=1
  ROOT g = f32[4,8]{1,0} exponential(y), metadata={op_name="grad/encoder"} }"#;
    let memory = inspect(&parse(text).unwrap()).unwrap().memory;
    // In the body: the next index (4) and nothing else.
    assert_eq!((memory.kept_bytes, memory.peak_temporary_bytes), (128, 128 + 4));
}

#[test]
fn what_is_computed_again_is_not_kept() {
    // x [8] is kept for y, which is computed again, and for no gradient itself.
    let text = r#"HloModule m
ENTRY e { p = f32[8]{0} parameter(0)
  x = f32[8]{0} exponential(p), metadata={op_name="encoder"}
  y = f32[8]{0} sine(x), metadata={op_name="encoder"}
  z = f32[8]{0} cosine(y), metadata={op_name="encoder"}
  t = (f32[8]{0}, f32[8]{0}) tuple(x, z)
  w = (f32[8]{0}, f32[8]{0}) opt-barrier(t), metadata={op_name="grad/encoder"}
  u = f32[8]{0} get-tuple-element(w), index=0
  again = f32[8]{0} sine(u), metadata={op_name="remat/encoder"}
  ROOT g = f32[8]{0} tanh(again), metadata={op_name="grad/encoder"} }"#;
    assert_eq!(inspect(&parse(text).unwrap()).unwrap().memory.kept_bytes, 32);
}

#[test]
fn a_sound_alias_table_has_no_faults_and_broken_ones_are_named() {
    let r = report();
    assert_eq!((r.aliases.faults.len(), r.aliases.rows[0].parameter_name.as_str()), (0, "hidden"));
    let with = |alias: &str| {
        let text = LOOP.replace("{0}: (0, {}, may-alias)", alias);
        inspect(&parse(&text).unwrap()).unwrap().aliases.faults
    };
    assert!(with("{0}: (1, {}, may-alias)")[0].contains("is f32[8,8], the output f32[4,8]"));
    assert!(with("{0}: (7, {}, must-alias)")[0].contains("no such parameter"));
    assert!(with("{5}: (0, {}, must-alias)")[0].contains("no such output"));
    assert!(with("{0}: (0, {}), {0}: (0, {})")[0].contains("aliased twice"));
    assert!(with("{0}: (0, {3})")[0].contains("no such part"));
}

#[test]
fn a_loop_up_to_a_value_that_is_not_constant_is_listed_as_unknown() {
    let text = LOOP.replace("%n = s32[] constant(5)", "%n = s32[] add(%i, %i)");
    let r = inspect(&parse(&text).unwrap()).unwrap();
    assert_eq!((r.loops[0].trip_count, r.flops.dot), (None, 512));
}

#[test]
fn trip_counts_follow_start_step_and_direction() {
    let trips =
        |from: &str, to: &str| inspect(&parse(&LOOP.replace(from, to)).unwrap()).unwrap().loops[0].trip_count;
    assert_eq!(trips("direction=LT", "direction=LE"), Some(6));
    assert_eq!(trips("%zero = s32[] constant(0)", "%zero = s32[] constant(3)"), Some(2));
    assert_eq!(trips("%one = s32[] constant(1)", "%one = s32[] constant(2)"), Some(3)); // 0, 2, 4
    assert_eq!(trips("%one = s32[] constant(1)", "%one = s32[] constant(0)"), None);
    assert_eq!(trips("compare(%i, %n), direction=LT", "compare(%n, %i), direction=GT"), Some(5));
    // A compiler copies the counter from one memory to another.
    let copied = "%near = s32[] copy(%i)\n %next = s32[] add(%near, %one)";
    assert_eq!(trips("%next = s32[] add(%i, %one)", copied), Some(5));
    assert_eq!(
        trips("body=%body", "body=%body, backend_config={\"known_trip_count\":{\"n\":\"9\"}}"),
        Some(9)
    );
}

#[test]
fn dynamic_dimensions_are_found() {
    assert!(report().static_shapes.all_static);
    let text = LOOP.replace("%t = f32[4,8]", "%t = f32[<=4,8]");
    let r = inspect(&parse(&text).unwrap()).unwrap();
    assert_eq!(
        (r.static_shapes.all_static, r.static_shapes.dynamic),
        (false, vec!["t f32[<=4,8]".to_string()])
    );
}

#[test]
fn moe_shapes_are_compared_by_path_and_gradients_are_left_out() {
    let text = r#"HloModule m
ENTRY %e {
  %x = f32[2,4]{1,0} parameter(0), metadata={op_name="encoder/block_1/moe/mask"}
  %a = f32[2,4]{1,0} negate(%x), metadata={op_name="step/encoder/block_1/moe/mask"}
  %b = f32[4]{0} slice(%x), slice={[0:1], [0:4]}, metadata={op_name="grad/encoder/block_1/moe/mask"}
  ROOT %c = f32[2,4]{1,0} abs(%a), metadata={op_name="encoder/block_11/moe/mask"}
}
"#;
    let module = parse(text).unwrap();
    let expect = |scope: &str, shape: &[usize], dtype| ExpectedShape {
        scope: scope.into(),
        role: "mask".into(),
        shape: shape.to_vec(),
        dtype,
    };
    let checks = [
        expect("encoder/block_1/moe", &[2, 4], DType::F32),
        expect("encoder/block_1/moe", &[2, 5], DType::F32),
        expect("encoder/block_1/moe", &[2, 4], DType::Bf16),
        expect("block_7/moe", &[2, 4], DType::F32),
        expect("moe", &[2, 4], DType::F32),
    ];
    let outcomes = check_moe(&module, &checks);
    assert_eq!(outcomes.iter().map(|o| o.ok).collect::<Vec<_>>(), [true, false, false, false, true]);
    assert_eq!((outcomes[0].instructions, outcomes[4].instructions), (1, 2));
    assert_eq!(
        (outcomes[1].expected.as_str(), outcomes[1].found.as_slice()),
        ("f32[2,5]", &["f32[2,4]".to_string()][..])
    );
    assert!(outcomes[3].found.is_empty());
}

#[test]
fn the_report_prints_and_serialises() {
    let r = report();
    let text = render(&r);
    for part in ["static shapes: all", "all-reduce", "encoder/block_*/ffn", "f32[8,8]", "may"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let json = serde_json::to_value(&r).unwrap();
    assert_eq!(json["flops"]["dot"], 2560);
    assert_eq!(json["loops"][0]["trip_count"], 5);
}

#[test]
fn malformed_modules_are_errors() {
    let mut module = parse(LOOP).unwrap();
    module.entry_computation_id = 99;
    assert!(matches!(inspect(&module), Err(InspectError::Structure(_))));
}
