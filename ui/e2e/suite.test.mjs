// The workbench in a browser, against the real endpoint and a real model.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, afterEach, before, test } from 'node:test';
import AxeBuilder from '@axe-core/playwright';
import { answers, api, BASE, browser as launch, closeAll, composer, DESKTOP, EMPTY, ended, grown, MODEL_PATH, open, PHONE, say, shot, watch } from './harness.mjs';

let browser;
before(async () => (browser = await launch()));
afterEach(closeAll);
after(async () => browser.close());

const LONG = 'Write a long story about a lighthouse keeper, a storm and a lost ship. Tell every detail.';
const fine = (page) => assert.deepEqual(page.faults, []);

test('an empty machine says what it is and offers models that fit', async () => {
  const page = await open(browser, { base: EMPTY });
  await page.getByText('Welcome to Sextant').waitFor();
  await page.getByText(/This machine: .*cores?, .*GiB of memory/).waitFor();
  await page.getByRole('button', { name: 'Fetch instant' }).waitFor();
  await shot(page, 'first-run-desktop-light');
  await page.setViewportSize(PHONE);
  await shot(page, 'first-run-phone-light');
  fine(page);
});

test('a first answer takes one click and comes as it is written', async () => {
  const page = await open(browser);
  await page.getByRole('button', { name: /Explain something/ }).click();
  await watch(page);
  await composer(page).press('Enter');
  const article = answers(page).last();
  await article.waitFor();
  await ended(page);
  const pieces = await page.evaluate(() => window.lengths.size);
  assert.ok(pieces >= 3, `it came in ${pieces} pieces`);
  await article.getByRole('button', { name: 'What this answer took' }).click();
  await page.getByText('Counted by the engine').waitFor();
  await shot(page, 'stats-desktop-light');
  fine(page);
});

test('a reload in the middle of an answer loses nothing', async () => {
  const page = await open(browser);
  await composer(page).fill(LONG);
  await composer(page).press('Enter');
  const article = answers(page).last();
  await page.waitForFunction(() => [...document.querySelectorAll('article')].at(-1)?.textContent.length > 120);
  const had = await article.locator('.prose-ours').last().textContent();
  await page.reload();
  await answers(page).last().waitFor();
  await page.waitForFunction((length) => ([...document.querySelectorAll('article .prose-ours')].at(-1)?.textContent.length ?? 0) >= length, had.length);
  const now = await article.locator('.prose-ours').last().textContent();
  assert.ok(now.replace(/\s+/g, ' ').startsWith(had.replace(/\s+/g, ' ').slice(0, 80)));
  await ended(page);
  const id = new URL(page.url()).hash.split('/')[2];
  const chat = await api('GET', `api/chats/${id}`);
  const last = chat.messages.at(-1);
  assert.equal(last.state, 'done', JSON.stringify(last.detail));
  fine(page);
});

