// Token maps: one tab stop a row; arrows, Home, End or a tap choose a token and read its numbers below the row.
const current = box => box.querySelector('[aria-selected="true"]');

function choose(box, token) {
  if (!token) return;
  current(box)?.setAttribute('aria-selected', 'false');
  token.setAttribute('aria-selected', 'true');
  box.setAttribute('aria-activedescendant', token.id);
  document.getElementById(box.dataset.toks).textContent = token.getAttribute('aria-label');
  token.scrollIntoView({block: 'nearest'});
}

function key(event) {
  const box = event.target.closest('[data-toks]');
  if (!box || event.altKey || event.ctrlKey || event.metaKey) return;
  const at = current(box), tokens = box.children;
  const wanted = {
    ArrowRight: at ? at.nextElementSibling : tokens[0], ArrowLeft: at?.previousElementSibling,
    ArrowDown: below(box, at, 1), ArrowUp: below(box, at, -1), Home: tokens[0], End: tokens[tokens.length - 1],
  };
  if (!(event.key in wanted)) return;
  event.preventDefault();
  choose(box, wanted[event.key]);
}

// The token nearest in the next line of the picture, up or down.
function below(box, at, way) {
  if (!at) return box.firstElementChild;
  const away = t => Math.abs(t.offsetTop - at.offsetTop) * 1e4 + Math.abs(t.offsetLeft - at.offsetLeft);
  const lines = [...box.children].filter(t => (t.offsetTop - at.offsetTop) * way > 2);
  return lines.sort((a, b) => away(a) - away(b))[0];
}

export function start() {
  document.addEventListener('keydown', key);
  document.addEventListener('click', event => {
    const token = event.target.closest?.('.tok');
    if (token) choose(token.parentElement, token);
  });
}
