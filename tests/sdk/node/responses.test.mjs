// The Responses API through the official Node SDK. The server is started by
// `cargo xtask sdk`, which says where it is.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI, { BadRequestError, NotFoundError } from "openai";

const client = new OpenAI({
  baseURL: process.env.SEXTANT_BASE_URL,
  apiKey: "unused",
  maxRetries: 0,
  timeout: 120_000,
});
const model = (await client.models.list()).data[0].id;

const TRIP = {
  type: "object",
  properties: {
    city: { type: "string", enum: ["Paris", "Oslo", "Lima"] },
    days: { type: "integer", minimum: 1, maximum: 9 },
  },
  required: ["city", "days"],
  additionalProperties: false,
};
const PLAN_TRIP = {
  type: "function",
  name: "plan_trip",
  description: "Plans a trip.",
  parameters: TRIP,
  strict: true,
};

/** One greedy request; any argument can be changed. Equal requests are equal work. */
function request(changes = {}) {
  return {
    model,
    input: "Name three colours.",
    temperature: 0,
    max_output_tokens: 32,
    cache_prompt: false,
    ...changes,
  };
}

const respond = (changes) => client.responses.create(request(changes));

function checkTrip(text) {
  const value = JSON.parse(text);
  assert.deepEqual(Object.keys(value).sort(), ["city", "days"]);
  assert.ok(TRIP.properties.city.enum.includes(value.city));
  assert.ok(Number.isInteger(value.days) && value.days >= 1 && value.days <= 9);
}

test("a stream ends with the response that a whole answer is", async () => {
  // Both find the prompt in the cache: one that is read anew is computed in other steps, which
  // may turn a greedy answer at a near tie.
  await respond({ max_output_tokens: 16 });
  const whole = await respond({ max_output_tokens: 16 });
  assert.ok(whole.output_text.trim());
  const events = [];
  for await (const event of await respond({ stream: true, max_output_tokens: 16 })) events.push(event);
  assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), whole.output_text);
  const { response, type } = events.at(-1);
  assert.equal(type, `response.${response.status}`);
  assert.equal(response.output[0].content[0].text, whole.output_text);
  assert.equal(response.usage.output_tokens, whole.usage.output_tokens);
});

test("a call's result is answered by a continued response", async () => {
  const runner = client.responses.stream(
    request({
      input: "Plan a trip.",
      tools: [PLAN_TRIP],
      tool_choice: "required",
      parallel_tool_calls: false,
      max_output_tokens: 200,
    }),
  );
  const called = await runner.finalResponse();
  const [call, ...others] = called.output;
  assert.equal(others.length, 0);
  assert.equal(call.name, "plan_trip");
  checkTrip(call.arguments);
  const answer = await respond({
    previous_response_id: called.id,
    input: [{ type: "function_call_output", call_id: call.call_id, output: "Booked." }],
    tools: [PLAN_TRIP],
    tool_choice: "none",
  });
  assert.ok(answer.output_text.trim());
  assert.equal(answer.previous_response_id, called.id);
});

test("a schema is obeyed", async () => {
  const answer = await respond({
    input: "Plan a trip.",
    max_output_tokens: 200,
    text: { format: { type: "json_schema", name: "trip", strict: true, schema: TRIP } },
  });
  assert.equal(answer.status, "completed");
  checkTrip(answer.output_text);
});

test("a response is kept until it is deleted", async () => {
  const first = await respond();
  const read = await client.responses.retrieve(first.id);
  assert.deepEqual(read.output, first.output);
  const items = await client.responses.inputItems.list(first.id);
  assert.equal(items.data[0].content[0].text, "Name three colours.");
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), NotFoundError);
  await assert.rejects(respond({ previous_response_id: first.id }), (error) => {
    assert.equal(error.code, "previous_response_not_found");
    return error instanceof BadRequestError;
  });
});

test("errors are the SDK's own", async () => {
  await assert.rejects(respond({ max_output_tokens: -5 }), (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.equal(error.param, "max_output_tokens");
    return true;
  });
  await assert.rejects(respond({ input: "word ".repeat(5000) }), (error) => {
    assert.equal(error.code, "context_length_exceeded");
    return error instanceof BadRequestError;
  });
});
