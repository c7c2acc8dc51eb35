"""LangChain's chat models and embeddings: OpenAI's both ways, Anthropic's and Ollama's."""

import pytest
from conftest import TRIP, check_trip
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import NotFoundError

NAMES = ["openai", "responses", "anthropic", "ollama"]


@tool
def plan_trip(city: str, days: int) -> str:
    """Plans a trip."""
    return f"Booked {days} days in {city}."


def chat_model(base, model, name, tokens=48):
    url = f"{base}/v1"
    match name:
        case "openai" | "responses":
            more = {"use_responses_api": name == "responses", "stream_usage": True}
            return ChatOpenAI(
                model=model,
                base_url=url,
                api_key="unused",
                temperature=0,
                max_tokens=tokens,
                max_retries=0,
                **more,
            )
        case "anthropic":
            return ChatAnthropic(
                model=model,
                base_url=base,
                api_key="unused",
                temperature=0,
                max_tokens=tokens,
                max_retries=0,
            )
        case "ollama":
            return ChatOllama(model=model, base_url=base, temperature=0, num_predict=tokens)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def chat(base, model, name):
    return chat_model(base, model, name)


def test_an_answer_whole_and_streamed(chat):
    whole = chat.invoke("Name three colours.")
    assert whole.text
    assert whole.usage_metadata["input_tokens"] > 0 < whole.usage_metadata["output_tokens"]
    chunks = list(chat.stream("Name three colours."))
    assert len(chunks) > 2
    full = chunks[0]
    for chunk in chunks[1:]:
        full += chunk
    assert full.text == "".join(chunk.text for chunk in chunks) != ""
    assert full.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


def test_a_tool_is_called_and_its_result_goes_back(chat, name):
    if name == "ollama":
        # The dialect cannot say that a tool must be called: what comes is read.
        bound = chat.bind_tools([plan_trip])
        call = {"name": "plan_trip", "args": {"city": "Oslo", "days": 3}, "id": "a"}
        first = AIMessage("", tool_calls=[call])
    else:
        bound = chat.bind_tools([plan_trip], tool_choice="plan_trip")
        first = bound.invoke("Plan a trip to Oslo for three days.")
        assert len(first.tool_calls) == 1 and not first.invalid_tool_calls
        call = first.tool_calls[0]
        assert call["name"] == "plan_trip" and call["id"]
        assert call["args"].keys() == {"city", "days"} and isinstance(call["args"]["days"], int)
        streamed = None
        for chunk in bound.stream("Plan a trip to Oslo for three days."):
            streamed = chunk if streamed is None else streamed + chunk
        assert streamed.tool_calls[0]["args"].keys() == {"city", "days"}
    result = ToolMessage(plan_trip.invoke(call["args"]), tool_call_id=call["id"])
    question = HumanMessage("Plan a trip to Oslo for three days.")
    answer = chat.bind_tools([plan_trip]).invoke([question, first, result])
    assert answer.text or answer.tool_calls


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_obeys_its_schema(chat, name, method):
    if method == "function_calling" and name == "ollama":
        pytest.skip("Ollama's dialect cannot say that a tool must be called")
    structured = chat.with_structured_output(TRIP, method=method)
    check_trip(structured.invoke("Plan a trip to Oslo for three days."))


def test_an_unknown_model_is_told(base):
    with pytest.raises(NotFoundError, match="no-such-model"):
        chat_model(base, "no-such-model", "openai").invoke("Hello")


def test_embeddings_are_the_same_in_both_dialects(base, model):
    # Without the check it does not fetch a tokeniser of OpenAI's models.
    openai = OpenAIEmbeddings(
        model=model, base_url=f"{base}/v1", api_key="unused", check_embedding_ctx_length=False
    )
    ollama = OllamaEmbeddings(model=model, base_url=base)
    texts = ["ships", "a harbour"]
    ours, theirs = openai.embed_documents(texts), ollama.embed_documents(texts)
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs):
        assert one == pytest.approx(other, abs=0.02)
