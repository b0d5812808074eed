// A page that updates itself leaves alone what a person has opened or is writing.
if (window.Idiomorph) {
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) => !(name === "open" && node.tagName === "DETAILS");
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (old) => !(old.tagName === "TEXTAREA" || (old.tagName === "INPUT" && old.type === "text"));
}
