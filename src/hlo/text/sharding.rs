//! Shardings: `{replicated}`, `{devices=[2,1]0,1}`, `{devices=[2,2]<=[4] last_tile_dim_replicate}`, tuples.

use crate::hlo::proto::OpSharding;

/// The names of the types that stand alone, by their numbers.
pub const PLAIN: [(i32, &str); 4] = [(0, "replicated"), (4, "manual"), (5, "unknown"), (6, "unreduced")];

/// The text of a sharding with its braces.
pub fn sharding_text(s: &OpSharding) -> String {
    if let Some((_, name)) = PLAIN.iter().find(|(number, _)| *number == s.r#type) {
        return format!("{{{name}}}");
    }
    match s.r#type {
        1 => format!("{{maximal device={}}}", s.tile_assignment_devices.first().copied().unwrap_or(0)),
        2 => {
            let parts: Vec<String> = s.tuple_shardings.iter().map(sharding_text).collect();
            format!("{{{}}}", parts.join(", "))
        }
        _ => tiled(s),
    }
}

fn tiled(s: &OpSharding) -> String {
    let dims = list(&s.tile_assignment_dimensions);
    let devices = if s.iota_reshape_dims.is_empty() {
        list(&s.tile_assignment_devices)
    } else {
        iota_text(&s.iota_reshape_dims, &s.iota_transpose_perm)
    };
    let mut out = format!("{{devices=[{dims}]{devices}");
    if s.replicate_on_last_tile_dim {
        out.push_str(" last_tile_dim_replicate");
    }
    if !s.last_tile_dims.is_empty() {
        let name = |t: &i32| PLAIN.iter().find(|(n, _)| n == t).map_or("unknown", |(_, name)| *name);
        let names: Vec<&str> = s.last_tile_dims.iter().map(name).collect();
        out.push_str(&format!(" last_tile_dims={{{}}}", names.join(", ")));
    }
    out.push('}');
    out
}

/// `<=[4,2]T(1,0)`; a transposition that changes nothing is not printed.
pub fn iota_text(reshape: &[i64], transpose: &[i32]) -> String {
    let identity = transpose.iter().enumerate().all(|(i, &p)| usize::try_from(p) == Ok(i));
    let transpose: Vec<i64> = transpose.iter().map(|&p| p.into()).collect();
    match identity {
        true => format!("<=[{}]", list(reshape)),
        false => format!("<=[{}]T({})", list(reshape), list(&transpose)),
    }
}

fn list(values: &[i64]) -> String {
    values.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}
