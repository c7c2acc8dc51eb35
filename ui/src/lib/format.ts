/** Figures as people read them. */

const GROUPED = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });

export const count = (n: number): string => GROUPED.format(n);

/** Bytes in binary units, three digits. */
export function bytes(n: number | null | undefined): string {
  if (n === null || n === undefined || !Number.isFinite(n)) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = n;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

/** Tokens in short: 812, 12.4k, 131k. */
export function tokens(n: number | null | undefined): string {
  if (n === null || n === undefined) return '–';
  if (n < 1000) return String(n);
  const k = n / 1000;
  return `${k < 100 ? k.toFixed(1).replace(/\.0$/, '') : k.toFixed(0)}k`;
}

/** Tokens a second. */
export function speed(n: number | null | undefined): string {
  if (n === null || n === undefined || !Number.isFinite(n)) return '–';
  return n >= 100 ? n.toFixed(0) : n.toFixed(1);
}

export function seconds(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return '–';
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const whole = Math.round(ms / 1000);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export function params(n: number | null | undefined): string {
  if (!n) return '';
  if (n >= 1e9) return `${(n / 1e9).toFixed(n >= 1e10 ? 0 : 1)} B`;
  return `${Math.round(n / 1e6)} M`;
}

export const percent = (part: number, whole: number): string =>
  whole > 0 ? `${Math.round((100 * part) / whole)} %` : '–';

const AGO = new Intl.RelativeTimeFormat(undefined, { numeric: 'auto', style: 'narrow' });

export function ago(ms: number, now = Date.now()): string {
  const s = Math.round((ms - now) / 1000);
  const steps: [number, Intl.RelativeTimeFormatUnit][] = [
    [60, 'second'],
    [3600, 'minute'],
    [86_400, 'hour'],
    [604_800, 'day'],
    [2_629_800, 'week'],
    [31_557_600, 'month'],
  ];
  let per = 1;
  for (const [limit, unit] of steps) {
    if (Math.abs(s) < limit) return AGO.format(Math.round(s / per), unit);
    per = limit;
  }
  return AGO.format(Math.round(s / 31_557_600), 'year');
}

/** The beginning of a text, in one line. */
export function cut(text: string, chars: number): string {
  const line = text.split(/\s+/).filter(Boolean).join(' ');
  return line.length <= chars ? line : `${line.slice(0, chars).trimEnd()}…`;
}

/** A file's or a model's name where it may break. */
export const shortName = (name: string): string => name.replace(/\.gguf$/i, '');
