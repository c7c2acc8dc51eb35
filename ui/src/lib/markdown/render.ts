/**
 * From what a model writes to HTML that cannot do anything: no HTML of its own passes, no picture
 * is fetched, links leave the page without telling it, and a sanitiser looks at all of it again.
 */

import DOMPurify from 'dompurify';
import MarkdownIt from 'markdown-it';
import { math } from './math';

const md = new MarkdownIt({ html: false, linkify: true, breaks: false, typographer: false });
md.use(math);

/** Without the endpoint's policy a style attribute would work; with it none does. */
for (const rule of ['th_open', 'td_open'] as const) {
  md.renderer.rules[rule] = (tokens, index) => {
    const align = /text-align:(\w+)/.exec(String(tokens[index]?.attrGet('style') ?? ''))?.[1];
    const tag = rule.slice(0, 2);
    return align ? `<${tag} class="align-${align}">` : `<${tag}>`;
  };
}

md.renderer.rules.link_open = (tokens, index, options, _env, self) => {
  tokens[index]?.attrSet('target', '_blank');
  tokens[index]?.attrSet('rel', 'noopener noreferrer nofollow');
  return self.renderToken(tokens, index, options);
};

/** A picture from elsewhere would tell its owner who reads this, so it is named and not fetched. */
md.renderer.rules.image = (tokens, index) => {
  const token = tokens[index];
  const source = md.utils.escapeHtml(String(token?.attrGet('src') ?? ''));
  const words = md.utils.escapeHtml(token?.content || 'picture');
  return `<a class="picture" href="${source}" target="_blank" rel="noopener noreferrer nofollow">picture: ${words}</a>`;
};

function code(text: string, info: string): string {
  const language = /^[\w+#.-]{1,24}/.exec(info.trim())?.[0]?.toLowerCase() ?? '';
  const label = language || 'text';
  return (
    `<div class="code"><div class="code-head"><span>${md.utils.escapeHtml(label)}</span>` +
    `<button type="button" data-copy="1">Copy</button></div>` +
    `<pre tabindex="0"><code data-language="${md.utils.escapeHtml(language)}">${md.utils.escapeHtml(text)}</code></pre></div>`
  );
}
md.renderer.rules.fence = (tokens, index) => code(tokens[index]?.content ?? '', tokens[index]?.info ?? '');
md.renderer.rules.code_block = (tokens, index) => code(tokens[index]?.content ?? '', '');

export function render(source: string): string {
  return DOMPurify.sanitize(md.render(source), {
    ALLOWED_ATTR: ['href', 'target', 'rel', 'class', 'type', 'data-copy', 'data-language', 'data-tex', 'data-display', 'start', 'tabindex'],
    ALLOW_DATA_ATTR: false,
    FORBID_TAGS: ['style', 'form', 'input', 'img', 'svg', 'math', 'iframe', 'object'],
    ADD_ATTR: ['target'],
  });
}
