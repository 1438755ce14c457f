// Forms with data-job order one job of that kind: the fields are its payload, numbers as numbers.
import {give} from './orders.js';
import {panel, status} from './line.js';

async function order(form) {
  const place = name => form.parentElement.querySelector(`[data-${name}]`);
  const button = form.querySelector('button');
  if (button.getAttribute('aria-busy') === 'true') return;
  place('oops').textContent = '';
  place('said').textContent = '';
  if (status.conn !== 'live') {
    place('oops').textContent = 'The line to the realm is lost: orders wait until it is back.';
    return;
  }
  const payload = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, /^\d+$/.test(value) ? Number(value) : value]));
  button.setAttribute('aria-busy', 'true');
  try {
    await give('jobs', {body: JSON.stringify({kind: form.dataset.job, payload})});
    place('said').textContent = 'Ordered; it is the first of the list.';
    panel('jobs'); // the arena tells when it reads the order, which may be later
  } catch (error) {
    place('oops').textContent = error.message;
  } finally {
    button.removeAttribute('aria-busy');
  }
}

export function start() {
  document.addEventListener('submit', event => {
    if (!event.target.matches('form[data-job]')) return;
    event.preventDefault();
    order(event.target);
  });
}
