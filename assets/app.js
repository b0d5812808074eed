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

// What was refused or did not come through is said: beside the file that was sent, or above the page.
const say = (element, text) => {
  const beside = element?.closest?.("[data-upload]")?.querySelector("[role=alert]");
  const place = beside ?? document.getElementById("trouble");
  if (!place) return;
  place.hidden = false;
  place.textContent = text;
  place.scrollIntoView({ block: "nearest" });
};
document.addEventListener("htmx:responseError", (event) => {
  // A page that looks for news by itself tries again by itself.
  if (event.target.id === "live" || event.detail.xhr.getResponseHeader("HX-Redirect")) return;
  const answer = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html").body.textContent.trim();
  say(event.target, answer || "That did not work. Please try again, or ask your administrator.");
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

// A file that is too large is not sent first.
document.addEventListener("htmx:confirm", (event) => {
  const form = event.target.closest?.("[data-upload]");
  const file = form?.querySelector("input[type=file]")?.files[0];
  if (!file || file.size <= Number(form.dataset.upload)) return;
  event.preventDefault();
  say(form, `Not taken: ${file.name} is larger than ${form.dataset.largest}.`);
});

// What was shown before it is done is not what stands in the form any more.
document.addEventListener("input", (event) => {
  const form = event.target.closest("form");
  for (const shown of document.querySelectorAll("form[data-shown]")) {
    if (form && shown !== form && shown.action === form.action) shown.remove();
  }
});

// Who chooses a role or ticks a person means that.
document.addEventListener("change", (event) => {
  const radio = document.getElementById(event.target.closest("[data-means]")?.dataset.means);
  if (radio) radio.checked = true;
});

// A second click a moment after something was done would meet the button that is there now, which does the next thing.
let done = -Infinity;
const hasJustBeenDone = () => performance.now() - done < 1000;
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target.matches?.("[data-once]")) done = Infinity;
});
document.addEventListener("htmx:afterSettle", (event) => {
  if (event.detail.requestConfig?.verb !== "post" || done !== Infinity) return;
  done = performance.now();
  // Nor does Enter, with the focus on what has taken the place of the button.
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
