// One of several, as a list.

import { el } from "./dom.js";

/**
 * A labelled list. `onvalue(value)` is called when another is chosen. Returns `{node, show}`; `show(groups, value)` puts
 * `[[group, [[value, title], ...]], ...]` there, and chooses, without calling back.
 */
export function choice({ id, label, hint, onvalue }) {
  const list = el("select", {
    id,
    "aria-describedby": `${id}-fault`,
    onchange: () => onvalue(list.value),
  });
  let drawn = "";
  const option = ([value, title]) => el("option", { value }, title);
  const node = el(
    "div",
    { class: "field", "data-field": id },
    el("label", { for: id, title: hint }, label),
    list,
    el("p", { class: "fault", id: `${id}-fault` }),
  );
  const show = (groups, value) => {
    const text = JSON.stringify(groups);
    if (text !== drawn) {
      drawn = text;
      const made = groups.map(([name, items]) =>
        name ? el("optgroup", { label: name }, items.map(option)) : items.map(option),
      );
      list.replaceChildren(...made.flat());
    }
    list.value = value === null ? "none" : String(value);
  };
  return { node, show };
}
