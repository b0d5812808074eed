//! Trusted proxies: peers whose headers determine the origin of a request.

use std::net::IpAddr;

use ipnet::IpNet;

use super::environment::{Environment, SettingError};
use super::table::STUDYGOV_TRUSTED_PROXIES as NAME;

/// Loopback, private, shared (RFC 6598) and link-local networks, on which proxies are trusted by default.
const NEARBY: [&str; 9] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

/// The proxies whose `X-Forwarded-*` headers are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    /// The operator named the proxies: several in a row are skipped, and their headers for scheme and host are trusted too.
    is_named: bool,
}

impl TrustedProxies {
    /// Reads `STUDYGOV_TRUSTED_PROXIES`: addresses and networks, `*` for every peer, `none`. By default, a server
    /// with an external address trusts proxies on nearby networks, and one without trusts no proxy.
    ///
    /// # Errors
    /// When an entry is neither an address nor a network.
    pub fn read(environment: &Environment, has_external_address: bool) -> Result<Self, SettingError> {
        let Some(value) = environment.get(NAME) else {
            let nearby = NEARBY.iter().filter(|_| has_external_address).filter_map(|network| network.parse().ok());
            return Ok(Self { networks: nearby.collect(), is_named: false });
        };
        let mut networks = Vec::new();
        for entry in value.split([',', ' ']).filter(|entry| !entry.is_empty()) {
            match entry {
                "none" => {}
                "*" => networks.extend(["0.0.0.0/0", "::/0"].iter().filter_map(|all| all.parse::<IpNet>().ok())),
                entry => {
                    let network = entry.parse::<IpNet>().ok();
                    let network = network.or_else(|| entry.parse::<IpAddr>().ok().map(IpNet::from));
                    let wanted = "a list of addresses and networks like 10.0.0.7,192.168.0.0/16, or *, or none";
                    networks
                        .push(network.ok_or_else(|| SettingError::new(NAME, format!("'{entry}' is not {wanted}")))?);
                }
            }
        }
        Ok(Self { networks, is_named: true })
    }

    /// Whether this address belongs to a trusted proxy.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether the operator named the proxies.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.is_named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str, has_external_address: bool) -> Result<TrustedProxies, SettingError> {
        TrustedProxies::read(&[(NAME.as_str(), value)].into_iter().collect(), has_external_address)
    }

    #[test]
    fn addresses_and_networks_are_read_and_nonsense_is_refused() {
        let named = read("10.0.0.7, 192.168.0.0/16 2001:db8::/32", false).unwrap();
        let trusts = |address: &str| named.trusts(address.parse().unwrap());
        for yes in ["10.0.0.7", "::ffff:10.0.0.7", "192.168.3.4", "2001:db8::9"] {
            assert!(trusts(yes), "{yes}");
        }
        for no in ["10.0.0.8", "127.0.0.1", "2001:db9::1"] {
            assert!(!trusts(no), "{no}");
        }
        assert!(read("*", false).unwrap().trusts("203.0.113.1".parse().unwrap()));
        assert!(!read("none", true).unwrap().trusts("127.0.0.1".parse().unwrap()));
        for wrong in ["proxy.example.org", "10.0.0.0/33", "10.0.0"] {
            let error = read(wrong, false).unwrap_err().to_string();
            assert!(error.starts_with("STUDYGOV_TRUSTED_PROXIES: ") && error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn without_the_setting_nearby_proxies_are_trusted_only_behind_an_external_address() {
        let local = "127.0.0.1".parse().unwrap();
        assert!(read("", true).unwrap().trusts(local) && !read("", true).unwrap().is_named());
        assert!(!read("", false).unwrap().trusts(local));
        assert!(!read("", true).unwrap().trusts("203.0.113.1".parse().unwrap()));
    }
}
