//! The address of the broker in parts, for operators who store the password separately.

use url::Url;

use super::environment::{Environment, SettingError, unusable};
use super::setting::Name;
use super::table::{
    STUDYGOV_BROKER_HOST, STUDYGOV_BROKER_PASSWORD, STUDYGOV_BROKER_PORT, STUDYGOV_BROKER_TLS, STUDYGOV_BROKER_USER,
    STUDYGOV_BROKER_VHOST,
};

/// Builds the address from `STUDYGOV_BROKER_HOST`, `_PORT`, `_VHOST`, `_USER`, `_PASSWORD` and `_TLS`; `None` without a host. User,
/// password and virtual host may contain any character.
///
/// # Errors
/// When a part is invalid, or user, password or virtual host is set without the host.
pub(super) fn from_parts(environment: &Environment) -> Result<Option<String>, SettingError> {
    const NAME: Name = STUDYGOV_BROKER_HOST;
    let Some(host) = environment.get(NAME) else {
        let others = [STUDYGOV_BROKER_USER, STUDYGOV_BROKER_PASSWORD, STUDYGOV_BROKER_VHOST];
        return match environment.first(&others) {
            Some((name, _)) => Err(SettingError::new(
                name,
                format!(
                    "{NAME} is not set; it is required to connect to \
                the broker"
                ),
            )),
            None => Ok(None),
        };
    };
    let is_tls = environment.flag(STUDYGOV_BROKER_TLS)?;
    let (scheme, default_port) = if is_tls { ("amqps", 5671) } else { ("amqp", 5672) };
    let port: u16 = environment.number_or(STUDYGOV_BROKER_PORT, default_port)?;
    let host_text = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    let mut url = Url::parse(&format!("{scheme}://{host_text}:{port}"))
        .ok()
        .filter(|url| url.path().trim_matches('/').is_empty() && url.username().is_empty() && url.query().is_none())
        .ok_or_else(|| unusable(NAME, host))?;
    let password = Some(environment.exact(STUDYGOV_BROKER_PASSWORD)).filter(|password| !password.is_empty());
    let password = password.unwrap_or(STUDYGOV_BROKER_PASSWORD.default_text());
    let vhost = environment.text(STUDYGOV_BROKER_VHOST);
    // An unescaped percent sign would start an escape sequence.
    let escaped = |text: &str| text.replace('%', "%25");
    let set = url.set_username(&escaped(&environment.text(STUDYGOV_BROKER_USER))).is_ok()
        && url.set_password(Some(&escaped(password))).is_ok();
    match url.path_segments_mut() {
        Ok(mut path) if set => path.clear().push(&vhost),
        _ => return Err(unusable(NAME, host)),
    };
    Ok(Some(url.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(entries: &[(&str, &str)]) -> Result<Option<String>, SettingError> {
        from_parts(&entries.iter().copied().collect())
    }

    #[test]
    fn the_parts_make_an_address_whatever_is_in_them() {
        let url = address(&[
            ("STUDYGOV_BROKER_HOST", "broker"),
            ("STUDYGOV_BROKER_USER", "study@1"),
            ("STUDYGOV_BROKER_PASSWORD", "a/b:c?d#e%f "),
            ("STUDYGOV_BROKER_VHOST", "/one"),
        ]);
        let url = url.unwrap().unwrap();
        assert_eq!(url, "amqp://study%401:a%2Fb%3Ac%3Fd%23e%25f%20@broker:5672/%2Fone");
        assert_eq!(address(&[]), Ok(None));
        let plain = address(&[("STUDYGOV_BROKER_HOST", "::1"), ("STUDYGOV_BROKER_TLS", "yes")]).unwrap().unwrap();
        assert_eq!(plain, "amqps://guest:guest@[::1]:5671/%2F");
        for (entries, name) in [
            (vec![("STUDYGOV_BROKER_PASSWORD", "p")], "STUDYGOV_BROKER_PASSWORD"),
            (vec![("STUDYGOV_BROKER_HOST", "a b")], "STUDYGOV_BROKER_HOST"),
            (vec![("STUDYGOV_BROKER_HOST", "h/v")], "STUDYGOV_BROKER_HOST"),
            (
                vec![("STUDYGOV_BROKER_HOST", "h"), ("STUDYGOV_BROKER_PORT", "tcp://10.0.0.1:5672")],
                "STUDYGOV_BROKER_PORT",
            ),
        ] {
            assert_eq!(address(&entries).unwrap_err().variable, name);
        }
    }
}
