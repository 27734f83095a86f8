// Numbers and dates as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const dates = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const times = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const numbers = new Intl.NumberFormat();

export function bytes(count) {
  let value = Number(count) || 0;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export const number = (value) => numbers.format(value);

export const count = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;

export const date = (milliseconds) => dates.format(new Date(milliseconds));

export const time = (milliseconds) => times.format(new Date(milliseconds));

// Never 100 while something is missing, never 0 while there is something.
export function percent(part, whole) {
  if (!(whole > 0) || part <= 0) return 0;
  if (part >= whole) return 100;
  return Math.min(99, Math.max(1, Math.round((part / whole) * 100)));
}
