// What several pages see of one endpoint, and what they do while it is away.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { api, browser as launch, closeAll, composer, DESKTOP, Endpoint, ended, grown, lastText, open, PHONE, say, shot, watch } from './harness.mjs';

const LONG = 'Write a long story about a lighthouse keeper, a storm and a lost ship. Tell every detail.';
const fine = (page) => assert.deepEqual(page.faults, []);
const plain = (text) => text.replace(/\s+/g, ' ').trim();

let browser;
before(async () => (browser = await launch()));
afterEach(closeAll);
after(async () => browser.close());

test('two tabs and a phone see the same answer as it is written', async () => {
  const desktop = await browser.newContext({ viewport: DESKTOP });
  const one = await open(browser, { context: desktop });
  await say(one, 'Say hello.');
  const path = new URL(one.url()).hash.slice(2);
  const two = await open(browser, { context: desktop, path });
  // Another device: nothing of the browser is shared with it.
  const phone = await open(browser, { path, size: PHONE, theme: 'dark' });
  const pages = [one, two, phone];
  for (const page of pages) await page.getByRole('article', { name: 'You said' }).waitFor();
  for (const page of pages) await watch(page);
  await composer(one).fill(LONG);
  await composer(one).press('Enter');
  for (const page of pages) await page.getByRole('button', { name: 'Stop' }).waitFor();
  await grown(phone, 60);
  await shot(phone, 'live-phone-dark');
  for (const page of pages) await ended(page);
  const texts = await Promise.all(pages.map(lastText));
  const parts = await Promise.all(
    pages.map((page) => page.evaluate((whole) => [...window.lengths].filter((length) => length > 0 && length < whole).length, texts[0].length)),
  );
  // A tab behind another paints a few times a second at most, and the answer takes little more than one.
  assert.ok(Math.min(...parts) >= 1 && Math.max(...parts) >= 5, `parts of it were shown ${parts.join(', ')} times`);
  assert.ok(texts[0].length > 60);
  assert.deepEqual(texts.slice(1), [texts[0], texts[0]]);
  pages.forEach(fine);
  await desktop.close();
  await phone.context().close();
});

test('a message that is sent before the models are known goes out when they are', async () => {
  const context = await browser.newContext({ viewport: DESKTOP });
  await context.route(/\/api\/events/, async (route) => {
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await route.continue();
  });
  const page = await open(browser, { context });
  await say(page, 'Say hello.');
  assert.ok((await lastText(page)).length > 0);
  fine(page);
  await context.close();
});

test('an endpoint that is killed and started again is found again by all pages, with what was written', async () => {
  const endpoint = new Endpoint();
  const { base } = endpoint;
  await endpoint.start();
  const pages = [];
  try {
    const chat = await open(browser, { base });
    pages.push(chat);
    await say(chat, 'Say hello.');
    const path = new URL(chat.url()).hash.slice(2);
    const phone = await open(browser, { base, path, size: PHONE });
    const runtime = await open(browser, { base, path: 'runtime' });
    const activity = await open(browser, { base, path: 'activity' });
    pages.push(phone, runtime, activity);
    await runtime.getByRole('heading', { name: 'Slots' }).waitFor();
    for (const page of pages) await page.evaluate(() => (window.sameDocument = true));

    await composer(chat).fill(LONG);
    await composer(chat).press('Enter');
    for (const page of [chat, phone]) await page.getByRole('button', { name: 'Stop' }).waitFor();
    // Of the last half second nothing may be kept.
    for (const page of [chat, phone]) await grown(page, 900);
    const seen = plain(await lastText(chat));
    await endpoint.end('SIGKILL');
    for (const page of pages) await page.getByText('endpoint gone, trying again').waitFor();
    await chat.getByText('The connection is gone.').waitFor();
    await shot(chat, 'gone-desktop-light');
    await shot(phone, 'gone-phone-light');
    // What is written meanwhile stays in its field.
    await composer(phone).fill('Say goodbye.');
    // A page that is opened meanwhile, in a tab that has it still.
    await activity.evaluate((to) => (location.hash = `#/${to}`), path);
    await activity.getByText('This chat cannot be opened').waitFor();

    await endpoint.start();
    for (const page of pages) await page.getByText('endpoint gone, trying again').waitFor({ state: 'detached', timeout: 30_000 });
    for (const page of [chat, phone, activity]) await page.getByText('cut off by a restart').waitFor();
    const kept = plain(await lastText(chat));
    // Half a second of it may be lost, and what is not shown yet may be there.
    const [short, long] = kept.length < seen.length ? [kept, seen] : [seen, kept];
    assert.ok(short.length > 30 && long.startsWith(short.slice(0, short.length - 10)), `${seen}\n→ ${kept}`);
    assert.equal(plain(await lastText(phone)), kept);
    const id = path.split('/')[1];
    assert.equal((await api('GET', `api/chats/${id}`, undefined, base)).messages.at(-1).state, 'cut_off');
    await runtime.locator('.tag', { hasText: 'in memory' }).waitFor();

    await phone.getByRole('button', { name: 'Send', exact: true }).click();
    await ended(phone);
    await chat.getByText('Say goodbye.').waitFor();
    await ended(chat);
    assert.equal(await lastText(chat), await lastText(phone));
    for (const page of pages) {
      assert.equal(await page.evaluate(() => window.sameDocument), true, 'no page was read again');
      fine(page);
    }
  } finally {
    for (const page of pages) await page.context().close();
    await endpoint.end('SIGTERM');
  }
});

test('another host is shown through the page’s own endpoint, and what is said goes there', async () => {
  const endpoint = new Endpoint();
  await endpoint.start(process.env.WITH_HOST);
  const page = await open(browser, { base: endpoint.base, path: 'runtime' });
  try {
    const field = page.getByLabel('Host', { exact: true });
    await field.waitFor();
    assert.deepEqual(await field.locator('option').allTextContents(), ['This host', 'board']);
    await Promise.all([page.waitForEvent('load'), field.selectOption('board')]);
    await page.getByRole('heading', { name: 'Slots' }).waitFor();
    assert.equal(await field.inputValue(), 'board');
    await shot(page, 'host-desktop-light');
    await page.evaluate(() => (location.hash = '#/chat'));
    const text = `Say hello to board ${Date.now()}.`;
    await say(page, text);
    const id = new URL(page.url()).hash.split('/').at(-1);
    const there = await api('GET', `api/chats/${id}`);
    assert.equal(there.messages[0].text, text);
    assert.equal(there.messages.at(-1).state, 'done');
    const here = await api('GET', 'api/chats?limit=50', undefined, endpoint.base);
    assert.ok(!here.chats.some((chat) => chat.id === id), 'it is kept there alone');
    // Another tab begins at home.
    const other = await page.context().newPage();
    await other.goto(`${endpoint.base}/#/runtime`);
    await other.getByRole('heading', { name: 'Slots' }).waitFor();
    assert.equal(await other.getByLabel('Host', { exact: true }).inputValue(), '');
    await other.close();
    await page.setViewportSize(PHONE);
    await page.getByRole('button', { name: 'Menu' }).click();
    await shot(page, 'host-phone-light');
    await Promise.all([page.waitForEvent('load'), field.selectOption('')]);
    await page.getByRole('heading', { name: 'Slots' }).waitFor();
    fine(page);
  } finally {
    await page.context().close();
    await endpoint.end('SIGTERM');
  }
});
