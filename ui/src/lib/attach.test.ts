import { describe, expect, it } from 'vitest';
import { FILE_BYTES_MAX, join, part, read, type Attached } from './attach';

const file = (name: string, text: string): Attached => ({ name, bytes: new TextEncoder().encode(text).length, text });

describe('files in a message', () => {
  const inner = ['', 'one line', 'two\nlines\n', '```js\nlet a;\n```', '````\nfour\n````\n\nFile `fake` (1 bytes):\n```\nx\n```', '\n\n', '`', 'é\n```'];

  it('come apart as they were put together', () => {
    for (const text of ['', 'Look at this.', 'A fence:\n\n```\nx\n```', 'File `x` is missing.\n\nFile `y` too.']) {
      for (const one of inner) {
        for (const files of [[file('a.txt', one)], [file('a.txt', one), file('b c.md', 'second')], [file('b', 'first'), file('a', one)]]) {
          expect(part(join(text, files))).toEqual({ text, files });
        }
      }
    }
  });

  it('are not seen where there are none', () => {
    for (const text of ['', 'plain', 'File `a` (1 bytes):\n```\nopen', 'File `a` (1 bytes):\n```\nx\n```\nand more']) {
      expect(part(text)).toEqual({ text, files: [] });
    }
  });

  it('are text of a stated size', async () => {
    const made = (bytes: BlobPart, name = 'a.txt'): File => new File([bytes], name);
    expect(await read(made('a\r\nb', 'a `b`\n.txt'))).toEqual({ name: 'a b .txt', bytes: 4, text: 'a\nb' });
    await expect(read(made(new Uint8Array([0xff, 0xfe])))).rejects.toThrow('not text');
    await expect(read(made('a\0b'))).rejects.toThrow('not text');
    await expect(read(made('x'.repeat(FILE_BYTES_MAX + 1)))).rejects.toThrow('256 KiB');
  });
});
