//! Mails: one text per template, whose first line is the subject; the HTML has the same content.

use minijinja::Value;
use serde::Serialize;

use super::{Templates, ViewError};
use crate::mail::Text;
use crate::study::json::PlainNumbers;

#[derive(Serialize)]
struct Paragraph<'a> {
    text: &'a str,
    /// The paragraph is a single link to this instance.
    link: bool,
}

#[derive(Serialize)]
struct Frame<'a> {
    subject: &'a str,
    base_url: &'a str,
    paragraphs: Vec<Paragraph<'a>>,
}

impl Templates {
    /// The mail of `templates/mail/NAME.txt`. `context` has `base_url`.
    ///
    /// # Errors
    /// If the template uses an undefined value.
    pub fn mail(&self, name: &str, context: &serde_json::Value) -> Result<Text, ViewError> {
        let template = self.environment.get_template(&format!("mail/{name}.txt"))?;
        let text = template.render(Value::from(minijinja::value::Serde(PlainNumbers(context))))?;
        let (subject, body) = text.trim().split_once('\n').unwrap_or((text.trim(), ""));
        let body = format!("{}\n", body.trim());
        let base_url = context["base_url"].as_str().unwrap_or_default();
        let is_ours =
            |text: &str| !base_url.is_empty() && text.starts_with(base_url) && !text.contains(char::is_whitespace);
        let parts = body.split("\n\n").map(str::trim).filter(|text| !text.is_empty());
        let paragraphs = parts.map(|text| Paragraph { text, link: is_ours(text) }).collect();
        let html = self.page("mail/frame.html", &Frame { subject, base_url, paragraphs })?;
        Ok(Text { subject: subject.to_owned(), body: body.clone(), html: Some(html) })
    }
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;

    use super::*;

    #[test]
    fn numbers_of_json_are_numbers_in_templates_and_digits_when_they_are_too_large() {
        let value = r#"{"a": [7, 1.5, 12345678901234567890123], "b": {"c": -3}}"#;
        let value: serde_json::Value = serde_json::from_str(value).unwrap();
        let context = minijinja::context! { v => Value::from(Serde(PlainNumbers(&value))) };
        let shown = minijinja::Environment::new()
            .render_str("{{ v.a[0] + 1 }} {{ v.a[1] * 2 }} {{ v.a[2] }} {{ v.b.c }}", context);
        assert_eq!(shown.unwrap(), "8 3.0 12345678901234567890123 -3");
    }
}
