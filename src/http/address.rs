//! The address of the client and the scheme and host that it used, from the connection and from the headers of trusted
//! proxies. Anyone can send `X-Forwarded-For`; only headers of a trusted proxy count.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Once;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::header::FORWARDED;
use axum::http::request::Parts;
use tracing::warn;

use crate::app::App;
use crate::config::TrustedProxies;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address of the client: the peer of the connection or, if that is a trusted proxy, the address that the proxy
/// reports. If the operator named the proxies, named proxies in front of the nearest one are skipped too.
pub struct Address(pub Option<IpAddr>);

impl FromRequestParts<App> for Address {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        Ok(Self(peer.map(|peer| client(&parts.headers, peer, &app.settings.web.proxies))))
    }
}

/// See [`Address`].
fn client(headers: &HeaderMap, peer: IpAddr, proxies: &TrustedProxies) -> IpAddr {
    let hops = hops(headers);
    if !proxies.trusts(peer) {
        if !hops.is_empty() {
            warn_once(peer);
        }
        return peer;
    }
    let mut nearest = peer;
    for hop in hops.iter().rev() {
        // Entries to the left of an unreadable one may have been written by anyone.
        let Some(address) = read_hop(hop) else { break };
        nearest = address;
        if !proxies.is_named() || !proxies.trusts(address) {
            break;
        }
    }
    nearest
}

fn warn_once(peer: IpAddr) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        warn!(
            %peer,
            "a forwarded request came from an untrusted proxy; the address of the proxy is used as the client \
            address. If this is your proxy, add it to STUDYGOV_TRUSTED_PROXIES"
        );
    });
}

/// The addresses through which a request came, the client first. A proxy that sends `Forwarded` has to remove
/// `X-Forwarded-For`, which counts more: most proxies send only that one, and pass the other one on.
fn hops(headers: &HeaderMap) -> Vec<String> {
    let entries = |name: &str| -> Vec<String> {
        let texts = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        texts.flat_map(|text| text.split(',').map(|entry| entry.trim().to_owned()).collect::<Vec<_>>()).collect()
    };
    let listed = entries(FORWARDED_FOR);
    if !listed.is_empty() {
        return listed;
    }
    entries(FORWARDED.as_str()).iter().map(|entry| parameter(entry, "for").unwrap_or_default()).collect()
}

/// `192.0.2.7` of `for=192.0.2.7;proto=https`.
fn parameter(entry: &str, name: &str) -> Option<String> {
    let pairs = entry.split(';').filter_map(|pair| pair.split_once('='));
    let value = pairs.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()?;
    Some(value.trim_matches('"').to_owned())
}

/// An address, with or without a port: `192.0.2.7`, `192.0.2.7:5678`, `[2001:db8::1]:443`, `2001:db8::1`.
fn read_hop(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim().trim_matches('"');
    let bare = hop.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
    let bare = bare.unwrap_or(hop);
    // The zone of a link-local address has no meaning on this machine.
    let bare = bare.split_once('%').map_or(bare, |(address, _)| address);
    let address = bare.parse::<IpAddr>().ok();
    let address = address.or_else(|| bare.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address| address.to_canonical())
}

/// Scheme and host that the client used, as reported by trusted proxies.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SeenAs {
    /// `https` or `http`.
    pub proto: Option<&'static str>,
    pub host: Option<String>,
}

impl SeenAs {
    /// Reads the headers. Only proxies that the operator named are trusted.
    #[must_use]
    pub fn of(headers: &HeaderMap, peer: Option<IpAddr>, proxies: &TrustedProxies) -> Self {
        if !proxies.is_named() || !peer.is_some_and(|peer| proxies.trusts(peer)) {
            return Self::default();
        }
        // The nearest proxy wrote the last value.
        let last = |name: &str| {
            let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
            Some(value.rsplit(',').next()?.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let forwarded = last(FORWARDED.as_str()).filter(|_| !headers.contains_key(FORWARDED_FOR));
        let said = |header: &str, name: &str| last(header).or_else(|| parameter(forwarded.as_deref()?, name));
        let proto = said("x-forwarded-proto", "proto").map(|proto| proto.to_ascii_lowercase());
        let plain = |host: &String| host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]_".contains(c));
        Self {
            proto: proto.and_then(|proto| ["https", "http"].into_iter().find(|known| *known == proto)),
            host: said("x-forwarded-host", "host").filter(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(value: Option<&str>) -> TrustedProxies {
        let environment = value.map(|value| ("STUDYGOV_TRUSTED_PROXIES", value)).into_iter().collect();
        TrustedProxies::read(&environment, true).unwrap()
    }

    fn from(peer: &str, headers: &[(&'static str, &str)], proxies: &TrustedProxies) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        client(&map, peer.parse().unwrap(), proxies).to_string()
    }

    #[test]
    fn an_address_is_read_with_and_without_a_port() {
        let nearby = proxies(None);
        for (said, wanted) in [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7:5678", "203.0.113.7"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("\"203.0.113.7:1\"", "203.0.113.7"),
            ("198.51.100.1, 203.0.113.7:80", "203.0.113.7"),
            ("unknown", "127.0.0.1"),
            ("203.0.113.7, unknown", "127.0.0.1"),
            ("", "127.0.0.1"),
        ] {
            assert_eq!(from("127.0.0.1", &[("x-forwarded-for", said)], &nearby), wanted, "{said}");
        }
        for (said, wanted) in [
            ("for=203.0.113.7;proto=https;by=10.0.0.1", "203.0.113.7"),
            ("For=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("for=198.51.100.1, for=203.0.113.7:99", "203.0.113.7"),
            ("for=_hidden", "127.0.0.1"),
            ("proto=https", "127.0.0.1"),
        ] {
            assert_eq!(from("127.0.0.1", &[("forwarded", said)], &nearby), wanted, "{said}");
        }
        let both = [("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "2.2.2.2")];
        assert_eq!(from("127.0.0.1", &both, &nearby), "2.2.2.2");
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_named_ones_are_passed_over() {
        let said = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "198.51.100.9, 10.0.0.2")];
        assert_eq!(from("203.0.113.1", &said, &proxies(None)), "203.0.113.1");
        assert_eq!(from("10.0.0.1", &said, &proxies(Some("none"))), "10.0.0.1");
        // A client on a nearby network could have written the rest.
        assert_eq!(from("10.0.0.1", &said, &proxies(None)), "10.0.0.2");
        assert_eq!(from("10.0.0.1", &said, &proxies(Some("10.0.0.0/24"))), "198.51.100.9");
        assert_eq!(from("10.0.0.1", &said, &proxies(Some("10.0.0.1"))), "10.0.0.2");
        assert_eq!(from("10.0.0.1", &said, &proxies(Some("*"))), "1.2.3.4");
    }

    #[test]
    fn scheme_and_host_come_from_named_proxies_only() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-proto", "http, HTTPS".parse().unwrap());
        headers.insert("x-forwarded-host", "study.example.org".parse().unwrap());
        let seen = |proxies: &TrustedProxies| SeenAs::of(&headers, Some([10, 0, 0, 1].into()), proxies);
        assert_eq!(seen(&proxies(None)), SeenAs::default());
        assert_eq!(seen(&proxies(Some("10.0.0.2"))), SeenAs::default());
        let named = seen(&proxies(Some("10.0.0.1")));
        assert_eq!((named.proto, named.host.as_deref()), (Some("https"), Some("study.example.org")));
    }
}
