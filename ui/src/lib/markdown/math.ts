/** `$…$`, `$$…$$`, `\(…\)` and `\[…\]` become placeholders, which KaTeX fills later. */

import type { MarkdownIt } from 'markdown-it';

const PAIRS: [open: string, close: string, display: boolean][] = [
  ['$$', '$$', true],
  ['\\[', '\\]', true],
  ['\\(', '\\)', false],
  ['$', '$', false],
];

/** Whether a dollar sign begins a formula and not a price. */
function isFormula(text: string, after: string): boolean {
  return text !== '' && !/^\s|\s$/.test(text) && !/^\d/.test(after);
}

export function math(md: MarkdownIt): void {
  md.inline.ruler.before('escape', 'math', (state, silent) => {
    for (const [open, close, display] of PAIRS) {
      if (!state.src.startsWith(open, state.pos)) continue;
      const from = state.pos + open.length;
      const to = state.src.indexOf(close, from);
      if (to < 0) continue;
      const tex = state.src.slice(from, to);
      if (open === '$' && !isFormula(tex, state.src.slice(to + 1, to + 2))) continue;
      if (tex.trim() === '') continue;
      if (!silent) {
        const token = state.push('math', '', 0);
        token.content = tex;
        token.meta = { display };
      }
      state.pos = to + close.length;
      return true;
    }
    return false;
  });
  md.renderer.rules.math = (tokens, index) => {
    const token = tokens[index];
    const tex = md.utils.escapeHtml(token?.content ?? '');
    const display = (token?.meta as { display?: boolean } | null)?.display ? ' data-display="1"' : '';
    return `<span class="tex" data-tex="${tex}"${display}>${tex}</span>`;
  };
}
