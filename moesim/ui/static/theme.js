// Colours as the system has them, light or dark; remembered in this browser.

const ORDER = ["auto", "light", "dark"];

function kept() {
  try {
    return localStorage.getItem("moesim-colours");
  } catch {
    return null;
  }
}

export function themes(button) {
  let now = ORDER.includes(kept()) ? kept() : "auto";
  const put = () => {
    document.documentElement.dataset.theme = now;
    button.textContent = `Colours: ${now}`;
  };
  button.addEventListener("click", () => {
    now = ORDER[(ORDER.indexOf(now) + 1) % ORDER.length];
    try {
      localStorage.setItem("moesim-colours", now);
    } catch {
      // Not remembered, then.
    }
    put();
  });
  put();
}
