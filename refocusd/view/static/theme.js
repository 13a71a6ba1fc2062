// Before the page is drawn: the theme that was chosen last, else the system's.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("refocusd.theme");
  } catch {
    // Storage may be forbidden; then the system decides each time.
  }
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
