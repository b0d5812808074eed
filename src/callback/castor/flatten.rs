//! Flattens the raters' data into one mapping; the template defines the nesting of its widgets.

use serde_json::{Map, Value};

/// Flattens `data` by the `qa_fields` of its template, in the order of the template. Names get no prefixes. Fields that are
/// missing in the data or in the template are omitted.
///
/// # Errors
/// Data that does not fit the template, with the name of the field.
pub(super) fn flatten(fields: &Map<String, Value>, data: &Value) -> Result<Map<String, Value>, String> {
    let mut flat = Map::new();
    for (name, field) in fields {
        let Some(value) = data.get(name) else { continue };
        let control = field.get("control").and_then(Value::as_str).ok_or_else(|| format!("{name} has no control"))?;
        match control {
            "TabsWidget" => {
                // Tabs only affect the layout: they are not a level of the data.
                for (tab, content) in content(field).ok_or_else(|| format!("{name} has no content"))? {
                    let content = content.as_object().ok_or_else(|| format!("tab {tab} of {name} is not a mapping"))?;
                    flat.extend(flatten(content, value)?);
                }
            }
            "BoxWidget" => {
                flat.extend(flatten(content(field).ok_or_else(|| format!("{name} has no content"))?, value)?);
            }
            "ListingWidget" => {
                let content = content(field).ok_or_else(|| format!("{name} has no content"))?;
                let entries = match value {
                    Value::Array(entries) => entries.as_slice(),
                    Value::Null => &[],
                    _ => return Err(format!("the data of {name} is not a list")),
                };
                let entries: Vec<Value> =
                    entries.iter().map(|entry| flatten(content, entry).map(Value::Object)).collect::<Result<_, _>>()?;
                flat.insert(format!("{name}_count"), entries.len().into());
                flat.insert(name.clone(), entries.into());
            }
            "MarkerEdit" => flat.extend(marker(name, value)?),
            _ => _ = flat.insert(name.clone(), value.clone()),
        }
    }
    Ok(flat)
}

fn content(field: &Value) -> Option<&Map<String, Value>> {
    field.get("content")?.as_object()
}

/// One marker as three numbers; no marker, or several, unchanged.
fn marker(name: &str, value: &Value) -> Result<Map<String, Value>, String> {
    let mut flat = Map::new();
    match value.as_array().map(Vec::as_slice) {
        Some([one]) => {
            let position = one.get("pos").and_then(Value::as_array).filter(|position| position.len() >= 3);
            let position =
                position.ok_or_else(|| format!("the marker of {name} has no position with three numbers"))?;
            for (axis, at) in ["x", "y", "z"].into_iter().zip(position) {
                flat.insert(format!("{name}_{axis}"), at.clone());
            }
        }
        _ => _ = flat.insert(name.to_owned(), value.clone()),
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn widgets_are_flattened_by_their_template() {
        let text = |name: &str| json!({ name: { "control": "TextWidget" } });
        let listing = json!({ "l": { "control": "ListingWidget", "content": {
            "a": { "control": "TextWidget" },
            "s": { "control": "ListingWidget", "content": text("q") },
        } } });
        let tabs = json!({ "tabs": { "control": "TabsWidget", "content": { "A": text("a"), "B": text("b") } } });
        let boxed = json!({ "bx": { "control": "BoxWidget", "content": text("a") }, "a": { "control": "x" } });
        let marker = json!({ "m": { "control": "MarkerEdit" } });
        for (template, data, wanted) in [
            (&tabs, json!({ "tabs": { "a": 1, "b": 2 }, "other": 3 }), json!({ "a": 1, "b": 2 })),
            (&tabs, json!({ "tabs": { "A": { "a": 1 } } }), json!({})),
            (&boxed, json!({ "bx": { "a": 1 }, "a": 5 }), json!({ "a": 5 })),
            (
                &listing,
                json!({ "l": [{ "a": 1, "z": 3, "s": [{ "q": 1 }] }, {}] }),
                json!({ "l_count": 2, "l": [{ "a": 1, "s_count": 1, "s": [{ "q": 1 }] }, {}] }),
            ),
            (&listing, json!({ "l": [] }), json!({ "l_count": 0, "l": [] })),
            (&marker, json!({ "m": [{ "pos": [1.5, 2, 3, 4] }] }), json!({ "m_x": 1.5, "m_y": 2, "m_z": 3 })),
            (&marker, json!({ "m": [] }), json!({ "m": [] })),
        ] {
            let flat = flatten(template.as_object().unwrap(), &data).unwrap();
            assert_eq!(Value::Object(flat), wanted, "{data}");
        }
        for (template, data) in [
            (&marker, json!({ "m": [{ "pos": [1] }] })),
            (&listing, json!({ "l": { "a": 1 } })),
            (&json!({ "x": {} }), json!({ "x": 1 })),
        ] {
            assert!(flatten(template.as_object().unwrap(), &data).is_err(), "{data}");
        }
    }
}
