// A browser, endpoints that are running, and what tests do with both.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

export const BASE = process.env.BASE;
export const EMPTY = process.env.EMPTY_BASE;
/** The file of the model that is served, on the endpoint's machine. */
export const MODEL_PATH = process.env.MODEL_PATH;
const SHOTS = process.env.SHOTS ?? new URL('../../target/ui-shots/', import.meta.url).pathname;
mkdirSync(SHOTS, { recursive: true });

export const DESKTOP = { width: 1280, height: 800 };
export const PHONE = { width: 360, height: 740 };

export async function browser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM,
    // In a container the browser cannot make a sandbox of its own; it sees this endpoint alone.
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
  });
}

const opened = [];
async function fresh(browser, options) {
  const context = await browser.newContext(options);
  opened.push(context);
  return context;
}

/** Ends the pages of a test, so that they ask for nothing in the next. */
export const closeAll = () => Promise.all(opened.splice(0).map((context) => context.close()));

/** A page that notes what must not happen: errors, and what the policy refused. */
export async function open(browser, { base = BASE, path = '', size = DESKTOP, theme = 'light', context } = {}) {
  const own = context ?? (await fresh(browser, { viewport: size, colorScheme: theme, hasTouch: size.width < 500 }));
  const page = await own.newPage();
  // Answers of a tame length, as a small model goes on for as long as it may, and the likeliest
  // words: one drawn answer in fifty is over before anything could be done to it.
  await page.addInitScript((settings) => {
    if (!localStorage.getItem('sextant.pick')) localStorage.setItem('sextant.pick', JSON.stringify({ model: null, settings }));
  }, { max_tokens: 480, temperature: 0 });
  page.faults = [];
  page.on('pageerror', (error) => page.faults.push(`error: ${error.message}`));
  page.on('console', (message) => {
    if (/Content Security Policy|Refused to/.test(message.text())) page.faults.push(message.text());
  });
  page.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(base) && !url.startsWith('data:') && !url.startsWith('blob:')) page.faults.push(`asked ${url}`);
  });
  await page.goto(`${base}/#/${path}`);
  await page.waitForFunction(() => document.querySelector('#app')?.childElementCount > 0);
  return page;
}

export async function shot(page, name) {
  await page.screenshot({ path: join(SHOTS, `${name}.png`) });
}

export async function api(method, path, body, base = BASE) {
  const response = await fetch(`${base}/${path}`, {
    method,
    headers: { 'Content-Type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
  return response.json();
}

export const composer = (page) => page.getByRole('textbox', { name: 'Message' });
export const answers = (page) => page.getByRole('article', { name: /^Answer by/ });

/** Says something and waits until its answer has ended. */
export async function say(page, text) {
  const before = await page.getByRole('article').count();
  await composer(page).fill(text);
  await composer(page).press('Enter');
  await page.waitForFunction((n) => document.querySelectorAll('article').length > n, before);
  await ended(page);
}

/** Until nothing is being written, for longer than it takes to begin. */
export async function ended(page) {
  await page.waitForFunction(
    () => {
      const isBusy = [...document.querySelectorAll('button')].some((button) => button.textContent.trim() === 'Stop');
      const now = performance.now();
      if (isBusy) window.quietSince = undefined;
      else window.quietSince ??= now;
      return window.quietSince !== undefined && now - window.quietSince > 500;
    },
    null,
    { timeout: 120_000, polling: 100 },
  );
  await page.evaluate(() => delete window.quietSince);
}

/** The text of the last message that is shown. */
export const lastText = (page) => page.evaluate(() => [...document.querySelectorAll('article')].at(-1)?.querySelector('.prose-ours')?.textContent ?? '');

/** Notes in the page the lengths of the last answer as it grows, as `window.lengths`. */
export const watch = (page) =>
  page.evaluate(() => {
    window.lengths = new Set();
    const look = () => window.lengths.add([...document.querySelectorAll('article .prose-ours')].at(-1)?.textContent.length ?? 0);
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
  });

/** Until the last message, which is an answer, has more than so many characters. */
export const grown = (page, length) =>
  page.waitForFunction((least) => ([...document.querySelectorAll('article')].at(-1)?.querySelector('.prose-ours')?.textContent.length ?? 0) > least, length, { timeout: 60_000 });

const READY_MS = 60_000;

/** An endpoint that a test starts and ends by itself, always at the same address. */
export class Endpoint {
  base = process.env.OWN_BASE;
  #child = null;

  /** With another configuration than none. */
  async start(configuration) {
    const { program, args, env } = JSON.parse(process.env.OWN_SERVER);
    const more = configuration ? ['--config', configuration] : [];
    this.#child = spawn(program, [...args, ...more], { env: { ...process.env, ...env }, stdio: 'ignore' });
    const until = Date.now() + READY_MS;
    for (;;) {
      const response = await fetch(`${this.base}/ready`).catch(() => null);
      if (response?.ok) return;
      if (this.#child.exitCode !== null) throw new Error(`the endpoint ended with ${this.#child.exitCode}`);
      if (Date.now() > until) throw new Error(`the endpoint was not ready after ${READY_MS / 1000} s`);
      await new Promise((done) => setTimeout(done, 50));
    }
  }

  /** With SIGKILL it cannot say or write anything any more. */
  async end(signal) {
    const child = this.#child;
    this.#child = null;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }
}
