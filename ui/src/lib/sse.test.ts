import { describe, expect, it, vi } from 'vitest';

vi.stubGlobal('sessionStorage', { getItem: () => null });
const { SseParser } = await import('./sse');

describe('events', () => {
  it('are the same in whatever pieces they come', () => {
    const text = 'id: 1.0\ndata: {"a":1}\n\n: alive\n\nid: 2.0\ndata: {"b":"é\\n"}\n\n';
    for (let size = 1; size < text.length; size += 1) {
      const parser = new SseParser();
      const events = [];
      for (let at = 0; at < text.length; at += size) events.push(...parser.push(text.slice(at, at + size)));
      expect(events).toEqual([
        { id: '1.0', data: '{"a":1}' },
        { id: '2.0', data: '{"b":"é\\n"}' },
      ]);
    }
  });
});
