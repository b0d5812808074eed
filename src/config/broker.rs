//! The address of the broker, in Celery's format: one or several, separated by semicolons; any that answers is used.

use url::Url;

use super::environment::SettingError;

/// Parses the addresses in the setting `name` and returns them in the format of `queue::connect`: separated by semicolons, each with
/// a virtual host.
///
/// # Errors
/// When one of them is not the address of a broker. The error does not show the addresses, because they contain passwords.
pub fn parse(name: &str, value: &str) -> Result<String, SettingError> {
    let parts: Vec<&str> = split(value).into_iter().map(str::trim).filter(|part| !part.is_empty()).collect();
    let is_list = parts.len() > 1;
    let mut addresses = Vec::with_capacity(parts.len());
    for (number, part) in (1..).zip(&parts) {
        let which = if is_list { format!("URL {number} of {} ", parts.len()) } else { String::new() };
        let problem = |what: &str| SettingError::new(name, format!("{which}{what}"));
        addresses.push(normalized(part).map_err(|what| problem(&what))?);
    }
    if addresses.is_empty() {
        return Err(SettingError::new(name, WANTED));
    }
    Ok(addresses.join(";"))
}

const WANTED: &str = "is not a RabbitMQ URL like amqp://user:password@host:5672/vhost";

/// Splits at each semicolon, as Celery does, and at commas before another address.
fn split(value: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in value.split(';') {
        let mut start = 0;
        for (at, _) in part.match_indices(',') {
            let next = part[at + 1..].trim_start();
            if SCHEMES.iter().any(|(scheme, _)| next.starts_with(scheme) && next[scheme.len()..].starts_with("://")) {
                parts.push(&part[start..at]);
                start = at + 1;
            }
        }
        parts.push(&part[start..]);
    }
    parts
}

/// The schemes that Celery accepts and the protocols that they stand for: `pyamqp` and `librabbitmq` are drivers for AMQP.
const SCHEMES: [(&str, &str); 5] =
    [("amqps", "amqps"), ("amqp", "amqp"), ("pyamqps", "amqps"), ("pyamqp", "amqp"), ("librabbitmq", "amqp")];

fn normalized(address: &str) -> Result<String, String> {
    let (scheme, rest) = address.split_once("://").ok_or(WANTED)?;
    let scheme = scheme.to_ascii_lowercase();
    let (_, scheme) = SCHEMES.iter().find(|(known, _)| *known == scheme).ok_or(WANTED)?;
    let mut url = Url::parse(&format!("{scheme}://{rest}")).map_err(|_| WANTED.to_owned())?;
    if url.host_str().is_none_or(str::is_empty) {
        // Celery also defaults to the broker on this machine.
        url.set_host(Some("localhost")).map_err(|_| WANTED.to_owned())?;
    }
    let vhost = url.path().strip_prefix('/').unwrap_or_default().to_owned();
    if vhost.contains("://") || vhost.contains('@') || url.host_str().is_some_and(|host| host.contains(',')) {
        return Err("contains more than one URL; separate URLs with semicolons".to_owned());
    }
    // A trailing slash means the virtual host `/`, not one with an empty name.
    let vhost = if vhost.is_empty() { "%2f".to_owned() } else { vhost.replace('/', "%2f") };
    url.set_path(&format!("/{vhost}"));
    url.set_fragment(None);
    // A semicolon separates addresses.
    Ok(String::from(url).replace(';', "%3B"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_celery_reads_them() {
        for (given, wanted) in [
            ("amqp://u:p@h:5672/study", "amqp://u:p@h:5672/study"),
            ("pyamqp://u:p@h//", "amqp://u:p@h/%2f"),
            ("amqp://h/", "amqp://h/%2f"),
            ("amqp://h", "amqp://h/%2f"),
            ("amqp://h/%2F", "amqp://h/%2F"),
            ("amqp://h//", "amqp://h/%2f"),
            ("amqp://h/a/b", "amqp://h/a%2fb"),
            ("AMQPS://h/v?heartbeat=30", "amqps://h/v?heartbeat=30"),
            ("librabbitmq://guest@localhost//", "amqp://guest@localhost/%2f"),
            ("amqp://u:p@a/v;amqp://u2:q@b/w", "amqp://u:p@a/v;amqp://u2:q@b/w"),
            ("amqp://u:p@a/v ; pyamqp://b/ ;", "amqp://u:p@a/v;amqp://b/%2f"),
            ("amqp://u:p@a/v, amqp://b/w", "amqp://u:p@a/v;amqp://b/w"),
            ("amqp://u:p,q@a/v", "amqp://u:p,q@a/v"),
            ("amqp://u:p%3Bq@a/v", "amqp://u:p%3Bq@a/v"),
        ] {
            assert_eq!(parse("STUDYGOV_BROKER", given).unwrap(), wanted, "{given}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_names_its_variable_and_shows_no_password() {
        for given in [
            "",
            ";",
            "redis://u:SECRET@h",
            "u:SECRET@h/v",
            "amqp://u:SECRET@h:port/v",
            "amqp://a/v;u2:SECRET@other/v",
            "amqp://u:SECRET@a/v;redis://b",
            "amqp://u:SECRET@a/v|amqp://u:SECRET@b/v",
            "amqp://u:p@a,b:1/v",
        ] {
            let error = parse("STUDYGOV_CELERY_BROKER", given).unwrap_err();
            assert_eq!(error.variable, "STUDYGOV_CELERY_BROKER");
            assert!(!error.to_string().contains("SECRET"), "{error}");
        }
        let error = parse("STUDYGOV_BROKER", "amqp://a;redis://b").unwrap_err();
        assert!(error.problem.starts_with("URL 2 of 2 is not a RabbitMQ URL"), "{error}");
    }
}
