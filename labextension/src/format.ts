// Numbers as every view shows them; modal_magic/view/numbers.py says the same in Python.

const UNKNOWN = '–';

/** `0.4 s`, `12 s`, `2:19`, `1:41:07`. */
export function duration(seconds: number | null): string {
  if (seconds === null || !Number.isFinite(seconds)) {
    return UNKNOWN;
  }
  const positive = Math.max(0, seconds);
  if (positive < 9.95) {
    return `${positive.toFixed(1)} s`;
  }
  const whole = Math.round(positive);
  if (whole < 60) {
    return `${whole} s`;
  }
  const two = (n: number) => String(n).padStart(2, '0');
  const minutes = Math.floor(whole / 60);
  return minutes < 60
    ? `${minutes}:${two(whole % 60)}`
    : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
}

/** The age of a state that goes on: whole seconds, and `4 min` for what rests. */
export function age(seconds: number, rests: boolean): string {
  if (rests && seconds >= 60) {
    return seconds < 3600 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
  }
  return seconds < 60 ? `${Math.floor(Math.max(0, seconds))} s` : duration(seconds);
}

/** `4,000`, as the reader's language groups digits. */
export function count(value: number): string {
  return value.toLocaleString(undefined, { maximumFractionDigits: Number.isInteger(value) ? 0 : 1 });
}

/** Steps a second in two digits, seconds a step where it is less than one in ten seconds. */
export function rate(perSecond: number | null): string {
  if (perSecond === null || !Number.isFinite(perSecond)) {
    return UNKNOWN;
  }
  if (perSecond === 0) {
    return '0';
  }
  if (perSecond < 0.1) {
    return `${duration(1 / perSecond)}/step`;
  }
  return perSecond < 9.95 ? perSecond.toFixed(1) : count(Math.round(perSecond));
}

/** `62 %`. */
export function percent(number: number | null): string {
  return number === null ? UNKNOWN : `${number} %`;
}

/** Bytes as `31.2 G` or `412 M`, in powers of 1,024. */
export function size(bytes: number | null): string {
  if (bytes === null) {
    return UNKNOWN;
  }
  const mega = bytes / 1024 ** 2;
  return mega < 1000 ? `${count(Math.round(mega))} M` : `${(mega / 1024).toFixed(1)} G`;
}

/** `$0.37`; from $100 on no cents. */
export function dollars(amount: number): string {
  const digits = amount >= 99.995 ? 0 : 2;
  return `$${amount.toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}

/** Four significant digits, and all digits of what is larger. */
export function value(number: number | null): string {
  if (number === null || !Number.isFinite(number)) {
    return UNKNOWN;
  }
  const size = Math.abs(number);
  if ((size >= 10000 && size < 1e12) || Number.isInteger(number)) {
    return count(Math.round(number));
  }
  return size >= 1e-3 && size < 10000 ? number.toPrecision(4) : number.toExponential(3);
}
