//! Password strength: a new password must be long enough and not too easy to guess.
//!
//! zxcvbn estimates the number of guesses (Wheeler, "zxcvbn: Low-Budget Password Strength Estimation", USENIX Security
//! 2016); its lists contain the most common passwords, names and words. There are no rules about digits and special
//! characters.

use unicode_normalization::UnicodeNormalization;
use zxcvbn::zxcvbn;

/// Longer passwords are not more secure.
const MOST: usize = 256;

/// Limits of the estimate: characters of the password (longer ones are not easier to guess), characters of names and
/// addresses, and the number of their parts. Its cost grows steeply with the input, and any caller may request it.
const LOOKED_AT: usize = 48;
const LONGEST_NAME: usize = 255;
const MOST_PARTS: usize = 30;

/// The strength of a password; see the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strength {
    /// From 0 (guessed at once) to 4 (hardly ever guessed).
    pub score: u8,
    pub word: &'static str,
    /// Why the password is rejected.
    pub problem: Option<String>,
}

/// Estimates a password of at least `least` characters; `own` are names and addresses of its user.
#[must_use]
pub fn judge(password: &str, own: &[&str], least: usize) -> Strength {
    let own: Vec<&str> = own.iter().map(|text| beginning(text, LONGEST_NAME)).collect();
    // Parts of an address are easily guessed, too.
    let halves = own.iter().flat_map(|text| text.split('@'));
    let words = own.iter().flat_map(|text| text.split(['@', '.', ' ']));
    let parts: Vec<&str> = words.chain(halves).chain(own.iter().copied()).collect();
    let parts: Vec<&str> = parts.into_iter().filter(|part| part.chars().count() > 2).take(MOST_PARTS).collect();
    // Wide letters and ligatures are hashed as the letters that they represent, so they do not make a password
    // stronger.
    let password: String = password.nfkc().take(MOST + 1).collect();
    let score = u8::from(zxcvbn(beginning(&password, LOOKED_AT), &parts).score());
    let length = password.chars().count();
    let problem = if length < least {
        Some(format!("must have at least {least} characters; several unrelated words are easy to remember"))
    } else if length > MOST {
        Some(format!("must have at most {MOST} characters"))
    } else if score < 2 {
        Some("is too easy to guess; try several unrelated words".to_owned())
    } else {
        None
    };
    let words = ["very weak", "weak", "fair", "good", "very good"];
    Strength { score, word: words.get(usize::from(score)).copied().unwrap_or_default(), problem }
}

/// The first `most` characters.
fn beginning(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_common_and_own_ones_cannot_be_chosen() {
        let problem = |password: &str| judge(password, &["erin", "erin.example@hospital.org"], 12).problem;
        assert!(problem("Tr0ub4dor&3").unwrap().contains("12 characters"));
        for common in ["password1234", "123456789012", "qwertyuiop12", "aaaaaaaaaaaaaa", "erin.example", "hospital.org"]
        {
            assert!(problem(common).unwrap().contains("too easy to guess"), "{common}");
        }
        assert!(problem("ｐａｓｓｗｏｒｄ１２３４").unwrap().contains("too easy to guess"));
        assert_eq!(problem("a long password of mine"), None);
        assert_eq!(problem("correct horse battery"), None);
        assert!(problem(&"ab c".repeat(100)).unwrap().contains("at most"));
        // The name is still found in it, and a long password is as strong as its beginning.
        assert!(problem(&"erin".repeat(10)).unwrap().contains("too easy to guess"));
        assert_eq!(problem(&"cart violet lamp sonata ".repeat(5)), None);
        assert!(judge("cart violet lamp 9 sonata", &[], 12).score > judge("password", &[], 12).score);
    }
}
