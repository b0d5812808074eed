// A page that updates itself leaves alone what a person has opened or is writing.
if (window.Idiomorph) {
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) => !(name === "open" && node.tagName === "DETAILS");
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (old) => !(old.tagName === "TEXTAREA" || (old.tagName === "INPUT" && old.type === "text"));
}

// One box for all boxes of its form with this name.
document.addEventListener("change", (event) => {
  const all = event.target.closest("[data-check-all]");
  if (!all) return;
  for (const box of all.form.querySelectorAll(`input[type=checkbox][name="${all.dataset.checkAll}"]:not(:disabled)`)) {
    box.checked = all.checked;
  }
});

// How much of a file has gone.
document.addEventListener("htmx:xhr:progress", (event) => {
  const bar = event.target.closest("[data-upload]")?.querySelector("progress");
  if (!bar || !event.detail.lengthComputable) return;
  bar.hidden = false;
  bar.value = (100 * event.detail.loaded) / event.detail.total;
});
