//! The scans of a BIDS session, from the names of its files (BIDS 1.10, "Modality specific files").
//!
//! The data type decides which files are recordings: an image in `anat`, a table in `motion`. `docs/reference/bids.md` lists the rules.

use std::collections::BTreeSet;
use std::path::Path;

use crate::study::Label;

use super::ScanKind;
use super::bidsignore::Ignored;

/// Endings of files that describe a recording of electrodes or sensors.
const DESCRIPTIONS: [&str; 14] =
    ["json", "tsv", "tsv.gz", "bval", "bvec", "txt", "html", "jpg", "jpeg", "png", "tif", "pos", "elp", "md"];

/// Data types whose files are not scans.
const WITHOUT_SCANS: [&str; 1] = ["beh"];

/// The scans in the folders of a session.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub scans: Vec<ScanKind>,
    /// Folders with an unknown data type.
    pub unknown: Vec<String>,
    /// Recordings that `.bidsignore` excludes.
    pub ignored: usize,
}

/// One scan for each recording in the session's folder and among the file names in its table. `path` is the session's path within the data
/// set.
///
/// # Errors
/// A folder cannot be read, or the name of a scan cannot be stored: the path and the problem.
pub(super) fn scans_of(
    root: &Path,
    path: &str,
    listed: &[String],
    ignored: &Ignored,
) -> Result<Found, (String, String)> {
    let mut recordings = BTreeSet::new();
    let mut found = Found::default();
    for data_type in entries(root, path)?.into_iter().filter(|entry| entry.is_folder && !entry.name.starts_with("ses-"))
    {
        let data_type = data_type.name;
        if modality(&data_type).is_none() {
            if !WITHOUT_SCANS.contains(&data_type.as_str()) && !ignored.matches(&format!("{path}/{data_type}"), true) {
                found.unknown.push(data_type);
            }
            continue;
        }
        let folder = format!("{path}/{data_type}");
        for entry in entries(root, &folder)? {
            let Some(stem) = recording(&data_type, &entry.name) else { continue };
            match ignored.matches(&format!("{folder}/{}", entry.name), entry.is_folder) {
                true => found.ignored += 1,
                false => drop(recordings.insert((data_type.clone(), stem))),
            }
        }
    }
    for name in listed {
        let name = name.trim_start_matches("./");
        if let Some((data_type, file)) = name.rsplit_once('/')
            && !ignored.matches(&format!("{path}/{name}"), false)
            && let Some(stem) = recording(data_type, file)
        {
            recordings.insert((data_type.to_owned(), stem));
        }
    }
    for (data_type, stem) in recordings {
        let (Some(modality), Some(protocol)) = (modality(&data_type), protocol(&stem)) else { continue };
        if let Err(error) = Label::parse(&protocol) {
            return Err((format!("{path}/{data_type}/{stem}"), format!("the name of its protocol {error}")));
        }
        found.scans.push(ScanKind { modality: modality.to_owned(), protocol });
    }
    Ok(found)
}

struct Entry {
    name: String,
    is_folder: bool,
}

fn entries(root: &Path, path: &str) -> Result<Vec<Entry>, (String, String)> {
    let failed = |error: std::io::Error| (path.to_owned(), format!("cannot be read: {error}"));
    let mut entries = Vec::new();
    for entry in root.join(path).read_dir().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        entries.push(Entry { is_folder: entry.path().is_dir(), name });
    }
    Ok(entries)
}

/// The name of the scan that a file belongs to: without its ending and without the entities that only number the files of one scan.
fn recording(data_type: &str, file: &str) -> Option<String> {
    let (stem, ending) = file.split_once('.').unwrap_or((file, ""));
    let mut parts: Vec<&str> = stem.split('_').collect();
    let suffix = *parts.last()?;
    let has = |entity: &str| parts.iter().any(|part| part.starts_with(entity));
    if !stem.starts_with("sub-") || suffix.contains('-') || !is_recording(data_type, suffix, ending, &has) {
        return None;
    }
    // Echoes, magnitude and phase, and the parts of a long recording; the inversions of MP2RAGE, which are one sequence.
    let numbers = ["echo-", "part-", "split-"];
    parts.retain(|part| {
        let is_number = numbers.iter().any(|entity| part.starts_with(entity));
        let is_inversion = suffix == "MP2RAGE" && part.starts_with("inv-");
        !is_number && !is_inversion
    });
    Some(parts.join("_"))
}

