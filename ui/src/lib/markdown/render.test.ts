import { describe, expect, it } from 'vitest';
import { closed, split } from './blocks';

describe('blocks', () => {
  it('are the whole text, whatever it is', () => {
    const text = 'One\n\n- a\n\n- b\n\n```js\nlet a\n\nlet b\n```\n\nTwo\n\n$$\na\n\nb\n$$\n\nThree';
    for (let end = 0; end <= text.length; end += 1) {
      const { blocks, tail } = split(text.slice(0, end));
      expect(blocks.join('') + tail).toBe(text.slice(0, end));
    }
    expect(split(`${text}\n`).blocks).toEqual([
      'One\n\n- a\n\n- b\n\n',
      '```js\nlet a\n\nlet b\n```\n\n',
      'Two\n\n',
      '$$\na\n\nb\n$$\n\n',
    ]);
  });

  it('do not change once they are there', () => {
    const text = 'One\n\nTwo **bold**\n\n1. a\n2. b\n\n   more\n\nEnd\n\n```\ncode\n```\n\nlast\n\n';
    let known: string[] = [];
    for (let end = 0; end <= text.length; end += 1) {
      const { blocks } = split(text.slice(0, end));
      expect(blocks.slice(0, known.length)).toEqual(known);
      known = blocks;
    }
  });

  it('close what is open', () => {
    expect(closed('```js\nlet a')).toBe('```js\nlet a\n```');
    expect(closed('a **b')).toBe('a **b**');
    expect(closed('a `b')).toBe('a `b`');
    expect(closed('done')).toBe('done');
  });
});
