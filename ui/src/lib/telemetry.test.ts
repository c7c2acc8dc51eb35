import { expect, test } from 'vitest';
import { along, appended, clustered, csv, spread, type History, type Point } from './telemetry';

const page = (at_s: number[], said: (number | null)[]): History => ({
  step_s: 10, days: 90, at_s,
  figures: { said_tps: { mean: said, high: said } },
  ttft: { p50_ms: said, p95_ms: said, p99_ms: said, count: said.map(() => 1) },
  cores_each: 1, cores: said.map(() => [5]), processes: { tiny: said }, endpoint: '(endpoint)',
  marks: [{ id: 1, at_ms: 11_000, kind: 'note', model: null, text: 'a "new", fan' }, { id: null, at_ms: 30_500, kind: 'crash', model: '=cmd()', text: '' }],
  trouble: null,
});
const point = (at_s: number, figures: Record<string, number>): Point => ({ at_s, step_s: 10, figures, ttft: null, cores_each: 1, cores: [7], processes: { big: 3 } });

test('a gap stays one: nothing is drawn over it', () => {
  const { times, places } = spread({ at_s: [10, 20, 50, 60], step_s: 10 });
  expect(times).toEqual([10, 20, 30, 50, 60]);
  expect(along(places, [1, 2, 3, 4])).toEqual([1, 2, null, 3, 4]);
  expect(along(places, undefined)).toEqual([null, null, null, null, null]);
  expect(spread({ at_s: [], step_s: 10 }).times).toEqual([]);
});

test('a point that comes is added once, what is new was nothing before, what is old goes', () => {
  const before = page([10, 20, 30], [1, 2, 3]);
  const after = appended(before, point(40, { said_tps: 4, celsius: 50 }), 20);
  expect(after.at_s).toEqual([20, 30, 40]);
  expect(after.figures.said_tps).toEqual({ mean: [2, 3, 4], high: [2, 3, 4] });
  expect(after.figures.celsius).toEqual({ mean: [null, null, 50] });
  expect(after.processes).toEqual({ tiny: [2, 3, null], big: [null, null, 3] });
  expect(after.cores).toEqual([[5], [5], [7]]);
  expect(after.ttft.p50_ms).toEqual([2, 3, null]);
  expect(after.marks.map((mark) => mark.at_ms)).toEqual([30_500]);
  expect(appended(after, point(40, {}), 20)).toBe(after);
  expect(appended(after, point(500, {}), 490).at_s).toEqual([500]);
  expect(before.at_s).toEqual([10, 20, 30]);
});

test('the table has each value, empty fields and nothing that runs', () => {
  const lines = csv(page([10, 30], [1, null])).trimEnd().split('\r\n');
  expect(lines).toHaveLength(3);
  expect(lines[0]).toBe('time,unix_s,seconds,said_tps,said_tps_high,ttft_p50_ms,ttft_p95_ms,ttft_p99_ms,ttft_count,memory_bytes tiny,cores_percent,marks');
  expect(lines[1]).toBe('1970-01-01T00:00:10.000Z,10,10,1,1,1,1,1,1,1,5,"a ""new"", fan"');
  expect(lines[2]).toBe("1970-01-01T00:00:30.000Z,30,10,,,,,,1,,5,'=cmd() crashed");
});

test('marks that would lie over one another are one', () => {
  const marks = [0, 3, 9, 30, 31].map((at_ms) => ({ at_ms }));
  expect(clustered(marks, (mark) => mark.at_ms, 8).map((one) => one.length)).toEqual([2, 1, 2]);
  expect(clustered([], () => 0, 8)).toEqual([]);
});
