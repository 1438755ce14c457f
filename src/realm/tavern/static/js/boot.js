// Before first paint: what this browser remembers about looks, so that nothing flashes.
(() => {
  const root = document.documentElement;
  try {
    if (localStorage.getItem('realm.calm') === '1') root.dataset.motion = 'calm';
    if (localStorage.getItem('realm.view') === '1') root.dataset.view = 'mortal';
    if (localStorage.getItem('realm.nokeys') === '1') root.dataset.nokeys = '1';
  } catch {
    // storage is switched off: defaults it is
  }
})();
