//! The Switch layer inside attention (Switch Transformer, appendix A): experts make queries, keys and values of their tokens.
//!
//! One choice of experts serves all three, as in Mesh TensorFlow. Each expert is three matrices. A dropped token has a query,
//! a key and a value of zero.

use super::layer::{Stats, routed};
use super::router;
use crate::build::{BuildError, Builder};
use crate::config::{ModelConfig, Router};
use crate::ir::Value;
use crate::layers::attention::{self, Projection, projections};
use crate::layers::{Context, Params};
use crate::shard::Axis;

pub fn declare(params: &mut Params, config: &ModelConfig, router: &Router) {
    router::declare(params, router, config.d_model, &config.moe);
    params.scoped("experts", |params| {
        for Projection { name, width, scale } in projections(config) {
            let shape = [config.moe.num_experts, config.d_model, width];
            params.expert_matrices(name, shape, scale).split(-1, Axis::Model);
        }
    });
    attention::declare_output(params, config);
}

/// Queries, keys and values of `x [batch, length, d_model]`: `[batch, length, width]` each, of the heads that this device has;
/// `real f32[batch, length]` marks what is not padding.
pub fn project(
    b: &mut Builder,
    cx: &Context,
    router: &Router,
    (x, real): (Value, Value),
) -> Result<([Value; 3], Stats), BuildError> {
    let projections = projections(cx.config);
    let (all, stats) = routed(b, cx, router, (x, real), |b, inputs| {
        let product = |projection: &Projection| {
            let weight = cx.weight(b, projection.name)?;
            b.einsum("etd,edf->etf", inputs, weight)
        };
        let products: Vec<Value> = projections.iter().map(product).collect::<Result<_, _>>()?;
        b.concatenate(&products, 2) // [experts, slots, all widths]
    })?;
    let mut start = 0;
    let mut part = |projection: Projection| {
        let end = start + projection.width / cx.mesh.model;
        let part = b.slice_axis(all, 2, start, end);
        start = end;
        part
    };
    let [q, k, v] = projections.map(&mut part);
    Ok(([q?, k?, v?], stats))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Capacity, MoeConfig};
    use crate::ir::{DType, Literal, TensorType};
    use crate::layers::{Phase, Weights};
    use crate::moe::testing::{close, outputs};
    use crate::shard::Mesh;

    #[test]
    fn a_dropped_token_has_a_query_a_key_and_a_value_of_zero() {
        let capacity = Capacity::Absolute { train: 1, eval: 1, multiple: 1 };
        let moe = MoeConfig { num_experts: 2, capacity, ..MoeConfig::default() };
        let config = ModelConfig { d_model: 2, num_heads: 1, d_kv: 1, moe, ..ModelConfig::default() };
        let router = Router::default();
        let mut params = Params::default();
        declare(&mut params, &config, &router);
        let defs = params.into_defs();
        let names: Vec<&str> = defs.iter().map(|def| def.name.as_str()).collect();
        assert_eq!(names, ["router", "experts/q", "experts/k", "experts/v", "o"]);
        // Logits of the three tokens: (1, 0), (2, 0), (0, 1); expert 0 has one slot, which the first token takes.
        let tensor = |shape: &[usize], data: &[f32]| Literal::new(shape, data).unwrap();
        let matrices = |scale: f32| tensor(&[2, 2, 1], &[scale, 0.0, 0.0, 10.0 * scale]);
        let inputs = [
            tensor(&[2, 2], &[1.0, 0.0, 0.0, 1.0]),
            matrices(1.0),
            matrices(2.0),
            matrices(3.0),
            tensor(&[1, 2], &[0.0; 2]),
            tensor(&[1, 3, 2], &[1.0, 0.0, 2.0, 0.0, 0.0, 1.0]),
            tensor(&[1, 3], &[1.0; 3]),
        ];
        let found = outputs(&inputs, |b, x| {
            let weights = Weights::new(Mesh::default(), defs.iter().zip(x.iter().copied()));
            let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
            let cx = Context::alone(&config, Phase::Eval, &weights, key);
            let ([q, k, v], stats) = project(b, &cx, &router, (x[5], x[6]))?;
            Ok(vec![q, k, v, stats.decisions, stats.dropped])
        });
        // The gate of the others is e / (e + 1).
        let gate = 0.7310586;
        for (projected, scale) in found.iter().zip([1.0, 2.0, 3.0]) {
            close(projected, &[gate * scale, 0.0, gate * 10.0 * scale], 1e-5);
        }
        assert_eq!(found[3], [0.0, -1.0, 1.0]);
        close(&found[4], &[1.0 / 3.0], 1e-6);
    }
}
