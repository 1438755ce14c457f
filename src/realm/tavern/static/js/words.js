// How numbers are written; the same forms as tavern/views/words.py.
export const group = (value, digits = 0) =>
  value.toLocaleString('en-US', {minimumFractionDigits: digits, maximumFractionDigits: digits});
export const compact = value => (value >= 1000 ? `${(value / 1000).toFixed(1)}k` : value.toFixed(0));
export const pace = value => value.toFixed(value < 10 ? 2 : 1);
export const damage = loss => 1 / Math.max(loss, 1e-4);
export const gigabytes = bytes => (bytes / 1e9).toFixed(1);

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const two = n => String(n).padStart(2, '0');
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h ${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d ${two(Math.floor((whole % 86400) / 3600))}h`;
}

export function size(bytes) {
  for (const [unit, scale] of [['GB', 1e9], ['MB', 1e6], ['KB', 1e3]]) {
    if (bytes >= scale) return `${(bytes / scale).toFixed(1)} ${unit}`;
  }
  return `${bytes} B`;
}
