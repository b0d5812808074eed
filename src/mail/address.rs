//! Mail addresses as users type them: with names, commas in names, and international domains.

use lettre::Address;
use lettre::message::Mailbox;

/// Parses one address: `ann@example.org`, `Ann Doe <ann@example.org>`, `"Doe, Ann" <ann@example.org>` or `ann@example.org
/// (Ann Doe)`. An international domain is converted to its transmitted form (`xn--…`).
pub(super) fn mailbox(text: &str) -> Option<Mailbox> {
    let text = text.trim();
    // A header must be one line.
    if text.contains(|c: char| c.is_control() && c != '\t') {
        return None;
    }
    if let Some(rest) = text.strip_suffix('>') {
        let (name, address) = rest.rsplit_once('<')?;
        return Some(Mailbox::new(name_of(name).ok()?, address_of(address.trim())?));
    }
    if let Some((address, name)) = text.strip_suffix(')').and_then(|rest| rest.split_once('(')) {
        return Some(Mailbox::new(name_of(name).ok()?, address_of(address.trim())?));
    }
    Some(Mailbox::new(None, address_of(text)?))
}

/// The text is not a valid name.
struct NoName;

/// A name, with or without quotes; `None` when it is empty.
fn name_of(text: &str) -> Result<Option<String>, NoName> {
    let text = text.trim();
    let some = |name: String| Some(name).filter(|name| !name.trim().is_empty());
    let Some(quoted) = text.strip_prefix('"') else {
        // Without quotes, these characters would separate several addresses.
        let is_plain = !text.contains(['"', '<', '>', ',', ';']);
        return if is_plain { Ok(some(text.to_owned())) } else { Err(NoName) };
    };
    let mut name = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next().ok_or(NoName)? {
            '"' => break,
            '\\' => name.push(characters.next().ok_or(NoName)?),
            other => name.push(other),
        }
    }
    if characters.as_str().trim().is_empty() { Ok(some(name)) } else { Err(NoName) }
}

fn address_of(text: &str) -> Option<Address> {
    let (user, domain) = text.rsplit_once('@')?;
    let domain = if domain.is_ascii() {
        domain.to_owned()
    } else {
        match url::Host::parse(domain).ok()? {
            url::Host::Domain(ascii) => ascii,
            _ => return None,
        }
    };
    Address::new(user, domain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(Option<String>, String)> {
        mailbox(text).map(|mailbox| (mailbox.name, mailbox.email.to_string()))
    }

    #[test]
    fn addresses_are_read_with_their_names() {
        for (text, name, address) in [
            ("ann@example.org", "", "ann@example.org"),
            (" <ann@example.org> ", "", "ann@example.org"),
            ("Ann Doe <ann@example.org>", "Ann Doe", "ann@example.org"),
            ("\"Doe, Ann\" <ann@example.org>", "Doe, Ann", "ann@example.org"),
            ("\"Ann \\\"A\\\" Doe\" <ann@example.org>", "Ann \"A\" Doe", "ann@example.org"),
            ("Dr. Ann O'Doe (Rotterdam) <ann@example.org>", "Dr. Ann O'Doe (Rotterdam)", "ann@example.org"),
            ("\"<ann@wrong.org>\" <ann@example.org>", "<ann@wrong.org>", "ann@example.org"),
            ("Jürgen Müller <j.mueller@bücher.example>", "Jürgen Müller", "j.mueller@xn--bcher-kva.example"),
            ("ann@BÜCHER.example", "", "ann@xn--bcher-kva.example"),
            ("ann@例え.テスト", "", "ann@xn--r8jz45g.xn--zckzah"),
            ("ann@example.org (Ann Doe)", "Ann Doe", "ann@example.org"),
            ("studygovernor@localhost", "", "studygovernor@localhost"),
            ("\"ann@home\"@example.org", "", "\"ann@home\"@example.org"),
        ] {
            let name = Some(name.to_owned()).filter(|name| !name.is_empty());
            assert_eq!(read(text), Some((name, address.to_owned())), "{text}");
        }
        for wrong in [
            "",
            "ann",
            "@example.org",
            "ann@",
            "\"Doe, Ann <ann@example.org>",
            "Doe, Ann <ann@example.org>",
            "ann@example.org, bob@example.org",
            "ann@example.org\nBcc: bob@example.org",
            "\"a\" b <ann@example.org>",
            "<ann@example.org",
            "ann@exa mple.org",
            "ann@example.org>",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
