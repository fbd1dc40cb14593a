//! Floating-point numbers as XLA prints them: few digits where those suffice to come back exactly.

/// How a float type prints: mantissa bits, the digits tried in order.
pub struct FloatFormat {
    pub mantissa_bits: u32,
    pub digits: &'static [usize],
}

pub const F16: FloatFormat = FloatFormat { mantissa_bits: 10, digits: &[5] };
pub const BF16: FloatFormat = FloatFormat { mantissa_bits: 7, digits: &[4] };
pub const F32: FloatFormat = FloatFormat { mantissa_bits: 23, digits: &[6, 9] };
pub const F64: FloatFormat = FloatFormat { mantissa_bits: 52, digits: &[15, 17] };

/// The text of a value with these bits; `same` says whether a printed text reads back as the value.
pub fn float_text(value: f64, bits: u64, format: &FloatFormat, same: impl Fn(&str) -> bool) -> String {
    let sign = if value.is_sign_negative() { "-" } else { "" };
    if value.is_nan() {
        let payload = bits & ((1 << format.mantissa_bits) - 1);
        let quiet = 1u64 << (format.mantissa_bits - 1);
        return if payload == quiet { format!("{sign}nan") } else { format!("{sign}nan(0x{payload:x})") };
    }
    if value.is_infinite() {
        return format!("{sign}inf");
    }
    if value == 0.0 {
        return if sign.is_empty() { "0".into() } else { "-0.0".into() }; // XLA reads `-0` as the integer
    }
    let mut text = String::new();
    for &digits in format.digits {
        text = general(value, digits);
        if same(&text) {
            break;
        }
    }
    text
}

/// C's `%.{digits}g`.
fn general(value: f64, digits: usize) -> String {
    let scientific = format!("{:.*e}", digits.saturating_sub(1), value);
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    trim(&format!("{value:.decimals$}")).to_string()
}

/// Drops trailing zeros behind a point.
fn trim(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32_text(v: f32) -> String {
        float_text(v.into(), v.to_bits().into(), &F32, |t| t.parse() == Ok(v))
    }

    #[test]
    fn single_floats_print_as_xla_prints_them() {
        let cases: [(f32, &str); 12] = [
            (0.1, "0.1"),
            (3e38, "3e+38"),
            (1e-9, "1e-09"),
            (16777216.0, "16777216"),
            (123456.7, "123456.703"),
            (-0.0, "-0.0"),
            (0.0, "0"),
            (1.5, "1.5"),
            (f32::INFINITY, "inf"),
            (f32::NEG_INFINITY, "-inf"),
            (f32::from_bits(0x7fc00000), "nan"),
            (f32::from_bits(0xffc00001), "-nan(0x400001)"),
        ];
        for (value, text) in cases {
            assert_eq!(f32_text(value), text);
        }
        assert_eq!(
            (f32_text(1e6), f32_text(1e5), f32_text(1e-4), f32_text(0.99999994)),
            ("1e+06".into(), "100000".into(), "0.0001".into(), "0.99999994".into())
        );
    }
}