fn is_recording(data_type: &str, suffix: &str, ending: &str, has: &dyn Fn(&str) -> bool) -> bool {
    match data_type {
        // A defacing mask is not a scan; `desc-` and `space-` mark results of processing.
        "anat" | "func" | "dwi" | "fmap" | "perf" | "mrs" => {
            matches!(ending, "nii" | "nii.gz") && suffix != "defacemask" && !has("desc-") && !has("space-")
        }
        // Calibration and crosstalk files belong to the machine. A recording of BTi is a folder without an ending.
        "meg" => suffix == "meg" && !DESCRIPTIONS.contains(&ending) && !has("acq-calibration") && !has("acq-crosstalk"),
        "eeg" | "ieeg" | "emg" | "nirs" | "pet" => {
            suffix == data_type && !ending.is_empty() && !DESCRIPTIONS.contains(&ending)
        }
        "motion" => suffix == "motion" && matches!(ending, "tsv" | "tsv.gz"),
        "micr" => suffix != "photo" && matches!(ending, "tif" | "png" | "ome.tif" | "ome.btf" | "ome.zarr"),
        _ => false,
    }
}

/// The modality of a BIDS data type, in the terms of DICOM if it has one.
fn modality(data_type: &str) -> Option<&'static str> {
    Some(match data_type {
        "anat" | "func" | "dwi" | "fmap" | "perf" | "mrs" => "MR",
        "meg" => "MEG",
        "eeg" => "EEG",
        "emg" => "EMG",
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
    Some(all.join("_"))
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
            ("meg", "sub-01_task-rest_meg", Some(("MEG", "meg_task-rest"))),
            ("meg", "sub-01_task-rest_meg.ds", Some(("MEG", "meg_task-rest"))),
            ("meg", "sub-01_acq-calibration_meg.dat", None),
            ("meg", "sub-01_acq-crosstalk_meg.fif", None),
            ("meg", "sub-01_headshape.pos", None),
            ("eeg", "sub-01_task-rest_eeg.vhdr", Some(("EEG", "eeg_task-rest"))),
            ("eeg", "sub-01_photo.jpg", None),
            ("eeg", "sub-01_electrodes.tsv", None),
            ("emg", "sub-01_task-lift_emg.edf", Some(("EMG", "emg_task-lift"))),
            ("emg", "sub-01_task-lift_channels.tsv", None),
            ("motion", "sub-01_task-walk_tracksys-imu_motion.tsv", Some(("motion", "motion_task-walk"))),
            ("motion", "sub-01_task-walk_tracksys-imu_channels.tsv", None),
            ("micr", "sub-01_sample-A_SEM.png", Some(("SM", "SEM"))),
            ("micr", "sub-01_sample-A_stain-LFB_chunk-01_SPIM.ome.zarr", Some(("SM", "SPIM"))),
            ("micr", "sub-01_sample-A_photo.tif", None),
            ("pet", "sub-01_pet.nii.gz", Some(("PT", "pet"))),
            ("pet", "sub-01_recording-manual_blood.tsv", None),
            ("anat", "sub-01_mod-T1w_defacemask.nii", None),
            ("anat", "sub-01_space-MNI_desc-preproc_T1w.nii.gz", None),
            ("func", "sub-01_task-rest_events.tsv", None),
            ("dwi", "sub-01_dwi.bval", None),
            ("beh", "sub-01_task-rest_beh.nii", None),
            ("anat", "notes.nii", None),
        ] {
            let found =
                recording(data_type, file).and_then(|stem| Some((modality(data_type)?.to_owned(), protocol(&stem)?)));
            assert_eq!(found.as_ref().map(|(m, p)| (m.as_str(), p.as_str())), wanted, "{file}");
        }
    }

    #[test]
    fn the_files_of_one_series_count_once() {
        for (data_type, one, other, is_same) in [
            ("anat", "sub-01_run-1_echo-1_FLASH.nii.gz", "sub-01_run-1_echo-7_FLASH.nii.gz", true),
            ("anat", "sub-01_run-1_echo-1_FLASH.nii.gz", "sub-01_run-2_echo-1_FLASH.nii.gz", false),
            ("anat", "sub-1_inv-1_part-mag_MP2RAGE.nii.gz", "sub-1_inv-2_part-phase_MP2RAGE.nii.gz", true),
            ("anat", "sub-1_inv-1_IRT1.nii.gz", "sub-1_inv-2_IRT1.nii.gz", false),
            ("meg", "sub-01_task-rest_split-01_meg.fif", "sub-01_task-rest_split-02_meg.fif", true),
            ("eeg", "sub-01_task-rest_eeg.eeg", "sub-01_task-rest_eeg.vmrk", true),
            ("motion", "sub-01_task-w_tracksys-a_motion.tsv", "sub-01_task-w_tracksys-b_motion.tsv", false),
        ] {
            assert_eq!(recording(data_type, one) == recording(data_type, other), is_same, "{one} {other}");
        }
    }
}