test('two tabs see the same answer, and one can stop it', async () => {
  const context = await browser.newContext({ viewport: DESKTOP });
  const one = await open(browser, { context });
  await composer(one).fill(LONG);
  await composer(one).press('Enter');
  await one.waitForURL(/#\/chat\/chat_/);
  const two = await open(browser, { context, path: new URL(one.url()).hash.slice(2) });
  await two.waitForFunction(() => ([...document.querySelectorAll('article .prose-ours')].at(-1)?.textContent.length ?? 0) > 30);
  await two.getByRole('button', { name: 'Stop' }).click();
  await one.getByText('stopped', { exact: true }).waitFor();
  await two.getByText('stopped', { exact: true }).waitFor();
  const texts = await Promise.all([one, two].map((page) => page.locator('article .prose-ours').last().textContent()));
  assert.equal(texts[0], texts[1]);
  fine(one);
  fine(two);
  await context.close();
});

test('a changed message and another answer are versions, with arrows between them', async () => {
  const page = await open(browser);
  await say(page, 'Say the word apple.');
  await page.getByRole('button', { name: 'Change and send again' }).click();
  await page.getByRole('textbox', { name: 'Your message, changed' }).fill('Say the word pear.');
  await page.getByRole('button', { name: 'Send as another version' }).click();
  await ended(page);
  const versions = page.getByRole('group', { name: 'Versions' });
  await versions.getByText('2/2').waitFor();
  await versions.getByRole('button', { name: 'Earlier version' }).click();
  await page.getByText('Say the word apple.').first().waitFor();
  await page.getByRole('button', { name: 'Answer again' }).last().click();
  await page.getByRole('dialog', { name: 'Answer again' }).getByRole('button').first().click();
  await ended(page);
  assert.equal(await page.getByRole('group', { name: 'Versions' }).count(), 2);
  await shot(page, 'branches-desktop-light');
  const id = new URL(page.url()).hash.split('/')[2];
  assert.equal((await api('GET', `api/chats/${id}`)).messages.length, 5);
  fine(page);
});

test('an answer that was stopped goes on where it was, as another version', async () => {
  const page = await open(browser);
  await composer(page).fill(LONG);
  await composer(page).press('Enter');
  await grown(page, 80);
  await page.getByRole('button', { name: 'Stop' }).click();
  await page.getByText('stopped', { exact: true }).waitFor();
  const id = new URL(page.url()).hash.split('/')[2];
  const stopped = (await api('GET', `api/chats/${id}`)).messages.at(-1);
  await page.getByRole('button', { name: 'Go on' }).click();
  await page.getByRole('group', { name: 'Versions' }).getByText('2/2').waitFor();
  await page.getByText('goes on from version 1').waitFor();
  await ended(page);
  const rest = (await api('GET', `api/chats/${id}`)).messages.at(-1);
  assert.ok(rest.text.startsWith(stopped.text) && rest.text.length > stopped.text.length, `${stopped.text} → ${rest.text}`);
  assert.equal(rest.detail.continues, stopped.id);
  await shot(page, 'went-on-desktop-light');
  fine(page);
});

test('two models answer the same side by side, and the chat goes on from the one that is chosen', async () => {
  // The same file under another name is another model to everybody.
  const second = 'second';
  await api('POST', 'admin/models/load', { model: second, path: MODEL_PATH, context: 2048 });
  const page = await open(browser);
  await page.getByRole('button', { name: 'A second answer to compare' }).click();
  const panel = page.getByRole('dialog', { name: 'A second answer to compare' });
  await panel.getByRole('combobox', { name: 'Model' }).selectOption(second);
  await panel.getByRole('textbox', { name: 'Temperature' }).fill('0.3');
  await panel.getByRole('textbox', { name: 'Most tokens' }).fill('40');
  await page.keyboard.press('Tab');
  await shot(page, 'compare-panel-desktop-light');
  await page.keyboard.press('Escape');
  await composer(page).fill('What is the moon?');
  await composer(page).press('Enter');
  const beside = page.getByRole('region', { name: 'Answers side by side' });
  await beside.waitFor();
  // Both are written at once: each has text while something is still open.
  await page.waitForFunction(() => [...document.querySelectorAll('section[aria-label="Answers side by side"] article .prose-ours')].filter((text) => text.textContent).length === 2);
  await ended(page);
  const table = beside.getByRole('region', { name: 'What each answer took' });
  await table.getByRole('row', { name: /Model.*second/ }).waitFor();
  await table.getByRole('row', { name: /temperature .*0\.3/ }).waitFor();
  await shot(page, 'compare-desktop-light');
  await beside.getByRole('button', { name: 'Go on from this one' }).click();
  assert.equal(await beside.getByRole('button', { name: 'Go on from this one' }).count(), 1);
  const id = new URL(page.url()).hash.split('/')[2].split('?')[0];
  const { messages, leaf } = await api('GET', `api/chats/${id}`);
  const [, first, other] = messages;
  assert.deepEqual([messages.length, first.parent, other.detail.model, leaf], [3, other.parent, second, other.id]);
  // It is seen so by whoever opens the address, in any size.
  const phone = await open(browser, { path: new URL(page.url()).hash.slice(2), size: PHONE, theme: 'dark' });
  await phone.getByRole('region', { name: 'Answers side by side' }).waitFor();
  await shot(phone, 'compare-phone-dark');
  assert.equal(await phone.evaluate(() => document.documentElement.scrollWidth - innerWidth), 0);
  await phone.getByRole('button', { name: 'One at a time' }).click();
  await phone.getByRole('button', { name: 'Versions side by side' }).waitFor();
  await api('POST', 'admin/models/unload', { model: second });
  fine(page);
  fine(phone);
});

test('text files go along with a message, and what is none is refused with its limit', async () => {
  const page = await open(browser);
  const given = (name, text) => ({ name, mimeType: 'text/plain', buffer: Buffer.from(text) });
  const chooser = page.locator('input[type=file]');
  await chooser.setInputFiles([given('notes.md', '# Notes\n\n```\nThe harbour is called <b>Zephyrine</b>.\n```\n'), given('huge.log', 'x'.repeat(300 * 1024)), { ...given('photo.jpg', ''), buffer: Buffer.from([0xff, 0xd8, 0xff]) }]);
  await page.getByText(/huge\.log has 300 KiB; a file may have at most 256 KiB/).waitFor();
  await page.getByText(/photo\.jpg is not text/).waitFor();
  await page.getByRole('list', { name: 'Files that go along' }).getByText('notes.md').waitFor();
  await shot(page, 'attach-desktop-light');
  await say(page, 'What is the harbour called?');
  const said = page.getByRole('article', { name: 'You said' });
  await said.getByText('notes.md').click();
  await said.getByText('<b>Zephyrine</b>').waitFor();
  await shot(page, 'attached-desktop-light');
  const id = new URL(page.url()).hash.split('/')[2];
  const { messages } = await api('GET', `api/chats/${id}`);
  assert.equal((await api('GET', `api/chats/${id}`)).title, 'What is the harbour called?');
  assert.match(messages[0].text, /^What is the harbour called\?\n\nFile `notes\.md` \(\d+ bytes\):\n````\n# Notes/);
  // A change of the question keeps the file.
  await page.getByRole('button', { name: 'Change and send again' }).click();
  await page.getByRole('textbox', { name: 'Your message, changed' }).fill('And where is it?');
  await page.getByRole('button', { name: 'Send as another version' }).click();
  await ended(page);
  const changed = (await api('GET', `api/chats/${id}`)).messages[2];
  assert.match(changed.text, /^And where is it\?\n\nFile `notes\.md`/);
  fine(page);
});

test('a worker that is killed is told as such, keeps its text, and comes back', async () => {
  const page = await open(browser);
  await composer(page).fill(LONG);
  await composer(page).press('Enter');
  await page.waitForFunction(() => ([...document.querySelectorAll('article .prose-ours')].at(-1)?.textContent.length ?? 0) > 60);
  const { models } = await api('GET', 'admin/models');
  const model = models.find((one) => one.requests_running > 0);
  process.kill(model.pid, 'SIGKILL');
  const card = page.getByRole('alert').filter({ hasText: 'The engine crashed' });
  await card.waitFor();
  assert.ok((await page.locator('article .prose-ours').last().textContent()).length > 60);
  await shot(page, 'crash-desktop-light');
  await card.getByRole('button', { name: 'Ask again' }).click();
  await ended(page);
  assert.equal(await page.getByRole('alert').count(), 0);
  fine(page);
});

test('the log tells what the engines say and what it means, as it comes', async () => {
  const page = await open(browser, { path: 'logs' });
  const lines = page.getByRole('log', { name: 'Lines' });
  const { models } = await api('GET', 'admin/models');
  process.kill(models[0].pid, 'SIGKILL');
  await lines.getByText('will be started again').last().waitFor();
  await page.getByRole('region', { name: 'What is known' }).getByText('killed_for_memory').waitFor();
  const words = page.getByRole('searchbox', { name: 'Only lines with' });
  await words.fill('load_tensors');
  await page.getByRole('combobox', { name: 'From the level' }).selectOption('debug');
  await lines.getByText('load_tensors').first().waitFor();
  assert.equal(await lines.getByText('will be started again').count(), 0);
  await words.fill('');
  const last = async () => (await api('GET', 'api/logs?limit=1')).next;
  const before = await last();
  await api('GET', 'v1/models');
  await lines.getByText('route=/v1/models').last().waitFor();
  assert.ok((await last()) > before);
  await page.waitForTimeout(1500);
  const quiet = await last();
  await page.waitForTimeout(1500);
  assert.equal(await last(), quiet, 'reading the log writes into it');
  await shot(page, 'logs-desktop-light');
  fine(page);
});

test('what is written does nothing, whoever writes it', async () => {
  const evil = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>[x](javascript:window.hacked=1) ![p](http://example.invalid/p.png) <b>bold</b>';
  const chat = await api('POST', 'api/chats', { title: evil, system: evil });
  const page = await open(browser, { path: `chat/${chat.id}` });
  await page.getByRole('article').first().waitFor();
  await say(page, `Repeat this: ${evil}`);
  await page.goto(`${BASE}/#/models`);
  await page.waitForTimeout(200);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await page.locator('#app img, #app script').count(), 0);
  assert.equal(await page.locator('a[href^="javascript"]').count(), 0);
  await api('DELETE', `api/chats/${chat.id}`);
  fine(page);
});

test('markdown, code and formulas are shown as such', async () => {
  const page = await open(browser, { path: 'settings' });
  const text = 'A **table**:\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```rust\nfn main() { println!("hi"); }\n```\n\nInline $e^{i\\pi}+1=0$ and\n\n$$\\int_0^1 x^2\\,dx = \\tfrac13$$\n\nIt costs $5 and $6.';
  const one = { id: 'm0', parent: null, role: 'user', text: 'Show all.', reasoning: '', state: 'done', privacy: 'any', detail: null, created_ms: 1 };
  const two = { ...one, id: 'm1', parent: 'm0', role: 'assistant', text, reasoning: 'First a table.' };
  await page.route('**/api/chats/shown', (route) => route.fulfill({ json: { id: 'shown', title: 'Shown', model: null, leaf: 'm1', created_ms: 1, changed_ms: 1, excerpt: null, messages: [one, two] } }));
  await page.evaluate(() => (location.hash = '#/chat/shown'));
  await page.locator('article table td').first().waitFor();
  await page.locator('.hljs-keyword').first().waitFor();
  await page.locator('.katex').nth(1).waitFor();
  assert.equal(await page.locator('.tex').count(), 2);
  await page.evaluate(() => document.fonts.ready);
  await shot(page, 'markdown-desktop-light');
  fine(page);
});

test('a dry run shows where a request would go', async () => {
  const page = await open(browser, { path: 'router' });
  await page.getByRole('button', { name: 'Where would it go?' }).click();
  await page.getByText('is asked first').waitFor();
  await shot(page, 'router-decision-desktop-light');
  fine(page);
});

test('the planner follows what is changed', async () => {
  const page = await open(browser, { path: 'planner' });
  await page.getByRole('heading', { name: 'Ledger' }).waitFor();
  await page.getByRole('spinbutton', { name: 'Requests at once' }).fill('64');
  await page.getByRole('textbox', { name: /Memory/ }).fill('0.2');
  await page.getByText('Any one of these makes it fit').waitFor();
  const lacks = page.getByText(/^✕?lacks/);
  await lacks.waitFor();
  await shot(page, 'planner-no-desktop-light');
  fine(page);
});

test('the history has what happened, takes notes, and goes on by itself', async () => {
  const page = await open(browser, { path: 'telemetry?range=15%20min' });
  await page.getByRole('region', { name: 'Tokens', exact: true }).waitFor({ timeout: 30_000 });
  const asked = [];
  page.on('request', (request) => request.url().includes('/api/telemetry?') && asked.push(request.url()));
  const events = page.getByRole('region', { name: 'Events' });
  await events.getByText(/loaded: context 2048/).first().waitFor();
  // A note is there as soon as it is kept, in all pages, and is gone when it is deleted.
  const text = 'a <b>new</b> fan';
  await page.getByRole('textbox', { name: 'A note' }).fill(text);
  await page.getByRole('button', { name: 'Add note' }).click();
  await events.getByText(text).waitFor();
  const phone = await open(browser, { path: 'telemetry', size: PHONE, theme: 'dark' });
  await phone.getByRole('region', { name: 'Events' }).getByText(text).waitFor();
  await shot(phone, 'telemetry-live-phone-dark');
  // What is measured comes by the bus: the table grows, and nothing is asked for again.
  await page.getByRole('region', { name: 'Memory', exact: true }).getByText('As a table').click();
  const table = page.getByRole('region', { name: 'Memory as a table' });
  const first = () => table.getByRole('row').nth(1).textContent();
  const before = await first();
  const n_asked = asked.length;
  await page.waitForFunction((old) => document.querySelector('[aria-label="Memory as a table"] tbody tr')?.textContent !== old, before, { timeout: 30_000 });
  assert.equal(asked.length, n_asked, 'nothing was asked for');
  await shot(page, 'telemetry-live-desktop-light');
  await events.getByRole('button', { name: `Delete the note ${text}` }).click();
  await events.getByText(text).waitFor({ state: 'detached' });
  // Without a mouse: the slider tells what it is at.
  await page.getByRole('slider', { name: 'Moment' }).focus();
  await page.keyboard.press('Home');
  assert.match(await page.getByRole('slider').getAttribute('aria-valuetext'), /\d\d:\d\d:\d\d, tokens a second/);
  const [file] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Save as CSV' }).click()]);
  const lines = readFileSync(await file.path(), 'utf8').trim().split('\r\n');
  assert.ok(lines.length > 2 && lines[0].startsWith('time,unix_s,seconds,') && lines[0].includes('said_tps'), lines[0]);
  for (const range of ['24 h', '90 d']) {
    await page.getByRole('button', { name: range, exact: true }).click();
    await page.getByRole('button', { name: range, exact: true, pressed: true }).waitFor();
    await page.getByRole('region', { name: 'Tokens', exact: true }).waitFor();
  }
  fine(page);
  fine(phone);
});

/** A day as it could have been, with a gap in the afternoon. */
function pretendedDay(nowS) {
  const step = 300;
  const at_s = Array.from({ length: 288 }, (_, n) => Math.floor(nowS / step) * step - (287 - n) * step).filter((_, n) => n < 150 || n > 190);
  const wave = (base, swing, every) => at_s.map((at) => Math.max(0, base + swing * Math.sin(at / every) + swing * 0.35 * Math.sin(at / 700)));
  const line = (mean, most) => ({ mean, ...(most ? { high: mean.map((value) => value * most) } : {}) });
  const both = (mean) => ({ ...line(mean, 1.3), low: mean.map((value) => value * 0.7) });
  const GB = 1e9;
  const mark = (id, ago, kind, model, text) => ({ id, at_ms: (nowS - ago) * 1000, kind, model, text });
  return {
    step_s: step, days: 90, at_s,
    figures: {
      said_tps: line(wave(22, 18, 9000), 1.6), read_tps: line(wave(140, 120, 8000), 1.5), cached_tps: line(wave(300, 250, 8000)),
      decode_speed_tps: both(wave(31, 4, 12_000)), prefill_speed_tps: both(wave(410, 60, 12_000)),
      running: line(wave(1.4, 1.2, 9000), 2), queued: line(wave(0.3, 0.6, 7000), 4), answered_per_min: line(wave(3, 2.5, 9000)), failed_per_min: line(wave(0, 0.1, 4000)),
      kv_cells: line(at_s.map(() => 32_768)), kv_running_cells: line(wave(6000, 5000, 9000), 1.4), kv_cached_cells: line(wave(14_000, 9000, 20_000)),
      kv_bytes: line(at_s.map(() => 1.2 * GB)), kv_used_bytes: line(wave(0.7 * GB, 0.3 * GB, 15_000)),
      models_bytes: line(wave(6.1 * GB, 0.2 * GB, 30_000)), available_bytes: { mean: wave(9 * GB, 0.8 * GB, 20_000), low: wave(8.4 * GB, 0.8 * GB, 20_000) },
      busy_share: line(wave(0.45, 0.4, 9000), 1.2), own_cores: line(wave(3.1, 2.8, 9000)), celsius: line(wave(63, 14, 9000), 1.05), throttled_share: line(wave(0, 0.15, 9000)),
    },
    ttft: { p50_ms: wave(420, 200, 8000), p95_ms: wave(1400, 700, 8000), p99_ms: wave(2600, 900, 8000), count: at_s.map(() => 12) },
    cores_each: 1, cores: at_s.map((at, n) => Array.from({ length: 8 }, (_, core) => Math.round(50 + 50 * Math.sin(at / 9000 + core / 3) * (core < 4 ? 0.3 : 0.95) - (n % 5)))).map((row) => row.map((one) => Math.max(0, Math.min(100, one)))),
    processes: { 'qwen3-4b-q4_k_m': wave(3.4 * GB, 0.1 * GB, 20_000), 'smollm2-135m': wave(0.4 * GB, 0.02 * GB, 9000), '(endpoint)': wave(0.08 * GB, 0.01 * GB, 9000) },
    endpoint: '(endpoint)',
    marks: [
      mark(1, 80_000, 'start', null, 'version 0.1.0'), mark(2, 79_990, 'load', 'qwen3-4b-q4_k_m', 'context 16384, cache q8_0, 4.1 s'), mark(3, 60_000, 'setting', 'qwen3-4b-q4_k_m', 'kv_type_v q8_0 → q4_0'),
      mark(4, 59_900, 'tuned', 'qwen3-4b-q4_k_m', 'as measured here: threads, batch'), mark(5, 41_000, 'stop', null, ''), mark(6, 29_000, 'start', null, 'version 0.1.0; the run before was cut off'),
      mark(7, 21_000, 'crash', 'smollm2-135m', 'killed by signal 9'), mark(8, 9000, 'note', null, 'the new fan runs'), mark(9, 3000, 'unload', 'smollm2-135m', 'memory was short'),
    ],
    trouble: null,
  };
}

test('a day is shown with its gap, its marks and one cursor', async () => {
  for (const [theme, size, name] of [['light', DESKTOP, 'desktop'], ['dark', DESKTOP, 'desktop'], ['light', PHONE, 'phone'], ['dark', PHONE, 'phone']]) {
    const page = await open(browser, { path: 'settings', theme, size });
    const json = pretendedDay(Math.floor(Date.now() / 1000));
    const asked = [];
    await page.route('**/api/telemetry?*', (route) => {
      asked.push(new URL(route.request().url()).searchParams);
      return route.fulfill({ json });
    });
    await page.evaluate(() => (location.hash = '#/telemetry?range=24%20h'));
    await page.getByRole('region', { name: 'Heat' }).waitFor();
    const lane = page.getByRole('region', { name: 'What happened' });
    await lane.getByRole('button', { name: /smollm2-135m crashed: killed by signal 9/ }).click();
    await lane.getByText('smollm2-135m crashed: killed by signal 9').waitFor();
    await page.waitForTimeout(300);
    await shot(page, `telemetry-day-${name}-${theme}`);
    const scroll = (by) => page.evaluate((to) => [...document.querySelectorAll('main > .overflow-y-auto')].at(-1).scrollBy(0, to), by);
    await scroll(600);
    await page.waitForTimeout(200);
    await shot(page, `telemetry-day-more-${name}-${theme}`);
    await scroll(5000);
    await page.waitForTimeout(200);
    await shot(page, `telemetry-day-end-${name}-${theme}`);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), 0);
    if (name === 'desktop' && theme === 'light') {
      // A stretch that is drawn up is asked for, and one press leads back.
      await scroll(-9000);
      const box = await page.getByRole('region', { name: 'Tokens', exact: true }).locator('.u-over').boundingBox();
      await page.mouse.move(box.x + box.width * 0.5, box.y + 30);
      await page.mouse.down();
      await page.mouse.move(box.x + box.width * 0.75, box.y + 30, { steps: 5 });
      await page.mouse.up();
      await page.getByText('chosen time').waitFor();
      await page.waitForFunction(() => true);
      const last = asked.at(-1);
      const spanS = Number(last.get('to')) - Number(last.get('from'));
      assert.ok(Math.abs(spanS - 21_600) < 1500, `${spanS} s`);
      await page.getByRole('button', { name: '24 h', exact: true }).click();
      await page.getByRole('button', { name: '24 h', pressed: true }).waitFor();
    }
    const { violations } = await new AxeBuilder({ page }).withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']).analyze();
    const grave = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
    assert.deepEqual(grave.map((one) => `${theme} ${name} ${one.id}: ${one.nodes.map((node) => node.target.join(' ')).slice(0, 3).join(' | ')}`), []);
    fine(page);
  }
});

