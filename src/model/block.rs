//! One block: attention, attention to the encoder, experts or feed-forward network, each around a residual connection.

use crate::build::{BuildError, Builder};
use crate::config::{ModelConfig, Side};
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
    let experts = Experts::new(config, sparse);
    sublayer(params, "attention", &|p| match experts.attention {
        true => moe::declare_attention(p, config, side.router(config)),
        false => attention::declare(p, config),
    });
    if side.has_cross_attention(config) {
        sublayer(params, "cross_attention", &|p| attention::declare(p, config));
    }
    if experts.feed_forward {
        sublayer(params, "moe", &|p| moe::declare(p, config, side.router(config)));
    }
    if !experts.feed_forward || config.dense_after_sparse {
        sublayer(params, "mlp", &|p| feed_forward::declare(p, config));
    }
}

/// Which sublayers of a block have experts.
#[derive(Clone, Copy)]
struct Experts {
    attention: bool,
    feed_forward: bool,
}

impl Experts {
    fn new(config: &ModelConfig, sparse: bool) -> Self {
        let sublayers = config.moe.sublayers;
        Self { attention: sparse && sublayers.attention(), feed_forward: sparse && sublayers.feed_forward() }
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
    /// Keys of the stack's own tokens, of which the block has made these.
    fn own(&mut self, b: &mut Builder, new: Vec<Value>) -> Result<Vec<Value>, BuildError>;

    /// Keys of the encoder's tokens.
    fn cross(&mut self, b: &mut Builder, cx: &Context) -> Result<Vec<Value>, BuildError>;
}

/// Keys of a whole sequence, used where they are made.
pub struct Sequence {
    /// The encoder's states `[batch, keys, d_model]`.
    pub memory: Option<Value>,
}

impl Keys for Sequence {
    fn own(&mut self, _: &mut Builder, new: Vec<Value>) -> Result<Vec<Value>, BuildError> {
        Ok(new)
    }

    fn cross(&mut self, b: &mut Builder, cx: &Context) -> Result<Vec<Value>, BuildError> {
        match self.memory {
            Some(states) => attention::keys(b, cx, states, None),
            None => Err(BuildError::Invalid("internal: there is no encoder to attend to".into())),
        }
    }
}

/// The block on `x [batch, length, d_model]`, and the statistics of its sublayers with experts, in order.
pub fn apply(
    b: &mut Builder,
    cx: &Context,
    sparse: bool,
    x: Value,
    shared: &Shared,
    keys: &mut impl Keys,
) -> Result<(Value, Vec<Stats>), BuildError> {
    let experts = Experts::new(cx.config, sparse);
    let router = shared.side.router(cx.config);
    let mut stats = vec![];
    let mut x = residual(b, cx, "attention", x, |b, x| {
        let (new, queries) = match experts.attention {
            true => {
                let (projected, found) = moe::project(b, cx, router, (x, shared.real))?;
                stats.push(found);
                attention::from_projections(b, cx, projected, shared.rotation)?
            }
            false => {
                (attention::keys(b, cx, x, shared.rotation)?, attention::queries(b, cx, x, shared.rotation)?)
            }
        };
        let own = keys.own(b, new)?;
        attention::attend(b, cx, queries, &own, &shared.terms)
    })?;
    if let Some(terms) = &shared.cross {
        x = residual(b, cx, "cross_attention", x, |b, x| {
            let cross = keys.cross(b, cx)?;
            let queries = attention::queries(b, cx, x, None)?;
            attention::attend(b, cx, queries, &cross, terms)
        })?;
    }
    if experts.feed_forward {
        x = residual(b, cx, "moe", x, |b, x| {
            let (y, found) = moe::apply(b, cx, router, (x, shared.real))?;
            stats.push(found);
            Ok(y)
        })?;
    }
    if !experts.feed_forward || cx.config.dense_after_sparse {
        x = residual(b, cx, "mlp", x, |b, x| feed_forward::apply(b, cx, x))?;
    }
    Ok((x, stats))
}

/// `x + dropout(layer(norm(x)))`.
fn residual(
    b: &mut Builder,
    cx: &Context,
    name: &str,
    x: Value,
    layer: impl FnOnce(&mut Builder, Value) -> Result<Value, BuildError>,
) -> Result<Value, BuildError> {
    b.scoped(name, |b| {
        let normal = norm::rms_norm(b, cx, "norm", x)?;
        let y = layer(b, normal)?;
        let y = dropout::dropout(b, cx, "output", cx.config.dropout, y)?;
        b.add(x, y)
    })
}
