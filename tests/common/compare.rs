//! Says where two values differ.

use switchyard::ir::Literal;

/// The first difference between an expected and a found value, if they differ by more than `error`.
///
/// NaN equals NaN, and zeros are equal whatever their sign.
pub fn difference(expected: &Literal, found: &Literal, error: f64) -> Option<String> {
    if expected.ty() != found.ty() {
        return Some(format!("type {} was expected, found {}", expected.ty(), found.ty()));
    }
    if !expected.ty().dtype.is_float() {
        let same = expected.bytes() == found.bytes();
        return (!same).then(|| format!("expected {expected:?}, found {found:?}"));
    }
    let (a, b) = (expected.to_f64(), found.to_f64());
    let differ = |(a, b): (&f64, &f64)| {
        let same = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= error;
        !same
    };
    let at = a.iter().zip(&b).position(differ)?;
    Some(format!(
        "element {at} is {:?}, {:?} was expected within {error:e}: expected {expected:?}, found {found:?}",
        b[at], a[at]
    ))
}
