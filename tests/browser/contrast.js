// Contrast of every piece of text that is seen with what is painted behind it; what is disabled is exempt.
// Gives how many were looked at, and those below 4.5.
() => {
  const numbers = (text) => {
    const found = text.match(/[\d.]+/g).map(Number);
    return found.length > 3 ? found : [...found, 1];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, k) => c * a + under[k] * (1 - a));
  const behind = (node) => {
    const layers = [];
    for (let n = node; n; n = n.parentElement) layers.push(numbers(getComputedStyle(n).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) =>
      c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4,
    );
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((p, q) => p - q);
    return (high + 0.05) / (low + 0.05);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const bad = [];
  let seen = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const node = walker.currentNode.parentElement;
    if (!text || !node.checkVisibility() || node.closest("noscript, title, option, .unseen, :disabled, .off"))
      continue;
    const style = getComputedStyle(node);
    const drawing = node.closest("svg");
    const part = node.closest(".part")?.querySelector("rect");
    const ground = part
      ? numbers(getComputedStyle(part).fill)
      : behind(drawing ? drawing.parentElement : node);
    const found = contrast(over(numbers(drawing ? style.fill : style.color), ground), ground);
    seen += 1;
    if (found < 4.5)
      bad.push([found.toFixed(2), node.tagName, node.getAttribute("class"), text.slice(0, 40)]);
  }
  return [seen, bad];
};
