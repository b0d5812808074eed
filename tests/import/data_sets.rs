//! BIDS data sets with unreadable values, contradictions, or more than recordings.

use std::path::{Path, PathBuf};

use studygovernor::import::{Intake, bids};
use studygovernor::study::Label;
use tempfile::TempDir;

use crate::support::moment;

/// A data set with these files.
struct Set(TempDir);

impl Set {
    fn new(files: &[(&str, &str)]) -> Self {
        let set = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            set.add(path, text);
        }
        set
    }

    fn add(&self, path: &str, text: &str) {
        let file = self.path(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    fn link(&self, path: &str) {
        let file = self.path(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("../.git/annex/objects/x", file).unwrap();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn read(&self) -> Intake {
        read(self.0.path(), false)
    }

    /// Reads it with defaults for all missing values.
    fn read_with_defaults(&self) -> Intake {
        read(self.0.path(), true)
    }
}

fn read(folder: &Path, with_defaults: bool) -> Intake {
    let options = bids::Options {
        cohort: Label::parse("c").unwrap(),
        workflow: None,
        date_of_birth_default: with_defaults.then(|| "1900-01-01".parse().unwrap()),
        scan_date_default: with_defaults.then(|| moment("2001-01-01T00:00:00")),
    };
    bids::read(folder, &options).unwrap()
}

fn problems(intake: &Intake) -> Vec<String> {
    intake.problems.iter().map(ToString::to_string).collect()
}

const PEOPLE: (&str, &str) = ("participants.tsv", "participant_id\tage\nsub-01\t30\n");
const IMAGE: (&str, &str) = ("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii", "");
const SCANS: &str = "sub-01/ses-1/sub-01_ses-1_scans.tsv";
const SESSIONS: &str = "sub-01/sub-01_sessions.tsv";
const SOUND: &str = "filename\tacq_time\nanat/x.nii\t2024-05-06T10:00:00\n";

/// An unreadable value is a problem, and the session is skipped whatever the defaults are.
#[expect(clippy::too_many_lines, reason = "one story, or one table of cases")]
#[test]
fn what_cannot_be_read_is_not_taken_for_not_said() {
    for (path, text, wanted) in [
        (
            SCANS,
            "filename\tacq_time\nanat/x.nii\t04/03/2020 10:00\n",
            "sub-01/ses-1/sub-01_ses-1_scans.tsv line 2: acq_time: '04/03/2020 10:00' is not",
        ),
        (SCANS, "filename\tacq_time\nanat/x.nii\t2020-13-04T10:00:00\n", "line 2: acq_time"),
        (
            SCANS,
            "filename\tacq_time\nanat/x.nii\t20-03-04T10:00:00\n",
            "line 2: acq_time: '20-03-04T10:00:00' must be in a year",
        ),
        (SCANS, "filename\tacq_time\nanat/x.nii\t-2020-03-04T10:00:00\n", "line 2: acq_time"),
        (SCANS, "filename\tacq_time\nanat/x.nii\t2016-12-31T23:59:60\n", "must have seconds from 0 to 59"),
        (
            SCANS,
            "filename\tacq_time\toperator\nanat/x.nii\t2020-03-04T10:00:00\n",
            "scans.tsv line 2: has 2 cells, but the header has 3",
        ),
        (
            SCANS,
            "filename,acq_time\nanat/x.nii,2020-03-04T10:00:00\n",
            "there is no column filename (columns: filename,acq_time)",
        ),
        (SCANS, "filename\tacq_time\tacq_time\n", "there are two columns 'acq_time'"),
        (
            SCANS,
            "filename\tacq_time\na.nii\t2020-03-04T10:00:00\na.nii\t2021-03-04T10:00:00\n",
            "line 3: filename: a.nii is already in line 2",
        ),
        (SCANS, "/annex/objects/MD5E-s100--abc.tsv\n", "git-annex"),
        (SCANS, "filename\tacq_time\nanat/x.nii\t\"2020-03-04\n", "a quote is not closed"),
        (
            SESSIONS,
            "session_id\tacq_time\tbdi\nses-1\t2020-03-04T10:00:00\n",
            "sub-01_sessions.tsv line 2: has 2 cells",
        ),
        (SESSIONS, "session_id\tacq_time\nses-1\tyesterday\n", "sub-01_sessions.tsv line 2: acq_time: 'yesterday'"),
        (
            SESSIONS,
            "session\tacq_time\nses-1\t2020-03-04\n",
            "there is no column session_id (columns: session, acq_time)",
        ),
        (
            SESSIONS,
            "session_id\tacq_time\nses-1\t2020-03-04\n1\t2021-03-04\n",
            "line 3: session_id: ses-1 is already in line 2",
        ),
        (
            "participants.tsv",
            "participant_id\tage\nsub-01\t35-40\n",
            "participants.tsv line 2: age: '35-40' is not a number of years",
        ),
        ("participants.tsv", "participant_id\tage\nsub-01\t030Y\n", "participants.tsv line 2: age: '030Y'"),
        ("participants.tsv", "participant_id\tage\nsub-01\t>89\n", "participants.tsv line 2: age: '>89'"),
        (
            "participants.tsv",
            "participant_id\tdate_of_birth\nsub-01\t50-01-01\n",
            "line 2: date_of_birth: '50-01-01' must be in a year",
        ),
        ("participants.tsv", "participant_id\tdate_of_birth\nsub-01\t2030-01-01\n", "is after the scan date"),
        ("participants.tsv", "participant_id\tage\tsex\nsub-01\t30\n", "participants.tsv line 2: has 2 cells"),
        (
            "participants.tsv",
            "participant_id\tage\tage\nsub-01\t30\t40\n",
            "participants.tsv: there are two columns 'age'",
        ),
        (
            "participants.tsv",
            "participant_id\tage\tAge\nsub-01\t30\t40\n",
            "participants.tsv: there are two columns 'age'",
        ),
        (
            "participants.tsv",
            "participant_id\tage\nsub-01\t30\nsub-01\t33\n",
            "participants.tsv line 3: participant_id: sub-01 is already in line 2",
        ),
        (
            "participants.tsv",
            "participant_id\tage\nsub-01\t30\n01\t33\n",
            "line 3: participant_id: sub-01 is already in line 2",
        ),
        (
            "participants.tsv",
            "participant_id,age\nsub-01,30\n",
            "there is no column participant_id (columns: participant_id,age)",
        ),
        ("participants.tsv", "", "participants.tsv: is empty"),
        (
            "participants.json",
            "{\"age\": {\"Units\": \"fortnights\"}}",
            "participants.json: age: unknown unit 'fortnights'",
        ),
        ("participants.json", "{\"age\": {\"Units\": 3}}", "Units is not a string"),
        (
            "participants.json",
            "{\"age\": {\"Description\": \"Age in months\"}}",
            "its description does not mention years",
        ),
        ("participants.json", "{\"age\": ", "participants.json: is not valid JSON"),
    ] {
        let set = Set::new(&[PEOPLE, IMAGE, (SCANS, SOUND)]);
        set.add(path, text);
        let intake = set.read_with_defaults();
        let told = problems(&intake);
        assert!(told.iter().any(|told| told.contains(wanted)), "{path} {text:?}: {told:?}, wanted {wanted}");
        assert!(intake.sessions.is_empty(), "{path} {text:?}: {:?}", intake.sessions);
    }
    let long = format!("participant_id\tage\t{}\nsub-01\t30\t1\n", "q".repeat(300));
    let set = Set::new(&[("participants.tsv", &long), IMAGE, (SCANS, SOUND)]);
    assert!(problems(&set.read_with_defaults())[0].contains("(got 300)"));
    for path in ["participants.tsv", SCANS, SESSIONS, "participants.json"] {
        let set = Set::new(&[IMAGE]);
        for (path, text) in [PEOPLE, (SCANS, SOUND)].into_iter().filter(|(other, _)| *other != path) {
            set.add(path, text);
        }
        set.link(path);
        let intake = set.read_with_defaults();
        let told = problems(&intake);
        assert!(told[0].starts_with(path) && told[0].contains("git annex get"), "{told:?}");
        assert!(intake.sessions.is_empty(), "{path}");
    }
}

#[test]
fn a_bad_session_keeps_its_neighbours_out_of_nothing() {
    let set = Set::new(&[
        PEOPLE,
        IMAGE,
        (SCANS, "filename\tacq_time\nanat/x.nii\tsoon\n"),
        ("sub-01/ses-2/anat/sub-01_ses-2_T1w.nii", ""),
        ("sub-01/ses-2/sub-01_ses-2_scans.tsv", SOUND),
        ("sub-02/ses-1/anat/sub-02_ses-1_T1w.nii", ""),
        ("sub-02/ses-1/sub-02_ses-1_scans.tsv", SOUND),
    ]);
    let intake = set.read_with_defaults();
    assert_eq!(intake.problems.len(), 1);
    let found: Vec<&str> = intake.sessions.iter().map(|session| session.experiment.as_str()).collect();
    assert_eq!(found, ["sub-01_ses-2", "sub-02_ses-1"]);
}

#[test]
fn dates_are_read_in_the_forms_that_data_sets_have() {
    for (text, wanted) in [
        ("2020-03-04", "2020-03-04T00:00:00"),
        ("2020-03-04T10:00:00+0100", "2020-03-04T09:00:00"),
        ("2020-03-04T10:00:00Z", "2020-03-04T10:00:00"),
        ("2020-03-04 10:00", "2020-03-04T10:00:00"),
        ("2020-03-04T10:00:00.123456", "2020-03-04T10:00:00.123456"),
    ] {
        let scans = format!("filename\tacq_time\nanat/x.nii\t{text}\nanat/y.nii\tn/a\n");
        let intake = Set::new(&[PEOPLE, IMAGE, (SCANS, &scans)]).read();
        assert_eq!((problems(&intake).len(), intake.sessions[0].scandate), (0, moment(wanted)), "{text}");
        let sessions = format!("session_id\tacq_time\n1\t{text}\n");
        let intake = Set::new(&[PEOPLE, IMAGE, (SESSIONS, &sessions)]).read();
        assert_eq!((problems(&intake).len(), intake.sessions[0].scandate), (0, moment(wanted)), "{text}");
    }
}

#[test]
fn what_belongs_to_no_experiment_is_noted() {
    let set = Set::new(&[
        ("participants.tsv", "Participant_ID\tAge\n01\t30\nsub-07\t31\n"),
        IMAGE,
        (SCANS, SOUND),
        (SESSIONS, "session_id\tacq_time\n1\t2023-01-01\nses-2\t2021-03-04T10:00:00\n"),
        ("sub-01/func/sub-01_task-rest_bold.nii", ""),
        ("sub-01/ses-1/hologram/sub-01_ses-1_holo.nii", ""),
        ("sub-01/ses-1/beh/sub-01_ses-1_task-x_beh.tsv", ""),
        ("phenotype/bdi.tsv", ""),
    ]);
    let intake = set.read();
    assert_eq!(problems(&intake), Vec::<String>::new());
    for words in [
        "sub-07 in participants.tsv has no folder",
        "ses-2 in sub-01/sub-01_sessions.tsv line 3 has no folder",
        "sub-01: 1 recordings outside of its session folders",
        "sub-01/ses-1/hologram: unknown data type hologram",
        "acq_time is 2023-01-01, but scans.tsv of sub-01/ses-1 has 2024-05-06",
        "phenotype/ is ignored",
    ] {
        assert!(intake.notes.iter().any(|note| note.contains(words)), "{words}: {:#?}", intake.notes);
    }
    assert!(!intake.notes.iter().any(|note| note.contains("beh")), "{:?}", intake.notes);
    assert_eq!((intake.sessions[0].scans.len(), intake.sessions.len()), (1, 1));
}

#[test]
fn ages_are_counted_in_their_unit() {
    for (unit, age, born) in [
        ("months", "14", "2019-01-01"),
        ("Years", "30", "1990-01-01"),
        ("year", "89+", "1931-01-01"),
        ("weeks", "20", "2019-01-01"),
        ("days", "70", "2019-01-01"),
    ] {
        let people = format!("participant_id\tage\nsub-01\t{age}\n");
        let units = format!("{{\"age\": {{\"Units\": \"{unit}\"}}}}");
        let scans = "filename\tacq_time\nx.nii\t2020-03-04T10:00:00\n";
        let intake =
            Set::new(&[("participants.tsv", &people), ("participants.json", &units), IMAGE, (SCANS, scans)]).read();
        assert_eq!(intake.sessions[0].date_of_birth, Some(born.parse().unwrap()), "{age} {unit}");
    }
}

#[test]
fn recordings_depend_on_the_data_type() {
    for (files, wanted) in [
        (
            &["motion/sub-01_task-walk_tracksys-imu_motion.tsv", "motion/sub-01_task-walk_tracksys-imu_channels.tsv"][..],
            &["motion_task-walk"][..],
        ),
        (&["emg/sub-01_task-lift_emg.edf", "emg/sub-01_task-lift_channels.tsv"], &["emg_task-lift"]),
        (&["micr/sub-01_sample-A_SEM.png", "micr/sub-01_sample-A_photo.tif"], &["SEM"]),
        (&["meg/sub-01_acq-calibration_meg.dat", "meg/sub-01_acq-crosstalk_meg.fif"], &[]),
        (&["meg/sub-01_task-rest_split-01_meg.fif", "meg/sub-01_task-rest_split-02_meg.fif"], &["meg_task-rest"]),
        (&["meg/sub-01_task-rest_meg/config", "meg/sub-01_task-rest_meg/c,rfDC"], &["meg_task-rest"]),
        (&["anat/sub-01_T1w.nii", "anat/sub-01_mod-T1w_defacemask.nii"], &["T1w"]),
        (
            &["anat/sub-01_inv-1_MP2RAGE.nii", "anat/sub-01_inv-2_MP2RAGE.nii", "anat/sub-01_UNIT1.nii"],
            &["MP2RAGE", "UNIT1"],
        ),
        (&["nirs/sub-01_task-x_nirs.snirf", "nirs/sub-01_optodes.tsv"], &["nirs_task-x"]),
    ] {
        let set = Set::new(&[]);
        files.iter().for_each(|file| set.add(&format!("sub-01/{file}"), ""));
        let intake = set.read_with_defaults();
        let found: Vec<&str> = intake.sessions[0].scans.iter().map(|scan| scan.protocol.as_str()).collect();
        assert_eq!(found, wanted, "{files:?}");
    }
}

#[test]
fn bidsignore_and_derivatives_are_not_counted() {
    let set = Set::new(&[
        (".bidsignore", "# junk\nsub-02/\n*_old.nii\nsub-*/ses-9/\n"),
        IMAGE,
        ("sub-01/ses-1/anat/sub-01_ses-1_T1w_old.nii", ""),
        ("sub-01/ses-1/anat/sub-01_ses-1_acq-x_T2w_old.nii", ""),
        ("sub-01/ses-9/anat/sub-01_ses-9_T1w.nii", ""),
        ("sub-02/anat/sub-02_T1w.nii", ""),
        ("derivatives/fmriprep/sub-01/anat/sub-01_T1w.nii", ""),
    ]);
    let intake = set.read_with_defaults();
    assert_eq!((intake.sessions.len(), intake.sessions[0].scans.len()), (1, 1), "{intake:?}");
    for words in ["sub-02 is skipped because of .bidsignore", "sub-01/ses-9 is skipped", "2 recordings are skipped"] {
        assert!(intake.notes.iter().any(|note| note.contains(words)), "{words}: {:?}", intake.notes);
    }
    set.add("dataset_description.json", "{\"Name\": \"x\", \"DatasetType\": \"derivative\"}");
    let intake = set.read_with_defaults();
    assert_eq!(intake.sessions[0].scans, []);
    assert!(intake.notes.iter().any(|note| note.contains("derivative dataset")), "{:?}", intake.notes);
}
