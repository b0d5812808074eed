//! Checks of sessions that need the database, made before anything is written.

use std::collections::{BTreeSet, HashMap};

use sea_orm::DbErr;

use crate::engine::Engine;
use crate::study::register;

use super::{RowProblem, Session};

/// Finds sessions with a scan whose protocol has another modality in the database or in an earlier session: protocols are unique. Returns
/// the problems with the indexes of their sessions.
pub async fn check(engine: &Engine, sessions: &[Session]) -> Result<Vec<(usize, RowProblem)>, DbErr> {
    let scans = || sessions.iter().flat_map(|session| &session.scans);
    let protocols: BTreeSet<&str> = scans().map(|scan| scan.protocol.as_str()).collect();
    let known = register::known_scantypes(engine.database().reader(), protocols.into_iter()).await?;
    let mut earlier: HashMap<&str, (&str, &str)> = HashMap::new();
    let mut problems = Vec::new();
    for (index, session) in sessions.iter().enumerate() {
        for scan in &session.scans {
            let wrong = match known.get(&scan.protocol) {
                Some((_, modality)) if *modality != scan.modality => {
                    Some(format!("already stored with the modality {modality}"))
                }
                Some(_) => None,
                None => {
                    let first = earlier.entry(&scan.protocol).or_insert((&scan.modality, &session.place));
                    (first.0 != scan.modality).then(|| format!("used with the modality {} in {}", first.0, first.1))
                }
            };
            if let Some(wrong) = wrong {
                let message = format!(
                    "a scan is {} {}, but this protocol is {wrong}; protocols are unique",
                    scan.modality, scan.protocol
                );
                problems.push((index, RowProblem { place: session.place.clone(), message }));
                break;
            }
        }
    }
    Ok(problems)
}
