// Automatic updates of a page keep opened details and text that the user is typing.
if (window.Idiomorph) {
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) => !(name === "open" && node.tagName === "DETAILS");
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (old) => !(old.tagName === "TEXTAREA" || (old.tagName === "INPUT" && old.type === "text"));
}

// A checkbox that selects all checkboxes of its form with the given name.
document.addEventListener("change", (event) => {
  const all = event.target.closest("[data-check-all]");
  if (!all) return;
  for (const box of all.form.querySelectorAll(`input[type=checkbox][name="${all.dataset.checkAll}"]:not(:disabled)`)) {
    box.checked = all.checked;
  }
});

// Progress of an upload.
document.addEventListener("htmx:xhr:progress", (event) => {
  const bar = event.target.closest("[data-upload]")?.querySelector("progress");
  if (!bar || !event.detail.lengthComputable) return;
  bar.hidden = false;
  bar.value = (100 * event.detail.loaded) / event.detail.total;
});

// Shows why a request failed: next to the upload form, or at the top of the page.
const say = (element, text) => {
  const beside = element?.closest?.("[data-upload]")?.querySelector("[role=alert]");
  const place = beside ?? document.getElementById("trouble");
  if (!place) return;
  place.hidden = false;
  place.textContent = text;
  place.scrollIntoView({ block: "nearest" });
};
document.addEventListener("htmx:responseError", (event) => {
  // Automatic updates retry automatically.
  if (event.target.id === "live" || event.detail.xhr.getResponseHeader("HX-Redirect")) return;
  const answer = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html").body.textContent.trim();
  say(event.target, answer || "The request failed. Please try again, or ask your administrator.");
});
for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => event.target.id === "live" || say(event.target, "The server could not be reached. Please try again."));
}
document.addEventListener("htmx:beforeRequest", (event) => {
  const place = document.getElementById("trouble");
  if (place && event.target.id !== "live") place.hidden = true;
  const beside = event.target.closest?.("[data-upload]")?.querySelector("[role=alert]");
  if (beside) beside.textContent = "";
  if (event.target.id !== "live") document.querySelector("[data-told]")?.remove();
});

// Rejects a file that is too large before it is sent.
document.addEventListener("htmx:confirm", (event) => {
  const form = event.target.closest?.("[data-upload]");
  const file = form?.querySelector("input[type=file]")?.files[0];
  if (!file || file.size <= Number(form.dataset.upload)) return;
  event.preventDefault();
  say(form, `Upload failed: ${file.name} is larger than ${form.dataset.largest}.`);
});

// Removes a preview as soon as the form that it was made from is edited.
document.addEventListener("input", (event) => {
  const form = event.target.closest("form");
  for (const shown of document.querySelectorAll("form[data-shown]")) {
    if (form && shown !== form && shown.action === form.action) shown.remove();
  }
});

// Choosing a role or a user also selects the corresponding radio button.
document.addEventListener("change", (event) => {
  const radio = document.getElementById(event.target.closest("[data-means]")?.dataset.means);
  if (radio) radio.checked = true;
});

// Ignores a second click shortly after an action: it would hit the button of the next action, which has taken the place of the first.
let done = -Infinity;
const hasJustBeenDone = () => performance.now() - done < 1000;
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target.matches?.("[data-once]")) done = Infinity;
});
document.addEventListener("htmx:afterSettle", (event) => {
  if (event.detail.requestConfig?.verb !== "post" || done !== Infinity) return;
  done = performance.now();
  // The focus moves too, so that Enter does not press the new button.
  const live = document.getElementById("live");
  if (!live) return;
  live.tabIndex = -1;
  live.focus({ preventScroll: true });
});
for (const name of ["htmx:responseError", "htmx:sendError"]) document.addEventListener(name, () => { done = -Infinity; });
for (const name of ["click", "submit"]) {
  document.addEventListener(name, (event) => {
    if (!event.target.closest?.("[data-once]") || !hasJustBeenDone()) return;
    if (name === "click" && !event.target.closest("button")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }, true);
}
