//! Task type `fibonacci`: `{"n": 10}` → `{"result": 55}`, exact for every n up to [`MAX_N`].

use num_bigint::BigUint;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use taskforge_sdk::Failure;

/// The largest n. Its Fibonacci number has 208,988 digits. In the sandbox it took 3.4 billion units
/// of fuel, 2.4 MB and 0.7 s on a busy 2-core machine; natively 27 ms to compute and 41 ms to write
/// in decimal, because num-bigint (from 0.4.7 on) divides and conquers there.
pub const MAX_N: u32 = 1_000_000;

/// The largest integer below which a double, and so a JSON number in most languages, holds every
/// integer exactly.
const MAX_EXACT: u64 = (1 << 53) - 1;

/// Which Fibonacci number.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its index, counted from F(0) = 0.
    #[serde(deserialize_with = "index")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub n: u32,
}

/// The Fibonacci number.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// F(n).
    pub result: Exact,
}

/// An integer: a JSON number up to 9007199254740991 (2^53 - 1), a string of decimal digits beyond,
/// because most languages read JSON numbers as doubles, which hold no larger integer exactly.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Exact {
    /// Up to 2^53 - 1.
    Number(#[schemars(range(min = 0, max = 9_007_199_254_740_991_u64))] u64),
    /// Beyond.
    Digits(#[schemars(regex(pattern = "^[1-9][0-9]{15,}$"))] String),
}

taskforge_sdk::handler!(fibonacci);

/// The handler.
///
/// # Errors
/// A permanent failure when `n` is over [`MAX_N`].
#[allow(clippy::needless_pass_by_value, reason = "a handler owns its input")]
pub fn fibonacci(input: Input) -> Result<Output, Failure> {
    if input.n > MAX_N {
        return Err(Failure::permanent(format!("n is {}, and must be at most {MAX_N}", input.n)));
    }
    let number = number(input.n);
    let result = match u64::try_from(&number) {
        Ok(small) if small <= MAX_EXACT => Exact::Number(small),
        _ => Exact::Digits(number.to_string()),
    };
    Ok(Output { result })
}

/// F(n) by fast doubling: F(2k) = F(k)·(2F(k+1) − F(k)) and F(2k+1) = F(k)² + F(k+1)², once for
/// each bit of n. Memory is linear in the bits of the result.
fn number(n: u32) -> BigUint {
    let (mut a, mut b) = (BigUint::ZERO, BigUint::from(1_u8)); // F(k), F(k+1)
    for bit in (0..u32::BITS - n.leading_zeros()).rev() {
        let even = &a * ((&b << 1_u8) - &a);
        let odd = &a * &a + &b * &b;
        (a, b) = if n >> bit & 1 == 0 {
            (even, odd)
        } else {
            let next = even + &odd;
            (odd, next)
        };
    }
    a
}

/// Reads what JSON Schema calls an integer: `10` and `10.0` are the same number, so the same input.
fn index<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct Index;
    impl de::Visitor<'_> for Index {
        type Value = u32;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "an integer from 0 to {MAX_N}")
        }
        fn visit_u64<E: de::Error>(self, n: u64) -> Result<u32, E> {
            u32::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(n), &self))
        }
        fn visit_i64<E: de::Error>(self, n: i64) -> Result<u32, E> {
            u32::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))
        }
        fn visit_f64<E: de::Error>(self, n: f64) -> Result<u32, E> {
            // The cast saturates and cuts, so only an integer in range survives the way back.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let whole = n as u32;
            #[allow(clippy::float_cmp)]
            let same = f64::from(whole) == n;
            same.then_some(whole).ok_or_else(|| E::invalid_value(de::Unexpected::Float(n), &self))
        }
    }
    deserializer.deserialize_any(Index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(n: u32) -> Exact {
        fibonacci(Input { n }).unwrap().result
    }

    fn digits(n: u32) -> String {
        match result(n) {
            Exact::Digits(digits) => digits,
            Exact::Number(number) => number.to_string(),
        }
    }

    #[test]
    fn the_first_hundred_thousand_terms_obey_the_recurrence() {
        let (mut a, mut b) = (BigUint::ZERO, BigUint::from(1_u8));
        for n in 0..100_000_u32 {
            if n < 2_000 || n % 997 == 0 {
                assert_eq!(number(n), a, "F({n})");
            }
            let next = &a + &b;
            (a, b) = (b, next);
        }
    }

    #[test]
    fn known_values_are_exact() {
        for (n, expected) in [(0, 0), (1, 1), (2, 1), (10, 55), (50, 12_586_269_025)] {
            assert_eq!(result(n), Exact::Number(expected), "F({n})");
        }
        assert_eq!(digits(100), "354224848179261915075");
        assert_eq!(digits(300), "222232244629420445529739893461909967206666939096499764990979600");
    }

    #[test]
    fn a_number_that_a_double_cannot_hold_is_written_as_digits() {
        assert_eq!(result(78), Exact::Number(8_944_394_323_791_464));
        assert_eq!(result(79), Exact::Digits("14472334024676221".to_owned()));
    }

    #[test]
    fn the_largest_n_is_exact_by_cassini_and_by_its_known_digits() {
        let (before, at, after) = (number(MAX_N - 1), number(MAX_N), number(MAX_N + 1));
        // F(n-1)·F(n+1) − F(n)² = (−1)^n
        assert_eq!(before * after - &at * &at, BigUint::from(1_u8));
        let digits = digits(MAX_N);
        assert_eq!(digits.len(), 208_988);
        assert!(digits.starts_with("195328212870775773163201494759625633244"));
        assert!(digits.ends_with("68996526838242546875"));
    }

    #[test]
    fn what_is_not_an_index_is_refused() {
        for text in [
            r#"{"n":-1}"#,
            r#"{"n":1.5}"#,
            r#"{"n":"1"}"#,
            r#"{"n":null}"#,
            "{}",
            r#"{"n":1,"m":2}"#,
            r#"{"n":1e300}"#,
        ] {
            assert!(serde_json::from_str::<Input>(text).is_err(), "{text}");
        }
        assert!(!fibonacci(Input { n: MAX_N + 1 }).unwrap_err().is_retryable());
    }

    #[test]
    fn an_integer_written_as_a_decimal_is_the_same_integer() {
        for text in [r#"{"n":10.0}"#, r#"{"n":1e1}"#, r#"{"n":10}"#] {
            assert_eq!(serde_json::from_str::<Input>(text).unwrap().n, 10, "{text}");
        }
    }
}
