// The AI SDK, through each of its providers that can be pointed at us. The server is
// started by `cargo xtask sdk`, which says where it is.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateObject, generateText, jsonSchema, stepCountIs, streamObject } from "ai";
import { streamText, tool } from "ai";
import OpenAI from "openai";

const settings = { baseURL: process.env.SEXTANT_BASE_URL, apiKey: "unused" };
const id = (await new OpenAI(settings).models.list()).data[0].id;

const compatible = createOpenAICompatible({
  name: "sextant",
  includeUsage: true,
  supportsStructuredOutputs: true,
  ...settings,
});
const MODELS = {
  "openai-compatible": compatible(id),
  "openai, chat": createOpenAI(settings).chat(id),
  "openai, responses": createOpenAI(settings).responses(id),
  anthropic: createAnthropic(settings)(id),
};
const UNKNOWN = {
  "openai-compatible": compatible("no-such-model"),
  "openai, responses": createOpenAI(settings).responses("no-such-model"),
  anthropic: createAnthropic(settings)("no-such-model"),
};

const TRIP = {
  type: "object",
  properties: {
    city: { type: "string", enum: ["Paris", "Oslo", "Lima"] },
    days: { type: "integer", minimum: 1, maximum: 9 },
  },
  required: ["city", "days"],
  additionalProperties: false,
};

function checkTrip(trip) {
  assert.deepEqual(Object.keys(trip).sort(), ["city", "days"]);
  assert.ok(TRIP.properties.city.enum.includes(trip.city));
  assert.ok(Number.isInteger(trip.days) && trip.days >= 1 && trip.days <= 9);
}

/** One greedy request, not repeated when it fails. */
function request(model, changes = {}) {
  return {
    model,
    prompt: "Name three colours.",
    temperature: 0,
    maxOutputTokens: 32,
    maxRetries: 0,
    ...changes,
  };
}

for (const [name, model] of Object.entries(MODELS)) {
  test(`${name}: text, whole and streamed`, async () => {
    const whole = await generateText(request(model));
    assert.ok(whole.text.length > 0);
    assert.ok(["stop", "length"].includes(whole.finishReason), whole.finishReason);
    assert.ok(whole.usage.inputTokens > 0 && whole.usage.outputTokens > 0);

    const errors = [];
    const onError = ({ error }) => errors.push(error);
    const streamed = streamText({ ...request(model), onError });
    let text = "";
    for await (const piece of streamed.textStream) text += piece;
    assert.deepEqual(errors, []);
    assert.ok(text.length > 0);
    assert.equal(text, await streamed.text);
    assert.equal(await streamed.finishReason, whole.finishReason);
    assert.ok((await streamed.usage).outputTokens > 0);
  });

  test(`${name}: a tool is called and its result goes back`, async () => {
    const asked = [];
    const plan = tool({
      description: "Plans a trip.",
      inputSchema: jsonSchema(TRIP),
      execute: async (trip) => {
        asked.push(trip);
        return `Booked ${trip.days} days in ${trip.city}.`;
      },
    });
    const options = request(model, {
      prompt: "Plan a trip to Oslo for three days.",
      maxOutputTokens: 64,
      tools: { plan_trip: plan },
      stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) => ({
        toolChoice: stepNumber === 0 ? { type: "tool", toolName: "plan_trip" } : "none",
      }),
    });
    const whole = await generateText(options);
    assert.equal(whole.steps.length, 2);
    assert.equal(whole.steps[0].finishReason, "tool-calls");
    const streamed = streamText(options);
    await streamed.consumeStream({ onError: (error) => assert.fail(error) });
    const steps = await streamed.steps;
    assert.equal(steps.length, 2);
    assert.equal(asked.length, 2);
    asked.forEach(checkTrip);
    const ids = [whole.steps[0], steps[0]].map((step) => step.toolCalls[0].toolCallId);
    assert.notEqual(ids[0], ids[1]);
  });

  test(`${name}: an object of a schema, whole and streamed`, async () => {
    const options = request(model, { schema: jsonSchema(TRIP), maxOutputTokens: 64 });
    checkTrip((await generateObject(options)).object);
    const streamed = streamObject(options);
    let last;
    for await (const part of streamed.partialObjectStream) last = part;
    checkTrip(last);
    checkTrip(await streamed.object);
  });
}

for (const [name, model] of Object.entries(UNKNOWN)) {
  test(`${name}: an error says what is wrong`, async () => {
    await assert.rejects(generateText(request(model)), (error) => {
      assert.ok(APICallError.isInstance(error), String(error));
      assert.equal(error.statusCode, 404);
      assert.equal(error.isRetryable, false);
      assert.match(error.message, /no-such-model/);
      return true;
    });
  });
}

test("a request that is stopped ends", async () => {
  const stop = new AbortController();
  const streamed = streamText({
    ...request(MODELS["openai-compatible"], { maxOutputTokens: 512 }),
    prompt: "Tell a very long story.",
    abortSignal: stop.signal,
  });
  const kinds = [];
  for await (const part of streamed.fullStream) {
    kinds.push(part.type);
    if (part.type === "text-delta") stop.abort();
  }
  assert.ok(kinds.includes("abort"), kinds.join());
});
