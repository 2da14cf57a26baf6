// Runs before the page is drawn, so that a chosen theme does not flash; without a choice the system decides.
(() => {
  const chosen = localStorage.getItem("manta-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
