//! Comparing numbers and values as JSON Schema does: by what they are, not by how they are written.

use std::{cmp::Ordering, fmt::Write};

use serde_json::{Number, Value};

/// Compares two numbers exactly, without rounding one to the kind of the other.
pub(super) fn compare(left: &Number, right: &Number) -> Ordering {
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => left.cmp(&right),
        (Some(left), None) => with_fraction(left, float(right)),
        (None, Some(right)) => with_fraction(right, float(left)).reverse(),
        (None, None) => float(left).total_cmp(&float(right)),
    }
}

/// The number, if it has no fraction and is not beyond all measure.
pub(super) fn whole(number: &Number) -> Option<i128> {
    if let Some(number) = number.as_i128() {
        return Some(number);
    }
    let float = float(number);
    // Within this every such float is an exact integer.
    #[allow(clippy::cast_possible_truncation, reason = "its bounds were just checked")]
    (float.fract() == 0.0 && float.abs() < 1e30).then_some(float as i128)
}

fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or(f64::NAN)
}

/// Compares a whole number with one that has a fraction, or is greater than any whole one here.
fn with_fraction(whole: i128, float: f64) -> Ordering {
    if float.abs() >= 1e30 {
        return if float > 0.0 { Ordering::Less } else { Ordering::Greater };
    }
    #[allow(clippy::cast_possible_truncation, reason = "its bounds were just checked")]
    let floor = float.floor() as i128;
    // Equal to the floor is less than the number: it has a fraction.
    whole.cmp(&floor).then(Ordering::Less)
}

/// A text that is the same for two values if and only if they are equal.
pub(super) fn key(value: &Value) -> String {
    let mut key = String::new();
    write_key(value, &mut key);
    key
}

fn write_key(value: &Value, key: &mut String) {
    match value {
        Value::Number(number) => {
            // Writing to a string cannot fail.
            let written = match whole(number) {
                Some(whole) => write!(key, "{whole}"),
                None => write!(key, "{number}"),
            };
            debug_assert!(written.is_ok());
        }
        Value::Array(items) => {
            key.push('[');
            for item in items {
                write_key(item, key);
                key.push(',');
            }
            key.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            key.push('{');
            for (name, value) in members {
                write_key(&Value::String(name.clone()), key);
                key.push(':');
                write_key(value, key);
                key.push(',');
            }
            key.push('}');
        }
        other => key.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_compare_without_rounding() {
        let order = |left: Value, right: Value| {
            let (Value::Number(left), Value::Number(right)) = (left, right) else {
                panic!("numbers only");
            };
            assert_eq!(compare(&left, &right), compare(&right, &left).reverse());
            compare(&left, &right)
        };
        assert_eq!(order(json!(1), json!(1.0)), Ordering::Equal);
        assert_eq!(order(json!(1), json!(1.5)), Ordering::Less);
        assert_eq!(order(json!(-1), json!(-1.5)), Ordering::Greater);
        assert_eq!(
            order(json!(9_007_199_254_740_993_u64), json!(9_007_199_254_740_992.0)),
            Ordering::Greater
        );
        assert_eq!(order(json!(u64::MAX), json!(1e300)), Ordering::Less);
        assert_eq!(order(json!(i64::MIN), json!(-1e300)), Ordering::Greater);
        assert_eq!(order(json!(0.25), json!(0.5)), Ordering::Less);
    }

    #[test]
    fn equal_values_have_the_same_key() {
        assert_eq!(key(&json!({"a": 1.0, "b": [2, "x"]})), key(&json!({"b": [2.0, "x"], "a": 1})));
        for (left, right) in [
            (json!(1), json!("1")),
            (json!([1, 2]), json!([12])),
            (json!({"a": null}), json!({})),
            (json!(true), json!("true")),
        ] {
            assert_ne!(key(&left), key(&right));
        }
    }
}
