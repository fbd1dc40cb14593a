//! One block: attention, attention to the encoder, experts or feed-forward network, each around a residual connection.

use super::side::Side;
use crate::build::{BuildError, Builder};
use crate::config::ModelConfig;
use crate::ir::Value;
use crate::layers::attention::{self, Term};
use crate::layers::rotary::Rotation;
use crate::layers::{Context, Params, dropout, feed_forward, norm};
use crate::moe::{self, Stats};

pub fn declare(params: &mut Params, config: &ModelConfig, side: Side, sparse: bool) {
    let sublayer = |params: &mut Params, name: &str, declare: &dyn Fn(&mut Params)| {
        params.scoped(name, |params| {
            norm::declare(params, "norm", config.d_model);
            declare(params);
        });
    };
    sublayer(params, "attention", &|p| attention::declare(p, config));
    if side.has_cross_attention(config) {
        sublayer(params, "cross_attention", &|p| attention::declare(p, config));
    }
    if sparse {
        sublayer(params, "moe", &|p| moe::declare(p, config, side.router(config)));
    }
    if !sparse || config.dense_after_sparse {
        sublayer(params, "mlp", &|p| feed_forward::declare(p, config));
    }
}

/// What all blocks of a stack share.
#[derive(Clone, Debug)]
pub struct Shared {
    pub side: Side,
    /// Of self-attention.
    pub terms: Vec<Term>,
    pub rotation: Option<Rotation>,
    /// `f32[batch, length]`: 1 for tokens, 0 for padding.
    pub real: Value,
    /// Of attention to the encoder.
    pub cross: Option<Vec<Term>>,
}

impl Shared {
    /// All values, in the order of [`Shared::with`].
    pub fn values(&self) -> Vec<Value> {
        let mut values = vec![];
        self.map(&mut |value| {
            values.push(value);
            value
        });
        values
    }

    /// The same with other values.
    pub fn with(&self, values: &[Value]) -> Self {
        let mut next = values.iter().copied();
        self.map(&mut |value| next.next().unwrap_or(value))
    }

    fn map(&self, to: &mut impl FnMut(Value) -> Value) -> Self {
        Self {
            side: self.side,
            terms: map_terms(&self.terms, to),
            rotation: self.rotation.map(|r| Rotation { cos: to(r.cos), sin: to(r.sin), ..r }),
            real: to(self.real),
            cross: self.cross.as_ref().map(|terms| map_terms(terms, to)),
        }
    }
}

fn map_terms(terms: &[Term], to: &mut impl FnMut(Value) -> Value) -> Vec<Term> {
    terms.iter().map(|term| Term { value: to(term.value), ..*term }).collect()
}

/// Where a block finds the keys that its queries attend to.
pub trait Keys {
    /// Keys of the stack's own tokens, of which the block works on `x [batch, length, d_model]`.
    fn own(&mut self, b: &mut Builder, cx: &Context, x: Value) -> Result<Vec<Value>, BuildError>;

    /// Keys of the encoder's tokens.
    fn cross(&mut self, b: &mut Builder, cx: &Context) -> Result<Vec<Value>, BuildError>;
}

/// Keys of a whole sequence, made where they are used.
pub struct Sequence {
    pub rotation: Option<Rotation>,
    /// The encoder's states `[batch, keys, d_model]`.
    pub memory: Option<Value>,
}

impl Keys for Sequence {
    fn own(&mut self, b: &mut Builder, cx: &Context, x: Value) -> Result<Vec<Value>, BuildError> {
        attention::keys(b, cx, x, self.rotation)
    }

    fn cross(&mut self, b: &mut Builder, cx: &Context) -> Result<Vec<Value>, BuildError> {
        match self.memory {
            Some(states) => attention::keys(b, cx, states, None),
            None => Err(BuildError::Invalid("internal: there is no encoder to attend to".into())),
        }
    }
}

/// The block on `x [batch, length, d_model]`, and the statistics of its experts.
pub fn apply(
    b: &mut Builder,
    cx: &Context,
    sparse: bool,
    x: Value,
    shared: &Shared,
    keys: &mut impl Keys,
) -> Result<(Value, Option<Stats>), BuildError> {
    let (mut x, ()) = residual(b, cx, "attention", x, |b, x| {
        let own = keys.own(b, cx, x)?;
        Ok((attention::attend(b, cx, x, &own, &shared.terms, shared.rotation)?, ()))
    })?;
    if let Some(terms) = &shared.cross {
        (x, ()) = residual(b, cx, "cross_attention", x, |b, x| {
            let cross = keys.cross(b, cx)?;
            Ok((attention::attend(b, cx, x, &cross, terms, None)?, ()))
        })?;
    }
    let mut stats = None;
    if sparse {
        (x, stats) = residual(b, cx, "moe", x, |b, x| {
            let (y, stats) = moe::apply(b, cx, shared.side.router(cx.config), (x, shared.real))?;
            Ok((y, Some(stats)))
        })?;
    }
    if !sparse || cx.config.dense_after_sparse {
        (x, ()) = residual(b, cx, "mlp", x, |b, x| Ok((feed_forward::apply(b, cx, x)?, ())))?;
    }
    Ok((x, stats))
}

/// `x + dropout(layer(norm(x)))`.
fn residual<T>(
    b: &mut Builder,
    cx: &Context,
    name: &str,
    x: Value,
    layer: impl FnOnce(&mut Builder, Value) -> Result<(Value, T), BuildError>,
) -> Result<(Value, T), BuildError> {
    b.scoped(name, |b| {
        let normal = norm::rms_norm(b, cx, "norm", x)?;
        let (y, extra) = layer(b, normal)?;
        let y = dropout::dropout(b, cx, "output", cx.config.dropout, y)?;
        Ok((b.add(x, y)?, extra))
    })
}