test('types of the cache are changed from the runtime bar, and the engine reports them', async () => {
  const page = await open(browser);
  await page.getByRole('button', { name: 'Types of the KV cache' }).click();
  await page.getByRole('button', { name: 'Change and reload…' }).click();
  const dialog = page.getByRole('dialog', { name: /Reload/ });
  await dialog.getByRole('combobox', { name: /Keys/ }).selectOption('q8_0');
  await dialog.getByText(/free for models/).waitFor();
  await shot(page, 'reload-desktop-light');
  await dialog.getByRole('button', { name: 'Reload with these' }).click();
  await dialog.waitFor({ state: 'detached', timeout: 60_000 });
  await page.getByRole('button', { name: 'Types of the KV cache' }).getByText('K:q8_0').waitFor();
  const { models } = await api('GET', 'admin/models');
  assert.ok(models.some((model) => model.facts?.kv_type_k === 'q8_0'));
  fine(page);
});

test('all of it can be done without a mouse', async () => {
  const page = await open(browser);
  await page.keyboard.press('Control+k');
  await page.keyboard.type('runtime');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Runtime', level: 1 }).waitFor();
  await page.keyboard.press('Alt+n');
  await page.getByRole('heading', { name: 'New chat', level: 1 }).waitFor({ state: 'attached' });
  for (let at = 0; at < 80 && !(await composer(page).evaluate((field) => field === document.activeElement)); at += 1) await page.keyboard.press('Tab');
  await page.keyboard.type('Say hello.');
  await page.keyboard.press('Enter');
  await ended(page);
  assert.equal(await answers(page).count(), 1);
  // From the field to the answer's figures and back, with the focus in sight.
  await page.keyboard.press('Shift+Tab');
  assert.notEqual(await page.evaluate(() => document.activeElement?.tagName), 'BODY');
  fine(page);
});

