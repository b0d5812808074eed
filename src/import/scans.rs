//! The series of a BIDS session, from the names of its files.

use std::collections::BTreeSet;
use std::path::Path;

use super::ScanKind;

/// Endings of files that describe a recording and are none. (BIDS 1.8, appendices on file formats.)
const DESCRIPTIONS: [&str; 12] =
    ["json", "tsv", "tsv.gz", "bval", "bvec", "txt", "html", "jpg", "png", "pos", "elp", "md"];

/// One series for each recording in the session's folder and in the file names that its table lists.
///
/// The echoes and the parts (magnitude, phase) of one acquisition are one series.
pub(super) fn scans_of(session: &Path, listed: &[String]) -> Vec<ScanKind> {
    let mut recordings = BTreeSet::new();
    let Ok(folders) = session.read_dir() else { return Vec::new() };
    for folder in folders.flatten() {
        let data_type = folder.file_name().to_string_lossy().into_owned();
        if modality(&data_type).is_none() {
            continue;
        }
        for file in folder.path().read_dir().into_iter().flatten().flatten() {
            recordings.extend(recording(&data_type, &file.file_name().to_string_lossy()));
        }
    }
    for name in listed {
        if let Some((data_type, file)) = name.rsplit_once('/') {
            recordings.extend(recording(data_type, file));
        }
    }
    let kind = |(data_type, stem): &(String, String)| {
        Some(ScanKind { modality: modality(data_type)?.to_owned(), protocol: protocol(stem)? })
    };
    recordings.iter().filter_map(kind).collect()
}

/// Data type and name of the series that a file is of.
fn recording(data_type: &str, file: &str) -> Option<(String, String)> {
    let (stem, ending) = file.split_once('.')?;
    if !stem.starts_with("sub-") || DESCRIPTIONS.contains(&ending) {
        return None;
    }
    let one_series = |part: &&str| !part.starts_with("echo-") && !part.starts_with("part-");
    let stem: Vec<&str> = stem.split('_').filter(one_series).collect();
    Some((data_type.to_owned(), stem.join("_")))
}

/// The modality of a BIDS data type, in the words of DICOM where it has one (BIDS 1.8, "Data types").
fn modality(data_type: &str) -> Option<&'static str> {
    Some(match data_type {
        "anat" | "func" | "dwi" | "fmap" | "perf" | "mrs" => "MR",
        "meg" => "MEG",
        "eeg" => "EEG",
        "ieeg" => "iEEG",
        "pet" => "PT",
        "nirs" => "NIRS",
        "micr" => "SM",
        "motion" => "motion",
        _ => return None,
    })
}

/// Suffix, task and acquisition: `bold_task-rest`, `T1w_acq-mprage`.
fn protocol(stem: &str) -> Option<String> {
    let parts: Vec<&str> = stem.split('_').collect();
    let suffix = parts.last().filter(|suffix| !suffix.contains('-'))?;
    let entity = |name: &str| parts.iter().find(|part| part.starts_with(name)).copied();
    let all: Vec<&str> = [Some(*suffix), entity("task-"), entity("acq-")].into_iter().flatten().collect();
    Some(all.join("_").chars().take(100).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_named_by_suffix_task_and_acquisition() {
        for (data_type, file, wanted) in [
            ("anat", "sub-01_ses-mri_acq-mprage_T1w.nii.gz", Some(("MR", "T1w_acq-mprage"))),
            ("func", "sub-01_task-rest_run-2_bold.nii", Some(("MR", "bold_task-rest"))),
            ("meg", "sub-01_ses-meg_task-face_run-01_meg.fif", Some(("MEG", "meg_task-face"))),
            ("func", "sub-01_task-rest_events.tsv", None),
            ("dwi", "sub-01_dwi.bval", None),
            ("beh", "sub-01_task-rest_beh.nii", None),
            ("anat", "notes.nii", None),
        ] {
            let found = recording(data_type, file)
                .and_then(|(data_type, stem)| Some((modality(&data_type)?.to_owned(), protocol(&stem)?)));
            assert_eq!(found.as_ref().map(|(m, p)| (m.as_str(), p.as_str())), wanted, "{file}");
        }
    }

    #[test]
    fn echoes_are_one_series() {
        let first = recording("anat", "sub-01_run-1_echo-1_FLASH.nii.gz");
        assert_eq!(first, recording("anat", "sub-01_run-1_echo-7_FLASH.nii.gz"));
        assert_ne!(first, recording("anat", "sub-01_run-2_echo-1_FLASH.nii.gz"));
    }
}
