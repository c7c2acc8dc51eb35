// The official Node SDK against the real server with the real model. The server
// is started by `cargo xtask sdk`, which says where it is.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI, { APIUserAbortError, BadRequestError, NotFoundError } from "openai";

const client = new OpenAI({
  baseURL: process.env.SEXTANT_BASE_URL,
  apiKey: "unused",
  maxRetries: 0,
  timeout: 120_000,
});
const model = (await client.models.list()).data[0].id;

const CITY = {
  type: "object",
  properties: {
    city: { type: "string", enum: ["Paris", "Oslo", "Lima"] },
    days: { type: "integer", minimum: 1, maximum: 9 },
  },
  required: ["city", "days"],
  additionalProperties: false,
};
const TOOLS = ["book_hotel", "plan_trip"].map((name) => ({
  type: "function",
  function: { name, description: `Does ${name}.`, parameters: CITY },
}));

/**
 * One greedy chat request; any argument can be changed. A prompt partly taken from the
 * cache is computed in batches of another size, which round differently; without it,
 * equal requests are equal work.
 */
function ask(changes = {}, options = {}) {
  const { text = "Name three colours.", ...rest } = changes;
  const messages = [{ role: "user", content: text }];
  return client.chat.completions.create(
    { model, messages, temperature: 0, max_tokens: 32, cache_prompt: false, ...rest },
    options,
  );
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

const textOf = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");

function checkCity(text) {
  const value = JSON.parse(text);
  assert.deepEqual(Object.keys(value).sort(), ["city", "days"]);
  assert.ok(CITY.properties.city.enum.includes(value.city));
  assert.ok(Number.isInteger(value.days) && value.days >= 1 && value.days <= 9);
}

test("chat answers", async () => {
  const answer = await ask();
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.ok(answer.choices[0].message.content.trim());
  const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
  assert.equal(total_tokens, prompt_tokens + completion_tokens);
});

test("a stream carries the same text", async () => {
  const whole = await ask();
  const chunks = await collect(ask({ stream: true, stream_options: { include_usage: true } }));
  assert.equal(textOf(chunks), whole.choices[0].message.content);
  const roles = chunks.map((chunk) => chunk.choices[0]?.delta.role).filter(Boolean);
  assert.deepEqual(roles, ["assistant"]);
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
});

test("the SDK's own accumulator takes the stream", async () => {
  const runner = client.chat.completions.stream({
    model,
    messages: [{ role: "user", content: "Name three colours." }],
    temperature: 0,
    max_tokens: 32,
    cache_prompt: false,
  });
  const final = await runner.finalChatCompletion();
  assert.equal(final.choices[0].message.content, (await ask()).choices[0].message.content);
});

for (const tool_choice of ["required", { type: "function", function: { name: "plan_trip" } }]) {
  const name = tool_choice === "required" ? "a required tool" : "a named tool";
  test(`${name} streams a call whose arguments hold`, async () => {
    const runner = client.chat.completions.stream({
      model,
      messages: [{ role: "user", content: "Plan a trip." }],
      tools: TOOLS,
      tool_choice,
      parallel_tool_calls: false,
      temperature: 0,
      max_tokens: 200,
    });
    const { choices } = await runner.finalChatCompletion();
    const [call, ...others] = choices[0].message.tool_calls;
    assert.equal(others.length, 0);
    assert.ok(call.id);
    if (tool_choice !== "required") assert.equal(call.function.name, "plan_trip");
    checkCity(call.function.arguments);
  });
}

test("a schema is obeyed", async () => {
  for (const temperature of [0, 1.5]) {
    const answer = await ask({
      temperature,
      seed: 4,
      max_tokens: 200,
      response_format: {
        type: "json_schema",
        json_schema: { name: "trip", strict: true, schema: CITY },
      },
    });
    checkCity(answer.choices[0].message.content);
  }
});

test("logprobs describe the tokens", async () => {
  const answer = await ask({ logprobs: true, top_logprobs: 2 });
  const tokens = answer.choices[0].logprobs.content;
  const bytes = Buffer.from(tokens.flatMap((token) => token.bytes));
  assert.equal(bytes.toString("utf8"), answer.choices[0].message.content);
  for (const token of tokens) {
    assert.ok(token.logprob <= 0);
    assert.equal(token.top_logprobs.length, 2);
    assert.ok(token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob);
  }
});

test("a stop string ends the answer before itself", async () => {
  const whole = (await ask()).choices[0].message.content;
  const stop = whole.slice(7, 12);
  const answer = await ask({ stop });
  assert.equal(answer.choices[0].message.content, whole.slice(0, whole.indexOf(stop)));
  assert.equal(answer.choices[0].finish_reason, "stop");
});

test("n=2 gives two choices", async () => {
  const answer = await ask({ n: 2, temperature: 1, seed: 8 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
  assert.ok(answer.choices.every((choice) => choice.message.content));
});

test("a seed repeats an answer", async () => {
  const sample = async (seed) =>
    (await ask({ text: "Tell me a story.", temperature: 1.2, seed })).choices[0].message.content;
  const first = await sample(21);
  assert.equal(await sample(21), first);
  const others = [await sample(22), await sample(23)];
  assert.ok(others.some((other) => other !== first));
});

test("embeddings agree in both encodings", async () => {
  const input = ["a lighthouse", "the sea"];
  const base64 = await client.embeddings.create({ model, input });
  const float = await client.embeddings.create({ model, input, encoding_format: "float" });
  for (const index of [0, 1]) {
    const [one, two] = [base64.data[index].embedding, float.data[index].embedding];
    assert.equal(one.length, two.length);
    assert.ok(one.every((value, at) => Math.abs(value - two[at]) < 1e-5));
    const norm = Math.hypot(...one);
    assert.ok(Math.abs(norm - 1) < 1e-3, `norm is ${norm}`);
  }
});

test("errors are the SDK's own", async () => {
  await assert.rejects(ask({ max_tokens: -5 }), (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.match(error.message, /max_tokens/);
    assert.ok(error.type);
    return true;
  });
  await assert.rejects(ask({ model: "no-such-model" }), NotFoundError);
  await assert.rejects(ask({ text: "word ".repeat(5000) }), (error) => {
    assert.equal(error.code, "context_length_exceeded");
    return error instanceof BadRequestError;
  });
});

test("a client that leaves frees its slot", async () => {
  const controllers = [1, 2, 3, 4].map(() => new AbortController());
  const long = { text: "Write a very long story.", max_tokens: 1800, ignore_eos: true, stream: true };
  const left = controllers.map(async (controller) => {
    const stream = await ask(long, { signal: controller.signal });
    try {
      for await (const _ of stream) controller.abort();
    } catch (error) {
      assert.ok(error instanceof APIUserAbortError);
    }
  });
  await Promise.all(left);
  const start = performance.now();
  await ask({ max_tokens: 2 });
  assert.ok(performance.now() - start < 10_000);
});