test('chats are searched, given other names and forgotten', async () => {
  const page = await open(browser);
  await say(page, 'Remember the word zanzibar.');
  await page.getByRole('searchbox', { name: 'Search chats' }).fill('zanzi');
  const chats = page.getByRole('region', { name: 'Chats' });
  await chats.getByRole('link').first().waitFor();
  await page.waitForFunction(() => document.querySelectorAll('section[aria-label="Chats"] li').length === 1);
  await chats.getByRole('button').first().click();
  await page.getByRole('button', { name: 'Another title' }).click();
  // A word that no model's story has.
  await page.getByRole('textbox', { name: 'Title' }).fill('Quokkavale');
  await page.keyboard.press('Enter');
  await page.getByRole('searchbox', { name: 'Search chats' }).fill('quokka');
  await chats.getByRole('link', { name: /Quokkavale/ }).waitFor();
  await chats.getByRole('button').first().click();
  await page.getByRole('button', { name: 'Forget…' }).click();
  await page.getByRole('button', { name: 'Forget it' }).click();
  await page.getByText('Nothing was found.').waitFor();
  fine(page);
});

const PAGES = ['chat', 'models', 'runtime', 'planner', 'router', 'telemetry', 'activity', 'logs', 'doctor', 'settings'];

test('no page has a serious fault of accessibility, in any theme and width', async () => {
  const list = await api('GET', 'api/chats?limit=50');
  const full = list.chats.find((chat) => chat.title.startsWith('Explain')) ?? list.chats[0];
  const findings = [];
  for (const theme of ['light', 'dark']) {
    for (const [width, size] of [['desktop', DESKTOP], ['phone', PHONE]]) {
      for (const name of [...PAGES, `chat/${full.id}`]) {
        const page = await open(browser, { path: name, size, theme });
        const label = name.includes('/') ? 'chat-open' : name;
        await page.waitForTimeout(name === 'telemetry' ? 2500 : 700);
        await shot(page, `${label}-${width}-${theme}`);
        const { violations } = await new AxeBuilder({ page }).withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']).analyze();
        for (const one of violations.filter(({ impact }) => impact === 'serious' || impact === 'critical')) {
          findings.push(`${label} ${width} ${theme}: ${one.id}: ${one.nodes.map((node) => node.target.join(' ')).slice(0, 3).join(' | ')}`);
        }
        const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        if (over > 0) findings.push(`${label} ${width} ${theme}: ${over} px wider than the screen`);
        if (page.faults.length) findings.push(`${label} ${width} ${theme}: ${page.faults.join('; ')}`);
        await page.context().close();
      }
    }
  }
  assert.deepEqual(findings, []);
});

test('on a phone the pages are behind a button, and a chat works', async () => {
  const page = await open(browser, { size: PHONE, theme: 'dark' });
  await page.getByRole('button', { name: 'Menu' }).click();
  await shot(page, 'menu-phone-dark');
  await page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name: 'Models' }).click();
  await page.getByRole('heading', { name: 'Models', level: 1 }).waitFor();
  await page.getByRole('button', { name: 'New chat' }).first().click();
  await composer(page).fill('Say hello.');
  await page.getByRole('button', { name: 'Send' }).click();
  await ended(page);
  await shot(page, 'chat-answered-phone-dark');
  fine(page);
});
