//! Ranges of addresses, as grants and `--allow-private` spell them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::address::canonical;

/// Reads a range such as `10.0.0.0/8`.
///
/// # Errors
/// When it is none, or holds no address that is ever looked for under this spelling. The error
/// says what to write instead.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = read(text)?;
    check(&network).map(|()| network)
}

/// Reads a range without judging it.
pub(super) fn read(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(100).collect();
        let hint = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(v4)) => format!("write {v4}/32 for this address alone"),
            Ok(IpAddr::V6(v6)) => format!("write {v6}/128 for this address alone"),
            Err(_) => "write it like 10.0.0.0/8 or fd00::/8".to_owned(),
        };
        format!("{shown:?} is not a range of addresses: {hint}")
    })
}

pub(super) fn check(network: &IpNet) -> Result<(), String> {
    let whole = network.trunc();
    if whole != *network {
        return Err(format!(
            "{network} is not a range of addresses: its bits beyond /{} are not 0, write {whole}",
            network.prefix_len()
        ));
    }
    // Addresses are compared as what they stand for, so a range of other spellings holds none.
    let (first, last) = (network.network(), network.broadcast());
    let (stands, to) = (canonical(first), canonical(last));
    if network.addr().is_ipv6() && stands.is_ipv4() && to.is_ipv4() {
        return Err(format!(
            "{network} holds other spellings of {stands} to {to}, which are looked for as that: write IPv4"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_refused_with_what_to_write() {
        for (text, expected) in [
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("fd00::1/8", "write fd00::/8"),
            ("10.0.0.1", "write 10.0.0.1/32"),
            ("::1", "write ::1/128"),
            ("10.0.0.0/33", "write it like 10.0.0.0/8"),
            ("10/8", "write it like 10.0.0.0/8"),
            ("localhost", "write it like 10.0.0.0/8"),
            ("", "write it like 10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "write IPv4"),
            ("::ffff:0:0/96", "write IPv4"),
            ("64:ff9b::a00:0/104", "write IPv4"),
            ("2002:a00::/24", "write IPv4"),
        ] {
            let error = parse_network(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_range_that_is_accepted_holds_an_address_under_its_only_spelling() {
        for seed in 0..20_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let address = match random.u8(0..4) {
                0 => IpAddr::from(random.u32(..).to_be_bytes()),
                1 => IpAddr::from(random.u128(..).to_be_bytes()),
                2 => IpAddr::from((u128::from(random.u32(..)) | 0xffff_0000_0000).to_be_bytes()),
                _ => IpAddr::from(u128::from(random.u32(..)).to_be_bytes()),
            };
            let length = if address.is_ipv4() { random.u8(0..=32) } else { random.u8(0..=128) };
            let text = format!("{address}/{length}");
            let Ok(network) = parse_network(&text) else {
                continue;
            };
            assert_eq!(network.to_string(), text);
            let ends = [network.network(), network.broadcast()];
            assert!(ends.iter().any(|end| network.contains(&canonical(*end))), "{text}");
        }
    }
}
