// Sets the theme before the page is drawn: the one chosen last, otherwise the system's.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("refocusd.theme");
  } catch {
    // Storage may be forbidden; then the system decides each time.
  }
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
