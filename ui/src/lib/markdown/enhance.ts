/** Colours code and sets formulas, after the text is there. Both come from files of their own. */

import DOMPurify from 'dompurify';
import type { Ask } from './highlight.worker';

/** Longer code stays as it is. */
const CODE_CHARS_MAX = 60_000;

let worker: Worker | null = null;
let asked = 0;
const waiting = new Map<number, (html: string | null) => void>();

function highlight(language: string, text: string): Promise<string | null> {
  if (!worker) {
    worker = new Worker(new URL('./highlight.worker.ts', import.meta.url), { type: 'module' });
    worker.onmessage = (message: MessageEvent<{ id: number; html: string | null }>) => {
      waiting.get(message.data.id)?.(message.data.html);
      waiting.delete(message.data.id);
    };
  }
  asked += 1;
  const id = asked;
  worker.postMessage({ id, language, text } satisfies Ask);
  return new Promise((done) => waiting.set(id, done));
}

async function colour(code: HTMLElement): Promise<void> {
  const text = code.textContent ?? '';
  const language = code.dataset.language ?? '';
  code.dataset.done = '1';
  if (!language || text.length > CODE_CHARS_MAX) return;
  const html = await highlight(language, text);
  if (html !== null && code.isConnected && code.textContent === text) {
    code.innerHTML = DOMPurify.sanitize(html, { ALLOWED_TAGS: ['span'], ALLOWED_ATTR: ['class'] });
  }
}

async function typeset(nodes: HTMLElement[]): Promise<void> {
  const [{ default: katex }] = await Promise.all([import('katex'), import('katex/dist/katex.min.css')]);
  for (const node of nodes) {
    const tex = node.dataset.tex ?? '';
    node.dataset.done = '1';
    // Builds elements and not text, so that the page's policy lets it have its places.
    katex.render(tex, node, {
      displayMode: node.dataset.display === '1',
      throwOnError: false,
      trust: false,
      strict: false,
      maxSize: 20,
      maxExpand: 200,
    });
  }
}

export function enhance(root: HTMLElement): void {
  for (const code of root.querySelectorAll<HTMLElement>('pre > code:not([data-done])')) void colour(code);
  const formulas = [...root.querySelectorAll<HTMLElement>('.tex:not([data-done])')];
  if (formulas.length) void typeset(formulas);
}

/** The copy buttons of code. */
export async function copyFrom(event: MouseEvent): Promise<void> {
  const button = (event.target as HTMLElement | null)?.closest<HTMLElement>('button[data-copy]');
  if (!button) return;
  const code = button.closest('.code')?.querySelector('code');
  await navigator.clipboard.writeText(code?.textContent ?? '');
  button.textContent = 'Copied';
  setTimeout(() => (button.textContent = 'Copy'), 1500);
}
