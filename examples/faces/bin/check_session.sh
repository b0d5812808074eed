#!/bin/sh
# Counts the recordings of one session of the example study and says what the protocol asks for and is not there.
set -eu
# Labels come from whoever imports; they lead to a session of the data set, and nowhere else.
case "$STUDYGOV_SUBJECT_LABEL/$STUDYGOV_EXPERIMENT_LABEL" in
  *[!A-Za-z0-9_/-]* | */*/*) echo "these labels are not part of the example dataset"; exit 1 ;;
esac
session="$STUDYGOV_DATA_DIR/ds000117/$STUDYGOV_SUBJECT_LABEL/${STUDYGOV_EXPERIMENT_LABEL#*_}"
echo "Checking $session"
count() { find "$session" -type f -name "$1" | wc -l | tr -d ' '; }
missing=""
expect() { # pattern, number, words
  found=$(count "$1")
  echo "$3: $found of $2"
  if [ "$found" -lt "$2" ]; then missing="$missing${missing:+, }\"$3\""; fi
}
case "$STUDYGOV_EXPERIMENT_LABEL" in
  *ses-mri) expect '*_T1w.nii.gz' 1 anatomy; expect '*_bold.nii.gz' 9 'functional runs'
            expect '*_dwi.nii.gz' 1 diffusion
            expect '*_magnitude?.nii' 2 'fieldmap magnitudes'; recordings=$(count '*.nii*') ;;
  *)        expect '*_meg.fif' 6 'MEG runs'; recordings=$(count '*.fif') ;;
esac
echo "__VALUES__ = {\"recordings\": $recordings, \"missing\": [$missing]}"
