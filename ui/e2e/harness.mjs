// A browser, an endpoint that is running, and what tests do with both.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

export const BASE = process.env.BASE;
export const EMPTY = process.env.EMPTY_BASE;
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

/** A page that notes what must not happen: errors, and what the policy refused. */
export async function open(browser, { base = BASE, path = '', size = DESKTOP, theme = 'light', context } = {}) {
  const own = context ?? (await browser.newContext({ viewport: size, colorScheme: theme, hasTouch: size.width < 500 }));
  const page = await own.newPage();
  // Answers of a tame length: a small model goes on for as long as it may.
  await page.addInitScript((tokens) => {
    if (!localStorage.getItem('sextant.pick')) localStorage.setItem('sextant.pick', JSON.stringify({ model: null, settings: { max_tokens: tokens } }));
  }, 240);
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
