//! Which addresses are public, in whatever spelling.

use std::net::{IpAddr, Ipv6Addr};

/// The IPv4 address inside an IPv6 spelling of one, so that no spelling walks around a rule:
/// v4-mapped (`::ffff:0:0/96`), v4-compatible (`::/96`), NAT64 (`64:ff9b::/96`) and 6to4
/// (`2002::/16`).
pub(super) fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::from([a, b, c, d])
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// The IPv4 address that an IPv6 address is only another spelling of: v4-mapped and v4-compatible.
/// Unlike NAT64 and 6to4, these are no way to reach it.
pub(super) fn embedded(address: Ipv6Addr) -> IpAddr {
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] => canonical(address.into()),
        _ => address.into(),
    }
}

/// Whether an address belongs to the public internet: none of the special-purpose blocks of the
/// IANA registries (RFC 6890 and its updates), which cover loopback, private and shared networks,
/// link-local with the cloud metadata address, benchmarking, documentation, multicast and what is
/// reserved.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(a == 0
                || a == 10
                || a == 127
                || a >= 224
                || (a == 100 && (64..128).contains(&b))
                || (a == 169 && b == 254)
                || (a == 172 && (16..32).contains(&b))
                || (a == 192 && b == 168)
                || (a == 192 && b == 0 && (c == 0 || c == 2))
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (b == 18 || b == 19))
                || (a == 198 && b == 51 && c == 100)
                || (a == 203 && b == 0 && c == 113))
        }
        IpAddr::V6(v6) => {
            let s = v6.segments();
            // Only 2000::/3 is handed out to the public; out of it come Teredo and the other
            // protocol assignments (2001::/23) and the documentation blocks (2001:db8::/32,
            // 3fff::/20).
            (s[0] & 0xe000) == 0x2000
                && !(s[0] == 0x2001 && s[1] < 0x200)
                && !(s[0] == 0x2001 && s[1] == 0xdb8)
                && !(s[0] == 0x3fff && s[1] < 0x1000)
        }
    }
}
