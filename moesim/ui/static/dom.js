// Elements without markup: text from files and servers is only ever text.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else if (name === "value") continue;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  // A choice can only be chosen once its options are there.
  if (attributes?.value !== undefined) node.value = attributes.value;
  return node;
}

/** An HTML element: attributes, `on...` listeners, `style` as an object; children are nodes or text. */
export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** The same of SVG. */
export const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

/** Set text only where it differs, so that nothing is announced or drawn twice. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Put `children` in the place of what is there, and focus back where it was (by `data-key`), or near it. */
export function redraw(node, ...children) {
  const key = node.contains(document.activeElement) ? document.activeElement.dataset?.key : null;
  node.replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (!key) return;
  const again = node.querySelector(
    `[data-key="${CSS.escape(key)}"]:enabled, summary[data-key="${CSS.escape(key)}"]`,
  );
  (again ?? node.querySelector('[tabindex="0"], button:enabled'))?.focus({ preventScroll: true });
}

/** Put `text` on the clipboard; the old way where the new one is not allowed. Resolves to whether it worked. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { class: "unseen", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** Save `blob` under `name`. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
